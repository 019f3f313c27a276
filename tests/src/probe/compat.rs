//! ioctl(2) as a 32-bit program calls it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Of a 32-bit program (arch/x86/entry/syscalls/syscall_32.tbl).
const IOCTL: i64 = 54;
const PAGE: usize = 4096;

/// `argument` is what the call is given a pointer to: less than a page.
///
/// # Errors
/// What the kernel said.
pub fn ioctl(file: BorrowedFd<'_>, request: u64, argument: &[u8]) -> io::Result<()> {
    // SAFETY: a page of our own, where a 32-bit pointer can point to.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut result = IOCTL;
    // SAFETY: the argument fits the page; then the 32-bit system call, which keeps all registers but r8 to r11. rbx, which may not be
    // named, is put back.
    unsafe {
        ptr::copy_nonoverlapping(argument.as_ptr(), page.cast(), argument.len().min(PAGE - 1));
        std::arch::asm!(
            "xchg rbx, {file}",
            "int 0x80",
            "xchg rbx, {file}",
            file = inout(reg) i64::from(file.as_raw_fd()) => _,
            inout("rax") result,
            in("rcx") request,
            in("rdx") page,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        libc::munmap(page, PAGE);
    }
    match result as i32 {
        errno if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Ok(()),
    }
}
