//! Identity: whose a cgroup is, decided when it is made, so that no task of a container runs unrecognised.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel_str_bytes, generated},
    macros::{fentry, fexit, raw_tracepoint},
    programs::{FEntryContext, FExitContext, RawTracePointContext},
};
use guard_common::{
    Container, SLOT_USER_MADE, Subject,
    config::Field,
    event::Kind,
    host::{Host, USER_LEVEL, USERS, user_of},
    identity::{LABEL_PROFILE, LABEL_USER_MADE, NameMatcher, PATH_MAX, PATH_STEP, TRANSITIONS},
};

use crate::{
    attempt::{TOLD_MADE_OUTSIDE, TOLD_MOVED, WINDOW_NS, is_told},
    call::Call,
    event,
    kernel::{self, add, add32, config, in_order},
    maps::{CONTAINERS, FREE_SLOTS, MATCHERS, SUBJECTS, WALK},
    subject,
};

/// Containers with a name that a user could have made of which the coming or going is told in a window.
const USER_TOLD: u64 = 64;

// TRACE_EVENT(cgroup_mkdir, TP_PROTO(struct cgroup *cgrp, const char *path))   5.10 to 7.3
// Under cgroup_mutex, one at a time on the whole host, and before the directory can be used.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn identity_cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let _ = made(ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    0
}

// TRACE_EVENT(cgroup_rmdir, TP_PROTO(struct cgroup *cgrp, const char *path))   5.10 to 7.3
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
pub fn identity_cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    let _ = removed(ctx.arg::<u64>(0));
    0
}

// int cgroup_attach_task(struct cgroup *dst_cgrp, struct task_struct *leader, bool threadgroup)   5.10 to 7.3
// At its entry the mover, if it moves itself, still stands where it comes from.
#[fentry(function = "cgroup_attach_task")]
pub fn identity_attach_task(ctx: FEntryContext) -> i32 {
    let _ = leaves(ctx.arg(0), TOLD_MOVED);
    0
}

/// `clone3(2)`, which alone makes a child straight in some cgroup (`CLONE_INTO_CGROUP`).
const CLONE3: Call = Call(435, 435);

// int cgroup_attach_permissions(struct cgroup *src_cgrp, struct cgroup *dst_cgrp, struct super_block *sb, bool threadgroup)   5.10
// int cgroup_attach_permissions(struct cgroup *src_cgrp, struct cgroup *dst_cgrp, struct super_block *sb, bool threadgroup,
//                               struct cgroup_namespace *ns)                                                   later 5.15 to 7.3
// The last that the kernel asks before it makes a child there; who moves a task comes here as well, and is seen above. For kernels on
// which no program sees each fork that is done.
#[fexit(function = "cgroup_attach_permissions")]
pub fn identity_made_outside(ctx: FExitContext) -> i32 {
    let refused: i32 = if config(Field::PermissionArguments) == 5 {
        let refused = ctx.arg(5);
        // Not one load from an address that is reckoned, as in `perf_event_open`.
        in_order();
        refused
    } else {
        ctx.arg(4)
    };
    if refused == 0 && Call::is_any([CLONE3]) {
        // Of whatever load: it is tried before it acts where another does.
        if let Some(host) = subject::host_of_all() {
            // SAFETY: a live map value; the counter is only added to.
            unsafe { add(&raw mut (*host).made_into, 1) };
        }
        let _ = leaves(ctx.arg(1), TOLD_MADE_OUTSIDE);
    }
    0
}

#[inline(always)]
fn made(cgroup: u64, path: u64) -> Option<()> {
    let host = subject::host_of_witness()?;
    if !kernel::in_our_hierarchy(cgroup) {
        return None;
    }
    let id = kernel::cgroup_id(cgroup)?;
    let above = kernel::parent(cgroup)?;
    match subject::of_cgroup(host, above, kernel::cgroup_id(above)?) {
        Some(owner) => inherit(host, id, &owner),
        None => recognise(host, cgroup, id, path),
    }
}

/// A cgroup made in a container is that container's. What finds no room is found through its ancestors.
#[inline(always)]
fn inherit(host: *mut Host, id: u64, owner: &Subject) -> Option<()> {
    let container = subject::container(owner)?;
    // SAFETY: live map values; counters are only added to.
    unsafe {
        let room = (&raw const (*container).nested).read_volatile() < config(Field::NestedMax)
            && (&raw const (*host).nested).read_volatile() < u64::from(config(Field::NestedTotal));
        if room && SUBJECTS.insert(id, owner, u64::from(BPF_NOEXIST)).is_ok() {
            add32(&raw mut (*container).nested, 1);
            add(&raw mut (*host).nested, 1);
        } else {
            add(&raw mut (*host).unlisted, 1);
        }
    }
    Some(())
}

