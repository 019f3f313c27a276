//! Every kernel table, in one place.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use guard_common::{
    Subject,
    fork_storm::{ForkBucket, ForkLimits},
};

/// cgroup id → whose it is.
#[map]
pub static SUBJECTS: HashMap<u64, Subject> = HashMap::with_max_entries(32_768, 0);

/// Profile index → fork limits.
#[map]
pub static PROFILES: Array<ForkLimits> = Array::with_max_entries(256, 0);

/// Container's cgroup id → what it has used up.
#[map]
pub static FORK_BUCKETS: HashMap<u64, ForkBucket> = HashMap::with_max_entries(4_096, 0);
