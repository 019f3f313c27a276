//! The hooks that judge actions, each with the trial that shows that it refuses.

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use guard_common::action::Action;
use nix::{errno::Errno, libc};

use super::{
    attach::Link,
    btf::Btf,
    load::Kernel,
    rungs::{self, Rung},
    self_test::{self, Outcome, SelfTestError, Trial},
};
use crate::identity::tree::{Hierarchy, id_of};

/// A place where the kernel asks its security modules.
pub struct Hook {
    /// The hazard that it is for.
    pub hazard: &'static str,
    /// The hook, as the kernel calls it.
    pub name: &'static str,
    /// Our program.
    pub program: &'static str,
    /// Where it is attached.
    pub place: Place,
    /// What it stands before, in words.
    pub what: &'static str,
    /// Ways to the same that are open where it refuses nothing.
    pub open: &'static [&'static str],
    /// What takes its place then.
    pub lower: Option<&'static Hook>,
    /// The actions that it judges; the first is the one that is tried.
    pub actions: &'static [Action],
    /// The way to try it.
    trial: fn() -> Result<Tool, String>,
}

/// Where a program is attached.
#[derive(Clone, Copy)]
pub enum Place {
    /// Where the kernel asks its security modules.
    Asked {
        /// The function that a BPF LSM program stands in for.
        lsm: &'static str,
        /// The function that asks all security modules.
        security: &'static str,
    },
    /// Where it asks the device programs of cgroups.
    Devices {
        /// The program that reads no kernel memory.
        plain: &'static str,
    },
}

impl Hook {
    /// Whether it stands before some ways only, in place of one that stands before all.
    #[must_use]
    pub const fn is_lower(&self) -> bool {
        match self.place {
            Place::Asked { .. } => false,
            Place::Devices { .. } => true,
        }
    }
}

/// What a trial needs, made beforehand, and the trial itself.
struct Tool {
    file: Option<OwnedFd>,
    run: fn(i32) -> i32,
}

/// A way to the kernel log.
const TRACE: &str = "the trace in tracefs and debugfs, into which the kernel log can be led";

/// The hooks of the kernel log.
pub static KERNEL_LOG: [Hook; 3] = [
    Hook {
        hazard: "kernel_log",
        name: "syslog",
        program: "kernel_log_syslog",
        place: Place::Asked {
            lsm: "bpf_lsm_syslog",
            security: "security_syslog",
        },
        what: "syslog(2), /proc/kmsg, and opening /dev/kmsg for reading",
        open: &["syslog(2) of every type, and /proc/kmsg, to who has CAP_SYSLOG"],
        lower: None,
        actions: &[
            Action::KernelLogRead,
            Action::KernelLogClear,
            Action::KernelLogConsole,
        ],
        trial: ask_the_size,
    },
    Hook {
        hazard: "kernel_log",
        name: "file_permission",
        program: "kernel_log_file_permission",
        place: Place::Asked {
            lsm: "bpf_lsm_file_permission",
            security: "security_file_permission",
        },
        what: "reading and writing /dev/kmsg and reading the trace, by whatever name or descriptor",
        open: &["/dev/kmsg, and nodes of it by whatever name", TRACE],
        lower: Some(&KERNEL_LOG_DEVICES),
        actions: &[Action::KernelLogRead, Action::KernelLogWrite],
        trial: read_inherited,
    },
    Hook {
        hazard: "kernel_log",
        name: "sb_kern_mount",
        program: "kernel_log_sb_kern_mount",
        place: Place::Asked {
            lsm: "bpf_lsm_sb_kern_mount",
            security: "security_sb_kern_mount",
        },
        what: "mounting pstore, which keeps the log of a kernel that died",
        open: &["mounting pstore"],
        lower: None,
        actions: &[Action::KernelLogRead],
        trial: mount_pstore,
    },
];

