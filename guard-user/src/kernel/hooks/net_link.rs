//! The hooks that stand before making network links.

#[cfg(target_arch = "x86_64")]
use std::{arch::asm, path::Path};
use std::{fs::File, os::fd::OwnedFd};

use guard_common::action::Action;
use nix::{errno::Errno, libc};

use super::{BY_ITSELF, Hook, Place, Tool, UNTRIED, came_of};
use crate::kernel::self_test;

/// The hooks of network links.
pub static NET_LINK: [Hook; 3] = [
    Hook {
        hazard: "net_link",
        name: "netlink_send",
        program: "net_link_netlink_send",
        place: Place::Asked {
            lsm: "bpf_lsm_netlink_send",
            security: "security_netlink_send",
        },
        what: "making a link by rtnetlink, as ip, dockerd and CNI do, by whatever call the message is sent",
        open: &["making links by rtnetlink, as ip, dockerd and CNI do"],
        actions: &[Action::NetLinkCreate, Action::BridgeCreate],
        trial: make_a_link,
        ..BY_ITSELF
    },
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

/// A request for a link of a kind that there is not, with the number of the loopback device, which there is already: where nothing
/// refuses it, nothing comes of it.
const REQUEST: [u32; 12] = [
    48,                // nlmsghdr: length
    16 | 0x0601 << 16, // RTM_NEWLINK; REQUEST, EXCL, CREATE
    1,                 // its number
    0,                 // from whom
    0,                 // ifinfomsg: any family, any type
    1,                 // the loopback device
    0,                 // flags
    0,                 // and which of them
    16 | 18 << 16,     // IFLA_LINKINFO
    12 | 1 << 16,      // IFLA_INFO_KIND
    u32::from_ne_bytes(*b"bulk"),
    u32::from_ne_bytes(*b"head"),
];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn make_a_link() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| send(libc::NETLINK_ROUTE, &REQUEST),
    })
}

/// What came of sending this to a family of netlink.
pub(super) fn send(family: i32, message: &[u32]) -> i32 {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the message is as long as the call is told; the socket is closed with the child.
    unsafe {
        let socket = libc::socket(libc::AF_NETLINK, kind, family);
        if socket < 0 {
            return UNTRIED;
        }
        came_of(libc::send(socket, message.as_ptr().cast(), size_of_val(message), 0) as i64)
    }
}

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
