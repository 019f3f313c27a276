//! Asking the gate from a program of a cgroup, to which the kernel gives fewer helpers than to others.

use guard_common::{action::Action, config::Field};

use crate::{
    event::Who,
    gate::{self, Verdict},
    kernel, subject,
};

/// A way to find out whose the running task is, and whether it may. No closure: that can be a function of its own, which is asked
/// for an action that the verifier does not know.
pub trait Ask {
    fn ask(&self, action: Action) -> Option<Verdict>;
}

/// By reading the task.
pub struct ByReading;

impl Ask for ByReading {
    #[inline(always)]
    fn ask(&self, action: Action) -> Option<Verdict> {
        let host = subject::host()?;
        let may_all = || kernel::is_kernel_thread() || who().tgid == 1;
        gate::ask_of(host, subject::of_current(host)?, action, may_all, who)
    }
}

/// By helpers alone.
pub struct ByHelpers;

impl Ask for ByHelpers {
    #[inline(always)]
    fn ask(&self, action: Action) -> Option<Verdict> {
        let host = subject::host()?;
        let subject = subject::of_current_unread()?;
        gate::ask_of(host, subject, action, || false, Who::default)
    }
}

/// The running task. By reading it: 5.10 gives these programs no helper for that.
#[inline(always)]
fn who() -> Who {
    let task = kernel::current();
    Who {
        pid: kernel::read(task, Field::TaskNumber).unwrap_or_default(),
        tgid: kernel::read(task, Field::TaskProcess).unwrap_or_default(),
        comm: kernel::name_of(task),
    }
}
