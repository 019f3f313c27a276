//! Asking the gate from a program of a cgroup, to which the kernel gives fewer helpers than to others.

use guard_common::{
    action::{Action, Argument, Told},
    config::Field,
};

use crate::{
    event::Who,
    gate::{self, ANYWHERE, Case, Verdict},
    kernel, subject,
};

/// A way to find out whose the running task is, and whether it may not. A function of its own, so that a program that asks about
/// several actions holds it once.
pub trait Ask {
    fn denies(&self, action: Action) -> bool;
}

/// By reading the task.
pub struct ByReading;

impl Ask for ByReading {
    #[inline(always)]
    fn denies(&self, action: Action) -> bool {
        asking_by_reading(action as u64) != 0
    }
}

/// Global, as [`gate::gate_close`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn asking_by_reading(action: u64) -> u32 {
    let may_all = || kernel::is_kernel_thread() || who().tgid == 1;
    let ask = || {
        let host = subject::host_of_witness()?;
        let subject = subject::of_current_in_cgroup(host)?;
        gate::ask_of(host, subject, gate::numbered(action)?, may_all, who)
    };
    u32::from(ask() == Some(Verdict::Deny))
}

/// Whether the running task, by reading it, may not do this, whatever it is done to or because it is done to `argument`; `None` as
/// with [`gate::ask`].
#[inline(always)]
pub fn about_by_reading(
    action: Action,
    argument: Option<Argument>,
    [one, two]: Argument,
) -> Option<Verdict> {
    let host = subject::host_of_witness()?;
    let case = Case::of(host, subject::of_current_in_cgroup(host)?)?;
    if !case.is_about(action, ANYWHERE) {
        return None;
    }
    let mut fates = case.fates(action);
    if let Some(argument) = argument {
        fates |= case.fates_by_argument(action, argument);
    }
    let told: Told = [one, two, 0, 0, 0, 0, 0];
    let sentence = case.sentence(fates, 0);
    let may_all = || kernel::is_kernel_thread() || who().tgid == 1;
    Some(case.close_of((action, told), sentence, may_all, who))
}

/// By helpers alone.
pub struct ByHelpers;

impl Ask for ByHelpers {
    #[inline(always)]
    fn denies(&self, action: Action) -> bool {
        asking_by_helpers(action as u64) != 0
    }
}

/// Global, as [`gate::gate_close`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn asking_by_helpers(action: u64) -> u32 {
    let ask = || {
        let host = subject::host_of_witness()?;
        let subject = subject::of_current_unread()?;
        gate::ask_of(
            host,
            subject,
            gate::numbered(action)?,
            || false,
            Who::default,
        )
    };
    u32::from(ask() == Some(Verdict::Deny))
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
