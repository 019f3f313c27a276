//! Modules of the kernel: a container that would have one loaded, with whatever hole is in it, is refused.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::lsm, programs::LsmContext};
use guard_common::{
    action::{Action, Told},
    config::{Field, MISSING},
    module::{NAME, argument},
};

use crate::{
    gate::{self, ANYWHERE, Case, Verdict},
    kernel::{apart, config},
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

// int security_kernel_module_request(char *kmod_name)   5.10 to 7.3
// Where the kernel is about to run modprobe for whoever wants what is not there, and has written down the name: the task that runs
// is that one. Most callers go on without the module, and say that there is no such family, file system or kind of link.
#[lsm(hook = "kernel_module_request")]
pub fn module_autoload(ctx: LsmContext) -> i32 {
    if judge(ctx.arg(0)) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

// int security_kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)   5.10 to 7.3
// At finit_module(2), before the file is read.
#[lsm(hook = "kernel_read_file")]
pub fn module_read_file(ctx: LsmContext) -> i32 {
    let id: u32 = ctx.arg(1);
    let is = |field| config(field) != MISSING && id == config(field);
    if is(Field::ReadingModule) || is(Field::ReadingModuleCompressed) {
        return load();
    }
    ALLOW
}

// int security_kernel_load_data(enum kernel_load_data_id id, bool contents)   5.10 to 7.3
// At init_module(2), before the memory is read.
#[lsm(hook = "kernel_load_data")]
pub fn module_load_data(ctx: LsmContext) -> i32 {
    let id: u32 = ctx.arg(0);
    if config(Field::LoadingModule) != MISSING && id == config(Field::LoadingModule) {
        return load();
    }
    ALLOW
}

#[inline(always)]
fn load() -> i32 {
    if gate::ask(Action::ModuleLoad) == Some(Verdict::Deny) {
        return apart(-EPERM);
    }
    ALLOW
}

#[inline(always)]
fn judge(name: u64) -> Option<Verdict> {
    let case = Case::of_current()?;
    let action = Action::ModuleAutoload;
    if !case.is_about(action, ANYWHERE) || case.is_setting_up() {
        return None;
    }
    let mut told = Told::default();
    // SAFETY: as many bytes as there is room for, and the helper fails on an address that cannot be read.
    unsafe {
        bpf_probe_read_kernel_str(told.as_mut_ptr().cast(), NAME as u32, name as *const _);
    }
    let fates = case.fates(action) | case.fates_by_argument(action, argument(&told));
    Some(case.close_told(action, told, case.sentence(fates, 0)))
}
