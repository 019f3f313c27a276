//! One record of `/dev/kmsg`, as Documentation/ABI/testing/dev-kmsg has it: whatever a writer put into it stays text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::about::is_a_programs;

/// What stands before a line that came by `/dev/ttyprintk` (drivers/char/ttyprintk.c), and before none of the kernel's own.
const TTYPRINTK: &[u8] = b"[U] ";

/// Bytes that the kernel makes a record of at most, from 6.3 (`PRINTK_MESSAGE_MAX`, kernel/printk/internal.h). 1,024 bytes
/// of text of which each is escaped do not fit, and the rest of them is cut off without a word.
pub const MESSAGE_MAX: usize = 2048;
/// Largest `prio`: the kernel keeps eight bits of the facility (`struct printk_info`) and three of the level.
const PRIO_MAX: u32 = 0xff << 3 | 7;
/// The facility of what the kernel says itself; no writer to `/dev/kmsg` can have it (`devkmsg_write`).
const KERN: u8 = 0;

/// How grave the kernel takes a record to be (include/linux/kern_levels.h), the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The system is unusable.
    Emerg,
    /// Something must be done at once.
    Alert,
    /// Critical.
    Crit,
    /// An error.
    Err,
    /// A warning.
    Warning,
    /// Normal, and of note.
    Notice,
    /// To be known.
    Info,
    /// For whoever looks for a mistake.
    Debug,
}

impl Level {
    /// All, by number.
    pub const ALL: [Self; 8] = [
        Self::Emerg,
        Self::Alert,
        Self::Crit,
        Self::Err,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// As syslog(3) calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emerg => "emerg",
            Self::Alert => "alert",
            Self::Crit => "crit",
            Self::Err => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    /// Takes dmesg's `warn` and the long `error` too.
    fn from_str(word: &str) -> Result<Self, String> {
        let plain = match word {
            "warn" => "warning",
            "error" => "err",
            _ => word,
        };
        let known = Self::ALL.map(Self::name);
        Self::ALL
            .into_iter()
            .find(|level| level.name() == plain)
            .ok_or_else(|| format!("{word} is not a level; there are {}", known.join(", ")))
    }
}

/// Who says it, as syslog(3) calls them; those without a name have their number.
#[must_use]
pub fn facility_name(facility: u8) -> String {
    const NAMES: [&str; 12] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron",
        "authpriv", "ftp",
    ];
    match facility {
        0..=11 => NAMES[usize::from(facility)].to_owned(),
        16..=23 => format!("local{}", facility - 16),
        _ => facility.to_string(),
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who says it: 0 is the kernel, anything else a process.
    pub facility: u8,
    /// How grave it is.
    pub level: Level,
    /// Its number: one more than the record before it, since boot.
    pub seq: u64,
    /// Microseconds since boot, by the kernel's `local_clock()`.
    pub time_us: u64,
    /// It goes on with the line of an earlier record, mostly the one before it.
    pub fragment: bool,
    /// What else stands in its head, as `caller` and `T123`.
    pub extra: Vec<(String, String)>,
    /// What was said, without the end of the line; any byte may be in it.
    pub text: Vec<u8>,
    /// Keys and values for machines, as `SUBSYSTEM` and `pci`.
    pub dictionary: Vec<(Vec<u8>, Vec<u8>)>,
    /// It fills the kernel's buffer: what came behind is not there, and an escape at its end stands as it was cut.
    pub cut: bool,
}

/// Why some bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Without a semicolon, or with less than four fields before it.
    #[error("its head is not prio,seq,time,flags;")]
    Head,
    /// A number that is none, or too large.
    #[error("its {0} is not a number that there can be")]
    Number(&'static str),
    /// A backslash that begins no `\xNN`.
    #[error("a backslash in it is not \\xNN")]
    Escape,
    /// A line behind the first that is not ` KEY=value`.
    #[error("a line behind the first is not a key and a value")]
    Dictionary,
}

impl Record {
    /// Whether a process wrote it into `/dev/kmsg`.
    #[must_use]
    pub fn written(&self) -> bool {
        self.facility != KERN
    }

    /// Whether it says what a process wanted it to say, and not what the kernel has to say.
    #[must_use]
    pub fn injected(&self) -> bool {
        self.written() || self.text.starts_with(TTYPRINTK) || is_a_programs(&self.text)
    }

