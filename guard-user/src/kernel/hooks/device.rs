//! The hooks that stand before opening devices, and before what the device mapper is told.

use std::{fs, fs::File};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};

/// Where the kernel asks of each file that is opened.
pub(super) const FILE_OPEN: Place = Place::Asked {
    lsm: "bpf_lsm_file_open",
    security: "security_file_open",
};

/// The hooks of devices.
pub static DEVICE: [Hook; 3] = [
    Hook {
        hazard: "device",
        name: "file_open",
        program: "device_open",
        place: FILE_OPEN,
        what: "opening a device, whatever its node is called; one that was opened before, or that another opened and sent, is used as ever",
        open: &["opening devices"],
        actions: &[Action::DeviceOpen],
        trial: open_null,
        ..BY_ITSELF
    },
    Hook {
        hazard: "device_mapper",
        name: "file_ioctl",
        program: "device_mapper_ioctl",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl",
            security: "security_file_ioctl",
        },
        what: "what the device mapper is told by ioctl(2)",
        open: &[
            "telling the device mapper to do something, to who has /dev/mapper/control and CAP_SYS_ADMIN",
        ],
        actions: &[Action::DeviceMapperControl],
        trial: ask_the_device_mapper,
        ..BY_ITSELF
    },
    Hook {
        hazard: "device_mapper",
        name: "file_ioctl_compat",
        program: "device_mapper_ioctl_compat",
        place: Place::Asked {
            lsm: "bpf_lsm_file_ioctl_compat",
            security: "security_file_ioctl_compat",
        },
        what: "the same from a 32-bit program",
        open: &["the same by a 32-bit program"],
        actions: &[Action::DeviceMapperControl],
        trial: || Err("it takes a 32-bit program".to_owned()),
        ..BY_ITSELF
    },
];

#[expect(
    clippy::unnecessary_wraps,
    reason = "the others may lack what they need"
)]
fn open_null() -> Result<Tool, String> {
    Ok(Tool {
        file: None,
        run: |_| {
            // SAFETY: a static text. What it opens goes with the child.
            came_of(i64::from(unsafe {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY)
            }))
        },
    })
}

/// `DM_VERSION`: `_IOWR(0xfd, 0, struct dm_ioctl)` (include/uapi/linux/dm-ioctl.h).
const DM_VERSION: libc::c_ulong = 0xc138_fd00;
/// Words of a `struct dm_ioctl`.
const DM_IOCTL_WORDS: usize = 0x138 / 8;

fn ask_the_device_mapper() -> Result<Tool, String> {
    // To open its node would load it.
    let there = fs::read_to_string("/proc/misc").unwrap_or_default();
    if !there.contains("device-mapper") {
        return Err("there is no device mapper here".to_owned());
    }
    let control = File::open("/dev/mapper/control").map_err(|error| error.to_string())?;
    Ok(Tool {
        file: Some(control.into()),
        run: |control| {
            let mut asked = [0_u64; DM_IOCTL_WORDS];
            // The version of the interface, 4.0.0, and how long this is.
            asked[0] = 4;
            asked[1] = (size_of_val(&asked) as u64) << 32;
            // SAFETY: the argument is as long as it says, and is only written the versions into.
            came_of(i64::from(unsafe {
                libc::ioctl(control, DM_VERSION, asked.as_mut_ptr())
            }))
        },
    })
}
