//! A user who makes containers at will must not turn the audit log over with them: so many records in any span of time
//! about all that users could have made, and the rest counted.

use std::time::Duration;

use super::budget::Budget;

/// Records about containers that users could have made…
pub const RECORDS: usize = 30;
/// …in any span of this length.
pub const PER: Duration = Duration::from_secs(60);

/// Which records about containers are written.
#[derive(Debug)]
pub struct Telling {
    budget: Budget,
    untold: u64,
    /// When `untold` was last asked for, and there were some.
    said: Option<Duration>,
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            budget: Budget::new(RECORDS, PER),
            untold: 0,
            said: None,
        }
    }
}

impl Telling {
    /// Whether a record about a container is to be written now. If no user could have made the container, it always is.
    pub fn tells(&mut self, user_made: bool, now: Duration) -> bool {
        let tells = !user_made || self.budget.spend(now);
        self.untold += u64::from(!tells);
        tells
    }

    /// How many were not written since this last said so, if there were any: said at once, and then once in each span.
    pub fn untold(&mut self, now: Duration) -> Option<u64> {
        let due = self.said.is_none_or(|said| now.saturating_sub(said) >= PER);
        if self.untold == 0 || !due {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn five_hundred_containers_of_a_user_write_no_more_than_the_budget_and_each_record_is_accounted_for()
     {
        let mut telling = Telling::default();
        let (mut written, mut untold, mut said) = (0, 0, 0);
        for second in 0..HOUR {
            let now = Duration::from_secs(second);
            written += (0..500).filter(|_| telling.tells(true, now)).count() as u64;
            if let Some(count) = telling.untold(now) {
                untold += count;
                said += 1;
            }
        }
        assert_eq!(written, HOUR / 60 * RECORDS as u64);
        assert_eq!(said, HOUR / 60);
        // At a stop, whatever the time.
        untold += telling.untold(Duration::MAX).unwrap();
        assert_eq!(written + untold, HOUR * 500);
        assert_eq!(telling.untold(Duration::MAX), None);
    }

    #[test]
    fn the_last_record_of_the_budget_is_written_and_the_next_is_not() {
        let mut telling = Telling::default();
        let now = Duration::from_secs(1);
        assert!((0..RECORDS).all(|_| telling.tells(true, now)));
        assert_eq!(telling.untold(now), None);
        assert!(!telling.tells(true, now));
        assert_eq!(telling.untold(now), Some(1));
    }

    #[test]
    fn what_no_user_could_have_made_is_always_told_and_takes_nothing_from_the_budget() {
        let mut telling = Telling::default();
        let now = Duration::from_secs(1);
        assert!((0..10 * RECORDS).all(|_| telling.tells(false, now)));
        assert!((0..RECORDS).all(|_| telling.tells(true, now)));
        assert!(!telling.tells(true, now) && telling.tells(false, now));
        assert_eq!(telling.untold(now), Some(1));
    }
}
