//! One fault that the kernel tells of a thousand times is one alarm and a count, and hides no other.

use std::{collections::HashMap, time::Duration};

use super::{About, Alarm};
use crate::record::Text;

/// The same thing is told once in this time.
pub const QUIET: Duration = Duration::from_secs(60);
/// Things of one pattern that are told apart at a time: a program that dies again and again has a new pid each time.
pub const APART: usize = 10;

/// What is to be told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The pattern's name.
    pub pattern: String,
    /// What it is about; empty where it stands for several things that are not told apart.
    pub about: About,
    /// A program wrote these lines, or may have: see [`Alarm::injected`].
    pub injected: bool,
    /// Lines that it stands for, this one and those since it was last told, at least 1.
    pub lines: u64,
}

/// What makes two alarms of a pattern the same: pid and device, not the name that a process gives itself.
type Thing = (Option<u32>, Option<Text>);

#[derive(Debug)]
struct Heard {
    /// `None`: all that found no room of its own.
    thing: Option<Thing>,
    about: About,
    /// When it was last told.
    told: Duration,
    /// Lines since.
    lines: u64,
}

/// What was told, and what was counted since. At most [`APART`] and one more entries a pattern; as many again for what programs wrote,
/// who take no room of the kernel's and whose lines hide none of its.
#[derive(Debug, Default)]
pub struct Pacing {
    heard: [HashMap<String, Vec<Heard>>; 2],
}

impl Pacing {
    /// Takes in an alarm at `now`, a time that never goes back. `None`: it was told within [`QUIET`], and is counted.
    pub fn hear(&mut self, alarm: &Alarm<'_>, now: Duration) -> Option<Told> {
        let name = &alarm.pattern.name;
        let thing = (alarm.about.pid, alarm.about.device.clone());
        let injected = alarm.injected;
        let all = &mut self.heard[usize::from(injected)];
        if !all.contains_key(name) {
            all.insert(name.clone(), Vec::new());
        }
        let heard = all.get_mut(name)?;
        heard.retain(|one| one.lines > 0 || now < one.told + QUIET);
        let apart = heard.iter().filter(|one| one.thing.is_some()).count();
        let place = (heard.iter())
            .position(|one| one.thing.as_ref() == Some(&thing))
            .or_else(|| {
                let all = heard.iter().position(|one| one.thing.is_none());
                all.filter(|_| apart >= APART)
            });
        let Some(one) = place.and_then(|place| heard.get_mut(place)) else {
            let room = apart < APART;
            let about = if room {
                alarm.about.clone()
            } else {
                About::default()
            };
            heard.push(Heard {
                thing: room.then_some(thing),
                about: about.clone(),
                told: now,
                lines: 0,
            });
            return Some(Told {
                pattern: name.clone(),
                about,
                injected,
                lines: 1,
            });
        };
        one.lines += 1;
        one.due(now).then(|| one.tell(name, injected, now))
    }

    /// What was only counted and whose time is over, at `now`: to be asked once in a while, so that the end of a fault
    /// is told as well. Forgets what has been quiet.
    pub fn due(&mut self, now: Duration) -> Vec<Told> {
        let mut told = Vec::new();
        for (injected, all) in [false, true].into_iter().zip(&mut self.heard) {
            for (name, heard) in &mut *all {
                heard.retain(|one| one.lines > 0 || now < one.told + QUIET);
                let due = heard.iter_mut().filter(|one| one.lines > 0 && one.due(now));
                told.extend(due.map(|one| one.tell(name, injected, now)));
            }
            all.retain(|_, heard| !heard.is_empty());
        }
        told.sort_by(|one, other| one.pattern.cmp(&other.pattern));
        told
    }
}

impl Heard {
    fn due(&self, now: Duration) -> bool {
        now >= self.told + QUIET
    }

