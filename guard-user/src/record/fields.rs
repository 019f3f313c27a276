//! One record: what it can say, and under which key.
//!
//! Keys are OpenTelemetry's where it has one (`container.id`, `container.runtime`, `process.pid`,
//! `process.executable.name`), flat, so that a collector takes a line as it is.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use guard_common::{
    action::{Action, Takes, Told},
    device::Device,
    netlink::Family,
    socket::Socket,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    text::Text,
    words::{Kind, Measure, Mode, Severity, Verdict},
};
use crate::kernel::rungs::Rung;

/// One line of the audit log. Fields that say nothing are left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was, to the nanosecond, in UTC. The writer sets it if it is `None`.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub time: Option<DateTime<Utc>>,
    /// The kernel's random id of this boot. The writer sets it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub boot_id: Text,
    /// Number of this record in the file and those rotated before it. The writer sets it.
    #[serde(default)]
    pub seq: u64,
    /// What it tells.
    pub kind: Kind,
    /// How grave it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// What a task tried to do, as policy names it: `fork`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Text>,
    /// What it was done to: the kind of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argument: Option<Text>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// How the rule is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Name of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Text>,
    /// What it was decided by.
    #[serde(default, with = "rung", skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// The container's id in its runtime.
    #[serde(
        rename = "container.id",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub container_id: Option<Text>,
    /// The runtime that made the container.
    #[serde(
        rename = "container.runtime",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub container_runtime: Option<Text>,
    /// Path of the container's cgroup from the root of its hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Text>,
    /// Process id in the host's pid namespace.
    #[serde(
        rename = "process.pid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub process_pid: Option<u32>,
    /// What the task calls itself; it may say what it likes.
    #[serde(
        rename = "process.executable.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub process_executable_name: Option<Text>,
    /// What happened so often that this one record tells it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Events of this rule and container that were counted and not told, since the last that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// When the kernel said what this is about: long before `time`, if the line was older than the daemon.
    #[serde(default, with = "time", skip_serializing_if = "Option::is_none")]
    pub said_at: Option<DateTime<Utc>>,
    /// What was measured when it was decided.
    #[serde(
        default,
        deserialize_with = "measured",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub measured: BTreeMap<Measure, u64>,
    /// The step of a ladder: `freeze`, `thaw`, `kill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Text>,
    /// The setting of the host that was changed: its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<Text>,
    /// Its value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Text>,
    /// Its value now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Text>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Text>,
    /// Where the policy came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Text>,
    /// Records that were lost before this one. The writer sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $field:ident: $argument:ty;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $field(mut self, value: $argument) -> Self {
            self.$field = Some(value.into());
            self
        })*
    };
}

impl Record {
    /// A record that says nothing but its kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            time: None,
            boot_id: Text::default(),
            seq: 0,
            kind,
            severity: None,
            action: None,
            argument: None,
            verdict: None,
            mode: None,
            rule: None,
            rung: None,
            container_id: None,
            container_runtime: None,
            cgroup: None,
            process_pid: None,
            process_executable_name: None,
            count: None,
            suppressed: None,
            reason: None,
            said_at: None,
            measured: BTreeMap::new(),
            step: None,
            setting: None,
            old: None,
            new: None,
            outcome: None,
            policy: None,
            lost: None,
        }
    }

    setters! {
        /// Says how grave it is.
        severity: Severity;
        /// Says what a task tried to do.
        action: impl Into<Text>;
        /// Says what was decided.
        verdict: Verdict;
        /// Says how the rule is applied.
        mode: Mode;
        /// Says which rule.
        rule: impl Into<Text>;
        /// Says what it was decided by.
        rung: Rung;
        /// Says how often.
        count: u64;
        /// Says how many events were not told.
        suppressed: u64;
        /// Says why.
        reason: impl Into<Text>;
        /// Says when the kernel said it.
        said_at: DateTime<Utc>;
        /// Says which step was taken.
        step: impl Into<Text>;
        /// Says what came of it.
        outcome: impl Into<Text>;
        /// Says where the policy came from.
        policy: impl Into<Text>;
    }

    /// Says which container, by the path of its cgroup: id and runtime are read from it.
    #[must_use]
    pub fn container(mut self, path: &[u8]) -> Self {
        let (runtime, id) = match std::str::from_utf8(path) {
            Ok(path) => crate::identity::runtime::parse(path),
            Err(_) => ("unknown", ""),
        };
        self.container_runtime = Some(runtime.into());
        self.container_id = Some(id.into());
        self.cgroup = Some(Text::from_bytes(path));
        self
    }

    /// Says which process, by its number on the host and the kernel's buffer with its name.
    #[must_use]
    pub fn process(mut self, pid: u32, comm: &[u8]) -> Self {
        self.process_pid = Some(pid);
        self.process_executable_name = Some(Text::from_buffer(comm));
        self
    }

    /// Says what it was done to, by the kernel side's words; says nothing if they are empty.
    #[must_use]
    pub fn argument(mut self, action: Action, told: &Told) -> Self {
        let [one, two, ..] = *told;
        let words = match action.takes() {
            Takes::Sockets => Socket::from_argument([one, two]).map(|socket| socket.to_string()),
            Takes::Families => Family::from_argument([one, two]).map(|family| family.to_string()),
            Takes::Devices | Takes::StandsOn => {
                Device::from_argument([one, two]).map(|device| device.to_string())
            }
            Takes::Kinds
            | Takes::Names
            | Takes::Paths
            | Takes::FileSystems
            | Takes::KeyTypes
            | Takes::Nothing => None,
        };
        let bytes = words.map_or_else(|| told.map(u64::to_le_bytes).concat(), String::into_bytes);
        if *told != Told::default() {
            self.argument = Some(Text::from_buffer(&bytes));
        }
        self
    }

    /// Says what was measured.
    #[must_use]
    pub fn measured(mut self, measure: Measure, value: u64) -> Self {
        self.measured.insert(measure, value);
        self
    }

    /// Says what a setting of the host was and is.
    #[must_use]
    pub fn setting(
        mut self,
        path: impl Into<Text>,
        old: impl Into<Text>,
        new: impl Into<Text>,
    ) -> Self {
        self.setting = Some(path.into());
        self.old = Some(old.into());
        self.new = Some(new.into());
        self
    }

    /// The one line that stands for it, its end included.
    pub(super) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

