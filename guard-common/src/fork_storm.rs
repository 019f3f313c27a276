//! Fork storm: a container that forks faster than its limit is refused, before it costs the host a pid.

/// Why a fork is refused; the index of its counter.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Faster than the container's rate and burst allow.
    Rate = 0,
    /// The container has as many pids as its cap allows.
    PidsCap = 1,
    /// The host has no pids left but its reserve.
    HostReserve = 2,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Rate, Self::PidsCap, Self::HostReserve];

    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::PidsCap => "pids_cap",
            Self::HostReserve => "host_reserve",
        }
    }
}

/// Not judged at all.
pub const MODE_OFF: u32 = 0;
/// Counted and allowed.
pub const MODE_AUDIT: u32 = 1;
/// Counted and refused with EAGAIN.
pub const MODE_ENFORCE: u32 = 2;

/// How fast forks may come (GCRA). All zero: no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkLimits {
    /// Nanoseconds that one fork uses up: 1e9 / rate.
    pub interval_ns: u64,
    /// Nanoseconds that may be used up ahead of the clock: interval × burst.
    pub burst_ns: u64,
}
const _: () = assert!(size_of::<ForkLimits>() == 16);

impl ForkLimits {
    /// Limits for `rate` forks in every `per_ns` nanoseconds, with `burst` at once; `None` if one of them is zero, if a
    /// fork would use up less than a nanosecond, or if the product overflows.
    #[must_use]
    pub const fn new(rate: u32, per_ns: u64, burst: u32) -> Option<Self> {
        if rate == 0 || burst == 0 || per_ns < rate as u64 {
            return None;
        }
        let interval_ns = per_ns / rate as u64;
        match interval_ns.checked_mul(burst as u64) {
            // A quarter of the clock's range: sums with a time never overflow.
            Some(burst_ns) if burst_ns < u64::MAX / 4 => Some(Self {
                interval_ns,
                burst_ns,
            }),
            _ => None,
        }
    }

    /// Whether a bucket that is used up until `used_until_ns`, this fork included, is over the limit at `now_ns`.
    #[must_use]
    #[inline(always)]
    pub const fn exceeded(&self, used_until_ns: u64, now_ns: u64) -> bool {
        // Signed: a bucket that lags behind the clock is a full one, also across the counters' wrap.
        used_until_ns.wrapping_sub(now_ns) as i64 > self.burst_ns as i64
    }
}

/// A GCRA bucket that many CPUs take from at once, with an add as the only atomic (5.10 has no other).
///
/// It is used up until `start_ns + taken_ns`. Taking a fork only adds to `taken_ns`, so no fork is ever lost; a bucket
/// that lags behind the clock is set to it by a plain store to `start_ns`, which two CPUs may do at once: both store
/// nearly the same, and what either has taken stays counted. The limit is thus never missed by more than the forks that
/// are being judged at that moment, one on each CPU, and that does not add up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Where the count of `taken_ns` starts, in nanoseconds of `CLOCK_MONOTONIC`, modulo 2^64.
    pub start_ns: u64,
    /// Nanoseconds taken by all forks that were allowed, modulo 2^64.
    pub taken_ns: u64,
}
const _: () = assert!(size_of::<Bucket>() == 16);

impl Bucket {
    /// `start_ns` of a bucket that lags behind the clock; `None`: it does not.
    #[must_use]
    #[inline(always)]
    pub const fn refilled(start_ns: u64, taken_ns: u64, now_ns: u64) -> Option<u64> {
        if (start_ns.wrapping_add(taken_ns).wrapping_sub(now_ns) as i64) < 0 {
            return Some(now_ns.wrapping_sub(taken_ns));
        }
        None
    }
}

