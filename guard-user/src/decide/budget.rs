//! One mistake in a policy must not freeze a whole host, nor one user fill its log: so much in any span of time, and no more.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// At most `most` actions in any span of `per`; by default none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    most: usize,
    per: Duration,
    spent: VecDeque<Duration>,
}

impl Budget {
    /// A full budget.
    #[must_use]
    pub const fn new(most: usize, per: Duration) -> Self {
        Self {
            most,
            per,
            spent: VecDeque::new(),
        }
    }

    /// The same spending under other limits.
    #[must_use]
    pub fn with_limits(mut self, most: usize, per: Duration) -> Self {
        self.most = most;
        self.per = per;
        while self.spent.len() > most {
            self.spent.pop_front();
        }
        self
    }

    /// Spends one action; false: there is none left.
    pub fn spend(&mut self, now: Duration) -> bool {
        while let Some(first) = self.spent.front() {
            // A time to come stems from another boot.
            if now.saturating_sub(*first) < self.per && *first <= now {
                break;
            }
            self.spent.pop_front();
        }
        if self.spent.len() >= self.most {
            return false;
        }
        self.spent.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_action_of_a_budget_is_given_and_the_next_only_when_the_first_is_over() {
        let mut budget = Budget::new(3, MINUTE);
        let at = Duration::from_secs;
        assert!(budget.spend(at(0)) && budget.spend(at(10)) && budget.spend(at(10)));
        assert!(!budget.spend(Duration::from_millis(59_999)));
        assert!(budget.spend(at(60)));
        assert!(!budget.spend(at(69)));
        assert!(budget.spend(at(70)));
    }

    #[test]
    fn a_budget_of_nothing_gives_nothing() {
        assert!(!Budget::new(0, MINUTE).spend(Duration::ZERO));
    }
}
