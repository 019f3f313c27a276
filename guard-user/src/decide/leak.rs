//! Leak: pids that rise steadily are told of while there is still time, before they reach the cap or the host's reserve.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// Samples in each of the two windows.
const SAMPLES: usize = 32;
/// A window says nothing with fewer.
const ENOUGH: usize = 16;
/// A rise that was watched for so long says something about this many times as long.
const FORESIGHT: u32 = 8;
/// A rise of fewer pids over a window is none.
const LEAST_RISE: f64 = 8.0;
/// Less time than this is not halved any further.
const LEAST_TIME: Duration = Duration::from_secs(5);
/// Spacing of the short window.
const SHORT: Duration = Duration::from_secs(1);

/// A leak, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Pids of the container.
    pub pids: u64,
    /// Pids that it gains in a minute.
    pub per_minute: u64,
    /// Time left until its cap; `None`: it has none.
    pub time_to_cap: Option<Duration>,
    /// Time left until nothing but the host's reserve is left; `None`: not known. Only this container's rise counts.
    pub time_to_reserve: Option<Duration>,
    /// Not the first alarm: the time left has halved.
    pub again: bool,
}

impl Leak {
    /// The smaller time left.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        match (self.time_to_cap, self.time_to_reserve) {
            (Some(cap), Some(reserve)) => Some(cap.min(reserve)),
            (one, other) => one.or(other),
        }
    }
}

/// A leak that was told of has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeakOver {
    /// Pids of the container.
    pub pids: u64,
    /// How long ago the first alarm was.
    pub lasted: Duration,
}

/// What there is room for, in pids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Until the container's cap.
    pub cap: Option<u64>,
    /// Until the host's reserve.
    pub reserve: Option<u64>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// An alarm.
    Leak(Leak),
    /// The all-clear.
    Over(LeakOver),
}

/// Samples at least `spacing` apart, each the least that was seen in its span: a burst leaves no trace in them. The last
/// span is not finished yet.
#[derive(Clone, Debug, Default)]
struct Window {
    /// Milliseconds/100 since boot, and pids.
    samples: VecDeque<(u32, u32)>,
}

fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX)
}

impl Window {
    /// Whether a span was finished.
    fn push(&mut self, now: Duration, pids: u64, spacing: Duration) -> bool {
        let (now, spacing) = (tenths(now), tenths(spacing));
        let pids = u32::try_from(pids).unwrap_or(u32::MAX);
        if let Some((began, least)) = self.samples.back_mut()
            && now.saturating_sub(*began) < spacing
        {
            *least = (*least).min(pids);
            return false;
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, pids));
        true
    }

    /// Seconds and pids of the spans that are finished.
    fn finished(&self) -> impl Iterator<Item = (f64, f64)> {
        let count = self.samples.len().saturating_sub(1);
        self.samples
            .iter()
            .take(count)
            .map(|(at, pids)| (f64::from(*at) / 10.0, f64::from(*pids)))
    }

    /// Pids per second, if they rise steadily: as a median over all pairs (Theil–Sen), about as much in each quarter, and
    /// with no fall worth speaking of.
    fn rise(&self) -> Option<f64> {
        let (mut top, mut fall) = (0.0_f64, 0.0_f64);
        for (_, pids) in self.finished() {
            top = top.max(pids);
            fall = fall.max(top - pids);
        }
        let samples: Vec<(f64, f64)> = self.finished().collect();
        let ((_, first), (_, last)) = (samples.first()?, samples.last()?);
        let rise = last - first;
        if samples.len() < ENOUGH || rise < LEAST_RISE || fall * 4.0 > rise {
            return None;
        }
        let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
        for (index, (from, low)) in samples.iter().enumerate() {
            for (to, high) in &samples[index + 1..] {
                slopes.push((high - low) / (to - from));
            }
        }
        let middle = slopes.len() / 2;
        let slope = *slopes.select_nth_unstable_by(middle, f64::total_cmp).1;
        // A burst rises in one quarter only.
        let steady = (0..4).all(|quarter| {
            let end = samples.len() - 1;
            let (from, low) = samples[quarter * end / 4];
            let (to, high) = samples[(quarter + 1) * end / 4];
            high - low >= slope * (to - from) / 4.0
        });
        (slope > 0.0 && steady).then_some(slope)
    }

    /// How long it has been watched.
    fn span(&self) -> Duration {
        let mut samples = self.finished();
        match (samples.next(), samples.last()) {
            (Some((first, _)), Some((last, _))) => Duration::from_secs_f64((last - first).max(0.0)),
            _ => Duration::ZERO,
        }
    }

    /// Whether there was no rise in its newer half; `None`: it is too young to tell.
    fn is_level(&self) -> Option<bool> {
        let count = self.samples.len();
        if count < ENOUGH {
            return None;
        }
        let (_, before) = self.samples[count / 2 - 1];
        let (_, now) = self.samples[count - 2];
        Some(now <= before)
    }
}

