//! Makes one system call that no tool of the machine makes as plainly.

use std::io;

use clap::{Args, ValueEnum};

use super::user_namespace::{call_32, came};

/// Makes a system call.
#[derive(Args, Clone, Debug)]
pub struct Call {
    /// Which.
    #[arg(value_enum)]
    pub which: Which,
    /// The type of a key.
    #[arg(long, default_value = "user")]
    pub kind: String,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// perf_event_open(2), of this process's own time.
    Perf,
    /// add_key(2), into the process's keyring, which is made for it.
    Key,
    /// keyctl(2): a session keyring of its own.
    Session,
    /// io_uring_setup(2).
    Ring,
    /// userfaultfd(2).
    Faults,
    /// userfaultfd(2), by the entry for programs of 32 bits.
    Faults32,
    /// eventfd2(2), by that entry, where it has the number that userfaultfd(2) has elsewhere.
    Eventfd32,
    /// process_vm_readv(2) of the parent.
    Readv,
    /// ptrace(2), to be traced by the parent.
    Traceme,
    /// pidfd_getfd(2) of the parent's standard input.
    Getfd,
    /// Asks the device mapper which version it is.
    Mapper,
    /// Asks `/dev/null` to make a device, as the device mapper is asked.
    MapperOfNull,
    /// kexec_load(2) of nothing, which takes away what was loaded.
    Kexec,
}

impl Call {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(self) -> io::Result<()> {
        const KEY_SPEC_PROCESS_KEYRING: i32 = -2;
        const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
        const NOWHERE: usize = 0x1000;
        let kind = std::ffi::CString::new(self.kind)?;
        let mut parameters = [0_u64; 15];
        // A `struct perf_event_attr`: a count of the software's, which is the time that the process runs.
        let attributes = [1 | 64 << 32, 0, 0, 0, 0, 0, 0, 0_u64];
        // SAFETY: each argument is what the call takes, and as long as it is told.
        let came = came(unsafe {
            match self.which {
                Which::Perf => {
                    libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)
                }
                Which::Key => libc::syscall(
                    libc::SYS_add_key,
                    kind.as_ptr(),
                    c"probe".as_ptr(),
                    c"x".as_ptr(),
                    1,
                    KEY_SPEC_PROCESS_KEYRING,
                ),
                Which::Session => {
                    libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
                }
                Which::Ring => libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()),
                Which::Faults => libc::syscall(libc::SYS_userfaultfd, 0),
                Which::Faults32 => call_32(374, 0),
                Which::Eventfd32 => call_32(323, 0),
                Which::Readv => {
                    let mut byte = 0_u8;
                    let own = libc::iovec {
                        iov_base: (&raw mut byte).cast(),
                        iov_len: 1,
                    };
                    // Nothing is there, which the kernel says to who may read.
                    let other = libc::iovec {
                        iov_base: std::ptr::without_provenance_mut(NOWHERE),
                        iov_len: 1,
                    };
                    libc::process_vm_readv(
                        libc::getppid(),
                        &raw const own,
                        1,
                        &raw const other,
                        1,
                        0,
                    ) as i64
                }
                Which::Traceme => libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0),
                Which::Getfd => {
                    let parent = libc::syscall(libc::SYS_pidfd_open, libc::getppid(), 0);
                    libc::syscall(libc::SYS_pidfd_getfd, parent, 0, 0)
                }
                Which::Mapper => {
                    // DM_VERSION of a `struct dm_ioctl` (include/uapi/linux/dm-ioctl.h).
                    let mut asked = [0_u64; 0x138 / 8];
                    asked[0] = 4;
                    asked[1] = 0x138 << 32;
                    let control = libc::open(c"/dev/mapper/control".as_ptr(), libc::O_RDWR);
                    i64::from(libc::ioctl(control, 0xc138_fd00, asked.as_mut_ptr()))
                }
                Which::MapperOfNull => {
                    // DM_DEV_CREATE (include/uapi/linux/dm-ioctl.h).
                    let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
                    i64::from(libc::ioctl(null, 0xc138_fd03, 0))
                }
                Which::Kexec => libc::syscall(libc::SYS_kexec_load, 0, 0, 0, 0),
            }
        });
        match came {
            Err(error)
                if self.which == Which::MapperOfNull
                    && error.raw_os_error() == Some(libc::ENOTTY) =>
            {
                Ok(())
            }
            Err(error)
                if self.which == Which::Readv && error.raw_os_error() == Some(libc::EFAULT) =>
            {
                Ok(())
            }
            came => came,
        }
    }
}
