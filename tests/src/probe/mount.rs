//! Mounts a file system, by mount(2) or by the calls that came after it.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use clap::{Args, ValueEnum};

use super::user_namespace::came;

/// Mounts a file system, and takes it away again.
#[derive(Args, Clone, Debug)]
pub struct Mount {
    /// Its type.
    #[arg(long, default_value = "tmpfs")]
    pub fs: String,
    /// By which calls.
    #[arg(long, value_enum, default_value = "new")]
    pub way: Way,
    /// Options, each with its value if it has one.
    #[arg(long)]
    pub option: Vec<String>,
    /// Goes on where an option is not taken.
    #[arg(long)]
    pub heedless: bool,
    /// Where.
    #[arg(long, default_value = "/tmp")]
    pub at: String,
}

/// By which calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// mount(2).
    Old,
    /// fsopen(2), fsconfig(2), fsmount(2) and move_mount(2).
    New,
    /// The first two of these: it is made, and nowhere to be seen.
    Made,
    /// The first one, and an option.
    Given,
    /// fspick(2) and fsconfig(2): what is mounted there has other options.
    Picked,
    /// open_tree(2) and move_mount(2): a bind mount.
    Tree,
}

const SET_FLAG: i64 = 0;
const SET_STRING: i64 = 1;
const CREATE: i64 = 6;
const RECONFIGURE: i64 = 7;
const FROM_EMPTY_PATH: i64 = 4;
const CLONE: i64 = 1;

impl Mount {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(self) -> io::Result<()> {
        let (fs, at) = (CString::new(self.fs)?, CString::new(self.at)?);
        let none = c"none".as_ptr();
        match self.way {
            Way::Old => {
                let data = CString::new(self.option.join(","))?;
                // SAFETY: texts that end with NULs.
                came(i64::from(unsafe {
                    libc::mount(none, at.as_ptr(), fs.as_ptr(), 0, data.as_ptr().cast())
                }))?;
            }
            Way::Tree => {
                // SAFETY: a text that ends with a NUL.
                let tree = file(unsafe {
                    libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, at.as_ptr(), CLONE)
                })?;
                show(&tree, &at)?;
            }
            Way::New | Way::Made | Way::Given | Way::Picked => {
                // SAFETY: texts that end with NULs.
                let context = file(unsafe {
                    match self.way {
                        Way::Picked => {
                            libc::syscall(libc::SYS_fspick, libc::AT_FDCWD, at.as_ptr(), 0)
                        }
                        _ => libc::syscall(libc::SYS_fsopen, fs.as_ptr(), 0),
                    }
                })?;
                let own = context.as_raw_fd();
                for option in &self.option {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(CString::new(value)?)),
                        None => (option.as_str(), None),
                    };
                    let key = CString::new(key)?;
                    let command = if value.is_some() {
                        SET_STRING
                    } else {
                        SET_FLAG
                    };
                    let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
                    // SAFETY: texts that end with NULs.
                    let taken = came(unsafe {
                        libc::syscall(libc::SYS_fsconfig, own, command, key.as_ptr(), value, 0)
                    });
                    if !self.heedless {
                        taken?;
                    }
                }
                if self.way == Way::Given {
                    return Ok(());
                }
                let command = match self.way {
                    Way::Picked => RECONFIGURE,
                    _ => CREATE,
                };
                // SAFETY: the command takes no arguments.
                came(unsafe { libc::syscall(libc::SYS_fsconfig, own, command, 0, 0, 0) })?;
                if matches!(self.way, Way::Made | Way::Picked) {
                    return Ok(());
                }
                // SAFETY: a descriptor of a file system.
                let mount = file(unsafe { libc::syscall(libc::SYS_fsmount, own, 0, 0) })?;
                show(&mount, &at)?;
            }
        }
        // SAFETY: a text that ends with a NUL.
        came(i64::from(unsafe { libc::umount(at.as_ptr()) }))
    }
}

fn file(made: i64) -> io::Result<OwnedFd> {
    came(made)?;
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

fn show(mount: &OwnedFd, at: &CString) -> io::Result<()> {
    // SAFETY: texts that end with NULs.
    came(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            FROM_EMPTY_PATH,
        )
    })
}
