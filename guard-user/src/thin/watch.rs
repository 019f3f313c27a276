//! Thin discard: a pool that fills up, or is no longer well, is told of while there is still time.

use std::time::Duration;

use super::pool::{Mode, Pool, Used};
use crate::{
    decide::leak::{self, Room},
    policy::model::PoolAlarm,
    record::Severity,
};

/// A snapshot of the metadata that is held longer than that was forgotten: tools that read it release it at once.
const HELD: Duration = Duration::from_secs(60);
/// When so many thousandths are left, it is time to be woken up.
const CRITICAL: u64 = 50;
/// What has gone back by so many thousandths below a threshold is below it.
const BACK: u64 = 20;

/// What is told of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How grave it is; [`Severity::Info`]: it is over.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What it means and what to do; nothing where it is over.
    pub advice: &'static str,
    /// Time until it is full, if that was what is told.
    pub left: Option<Duration>,
}

/// What was seen of one pool.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    data: Filling,
    metadata: Filling,
    mode: Option<Mode>,
    needs_check: bool,
    held_since: Option<Duration>,
    held_told: bool,
}

/// How one of its two spaces fills.
#[derive(Clone, Debug, Default)]
struct Filling {
    /// The same watch that pids have: blocks that rise steadily.
    rise: leak::Watch,
    /// Blocks that are left,
    free: u64,
    /// and how many there are.
    total: u64,
    /// Thousandths that were left when that was last told.
    told: Option<u64>,
}

/// Which.
#[derive(Clone, Copy)]
struct Space {
    name: &'static str,
    threshold: u32,
    advice: &'static str,
}

const DATA: &str = "full, writes to what is not there yet wait for a minute and fail, or fail at once: give the pool more \
                    (`lvextend -L +SIZE VG/POOL`; without LVM: a larger data device and a table of that length), or delete volumes";
const METADATA: &str = "full, the pool takes no writes until it was checked: give it more (`lvextend --poolmetadatasize +SIZE VG/POOL`; \
                        without LVM: a larger metadata device), or delete snapshots";

impl Watch {
    /// Takes in how the pool is.
    pub fn see(&mut self, now: Duration, pool: &Pool, alarm: &PoolAlarm) -> Vec<Told> {
        let mut told = Vec::new();
        self.see_mode(pool, &mut told);
        if pool.mode != Mode::Failed {
            self.see_held(now, pool.held_root, &mut told);
            let data = Space {
                name: "data",
                threshold: alarm.data,
                advice: DATA,
            };
            let metadata = Space {
                name: "metadata",
                threshold: alarm.metadata,
                advice: METADATA,
            };
            (self.data).see(now, pool.data, data, alarm.left, &mut told);
            (self.metadata).see(now, pool.metadata, metadata, alarm.left, &mut told);
        }
        told
    }

    /// Time until the first of its spaces is full, if it fills steadily.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let both = [&self.data, &self.metadata];
        both.into_iter().filter_map(Filling::left).min()
    }

    fn see_mode(&mut self, pool: &Pool, told: &mut Vec<Told>) {
        let before = self.mode.replace(pool.mode).unwrap_or(Mode::ReadWrite);
        if before != pool.mode {
            let (severity, advice) = match pool.mode {
                Mode::ReadWrite => (Severity::Info, ""),
                Mode::OutOfDataSpace => (Severity::Critical, DATA),
                Mode::ReadOnly => (
                    Severity::Critical,
                    "its volumes take no writes: stop what uses them, deactivate the pool, then thin_check and thin_repair its metadata; \
                     `bulkhead thin recover` gets volumes out without it",
                ),
                Mode::Failed => (
                    Severity::Critical,
                    "its volumes fail: `bulkhead thin recover` gets them out without it",
                ),
            };
            told.push(Told {
                severity,
                what: format!("is {} now", pool.mode.name()),
                advice,
                left: None,
            });
        }
        // Of one that has failed nothing is known but that.
        if pool.mode != Mode::Failed && self.needs_check != pool.needs_check {
            self.needs_check = pool.needs_check;
            told.push(match pool.needs_check {
                true => Told {
                    severity: Severity::High,
                    what: "says needs_check".to_owned(),
                    advice: "its metadata was found damaged: it must be deactivated, and checked with thin_check and mended with thin_repair, \
                             before it takes writes again",
                    left: None,
                },
                false => over("needs no check any more"),
            });
        }
    }

    fn see_held(&mut self, now: Duration, held: bool, told: &mut Vec<Told>) {
        if !held {
            self.held_since = None;
            if std::mem::take(&mut self.held_told) {
                told.push(over("holds no snapshot of its metadata any more"));
            }
            return;
        }
        let since = *self.held_since.get_or_insert(now);
        if !self.held_told && now.saturating_sub(since) >= HELD {
            self.held_told = true;
            told.push(Told {
                severity: Severity::Low,
                what: "holds a snapshot of its metadata since a minute or more".to_owned(),
                advice: "nothing that it refers to comes free; if nobody reads it: `dmsetup message POOL 0 release_metadata_snap`",
                left: None,
            });
        }
    }
}

