//! A record for people: one line that says who did what, what was decided, on what grounds, and what came of it.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::{Kind, Record, Verdict};

/// Characters of a container's id that are enough to know it by, as every runtime prints them.
const SHORT_ID: usize = 12;
/// The end of a line, as a text has it.
const NEWLINE: &str = r"\x0a";
/// What was said so long before its record is not taken for news.
const OLD: TimeDelta = TimeDelta::minutes(1);

/// One line for a terminal, without its end; more, indented, where a policy was refused. Whatever a container wrote into it is escaped: see [`super::Text`].
#[must_use]
pub fn readable(record: &Record) -> String {
    let time = record.time.map_or_else(String::new, |time| {
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    });
    let severity = record.severity.map_or("-", |severity| severity.name());
    let mut line = format!("{time:<24}  {severity:<8}  {:<17}", record.kind);
    // Writing to a string cannot fail, here and below.
    let _ = write!(line, "  {}", said(record).join("; "));
    line.truncate(line.trim_end().len());
    if let Some(reason) = in_lines(record) {
        for part in reason.split(NEWLINE).filter(|part| !part.is_empty()) {
            let _ = write!(line, "\n    {part}");
        }
    }
    line
}

/// A reason that is shown line by line. What is wrong with a policy points into its text, and that root wrote; in whatever
/// else stands in a record, anyone's text may be, and a line is a line.
fn in_lines(record: &Record) -> Option<&str> {
    let reason = record.reason.as_ref()?.as_str();
    (record.kind == Kind::PolicyRefused && reason.contains(NEWLINE)).then_some(reason)
}

fn said(record: &Record) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(lost) = record.lost {
        said.push(format!("{lost} records LOST before this one"));
    }
    if let Some(id) = &record.container_id {
        let short: String = id.as_str().chars().take(SHORT_ID).collect();
        let runtime = record.container_runtime.as_ref();
        said.push(match runtime.map(super::Text::as_str) {
            Some("unknown") | None => short,
            Some(runtime) => format!("{runtime} {short}"),
        });
    } else if let Some(cgroup) = &record.cgroup {
        said.push(format!("cgroup {cgroup}"));
    }
    said.extend(decided(record));
    if let Some(step) = &record.step {
        said.push(step.to_string());
    }
    if let Some(setting) = &record.setting {
        let [old, new] =
            [&record.old, &record.new].map(|value| value.as_ref().map_or("?", super::Text::as_str));
        said.push(format!("{setting}: {old} -> {new}"));
    }
    if let Some(policy) = &record.policy {
        said.push(format!("policy {policy}"));
    }
    if let Some(rung) = record.rung {
        said.push(format!("rung {rung}"));
    }
    if let Some(rule) = &record.rule {
        said.push(format!("rule {rule}"));
    }
    if let Some(reason) = &record.reason
        && in_lines(record).is_none()
    {
        said.push(reason.to_string());
    }
    said.extend(record.said_at.and_then(|at| said_before(record.time, at)));
    match (&record.process_executable_name, record.process_pid) {
        (Some(name), Some(pid)) => said.push(format!("by {name}[{pid}]")),
        (Some(name), None) => said.push(format!("by {name}")),
        (None, Some(pid)) => said.push(format!("by pid {pid}")),
        (None, None) => {}
    }
    if !record.measured.is_empty() {
        let measured: Vec<String> = record
            .measured
            .iter()
            .map(|(measure, value)| format!("{measure}={value}"))
            .collect();
        said.push(measured.join(" "));
    }
    if let Some(suppressed) = record.suppressed {
        said.push(format!("{suppressed} more not told"));
    }
    if let Some(outcome) = &record.outcome {
        said.push(format!("outcome: {outcome}"));
    }
    said
}

/// When the kernel said it, where the record alone would make it read as if it were now.
fn said_before(time: Option<DateTime<Utc>>, at: DateTime<Utc>) -> Option<String> {
    if time.is_some_and(|time| time - at <= OLD) {
        return None;
    }
    let same_day = time.is_some_and(|time| time.date_naive() == at.date_naive());
    let format = if same_day {
        "said at %H:%M:%SZ"
    } else {
        "said at %Y-%m-%dT%H:%M:%SZ"
    };
    Some(at.format(format).to_string())
}