/// In place of `file_permission`.
pub static KERNEL_LOG_DEVICES: Hook = Hook {
    hazard: "kernel_log",
    name: "cgroup_device",
    program: "kernel_log_device",
    place: Place::Devices {
        plain: "kernel_log_device_plain",
    },
    what: "opening /dev/kmsg, by whatever name",
    open: &[
        "descriptors of /dev/kmsg that are open already, inherited or handed over",
        TRACE,
    ],
    lower: None,
    // Opening to read is the syslog hook's as well: the trial writes.
    actions: &[Action::KernelLogWrite, Action::KernelLogRead],
    trial: open_to_write,
};

/// Every hook that judges actions; not those that take the place of another.
pub fn all() -> impl Iterator<Item = &'static Hook> {
    KERNEL_LOG.iter()
}

/// What became of a hook.
pub struct Proved {
    /// Which.
    pub hook: &'static Hook,
    /// What it runs on; `None`: nothing, and why.
    pub rung: Option<Rung>,
    /// Its program was seen to refuse.
    pub enforcing: bool,
    /// What was seen, or why it does not work.
    pub reason: String,
    /// The program that acts.
    pub link: Option<Link>,
}

impl Proved {
    /// `ENFORCING`: seen to refuse. `DEGRADED`: likewise, and other ways are open. `ATTACHED`: there was nothing to try it on.
    /// `OPEN`: it refuses nothing.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (&self.link, self.enforcing) {
            (Some(_), true) if self.hook.is_lower() => "DEGRADED",
            (Some(_), true) => "ENFORCING",
            (Some(_), false) => "ATTACHED",
            (None, _) => "OPEN",
        }
    }
}

/// Each hook, and whether it refuses.
#[must_use]
pub fn refusing(hooks: &[Proved]) -> Vec<(&'static Hook, bool)> {
    let each = hooks.iter();
    each.map(|proved| (proved.hook, proved.link.is_some()))
        .collect()
}

/// Attaches hooks, on the rung that this host's security modules offer; where one cannot be, what takes its place. Nothing is
/// proved by that.
#[must_use]
pub fn attach(
    kernel: &Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hooks: impl IntoIterator<Item = &'static Hook>,
    forced: Option<Rung>,
) -> Vec<Proved> {
    let mut all = Vec::new();
    for hook in hooks {
        let proved = attach_one(kernel, btf, hierarchy, hook, forced);
        let lower = hook.lower.filter(|_| proved.link.is_none());
        all.push(proved);
        all.extend(lower.map(|hook| attach_one(kernel, btf, hierarchy, hook, forced)));
    }
    all
}

fn attach_one(
    kernel: &Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hook: &'static Hook,
    forced: Option<Rung>,
) -> Proved {
    let mut proved = Proved {
        hook,
        rung: None,
        enforcing: false,
        reason: String::new(),
        link: None,
    };
    let rung = match forced {
        _ if hook.is_lower() => Rung::Cgroup,
        Some(rung @ (Rung::Lsm | Rung::FmodRet)) => rung,
        Some(Rung::Cgroup | Rung::Observe | Rung::Setting) => {
            proved.reason = "--rung asks for no program that refuses".to_owned();
            return proved;
        }
        // A program that is loaded as one of a security module that is not active is never called.
        None if rungs::bpf_is_a_security_module() == Some(false) => Rung::FmodRet,
        None => Rung::Lsm,
    };
    let attached = kernel
        .attach_hook(btf, hierarchy, hook, rung)
        .and_then(|link| kernel.pin(std::slice::from_ref(&link)).map(|()| link));
    match attached {
        Ok(link) => {
            proved.rung = Some(rung);
            proved.link = Some(link);
        }
        Err(error) => proved.reason = error.in_short(),
    }
    proved
}

/// Lets each attached hook refuse something, and takes away those that do not; what takes their place then is attached and
/// tried. The programs must act already.
///
/// # Errors
/// The trial itself could not be made.
pub fn prove(
    kernel: &mut Kernel,
    btf: &Btf,
    hierarchy: &Hierarchy,
    hooks: &mut Vec<Proved>,
    forced: Option<Rung>,
) -> Result<(), SelfTestError> {
    let mut fallen = Vec::new();
    for proved in hooks.iter_mut().filter(|proved| proved.link.is_some()) {
        prove_one(kernel, hierarchy, proved)?;
        fallen.extend(proved.hook.lower.filter(|_| proved.link.is_none()));
    }
    for hook in fallen {
        let mut proved = attach_one(kernel, btf, hierarchy, hook, forced);
        if proved.link.is_some() {
            prove_one(kernel, hierarchy, &mut proved)?;
        }
        hooks.push(proved);
    }
    Ok(())
}