impl Filling {
    fn see(
        &mut self,
        now: Duration,
        used: Used,
        space: Space,
        threshold: Duration,
        told: &mut Vec<Told>,
    ) {
        if used.total == 0 {
            return;
        }
        let name = space.name;
        // It was given more: what was told is no measure any more.
        if used.total > self.total {
            (self.told, self.rise) = (None, leak::Watch::default());
        }
        self.total = used.total;
        self.free = used.total.saturating_sub(used.used);
        let left = self.free.saturating_mul(1000).div_ceil(used.total);
        let limit = 1000 - u64::from(space.threshold);
        let share = format!("{}.{} %", (1000 - left) / 10, (1000 - left) % 10);
        if left > limit + BACK && self.told.take().is_some() {
            told.push(over(format!(
                "has room again: {share} of its {name} is used"
            )));
        }
        let is_news = match self.told {
            None => left <= limit,
            // Each time half of what was left is gone.
            Some(before) => before > 0 && left <= before / 2,
        };
        if is_news {
            self.told = Some(left);
            told.push(Told {
                severity: if left <= CRITICAL {
                    Severity::Critical
                } else {
                    Severity::High
                },
                what: format!(
                    "is filling up: {share} of its {name} is used, {} of {} blocks are left",
                    self.free, used.total
                ),
                advice: space.advice,
                left: self.left(),
            });
        }
        let room = Room {
            cap: Some(self.free),
            reserve: None,
        };
        match self.rise.see(now, used.used, room, threshold) {
            Some(leak::Told::Leak(leak)) => told.push(Told {
                severity: Severity::High,
                what: format!(
                    "is filling up: {share} of its {name} is used, and {} of {} blocks more each minute",
                    leak.per_minute, used.total
                ),
                advice: space.advice,
                left: leak.time_left(),
            }),
            Some(leak::Told::Over(_)) => {
                told.push(over(format!("fills up no more: its {name} stays as it is")));
            }
            None => {}
        }
    }

    fn left(&self) -> Option<Duration> {
        self.rise.foresees(self.free)
    }
}