fn decided(record: &Record) -> Option<String> {
    let count = record
        .count
        .map_or_else(String::new, |count| format!(" x{count}"));
    let action = record.action.as_ref().map(super::Text::as_str);
    let verdict = record.verdict.map(|verdict| match verdict {
        Verdict::Allow => "allowed",
        Verdict::Audit => "would be refused",
        Verdict::Deny => "refused",
    });
    match (action, verdict) {
        (Some(action), Some(verdict)) => {
            let of = (record.argument.as_ref()).map(|argument| format!(" of {argument}"));
            Some(format!(
                "{action}{} {verdict}{count}",
                of.unwrap_or_default()
            ))
        }
        (Some(word), None) | (None, Some(word)) => Some(format!("{word}{count}")),
        (None, None) if !count.is_empty() => Some(count.trim_start().to_owned()),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::record::{Kind, Measure, Mode, Record, Severity, Verdict, readable};

    #[test]
    fn an_incident_is_one_line_that_says_it_all() {
        let mut record = Record::new(Kind::BreachBegan)
            .severity(Severity::High)
            .action("fork")
            .verdict(Verdict::Deny)
            .mode(Mode::Enforce)
            .rule("fork-storm")
            .container(b"/system.slice/docker-0123456789abcdef.scope")
            .process(4711, b"bomb\x1b[2J\0\0")
            .count(17)
            .reason("rate")
            .measured(Measure::Pids, 90);
        record.time = Some("2026-01-02T03:04:05.678Z".parse().unwrap());
        assert_eq!(
            readable(&record),
            "2026-01-02T03:04:05.678Z  high      breach.began       docker 0123456789ab; fork refused x17; \
             rule fork-storm; rate; by bomb\\x1b[2J[4711]; pids=90"
        );
    }

    #[test]
    fn a_line_of_the_kernel_that_is_older_than_a_minute_says_when_it_was_said() {
        let line = |said_at: &str| {
            let mut record = Record::new(Kind::Alarm)
                .reason("Line: x")
                .said_at(said_at.parse().unwrap());
            record.time = Some("2026-01-02T03:04:05Z".parse().unwrap());
            readable(&record)
        };
        assert!(line("2026-01-02T03:04:04Z").ends_with("Line: x"));
        assert!(line("2026-01-02T03:03:05Z").ends_with("Line: x"));
        assert!(line("2026-01-02T03:03:04Z").ends_with("Line: x; said at 03:03:04Z"));
        assert!(line("2026-01-01T23:59:59Z").ends_with("Line: x; said at 2026-01-01T23:59:59Z"));
        // The clock was set back since.
        assert!(line("2026-01-02T04:04:04Z").ends_with("Line: x"));
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_shown_line_by_line_and_nothing_else_is() {
        let mistakes =
            "p.yaml:3:7: `mode` cannot be `x`\n3 | mode: x\n  |       ^\n\np.yaml:5:1: a \\x0a";
        let of = |kind| readable(&Record::new(kind).reason(mistakes).outcome("SIGHUP"));
        let (first, rest) = {
            let said = of(Kind::PolicyRefused);
            let (first, rest) = said.split_once('\n').unwrap();
            (first.to_owned(), rest.to_owned())
        };
        assert!(
            first.ends_with("policy.refused     outcome: SIGHUP"),
            "{first}"
        );
        assert_eq!(
            rest,
            "    p.yaml:3:7: `mode` cannot be `x`\n    3 | mode: x\n      |       ^\n    p.yaml:5:1: a \\x5cx0a"
        );
        let said = of(Kind::Alarm);
        assert!(
            !said.contains('\n') && said.contains(r"`x`\x0a3 | mode"),
            "{said}"
        );
        let one = readable(&Record::new(Kind::PolicyRefused).reason("no such file"));
        assert!(one.ends_with("policy.refused     no such file"), "{one}");
    }

    #[test]
    fn a_record_that_says_nothing_ends_with_its_kind() {
        assert!(readable(&Record::new(Kind::DaemonStop)).ends_with("daemon.stop"));
    }
}
