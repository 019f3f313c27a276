//! Lost volumes: each is found by its number, or by what docker calls it.

use serde::Serialize;

use super::{Books, Device, Metadata, Owner, RecoverError, books::Entry};
use crate::record::Text;

/// A volume, in words and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its number in the pool.
    pub id: u64,
    /// Its bytes, by docker; the pool itself does not know them.
    pub size: Option<u64>,
    /// Bytes that are mapped, shared ones too.
    pub mapped: u64,
    /// The pool's transaction in which it was made.
    pub transaction: u64,
    /// Whose it is, by docker.
    pub owner: Option<Owner>,
    /// Docker's own name of it.
    pub docker: Option<Text>,
    /// Docker meant to delete it.
    pub deleted: bool,
    /// Why it may be another than docker says, in words.
    pub doubt: Option<String>,
}

/// The volumes of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Those that are there.
    pub volumes: Vec<Line>,
    /// Those that docker has in its books and the pool does not have.
    pub missing: Vec<Line>,
    /// The books are of a later time than the metadata, in words.
    pub late: Option<String>,
}

/// Puts together what the pool and docker say.
#[must_use]
pub fn find(metadata: &Metadata, books: Option<&Books>) -> Found {
    let block = metadata.data_block() * 512;
    compare(metadata.volumes(), block, metadata.transaction(), books)
}

/// The same of numbers alone: bytes of a block, and the pool's transaction.
fn compare(devices: &[Device], block: u64, pool: u64, books: Option<&Books>) -> Found {
    let entry = |id| books.and_then(|books| books.volumes.get(&id));
    let volumes = devices.iter().map(|device| {
        let mapped = device.mapped.saturating_mul(block);
        let entry = entry(device.id);
        let mut line = line(device.id, mapped, device.transaction, entry);
        line.doubt = entry.and_then(|entry| doubt(device, entry, pool));
        line
    });
    let volumes: Vec<Line> = volumes.collect();
    let there = |id: &u64| volumes.iter().any(|line| line.id == *id);
    let missing: Vec<Line> = (books.into_iter().flat_map(|books| &books.volumes))
        .filter(|(id, _)| !there(id))
        .map(|(id, entry)| line(*id, 0, entry.transaction, Some(entry)))
        .collect();
    // One that docker had not closed yet is the next.
    let last = missing.iter().map(|line| line.transaction).max();
    let late = last
        .filter(|last| *last > pool.saturating_add(1))
        .map(|last| {
            format!(
                "docker's books go on to transaction {last} at least, and the metadata ends with {pool}: it is older than they are, and \
                 volumes that were made later are missing"
            )
        });
    Found {
        volumes,
        missing,
        late,
    }
}

/// Whether what the pool has by that number is what docker wrote down. Docker makes a volume in a transaction that it has begun, writes the
/// transaction's number down, and tells the pool afterwards: in the pool, the volume is of the one before. (moby's
/// daemon/graphdriver/devmapper/deviceset.go, `createRegisterDevice` and `createRegisterSnapDevice`; drivers/md/dm-thin-metadata.c,
/// `__open_device`. Docker before 1.4 left a gap where it could not write its file.)
fn doubt(device: &Device, entry: &Entry, pool: u64) -> Option<String> {
    let made = device.transaction.saturating_add(1);
    let why = match entry.transaction {
        booked if booked == made => return None,
        booked if booked > pool => format!(
            "the metadata ends with transaction {pool}, and is older than the books: something brought it back"
        ),
        booked if booked < made => {
            "the number was given to another since, and the books are older than the metadata"
                .to_owned()
        }
        _ => "the metadata lacks what came between, as it may after a repair".to_owned(),
    };
    Some(format!(
        "volume {} may be another than the one in docker's books, which was made in transaction {}: what the pool has by that number was \
         made in {made}; {why}. Look at what comes out",
        device.id, entry.transaction
    ))
}

fn line(id: u64, mapped: u64, transaction: u64, entry: Option<&Entry>) -> Line {
    Line {
        id,
        size: entry.and_then(|entry| entry.size),
        mapped,
        transaction,
        owner: entry.map(|entry| entry.owner.clone()),
        docker: entry.map(|entry| entry.name.clone()),
        deleted: entry.is_some_and(|entry| entry.deleted),
        doubt: None,
    }
}

impl Line {
    /// Whose it is, in words.
    #[must_use]
    pub fn whose(&self) -> String {
        let short = |id: &Text| id.as_str().chars().take(12).collect::<String>();
        let mut words = match &self.owner {
            None => "not in docker's books".to_owned(),
            Some(Owner::Base) => "docker's base volume".to_owned(),
            Some(Owner::Nobody) => "docker's, of nothing that is left".to_owned(),
            Some(Owner::Layer { chain }) => format!("image layer sha256:{}", short(chain)),
            Some(Owner::Container { id, name, init }) => {
                let name = name
                    .as_ref()
                    .map_or(String::new(), |name| format!("{name} "));
                let init = if *init { ", what lies below it" } else { "" };
                format!("container {name}({}){init}", short(id))
            }
        };
        if self.deleted {
            words.push_str(", to be deleted");
        }
        if self.doubt.is_some() {
            words.push_str(", or another");
        }
        words
    }

