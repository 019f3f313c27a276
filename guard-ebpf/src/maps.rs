//! Every kernel table, in one place.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, Queue, RingBuf},
};
use guard_common::{
    Container, EVENT_BYTES, HINTS as HINTS_MAX, SLOTS, SUBJECTS as SUBJECTS_MAX, Subject,
    action::{ARGUMENTS as ARGUMENTS_MAX, ArgumentKey},
    bpf::OWN as OWN_MAX,
    fork_storm::{PROFILES as PROFILES_MAX, Profile},
    host::{Host, WAITING as WAITING_MAX},
    identity::{NameMatcher, Walk},
    kernel_log::{ENDED as ENDED_MAX, Ended, PRINTED_BYTES},
    rtnetlink::{READS as READS_MAX, Read},
    setup::{SETTING_UP as SETTING_UP_MAX, Setup},
    thin::{CONTEXTS as CONTEXTS_MAX, DEVICES as THIN_MAX, Device, ORIGINS as ORIGINS_MAX, Origin},
};

/// cgroup id → whose it is.
#[map]
pub static SUBJECTS: HashMap<u64, Subject> = HashMap::with_max_entries(SUBJECTS_MAX, 0);

/// The last bits of a cgroup id → the slot that a container's own cgroup with such an id was last found to have. No truth of its
/// own: the slot says whose it is.
#[map]
pub static HINTS: Array<u32> = Array::with_max_entries(HINTS_MAX, 0);

/// The last bits of a cgroup id → [`guard_common::of_the_host`] of the last with such bits that was found to be in no container.
#[map]
pub static OF_THE_HOST: Array<u64> = Array::with_max_entries(HINTS_MAX, 0);

/// Slot → the state of a container.
#[map]
pub static CONTAINERS: Array<Container> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// Slots that were given back.
#[map]
pub static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(SLOTS, 0);

/// Profile → limits.
#[map]
pub static PROFILES: Array<Profile> = Array::with_max_entries(PROFILES_MAX, 0);

/// What becomes of an action where that depends on what it is done to: a [`guard_common::action::Fate::bit`] each.
#[map]
pub static ARGUMENTS: HashMap<ArgumentKey, u32> = HashMap::with_max_entries(ARGUMENTS_MAX, 0);

/// The host's own numbers.
#[map]
pub static HOST: Array<Host> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// See [`guard_common::host::WAITING`].
#[map]
pub static WAITING: Array<u64> = Array::with_max_entries(WAITING_MAX, 0);

/// Two automata over cgroup paths; `Host::matcher` names the one in force.
#[map]
pub static MATCHERS: Array<NameMatcher> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// The path of the cgroup that is being made: one at a time on the whole host, under cgroup_mutex.
#[map]
pub static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// What the daemon is told.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// Who printed which line of the kernel log.
#[map]
pub static PRINTED: RingBuf = RingBuf::with_byte_size(PRINTED_BYTES, 0);

/// The last bits of a task's number → the last task of a container's that had such a number, and that a signal has ended.
#[map]
pub static ENDED: Array<Ended> = Array::with_max_entries(ENDED_MAX, BPF_F_MMAPABLE);

/// What Bulkhead itself has in the kernel, by [`guard_common::bpf::Object::own`].
#[map]
pub static OWN: HashMap<u64, u32> = HashMap::with_max_entries(OWN_MAX, 0);

/// Task → what it sends by netlink, while that is being read.
#[map]
pub static READS: HashMap<u64, Read> = HashMap::with_max_entries(READS_MAX, 0);

/// Process → that a runtime sets a container up by it.
#[map]
pub static SETTING_UP: LruHashMap<u32, Setup> = LruHashMap::with_max_entries(SETTING_UP_MAX, 0);

/// Number of a device → whether it stands on dm-thin, and what became of its discards.
#[map]
pub static THIN: HashMap<u32, Device> = HashMap::with_max_entries(THIN_MAX, 0);

/// Who gave a device a discard that reached it → how many.
#[map]
pub static ORIGINS: LruHashMap<Origin, u64> = LruHashMap::with_max_entries(ORIGINS_MAX, 0);

/// File system that is being set up, by its `struct fs_context` → that it was asked to discard by itself.
#[map]
pub static ASKED_TO_DISCARD: HashMap<u64, u32> = HashMap::with_max_entries(CONTEXTS_MAX, 0);

/// Task that is mounting something → whether that was asked to discard by itself.
#[map]
pub static MOUNTING: LruHashMap<u64, u32> = LruHashMap::with_max_entries(CONTEXTS_MAX, 0);
