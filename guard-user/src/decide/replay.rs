//! Replays what was seen, and compares every decision with the golden one in the same file (tests/data/decide/*.txt).
//!
//! A line each: `rests COOL_DOWN ACTIONS PER`; `ladder …` and `audited …` with steps `AFTER freeze FOR` or `AFTER kill`,
//! separated by commas; `storm FROM..TO ID COUNT [reserve|audited]` (COUNT more refusals in each second, none while we hold
//! it frozen); `quiet FROM..TO ID`; `others ID`, `nobody ID`, `protect ID`; `user ID`: a user could have made it; `restart`;
//! `gone AT ID`; `failed ID`. Below a line stand the decisions that it leads to: `> SECOND ID WHAT`.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::{
    engine::{Engine, Rests, Saved},
    ladder::{Step, StepAction},
    seen::{Decision, Frozen, HostSeen, Limits, Seen, What},
};

struct Replay {
    rests: Rests,
    engine: Option<Engine>,
    limits: Limits,
    seen: BTreeMap<u64, Seen>,
}

impl Replay {
    fn new() -> Self {
        Self {
            rests: Rests::default(),
            engine: None,
            limits: Limits::default(),
            seen: BTreeMap::new(),
        }
    }

    fn engine(&mut self) -> &mut Engine {
        let rests = self.rests;
        self.engine.get_or_insert_with(|| {
            let mut engine = Engine::new(rests);
            engine.tick(Duration::ZERO, &HostSeen::default(), &[], &|_| None);
            engine
        })
    }

    fn container(&mut self, id: &str) -> &mut Seen {
        let id = id.parse().unwrap();
        self.seen.entry(id).or_insert_with(|| Seen {
            id,
            profile: 1,
            ..Seen::default()
        })
    }

    /// The host does what was decided, and gives the decisions as golden lines.
    fn done(&mut self, second: u64, decisions: Vec<Decision>) -> Vec<String> {
        for decision in &decisions {
            let Some(seen) = self.seen.get_mut(&decision.container) else {
                continue;
            };
            match &decision.what {
                What::Act { step, .. } if step.act != StepAction::Kill => {
                    seen.frozen = Frozen::Ours;
                }
                What::Thaw { .. } => seen.frozen = Frozen::No,
                _ => {}
            }
        }
        decisions
            .iter()
            .map(|one| format!("> {second} {} {}", one.container, words(&one.what)))
            .collect()
    }

    fn run(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["rests", cool_down, actions, per] => {
                self.rests = Rests {
                    cool_down: seconds(cool_down),
                    actions: actions.parse().unwrap(),
                    per: seconds(per),
                    ..Rests::default()
                };
            }
            ["ladder", ..] => self.limits.ladder = steps(line),
            ["audited", ..] => self.limits.audited_ladder = steps(line),
            ["others", id] => self.container(id).frozen = Frozen::Others,
            ["nobody", id] => self.container(id).frozen = Frozen::No,
            ["protect", id] => self.container(id).protected = true,
            ["user", ids] => {
                for id in ids.split(',') {
                    self.container(id).user_made = true;
                }
            }
            ["failed", id] => {
                self.container(id).frozen = Frozen::No;
                self.engine().failed(id.parse().unwrap());
            }
            ["restart"] => {
                let text = serde_json::to_string(&self.engine().save()).unwrap();
                let saved: Saved = serde_json::from_str(&text).unwrap();
                self.engine = Some(Engine::restore(self.rests, saved));
            }
            ["gone", at, id] => {
                let last = *self.container(id);
                let at: u64 = at.parse().unwrap();
                let decisions = self
                    .engine()
                    .gone(Duration::from_secs(at), last.id, Some(&last));
                self.seen.remove(&last.id);
                return self.done(at, decisions);
            }
            ["storm", span, id, count] => return self.ticks(span, id, count, "limit"),
            ["storm", span, id, count, of] => return self.ticks(span, id, count, of),
            ["quiet", span, id] => return self.ticks(span, id, "0", "limit"),
            _ => panic!("not understood: {line}"),
        }
        Vec::new()
    }

    fn ticks(&mut self, span: &str, id: &str, count: &str, of: &str) -> Vec<String> {
        let (from, to) = span.split_once("..").unwrap();
        let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
        let count: u64 = count.parse().unwrap();
        let mut told = Vec::new();
        for second in from..=to {
            for id in id.split(',') {
                let seen = self.container(id);
                if seen.frozen != Frozen::Ours {
                    match of {
                        "limit" => seen.refused[0] += count,
                        "reserve" => seen.refused[2] += count,
                        "audited" => seen.audited[1] += count,
                        _ => panic!("no such refusals: {of}"),
                    }
                }
            }
            let all: Vec<Seen> = self.seen.values().copied().collect();
            let limits = self.limits.clone();
            let decisions = self.engine().tick(
                Duration::from_secs(second),
                &HostSeen::default(),
                &all,
                &|_| Some(&limits),
            );
            told.extend(self.done(second, decisions));
        }
        told
    }
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(text.parse().unwrap())
}