/// A cgroup whose path the policy names is a container.
#[inline(always)]
fn recognise(host: *mut Host, cgroup: u64, id: u64, path: u64) -> Option<()> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: a live map value, which only this task touches: it holds cgroup_mutex. The helper checks the address and fails on one
    // that cannot be read. The daemon stores `matcher` whole.
    let length = unsafe {
        let room = &mut *(&raw mut (*walk).path).cast::<[u8; PATH_MAX]>();
        let length = bpf_probe_read_kernel_str_bytes(path as *const u8, room)
            .ok()?
            .len();
        // A path that fills the buffer was cut off.
        if length >= PATH_MAX - 1 {
            return None;
        }
        // What an earlier path left behind this one would be read. Volatile: a bound that the verifier sees, and no call of memset.
        let end = (&raw const length).read_volatile() & (PATH_MAX - 1);
        let behind = (&raw mut (*walk).path).cast::<u8>().add(end);
        for next in 0..PATH_STEP {
            behind.add(next).write_volatile(0);
        }
        let matcher = (&raw const (*host).matcher).read_volatile();
        (*walk).at = 0;
        (*walk).length = length as u32;
        (*walk).state = MATCHERS.get(matcher)?.start;
        (*walk).matcher = matcher;
        length
    };
    for _ in 0..PATH_MAX / PATH_STEP {
        if identity_walk_on() != MORE {
            break;
        }
    }
    // SAFETY: as above.
    let (matcher, state) = unsafe { (MATCHERS.get((*walk).matcher)?, (*walk).state) };
    let label = matcher.label(state as u16);
    if label == 0 {
        return None;
    }
    enter(host, cgroup, id, label, length as u64)
}

/// There is more of the path.
const MORE: u32 = 1;

/// Reads some bytes more of the path in `WALK`. The daemon loads it as a global function, which the verifier looks at once and not
/// for each part of the longest path (decision 0016); so it is called with nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn identity_walk_on() -> u32 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a live map value, as in `recognise`.
    let walk = unsafe { &mut *walk };
    let Some(matcher) = MATCHERS.get(walk.matcher) else {
        return 0;
    };
    let mut state = u64::from(walk.state);
    // SAFETY: there are `PATH_STEP` bytes behind each of the first `PATH_MAX`.
    let part = unsafe { walk.path.as_ptr().add(walk.at as usize & (PATH_MAX - 1)) };
    // Not written out: on 7.3 each instruction of a program costs its load (decision 0020).
    let mut next = 0;
    while next < PATH_STEP as u64 {
        // SAFETY: as above.
        state = step(matcher, state, unsafe { *part.add(next as usize) });
        next = kernel::counted(next + 1);
    }
    walk.state = state as u32;
    walk.at += PATH_STEP as u32;
    u32::from(walk.at < walk.length)
}

/// [`NameMatcher::step`], in as few instructions as can be. The verifier goes back from each address to where its parts were
/// loaded: the stride is loaded each time, and not before the loop.
#[inline(always)]
fn step(matcher: &NameMatcher, state: u64, byte: u8) -> u64 {
    // SAFETY: there is a class for each byte, and the index into the transitions is below their number.
    unsafe {
        let class = *behind(matcher.classes.as_ptr(), u64::from(byte));
        let stride = u64::from((&raw const matcher.stride).read_volatile());
        let at = state.wrapping_mul(stride).wrapping_add(u64::from(class));
        let at = at & (TRANSITIONS as u64 - 1);
        u64::from(*behind(matcher.transitions.as_ptr(), 2 * at))
    }
}

/// The element so many bytes behind a table's beginning. It becomes of the offset what it is to be, where the compiler would put
/// a copy of the beginning first.
#[inline(always)]
fn behind<T>(table: *const T, offset: u64) -> *const T {
    let mut at = offset;
    // SAFETY: an addition.
    unsafe {
        asm!("{at} += {table}", at = inout(reg) at, table = in(reg) table, options(pure, nomem, nostack))
    };
    at as *const T
}

#[inline(always)]
fn enter(host: *mut Host, cgroup: u64, id: u64, label: u16, length: u64) -> Option<()> {
    let user_made = label & LABEL_USER_MADE != 0;
    let user = if user_made {
        user_of(kernel::ancestor_id(cgroup, USER_LEVEL)?)
    } else {
        0
    };
    if user_made && !has_room(host, user) {
        return unrecognised(host);
    }
    let Some(slot) = take_slot(host) else {
        return unrecognised(host);
    };
    let container = CONTAINERS.get_ptr_mut(slot)?;
    // SAFETY: the slot is free, so nobody else writes it; SUBJECTS leads to it only afterwards. Nothing stands at address 0, and where
    // it cannot read the helper leaves zeros: an instruction for each word of a container would be a sixth of this program.
    unsafe {
        generated::bpf_probe_read_kernel(
            container.cast(),
            size_of::<Container>() as u32,
            core::ptr::null(),
        );
        (*container).id = id;
        (*container).cgroup = cgroup;
        (*container).profile = u32::from(label & LABEL_PROFILE);
        (*container).flags = if user_made { SLOT_USER_MADE } else { 0 };
        (*container).user = user as u32;
    }
    let subject = Subject {
        container: id,
        slot,
        reserved: 0,
    };
    if SUBJECTS
        .insert(id, subject, u64::from(BPF_NOEXIST))
        .is_err()
    {
        // SAFETY: as above; the slot goes back.
        unsafe { (*container).id = 0 };
        let _ = FREE_SLOTS.push(slot, u64::from(BPF_ANY));
        return unrecognised(host);
    }
    if user_made {
        count_user_made(host, user, 1);
    }
    if may_tell(host, container) {
        event::tell_made(host, slot, container, length);
    }
    Some(())
}

