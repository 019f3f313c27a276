//! What keeps a volume from being recovered: what was attempted, on what, and what to do.

use std::{io, path::Path};

use thiserror::Error;

use crate::record::Text;

/// A volume is not recovered, or a pool cannot be read.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// A file, folder or device.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: Text,
        /// What the system said.
        source: io::Error,
    },
    /// A program that does part of the work is missing.
    #[error("{program} is not on this host: install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// What brings it, by Debian's name.
        package: &'static str,
    },
    /// A program failed.
    #[error("`{command}` {how}: {said}")]
    Failed {
        /// As it would be typed.
        command: Text,
        /// Its exit code, or its signal.
        how: String,
        /// The end of what it said.
        said: Text,
    },
    /// The metadata's first block is none of a pool's.
    #[error(
        "{path} does not begin as a thin pool's metadata does: is it the right device? If that block alone is lost, say \
         --transaction-id and --data-block-size, which thin_repair then needs"
    )]
    NoPool {
        /// The metadata.
        path: Text,
    },
    /// thin_repair did what it could.
    #[error(
        "the metadata of {path} cannot be repaired ({why}): a newer thin-provisioning-tools may do more; --metadata takes a copy of \
         the metadata, so it can be tried on another host"
    )]
    Beyond {
        /// The metadata.
        path: Text,
        /// What failed.
        why: Box<RecoverError>,
    },
    /// The pool is in use.
    #[error(
        "the pool {pool} on {path} is active, and what stands in its metadata changes: deactivate it first (`dmsetup remove`, \
         `lvchange -an`); or let it hold a snapshot of its metadata (`dmsetup message {pool} 0 reserve_metadata_snap`), call this again, \
         and give it back afterwards (`dmsetup message {pool} 0 release_metadata_snap`)"
    )]
    Active {
        /// The pool's name.
        pool: Text,
        /// The metadata or data.
        path: Text,
    },
    /// The pool is in use now and was not, or the other way round.
    #[error(
        "the pool on {path} was activated or deactivated since its metadata was read, or holds another snapshot of it: call this again"
    )]
    Changed {
        /// The metadata.
        path: Text,
    },
    /// The XML of a dump is not what it was expected to be.
    #[error("cannot read what thin_dump says of {path}: {what}")]
    Dump {
        /// The metadata.
        path: Text,
        /// What is wrong with it.
        what: String,
    },
    /// No such volume.
    #[error(
        "{what} is no volume of this pool: `bulkhead thin recover --list` shows those that are"
    )]
    NoVolume {
        /// What was asked for.
        what: Text,
    },
    /// More than one volume is called so.
    #[error("{what} may be the volumes {ids}: say which by its number")]
    Ambiguous {
        /// What was asked for.
        what: Text,
        /// Their numbers.
        ids: String,
    },
    /// A mapping that no pool can have.
    #[error("the mapping of volume {volume} cannot be followed: {what}")]
    Map {
        /// Its device id.
        volume: u64,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing to mount.
    #[error("volume {volume} has {what}: recover it as an image, --to FILE.img")]
    NoFileSystem {
        /// Its device id.
        volume: u64,
        /// What it has.
        what: &'static str,
    },
    /// Where it is to go.
    #[error("{path} {what}")]
    Target {
        /// The file, folder or device.
        path: Text,
        /// Why it cannot go there.
        what: String,
    },
    /// Not enough room.
    #[error(
        "{path} has room for {free} bytes, and {needed} are needed: make room, or name another place ({option})"
    )]
    NoRoom {
        /// The folder.
        path: Text,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
        /// The option that names another.
        option: &'static str,
    },
    /// A signal came.
    #[error("stopped by {signal}")]
    Interrupted {
        /// The signal's name.
        signal: String,
    },
    /// What was copied before something failed could not all be taken away again.
    #[error("{path} is not whole, and is still there ({source}): remove it. It failed since {why}")]
    Remains {
        /// What was made.
        path: Text,
        /// Why it is still there.
        source: io::Error,
        /// What failed before.
        why: Box<RecoverError>,
    },
    /// What was made could not all be taken away again.
    #[error(
        "what was mapped is still there: {what}; the next `bulkhead thin recover` tries again to take it away"
    )]
    Left {
        /// What, and why.
        what: String,
    },
}

impl RecoverError {
    /// For `map_err`: an error of the system's on a path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = Text::from(path);
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// The host lacks something: exit code 3.
    #[must_use]
    pub fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