fn is_empty(text: &Text) -> bool {
    text.as_str().is_empty()
}

/// Times as RFC 3339 with nanoseconds: as text they sort as they happened.
pub(crate) mod time {
    use chrono::SecondsFormat;

    use super::{DateTime, Deserialize, Deserializer, Serializer, Utc};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(
        time: &Option<DateTime<Utc>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => {
                serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Nanos, true))
            }
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DateTime<Utc>>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
        Ok(Some(time.to_utc()))
    }
}

mod rung {
    use super::{Deserialize, Deserializer, Rung, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(rung: &Option<Rung>, serializer: S) -> Result<S::Ok, S::Error> {
        rung.map(Rung::name).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Rung>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

/// What a newer daemon measured as well is passed over.
fn measured<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Measure, u64>, D::Error> {
    struct Measured;

    impl<'de> Visitor<'de> for Measured {
        type Value = BTreeMap<Measure, u64>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object of numbers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if let Ok(measure) = key.parse() {
                    out.insert(measure, map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(out)
        }
    }

    deserializer.deserialize_map(Measured)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_holds_what_any_container_wrote_and_no_control_character(
            path in prop::collection::vec(any::<u8>(), 0..300),
            comm in any::<[u8; 16]>(),
            reason in any::<String>(),
            nanoseconds in 0..i64::MAX,
            pids in any::<u64>(),
        ) {
            let mut record = Record::new(Kind::MovedOut)
                .container(&path)
                .process(7, &comm)
                .reason(&reason)
                .rung(Rung::FmodRet)
                .measured(Measure::Pids, pids);
            record.time = Some(DateTime::from_timestamp_nanos(nanoseconds));
            let line = String::from_utf8(record.line().unwrap()).unwrap();
            let (body, end) = line.split_at(line.len() - 1);
            prop_assert_eq!(end, "\n");
            prop_assert!(!body.chars().any(char::is_control), "{body:?}");
            let back: Record = serde_json::from_str(body).unwrap();
            prop_assert_eq!(back.cgroup.as_ref().unwrap().to_bytes(), path);
            prop_assert_eq!(back, record);
        }

        #[test]
        fn no_line_of_a_file_is_more_than_a_record_or_an_error(line in any::<Vec<u8>>()) {
            let _ = serde_json::from_slice::<Record>(&line);
        }
    }

    #[test]
    fn the_longest_record_is_a_line_that_is_read_back() {
        let long = "\\".repeat(10_000);
        let mut record = Record::new(Kind::Step)
            .container(long.as_bytes())
            .process(u32::MAX, long.as_bytes())
            .setting(&long, &long, &long)
            .action(&long)
            .rule(&long)
            .reason(&long)
            .said_at(DateTime::from_timestamp_nanos(i64::MAX))
            .step(&long)
            .outcome(&long)
            .policy(&long);
        for measure in Measure::ALL {
            record = record.measured(*measure, u64::MAX);
        }
        assert!(record.line().unwrap().len() < 32 << 10);
    }

    #[test]
    fn what_a_newer_daemon_says_as_well_is_passed_over() {
        let line =
            r#"{"kind":"step","seq":3,"new.key":[1],"measured":{"pids":4,"entropy":{"x":1}}}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!(record.seq, 3);
        assert_eq!(record.measured, BTreeMap::from([(Measure::Pids, 4)]));
    }
}