/// Whether a user may have one container more: whoever makes names for others to match takes nobody else's room.
#[inline(always)]
fn has_room(host: *mut Host, user: usize) -> bool {
    // SAFETY: a live map value, and an index that is in range.
    let (all, own) = unsafe {
        (
            (&raw const (*host).user_made).read_volatile(),
            (&raw const (*host).user_made_by[user & (USERS - 1)]).read_volatile(),
        )
    };
    all < config(Field::UserMadeMax) && own < config(Field::UserMadeEach)
}

#[inline(always)]
fn count_user_made(host: *mut Host, user: usize, by: u32) {
    // SAFETY: as above; counters are only added to.
    unsafe {
        add32(&raw mut (*host).user_made, by);
        add32(&raw mut (*host).user_made_by[user & (USERS - 1)], by);
    }
}

/// Names that a user can make may not crowd out of the ring what others have to tell. Serialised by cgroup_mutex.
#[inline(always)]
fn may_tell(host: *mut Host, container: *const Container) -> bool {
    // SAFETY: live map values; the helper has no preconditions.
    unsafe {
        if (*container).flags & SLOT_USER_MADE == 0 {
            return true;
        }
        let now_ns = bpf_ktime_get_ns();
        if now_ns.wrapping_sub((*host).user_told_ns) >= WINDOW_NS {
            (*host).user_told_ns = now_ns;
            (*host).user_told = 0;
        }
        if (*host).user_told >= USER_TOLD {
            add(&raw mut (*host).untold, 1);
            return false;
        }
        (*host).user_told += 1;
    }
    true
}

/// A free slot: one that was given back, else the next that was never given. Serialised by cgroup_mutex.
#[inline(always)]
fn take_slot(host: *mut Host) -> Option<u32> {
    if let Ok(Some(slot)) = FREE_SLOTS.pop() {
        return Some(slot);
    }
    // SAFETY: a live map value; only this function stores `slots_given`.
    unsafe {
        let slot = (*host).slots_given;
        if slot >= (&raw const (*host).slot_floor).read_volatile() {
            return None;
        }
        (*host).slots_given = slot + 1;
        Some(slot)
    }
}

#[inline(always)]
fn unrecognised(host: *mut Host) -> Option<()> {
    // SAFETY: a live map value.
    unsafe { add(&raw mut (*host).unrecognised, 1) };
    None
}

#[inline(always)]
fn removed(cgroup: u64) -> Option<()> {
    let host = subject::host_of_witness()?;
    if !kernel::in_our_hierarchy(cgroup) {
        return None;
    }
    let id = kernel::cgroup_id(cgroup)?;
    let subject = subject::of_cgroup(host, cgroup, id)?;
    if SUBJECTS.remove(id).is_err() {
        // It stood in no table, and was found through its ancestors.
        // SAFETY: a live map value.
        unsafe { add(&raw mut (*host).unlisted, 1_u64.wrapping_neg()) };
        return None;
    }
    let container = subject::container(&subject)?;
    if id != subject.container {
        // SAFETY: live map values.
        unsafe {
            add32(&raw mut (*container).nested, 1_u32.wrapping_neg());
            add(&raw mut (*host).nested, 1_u64.wrapping_neg());
        }
        return None;
    }
    if may_tell(host, container) {
        event::tell_gone(host, subject.slot, container);
    }
    // SAFETY: live map values; nothing leads to the slot any more.
    unsafe {
        if (*container).flags & SLOT_USER_MADE != 0 {
            count_user_made(host, (*container).user as usize, 1_u32.wrapping_neg());
        }
        (&raw mut (*container).id).write_volatile(0);
    }
    let _ = FREE_SLOTS.push(subject.slot, u64::from(BPF_ANY));
    None
}

/// A task inside a container that moves a task out of it, or makes one outside, is on record. `how`: one of the two of
/// `Container::told_ns` that are about this.
#[inline(always)]
pub fn leaves(destination: u64, how: usize) -> Option<()> {
    let host = subject::host_of_witness()?;
    let who = subject::of_current(host)?;
    if !kernel::in_our_hierarchy(destination) {
        return None;
    }
    let container = subject::container(&who)?;
    if subject::contains(container, destination)? {
        return None;
    }
    // SAFETY: a live map value; the counter is only added to. The helper has no preconditions.
    let now_ns = unsafe {
        add(&raw mut (*container).moved_out, 1);
        bpf_ktime_get_ns()
    };
    if is_told(container, how, now_ns) {
        let (reason, id) = ((how - TOLD_MOVED) as u32, kernel::cgroup_id(destination)?);
        event::tell(host, Kind::MovedOut as u32, reason, who.slot, container, id);
    }
    None
}
