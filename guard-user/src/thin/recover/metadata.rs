//! Lost volumes: damaged metadata is repaired on a copy, and the pool's own stays as it is.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::{EINVAL, O_DIRECT};

use super::{
    Device, Interrupts, Pool, RecoverError, Step, Work,
    call::Call,
    copy,
    dump::{self, Dump, DumpError, Extent},
    space, superblock,
};
use crate::record::Text;

/// What a superblock that is lost would have said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// The pool's transaction.
    pub transaction: Option<u64>,
    /// Sectors of a data block.
    pub data_block: Option<u64>,
    /// Data blocks of the data device.
    pub data_blocks: Option<u64>,
}

/// A pool's metadata that can be dumped.
pub struct Metadata {
    /// What was done for it.
    pub steps: Vec<Step>,
    /// What it may lack.
    pub warnings: Vec<String>,
    dumped: PathBuf,
    snapshot: bool,
    pool: Dump,
}

impl Metadata {
    /// Copies it, checks and repairs the copy. Of an active pool, its snapshot is read where it is.
    ///
    /// # Errors
    /// It is none, it cannot be repaired, there is no room for the copy, a program is missing or fails.
    pub fn prepare(
        pool: &Pool,
        work: &Work,
        hints: Hints,
        interrupts: &Interrupts,
    ) -> Result<Self, RecoverError> {
        let mut metadata = Self {
            steps: Vec::new(),
            warnings: Vec::new(),
            dumped: pool.metadata.path.clone(),
            snapshot: false,
            pool: Dump::default(),
        };
        if let Some(held) = &pool.held {
            let name = &held.pool;
            metadata.snapshot = true;
            metadata.warnings.push(format!(
                "the pool {name} is active: what was written to a volume since the snapshot of its metadata may be there or not, \
                 and a file system that is mounted may come out torn"
            ));
        } else {
            metadata.copy(pool, work, interrupts)?;
            metadata.check(pool, work, hints, interrupts)?;
        }
        let (dump, call) = metadata.dump(None, interrupts)?;
        metadata.pool = dump;
        metadata.did("read which volumes it has", Some(&call));
        Ok(metadata)
    }

    /// The volumes.
    #[must_use]
    pub fn volumes(&self) -> &[Device] {
        &self.pool.devices
    }

    /// The pool's transaction.
    pub(super) fn transaction(&self) -> u64 {
        self.pool.transaction
    }

    /// Sectors of a data block.
    pub(super) fn data_block(&self) -> u64 {
        self.pool.data_block
    }

    /// The mapping of one volume, and the call that told it.
    pub(super) fn mapping(
        &self,
        volume: u64,
        interrupts: &Interrupts,
    ) -> Result<(Vec<Extent>, Step), RecoverError> {
        let (dump, call) = self.dump(Some(volume), interrupts)?;
        let step = Step::done("read where its blocks lie", Some(call.words()));
        Ok((dump.extents, step))
    }

    fn did(&mut self, what: &str, call: Option<&Call>) {
        self.steps.push(Step::done(what, call.map(Call::words)));
    }

