//! What a receiver is told of a line, whatever the format: who printed it, so that a forged line never passes for the
//! kernel's.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::super::{
    line::Line,
    names::Origin,
    record::{Level, facility_name},
};

/// Who all lines come from, to a receiver. Not `kernel`: by this name a line that comes back is known ([`super::echo`]),
/// and told apart from what the receiver read in `/dev/kmsg` itself.
pub const NAME: &str = "bulkhead-kernel";

/// Facilities that syslog knows.
const FACILITIES: u8 = 24;
/// `user`, for what has none of them.
const USER: u8 = 1;
/// `syslog`, for what is said of the lines.
const SYSLOG: u8 = 5;

/// Lines that an outlet did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub count: u64,
    /// Number of the first of them.
    pub first: u64,
    /// Number of the last of them.
    pub last: u64,
    /// Why.
    pub why: Why,
}

/// Why a line was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The receiver took them too slowly, or not at all.
    Receiver,
    /// Programs wrote too many, or the same again and again.
    Repeated,
}

impl Gap {
    /// Of one line.
    pub const fn of(seq: u64, why: Why) -> Self {
        Self {
            count: 1,
            first: seq,
            last: seq,
            why,
        }
    }

    /// Both together, `other` the later one.
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            last: other.last,
            ..self
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        let lines = if self.count == 1 {
            "line of the kernel log was"
        } else {
            "lines of the kernel log were"
        };
        let why = match self.why {
            Why::Receiver => "they were not taken in time",
            Why::Repeated => "programs wrote too many of them, or the same again and again",
        };
        format!(
            "{} {lines} not forwarded, between number {} and {}: {why}",
            self.count, self.first, self.last
        )
    }
}

/// What a receiver gets as one message.
#[derive(Debug)]
pub struct Said<'l> {
    /// When it was said.
    pub time: DateTime<Utc>,
    /// syslog's number; 24 and more are the kernel's alone.
    pub facility: u8,
    /// How grave it is.
    pub level: Level,
    /// The process that printed it.
    pub pid: Option<u32>,
    /// `kmsg`, `lost`, `gap` or `broken`.
    pub kind: &'static str,
    /// What it says, without a control character.
    pub text: Cow<'l, str>,
    /// Key and value, named as in the copy.
    pub fields: Vec<(&'static str, Cow<'l, str>)>,
}

impl<'l> Said<'l> {
    /// A line of the copy.
    pub fn line(line: &'l Line, now: DateTime<Utc>) -> Self {
        let mut fields: Vec<(&'static str, Cow<'l, str>)> =
            vec![("seq", line.seq.to_string().into())];
        let mut add = |key, value: Option<Cow<'l, str>>| {
            fields.extend(value.map(|value| (key, value)));
        };
        let yes = |is: bool| is.then_some(Cow::Borrowed("true"));
        let number = |number: Option<u64>| number.map(|number| number.to_string().into());
        add("boot", Some(line.boot.as_str().into()));
        add("monotonic_us", number(line.monotonic_us));
        add("from", line.by.from.map(|from| origin(from).into()));
        add(
            "container",
            line.by.container.as_ref().map(|id| id.as_str().into()),
        );
        add(
            "runtime",
            line.by.runtime.as_ref().map(|name| name.as_str().into()),
        );
        add("pid", number(line.by.pid.map(u64::from)));
        add(
            "comm",
            line.by.comm.as_ref().map(|name| name.as_str().into()),
        );
        add("cgroup_id", number(line.by.cgroup_id));
        add("injected", yes(line.injected));
        add("fragment", yes(line.fragment));
        add("cut", yes(line.cut));
        add("lost", number(line.lost));
        for (key, name) in [("SUBSYSTEM", "subsystem"), ("DEVICE", "device")] {
            add(
                name,
                line.dictionary.get(key).map(|value| value.as_str().into()),
            );
        }
        let name = line.facility.as_ref().map(|name| name.as_str());
        let facility = name.and_then(number_of);
        if facility.is_none() {
            add("facility", name.map(Cow::from));
        }
        let lost = || {
            let why = line.reason.as_ref().map_or("", |reason| reason.as_str());
            let count = line.lost.unwrap_or(0);
            Cow::from(format!("{count} lines of the kernel log are lost: {why}"))
        };
        Self {
            time: line.time.unwrap_or(now),
            facility: facility.unwrap_or(if name.is_some() { USER } else { SYSLOG }),
            level: line.level.unwrap_or(Level::Warning),
            pid: line.by.pid,
            kind: if line.lost.is_some() { "lost" } else { "kmsg" },
            text: line
                .text
                .as_ref()
                .map_or_else(lost, |text| text.as_str().into()),
            fields,
        }
    }

    /// Lines that this receiver did not get.
    pub fn gap(gap: &Gap, now: DateTime<Utc>) -> Self {
        Self::of_ourselves(
            "gap",
            gap.words(),
            vec![
                ("count", gap.count.to_string().into()),
                ("first", gap.first.to_string().into()),
                ("last", gap.last.to_string().into()),
            ],
            now,
        )
    }

    /// The receiver was gone for a while; `last`: number of the last line that was sent to it before.
    pub fn broken(last: u64, now: DateTime<Utc>) -> Self {
        Self::of_ourselves(
            "broken",
            format!(
                "this receiver was gone behind line {last} of the kernel log: what it was sent just before may be missing"
            ),
            vec![("last", last.to_string().into())],
            now,
        )
    }

    fn of_ourselves(
        kind: &'static str,
        text: String,
        fields: Vec<(&'static str, Cow<'l, str>)>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            time: now,
            facility: SYSLOG,
            level: Level::Warning,
            pid: None,
            kind,
            text: text.into(),
            fields,
        }
    }
}

