//! Reading `/dev/kmsg`: each record once and in order, and of those that cannot be had, how many.
//!
//! The kernel numbers its records, so whatever is lost shows as a gap, on whatever way it was: overrun (EPIPE,
//! `devkmsg_read` in kernel/printk/printk.c), too large for the buffer (EINVAL, and the position has moved on), without
//! text left of them, or not understood.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc;

use super::record::Record;

/// The device.
pub const DEVICE: &str = "/dev/kmsg";
/// Twice what any kernel makes of a record: 8,192 bytes before 6.3 (`CONSOLE_EXT_LOG_MAX`), 2,048 since
/// (`PRINTK_MESSAGE_MAX`).
const BUFFER: usize = 16 << 10;
/// So many errors that move the position on are passed over in one call, so that a device that says nothing else does not
/// keep us.
const ERRORS: u32 = 1024;

/// Why records were lost, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// They were overwritten by newer ones while we read.
    Overrun,
    /// They were overwritten before we began to read.
    Before,
    /// They were larger than any kernel's largest when this was written.
    TooLarge,
    /// They were no records as we know them.
    Malformed,
    /// Their numbers are missing.
    Missing,
}

impl Why {
    /// In words, after "lines".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Overrun => "overwritten in the kernel's buffer before they were read",
            Self::Before => "overwritten in the kernel's buffer while nobody read",
            Self::TooLarge => "larger than any that is known",
            Self::Malformed => "not understood",
            Self::Missing => "not given by the kernel",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.words())
    }
}

/// What one step brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The next record.
    Record(Record),
    /// Records that are not there.
    Lost {
        /// How many.
        count: u64,
        /// Number of the last of them.
        last: u64,
        /// Why.
        why: Why,
    },
}

/// A position in the kernel log that is read from.
pub struct Reader<D> {
    device: D,
    buffer: Box<[u8]>,
    /// Number of the next record.
    next: u64,
    /// Why there will be a gap before it, if there is one.
    why: Why,
    /// What was read already, behind a loss that is told first.
    held: Option<Record>,
    /// Number of the last record that was passed over, until the first that was not.
    passed: Option<u64>,
}

impl Reader<File> {
    /// Opens the device, to go on at the record with the number `next`; 0 is the first since boot.
    ///
    /// # Errors
    /// What open(2) said.
    pub fn open(next: u64) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(Path::new(DEVICE))?;
        Ok(Self::new(device, next))
    }

    /// What can be waited on.
    #[must_use]
    pub const fn device(&self) -> &File {
        &self.device
    }
}

impl<D: Read + Seek> Reader<D> {
    /// A reader of a device that stands at its oldest record, as it does when it was just opened.
    pub fn new(device: D, next: u64) -> Self {
        Self {
            device,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            next,
            why: Why::Before,
            held: None,
            passed: None,
        }
    }

    /// Number of the record that is read next.
    #[must_use]
    pub const fn next_seq(&self) -> u64 {
        self.next
    }