    fn tell(&mut self, pattern: &str, injected: bool, now: Duration) -> Told {
        self.told = now;
        Told {
            pattern: pattern.to_owned(),
            about: self.about.clone(),
            injected,
            lines: std::mem::take(&mut self.lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        klog::watch::{Watch, tests::pattern},
        policy::model::Pattern,
    };

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn disks() -> [Pattern; 2] {
        [
            pattern("disk", r"^disk (?P<device>\w+)", true),
            pattern("task", r"^task (?P<comm>\w+):(?P<pid>\d+)", true),
        ]
    }

    /// Hears a line; how many lines what it tells stands for.
    fn hear(pacing: &mut Pacing, line: &str, now: Duration) -> Option<u64> {
        let watch = Watch::new(&disks()).unwrap();
        let alarm = watch.look(line, true).next().unwrap();
        pacing.hear(&alarm, now).map(|told| told.lines)
    }

    #[test]
    fn the_same_thing_is_told_once_a_minute_and_counted_between() {
        let mut pacing = Pacing::default();
        assert_eq!(hear(&mut pacing, "disk sda", at(0)), Some(1));
        assert_eq!(hear(&mut pacing, "disk sda", at(0)), None);
        assert_eq!(hear(&mut pacing, "disk sda", at(59)), None);
        assert_eq!(hear(&mut pacing, "disk sda", at(60)), Some(3));
        assert_eq!(hear(&mut pacing, "disk sda", at(119)), None);
        assert_eq!(hear(&mut pacing, "disk sda", at(120)), Some(2));
    }

    #[test]
    fn other_devices_and_pids_are_told_by_themselves_another_name_of_a_process_is_not() {
        let mut pacing = Pacing::default();
        assert_eq!(hear(&mut pacing, "disk sda", at(0)), Some(1));
        assert_eq!(hear(&mut pacing, "disk sdb", at(0)), Some(1));
        assert_eq!(hear(&mut pacing, "task a:1", at(0)), Some(1));
        assert_eq!(hear(&mut pacing, "task a:2", at(0)), Some(1));
        assert_eq!(hear(&mut pacing, "task b:1", at(1)), None);
    }

    #[test]
    fn what_programs_write_hides_no_line_of_the_kernels() {
        let mut pacing = Pacing::default();
        let watch = Watch::new(&[pattern("disk", r"^disk (?P<device>\w+)", false)]).unwrap();
        let mut hear = |kernel: bool, now| {
            let alarm = watch.look("disk sda", kernel).next().unwrap();
            let told = pacing.hear(&alarm, now);
            told.map(|told| (told.injected, told.lines))
        };
        assert_eq!(hear(false, at(0)), Some((true, 1)));
        assert_eq!(hear(false, at(1)), None);
        assert_eq!(hear(true, at(1)), Some((false, 1)));
        let injected: Vec<_> = pacing
            .due(at(60))
            .iter()
            .map(|told| told.injected)
            .collect();
        assert_eq!(injected, [true]);
    }

    #[test]
    fn what_was_counted_is_told_when_the_fault_is_over_and_then_forgotten() {
        let mut pacing = Pacing::default();
        hear(&mut pacing, "task a:7", at(0));
        hear(&mut pacing, "task a:7", at(1));
        hear(&mut pacing, "task a:7", at(2));
        assert_eq!(pacing.due(at(59)), []);
        let told = pacing.due(at(60));
        assert_eq!(
            (told.len(), told[0].lines, told[0].about.pid),
            (1, 2, Some(7))
        );
        assert_eq!(told[0].pattern, "task");
        assert_eq!(pacing.due(at(61)), []);
        assert_eq!(pacing.heard[0].len(), 1);
        assert_eq!(pacing.due(at(120)), []);
        assert!(pacing.heard[0].is_empty());
        // It is news again.
        assert_eq!(hear(&mut pacing, "task a:7", at(121)), Some(1));
    }

    #[test]
    fn ten_things_are_told_apart_and_the_rest_together_so_that_nobody_fills_the_memory() {
        let mut pacing = Pacing::default();
        let mut told = 0;
        for pid in 0..1000 {
            told += usize::from(hear(&mut pacing, &format!("task a:{pid}"), at(0)).is_some());
        }
        // Ten, and one for all the others.
        assert_eq!(told, APART + 1);
        assert_eq!(pacing.heard[0]["task"].len(), APART + 1);
        // Another pattern has room of its own.
        assert_eq!(hear(&mut pacing, "disk sda", at(0)), Some(1));
        let rest = pacing.due(at(60));
        assert_eq!(rest.len(), 1);
        // All thousand lines are told: ten and one by themselves, and these.
        assert_eq!(
            (rest[0].lines, &rest[0].about),
            (1000 - 11, &About::default())
        );
        // A minute later there is room again.
        assert_eq!(hear(&mut pacing, "task a:5000", at(60)), Some(1));
        assert_eq!(
            pacing.heard[0]["task"].last().unwrap().about.pid,
            Some(5000)
        );
    }
}