fn prove_one(
    kernel: &mut Kernel,
    hierarchy: &Hierarchy,
    proved: &mut Proved,
) -> Result<(), SelfTestError> {
    let tool = match (proved.hook.trial)() {
        Ok(tool) => tool,
        Err(reason) => {
            proved.reason = format!("attached, and not tried: {reason}");
            return Ok(());
        }
    };
    let descriptor = tool.file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let trial = Trial {
        run: &|| (tool.run)(descriptor),
    };
    let Outcome {
        came, container, ..
    } = self_test::run(kernel, &hierarchy.mount, id_of, &trial)?;
    let counted = proved
        .hook
        .actions
        .first()
        .is_some_and(|action| container.actions[*action as usize].refused > 0);
    match came {
        libc::EPERM if counted => {
            proved.enforcing = true;
            proved.reason = "refused with EPERM, and counted".to_owned();
        }
        UNTRIED => "attached, and not tried: this kernel offers nothing to try it on"
            .clone_into(&mut proved.reason),
        other => {
            proved.reason = match other {
                self_test::DONE => {
                    "attached, and refused nothing: the kernel never calls it".to_owned()
                }
                other => format!(
                    "attached, and its trial failed by itself: {}",
                    Errno::from_raw(other)
                ),
            };
            if let Some(link) = proved.link.take() {
                kernel.unpin(std::slice::from_ref(&link));
            }
            proved.rung = None;
        }
    }
    Ok(())
}

/// A trial that could not be made here; no errno.
const UNTRIED: i32 = 250;

/// `SYSLOG_ACTION_SIZE_BUFFER` (include/linux/syslog.h).
const SIZE_BUFFER: i32 = 10;
/// `FSCONFIG_CMD_CREATE` (include/uapi/linux/mount.h).
const CMD_CREATE: u32 = 6;

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn ask_the_size() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        // SAFETY: asks for a number; no pointer is followed.
        run: |_| came_of(unsafe { libc::syscall(libc::SYS_syslog, SIZE_BUFFER, 0, 0) }),
    })
}

fn read_inherited() -> Result<Tool, String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    Ok(Tool {
        file: Some(file.into()),
        run: |file| {
            let mut byte = [0_u8; 1];
            // SAFETY: room for the one byte that is asked for. A record that does not fit is skipped, in this descriptor.
            let read = unsafe { libc::read(file, byte.as_mut_ptr().cast(), 1) };
            match came_of(read as i64) {
                // Too small for a record, or none there: it was allowed to read.
                libc::EINVAL | libc::EAGAIN | libc::EPIPE => self_test::DONE,
                came => came,
            }
        },
    })
}

fn open_to_write() -> Result<Tool, String> {
    // Without being let at it: what the node is, is all that matters.
    let node = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/dev/kmsg")
        .map_err(|error| format!("/dev/kmsg: {error}"))?;
    Ok(Tool {
        file: Some(node.into()),
        run: |_| {
            // SAFETY: a static path. Nothing is written, and the descriptor is closed with the child.
            came_of(i64::from(unsafe {
                libc::open(c"/dev/kmsg".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)
            }))
        },
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn mount_pstore() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: static strings; the descriptor is closed with the child. What is made is mounted nowhere.
            unsafe {
                let context = libc::syscall(libc::SYS_fsopen, c"pstore".as_ptr(), 0);
                if context < 0 {
                    return UNTRIED;
                }
                came_of(libc::syscall(
                    libc::SYS_fsconfig,
                    context,
                    CMD_CREATE,
                    0,
                    0,
                    0,
                ))
            }
        },
    })
}

/// What came of a system call: an errno, or [`self_test::DONE`].
fn came_of(result: i64) -> i32 {
    if result < 0 {
        Errno::last_raw()
    } else {
        self_test::DONE
    }
}
