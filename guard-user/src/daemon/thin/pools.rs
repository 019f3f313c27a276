//! Thin discard: pools that fill up, or are no longer well, are told of.

use std::{collections::BTreeMap, fs, path::Path};

use super::super::{Daemon, now, say::millis};
use crate::{
    act::discards::{self, SYS},
    control::status::PoolStatus,
    kernel::mapper::Mapper,
    policy::model::THIN,
    record::{Kind, Measure, Record},
    sense::asked::{self, Read},
    thin::{
        pool::Pool,
        watch::{Told, Watch},
    },
};

/// The device mapper, where there is none, is looked for once in so many ticks.
const ROUND: u64 = 10;
/// A pool that did not say how it is for so many ticks hangs, if it is there still.
const PATIENCE: u64 = 60;
/// What was said is not how it is any more after so many.
const FRESH: u64 = 10;

/// The host's pools.
#[derive(Default)]
pub(super) struct Pools {
    reader: Option<asked::Pools>,
    /// By number and name: either may be another pool's next.
    known: BTreeMap<(u32, String), Known>,
}

#[derive(Default)]
struct Known {
    status: Option<Pool>,
    watch: Watch,
    /// The tick in which it was last heard of.
    heard: u64,
}

impl Daemon {
    /// Once a tick.
    pub(super) fn look_at_pools(&mut self) {
        let Some(alarm) = self.plan.pool_alarm else {
            for (_, mapped) in std::mem::take(&mut self.thin.pools).known.into_keys() {
                self.settled(&trouble(&mapped));
            }
            return;
        };
        for Read {
            number,
            mapped,
            status,
        } in self.heard_of_pools()
        {
            self.settled(&trouble(&mapped));
            let known = (self.thin.pools.known)
                .entry((number, mapped.clone()))
                .or_default();
            (known.status, known.heard) = (status, self.ticks);
            let told = status.map(|status| known.watch.see(now(), &status, &alarm));
            for told in told.into_iter().flatten() {
                self.say(record(&mapped, told));
            }
        }
        let quiet: Vec<(u32, String)> = (self.thin.pools.known.iter())
            .filter(|(_, known)| self.ticks > known.heard + PATIENCE)
            .map(|(key, _)| key.clone())
            .collect();
        for (number, mapped) in quiet {
            if is_there(number, &mapped) {
                let words = format!(
                    "the thin pool {mapped} did not say how it is for a minute: a disk that it is on may hang; `dmsetup status` shows whether"
                );
                self.trouble(&trouble(&mapped), words);
            } else {
                self.settled(&trouble(&mapped));
                self.thin.pools.known.remove(&(number, mapped));
            }
        }
    }

    /// What pools said since the last tick; there is somebody who asks them then, if there is a device mapper.
    fn heard_of_pools(&mut self) -> Vec<Read> {
        let Some(reader) = &mut self.thin.pools.reader else {
            if self.ticks.is_multiple_of(ROUND) && Mapper::is_there() {
                match asked::Pools::start() {
                    Ok(reader) => self.thin.pools.reader = Some(reader),
                    Err(error) => {
                        self.note("pools", format!("thin pools are not watched: {error}"))
                    }
                }
            }
            return Vec::new();
        };
        match reader.said() {
            Ok(said) => said,
            Err(error) => {
                self.thin.pools.reader = None;
                self.note(
                    "pools",
                    format!("thin pools were not watched for a moment: {error}"),
                );
                Vec::new()
            }
        }
    }

    /// For the status.
    pub(in crate::daemon) fn pools(&self) -> Vec<PoolStatus> {
        (self.thin.pools.known.iter())
            .map(|((_, mapped), known)| {
                let is_fresh = self.ticks <= known.heard + FRESH;
                let status = known.status.filter(|_| is_fresh);
                let percent = |of: fn(&Pool) -> u64| status.as_ref().map_or(0, of);
                PoolStatus {
                    name: mapped.as_str().into(),
                    state: (status.as_ref()).map_or_else(|| "unknown".to_owned(), Pool::state),
                    data_percent: percent(|pool| pool.data.percent()),
                    metadata_percent: percent(|pool| pool.metadata.percent()),
                    full_in: (known.watch.left())
                        .filter(|_| is_fresh)
                        .and_then(|left| i64::try_from(left.as_secs()).ok()),
                }
            })
            .collect()
    }
}

/// What a pool that hangs is called among troubles.
fn trouble(mapped: &str) -> String {
    format!("pool {mapped}")
}

/// Whether a pool of that number and name is there, as sysfs says, which asks it nothing.
fn is_there(number: u32, mapped: &str) -> bool {
    let name = discards::directory(Path::new(SYS), number).join("dm/name");
    fs::read_to_string(name).is_ok_and(|name| name.trim_end() == mapped)
}

fn record(mapped: &str, told: Told) -> Record {
    let record = Record::new(Kind::ThinPool)
        .severity(told.severity)
        .rule(THIN)
        .outcome(format!("the thin pool {mapped} {}", told.what));
    let record = match told.advice {
        "" => record,
        advice => record.reason(advice),
    };
    match told.left {
        Some(left) => record.measured(Measure::FullMs, millis(left)),
        None => record,
    }
}
