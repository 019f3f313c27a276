//! One line of the host's copy: a record of the kernel log, or how many of them are not there.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::{
    names::By,
    reader::Why,
    record::{Level, Record, facility_name},
};
use crate::record::{LongText, Text, fields::time};

/// A line. Fields that say nothing are left out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was said, by the host's clock: as much before it was read as the kernel's two clocks say.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
    /// The kernel's random id of the boot.
    pub boot: Text,
    /// The record's number since boot; of lost records, the last one's.
    pub seq: u64,
    /// How many records up to `seq` are lost; absent where it is a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// Why they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// Microseconds since boot, as the kernel printed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monotonic_us: Option<u64>,
    /// Who said it: `kern`, or what a process called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<Text>,
    /// How grave it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// A process said it, not the kernel.
    #[serde(default, skip_serializing_if = "is_false")]
    pub injected: bool,
    /// It goes on with the line of an earlier record, mostly the one before it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fragment: bool,
    /// It fills the kernel's buffer: its end may be missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// Who printed it.
    #[serde(flatten)]
    pub by: By,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<LongText>,
    /// What else stands in the record's head, as `caller`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Text>,
    /// Keys and values for machines, as `SUBSYSTEM` and `DEVICE`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dictionary: BTreeMap<String, Text>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What time it is, by the host's clock and since boot.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The host's clock.
    pub now: DateTime<Utc>,
    /// `CLOCK_MONOTONIC` in microseconds: what the kernel's `local_clock()` goes by, but for what is slewed.
    pub monotonic_us: u64,
}

impl Clocks {
    /// `CLOCK_MONOTONIC`.
    #[must_use]
    pub const fn since_boot(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.monotonic_us)
    }

    /// The host's clock, when the kernel's was so.
    pub(super) fn at(self, time_us: u64) -> DateTime<Utc> {
        let ago = self.monotonic_us.saturating_sub(time_us);
        let ago = TimeDelta::microseconds(i64::try_from(ago).unwrap_or(i64::MAX));
        self.now.checked_sub_signed(ago).unwrap_or(self.now)
    }
}

impl Line {
    /// Whether a process wrote it into `/dev/kmsg`, which it may then have got from here.
    #[must_use]
    pub fn written(&self) -> bool {
        self.injected
            && self
                .facility
                .as_ref()
                .is_none_or(|name| name.as_str() != "kern")
    }

    /// The line of a record that is read at this time.
    #[must_use]
    pub fn of(record: &Record, boot: &Text, clocks: Clocks) -> Self {
        Self {
            time: Some(clocks.at(record.time_us)),
            boot: boot.clone(),
            seq: record.seq,
            monotonic_us: Some(record.time_us),
            facility: Some(facility_name(record.facility).into()),
            level: Some(record.level),
            injected: record.injected(),
            fragment: record.fragment,
            cut: record.cut,
            text: Some(LongText::from_bytes(&record.text)),
            extra: record
                .extra
                .iter()
                .map(|(key, value)| (Text::from(key).to_string(), value.into()))
                .collect(),
            dictionary: record
                .dictionary
                .iter()
                .map(|(key, value)| (Text::from_bytes(key).to_string(), Text::from_bytes(value)))
                .collect(),
            ..Self::default()
        }
    }

    /// The line that says that so many records are lost, `last` the last of them.
    #[must_use]
    pub fn of_loss(count: u64, last: u64, why: Why, boot: &Text, clocks: Clocks) -> Self {
        Self {
            time: Some(clocks.now),
            boot: boot.clone(),
            seq: last,
            lost: Some(count),
            reason: Some(why.words().into()),
            ..Self::default()
        }
    }

    /// Adds it to `out`, with its end.
    ///
    /// # Errors
    /// JSON has no line for it.
    pub fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let before = out.len();
        if let Err(error) = serde_json::to_writer(&mut *out, self) {
            out.truncate(before);
            return Err(error);
        }
        out.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::klog::{about::Whom, names::Origin};

    const CLOCKS: &str = "2026-11-25T10:00:05Z";

    fn clocks() -> Clocks {
        Clocks {
            now: CLOCKS.parse().unwrap(),
            monotonic_us: 7_000_000,
        }
    }

    fn line(bytes: &[u8]) -> String {
        let record = Record::parse(bytes).unwrap();
        let mut out = Vec::new();
        Line::of(&record, &"boot".into(), clocks())
            .write(&mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_is_a_line_with_what_it_says_and_when() {
        assert_eq!(
            line(b"6,339,5140900,-;NET: up\n SUBSYSTEM=net\n"),
            "{\"time\":\"2026-11-25T10:00:03.140900000Z\",\"boot\":\"boot\",\"seq\":339,\"monotonic_us\":5140900,\
             \"facility\":\"kern\",\"level\":\"info\",\"text\":\"NET: up\",\"dictionary\":{\"SUBSYSTEM\":\"net\"}}\n"
        );
    }

    #[test]
    fn what_a_process_wrote_is_marked_and_no_byte_of_it_is_more_than_text() {
        let line = line(b"14,340,8000000,c,caller=T9;\\x1b[2J\\x0a\\xff\\x5cx1b \\xc3\\xbc\n");
        for part in [
            "\"time\":\"2026-11-25T10:00:05.000000000Z\"",
            "\"facility\":\"user\"",
            "\"injected\":true,\"fragment\":true",
            r#""text":"\\x1b[2J\\x0a\\xff\\x5cx1b ü""#,
            r#""extra":{"caller":"T9"}"#,
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let back: Line = serde_json::from_str(&line).unwrap();
        assert_eq!(
            back.text.unwrap().to_bytes(),
            b"\x1b[2J\n\xff\\x1b \xc3\xbc"
        );
    }

    #[test]
    fn the_page_on_operating_tells_of_every_key() {
        const PAGE: &str = include_str!("../../../docs/operating.md");
        let mut line = Line::of_loss(1, 1, Why::Overrun, &"boot".into(), clocks());
        let mut record = Record::parse(b"14,340,1,c,caller=T9;text\n KEY=value\n").unwrap();
        record.cut = true;
        let (loss, record) = (line.clone(), Line::of(&record, &"boot".into(), clocks()));
        line.clone_from(&record);
        (line.lost, line.reason) = (loss.lost, loss.reason);
        line.by = By {
            from: Some(Origin::Container),
            container: Some("id".into()),
            runtime: Some("docker".into()),
            pid: Some(1),
            comm: Some("sh".into()),
            cgroup_id: Some(2),
            about: Some(Box::new(Whom {
                whose: Origin::Container,
                container: Some("id".into()),
                runtime: Some("docker".into()),
                pid: Some(1),
                comm: Some("sh".into()),
                cgroup: Some("/docker/id".into()),
                cgroup_id: Some(2),
            })),
        };
        // A field that says nothing above is missed here.
        assert!(!format!("{line:?}").contains("None"));
        let json = serde_json::to_value(&line).unwrap();
        let (_, section) = PAGE.split_once("\n## The kernel log\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let told: BTreeSet<&str> = section
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split("` |").next())
            .collect();
        let keys: BTreeSet<&str> = json
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(told, keys);
    }

    #[test]
    fn a_loss_is_a_line_that_says_how_many_up_to_which() {
        let mut out = Vec::new();
        Line::of_loss(7, 346, Why::Overrun, &"boot".into(), clocks())
            .write(&mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"time\":\"2026-11-25T10:00:05.000000000Z\",\"boot\":\"boot\",\"seq\":346,\"lost\":7,\
             \"reason\":\"overwritten in the kernel's buffer before they were read\"}\n"
        );
    }
}