const fn origin(from: Origin) -> &'static str {
    match from {
        Origin::Kernel => "kernel",
        Origin::Host => "host",
        Origin::Container => "container",
        Origin::Unknown => "unknown",
    }
}

/// syslog's number of a facility that has a name there.
fn number_of(name: &str) -> Option<u8> {
    (0..FACILITIES).find(|number| {
        // 12 to 15 have a number for their name, and no place in most receivers.
        !(12..16).contains(number) && facility_name(*number) == name
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        klog::{line::Clocks, names::By, reader, record::Record},
        record::Text,
    };

    /// A line as the keeper makes it of a record.
    pub fn line(record: &[u8]) -> Line {
        let clocks = Clocks {
            now: "2026-11-25T10:00:05Z".parse().unwrap(),
            monotonic_us: 7_000_000,
        };
        Line::of(
            &Record::parse(record).unwrap(),
            &Text::from("boot-id"),
            clocks,
        )
    }

    /// The same, printed in a container.
    pub fn of_a_container(record: &[u8]) -> Line {
        Line {
            by: By {
                from: Some(Origin::Container),
                container: Some("c0ffee".into()),
                runtime: Some("docker".into()),
                pid: Some(4711),
                comm: Some("we\"ird]\\".into()),
                cgroup_id: Some(99),
                about: None,
            },
            ..line(record)
        }
    }

    pub fn now() -> DateTime<Utc> {
        "2026-11-25T10:00:06Z".parse().unwrap()
    }

    #[test]
    fn a_line_keeps_its_facility_its_level_its_time_and_who_printed_it() {
        let line = of_a_container(b"11,340,5140900,c;text\n SUBSYSTEM=net\n DEVICE=n2\n OTHER=x\n");
        let said = Said::line(&line, now());
        assert_eq!(
            (said.facility, said.level, said.pid, said.kind),
            (1, Level::Err, Some(4711), "kmsg")
        );
        assert_eq!(said.text, "text");
        assert_eq!(Some(said.time), line.time);
        let fields: Vec<String> = (said.fields.iter())
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            fields.join(" "),
            "seq=340 boot=boot-id monotonic_us=5140900 from=container container=c0ffee runtime=docker pid=4711 \
             comm=we\"ird]\\ cgroup_id=99 injected=true fragment=true subsystem=net device=n2"
        );
    }

    #[test]
    fn a_facility_that_syslog_lacks_is_user_and_stands_beside_it() {
        for (prio, number, beside) in [
            ("6", 0, None),
            ("190", 23, None),
            ("102", 1, Some("12")),
            ("1600", 1, Some("200")),
        ] {
            let line = line(format!("{prio},1,1,-;x\n").as_bytes());
            let said = Said::line(&line, now());
            let found = said.fields.iter().find(|(key, _)| *key == "facility");
            assert_eq!(said.facility, number, "{prio}");
            assert_eq!(found.map(|(_, value)| value.as_ref()), beside);
        }
    }

    #[test]
    fn what_is_lost_and_what_was_not_forwarded_are_said_as_what_they_are() {
        let clocks = Clocks {
            now: now(),
            monotonic_us: 1,
        };
        let loss = Line::of_loss(7, 346, reader::Why::Overrun, &"boot-id".into(), clocks);
        let said = Said::line(&loss, now());
        assert_eq!((said.kind, said.facility), ("lost", SYSLOG));
        assert!(said.text.starts_with("7 lines of the kernel log are lost"));
        let gap = Gap::of(3, Why::Receiver).and(Gap::of(9, Why::Receiver));
        let said = Said::gap(&gap, now());
        assert_eq!(said.kind, "gap");
        assert!(
            said.text.starts_with(
                "2 lines of the kernel log were not forwarded, between number 3 and 9"
            )
        );
    }
}
