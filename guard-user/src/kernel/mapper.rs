//! What the device mapper says of its devices, by ioctl(2). Nothing is told to it but to take a table that it has anew.
//!
//! Structures and numbers: include/uapi/linux/dm-ioctl.h.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::libc;

/// Where it is asked.
const CONTROL: &str = "/dev/mapper/control";
/// The character devices of `MISC_MAJOR` that there are, a line for each: minor number and name (drivers/char/misc.c).
const MISC: &str = "/proc/misc";
/// `DM_TABLE_STATUS`: `_IOWR(0xfd, 12, struct dm_ioctl)`.
const TABLE_STATUS: libc::c_ulong = 0xc138_fd0c;
/// `DM_TABLE_LOAD` and `DM_DEV_SUSPEND`, which without its flag resumes, with the table that was loaded.
const TABLE_LOAD: libc::c_ulong = 0xc138_fd09;
const DEV_SUSPEND: libc::c_ulong = 0xc138_fd06;
/// `DM_TABLE_CLEAR`: one that was loaded and not taken goes.
const TABLE_CLEAR: libc::c_ulong = 0xc138_fd0a;
/// `DM_READONLY_FLAG`: nothing may be written to it. `DM_SUSPEND_FLAG`: it is suspended. `DM_INACTIVE_PRESENT_FLAG`: a table was loaded,
/// and not taken yet.
const READONLY: u32 = 1;
const SUSPENDED: u32 = 1 << 1;
const INACTIVE: u32 = 1 << 6;
/// `DM_STATUS_TABLE_FLAG`: what each target was made with, and not how it is.
const TABLE: u32 = 1 << 4;
/// `DM_NOFLUSH_FLAG`: a pool that is asked how it is writes nothing to its metadata; a device that is suspended waits for nothing.
const NOFLUSH: u32 = 1 << 11;
/// `DM_SKIP_LOCKFS_FLAG`: a file system on it is not frozen first.
const SKIP_LOCKFS: u32 = 1 << 10;
/// `DM_BUFFER_FULL_FLAG`: there was more than room for it.
const BUFFER_FULL: u32 = 1 << 8;
/// Bytes of a `struct dm_ioctl`, and of a `struct dm_target_spec`.
const HEADER: usize = 0x138;
const SPEC: usize = 40;
/// Where in the former things are.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGETS: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
/// A device that is used, and not stuck, is idle at one of so many looks.
const IDLE_TRIES: u32 = 20;
const IDLE_SPACING: Duration = Duration::from_millis(5);
/// Room for an answer, at first and at most.
const ROOM: usize = 16 << 10;
const ROOM_MAX: usize = 4 << 20;

/// One target of a device's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its first sector in the device.
    pub start: u64,
    /// How many there are.
    pub length: u64,
    /// Its type, such as `linear` or `thin`.
    pub kind: String,
    /// What it was made with, or how it is.
    pub says: String,
}

/// What of a device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What its targets were made with.
    Table,
    /// How they are.
    Status,
}

/// The device mapper.
pub struct Mapper(OwnedFd);

fn lists_mapper(devices: &str) -> bool {
    let mut names = devices
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    names.any(|name| name == "device-mapper")
}

impl Mapper {
    /// Whether it is there: to open its node where it is not would have it loaded. Where that cannot be seen it counts as there, since
    /// who takes it for absent has nothing to refuse.
    #[must_use]
    pub fn is_there() -> bool {
        fs::read_to_string(MISC).map_or(true, |devices| lists_mapper(&devices))
    }

    /// The device mapper.
    ///
    /// # Errors
    /// Its node cannot be opened.
    pub fn open() -> io::Result<Self> {
        File::open(CONTROL).map(|file| Self(file.into()))
    }

    /// The targets of the device with this number; none: it has no table yet.
    ///
    /// # Errors
    /// There is no such device, or it says more than can be.
    pub fn targets(&self, number: u32, asked: Asked) -> io::Result<Vec<Target>> {
        self.state(number, asked).map(|(targets, _)| targets)
    }

