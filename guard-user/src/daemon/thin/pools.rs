//! Thin discard: pools that fill up, or are no longer well, are told of.

use std::collections::BTreeMap;

use super::super::{Daemon, now, say::millis};
use crate::{
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
/// Pools that did not say how they are for so many ticks hang.
const PATIENCE: u64 = 60;
/// What that is called among troubles.
const HANGS: &str = "pools";

/// The host's pools.
#[derive(Default)]
pub(super) struct Pools {
    reader: Option<asked::Pools>,
    /// By number and name: either may be another pool's next.
    known: BTreeMap<(u32, String), Known>,
    /// The tick in which they were last heard of.
    heard: u64,
}

#[derive(Default)]
struct Known {
    status: Option<Pool>,
    watch: Watch,
}

impl Daemon {
    /// Once a tick.
    pub(super) fn look_at_pools(&mut self) {
        let Some(alarm) = self.plan.pool_alarm else {
            self.thin.pools = Pools::default();
            return self.settled(HANGS);
        };
        if self.thin.pools.reader.is_none() {
            if !self.ticks.is_multiple_of(ROUND) || !Mapper::is_there() {
                return;
            }
            match asked::Pools::start() {
                Ok(reader) => self.thin.pools.reader = Some(reader),
                Err(error) => {
                    return self.note(HANGS, format!("thin pools are not watched: {error}"));
                }
            }
            self.thin.pools.heard = self.ticks;
        }
        let heard = (self.thin.pools.reader.as_mut()).map(asked::Pools::said);
        let read = match heard.transpose() {
            Ok(read) => read.flatten(),
            Err(error) => {
                self.thin.pools.reader = None;
                return self.note(
                    HANGS,
                    format!("thin pools were not watched for a moment: {error}"),
                );
            }
        };
        let Some(read) = read else {
            if self.ticks - self.thin.pools.heard > PATIENCE {
                self.trouble(
                    HANGS,
                    "no thin pool said how it is for a minute: a disk that one of them is on may hang; `dmsetup status` shows whether".to_owned(),
                );
            }
            return;
        };
        self.thin.pools.heard = self.ticks;
        self.settled(HANGS);
        let mut before = std::mem::take(&mut self.thin.pools.known);
        for Read {
            number,
            mapped,
            status,
        } in read
        {
            let key = (number, mapped);
            let mut known = before.remove(&key).unwrap_or_default();
            known.status = status;
            let told = status.map(|status| known.watch.see(now(), &status, &alarm));
            for told in told.into_iter().flatten() {
                self.say(record(&key.1, told));
            }
            self.thin.pools.known.insert(key, known);
        }
    }

    /// For the status.
    pub(in crate::daemon) fn pools(&self) -> Vec<PoolStatus> {
        (self.thin.pools.known.iter())
            .map(|((_, mapped), known)| {
                let percent = |of: fn(&Pool) -> u64| known.status.as_ref().map_or(0, of);
                PoolStatus {
                    name: mapped.as_str().into(),
                    state: (known.status.as_ref())
                        .map_or_else(|| "unknown".to_owned(), Pool::state),
                    data_percent: percent(|pool| pool.data.percent()),
                    metadata_percent: percent(|pool| pool.metadata.percent()),
                    full_in: (known.watch.left())
                        .and_then(|left| i64::try_from(left.as_secs()).ok()),
                }
            })
            .collect()
    }
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
