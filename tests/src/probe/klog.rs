//! Ways to the kernel log for which there is no tool: syslog(2) of any type, and a descriptor that another sends.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use clap::Args;

/// syslog(2).
#[derive(Args, Clone, Debug)]
pub struct Syslog {
    /// `SYSLOG_ACTION_*`.
    #[arg(long)]
    pub r#type: i32,
    /// What it takes as its length: a console level for type 8.
    #[arg(long, default_value_t = 0)]
    pub level: i32,
}

impl Syslog {
    /// Calls it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn run(&self) -> io::Result<()> {
        let mut buffer = vec![0_u8; 1 << 16];
        let length = if self.level == 0 {
            buffer.len() as i32
        } else {
            self.level
        };
        // SAFETY: the buffer is at least as long as `length`, and outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_syslog, self.r#type, buffer.as_mut_ptr(), length) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Receives a descriptor on the socket that is its standard input, and reads one record from it.
///
/// # Errors
/// What the kernel said.
pub fn read_received() -> io::Result<()> {
    let file = receive(io::stdin().as_raw_fd())?;
    let mut buffer = [0_u8; 8192];
    // SAFETY: the buffer is as long as it says.
    let read = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Room for one descriptor in a control message.
const CONTROL: usize = 64;

/// A message of one byte with room for one descriptor, and what is done with it.
///
/// # Safety
/// `act` uses the message while it runs, and not afterwards.
unsafe fn with_message<T>(act: impl FnOnce(&mut libc::msghdr) -> io::Result<T>) -> io::Result<T> {
    let mut byte = [1_u8; 1];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: plain data, of which zeros are a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    act(&mut message)
}

fn receive(socket: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the pointers in the message are valid while it is used, and the control message is the kernel's own.
    unsafe {
        with_message(|message| {
            if libc::recvmsg(socket, message, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::Error::other("no descriptor came"));
            }
            let descriptor = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>());
            Ok(OwnedFd::from_raw_fd(descriptor))
        })
    }
}

/// Sends a descriptor.
///
/// # Errors
/// What the kernel said.
pub fn send(socket: RawFd, file: RawFd) -> io::Result<()> {
    // SAFETY: the pointers in the message are valid while it is used, and the control message fits its buffer.
    unsafe {
        with_message(|message| {
            message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<RawFd>(), file);
            if libc::sendmsg(socket, message, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}