    fn copy(
        &mut self,
        pool: &Pool,
        work: &Work,
        interrupts: &Interrupts,
    ) -> Result<(), RecoverError> {
        let from = &pool.metadata;
        let path = work.path("metadata");
        space::need(&path, from.takes(), "--work")?;
        let to = create(&path)?;
        copy::whole(&from.file, &to, from.size, interrupts)
            .map_err(|broken| broken.on(&from.path, &path))?;
        // As the tools open it. tmpfs takes it from 6.6 on.
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECT)
            .open(&path);
        if direct.is_err_and(|error| error.raw_os_error() == Some(EINVAL)) {
            return Err(RecoverError::Target {
                path: Text::from(path.as_path()),
                what: "is on a file system without direct reading (O_DIRECT), which thin-provisioning-tools need: name \
                       another folder (--work)"
                    .to_owned(),
            });
        }
        let arguments = [
            format!("if={}", from.path.display()),
            format!("of={}", path.display()),
            "conv=sparse".to_owned(),
        ];
        self.did("copy the metadata", Some(&Call::new("dd", arguments)));
        self.dumped = path;
        Ok(())
    }

    fn check(
        &mut self,
        pool: &Pool,
        work: &Work,
        hints: Hints,
        interrupts: &Interrupts,
    ) -> Result<(), RecoverError> {
        let mut first = vec![0; superblock::BLOCK];
        let whole = (pool.metadata.file).read_exact_at(&mut first, 0).is_ok();
        let found = superblock::read(&first).filter(|_| whole);
        let given = hints.transaction.is_some() && hints.data_block.is_some();
        if found.is_none() && !given {
            let path = Text::from(pool.metadata.path.as_path());
            return Err(RecoverError::NoPool { path });
        }
        let check = Call::new("thin_check", [&self.dumped]);
        let said = match check.run(interrupts) {
            Ok(_) => {
                self.did("check the copy: it is sound", Some(&check));
                return Ok(());
            }
            Err(RecoverError::Failed { said, .. }) => said,
            Err(error) => return Err(error),
        };
        self.did(
            &format!("check the copy: it is damaged ({said})"),
            Some(&check),
        );
        if let Some(found) = found
            && !found.sealed
        {
            let to = OpenOptions::new().write(true).open(&self.dumped);
            to.and_then(|to| to.write_all_at(&superblock::seal(&first).to_le_bytes(), 0))
                .map_err(RecoverError::io("write", &self.dumped))?;
            let what = format!(
                "put the checksum of the copy's superblock right, whose fields can be read ({})",
                superblock::words(&found)
            );
            self.did(&what, None);
        }
        self.repair(pool, work, hints, interrupts)
            .map_err(|error| match error {
                RecoverError::Failed { .. } => RecoverError::Beyond {
                    path: Text::from(pool.metadata.path.as_path()),
                    why: Box::new(error),
                },
                error => error,
            })
    }

    fn repair(
        &mut self,
        pool: &Pool,
        work: &Work,
        hints: Hints,
        interrupts: &Interrupts,
    ) -> Result<(), RecoverError> {
        let path = work.path("repaired");
        space::need(&path, pool.metadata.takes(), "--work")?;
        (create(&path)?.set_len(pool.metadata.size)).map_err(RecoverError::io("write", &path))?;
        let mut arguments: Vec<String> = Vec::new();
        // From what is known of the data device, where nobody says it.
        let blocks = (pool.data.as_ref())
            .zip(hints.data_block)
            .and_then(|(data, block)| (data.size / 512).checked_div(block));
        for (name, value) in [
            ("--transaction-id", hints.transaction),
            ("--data-block-size", hints.data_block),
            ("--nr-data-blocks", hints.data_blocks.or(blocks)),
        ] {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value.to_string()]);
            }
        }
        let paths = [("-i", &self.dumped), ("-o", &path)];
        for (name, path) in paths {
            arguments.extend([name.to_owned(), path.display().to_string()]);
        }
        let repair = Call::new("thin_repair", arguments);
        repair.run(interrupts)?;
        self.did("repair it, from the copy into another", Some(&repair));
        let check = Call::new("thin_check", [&path]);
        check.run(interrupts)?;
        self.did("check that one: it is sound", Some(&check));
        self.warnings.push(
            "the metadata was damaged: what a repair brings back may be older than the damage, or lack parts. Compare the sizes \
             with what you expect, and look at what comes out"
                .to_owned(),
        );
        self.dumped = path;
        Ok(())
    }

    fn dump(
        &self,
        wanted: Option<u64>,
        interrupts: &Interrupts,
    ) -> Result<(Dump, Call), RecoverError> {
        let mut arguments = match wanted {
            Some(id) => vec!["--dev-id".to_owned(), id.to_string()],
            None => vec!["--skip-mappings".to_owned()],
        };
        if self.snapshot {
            arguments.push("--metadata-snap".to_owned());
        }
        arguments.push(self.dumped.display().to_string());
        let call = Call::new("thin_dump", arguments);
        let wrong = |what: String| RecoverError::Dump {
            path: Text::from(self.dumped.as_path()),
            what,
        };
        let dump = call.stream(interrupts, |output| {
            let mut output = BufReader::new(output);
            let dump = dump::read(&mut output, wanted, || interrupts.check());
            // It is to end by itself, and not because nobody listens.
            if dump.is_ok() {
                let _ = std::io::copy(&mut output.take(1 << 20), &mut std::io::sink());
            }
            dump.map_err(|error| match error {
                DumpError::Stopped(error) => error,
                error => wrong(error.to_string()),
            })
        })?;
        if !superblock::is_data_block(dump.data_block) {
            return Err(wrong(format!("data blocks of {} sectors", dump.data_block)));
        }
        Ok((dump, call))
    }
}

/// A new file, for root alone.
pub(super) fn create(path: &Path) -> Result<File, RecoverError> {
    let mut options = OpenOptions::new();
    (options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path))
    .map_err(RecoverError::io("make", path))
}