    /// Whether it is called so: a container's name or the beginning of its id, docker's name of the volume or its beginning.
    fn is(&self, name: &str) -> bool {
        let begins = |id: &Text| name.len() >= 4 && id.as_str().starts_with(name);
        let owner = match &self.owner {
            Some(Owner::Container { id, name: of, init }) => {
                !init && (of.as_ref().is_some_and(|of| of.as_str() == name) || begins(id))
            }
            Some(Owner::Layer { chain }) => begins(chain),
            Some(Owner::Base | Owner::Nobody) | None => false,
        };
        let own = |own: &Text| own.as_str() == name || name.len() >= 12 && begins(own);
        owner || self.docker.as_ref().is_some_and(own)
    }
}

impl Found {
    /// What is doubtful about what docker says, in words.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        let doubts = self.volumes.iter().flat_map(|line| &line.doubt);
        self.late.iter().chain(doubts)
    }

    /// The volume of that number or name. `/12` is the container of the name `12`, as docker itself writes names.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn volume(&self, asked: &str) -> Result<&Line, RecoverError> {
        let none = || RecoverError::NoVolume {
            what: Text::from(asked),
        };
        // The pool's numbers have 24 bits; what is longer may be the beginning of an id that has no letter in it.
        if let Ok(id) = asked.parse::<u64>()
            && id < 1 << 24
        {
            let mut all = self.volumes.iter();
            return all.find(|line| line.id == id).ok_or_else(none);
        }
        let name = asked.strip_prefix('/').unwrap_or(asked);
        let name = name.strip_prefix("sha256:").unwrap_or(name);
        let exact = |line: &&Line| {
            line.docker
                .as_ref()
                .is_some_and(|docker| docker.as_str() == name)
        };
        let mut found: Vec<&Line> = self.volumes.iter().filter(exact).collect();
        if found.is_empty() {
            found = self.volumes.iter().filter(|line| line.is(name)).collect();
        }
        match found[..] {
            [] => Err(none()),
            [line] => Ok(line),
            _ => {
                let ids: Vec<String> = found.iter().map(|line| line.id.to_string()).collect();
                Err(RecoverError::Ambiguous {
                    what: Text::from(asked),
                    ids: ids.join(", "),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: u64, name: &str, init: bool) -> Line {
        let entry = Entry {
            size: Some(512),
            transaction: id,
            deleted: false,
            owner: Owner::Container {
                id: Text::from("0123456789abcdef"),
                name: Some(Text::from(name)),
                init,
            },
            name: Text::from(format!("{id:x}").repeat(64)),
        };
        line(id, 65_536, id, Some(&entry))
    }

    #[test]
    fn a_volume_is_found_by_its_number_its_containers_name_and_the_beginning_of_an_id() {
        let volumes = vec![
            container(2, "web", false),
            container(3, "web", true),
            container(4, "12", false),
            line(12, 0, 0, None),
        ];
        let found = Found {
            volumes,
            ..Found::default()
        };
        let id = |asked| found.volume(asked).map(|line| line.id).ok();
        assert_eq!(id("web"), Some(2));
        assert_eq!(id("/web"), Some(2));
        assert_eq!(id("12"), Some(12));
        assert_eq!(id("/12"), Some(4));
        assert_eq!(id("333333333333"), Some(3));
        assert_eq!(id("5"), None);
        assert_eq!(id("we"), None);
        assert_eq!(id("0123"), None);
        assert!(
            found
                .volume("/0123")
                .unwrap_err()
                .to_string()
                .contains("2, 4")
        );
        let words = found.volume("0123456789ab").unwrap_err().to_string();
        assert!(words.contains("2, 4"), "{words}");
        assert_eq!(found.volumes[0].whose(), "container web (0123456789ab)");
    }

    /// The pool's transaction, that in which the pool has the volume, that in docker's books.
    fn compared(pool: u64, device: u64, booked: u64) -> Found {
        let device = Device {
            id: 3,
            mapped: 1,
            transaction: device,
            created: 0,
            snapped: 0,
        };
        let entry = |name: &str| Entry {
            size: Some(512),
            transaction: booked,
            deleted: false,
            owner: Owner::Nobody,
            name: Text::from(name),
        };
        let volumes = [(3, entry("a")), (9, entry("b"))].into();
        let troubles = Vec::new();
        compare(&[device], 65_536, pool, Some(&Books { volumes, troubles }))
    }

    #[test]
    fn a_volume_of_another_transaction_than_dockers_is_doubtful_and_one_as_docker_makes_it_is_not()
    {
        // The last of three; an earlier one; one that docker had not told the pool of when the host went down.
        for (pool, device, booked) in [(3, 2, 3), (300, 2, 3), (2, 2, 3)] {
            let found = compared(pool, device, booked);
            assert_eq!(found.warnings().count(), 0, "{found:?}");
            assert!(!found.volumes[0].whose().contains("another"));
        }
        for (pool, device, booked, why) in [
            (5, 2, 9, "is older than the books"),
            (9, 7, 3, "given to another since"),
            (9, 3, 3, "given to another since"),
            (9, 2, 5, "after a repair"),
        ] {
            let found = compared(pool, device, booked);
            let doubt = found.volumes[0].doubt.as_ref().unwrap();
            assert!(doubt.contains(why), "{doubt}");
            assert!(found.volumes[0].whose().ends_with(", or another"));
            // What is missing is of a later time than the metadata in the first case alone.
            assert_eq!(found.warnings().count(), if booked == 9 { 2 } else { 1 });
        }
    }
}
