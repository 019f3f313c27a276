//! Loads a module of the kernel from memory, as no tool does any more.

use std::{fs, io, path::PathBuf, process::Command};

use clap::Args;

/// Loads a module by init_module(2).
#[derive(Args, Clone, Debug)]
pub struct Module {
    /// Its file, which may be compressed by xz.
    pub file: PathBuf,
}

impl Module {
    /// Runs the probe.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> io::Result<()> {
        let bytes = if self.file.extension().is_some_and(|end| end == "xz") {
            let mut unpack = Command::new("busybox");
            unpack.arg("xzcat").arg(&self.file).output()?.stdout
        } else {
            fs::read(&self.file)?
        };
        // SAFETY: the memory is as long as the call is told, and the text is static.
        let done = unsafe {
            libc::syscall(
                libc::SYS_init_module,
                bytes.as_ptr(),
                bytes.len(),
                c"".as_ptr(),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
