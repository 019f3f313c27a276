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
    /// The function that a BPF LSM program stands in for.
    pub lsm: &'static str,
    /// The function that asks all security modules.
    pub security: &'static str,
    /// What it stands before, in words.
    pub what: &'static str,
    /// The actions that it judges; the first is the one that is tried.
    pub actions: &'static [Action],
    /// The way to try it.
    trial: fn() -> Result<Tool, String>,
}

/// What a trial needs, made beforehand, and the trial itself.
struct Tool {
    file: Option<OwnedFd>,
    run: fn(i32) -> i32,
}

/// The hooks of the kernel log.
pub static KERNEL_LOG: [Hook; 3] = [
    Hook {
        hazard: "kernel_log",
        name: "syslog",
        program: "kernel_log_syslog",
        lsm: "bpf_lsm_syslog",
        security: "security_syslog",
        what: "syslog(2), /proc/kmsg, and opening /dev/kmsg for reading",
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
        lsm: "bpf_lsm_file_permission",
        security: "security_file_permission",
        what: "reading and writing /dev/kmsg and reading the trace, by whatever name or descriptor",
        actions: &[Action::KernelLogRead, Action::KernelLogWrite],
        trial: read_inherited,
    },
    Hook {
        hazard: "kernel_log",
        name: "sb_kern_mount",
        program: "kernel_log_sb_kern_mount",
        lsm: "bpf_lsm_sb_kern_mount",
        security: "security_sb_kern_mount",
        what: "mounting pstore, which keeps the log of a kernel that died",
        actions: &[Action::KernelLogRead],
        trial: mount_pstore,
    },
];

/// Every hook that judges actions.
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
    /// `ENFORCING`: seen to refuse. `ATTACHED`: there was nothing to try it on. `OPEN`: it refuses nothing.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (&self.link, self.enforcing) {
            (Some(_), true) => "ENFORCING",
            (Some(_), false) => "ATTACHED",
            (None, _) => "OPEN",
        }
    }
}

/// Attaches hooks, on the rung that this host's security modules offer. Nothing is proved by that.
#[must_use]
pub fn attach(
    kernel: &Kernel,
    btf: &Btf,
    hooks: impl IntoIterator<Item = &'static Hook>,
    forced: Option<Rung>,
) -> Vec<Proved> {
    hooks
        .into_iter()
        .map(|hook| {
            let mut proved = Proved {
                hook,
                rung: None,
                enforcing: false,
                reason: String::new(),
                link: None,
            };
            let rung = match forced {
                Some(rung @ (Rung::Lsm | Rung::FmodRet)) => rung,
                Some(Rung::Observe | Rung::Setting) => {
                    proved.reason = "--rung asks for no program that refuses".to_owned();
                    return proved;
                }
                // A program that is loaded as one of a security module that is not active is never called.
                None if rungs::bpf_is_a_security_module() == Some(false) => Rung::FmodRet,
                None => Rung::Lsm,
            };
            let attached = kernel
                .attach_hook(btf, hook, rung)
                .and_then(|link| kernel.pin(std::slice::from_ref(&link)).map(|()| link));
            match attached {
                Ok(link) => {
                    proved.rung = Some(rung);
                    proved.link = Some(link);
                }
                Err(error) => proved.reason = error.in_short(),
            }
            proved
        })
        .collect()
}

/// Lets each attached hook refuse something, and takes away those that do not. The programs must act already.
///
/// # Errors
/// The trial itself could not be made.
pub fn prove(
    kernel: &mut Kernel,
    hierarchy: &Hierarchy,
    hooks: &mut [Proved],
) -> Result<(), SelfTestError> {
    for proved in hooks {
        if proved.link.is_none() {
            continue;
        }
        let tool = match (proved.hook.trial)() {
            Ok(tool) => tool,
            Err(reason) => {
                proved.reason = format!("attached, and not tried: {reason}");
                continue;
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