    /// The same, with its flags.
    fn state(&self, number: u32, asked: Asked) -> io::Result<(Vec<Target>, u32)> {
        let mut room = ROOM;
        while room <= ROOM_MAX {
            let flags = match asked {
                Asked::Table => TABLE,
                Asked::Status => 0,
            };
            let mut data = header(number, flags | NOFLUSH, room);
            self.tell(TABLE_STATUS, &mut data)?;
            let word = |at| word_at(&data, at).unwrap_or_default();
            if word(FLAGS) & BUFFER_FULL == 0 {
                let targets = read(&data, word(TARGETS) as usize).ok_or_else(malformed)?;
                return Ok((targets, word(FLAGS)));
            }
            room *= 4;
        }
        Err(malformed())
    }

    /// Has a device take its own table anew, which brings the limits of its queue back. It is suspended for that moment.
    ///
    /// # Errors
    /// Its targets are none that say all of themselves, somebody else is at work on it, or the device mapper refuses.
    pub fn renew(&self, number: u32) -> io::Result<()> {
        let (targets, flags) = self.state(number, Asked::Table)?;
        // Others keep to themselves what must not be read, or more than a table.
        if targets.is_empty()
            || !(targets.iter()).all(|one| ["thin", "linear"].contains(&one.kind.as_str()))
        {
            let words = "only a device of the targets thin and linear can be given its table anew";
            return Err(io::Error::other(words));
        }
        // LVM, in the middle of a snapshot or a resize: its table would be lost, or its volume go on too soon.
        if flags & (SUSPENDED | INACTIVE) != 0 {
            return Err(io::Error::other(
                "somebody else is about to give it another table",
            ));
        }
        // What could not be written stays so.
        let kept = flags & READONLY;
        let mut data = header(number, kept, HEADER);
        for target in &targets {
            spec(&mut data, target);
        }
        let (size, count) = (data.len() as u32, targets.len() as u32);
        data[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&size.to_ne_bytes());
        data[TARGETS..TARGETS + 4].copy_from_slice(&count.to_ne_bytes());
        self.tell(TABLE_LOAD, &mut data)?;
        // A volume of a pool hands back what waits there for room. What else is under way is waited for, which may be for ever.
        if targets.iter().any(|one| one.kind != "thin") && !is_idle(number) {
            let _ = self.tell(TABLE_CLEAR, &mut header(number, 0, HEADER));
            return Err(io::Error::other("what was asked of it does not end"));
        }
        let at_once = kept | NOFLUSH | SKIP_LOCKFS;
        let taken = self.tell(DEV_SUSPEND, &mut header(number, at_once, HEADER));
        if taken.is_err() {
            let _ = self.tell(TABLE_CLEAR, &mut header(number, 0, HEADER));
        }
        taken
    }

