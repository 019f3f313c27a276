//! The few calls of bpf(2) that aya has no door to: a program of a chosen type, its link, its pin.
//!
//! One load path for every rung: fmod_ret, which aya cannot attach, takes the same bytecode as LSM.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use aya_obj::generated::{
    BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_F_SLEEPABLE, BPF_JMP, BPF_K, BPF_MOV, bpf_attr, bpf_cmd,
    bpf_insn, bpf_prog_type,
};
use nix::libc;

use guard_common::bpf::Object;

use super::{
    functions::{Begins, Functions},
    tables::Plain,
};

/// What the kernel's verifier may say about a program that it refuses.
const LOG_BYTES: usize = (1 << 24) - 1;

/// How a program is loaded.
pub struct Load<'a> {
    /// `BPF_PROG_TYPE_*`.
    pub kind: u32,
    /// `BPF_*` attach type; 0 for raw tracepoints.
    pub attach: u32,
    /// BTF id of the function; 0 for raw tracepoints.
    pub function: u32,
    /// Its bytecode.
    pub code: &'a [bpf_insn],
    /// The functions that it calls.
    pub functions: Option<&'a Functions>,
    /// Its licence.
    pub license: &'a CStr,
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: &'a str,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole, initialised bpf_attr, and the pointers in it outlive the call (see the callers).
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain integers; all zero is a value of every member.
    unsafe { std::mem::zeroed() }
}

/// Loads a program. On refusal the error is followed by the end of what the verifier said.
pub fn load(load: &Load<'_>) -> Result<OwnedFd, (io::Error, String)> {
    match load_with(load, &mut []) {
        Ok(fd) => Ok(fd),
        Err(first) if first.raw_os_error() == Some(libc::EPERM) => Err((first, String::new())),
        Err(first) => {
            let mut log = vec![0_u8; LOG_BYTES];
            match load_with(load, &mut log) {
                Ok(fd) => Ok(fd),
                // ENOSPC speaks of the log alone.
                Err(_) => {
                    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                    let text = String::from_utf8_lossy(&log[..end]);
                    let tail: Vec<&str> = text.lines().rev().take(12).collect();
                    Err((first, tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
                }
            }
        }
    }
}

fn load_with(load: &Load<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this command reads the anonymous program member of the union; it was zeroed as a whole.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = load.kind;
    program.expected_attach_type = load.attach;
    program.insns = load.code.as_ptr() as u64;
    program.insn_cnt = load.code.len() as u32;
    program.license = load.license.as_ptr() as u64;
    program.attach_btf_id = load.function;
    if load.kind == bpf_prog_type::BPF_PROG_TYPE_SYSCALL as u32 {
        // There is no other kind of these (kernel/bpf/verifier.c).
        program.prog_flags = BPF_F_SLEEPABLE;
    }
    if let Some(functions) = load.functions {
        program.prog_btf_fd = functions.types().as_raw_fd() as u32;
        program.func_info = functions.begins.as_ptr() as u64;
        program.func_info_cnt = functions.begins.len() as u32;
        program.func_info_rec_size = size_of::<Begins>() as u32;
    }
    for (to, from) in program.prog_name.iter_mut().take(15).zip(load.name.bytes()) {
        *to = from as libc::c_char;
    }
    if !log.is_empty() {
        program.log_level = 1;
        program.log_buf = log.as_mut_ptr() as u64;
        program.log_size = log.len() as u32;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(descriptor)
}

/// Runs a program of type `BPF_PROG_TYPE_SYSCALL`, which reads its context and writes it.
pub fn run<T: Copy>(program: BorrowedFd<'_>, context: &mut Plain<T>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.ctx_in = std::ptr::from_mut(context) as u64;
    attr.test.ctx_size_in = size_of::<T>() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).map(drop)
}

/// Whether a tracing program may call this helper with one number.
pub fn has_helper(number: i32) -> bool {
    let instruction = |code: u32, register, imm| bpf_insn {
        code: code as u8,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(register, 0),
        off: 0,
        imm,
    };
    let set = BPF_ALU64 | BPF_MOV | BPF_K;
    let code = [
        instruction(set, 1, 0),
        instruction(BPF_JMP | BPF_CALL, 0, number),
        instruction(set, 0, 0),
        instruction(BPF_JMP | BPF_EXIT, 0, 0),
    ];
    let load = Load {
        kind: bpf_prog_type::BPF_PROG_TYPE_RAW_TRACEPOINT as u32,
        attach: 0,
        function: 0,
        code: &code,
        functions: None,
        license: c"GPL",
        name: "helper",
    };
    load_with(&load, &mut []).is_ok()
}

/// Type information, for programs that are loaded with it.
pub fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this command reads the anonymous BTF member of the union; it was zeroed as a whole.
    let btf = unsafe { &mut attr.__bindgen_anon_7 };
    btf.btf = types.as_ptr() as u64;
    btf.btf_size = types.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr).map(descriptor)
}