/// A time that is left, as roughly as it is known.
#[must_use]
pub fn roughly(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn over(what: impl Into<String>) -> Told {
    Told {
        severity: Severity::Info,
        what: what.into(),
        advice: "",
        left: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALARM: PoolAlarm = PoolAlarm::DEFAULT;

    fn pool(data: u64, metadata: u64) -> Pool {
        let status = format!(
            "1 {metadata}/1000 {data}/1000 - rw no_discard_passdown queue_if_no_space - 256"
        );
        Pool::read(&status).unwrap()
    }

    fn severities(told: &[Told]) -> Vec<Severity> {
        told.iter().map(|told| told.severity).collect()
    }

    #[test]
    fn a_threshold_is_told_of_at_it_and_not_one_below_and_each_time_half_is_gone() {
        let mut watch = Watch::default();
        let mut see = |used| watch.see(Duration::from_secs(used), &pool(used, 10), &ALARM);
        assert_eq!(see(799), []);
        let at = see(800);
        assert_eq!(severities(&at), [Severity::High]);
        assert!(at[0].what.contains("80.0 % of its data"), "{at:?}");
        assert!(at[0].what.contains("200 of 1000 blocks"), "{at:?}");
        // Neither again at the same, nor before half is gone.
        for used in [800, 899] {
            assert_eq!(see(used), [], "{used}");
        }
        assert_eq!(severities(&see(900)), [Severity::High]);
        assert_eq!(severities(&see(950)), [Severity::Critical]);
        assert_eq!(severities(&see(1000)), [Severity::Critical]);
        assert_eq!(see(1000), []);
        // It is over once it is well below.
        assert_eq!(see(781), []);
        assert_eq!(severities(&see(779)), [Severity::Info]);
        assert_eq!(severities(&see(800)), [Severity::High]);
    }

    #[test]
    fn a_pool_that_was_given_more_is_told_of_anew() {
        let of = |used: u64, total: u64| {
            let status =
                format!("1 1/1000 {used}/{total} - rw no_discard_passdown queue_if_no_space - 256");
            Pool::read(&status).unwrap()
        };
        let mut watch = Watch::default();
        let mut see = |used, total| {
            let told = watch.see(Duration::from_secs(used), &of(used, total), &ALARM);
            severities(&told)
        };
        assert_eq!(see(1000, 1000), [Severity::Critical]);
        // Not yet well, and it fills up again.
        assert_eq!(see(1000, 1260), []);
        assert_eq!(see(1007, 1260), []);
        assert_eq!(see(1008, 1260), [Severity::High]);
        // More, and over the threshold still.
        assert_eq!(see(1050, 1300), [Severity::High]);
    }

    #[test]
    fn a_burst_foretells_nothing() {
        let mut watch = Watch::default();
        for second in 0..600_u64 {
            // Twenty seconds of it, which would go on for an hour to fill the pool.
            let used = 100 + second.clamp(550, 570) - 550;
            watch.see(Duration::from_secs(second), &pool(used, 10), &ALARM);
            assert_eq!(watch.left(), None, "{second}");
        }
    }

    #[test]
    fn metadata_has_a_threshold_of_its_own() {
        let alarm = PoolAlarm {
            metadata: 500,
            ..ALARM
        };
        let mut watch = Watch::default();
        assert_eq!(watch.see(Duration::ZERO, &pool(700, 499), &alarm), []);
        let told = watch.see(Duration::ZERO, &pool(700, 500), &alarm);
        assert_eq!(severities(&told), [Severity::High]);
        assert!(told[0].what.contains("its metadata"), "{told:?}");
    }

    #[test]
    fn what_fills_steadily_is_told_of_with_the_time_that_is_left() {
        let mut watch = Watch::default();
        // A block in ten seconds: full in 9,000 s and less, which is less than four hours.
        let told: Vec<(u64, Told)> = (0..3600)
            .flat_map(|second| {
                let told = watch.see(
                    Duration::from_secs(second),
                    &pool(100 + second / 10, 10),
                    &ALARM,
                );
                told.into_iter().map(move |told| (second, told))
            })
            .collect();
        let (at, first) = told.first().unwrap();
        let left = first.left.unwrap().as_secs();
        let until = (900 - at / 10) * 10;
        assert!(left.abs_diff(until) < until / 20, "{told:?}");
        assert!(first.what.contains(" 6 of 1000 blocks more"), "{told:?}");
        let now = watch.left().unwrap().as_secs();
        assert!(now.abs_diff(5400) < 300, "{now}");
    }

    #[test]
    fn what_a_pool_says_of_itself_is_told_once_and_again_when_it_is_over() {
        let mut watch = Watch::default();
        let mut see = |seconds, status: &str| {
            let told = watch.see(
                Duration::from_secs(seconds),
                &Pool::read(status).unwrap(),
                &ALARM,
            );
            told.into_iter()
                .map(|told| (told.severity, told.what))
                .collect::<Vec<_>>()
        };
        let (rest, well) = ("no_discard_passdown queue_if_no_space", "1 1/9 1/9 - rw");
        assert_eq!(see(0, &format!("{well} {rest}")), []);
        for (mode, name) in [
            ("out_of_data_space", "out of data space"),
            ("ro", "read-only"),
        ] {
            let bad = format!("1 1/9 1/9 - {mode} {rest}");
            let what = format!("is {name} now");
            assert_eq!(see(1, &bad), [(Severity::Critical, what)]);
            assert_eq!(see(2, &bad), []);
        }
        assert_eq!(
            see(3, "Fail"),
            [(Severity::Critical, "is failed now".to_owned())]
        );
        let back = [(Severity::Info, "is read and write now".to_owned())];
        assert_eq!(see(4, &format!("{well} {rest}")), back);
        let check = format!("{well} {rest} needs_check");
        let needs = [(Severity::High, "says needs_check".to_owned())];
        assert_eq!(see(5, &check), needs);
        assert_eq!(see(6, &check), []);
        assert_eq!(
            severities_of(&see(7, &format!("{well} {rest}"))),
            [Severity::Info]
        );
        // One that reads it and lets go is told of to nobody.
        let held = format!("1 1/9 1/9 5 rw {rest}");
        assert_eq!(see(10, &held), []);
        assert_eq!(see(69, &held), []);
        assert_eq!(severities_of(&see(70, &held)), [Severity::Low]);
        assert_eq!(see(71, &held), []);
        assert_eq!(
            severities_of(&see(72, &format!("{well} {rest}"))),
            [Severity::Info]
        );
        assert_eq!(see(73, &held), []);
    }

    #[test]
    fn a_time_that_is_left_has_a_unit_that_fits() {
        for (seconds, words) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(roughly(seconds), words);
        }
    }

    fn severities_of(told: &[(Severity, String)]) -> Vec<Severity> {
        told.iter().map(|(severity, _)| *severity).collect()
    }
}
