//! Lost volumes: what thin_dump prints is read as it comes, bounded, and nothing of it is believed before it is checked.

use std::{
    collections::HashMap,
    io::{self, BufRead},
};

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use serde::Serialize;
use thiserror::Error;

/// More mappings than a volume, or volumes than a pool, that is looked at: 96 MiB of them.
const MOST: usize = 1 << 22;
/// A longer element is none of thin_dump's.
const LONGEST: u64 = 4096;
/// Elements after which the caller is asked whether to go on.
const PACE: u64 = 4096;

/// A volume, as the pool's metadata has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its number in the pool.
    pub id: u64,
    /// Data blocks that are mapped, shared ones too.
    pub mapped: u64,
    /// The pool's transaction in which it was made.
    pub transaction: u64,
    /// The pool's clock, which counts snapshots, when it was made.
    pub created: u64,
    /// The same when it was last made a snapshot of.
    pub snapped: u64,
}

/// A run of mapped blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    /// The first block within the volume.
    pub origin: u64,
    /// The first block of the data device.
    pub data: u64,
    /// Blocks.
    pub length: u64,
}

/// What a dump says.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// Sectors of a data block.
    pub data_block: u64,
    /// The pool's transaction.
    pub transaction: u64,
    /// The volumes.
    pub devices: Vec<Device>,
    /// The mapping of the one that was asked for, as it stands there.
    pub extents: Vec<Extent>,
}

/// Why a dump cannot be read.
#[derive(Debug, Error)]
pub(super) enum DumpError<E> {
    #[error("it is no XML: {0}")]
    Xml(#[from] quick_xml::Error),
    #[error("{element} has no {name} that is a number")]
    Number {
        element: &'static str,
        name: &'static str,
    },
    #[error("a part is named that was not there before")]
    Reference,
    #[error("there are more than {MOST} mappings or volumes")]
    TooMany,
    #[error("it ends in the middle")]
    Cut,
    #[error("the caller stopped")]
    Stopped(E),
}

/// Where an element stands.
enum Within {
    /// In neither.
    Pool,
    /// In what volumes share (`def`, from thin-provisioning-tools 1.0 on), by its name.
    Shared(String),
    /// In the volume that was asked for.
    Wanted,
    /// In another.
    Other,
}

/// Reads a dump, with the mapping of `wanted`. `go_on` is asked now and then.
pub(super) fn read<E>(
    from: impl BufRead,
    wanted: Option<u64>,
    mut go_on: impl FnMut() -> Result<(), E>,
) -> Result<Dump, DumpError<E>> {
    let mut reader = Reader::from_reader(Bounded { from, since: 0 });
    let (mut dump, mut whole, mut seen) = (Dump::default(), false, 0);
    let mut shared: HashMap<String, Vec<Extent>> = HashMap::new();
    let (mut within, mut held) = (Within::Pool, 0);
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer)?;
        seen += 1;
        if u64::is_multiple_of(seen, PACE) {
            go_on().map_err(DumpError::Stopped)?;
        }
        let (Event::Start(element) | Event::Empty(element)) = &event else {
            match event {
                Event::Eof if whole => return Ok(dump),
                Event::Eof => return Err(DumpError::Cut),
                Event::End(end) => match end.name().as_ref() {
                    "superblock" => whole = true,
                    "device" | "def" => within = Within::Pool,
                    _ => {}
                },
                _ => {}
            }
            reader.get_mut().since = 0;
            continue;
        };
        let closed = matches!(event, Event::Empty(_));
        let mut found = Vec::new();
        match element.name().as_ref() {
            "superblock" => {
                dump.transaction = number(element, "superblock", "transaction")?;
                dump.data_block = number(element, "superblock", "data_block_size")?;
            }
            "device" => {
                let device = device(element)?;
                held += 1;
                dump.devices.push(device);
                within = match wanted == Some(device.id) {
                    _ if closed => Within::Pool,
                    true => Within::Wanted,
                    false => Within::Other,
                };
            }
            "def" if !closed => within = Within::Shared(name(element)?),
            "ref" => match within {
                Within::Wanted | Within::Shared(_) => {
                    let part = shared.get(&name(element)?);
                    found.clone_from(part.ok_or(DumpError::Reference)?);
                }
                Within::Pool | Within::Other => {}
            },
            "single_mapping" => found.push(Extent {
                origin: number(element, "single_mapping", "origin_block")?,
                data: number(element, "single_mapping", "data_block")?,
                length: 1,
            }),
            "range_mapping" => found.push(Extent {
                origin: number(element, "range_mapping", "origin_begin")?,
                data: number(element, "range_mapping", "data_begin")?,
                length: number(element, "range_mapping", "length")?,
            }),
            _ => {}
        }
        match &within {
            Within::Wanted => {
                held += found.len();
                dump.extents.append(&mut found);
            }
            Within::Shared(name) if wanted.is_some() => {
                held += found.len();
                shared.entry(name.clone()).or_default().append(&mut found);
            }
            Within::Shared(_) | Within::Pool | Within::Other => {}
        }
        if held > MOST {
            return Err(DumpError::TooMany);
        }
        reader.get_mut().since = 0;
    }
}

fn device<E>(element: &BytesStart<'_>) -> Result<Device, DumpError<E>> {
    let number = |name| number(element, "device", name);
    Ok(Device {
        id: number("dev_id")?,
        mapped: number("mapped_blocks")?,
        transaction: number("transaction")?,
        created: number("creation_time")?,
        snapped: number("snap_time")?,
    })
}

fn number<E>(
    of: &BytesStart<'_>,
    element: &'static str,
    name: &'static str,
) -> Result<u64, DumpError<E>> {
    let found = of.try_get_attribute(name).map_err(quick_xml::Error::from)?;
    found
        .and_then(|attribute| attribute.value.parse().ok())
        .ok_or(DumpError::Number { element, name })
}

fn name<E>(of: &BytesStart<'_>) -> Result<String, DumpError<E>> {
    let found = of
        .try_get_attribute("name")
        .map_err(quick_xml::Error::from)?;
    found
        .map(|attribute| attribute.value.into_owned())
        .ok_or(DumpError::Reference)
}

/// Ends what an element has more than [`LONGEST`] bytes of: the reader would keep all of it.
struct Bounded<R> {
    from: R,
    since: u64,
}

impl<R: BufRead> io::Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.since > LONGEST {
            return Err(io::Error::other("an element has no end"));
        }
        let bytes = self.from.fill_buf()?;
        let most = bytes.len().min(1024);
        Ok(&bytes[..most])
    }

    fn consume(&mut self, amount: usize) {
        self.since += amount as u64;
        self.from.consume(amount);
    }
}

#[cfg(test)]
mod tests;
