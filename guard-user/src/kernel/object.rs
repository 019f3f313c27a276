//! The embedded object: its tables made, or taken over from an earlier daemon, and its programs ready to be loaded.
//!
//! Not by aya's loader, which reads the kernel's whole type information (here [`super::btf`] has) before it does anything.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use aya::maps::{Map, MapData, MapError};
use aya_obj::{EbpfSectionKind, Object};
use guard_common::config::FIELDS;

use super::{
    fold::Constants,
    image::Image,
    load::{LoadError, Sizes},
    sys,
};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../guard-ebpf/prebuilt/guard.bpf.o");

/// The section that the kernel side's `CONFIG` stands in, alone.
const CONFIG: &str = ".rodata";

/// Tables that a later daemon takes over.
const PINNED: [&str; 15] = [
    "SUBJECTS",
    "CONTAINERS",
    "FREE_SLOTS",
    "PROFILES",
    "ARGUMENTS",
    "HOST",
    "MATCHERS",
    "EVENTS",
    "PRINTED",
    "ENDED",
    "OWN",
    "SETTING_UP",
    "THIN",
    "WAITING",
    "ORIGINS",
];

/// The object's tables, by name.
pub(super) struct Tables(HashMap<String, MapData>);

impl Tables {
    /// One of them, whatever it holds.
    pub(super) fn get(&self, name: &'static str) -> Result<&MapData, LoadError> {
        self.0
            .get(name)
            .ok_or_else(|| LoadError::Object(format!("no table {name}")))
    }

    /// A descriptor of each of them, that of `OWN` first.
    pub(super) fn all(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all: Vec<(&String, &MapData)> = self.0.iter().collect();
        all.sort_by_key(|(name, _)| *name != "OWN");
        (all.into_iter())
            .map(|(_, table)| table.fd().as_fd().try_clone_to_owned())
            .collect()
    }

    /// What programs read of `config`, which is in its table for good.
    pub(super) fn constants(&self, config: [u32; FIELDS]) -> Result<Constants, LoadError> {
        Ok(Constants {
            table: self.get(CONFIG)?.fd().as_fd().as_raw_fd(),
            bytes: bytes(config),
        })
    }

    /// One of them, as what it is.
    pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, LoadError> {
        let data = self
            .0
            .remove(name)
            .ok_or_else(|| LoadError::Object(format!("no table {name}")))?;
        Map::from_map_data(data)
            .and_then(T::try_from)
            .map_err(|source| LoadError::Table {
                name: name.to_owned(),
                source,
            })
    }
}

/// Makes the tables, or takes over those that are pinned below `pins`, and puts them into the programs.
///
/// # Errors
/// [`LoadError`].
pub(super) fn open(
    config: [u32; FIELDS],
    pins: Option<&Path>,
    sizes: &Sizes,
) -> Result<(Image, Tables), LoadError> {
    let broken = |error: &dyn std::fmt::Display| LoadError::Object(error.to_string());
    let mut object = Object::parse(OBJECT).map_err(|error| broken(&error))?;
    let maps = std::mem::take(&mut object.maps);
    let mut tables = HashMap::new();
    for (name, map) in &maps {
        let failed = |source| LoadError::Table {
            name: name.clone(),
            source,
        };
        let data = if map.section_kind() == EbpfSectionKind::Rodata {
            constants(map.clone(), name, config)
        } else {
            table(map.clone(), name, pins, sizes)
        };
        tables.insert(name.clone(), data.map_err(failed)?);
    }
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    let used = maps
        .iter()
        .map(|(name, map)| (name.as_str(), tables[name].fd().as_fd().as_raw_fd(), map));
    object
        .relocate_maps(used, &sections)
        .map_err(|error| broken(&error))?;
    Ok((Image::new(object, sections), Tables(tables)))
}

/// Read-only data, which the verifier takes for constants once it is frozen: the daemon's own words, and what the compiler put
/// beside them.
fn constants(map: aya_obj::Map, name: &str, config: [u32; FIELDS]) -> Result<MapData, MapError> {
    let size = map.value_size() as usize;
    let bytes = match name {
        CONFIG => bytes(config),
        _ => map.data().to_vec(),
    };
    if size != bytes.len() {
        return Err(MapError::InvalidValueSize {
            size: bytes.len(),
            expected: size,
        });
    }
    let data = MapData::create(map, name, None)?;
    sys::set_constants(data.fd().as_fd(), &bytes)?;
    Ok(data)
}

fn bytes(config: [u32; FIELDS]) -> Vec<u8> {
    config.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A table of another layout may not be taken for ours: what is in it means something else.
fn of_this_layout(data: MapData, map: &aya_obj::Map) -> Result<MapData, MapError> {
    let info = data.info()?;
    for (size, expected) in [
        (info.key_size(), map.key_size()),
        (info.value_size(), map.value_size()),
    ] {
        if size != expected {
            return Err(MapError::InvalidValueSize {
                size: size as usize,
                expected: expected as usize,
            });
        }
    }
    Ok(data)
}

fn table(
    mut map: aya_obj::Map,
    name: &str,
    pins: Option<&Path>,
    sizes: &Sizes,
) -> Result<MapData, MapError> {
    if let (Some(subjects), "SUBJECTS") = (sizes.subjects, name) {
        map.set_max_entries(subjects);
    }
    let pin = pins
        .filter(|_| PINNED.contains(&name))
        .map(|pins| pins.join(name));
    match &pin {
        Some(pin) if pin.exists() => return of_this_layout(MapData::from_pin(pin)?, &map),
        _ => {}
    }
    let data = MapData::create(map, name, None)?;
    if let Some(pin) = pin {
        data.pin(pin).map_err(|error| MapError::PinError {
            name: Some(name.to_owned()),
            error,
        })?;
    }
    Ok(data)
}
