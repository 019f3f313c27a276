//! `docs/audit.md` names what the code names: every key, kind and measure, and no other; and shows what it prints.

use std::collections::BTreeSet;

use guard_common::action::Action;

use super::{Kind, Measure, Mode, Record, Severity, Verdict, readable};
use crate::kernel::rungs::Rung;

const PAGE: &str = include_str!("../../../docs/audit.md");

/// Rows of the table below a heading: the first two cells.
fn rows(heading: &str) -> BTreeSet<(String, String)> {
    let (_, below) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = below.split("\n## ").next().unwrap();
    section
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((name.to_owned(), rest.split(" |").next()?.to_owned()))
        })
        .collect()
}

#[test]
fn the_page_has_every_kind_and_measure_with_its_meaning() {
    let words = |name: &str, meaning: &str| (name.to_owned(), meaning.to_owned());
    let kinds = Kind::ALL
        .iter()
        .map(|kind| words(kind.name(), kind.meaning()));
    assert_eq!(rows("Kinds"), kinds.collect());
    let measures = Measure::ALL
        .iter()
        .map(|measure| words(measure.name(), measure.meaning()));
    assert_eq!(rows("Measures"), measures.collect());
}

#[test]
fn the_page_has_every_key() {
    let mut record = Record::new(Kind::Step)
        .severity(Severity::Low)
        .action("fork")
        .argument(Action::NetLinkCreate, &[1, 0, 0, 0, 0, 0, 0])
        .verdict(Verdict::Deny)
        .mode(Mode::Audit)
        .rule("rule")
        .rung(Rung::Lsm)
        .container(b"/docker/abc")
        .process(1, b"sh")
        .count(1)
        .suppressed(1)
        .reason("reason")
        .said_at(chrono::Utc::now())
        .measured(Measure::Pids, 1)
        .step("freeze")
        .setting("pids.max", "max", "1")
        .outcome("outcome")
        .policy("policy");
    record.time = Some(chrono::Utc::now());
    record.boot_id = "boot".into();
    record.lost = Some(1);
    // A field that is left out above is missed here: `None` shows in the debug string.
    assert!(!format!("{record:?}").contains("None"));
    let json = serde_json::to_value(&record).unwrap();
    let keys: BTreeSet<String> = json.as_object().unwrap().keys().cloned().collect();
    let told: BTreeSet<String> = rows("Keys").into_iter().map(|(key, _)| key).collect();
    assert_eq!(told, keys);
}

#[test]
fn the_page_shows_a_line_as_it_is_printed() {
    let mut record = Record::new(Kind::BreachBegan)
        .rung(Rung::Lsm)
        .container(b"/system.slice/docker-4f1c9d2ab07e6653.scope")
        .action("fork")
        .verdict(Verdict::Deny)
        .mode(Mode::Enforce)
        .count(1)
        .rule("fork-storm")
        .severity(Severity::High)
        .reason("forks faster than the rule allows")
        .process(48211, b"bomb\x1b[2J\0")
        .measured(Measure::Pids, 2411)
        .measured(Measure::Rate, 500)
        .measured(Measure::Burst, 2000)
        .measured(Measure::RefusedRate, 1)
        .measured(Measure::BreachMs, 0);
    record.time = Some("2026-11-24T22:37:19.659640769Z".parse().unwrap());
    let line = readable(&record);
    assert!(PAGE.contains(&format!("\n{line}\n")), "{line}");
}
