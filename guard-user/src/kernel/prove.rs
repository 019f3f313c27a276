//! Attaches the fork governor on the best rung that is seen to work, never on one that merely attaches.

use std::{fs, os::unix::fs::MetadataExt};

use guard_common::config::{FIELDS, Field, MISSING};
use thiserror::Error;

use nix::{errno::Errno, libc};

use super::{
    attach::{ATTACH_PERMISSIONS, Link},
    btf::Btf,
    hooks::{self, PERF_EVENT_OPEN},
    load::{Kernel, PINS},
    rungs::{self, Rung},
    self_test::{self, DONE, FORK, Outcome, SelfTestError},
    sys,
    under_way::Counting,
};
use crate::identity::tree::{Hierarchy, Version, id_of};

/// Cgroups of one container that may stand in the table: one of them cannot fill it.
pub const NESTED_MAX: u32 = 4096;
/// A quarter of the slots, for containers with a name that a user could have made.
pub const USER_MADE_MAX: u32 = guard_common::SLOTS / 4;
/// A quarter of these, for those of one user.
pub const USER_MADE_EACH: u32 = USER_MADE_MAX / 4;

/// `BPF_FUNC_get_current_ancestor_cgroup_id` (include/uapi/linux/bpf.h), which tracing programs and hooks may call on 6.1 and later, and not on 5.10.
const ANCESTOR: i32 = 123;

/// What became of one rung.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Tried {
    /// The rung.
    pub rung: Rung,
    /// Whether the self-test saw it work.
    pub works: bool,
    /// What was seen, or why not.
    pub reason: String,
}

/// Why there is no rung to run on.
#[derive(Debug, Error)]
pub enum ProveError {
    /// The self-test itself could not be made.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// An earlier daemon's programs refuse forks, and ours would not.
    #[error(
        "nothing that this daemon can do here refuses a fork, and what an earlier one left in the kernel does: it stays in \
         force, and new containers are recognised as before. To let go of it: `bulkhead off`, then remove {PINS}. {tried}"
    )]
    Worse {
        /// What was tried.
        tried: String,
    },
}

fn in_words(tried: &[Tried]) -> String {
    let words: Vec<String> = tried
        .iter()
        .map(|tried| format!("{}: {}", tried.rung, tried.reason))
        .collect();
    words.join("; ")
}

/// A host on which the governor was tried.
pub struct Proved {
    /// The best rung that works; [`Rung::Setting`] if none does.
    pub rung: Rung,
    /// Every rung that was tried, best first.
    pub tried: Vec<Tried>,
    /// The programs that now act.
    pub links: Vec<Link>,
    /// The hooks at forks, ahead of the governor; nothing is proved of them.
    pub ahead: Vec<hooks::Proved>,
    /// New cgroups are entered by the kernel side, before they can be used.
    pub inherits: bool,
    /// Forks under way are counted, or why not.
    pub forking: Result<(), String>,
}

/// The kernel side's read-only words for this host.
#[must_use]
pub fn config(btf: &Btf, hierarchy: &Hierarchy) -> [u32; FIELDS] {
    let mut words = btf.config();
    let version = match hierarchy.version {
        Version::V1 => 1,
        Version::V2 => 2,
    };
    for (field, word) in [
        (Field::CgroupVersion, version),
        (Field::Hierarchy, hierarchy.number),
        (Field::NestedMax, NESTED_MAX),
        (Field::UserMadeMax, USER_MADE_MAX),
        (Field::UserMadeEach, USER_MADE_EACH),
        (Field::HostNet, host_net()),
        (Field::HelperAncestor, word_of(sys::has_helper(ANCESTOR))),
        (Field::ReadsInOrder, word_of(cfg!(target_arch = "x86_64"))),
        (
            Field::PerfArguments,
            btf.arguments(PERF_EVENT_OPEN).unwrap_or(MISSING),
        ),
        (
            Field::PermissionArguments,
            btf.arguments(ATTACH_PERMISSIONS).unwrap_or(MISSING),
        ),
    ] {
        words[field as usize] = word;
    }
    words
}

/// A word that says whether something is so.
const fn word_of(it_is: bool) -> u32 {
    if it_is { 1 } else { MISSING }
}

/// The number of the host's first network namespace; [`MISSING`]: it is not known, and every one counts as nested.
fn host_net() -> u32 {
    fs::metadata("/proc/1/ns/net").map_or(MISSING, |net| net.ino() as u32)
}

