//! The hooks that stand before loading modules of the kernel.

use std::{fs, fs::File};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, UNSAID, came_of};

/// The hooks of modules.
pub static MODULE: [Hook; 3] = [
    Hook {
        hazard: "module",
        name: "kernel_module_request",
        program: "module_autoload",
        place: Place::Asked {
            lsm: "bpf_lsm_kernel_module_request",
            security: "security_kernel_module_request",
        },
        what: "having the kernel load a module for what is asked of it; what is loaded already is used as ever",
        open: &["having the kernel load modules for what is asked of it"],
        actions: &[Action::ModuleAutoload],
        trial: ask_for_a_file_system,
        ..BY_ITSELF
    },
    Hook {
        hazard: "module",
        name: "kernel_read_file",
        program: "module_read_file",
        place: Place::Asked {
            lsm: "bpf_lsm_kernel_read_file",
            security: "security_kernel_read_file",
        },
        what: "loading a module from a file, as insmod and modprobe do",
        open: &["loading modules from files, to who has CAP_SYS_MODULE"],
        actions: &[Action::ModuleLoad],
        trial: load_a_file,
        ..BY_ITSELF
    },
    Hook {
        hazard: "module",
        name: "kernel_load_data",
        program: "module_load_data",
        place: Place::Asked {
            lsm: "bpf_lsm_kernel_load_data",
            security: "security_kernel_load_data",
        },
        what: "loading a module from memory, by init_module(2)",
        open: &["loading modules from memory, to who has CAP_SYS_MODULE"],
        actions: &[Action::ModuleLoad],
        trial: load_memory,
        ..BY_ITSELF
    },
];

fn ask_for_a_file_system() -> Result<Tool, String> {
    let tool = fs::read_to_string("/proc/sys/kernel/modprobe").unwrap_or_default();
    if tool.trim().is_empty() {
        return Err(
            "the kernel loads no modules by itself here: kernel.modprobe is empty".to_owned(),
        );
    }
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: a static name. There is no such file system, and no module for it.
            let opened = unsafe { libc::syscall(libc::SYS_fsopen, c"bulkhead".as_ptr(), 0) };
            match came_of(opened) {
                // Whatever becomes of the module.
                libc::ENODEV => UNSAID,
                came => came,
            }
        },
    })
}

fn load_a_file() -> Result<Tool, String> {
    may_load()?;
    let file = File::open("/proc/self/exe").map_err(|error| error.to_string())?;
    Ok(Tool {
        file: Some(file.into()),
        run: |file| {
            // SAFETY: a static text. The file is no module.
            came_of(unsafe { libc::syscall(libc::SYS_finit_module, file, c"".as_ptr(), 0) })
        },
    })
}

fn load_memory() -> Result<Tool, String> {
    may_load()?;
    Ok(Tool {
        file: None,
        run: |_| {
            // As long as the head of a module, and none.
            let memory = [0_u64; 16];
            // SAFETY: the memory is as long as the call is told.
            came_of(unsafe {
                libc::syscall(
                    libc::SYS_init_module,
                    memory.as_ptr(),
                    size_of_val(&memory),
                    c"".as_ptr(),
                )
            })
        },
    })
}

/// Whether anybody may load a module here.
fn may_load() -> Result<(), String> {
    let disabled = fs::read_to_string("/proc/sys/kernel/modules_disabled");
    if disabled.is_ok_and(|text| text.trim() != "0") {
        return Err("nobody can load a module here: kernel.modules_disabled is 1".to_owned());
    }
    Ok(())
}
