//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

/// A container's forks are not limited by rate.
pub const MODE_OFF: u32 = 0;
/// A fork over the limit is counted and allowed.
pub const MODE_AUDIT: u32 = 1;
/// A fork over the limit is counted and refused with EAGAIN.
pub const MODE_ENFORCE: u32 = 2;

/// The fork limits of one profile: a value of the kernel table `PROFILES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkLimits {
    /// Nanoseconds that one fork uses up: 1e9 / rate.
    pub interval_ns: u64,
    /// Nanoseconds that may be used up ahead of the clock: interval × burst.
    pub burst_ns: u64,
    /// One of [`MODE_OFF`], [`MODE_AUDIT`], [`MODE_ENFORCE`]; any other value means off.
    pub mode: u32,
    /// Reserved, zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<ForkLimits>() == 24);

impl ForkLimits {
    /// Limits for `rate` forks a second with `burst` at once; `None` if either is zero or the product overflows.
    #[must_use]
    pub const fn new(rate: u32, burst: u32, mode: u32) -> Option<Self> {
        if rate == 0 || burst == 0 {
            return None;
        }
        let interval_ns = 1_000_000_000 / rate as u64;
        match interval_ns.checked_mul(burst as u64) {
            Some(burst_ns) => Some(Self {
                interval_ns,
                burst_ns,
                mode,
                reserved: 0,
            }),
            None => None,
        }
    }

    /// Whether a bucket that stands at `used_until_ns`, this fork included, is over the limit at `now_ns`.
    #[must_use]
    pub const fn exceeded(&self, used_until_ns: u64, now_ns: u64) -> bool {
        used_until_ns > now_ns.saturating_add(self.burst_ns)
    }
}

/// What a container has used up, and what became of its forks: a value of the kernel table `FORK_BUCKETS`.
///
/// Only the kernel side writes an existing entry, with `XADD`: 5.10 has no atomic that returns a value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkBucket {
    /// Theoretical arrival time of the next fork, in nanoseconds of `CLOCK_MONOTONIC` (GCRA).
    pub used_until_ns: u64,
    /// Forks allowed.
    pub allowed: u64,
    /// Forks refused.
    pub denied: u64,
    /// Forks allowed that enforcing would have refused.
    pub audited: u64,
}
const _: () = assert!(size_of::<ForkBucket>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel side's arithmetic, one fork at a time: add, judge, give back what was refused.
    fn forks_allowed(limits: ForkLimits, attempts: u64, every_ns: u64) -> u64 {
        let (mut used, mut allowed) = (0_u64, 0);
        for attempt in 0..attempts {
            let now = 1_000_000_000 + attempt * every_ns;
            used = used.max(now) + limits.interval_ns;
            if limits.exceeded(used, now) {
                used -= limits.interval_ns;
            } else {
                allowed += 1;
            }
        }
        allowed
    }

    #[test]
    fn a_burst_is_allowed_to_the_last_fork_and_not_one_more() {
        let limits = ForkLimits::new(200, 400, MODE_ENFORCE).unwrap();
        assert_eq!(forks_allowed(limits, 400, 0), 400);
        assert_eq!(forks_allowed(limits, 401, 0), 400);
    }

    #[test]
    fn a_bomb_of_ten_seconds_gets_burst_and_rate_and_no_more() {
        let limits = ForkLimits::new(200, 400, MODE_ENFORCE).unwrap();
        let allowed = forks_allowed(limits, 100_000, 100_000);
        assert!((2_395..=2_400).contains(&allowed), "{allowed} forks");
    }

    #[test]
    fn a_steady_rate_below_the_limit_is_never_refused() {
        let limits = ForkLimits::new(200, 1, MODE_ENFORCE).unwrap();
        assert_eq!(forks_allowed(limits, 10_000, 1_000_000_000 / 190), 10_000);
    }

    #[test]
    fn a_limit_of_nothing_is_not_a_limit() {
        assert_eq!(ForkLimits::new(0, 1, MODE_ENFORCE), None);
        assert_eq!(ForkLimits::new(1, 0, MODE_ENFORCE), None);
    }
}
