//! One rule of a policy: its limits and its ladder, or an error where it could never apply.

use std::time::Duration;

use guard_common::fork_storm::ForkLimits;

use super::{
    armed::Armed,
    denial::Denial,
    deny::denials,
    model::{Act, Escalation, Forks, Mode, Severity},
    parse::{DAY, SECOND, name},
    problem::{At, Desk},
    section::{Given, Section, twice},
    units::{self, PIDS, Rate},
    yaml::{Node, Value},
};

/// Alarm when so little is left, where a rule with `pids` says nothing.
const LEAK: Duration = Duration::from_secs(30 * 60);
/// How long a freeze lasts where a step says nothing.
const FREEZE: Duration = Duration::from_secs(10);
/// Steps of a ladder.
const STEPS: usize = 8;

/// A rule as one file has it.
pub struct DraftRule {
    pub name: String,
    pub at: At,
    pub subjects: Vec<(String, At)>,
    pub mode: Option<Mode>,
    pub forks: Option<Forks>,
    pub pids: Option<u32>,
    pub leak: Option<Duration>,
    pub deny: Vec<Denial>,
    pub except: Vec<(String, At)>,
    pub severity: Severity,
    pub escalate: Vec<Escalation>,
}

/// Reads a rule. `None`: it has no name; told.
pub fn rule(desk: &mut Desk, node: &Node) -> Option<DraftRule> {
    let before = desk.problems.len();
    let section = Section::new(desk, node, "rules[]")?;
    let (name, at) = match section.need(desk, "name") {
        Some(given) => {
            let text = given.text(desk);
            (
                text.and_then(|text| name(desk, text, given.node.at)),
                given.node.at,
            )
        }
        None => (None, node.at),
    };
    let mut subjects: Vec<(String, At)> = Vec::new();
    if let Some(given) = section.need(desk, "subjects") {
        subjects = each_once(desk, given, "subject");
        if given.list_is_empty() {
            given.wrong(
                desk,
                "the rule has no subjects: it can never apply".to_owned(),
            );
        }
    }
    let except = section
        .get("except")
        .map(|given| each_once(desk, given, "subject"))
        .unwrap_or_default();
    if let Some((name, at)) = except
        .iter()
        .find(|(name, _)| subjects.iter().any(|(subject, _)| subject == name))
    {
        desk.tell(
            *at,
            format!("subject `{name}` stands in `subjects` and in `except`: the rule can never apply to it"),
            "subjects that some containers of `subjects` belong to as well",
            "take it out of one of the two",
        );
    }
    let mut deny = denials(desk, section.get("deny"), section.get("when"));
    if let Some(given) = section.get("kernel") {
        let affected = affected(desk, given, section.get("deny").is_some());
        for denial in deny.iter_mut().filter(|_| affected) {
            denial.armed = Armed::Unasked;
        }
    }
    let mode = section.get("mode").and_then(|given| given.mode(desk));
    let forks = section.get("forks").and_then(|given| forks(desk, given));
    let (pids, leak) = section
        .get("pids")
        .map_or((None, None), |given| pids(desk, given));
    let severity = section
        .get("severity")
        .and_then(|given| given.severity(desk));
    let escalate = section
        .get("escalate")
        .map(|given| ladder(desk, given))
        .unwrap_or_default();
    if desk.problems.len() == before {
        if forks.is_none() && pids.is_none() && leak.is_none() && deny.is_empty() {
            desk.tell(
                At {
                    length: 1,
                    ..node.at
                },
                "the rule limits nothing: it can never apply",
                "`forks`, `pids` or `deny`, or several of them",
                "add `forks: {rate: 500/s, burst: 2000}`, `pids: {max: 4096}` or `deny: [kernel_log.read]`",
            );
        } else if let Some(given) = section
            .get("escalate")
            .filter(|_| forks.is_none() && pids.is_none())
        {
            let message = "only refused forks escalate, and this rule refuses none: its `escalate` can never apply";
            desk.tell(
                given.key,
                message,
                "`forks` or `pids.max` beside it",
                "add a limit, or take `escalate` out",
            );
        }
    }
    Some(DraftRule {
        name: name?,
        at,
        subjects,
        mode,
        forks,
        pids,
        leak,
        deny,
        except,
        severity: severity.unwrap_or(Severity::High),
        escalate,
    })
}

