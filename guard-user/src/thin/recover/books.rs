//! Lost volumes: docker's own files tell whose a volume is, without docker, and are believed nothing but numbers and names.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};

use super::{RecoverError, map::SECTORS_MAX};
use crate::record::Text;

/// Of docker's files about a volume, of a few hundred bytes, no more is read.
const VOLUME_MAX: u64 = 64 << 10;
/// Of those about a container, which carry its environment.
const CONTAINER_MAX: u64 = 4 << 20;
/// More files than that are in none of its folders.
const FILES_MAX: usize = 1 << 20;

/// Whose a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The one that docker makes all others from.
    Base,
    /// A container's own layer.
    Container {
        /// The container's id.
        id: Text,
        /// Its name, if it has one still.
        name: Option<Text>,
        /// It is the layer below, with what docker itself put there.
        init: bool,
    },
    /// A layer of images.
    Layer {
        /// Its chain id, without `sha256:`.
        chain: Text,
    },
    /// It stands in docker's books, and nothing refers to it.
    Nobody,
}

/// A volume, as docker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its bytes, if they can be.
    pub size: Option<u64>,
    /// The transaction in which docker made it.
    pub transaction: u64,
    /// Docker meant to delete it.
    pub deleted: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Docker's name of it.
    pub name: Text,
}

/// Docker's books of the `devicemapper` graph driver.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// By the volume's number in the pool.
    pub volumes: BTreeMap<u64, Entry>,
    /// What of them could not be read.
    pub troubles: Vec<Text>,
}

/// `devInfo` of the graph driver, moby's daemon/graphdriver/devmapper/deviceset.go.
#[derive(Deserialize)]
struct DevInfo {
    device_id: u64,
    size: u64,
    transaction_id: u64,
    #[serde(default)]
    deleted: bool,
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "Name")]
    name: String,
}

impl Books {
    /// Reads them below docker's folder (`/var/lib/docker`); `None` if there are none.
    ///
    /// # Errors
    /// They are there, and cannot be listed.
    pub fn read(root: &Path) -> Result<Option<Self>, RecoverError> {
        let folder = root.join("devicemapper/metadata");
        let names = match names(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            names => names.map_err(RecoverError::io("list", &folder))?,
        };
        let mut books = Self::default();
        let owners = owners(root, &mut books.troubles);
        for name in names {
            // `deviceset-metadata` and `transaction-metadata` are about no volume.
            let base = name == "base";
            if !base && !is_name(&name) {
                continue;
            }
            match volume(&folder.join(&name)) {
                Ok(info) => {
                    let owner = (owners.get(&name).cloned())
                        .or(base.then_some(Owner::Base))
                        .unwrap_or(Owner::Nobody);
                    let entry = Entry {
                        size: Some(info.size).filter(|size| is_size(*size)),
                        transaction: info.transaction_id,
                        deleted: info.deleted,
                        owner,
                        name: Text::from(&name),
                    };
                    if books.volumes.insert(info.device_id, entry).is_some() {
                        let id = info.device_id;
                        books.trouble(&folder, format_args!("volume {id} stands there twice"));
                    }
                }
                Err(error) => books.trouble(&folder.join(&name), format_args!("{error}")),
            }
        }
        Ok(Some(books))
    }

    fn trouble(&mut self, path: &Path, what: std::fmt::Arguments<'_>) {
        if self.troubles.len() < 100 {
            self.troubles
                .push(Text::from(format!("{}: {what}", path.display())));
        }
    }
}

/// What refers to volumes, by docker's name of them.
fn owners(root: &Path, troubles: &mut Vec<Text>) -> BTreeMap<String, Owner> {
    let mut owners = BTreeMap::new();
    let layers = root.join("image/devicemapper/layerdb");
    for id in names(&layers.join("mounts")).unwrap_or_default() {
        if !is_id(&id) {
            continue;
        }
        let config = root.join("containers").join(&id).join("config.v2.json");
        let name = match bytes(&config, CONTAINER_MAX) {
            Ok(bytes) => serde_json::from_slice::<Config>(&bytes)
                .inspect_err(|error| {
                    troubles.push(Text::from(format!("{}: {error}", config.display())))
                })
                .ok()
                .map(|config| Text::from(config.name.trim_start_matches('/'))),
            Err(_) => None,
        };
        for (file, init) in [("mount-id", false), ("init-id", true)] {
            if let Some(volume) = word(&layers.join("mounts").join(&id).join(file)) {
                let (id, name) = (Text::from(&id), name.clone());
                owners.insert(volume, Owner::Container { id, name, init });
            }
        }
    }
    for chain in names(&layers.join("sha256")).unwrap_or_default() {
        let file = layers.join("sha256").join(&chain).join("cache-id");
        if is_id(&chain)
            && let Some(volume) = word(&file)
        {
            let chain = Text::from(&chain);
            owners.insert(volume, Owner::Layer { chain });
        }
    }
    owners
}

fn volume(path: &Path) -> io::Result<DevInfo> {
    let info: DevInfo = serde_json::from_slice(&bytes(path, VOLUME_MAX)?)?;
    // The pool's numbers have 24 bits.
    if info.device_id < 1 << 24 {
        Ok(info)
    } else {
        Err(io::Error::other("its number is none that a pool has"))
    }
}

/// A file that holds docker's name of a volume.
fn word(path: &Path) -> Option<String> {
    let text = String::from_utf8(bytes(path, 256).ok()?).ok()?;
    Some(text.trim().to_owned()).filter(|name| is_name(name))
}

/// An ordinary file that is no longer than that.
fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = (OpenOptions::new().read(true))
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > most {
        return Err(io::Error::other(format!(
            "it is no file of {most} bytes at most"
        )));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(folder)?.take(FILES_MAX).flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// A container's, or a chain's.
fn is_id(name: &str) -> bool {
    name.len() == 64 && is_hex(name)
}

/// Docker's name of a volume: a random number, and `-init` behind those that lie below containers.
fn is_name(name: &str) -> bool {
    let number = name.strip_suffix("-init").unwrap_or(name);
    (12..=64).contains(&number.len()) && is_hex(number)
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a volume can have so many bytes.
pub(super) fn is_size(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(512) && bytes / 512 <= SECTORS_MAX
}

#[cfg(test)]
mod tests;
