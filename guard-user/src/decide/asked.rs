//! Refused actions, told in few records that together account for all of them.

use std::{collections::BTreeMap, time::Duration};

use guard_common::action::{ACTIONS, Action};
use serde::{Deserialize, Serialize};

/// One that goes on and on is told again after so long.
const AGAIN: Duration = Duration::from_secs(60);

/// How often each action was refused and audited, as the kernel side counts: by [`Action`], refused first.
pub type Counts = [[u64; 2]; ACTIONS];

/// What was told of one container's actions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asked(BTreeMap<u32, [Line; 2]>);

/// One action, refused or audited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    counted: u64,
    untold: u64,
    told: Option<Duration>,
}

/// What is to be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New {
    /// Which action.
    pub action: Action,
    /// Allowed; enforcing would have refused it.
    pub audited: bool,
    /// How often, since it was last told.
    pub count: u64,
}

impl Asked {
    /// Takes counters in; the first refusal is told at once, those that follow in one record a minute.
    pub fn see(&mut self, now: Duration, counts: &Counts) -> Vec<New> {
        self.take(Some(now), counts)
    }

    /// The container is gone: all that is left is told.
    pub fn last(&mut self, counts: &Counts) -> Vec<New> {
        self.take(None, counts)
    }

    fn take(&mut self, now: Option<Duration>, counts: &Counts) -> Vec<New> {
        let mut new = Vec::new();
        for action in Action::ALL {
            let seen = counts[action as usize];
            if seen == [0; 2] && !self.0.contains_key(&(action as u32)) {
                continue;
            }
            let lines = self.0.entry(action as u32).or_default();
            for (audited, (line, count)) in
                [false, true].into_iter().zip(lines.iter_mut().zip(seen))
            {
                line.untold += count.saturating_sub(line.counted);
                line.counted = count;
                let due = match (now, line.told) {
                    (Some(now), Some(told)) => now.saturating_sub(told) >= AGAIN,
                    (Some(_) | None, _) => true,
                };
                if line.untold > 0 && due {
                    new.push(New {
                        action,
                        audited,
                        count: std::mem::take(&mut line.untold),
                    });
                    line.told = now;
                }
            }
        }
        new
    }

    /// Whether something waits to be told.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.0.values().flatten().any(|line| line.untold > 0)
    }

    /// Whether nothing was ever refused or audited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(refused: u64, audited: u64) -> Counts {
        let mut counts = Counts::default();
        counts[Action::KernelLogRead as usize] = [refused, audited];
        counts
    }

    fn told(new: &[New]) -> Vec<(bool, u64)> {
        new.iter().map(|new| (new.audited, new.count)).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_once_a_minute_and_none_is_missed() {
        let mut asked = Asked::default();
        let at = Duration::from_secs;
        assert_eq!(told(&asked.see(at(1), &counts(0, 0))), []);
        assert!(asked.is_empty());
        assert_eq!(told(&asked.see(at(2), &counts(1, 0))), [(false, 1)]);
        assert_eq!(told(&asked.see(at(3), &counts(900, 2))), [(true, 2)]);
        assert!(asked.waits());
        assert_eq!(told(&asked.see(at(61), &counts(950, 2))), []);
        assert_eq!(told(&asked.see(at(62), &counts(1000, 2))), [(false, 999)]);
        assert!(!asked.waits());
        assert_eq!(told(&asked.see(at(200), &counts(1000, 2))), []);
        assert_eq!(told(&asked.see(at(201), &counts(1001, 2))), [(false, 1)]);
        assert_eq!(told(&asked.see(at(202), &counts(1002, 2))), []);
        assert_eq!(told(&asked.last(&counts(1003, 3))), [(false, 2), (true, 1)]);
    }

    #[test]
    fn it_survives_a_restart() {
        let mut asked = Asked::default();
        asked.see(Duration::from_secs(1), &counts(5, 0));
        let text = serde_json::to_string(&asked).unwrap();
        let mut again: Asked = serde_json::from_str(&text).unwrap();
        assert_eq!(again.see(Duration::from_secs(90), &counts(5, 0)), []);
        assert_eq!(
            told(&again.see(Duration::from_secs(91), &counts(7, 0))),
            [(false, 2)]
        );
    }
}