    /// The next record, or how many are lost before it. `None`: there is none yet.
    ///
    /// # Errors
    /// What read(2) said, but for the errors that the device has a meaning for.
    pub fn step(&mut self) -> io::Result<Option<Heard>> {
        if let Some(record) = self.held.take() {
            return Ok(Some(self.take(record)));
        }
        let mut errors = 0;
        while errors < ERRORS {
            let read = match self.device.read(&mut self.buffer) {
                Ok(read) => read,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.begin_again_if_ahead()?;
                        return Ok(None);
                    }
                    Some(libc::EINTR) => continue,
                    Some(libc::EPIPE) => {
                        // Before our first record it is still what happened while nobody read.
                        if self.why != Why::Before {
                            self.why = Why::Overrun;
                        }
                        errors += 1;
                        continue;
                    }
                    Some(libc::EINVAL) => {
                        self.why = Why::TooLarge;
                        errors += 1;
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let Ok(record) = Record::parse(&self.buffer[..read]) else {
                self.why = Why::Malformed;
                errors += 1;
                continue;
            };
            if record.seq < self.next {
                self.passed = Some(record.seq);
                if self.why == Why::Before {
                    self.why = Why::Missing;
                }
                continue;
            }
            self.passed = None;
            let count = record.seq - self.next;
            if count > 0 {
                let (last, why) = (record.seq - 1, self.why);
                self.held = Some(record);
                return Ok(Some(Heard::Lost { count, last, why }));
            }
            return Ok(Some(self.take(record)));
        }
        Ok(None)
    }

    fn take(&mut self, record: Record) -> Heard {
        self.next = record.seq.saturating_add(1);
        self.why = Why::Missing;
        Heard::Record(record)
    }

    /// Where we are to go on lies behind the end of the log, it cannot be where we were: all of it is read once more.
    /// A file that came back with a snapshot tells such things; lines that stand there twice are better than none.
    fn begin_again_if_ahead(&mut self) -> io::Result<()> {
        if let Some(passed) = self.passed.take()
            && passed.saturating_add(1) < self.next
        {
            self.device.seek(SeekFrom::Start(0))?;
            self.next = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod script {
    use super::*;

    /// What a device says, one answer a read.
    pub struct Script(pub Vec<Result<Vec<u8>, i32>>, pub usize);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let answer = self.0.get(self.1).unwrap_or(&Err(libc::EAGAIN));
            self.1 += 1;
            match answer {
                Ok(bytes) => {
                    buffer[..bytes.len()].copy_from_slice(bytes);
                    Ok(bytes.len())
                }
                Err(error) => Err(io::Error::from_raw_os_error(*error)),
            }
        }
    }

    impl Seek for Script {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            self.1 = 0;
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{script::Script, *};

    fn line(seq: u64) -> Result<Vec<u8>, i32> {
        Ok(format!("6,{seq},1,-;line {seq}\n").into_bytes())
    }

    /// Numbers of the records that come until there is none, and losses as (count, last, why).
    fn heard(reader: &mut Reader<Script>) -> (Vec<u64>, Vec<(u64, u64, Why)>) {
        let (mut records, mut losses) = (Vec::new(), Vec::new());
        while let Some(heard) = reader.step().unwrap() {
            match heard {
                Heard::Record(record) => records.push(record.seq),
                Heard::Lost { count, last, why } => losses.push((count, last, why)),
            }
        }
        (records, losses)
    }

    fn all(answers: Vec<Result<Vec<u8>, i32>>, next: u64) -> (Vec<u64>, Vec<(u64, u64, Why)>) {
        heard(&mut Reader::new(Script(answers, 0), next))
    }

    #[test]
    fn records_come_in_order_and_a_restart_passes_over_those_it_has() {
        let answers = || (5..9).map(line).collect::<Vec<_>>();
        assert_eq!(all(answers(), 5), (vec![5, 6, 7, 8], vec![]));
        assert_eq!(all(answers(), 7), (vec![7, 8], vec![]));
        assert_eq!(all(answers(), 9), (vec![], vec![]));
    }

    #[test]
    fn what_was_overwritten_while_nobody_read_is_counted() {
        assert_eq!(
            all(vec![line(5), line(6)], 2),
            (vec![5, 6], vec![(3, 4, Why::Before)])
        );
        assert_eq!(
            all(vec![Err(libc::EPIPE), line(5)], 0),
            (vec![5], vec![(5, 4, Why::Before)])
        );
    }

    #[test]
    fn an_overrun_is_as_long_as_the_numbers_say() {
        let answers = vec![
            line(1),
            Err(libc::EPIPE),
            Err(libc::EPIPE),
            line(9),
            line(10),
        ];
        assert_eq!(
            all(answers, 1),
            (vec![1, 9, 10], vec![(7, 8, Why::Overrun)])
        );
        // The oldest record is the next one after all.
        assert_eq!(
            all(vec![line(1), Err(libc::EPIPE), line(2)], 1),
            (vec![1, 2], vec![])
        );
    }

    #[test]
    fn a_gap_without_an_error_a_record_too_large_and_one_not_understood_are_told_apart() {
        assert_eq!(
            all(vec![line(1), line(4)], 1),
            (vec![1, 4], vec![(2, 3, Why::Missing)])
        );
        assert_eq!(
            all(vec![line(1), Err(libc::EINVAL), line(3)], 1),
            (vec![1, 3], vec![(1, 2, Why::TooLarge)])
        );
        assert_eq!(
            all(vec![line(1), Ok(b"nonsense".to_vec()), line(3)], 1),
            (vec![1, 3], vec![(1, 2, Why::Malformed)])
        );
    }

    #[test]
    fn a_device_that_says_nothing_but_errors_gives_nothing_and_does_not_keep_us() {
        let mut reader = Reader::new(Script(vec![Err(libc::EINVAL); 5000], 0), 0);
        assert_eq!(reader.step().unwrap(), None);
        assert_eq!(reader.device.1, ERRORS as usize);
        let mut reader = Reader::new(Script(vec![Err(libc::EPERM)], 0), 0);
        assert_eq!(reader.step().unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_position_behind_the_end_of_the_log_is_not_waited_for() {
        let mut reader = Reader::new(Script(vec![line(0), line(1)], 0), 50);
        assert_eq!(heard(&mut reader), (vec![], vec![]));
        assert_eq!(heard(&mut reader), (vec![0, 1], vec![]));
    }
}
