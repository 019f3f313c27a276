//! The pinned tables, for those who find no daemon: what still holds, and the switch that ends it.

use std::{
    collections::BTreeMap, io, mem::offset_of, os::fd::AsFd, path::Path, sync::atomic::Ordering,
};

use aya::maps::{HashMap as Table, Map, MapData, MapError};
use guard_common::{
    Container, SLOTS,
    host::Host,
    thin::{Device, Origin},
};

use super::{
    load::PINS,
    pins,
    tables::{Mapped, Plain},
};

/// The tables that a daemon left.
pub struct Pinned {
    host: Mapped<Host>,
    containers: Mapped<Container>,
    thin: Option<Table<MapData, u32, Plain<Device>>>,
    origins: Option<Table<MapData, Plain<Origin>, u64>>,
}

impl Pinned {
    /// Opens them; `None`: there are none.
    ///
    /// # Errors
    /// They are there and cannot be read, or others than root may have put them there.
    pub fn open() -> io::Result<Option<Self>> {
        let directory = Path::new(PINS);
        // Another's tables would be taken for ours.
        pins::check(directory).map_err(io::Error::other)?;
        let table = |name: &str| match MapData::from_pin(directory.join(name)) {
            Ok(data) => Ok(Some(data)),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(io::Error::other(error)),
        };
        let (Some(host), Some(containers)) = (table("HOST")?, table("CONTAINERS")?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            host: Mapped::new(host.fd().as_fd(), 1)?,
            containers: Mapped::new(containers.fd().as_fd(), SLOTS)?,
            thin: table("THIN")?
                .and_then(|data| Map::from_map_data(data).ok())
                .and_then(|map| Table::try_from(map).ok()),
            origins: table("ORIGINS")?
                .and_then(|data| Map::from_map_data(data).ok())
                .and_then(|map| Table::try_from(map).ok()),
        }))
    }

    /// The host's numbers.
    #[must_use]
    pub fn host(&self) -> Host {
        self.host.get(0)
    }

    /// The containers that are in the table.
    pub fn containers(&self) -> impl Iterator<Item = Container> {
        (0..self.containers.count())
            .map(|slot| self.containers.get(slot))
            .filter(|state| state.id != 0)
    }

    /// Who gave devices the discards that reached them, and how many.
    #[must_use]
    pub fn origins(&self) -> Vec<(Origin, u64)> {
        let entries = self.origins.iter().flat_map(Table::iter);
        (entries.filter_map(Result::ok))
            .map(|(Plain(origin), count)| (origin, count))
            .collect()
    }

    /// What the kernel side knows of block devices, by number.
    #[must_use]
    pub fn devices(&self) -> BTreeMap<u32, Device> {
        let entries = self.thin.iter().flat_map(Table::iter);
        (entries.filter_map(Result::ok))
            .map(|(number, Plain(device))| (number, device))
            .collect()
    }

    /// Everything is allowed until `until_ns` of `CLOCK_MONOTONIC`; 0: nothing is.
    pub fn switch(&self, until_ns: u64) {
        self.host
            .long(0, offset_of!(Host, off_until_ns))
            .store(until_ns, Ordering::Release);
    }

    /// Seconds until it is on again; -1: until it is switched on; `None`: it is on.
    #[must_use]
    pub fn off_for(&self) -> Option<i64> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map(std::time::Duration::from)
            .unwrap_or_default()
            .as_nanos() as u64;
        match self.host.get(0).off_until_ns {
            u64::MAX => Some(-1),
            until if until > now => Some(((until - now) / 1_000_000_000) as i64),
            _ => None,
        }
    }
}
