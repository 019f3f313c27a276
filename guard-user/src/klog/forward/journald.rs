//! A line as journald's native protocol has it: who printed it stands in fields of its own, beyond the reach of its text.
//!
//! Ours, since no crate can do without waiting for a journald that stands still: `docs/decisions/0015-outlets.md`.

use std::fmt::Write as _;

use super::said::{NAME, Said};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Adds the entry to `out`: `KEY=value` lines (systemd.io, JOURNAL_NATIVE_PROTOCOL). No value has a newline in it, which
/// would need the protocol's other form: all are escaped ([`crate::record::Text`]).
pub fn write(out: &mut Vec<u8>, said: &Said<'_>) {
    let mut entry = String::new();
    // Writing to a string cannot fail.
    let mut add = |key: &str, value: &str| {
        let value = value.replace('\n', " ");
        let _ = writeln!(entry, "{key}={value}");
    };
    add("MESSAGE", &said.text);
    add("PRIORITY", &(said.level as u8).to_string());
    add("SYSLOG_FACILITY", &said.facility.to_string());
    add("SYSLOG_IDENTIFIER", NAME);
    add("BULKHEAD_KIND", said.kind);
    // The journal's own time is when it was told.
    add(
        "BULKHEAD_TIME",
        &said
            .time
            .to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
    );
    for (key, value) in &said.fields {
        add(&format!("BULKHEAD_{}", key.to_ascii_uppercase()), value);
    }
    out.extend_from_slice(entry.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::klog::forward::said::tests::{line, now, of_a_container};

    fn entry(said: &Said<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, said);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_an_entry_with_who_printed_it_in_fields() {
        let line = of_a_container(b"11,340,5140900,-;oh no\n");
        assert_eq!(
            entry(&Said::line(&line, now())),
            "MESSAGE=oh no\nPRIORITY=3\nSYSLOG_FACILITY=1\nSYSLOG_IDENTIFIER=bulkhead-kernel\nBULKHEAD_KIND=kmsg\n\
             BULKHEAD_TIME=2026-11-25T10:00:03.140900Z\nBULKHEAD_SEQ=340\nBULKHEAD_BOOT=boot-id\n\
             BULKHEAD_MONOTONIC_US=5140900\nBULKHEAD_FROM=container\nBULKHEAD_CONTAINER=c0ffee\n\
             BULKHEAD_RUNTIME=docker\nBULKHEAD_PID=4711\nBULKHEAD_COMM=we\"ird]\\\nBULKHEAD_CGROUP_ID=99\n\
             BULKHEAD_INJECTED=true\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_a_field(text in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(b'\n'), Just(b'=')], 0..100)
        ) {
            let mut line = line(b"6,5,1,-;x\n");
            line.text = Some(crate::record::LongText::from_bytes(&text));
            line.by.comm = Some(crate::record::Text::from_bytes(&text));
            let entry = entry(&Said::line(&line, now()));
            let keys: Vec<&str> = entry.lines().map(|line| line.split('=').next().unwrap()).collect();
            prop_assert_eq!(keys, [
                "MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "BULKHEAD_KIND", "BULKHEAD_TIME",
                "BULKHEAD_SEQ", "BULKHEAD_BOOT", "BULKHEAD_MONOTONIC_US", "BULKHEAD_COMM",
            ]);
        }
    }
}