    /// Reads what one read(2) of `/dev/kmsg` gave.
    ///
    /// # Errors
    /// [`Malformed`]: no kernel writes this.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let head_end = bytes.iter().position(|byte| *byte == b';');
        let (head, body) = bytes.split_at(head_end.ok_or(Malformed::Head)?);
        let head = str::from_utf8(head).map_err(|_| Malformed::Head)?;
        let mut fields = head.split(',');
        let mut field = || fields.next().ok_or(Malformed::Head);
        let prio: u32 = number(field()?, "prio")?;
        let seq = number(field()?, "seq")?;
        let time_us = number(field()?, "time")?;
        let flags = field()?;
        if prio > PRIO_MAX {
            return Err(Malformed::Number("prio"));
        }
        // What later kernels may add without a value is passed over.
        let extra = fields
            .filter_map(|field| field.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();

        let body = &body[1..];
        let (body, ended) = match body.split_last() {
            Some((b'\n', body)) => (body, true),
            _ => (body, false),
        };
        let cut = !ended || bytes.len() == MESSAGE_MAX;
        let mut lines = body.split(|byte| *byte == b'\n').peekable();
        let text = unescape(lines.next().unwrap_or_default(), cut)?;
        let mut dictionary = Vec::new();
        while let Some(line) = lines.next() {
            let last = lines.peek().is_none();
            let pair = line.strip_prefix(b" ").and_then(|line| {
                let equals = line.iter().position(|byte| *byte == b'=')?;
                Some((&line[..equals], &line[equals + 1..]))
            });
            match pair {
                Some((key, value)) => {
                    dictionary.push((unescape(key, cut && last)?, unescape(value, cut && last)?));
                }
                // The key itself was cut.
                None if cut && last => {}
                None => return Err(Malformed::Dictionary),
            }
        }
        Ok(Self {
            facility: (prio >> 3) as u8,
            level: Level::ALL[(prio & 7) as usize],
            seq,
            time_us,
            // `+` is what kernels before 5.10 wrote at the second and later ones.
            fragment: flags.contains(['c', '+']),
            extra,
            text,
            dictionary,
            cut,
        })
    }
}

fn number<T: FromStr>(field: &str, what: &'static str) -> Result<T, Malformed> {
    // A sign would do for `parse`.
    let digits = field.bytes().all(|byte| byte.is_ascii_digit());
    field
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or(Malformed::Number(what))
}

/// The bytes that `msg_add_ext_text` (kernel/printk/printk.c) escaped. At the end of what was cut an escape may be half.
fn unescape(bytes: &[u8], cut: bool) -> Result<Vec<u8>, Malformed> {
    /// Of an escape that found no room, up to three bytes stand there, and one more that did.
    const HALF: usize = 4;
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, behind)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = behind;
            continue;
        }
        let escaped = match behind {
            [b'x', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &behind[3..];
            }
            None if cut && rest.len() <= HALF => {
                out.push(*first);
                rest = behind;
            }
            None => return Err(Malformed::Escape),
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `info_print_ext_header` and `msg_print_ext_body` do, into a buffer of any size.
    fn as_the_kernel_prints(record: &Record, room: usize) -> Vec<u8> {
        let append = |out: &mut Vec<u8>, byte: u8| {
            if out.len() < room {
                out.push(byte);
            }
        };
        let escape = |out: &mut Vec<u8>, bytes: &[u8], end: u8| {
            for byte in bytes {
                if *byte < b' ' || *byte >= 127 || *byte == b'\\' {
                    // scnprintf keeps one byte for its NUL.
                    let left = (room - out.len()).saturating_sub(1);
                    let text = format!("\\x{byte:02x}");
                    out.extend_from_slice(&text.as_bytes()[..left.min(4)]);
                } else {
                    append(out, *byte);
                }
            }
            append(out, end);
        };
        let mut out = format!(
            "{},{},{},{}",
            u32::from(record.facility) << 3 | record.level as u32,
            record.seq,
            record.time_us,
            if record.fragment { 'c' } else { '-' }
        )
        .into_bytes();
        for (key, value) in &record.extra {
            out.extend_from_slice(format!(",{key}={value}").as_bytes());
        }
        out.push(b';');
        escape(&mut out, &record.text, b'\n');
        for (key, value) in &record.dictionary {
            append(&mut out, b' ');
            escape(&mut out, key, b'=');
            escape(&mut out, value, b'\n');
        }
        out
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let pair = || {
            (
                prop::collection::vec(b'A'..=b'Z', 1..10),
                prop::collection::vec(any::<u8>(), 1..40),
            )
        };
        (
            (any::<u8>(), 0..8_usize, any::<u64>(), any::<u64>()),
            any::<bool>(),
            prop::collection::vec(("[a-z]{1,9}", "[A-Za-z0-9]{0,9}"), 0..3),
            prop::collection::vec(any::<u8>(), 0..300),
            prop::collection::vec(pair(), 0..3),
        )
            .prop_map(
                |((facility, level, seq, time_us), fragment, extra, text, dictionary)| Record {
                    facility,
                    level: Level::ALL[level],
                    seq,
                    time_us,
                    fragment,
                    extra,
                    text,
                    dictionary,
                    cut: false,
                },
            )
    }

    proptest! {
        #[test]
        fn whatever_the_kernel_prints_is_read_back(record in any_record()) {
            let bytes = as_the_kernel_prints(&record, 8192);
            let cut = bytes.len() == MESSAGE_MAX;
            prop_assert_eq!(Record::parse(&bytes), Ok(Record { cut, ..record }));
        }

        #[test]
        fn a_record_that_the_kernel_cut_is_its_beginning_and_says_so(
            text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(1_u8)], 500..1024),
            seq in any::<u64>(),
        ) {
            let record = Record {
                facility: 1, level: Level::Info, seq, time_us: 1, fragment: false, extra: Vec::new(),
                text, dictionary: vec![(b"SUBSYSTEM".to_vec(), b"pci\n".to_vec())], cut: false,
            };
            let bytes = as_the_kernel_prints(&record, MESSAGE_MAX);
            let read = Record::parse(&bytes).unwrap();
            prop_assert_eq!(read.cut, bytes.len() >= MESSAGE_MAX);
            // Up to four bytes at its end are what became of an escape.
            let sure = read.text.len().saturating_sub(if read.cut { 4 } else { 0 });
            prop_assert_eq!(&read.text[..sure], &record.text[..sure]);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::parse(&bytes);
        }
    }

    /// A million records that something went wrong with.
    #[test]
    fn a_record_with_any_bytes_changed_is_a_record_or_an_error_and_never_larger() {
        let samples: [&[u8]; 4] = [
            b"6,339,5140900,-;NET: Registered protocol family 10\n",
            b"30,340,5690716,c,caller=T1,x;udevd\\x5b80\\x5d: \\xff\\x0a\n",
            b"7,160,424069,-;pci_root PNP0A03:00: host bridge\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
            b"2047,18446744073709551615,18446744073709551615,-,caller=C4294967295;\\x5c\n",
        ];
        // xorshift64: the same cases in each run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        };
        let likely = b",;\n \\x=-+c0123456789abcf\0\xff";
        let (mut records, mut errors) = (0, 0);
        for round in 0..1_000_000 {
            let mut bytes = samples[round % samples.len()].to_vec();
            for _ in 0..=random(3) {
                let (at, byte) = (random(bytes.len()), likely[random(likely.len())]);
                match random(4) {
                    0 => bytes.insert(at, byte),
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes[at] = byte,
                }
            }
            match Record::parse(&bytes) {
                Ok(record) => {
                    records += 1;
                    assert!(record.text.len() <= bytes.len());
                }
                Err(_) => errors += 1,
            }
        }
        // Both happen, and often.
        assert!(records > 100_000 && errors > 100_000, "{records} {errors}");
    }

    #[test]
    fn the_documented_records_are_read() {
        let record = Record::parse(
            b"7,160,424069,-,caller=T1;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7]\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n",
        )
        .unwrap();
        assert_eq!(
            (record.facility, record.level, record.seq, record.time_us),
            (0, Level::Debug, 160, 424_069)
        );
        assert!(!record.fragment && !record.injected() && !record.cut);
        assert_eq!(record.extra, [("caller".to_owned(), "T1".to_owned())]);
        assert_eq!(
            record.dictionary[1],
            (b"DEVICE".to_vec(), b"+acpi:PNP0A03:00".to_vec())
        );
        let record = Record::parse(b"30,340,5690716,c;udevd\\x5c[80]: \\x1b[2J\n").unwrap();
        assert_eq!((record.facility, record.level), (3, Level::Info));
        assert_eq!(facility_name(record.facility), "daemon");
        assert!(record.fragment && record.injected());
        assert_eq!(record.text, b"udevd\\[80]: \x1b[2J");
    }

    #[test]
    fn what_comes_by_ttyprintk_is_a_programs_though_its_facility_is_the_kernels() {
        let injected = |text: &str| {
            let record = Record::parse(format!("6,1,0,-;{text}\n").as_bytes()).unwrap();
            (record.injected(), record.written())
        };
        assert_eq!(injected("[U] task dockerd:1 blocked"), (true, false));
        for text in ["[U]", "[UFW BLOCK] IN=eth0", " [U] x"] {
            assert_eq!(injected(text), (false, false), "{text}");
        }
    }

    #[test]
    fn what_no_kernel_writes_is_an_error_that_says_what() {
        for (bytes, wrong) in [
            (&b""[..], Malformed::Head),
            (b"6,339,5140900;text\n", Malformed::Head),
            (b"6,339,5140900,-\n", Malformed::Head),
            (b"x,339,1,-;text\n", Malformed::Number("prio")),
            (b"2048,339,1,-;text\n", Malformed::Number("prio")),
            (b"6,+339,1,-;text\n", Malformed::Number("seq")),
            (
                b"6,18446744073709551616,1,-;text\n",
                Malformed::Number("seq"),
            ),
            (b"6,339,,-;text\n", Malformed::Number("time")),
            (b"6,339,1,-;a\\y\n", Malformed::Escape),
            (b"6,339,1,-;a\\x0\n", Malformed::Escape),
            (b"6,339,1,-;a\nb=c\n", Malformed::Dictionary),
            (b"6,339,1,-;a\n b\n", Malformed::Dictionary),
        ] {
            let said = Record::parse(bytes);
            assert_eq!(said, Err(wrong), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_level_is_read_by_its_names() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("warn".parse(), Ok(Level::Warning));
        assert_eq!("error".parse(), Ok(Level::Err));
        assert!(
            "loud"
                .parse::<Level>()
                .unwrap_err()
                .contains("emerg, alert")
        );
        assert_eq!(facility_name(23), "local7");
        assert_eq!(facility_name(200), "200");
    }
}