/// Attaches a program: to the raw tracepoint `name`, or where its BTF id says.
pub fn attach(program: BorrowedFd<'_>, name: Option<&CStr>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.name = name.map_or(0, |name| name.as_ptr() as u64);
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr).map(descriptor)
}

/// Attaches a program to a cgroup, beside those that others attached there and below it: what any of them refuses stays refused.
pub fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this command reads the link_create member of the union; it was zeroed as a whole.
    let link = unsafe { &mut attr.link_create };
    link.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    link.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    link.attach_type = attach;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(descriptor)
}

/// The root of the v2 hierarchy, through a mount that stands nowhere and goes with its descriptor.
pub fn detached_unified_root() -> io::Result<OwnedFd> {
    /// `FSCONFIG_CMD_CREATE` (include/uapi/linux/mount.h).
    const CMD_CREATE: u32 = 6;
    let made = |result: libc::c_long| {
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(descriptor(result))
        }
    };
    // SAFETY: static strings and descriptors that are open; each result is a new descriptor, or an error.
    unsafe {
        let context = made(libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), 1))?;
        let number = context.as_raw_fd();
        if libc::syscall(libc::SYS_fsconfig, number, CMD_CREATE, 0, 0, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        // FSMOUNT_CLOEXEC.
        made(libc::syscall(libc::SYS_fsmount, number, 1, 0))
    }
}

/// Runs of a program that the kernel left out, since the program was running on that CPU already (`recursion_misses` of
/// `struct bpf_prog_info`, 5.12); 0 on a kernel that leaves none out.
pub fn misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    /// Of `struct bpf_prog_info`, up to and with the count.
    const WORDS: usize = 27;
    let mut info = [0_u64; WORDS];
    info_of(program, &mut info)?;
    Ok(info[WORDS - 1])
}

/// The program behind a link that has a name in bpffs.
pub fn pinned_program(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    let link = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(descriptor)?;
    // `struct bpf_link_info`: type and id, then the program's id.
    let mut info = [0_u64; 2];
    info_of(link.as_fd(), &mut info)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = info[1] as u32;
    bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map(descriptor)
}

/// What the kernel says of an object, as far as there is room.
fn info_of(object: BorrowedFd<'_>, info: &mut [u64]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of_val(info) as u32;
    attr.info.info = info.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// The number of a program, a table or a link, each kind being numbered by itself.
pub fn id_of(object: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_prog_info`, `bpf_map_info` and `bpf_link_info` begin with a type and the id.
    let mut info = [0_u64; 1];
    info_of(object, &mut info)?;
    Ok((info[0] >> 32) as u32)
}

/// Whether there is a program, a table or a link of this number. One that may not be looked at is.
pub fn is_there(kind: Object, id: u32) -> bool {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    let command = match kind {
        Object::Program => bpf_cmd::BPF_PROG_GET_FD_BY_ID,
        Object::Table => bpf_cmd::BPF_MAP_GET_FD_BY_ID,
        Object::Link => bpf_cmd::BPF_LINK_GET_FD_BY_ID,
    };
    match bpf(command, &mut attr).map(descriptor) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::ENOENT),
    }
}

/// Fills the one value of an array, and makes it unchangeable.
pub fn set_constants(table: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut attr = zeroed();
    // SAFETY: this command reads the element member of the union; it was zeroed as a whole.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = table.as_raw_fd() as u32;
    element.key = (&raw const key) as u64;
    element.__bindgen_anon_1.value = bytes.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = table.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Gives a link a name in bpffs, so that it outlives us.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    // SAFETY: this command reads the object member of the union; it was zeroed as a whole.
    let object = unsafe { &mut attr.__bindgen_anon_4 };
    object.pathname = path.as_ptr() as u64;
    object.bpf_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}
