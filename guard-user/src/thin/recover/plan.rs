//! Lost volumes: what is going to happen is said before it does, step by step, with the command for each.

use serde::Serialize;

use super::{
    Interrupts, Line, Metadata, Pool, RecoverError, Target, Work,
    call::Call,
    copy,
    filesystem::{self, FileSystem},
    map::{self, Map, TARGETS_MAX},
    mounted::Mounted,
};
use crate::record::Text;

/// One step of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it does.
    pub what: String,
    /// The command that does it, or would do it if it were typed.
    pub command: Option<Text>,
    /// It is done, on copies alone.
    pub done: bool,
}

impl Step {
    pub(super) fn done(what: &str, command: Option<Text>) -> Self {
        Self {
            what: what.to_owned(),
            command,
            done: true,
        }
    }

    fn next(what: &str, call: &Call) -> Self {
        Self {
            what: what.to_owned(),
            command: Some(call.words()),
            done: false,
        }
    }
}

/// What is going to happen.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// The volume.
    pub volume: Line,
    /// Its size in bytes: docker's, or as it was given, or as far as something is mapped or its file system says.
    pub size: u64,
    /// Bytes of it that are mapped.
    pub mapped: u64,
    /// What stands on it, if it can be mounted.
    #[serde(serialize_with = "kind")]
    pub(super) file_system: Option<FileSystem>,
    /// Where it goes.
    pub to: Text,
    /// Bytes that are needed there.
    pub needed: u64,
    /// Bytes that are free there.
    pub free: u64,
    /// What was done, and what comes.
    pub steps: Vec<Step>,
    /// What it may lack.
    pub warnings: Vec<String>,
    #[serde(skip)]
    pub(super) target: Target,
    #[serde(skip)]
    pub(super) map: Map,
}

/// Plans the recovery of one volume. `size`: its bytes, if they are known better.
///
/// # Errors
/// Its mapping cannot be, it cannot be read, it has nothing to mount and is to go into a folder, it cannot go where it is to.
pub fn plan(
    pool: &Pool,
    metadata: &Metadata,
    volume: &Line,
    target: Target,
    size: Option<u64>,
    work: &Work,
    interrupts: &Interrupts,
) -> Result<Plan, RecoverError> {
    let wrong = |what: String| RecoverError::Map {
        volume: volume.id,
        what,
    };
    let Some(data) = &pool.data else {
        return Err(wrong("no data device was given (--data)".to_owned()));
    };
    let (extents, read) = metadata.mapping(volume.id, interrupts)?;
    let block = metadata.data_block();
    let end = map::end(&extents, block)
        .ok_or_else(|| wrong("it goes beyond what a volume can have".to_owned()))?;
    let told = size.or(volume.size).map(|bytes| bytes / 512);
    let map = |sectors| Map::new(extents.clone(), block, sectors, data.size / 512).map_err(wrong);
    let mut map_ = map(told.unwrap_or(end))?;
    let head = copy::head(&map_, &data.file, filesystem::HEAD)
        .map_err(RecoverError::io("read", &data.path))?;
    let file_system = filesystem::probe(&head);
    let mut warnings = metadata.warnings.clone();
    let has = (file_system.and_then(|found| found.size)).map(|bytes| bytes.div_ceil(512));
    match (told, has) {
        (None, Some(sectors)) if sectors > map_.size() && sectors <= map::SECTORS_MAX => {
            map_ = map(sectors)?;
        }
        (Some(told), Some(has)) if has > told => warnings.push(format!(
            "the file system says that it has {} bytes, and the volume has {}: say --size if that is wrong",
            has.saturating_mul(512),
            told * 512
        )),
        _ => {}
    }
    if map_.mapped() / block < volume.mapped / 512 / block {
        warnings.push(format!(
            "{} bytes are mapped, and the pool says {}",
            map_.mapped() * 512,
            volume.mapped
        ));
    }
    if file_system.is_some_and(|found| found.unfinished == Some(true)) {
        warnings.push(
            "the file system was not unmounted: the last seconds stand in its journal, which is not replayed. Recovered as an image \
             (--to FILE.img), a copy of it can be mounted for writing, which replays it, or checked"
                .to_owned(),
        );
    }
    let mut steps = metadata.steps.clone();
    steps.push(read);
    let what = match file_system {
        Some(_) => "too many parts for a mapped device",
        None => "no file system that is mounted here (ext2 to ext4, xfs, btrfs)",
    };
    let mountable = file_system.filter(|_| map_.pieces().len() <= TARGETS_MAX);
    match (&target, mountable) {
        (Target::Folder(path), Some(found)) => {
            let calls = Mounted::calls(data, work.name(), &found, path);
            steps.extend(calls.iter().map(|(what, call)| Step::next(what, call)));
        }
        (Target::Folder(_), None) => {
            let volume = volume.id;
            return Err(RecoverError::NoFileSystem { volume, what });
        }
        (Target::Image(path), _) => {
            let what =
                "read its blocks from the data device, opened read-only, into a new sparse file";
            let call = Call::new(
                "dd",
                [
                    format!("if={}", data.path.display()),
                    format!("of={}", path.display()),
                    "conv=sparse".to_owned(),
                    "…".to_owned(),
                ],
            );
            steps.push(Step::next(what, &call));
        }
        (Target::Device(path, _), _) => {
            let what = "read its blocks from the data device, opened read-only, onto the device, with zeros where nothing was written";
            let call = Call::new(
                "dd",
                [
                    format!("if={}", data.path.display()),
                    format!("of={}", path.display()),
                    "…".to_owned(),
                ],
            );
            steps.push(Step::next(what, &call));
        }
    }
    target.check(pool, &map_)?;
    let (needed, free) = target.room(&map_)?;
    Ok(Plan {
        volume: volume.clone(),
        size: map_.size() * 512,
        mapped: map_.mapped() * 512,
        file_system,
        to: Text::from(target.path()),
        needed,
        free,
        steps,
        warnings,
        target,
        map: map_,
    })
}

impl Plan {
    /// The file system's type, if it can be mounted.
    #[must_use]
    pub fn file_system(&self) -> Option<&'static str> {
        self.file_system.map(|found| found.kind)
    }
}

fn kind<S: serde::Serializer>(
    found: &Option<FileSystem>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    found.map(|found| found.kind).serialize(serializer)
}