/// An alarm that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Alarm {
    first: Duration,
    left: Duration,
}

/// The watch over one container's pids, or the blocks of a thin pool: at most 64 samples, whatever it does.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    short: Window,
    long: Window,
    alarm: Option<Alarm>,
}

impl Watch {
    /// Takes in a count. `threshold`: an alarm is due when less time than this is left.
    pub fn see(
        &mut self,
        now: Duration,
        pids: u64,
        room: Room,
        threshold: Duration,
    ) -> Option<Told> {
        // The long window foresees just the threshold when it is full.
        let spacing = threshold / ((SAMPLES as u32 - 2) * FORESIGHT);
        let short = self.short.push(now, pids, SHORT);
        let long = spacing > SHORT && self.long.push(now, pids, spacing);
        if !short && !long {
            return None;
        }
        let leak = [&self.short, &self.long]
            .into_iter()
            .filter_map(|window| {
                let per_second = window.rise()?;
                let until = |room: Option<u64>| {
                    let seconds = room? as f64 / per_second;
                    Duration::try_from_secs_f64(seconds).ok()
                };
                let leak = Leak {
                    pids,
                    per_minute: (per_second * 60.0).round() as u64,
                    time_to_cap: until(room.cap),
                    time_to_reserve: until(room.reserve),
                    again: self.alarm.is_some(),
                };
                let left = leak.time_left()?;
                (left < threshold && left <= window.span() * FORESIGHT).then_some((left, leak))
            })
            .min_by_key(|(left, _)| *left);
        match (leak, self.alarm) {
            (Some((left, leak)), None) => {
                self.alarm = Some(Alarm { first: now, left });
                Some(Told::Leak(leak))
            }
            (Some((left, leak)), Some(alarm)) if left <= alarm.left / 2 && left >= LEAST_TIME => {
                self.alarm = Some(Alarm { left, ..alarm });
                Some(Told::Leak(leak))
            }
            (None, Some(alarm)) if self.is_level() && !room.is_used_up(pids) => {
                self.alarm = None;
                Some(Told::Over(LeakOver {
                    pids,
                    lasted: now.saturating_sub(alarm.first),
                }))
            }
            _ => None,
        }
    }

    /// How long until a room is used up, if it rises steadily and was watched for long enough to tell.
    #[must_use]
    pub fn foresees(&self, room: u64) -> Option<Duration> {
        [&self.long, &self.short].into_iter().find_map(|window| {
            let left = Duration::try_from_secs_f64(room as f64 / window.rise()?).ok()?;
            (left <= window.span() * FORESIGHT).then_some(left)
        })
    }

    /// A slow leak looks level in the short window: the long one has its say as soon as it can.
    fn is_level(&self) -> bool {
        self.short.is_level() == Some(true) && self.long.is_level() != Some(false)
    }
}