/// The limits of containers that the policy treats alike: a value of the kernel table `PROFILES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The fork rate that is enforced.
    pub enforced: ForkLimits,
    /// The fork rate that is audited.
    pub audited: ForkLimits,
    /// What becomes of actions.
    pub fates: crate::action::Fates,
    /// The pids cap that is enforced; 0: none.
    pub pids_enforced: u32,
    /// The pids cap that is audited; 0: none.
    pub pids_audited: u32,
    /// What the host's reserve does to these containers: one of [`MODE_OFF`], [`MODE_AUDIT`], [`MODE_ENFORCE`].
    pub reserve: u32,
    /// 1: every fork is refused, and what `fates` says, whoever is setting up and whatever is off; else 0. Only the daemon's own
    /// self-test has such a profile.
    pub self_test: u32,
}
const _: () = assert!(size_of::<Profile>() == 80);

/// Index in `PROFILES` of the profile that the daemon's self-test runs under.
pub const PROFILE_SELF_TEST: u32 = 0;
/// Entries of the kernel table `PROFILES`: two banks, one of which is in force while the other is filled.
pub const PROFILES: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// One fork, as the kernel side judges it: refill, add, judge, give back what is refused.
    fn take(bucket: &mut Bucket, limits: ForkLimits, now: u64) -> bool {
        if let Some(start) = Bucket::refilled(bucket.start_ns, bucket.taken_ns, now) {
            bucket.start_ns = start;
        }
        bucket.taken_ns = bucket.taken_ns.wrapping_add(limits.interval_ns);
        let used = bucket.start_ns.wrapping_add(bucket.taken_ns);
        let over = limits.exceeded(used, now);
        if over {
            bucket.taken_ns = bucket.taken_ns.wrapping_sub(limits.interval_ns);
        }
        !over
    }

    fn forks_allowed(limits: ForkLimits, attempts: u64, every_ns: u64) -> u64 {
        let mut bucket = Bucket::default();
        (0..attempts)
            .filter(|attempt| take(&mut bucket, limits, SECOND + attempt * every_ns))
            .count() as u64
    }

    #[test]
    fn a_stale_refill_of_another_cpu_gives_back_no_fork_that_was_taken() {
        let limits = ForkLimits::new(1, SECOND, 4).unwrap();
        let mut bucket = Bucket::default();
        let now = 10 * SECOND;
        let stale = Bucket::refilled(bucket.start_ns, bucket.taken_ns, now).unwrap();
        assert!((0..4).all(|_| take(&mut bucket, limits, now)));
        bucket.start_ns = stale;
        assert!(!take(&mut bucket, limits, now));
    }

    #[test]
    fn a_changed_rate_keeps_what_was_taken() {
        let mut bucket = Bucket::default();
        let slow = ForkLimits::new(1, SECOND, 10).unwrap();
        let fast = ForkLimits::new(10, SECOND, 100).unwrap();
        assert!((0..10).all(|_| take(&mut bucket, slow, SECOND)));
        assert!(!take(&mut bucket, fast, SECOND));
        assert!(take(&mut bucket, fast, SECOND + fast.interval_ns));
    }

    #[test]
    fn a_burst_is_allowed_to_the_last_fork_and_not_one_more() {
        let limits = ForkLimits::new(200, SECOND, 400).unwrap();
        assert_eq!(forks_allowed(limits, 400, 0), 400);
        assert_eq!(forks_allowed(limits, 401, 0), 400);
    }

    #[test]
    fn a_bomb_of_ten_seconds_gets_burst_and_rate_and_no_more() {
        let limits = ForkLimits::new(200, SECOND, 400).unwrap();
        let allowed = forks_allowed(limits, 100_000, 100_000);
        assert!((2_395..=2_400).contains(&allowed), "{allowed} forks");
    }

    #[test]
    fn a_steady_rate_below_the_limit_is_never_refused() {
        let limits = ForkLimits::new(200, SECOND, 1).unwrap();
        assert_eq!(forks_allowed(limits, 10_000, SECOND / 190), 10_000);
    }

    #[test]
    fn a_limit_of_nothing_is_not_a_limit() {
        assert_eq!(ForkLimits::new(0, SECOND, 1), None);
        assert_eq!(ForkLimits::new(1, SECOND, 0), None);
        assert_eq!(ForkLimits::new(u32::MAX, SECOND, 1), None);
        assert_eq!(ForkLimits::new(1, u64::MAX / 8, 3), None);
    }
}