    fn tell(&self, command: libc::c_ulong, data: &mut [u8]) -> io::Result<()> {
        // SAFETY: the argument is as long as it says, and the kernel writes no further.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), command, data.as_mut_ptr()) };
        match result {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether nothing is under way to a device, if only for a moment.
fn is_idle(number: u32) -> bool {
    let file = format!(
        "/sys/dev/block/{}:{}/inflight",
        number >> 20,
        number & 0xf_ffff
    );
    (0..IDLE_TRIES).any(|_| {
        thread::sleep(IDLE_SPACING);
        let text = fs::read_to_string(&file).unwrap_or_default();
        !text.trim().is_empty() && text.split_whitespace().all(|count| count == "0")
    })
}

/// A `struct dm_ioctl` about a device, and room behind it up to so many bytes.
fn header(number: u32, flags: u32, bytes: usize) -> Vec<u8> {
    let mut data = vec![0_u8; bytes];
    let mut put = |at: usize, word: u32| data[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    // The version of the interface, 4.0.0.
    put(0, 4);
    put(DATA_SIZE, bytes as u32);
    put(DATA_START, HEADER as u32);
    put(FLAGS, flags);
    put(DEVICE, encoded(number));
    data
}

/// A target behind others, as it is told.
fn spec(data: &mut Vec<u8>, target: &Target) {
    let bytes = (SPEC + target.says.len() + 1).next_multiple_of(8);
    let mut one = vec![0_u8; bytes];
    one[..8].copy_from_slice(&target.start.to_ne_bytes());
    one[8..16].copy_from_slice(&target.length.to_ne_bytes());
    one[20..24].copy_from_slice(&(bytes as u32).to_ne_bytes());
    one[24..24 + target.kind.len()].copy_from_slice(target.kind.as_bytes());
    one[SPEC..SPEC + target.says.len()].copy_from_slice(target.says.as_bytes());
    data.extend(one);
}

fn malformed() -> io::Error {
    io::Error::other("the device mapper's answer cannot be read")
}

/// A device's number as ioctl(2) has it (`new_encode_dev`).
const fn encoded(number: u32) -> u32 {
    let (major, minor) = (number >> 20, number & 0xf_ffff);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// The same the other way round (`new_decode_dev`).
pub(super) const fn decoded(number: u32) -> u32 {
    let (major, minor) = (
        (number & 0xf_ff00) >> 8,
        number & 0xff | number >> 12 & 0xf_ff00,
    );
    major << 20 | minor
}

fn read(data: &[u8], count: usize) -> Option<Vec<Target>> {
    let mut at = word_at(data, DATA_START)? as usize;
    let start = at;
    let mut targets = Vec::new();
    for _ in 0..count.min(data.len() / SPEC) {
        let next = word_at(data, at.checked_add(20)?)? as usize;
        let kind = data.get(at.checked_add(24)?..at.checked_add(SPEC)?)?;
        let says = data.get(at + SPEC..)?;
        let long = |from: usize| {
            Some(u64::from_ne_bytes(
                data.get(from..from + 8)?.try_into().ok()?,
            ))
        };
        targets.push(Target {
            start: long(at)?,
            length: long(at + 8)?,
            kind: text(kind),
            says: text(says),
        });
        at = start.checked_add(next)?;
    }
    Some(targets)
}

fn word_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_decoded_as_it_was_encoded() {
        for number in [
            0,
            7 << 20 | 1,
            253 << 20 | 255,
            254 << 20 | 256,
            259 << 20 | 0xf_ffff,
        ] {
            assert_eq!(decoded(encoded(number)), number);
        }
        assert_eq!(encoded(253 << 20 | 3), 0xfd03);
    }

    #[test]
    fn it_is_there_where_the_kernel_lists_it() {
        let without = "122 cpu_dma_latency\n237 loop-control\n";
        assert!(!lists_mapper(without));
        assert!(lists_mapper(&format!("{without}236 device-mapper\n")));
        assert!(!lists_mapper("236 device-mapper-2\n"));
    }

    #[test]
    fn what_is_told_of_a_target_is_read_as_it_was() {
        let target = Target {
            start: 2048,
            length: 65536,
            kind: "thin".to_owned(),
            says: "253:2 1".to_owned(),
        };
        let mut data = header(253 << 20 | 3, 0, HEADER);
        spec(&mut data, &target);
        assert_eq!(read(&data, 1), Some(vec![target]));
    }

    #[test]
    fn an_answer_is_read_and_one_that_is_cut_short_is_none() {
        let mut data = vec![0_u8; HEADER + 2 * SPEC + 32];
        data[DATA_START..DATA_START + 4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        let mut put = |at: usize, kind: &str, says: &str, next: u32| {
            data[at + 20..at + 24].copy_from_slice(&next.to_ne_bytes());
            data[at + 24..at + 24 + kind.len()].copy_from_slice(kind.as_bytes());
            data[at + SPEC..at + SPEC + says.len()].copy_from_slice(says.as_bytes());
        };
        put(HEADER, "linear", "7:0 0", 56);
        put(HEADER + 56, "thin", "253:2 1", 0);
        let one = |kind: &str, says: &str| Target {
            start: 0,
            length: 0,
            kind: kind.to_owned(),
            says: says.to_owned(),
        };
        let both = vec![one("linear", "7:0 0"), one("thin", "253:2 1")];
        assert_eq!(read(&data, 2), Some(both));
        assert_eq!(read(&data, 0), Some(Vec::new()));
        assert_eq!(read(&data[..HEADER + 30], 1), None);
    }
}
