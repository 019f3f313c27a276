//! A program of 32 bits, written by hand since no compiler for it is at hand: it makes a bridge by ioctl(2).

use std::{fs, io, os::unix::fs::PermissionsExt, process::Command};

/// Where it is loaded.
const BASE: u32 = 0x0040_0000;
/// Of the file's header, and of its one segment's.
const HEADERS: u32 = 52 + 32;

/// Makes a bridge with this name, which ends with a NUL, by a program of 32 bits.
///
/// # Errors
/// The kernel runs none, or what it said to that program.
pub(super) fn make_bridge(name: &[u8]) -> io::Result<()> {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("bulkhead-program32-{}", std::process::id()));
    fs::write(&path, program(name))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let status = Command::new(&path).status();
    fs::remove_file(&path)?;
    match status?.code() {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the program of 32 bits was killed")),
    }
}

fn program(name: &[u8]) -> Vec<u8> {
    let code = code(0);
    let at = BASE + HEADERS + code.len() as u32;
    let code = self::code(at);
    let length = HEADERS + (code.len() + name.len()) as u32;
    let mut file = Vec::new();
    // e_ident: 32 bits, little-endian, version 1.
    file.extend(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    // ET_EXEC for EM_386.
    file.extend([2, 0, 3, 0]);
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    // Sizes of this header and of a segment's, one segment; no sections.
    for half in [52_u16, 32, 1, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD of the whole file, to be read and executed.
    for word in [1, 0, BASE, BASE, length, length, 5, 0x1000] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(code);
    file.extend(name);
    file
}

/// `exit(-ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCBRADDBR, name))`
fn code(name: u32) -> Vec<u8> {
    let put = |register: u8, value: u32| {
        // mov register, value
        [&[0xb8 + register][..], &value.to_le_bytes()].concat()
    };
    let (eax, ecx, edx, ebx) = (0, 1, 2, 3);
    let call = vec![0xcd, 0x80];
    let ebx_from_eax = vec![0x89, 0xc3];
    let negate_eax = vec![0xf7, 0xd8];
    [
        put(eax, 359),
        put(ebx, 2),
        put(ecx, 2),
        put(edx, 0),
        call.clone(),
        ebx_from_eax.clone(),
        put(eax, 54),
        put(ecx, 0x89a0),
        put(edx, name),
        call.clone(),
        negate_eax,
        ebx_from_eax,
        put(eax, 1),
        call,
    ]
    .concat()
}
