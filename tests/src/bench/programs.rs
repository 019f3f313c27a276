//! What each of our kernel programs costs by itself, as the kernel's own statistics (`kernel.bpf_stats_enabled`) say.

use std::{io, os::fd::FromRawFd};

use anyhow::Result;

use super::{NANOSECONDS, cost, statistics};
use crate::{
    cgroup::Cgroup,
    daemon::{Daemon, Policy},
};

/// Commands of bpf(2), include/uapi/linux/bpf.h.
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// `struct bpf_prog_info` up to `verified_insns`, since 5.16; an older kernel fills what it knows.
const INFO: usize = 224;

/// Runs of a program since it was loaded.
struct Program {
    name: String,
    nanoseconds: u64,
    runs: u64,
    /// Instructions that the verifier looked at; 0 where the kernel does not say.
    verified: u64,
}

/// Rounds of a kind of work.
const ROUNDS: u32 = 500;

/// Prints the instructions of each hook of forks.
///
/// # Errors
/// A measurement failed.
pub fn forks(policy: &Policy) -> Result<()> {
    each(policy, &[], &["fork"], "fork_storm_")
}

/// Prints the instructions of what tells setting up apart, and of the hook that 5.10 has in the place of one of user namespaces.
///
/// # Errors
/// A measurement failed.
pub fn setup() -> Result<()> {
    let policy = Policy::enforce("deny: [user_namespace.create]")?;
    each(&policy, &[], &["fork", "exec"], "setup_")?;
    each(&policy, &[], &["fork"], "user_namespace_")
}

/// Prints the instructions of each program with a name that begins so, at each kind of work, in a container and on the host.
///
/// # Errors
/// A measurement failed.
pub fn each(policy: &Policy, arguments: &[&str], works: &[&str], named: &str) -> Result<()> {
    let _daemon = Daemon::start(policy, arguments)?;
    let _statistics = statistics()?;
    let container = Cgroup::container()?;
    verified()?;
    println!("instructions per run of a hook, two reads of the clock included:");
    for (work, (whose, cgroup)) in works
        .iter()
        .flat_map(|work| [("container", Some(&container)), ("host", None)].map(|who| (work, who)))
    {
        let before = programs()?;
        cost(cgroup, work, ROUNDS)?;
        for (now, before) in programs()?.iter().zip(&before) {
            let runs = now.runs - before.runs;
            // Some are always others'.
            if runs < u64::from(ROUNDS / 2) || !now.name.starts_with(named) {
                continue;
            }
            println!(
                "  {work:<7} {whose:<9} {:<16} {:>5.0} in {runs} runs",
                now.name,
                (now.nanoseconds - before.nanoseconds) as f64 / NANOSECONDS / runs as f64
            );
        }
    }
    Ok(())
}

/// Prints what the verifier looked at of each program that is loaded.
///
/// # Errors
/// The kernel does not list them.
pub fn verified() -> Result<()> {
    println!(
        "instructions that the verifier looked at, most of the start (0 where the kernel does not say):"
    );
    for program in programs()? {
        println!("  {:<16} {:>6}", program.name, program.verified);
    }
    Ok(())
}

fn programs() -> io::Result<Vec<Program>> {
    let (mut found, mut id) = (Vec::new(), 0_u32);
    loop {
        // start_id, next_id, open_flags
        let mut next = [id, 0, 0];
        // SAFETY: `next` is as large as this command's attributes, and the kernel writes only into it.
        if unsafe {
            bpf(
                PROG_GET_NEXT_ID,
                next.as_mut_ptr().cast(),
                size_of_val(&next),
            )
        } < 0
        {
            return Ok(found);
        }
        id = next[1];
        let mut by_id = [id, 0, 0];
        // SAFETY: as above.
        let file = unsafe {
            bpf(
                PROG_GET_FD_BY_ID,
                by_id.as_mut_ptr().cast(),
                size_of_val(&by_id),
            )
        };
        if file < 0 {
            continue;
        }
        // SAFETY: the call has just returned this descriptor, and nobody else has it.
        let file = unsafe { std::os::fd::OwnedFd::from_raw_fd(file as i32) };
        let mut info = [0_u64; INFO / 8];
        #[repr(C)]
        struct Ask {
            file: i32,
            length: u32,
            info: u64,
        }
        let mut ask = Ask {
            file: std::os::fd::AsRawFd::as_raw_fd(&file),
            length: INFO as u32,
            info: info.as_mut_ptr() as u64,
        };
        // SAFETY: `info` is as long as `length` says and outlives the call.
        if unsafe { bpf(OBJ_GET_INFO_BY_FD, (&raw mut ask).cast(), size_of::<Ask>()) } < 0 {
            continue;
        }
        // At byte 64: char name[16]; at 192: run_time_ns; at 200: run_cnt; at 216: verified_insns.
        let name: Vec<u8> = [info[8], info[9]]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        found.push(Program {
            name: String::from_utf8_lossy(&name).into_owned(),
            nanoseconds: info[24],
            runs: info[25],
            verified: info[27] & u64::from(u32::MAX),
        });
    }
}

/// bpf(2).
///
/// # Safety
/// `attributes` points to `size` bytes that are this command's attributes.
unsafe fn bpf(command: libc::c_int, attributes: *mut libc::c_void, size: usize) -> libc::c_long {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) }
}
