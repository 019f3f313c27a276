//! The hooks that stand before making network links in other ways than by a message.

#[cfg(target_arch = "x86_64")]
use std::{arch::asm, path::Path};
use std::{fs::File, os::fd::OwnedFd};

use guard_common::action::Action;
use nix::{errno::Errno, libc};

use super::{BY_ITSELF, Hook, Place, Tool};
use crate::kernel::self_test;

/// The hooks of network links.
pub static NET_LINK: [Hook; 2] = [
    Hook {
        hazard: "net_link",
        name: "file_ioctl",
        program: "net_link_file_ioctl",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl",
            security: "security_file_ioctl",
        },
        what: "making a bridge by ioctl(2), as brctl does",
        open: &["making a bridge by ioctl(2), as brctl does"],
        actions: &[Action::BridgeCreate, Action::NetLinkCreate],
        trial: ask_for_a_bridge,
        ..BY_ITSELF
    },
    Hook {
        hazard: "net_link",
        name: "file_ioctl_compat",
        program: "net_link_file_ioctl_compat",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl_compat",
            security: "security_file_ioctl_compat",
        },
        what: "the same by a 32-bit program",
        open: &["making a bridge by ioctl(2) of a 32-bit program"],
        actions: &[Action::BridgeCreate, Action::NetLinkCreate],
        trial: ask_for_a_bridge_in_32_bits,
        ..BY_ITSELF
    },
];

/// `SIOCBRADDBR` (include/uapi/linux/sockios.h).
const MAKE_BRIDGE: u32 = 0x89a0;
/// `ioctl` among the 32-bit system calls of x86-64 (arch/x86/entry/syscalls/syscall_32.tbl).
#[cfg(target_arch = "x86_64")]
const IOCTL_32: u32 = 54;

/// On what is no socket, where nothing comes of it; the kernel side passes the self-test's own over.
fn ask_for_a_bridge() -> Result<Tool, String> {
    Ok(Tool {
        file: Some(nothing()?),
        run: |file| {
            // SAFETY: no driver of /dev/null follows the pointer.
            let asked = unsafe { libc::ioctl(file, u64::from(MAKE_BRIDGE), 0) };
            came_of_asking(i64::from(asked), Errno::last_raw())
        },
    })
}

#[cfg(target_arch = "x86_64")]
fn ask_for_a_bridge_in_32_bits() -> Result<Tool, String> {
    // Without 32-bit programs the interrupt is a fault, of which the child would die.
    if !Path::new("/proc/sys/abi/vsyscall32").exists() {
        return Err("this kernel runs no 32-bit programs".to_owned());
    }
    Ok(Tool {
        file: Some(nothing()?),
        run: |file| {
            let mut result = i64::from(IOCTL_32);
            // SAFETY: the 32-bit system call ioctl(file, MAKE_BRIDGE, 0); as above. The kernel keeps all registers but r8 to r11;
            // rbx, which may not be named, is put back.
            unsafe {
                asm!(
                    "xchg rbx, {file}",
                    "int 0x80",
                    "xchg rbx, {file}",
                    file = inout(reg) i64::from(file) => _,
                    inout("rax") result,
                    in("rcx") u64::from(MAKE_BRIDGE),
                    in("rdx") 0_u64,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                );
            }
            let result = i64::from(result as i32);
            came_of_asking(result, -result as i32)
        },
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn ask_for_a_bridge_in_32_bits() -> Result<Tool, String> {
    Err("it is made on x86-64 only".to_owned())
}

fn nothing() -> Result<OwnedFd, String> {
    File::open("/dev/null")
        .map(Into::into)
        .map_err(|error| format!("/dev/null: {error}"))
}

/// Everything but a refusal says that it was let through.
fn came_of_asking(result: i64, errno: i32) -> i32 {
    if result < 0 && errno == libc::EPERM {
        errno
    } else {
        self_test::DONE
    }
}