fn steps(line: &str) -> Vec<Step> {
    let (_, steps) = line.split_once(' ').unwrap();
    steps
        .split(',')
        .map(|step| {
            let words: Vec<&str> = step.split_whitespace().collect();
            let (after, act) = match words[..] {
                [after, "freeze", held] => (
                    after,
                    StepAction::Freeze {
                        r#for: seconds(held),
                    },
                ),
                [after, "kill"] => (after, StepAction::Kill),
                _ => panic!("no such step: {step}"),
            };
            Step {
                on_rate: true,
                on_pids: true,
                after: seconds(after),
                act,
                rule: "fork-storm".into(),
            }
        })
        .collect()
}

fn words(what: &What) -> String {
    let step = |step: &Step| match step.act {
        StepAction::Freeze { .. } => "freeze",
        StepAction::Kill => "kill",
    };
    let held = |held: &Option<Duration>| held.map_or("?".into(), |held| held.as_secs().to_string());
    match what {
        What::Began(b) => format!("began {:?} {}", b.kind, b.new.sum()),
        What::GoesOn(b) => format!(
            "goes-on {:?} for {} new {} of {}",
            b.kind,
            b.lasted.as_secs(),
            b.new.sum(),
            b.total.sum()
        ),
        What::Ended(b) => format!(
            "ended {:?} after {} new {} of {}",
            b.kind,
            b.lasted.as_secs(),
            b.new.sum(),
            b.total.sum()
        ),
        What::Asked(new) => format!(
            "asked {} {}{}",
            new.action.name(),
            new.count,
            if new.audited { " audited" } else { "" }
        ),
        What::Missed {
            kind,
            new,
            unwatched,
        } => format!("missed {kind:?} {} in {}", new.sum(), unwatched.as_secs()),
        What::Act { step: s, breach: b } => format!(
            "{} at {} new {} of {}",
            step(s),
            b.lasted.as_secs(),
            b.new.sum(),
            b.total.sum()
        ),
        What::WouldAct { step: s, breach: b } => {
            format!("would-{} at {}", step(s), b.lasted.as_secs())
        }
        What::Withheld { step: s, why } => format!("withheld {} {why:?}", step(s)),
        What::Thaw { why, held: h } => format!("thaw {why:?} held {}", held(h)),
        What::ThawedByOthers { held } => format!("thawed-by-others after {}", held.as_secs()),
        What::Leak(leak) => format!("leak {}", leak.per_minute),
        What::LeakOver(_) => "leak-over".into(),
    }
}

#[test]
fn what_was_recorded_leads_to_the_golden_decisions() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decide");
    let mut files = 0;
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        let golden = fs::read_to_string(&path).unwrap();
        let mut replay = Replay::new();
        let mut replayed = String::new();
        for line in golden.lines().filter(|line| !line.starts_with('>')) {
            replayed += line;
            replayed.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                for decision in replay.run(line) {
                    replayed += &decision;
                    replayed.push('\n');
                }
            }
        }
        assert!(golden == replayed, "{}:\n{replayed}", path.display());
        files += 1;
    }
    assert!(files >= 5, "{files} recordings");
}

#[test]
fn a_state_that_the_version_before_wrote_is_gone_on_with() {
    let text = r#"{"at":{"secs":9,"nanos":0},"budget":{"most":10,"per":{"secs":60,"nanos":0},"spent":[{"secs":8,"nanos":0}]},
        "withheld":4,"containers":{}}"#;
    let saved: Saved = serde_json::from_str(text).unwrap();
    let restored = Engine::restore(Rests::default(), saved);
    assert_eq!(restored.withheld(), 4);
    let told = serde_json::to_value(restored.save()).unwrap();
    assert_eq!(told["budget"]["spent"][0]["secs"], 8);
    assert_eq!(told["budget_of_users"]["most"], Rests::default().user_made);
}
