//! Lost volumes: what is going to happen is said before it does, step by step, with the command for each.

use std::path::Path;

use serde::Serialize;

use super::{
    Interrupts, Line, Metadata, Pool, RecoverError, Target, Work,
    call::Call,
    copy,
    filesystem::{self, FileSystem},
    map::{self, Map, TARGETS_MAX},
    mounted::Mounted,
    pool::Part,
};
use crate::{record::Text, thin::head::HEAD};

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
    let map_of =
        |sectors| Map::new(extents.clone(), block, sectors, data.size / 512).map_err(wrong);
    let mut map = map_of(told.unwrap_or(end))?;
    let head = copy::head(&map, &data.file, HEAD).map_err(RecoverError::io("read", &data.path))?;
    let file_system = filesystem::probe(&head);
    let has = (file_system.and_then(|found| found.size)).map(|bytes| bytes.div_ceil(512));
    if told.is_none()
        && let Some(has) = has.filter(|has| (map.size()..=map::SECTORS_MAX).contains(has))
    {
        map = map_of(has)?;
    }
    let mut warnings = metadata.warnings.clone();
    warnings.extend(volume.doubt.clone());
    warnings.extend(lacking(volume, &map, file_system, has, block));
    let mut steps = metadata.steps.clone();
    steps.push(read);
    steps.extend(coming(data, volume.id, &map, file_system, &target, work)?);
    target.check(pool, &map)?;
    let (needed, free) = target.room(&map)?;
    Ok(Plan {
        volume: volume.clone(),
        size: map.size() * 512,
        mapped: map.mapped() * 512,
        file_system,
        to: Text::from(target.path()),
        needed,
        free,
        steps,
        warnings,
        target,
        map,
    })
}

/// What a volume may lack; `has`: the sectors that its file system says it has.
fn lacking(
    volume: &Line,
    map: &Map,
    file_system: Option<FileSystem>,
    has: Option<u64>,
    block: u64,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(has) = has.filter(|has| *has > map.size()) {
        warnings.push(format!(
            "the file system says that it has {} bytes, and the volume has {}: say --size if that is wrong",
            has.saturating_mul(512),
            map.size() * 512
        ));
    }
    // A size may cut the last block.
    if map.mapped() + block <= volume.mapped / 512 {
        warnings.push(format!(
            "{} bytes are mapped, and the pool says {}",
            map.mapped() * 512,
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
    warnings
}

/// The steps that are to come.
fn coming(
    data: &Part,
    volume: u64,
    map: &Map,
    file_system: Option<FileSystem>,
    target: &Target,
    work: &Work,
) -> Result<Vec<Step>, RecoverError> {
    let dd = |to: &Path, more: &str, what| {
        let (from, to) = (data.path.display(), to.display());
        let words = [format!("if={from}"), format!("of={to}"), more.to_owned()];
        vec![Step::next(what, &Call::new("dd", words))]
    };
    let what = match (file_system, target) {
        (_, Target::Image(path)) => {
            let what = "read its blocks from the data, opened read-only, into a new sparse file";
            return Ok(dd(path, "conv=sparse", what));
        }
        (_, Target::Device(path, _)) => {
            let what = "read its blocks from the data, opened read-only, onto the device, with zeros where nothing was written";
            return Ok(dd(path, "conv=notrunc", what));
        }
        (Some(found), Target::Folder(path)) if map.pieces().len() <= TARGETS_MAX => {
            let calls = Mounted::calls(data, work.name(), &found, path);
            let steps = calls.iter().map(|(what, call)| Step::next(what, call));
            return Ok(steps.collect());
        }
        (Some(_), Target::Folder(_)) => "more parts than a mapped device may have",
        (None, Target::Folder(_)) => {
            "no file system that is mounted here (ext2 to ext4, xfs, btrfs)"
        }
    };
    Err(RecoverError::NoFileSystem { volume, what })
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