impl Room {
    /// Level because there is nothing left to rise into: a leak that has arrived is not over.
    fn is_used_up(self, pids: u64) -> bool {
        [self.cap, self.reserve]
            .into_iter()
            .flatten()
            .any(|room| room <= pids / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Watches pids once a second under a cap of 4096; gives what was told, by second.
    fn watch(seconds: u64, threshold: Duration, pids: impl Fn(u64) -> u64) -> Vec<(u64, Told)> {
        let mut watch = Watch::default();
        (0..seconds)
            .filter_map(|second| {
                let pids = pids(second).min(4096);
                let room = Room {
                    cap: Some(4096 - pids),
                    reserve: None,
                };
                let told = watch.see(Duration::from_secs(1000 + second), pids, room, threshold)?;
                Some((second, told))
            })
            .collect()
    }

    fn left(told: &Told) -> u64 {
        match told {
            Told::Leak(leak) => leak.time_left().unwrap().as_secs(),
            Told::Over(_) => panic!("{told:?}"),
        }
    }

    #[test]
    fn a_fast_leak_is_told_of_before_the_cap_and_at_each_half_of_the_time_left() {
        let told = watch(60, HOUR, |second| 96 + 80 * second);
        assert!(told[0].0 < 20 && told.len() >= 3, "{told:?}");
        assert!(told.len() <= 5, "{told:?}");
        let times: Vec<u64> = told.iter().map(|(_, told)| left(told)).collect();
        assert!(
            times.windows(2).all(|pair| pair[1] <= pair[0] / 2 + 1),
            "{times:?}"
        );
        let Told::Leak(first) = told[0].1 else {
            panic!()
        };
        assert_eq!((first.per_minute, first.again), (4800, false));
        // What has arrived at the cap is not over.
        assert!(told.iter().all(|(_, told)| matches!(told, Told::Leak(_))));
    }

    #[test]
    fn a_slow_leak_is_told_of_once_less_than_the_threshold_is_left_and_not_before() {
        // One in two seconds: the cap is reached at 8192 s, an hour before at 4592 s.
        let told = watch(8192, HOUR, |second| second / 2);
        let (at, first) = told[0];
        assert!((4560..4640).contains(&at), "{told:?}");
        assert!((3500..3600).contains(&left(&first)), "{told:?}");
        assert!(told.len() <= 11, "{told:?}");
    }

    #[test]
    fn a_leak_that_leaves_more_time_than_the_threshold_is_silent() {
        assert_eq!(watch(3000, HOUR, |second| second / 4), []);
    }

    #[test]
    fn a_burst_and_a_step_are_no_leak() {
        let burst = |second| {
            if (100..130).contains(&second) {
                3000
            } else {
                20
            }
        };
        assert_eq!(watch(600, HOUR, burst), []);
        assert_eq!(
            watch(600, HOUR, |second| 20 + 3000 * u64::from(second > 99)),
            []
        );
        let ramp = |second: u64| 20 + 300 * second.saturating_sub(100).min(10);
        assert_eq!(watch(600, HOUR, ramp), []);
    }

    #[test]
    fn a_sawtooth_is_no_leak() {
        for period in [2, 5, 10, 12, 60, 300] {
            let told = watch(4000, HOUR, |second| {
                20 + second % period * 3000 / period / 8
            });
            assert_eq!(told, [], "period {period}");
        }
    }

    #[test]
    fn a_leak_under_a_sawtooth_is_told_of() {
        let told = watch(4000, HOUR, |second| second + second % 5 * 40);
        assert!(matches!(told[0].1, Told::Leak(_)), "{told:?}");
    }

    #[test]
    fn a_leak_that_stops_is_cleared_once_and_one_that_falls_at_once() {
        let told = watch(1200, HOUR, |second| 100 + 20 * second.min(60));
        let over = told
            .iter()
            .filter(|(_, told)| matches!(told, Told::Over(_)));
        assert_eq!(over.count(), 1, "{told:?}");
        assert!(matches!(told.last(), Some((_, Told::Over(_)))), "{told:?}");
        let told = watch(
            1200,
            HOUR,
            |second| if second < 60 { 20 * second } else { 5 },
        );
        assert!(
            matches!(told.last(), Some((60..80, Told::Over(_)))),
            "{told:?}"
        );
    }

    #[test]
    fn counts_that_are_read_every_ten_seconds_are_enough() {
        let mut watch = Watch::default();
        let told = (0..60_u64).find_map(|count| {
            let room = Room {
                cap: None,
                reserve: Some(3000 - 20 * count),
            };
            let now = Duration::from_secs(10 * count);
            watch.see(now, 100 + 20 * count, room, HOUR)
        });
        let Some(Told::Leak(leak)) = told else {
            panic!("{told:?}")
        };
        assert_eq!((leak.per_minute, leak.time_to_cap), (120, None));
        assert!(leak.time_to_reserve.is_some());
    }
}