/// Reads `kernel`: whether the rule is armed on affected kernels alone.
fn affected(desk: &mut Desk, given: Given<'_>, denies: bool) -> bool {
    let affected = given.parse(desk, |text| (text == "affected").then_some(()));
    if affected.is_some() && !denies {
        desk.tell(
            given.key,
            "only what is denied can depend on the kernel, and this rule denies nothing",
            "`deny` beside it",
            "take `kernel` out",
        );
    }
    affected.is_some()
}

/// The texts of a list; one that stands there twice is told.
fn each_once(desk: &mut Desk, given: Given<'_>, what: &str) -> Vec<(String, At)> {
    let mut seen: Vec<(String, At)> = Vec::new();
    for (text, at) in given.texts(desk).unwrap_or_default() {
        if let Some((_, first)) = seen.iter().find(|(known, _)| known == text) {
            let first = desk.place(*first).to_string();
            twice(desk, at, &format!("{what} `{text}`"), &first);
        } else {
            seen.push((text.to_owned(), at));
        }
    }
    seen
}

fn forks(desk: &mut Desk, given: Given<'_>) -> Option<Forks> {
    let section = Section::new(desk, given.node, "rules[].forks")?;
    let given = section.need(desk, "rate");
    let rate = given.and_then(|given| given.parse(desk, Rate::parse));
    let burst = match section.get("burst") {
        Some(given) => Some(given.count(desk, 1, PIDS)?),
        None => None,
    };
    let (given, rate) = (given?, rate?);
    let burst = burst.unwrap_or_else(|| rate.forks.saturating_mul(2));
    let Some(limits) = ForkLimits::new(rate.forks, rate.per_ns(), burst) else {
        given.wrong(desk, format!("`rate` cannot be {rate} with a burst of {burst}: the kernel side cannot count so fast"));
        return None;
    };
    Some(Forks {
        rate,
        burst,
        limits,
    })
}

fn pids(desk: &mut Desk, given: Given<'_>) -> (Option<u32>, Option<Duration>) {
    let Some(section) = Section::new(desk, given.node, "rules[].pids") else {
        return (None, None);
    };
    let max = section
        .get("max")
        .and_then(|given| given.count(desk, 1, PIDS));
    let leak = match section.get("leak") {
        None => Some(LEAK),
        Some(given) => match &given.node.value {
            Value::Text(text) if units::is_off(text) => None,
            Value::Text(_) | Value::Nothing | Value::List(_) | Value::Map(_) => {
                given.duration(desk, SECOND, 7 * DAY)
            }
        },
    };
    // An empty `pids` limits nothing, whatever its default.
    (
        max,
        leak.filter(|_| max.is_some() || section.get("leak").is_some()),
    )
}

fn ladder(desk: &mut Desk, given: Given<'_>) -> Vec<Escalation> {
    let items = given.list(desk).unwrap_or_default();
    if items.len() > STEPS {
        given.wrong(desk, format!("{} steps; at most {STEPS}", items.len()));
    }
    let mut steps: Vec<Escalation> = Vec::new();
    for item in items.iter().take(STEPS) {
        let Some(section) = Section::new(desk, item, "rules[].escalate[]") else {
            continue;
        };
        let after = section.need(desk, "after");
        let after = after.and_then(|given| Some((given.duration(desk, SECOND, DAY)?, given)));
        let act = section.need(desk, "do").and_then(|given| {
            given.parse(desk, |text| match text {
                "freeze" => Some(Act::Freeze { time: FREEZE }),
                "kill" => Some(Act::Kill),
                _ => None,
            })
        });
        let time = section
            .get("for")
            .map(|given| (given, given.duration(desk, SECOND, 3600 * SECOND)));
        let (Some((after, given)), Some(act)) = (after, act) else {
            continue;
        };
        let act = match (act, time) {
            (Act::Freeze { .. }, Some((_, Some(time)))) => Act::Freeze { time },
            (Act::Kill, Some((given, _))) => {
                given.wrong(desk, "a kill does not last: `for` is a freeze's".to_owned());
                act
            }
            (Act::Freeze { .. } | Act::Kill, _) => act,
        };
        if let Some(last) = steps.last() {
            if last.act == Act::Kill {
                desk.tell(
                    At {
                        length: 1,
                        ..item.at
                    },
                    "this step can never apply: the one before kills all of the container",
                    "`do: kill` as the last step",
                    "put it before the kill, or take it out",
                );
            } else if after <= last.after {
                let (now, before) = (
                    units::write_duration(after),
                    units::write_duration(last.after),
                );
                given.wrong(
                    desk,
                    format!(
                        "`after` is {now}, and the step before it is due after {before} already"
                    ),
                );
            }
        }
        steps.push(Escalation { after, act });
    }
    steps
}