/// Fields that this kernel's type information lacks and that identity cannot do without.
#[must_use]
pub fn missing(words: &[u32; FIELDS]) -> Vec<&'static str> {
    Field::ALL
        .iter()
        .filter(|field| !field.btf().is_empty() && words[**field as usize] == MISSING)
        // One of the two is always missing, and the others on most kernels.
        .filter(|field| {
            !matches!(
                field,
                Field::CgroupAncestors
                    | Field::CgroupAncestorIds
                    | Field::TaskSoftirqs
                    | Field::ReadingModuleCompressed
                    | Field::HelperTaskRegisters
                    | Field::UringFile
                    | Field::UringCommand
                    | Field::LegacyOptions
                    | Field::NodeParent
                    | Field::NodeParentNow
                    | Field::OperationDiscard
                    | Field::OperationDiscardOld
                    | Field::BioDevice
                    | Field::BioDisk
            )
        })
        .map(|field| field.btf())
        .collect()
}

/// Tries the rungs from the best down, or the one that is forced, and leaves the first that works attached. `ahead` attaches the hooks at
/// forks, which run ahead of the governor when they come after it: what they refuse it does not count.
///
/// # Errors
/// [`ProveError`]. What an earlier daemon left is then still in force.
pub fn prove(
    kernel: &mut Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    forced: Option<Rung>,
    mut ahead: impl FnMut(&mut Kernel, Rung) -> Vec<hooks::Proved>,
) -> Result<Proved, ProveError> {
    let mut tried = Vec::new();
    // What it refuses is let go of only for something that refuses as well, or on request.
    let held = kernel.refused_before() && forced.is_none();
    // An earlier daemon's programs act until the ones that take their place are attached and pinned: there is no gap.
    let before = kernel.acting();
    let counted = kernel.counting();
    for rung in Rung::ALL {
        if forced.is_some_and(|forced| forced != rung) || held && !rung.refuses() {
            continue;
        }
        let mut say = |works: bool, reason: String| {
            tried.push(Tried {
                rung,
                works,
                reason,
            });
        };
        if rung == Rung::Lsm && rungs::bpf_is_a_security_module() == Some(false) && forced.is_none()
        {
            say(
                false,
                "bpf is not among the active security modules: boot with lsm=…,bpf".to_owned(),
            );
            continue;
        }
        let mut links = match kernel.attach_governor(btf, rung) {
            Ok(links) if links.is_empty() => break,
            Ok(links) => links,
            Err(error) => {
                say(false, error.in_short());
                continue;
            }
        };
        let mut forking = Err("only a program that is asked before a fork counts them".to_owned());
        let mut counting = Counting::default();
        if rung.refuses() {
            (counting, forking) = match kernel.attach_ends(btf, rung) {
                Ok((more, counting)) => {
                    links.extend(more);
                    (counting, Ok(()))
                }
                Err(error) => (Counting::default(), Err(error.in_short())),
            };
        }
        if let Err(error) = kernel.pin(&links) {
            say(false, error.in_short());
            continue;
        }
        let mut ahead = ahead(kernel, rung);
        let mut back = |kernel: &Kernel, links: &[Link]| {
            kernel.act_as(before);
            kernel.count_forking(counted);
            kernel.unpin(links);
            ahead.iter_mut().for_each(|hook| hook.let_go(kernel));
        };
        kernel.count_forking(counting);
        kernel.act();
        kernel.mend_below_zero();
        let outcome = match self_test::run(kernel, &hierarchy.mount, id_of, &FORK) {
            Ok(outcome) => outcome,
            Err(error) => {
                back(kernel, &links);
                return Err(error.into());
            }
        };
        let (works, reason) = match outcome.came {
            libc::EAGAIN if outcome.container.refused[0] > 0 => (
                rung.refuses(),
                "a fork was refused with EAGAIN, and counted",
            ),
            DONE if outcome.container.audited[0] > 0 => (
                !rung.refuses(),
                "a fork was seen after it happened, and counted",
            ),
            DONE => (
                false,
                "attached, but no fork was seen: the kernel never calls it",
            ),
            other => {
                back(kernel, &links);
                let error = Errno::from_raw(other).to_string();
                return Err(SelfTestError::Child(error).into());
            }
        };
        say(works, reason.to_owned());
        if works {
            if forking.is_ok() && !outcome.ends {
                kernel.count_forking(Counting::default());
                forking = Err("attached, but no fork was seen to end".to_owned());
            }
            if before != kernel.generation {
                kernel.mend_forking_of(before);
            }
            return Ok(Proved {
                rung,
                tried,
                links,
                ahead,
                inherits: outcome.inherits,
                forking,
            });
        }
        back(kernel, &links);
    }
    if held {
        return Err(ProveError::Worse {
            tried: in_words(&tried),
        });
    }
    // Containers are recognised all the same, for what can be done from user space.
    kernel.count_forking(Counting::default());
    kernel.act();
    let Outcome { inherits, .. } = self_test::run(kernel, &hierarchy.mount, id_of, &FORK)
        .inspect_err(|_| {
            kernel.act_as(before);
            kernel.count_forking(counted);
        })?;
    Ok(Proved {
        rung: Rung::Setting,
        tried,
        links: Vec::new(),
        ahead: ahead(kernel, Rung::Setting),
        inherits,
        forking: Err("no program can be attached".to_owned()),
    })
}
