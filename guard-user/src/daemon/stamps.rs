//! What a change of the policy's files is seen by.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::policy::load;

/// What tells that a policy file, or the directory of them, has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Time of the last change in seconds and nanoseconds, size, and inode.
type Stamp = (i64, i64, u64, u64);

impl Stamps {
    /// As the files stand now.
    pub(super) fn of(file: Option<&Path>) -> Self {
        let paths = match file {
            Some(file) => vec![file.to_path_buf()],
            None => load::default_sources()
                .unwrap_or_default()
                .into_iter()
                .chain([
                    load::DIRECTORY.into(),
                    Path::new(load::DIRECTORY).join("policy.d"),
                ])
                .collect(),
        };
        Self(
            paths
                .into_iter()
                .map(|path| {
                    let stamp = fs::metadata(&path)
                        .ok()
                        .map(|data| (data.mtime(), data.mtime_nsec(), data.size(), data.ino()));
                    (path, stamp)
                })
                .collect(),
        )
    }
}
