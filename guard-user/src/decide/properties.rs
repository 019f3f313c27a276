//! What holds whatever is seen: random hosts, random containers, daemons that are killed, people who freeze and thaw.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::{
    breach::QUIET,
    engine::{Engine, Rests, Saved},
    ladder::{Step, StepAction},
    seen::{Frozen, HostSeen, Kind, Limits, Seen, What},
    settings::{Max, Next, Setting},
};

const CONTAINERS: u64 = 4;
const RESTS: Rests = Rests {
    cool_down: Duration::from_secs(20),
    actions: 3,
    user_made: 1,
    per: Duration::from_secs(30),
};

/// What happens to one container before a tick.
#[derive(Clone, Debug)]
enum Happens {
    Refused(u8),
    Reserve(u8),
    Audited(u8),
    OthersFreeze,
    OthersThaw,
    Protect,
    Expose,
    Fail,
    Restart,
    Gone,
    /// So many more milliseconds pass.
    Late(u16),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        12 => (1..40_u8).prop_map(Happens::Refused),
        2 => (1..5_u8).prop_map(Happens::Reserve),
        2 => (1..5_u8).prop_map(Happens::Audited),
        1 => Just(Happens::OthersFreeze),
        1 => Just(Happens::OthersThaw),
        1 => Just(Happens::Protect),
        1 => Just(Happens::Expose),
        1 => Just(Happens::Fail),
        1 => Just(Happens::Restart),
        1 => Just(Happens::Gone),
        1 => any::<u16>().prop_map(Happens::Late),
    ]
}

fn ladder() -> impl Strategy<Value = Vec<Step>> {
    let act = prop_oneof![
        (1..15_u64).prop_map(|held| StepAction::Freeze {
            r#for: Duration::from_secs(held)
        }),
        Just(StepAction::Kill),
    ];
    vec((0..8_u64, act), 0..4).prop_map(|mut steps| {
        steps.sort_by_key(|(after, _)| *after);
        steps
            .into_iter()
            .map(|(after, act)| Step {
                on_rate: true,
                on_pids: true,
                after: Duration::from_secs(after),
                act,
                rule: "r".into(),
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_keeps_its_promises(
        steps in ladder(),
        story in vec((0..CONTAINERS, happens()), 1..200),
    ) {
        let limits = Limits { audited_ladder: steps.clone(), ladder: steps, ..Limits::default() };
        let mut host: BTreeMap<u64, Seen> = (0..CONTAINERS)
            .map(|id| (id, Seen { id, user_made: id == 0, ..Seen::default() }))
            .collect();
        let mut engine = Engine::new(RESTS);
        let mut now = Duration::from_secs(100);
        let (mut acted, mut told, mut counted) = (Vec::new(), 0_u64, 0_u64);
        let mut taken: Vec<(u64, Step, Duration)> = Vec::new();
        // The story, and then quiet for longer than any freeze and two windows.
        let quiet = (0..25).map(|_| (u64::MAX, Happens::Late(0)));
        for (id, happens) in story.into_iter().chain(quiet) {
            now += Duration::from_secs(1);
            if let Some(seen) = host.get_mut(&id) {
                let free = seen.frozen == Frozen::No;
                match happens {
                    Happens::Refused(count) if free => {
                        seen.refused[0] += u64::from(count);
                        counted += u64::from(count);
                    }
                    Happens::Reserve(count) if free => {
                        seen.refused[2] += u64::from(count);
                        counted += u64::from(count);
                    }
                    Happens::Audited(count) if free => {
                        seen.audited[0] += u64::from(count);
                        counted += u64::from(count);
                    }
                    Happens::Refused(_) | Happens::Reserve(_) | Happens::Audited(_) => {}
                    Happens::OthersFreeze if free => seen.frozen = Frozen::Others,
                    Happens::OthersFreeze => {}
                    Happens::OthersThaw => seen.frozen = Frozen::No,
                    Happens::Protect => seen.protected = true,
                    Happens::Expose => seen.protected = false,
                    Happens::Fail => engine.failed(id),
                    Happens::Restart => {
                        let text = serde_json::to_string(&engine.save()).unwrap();
                        let saved: Saved = serde_json::from_str(&text).unwrap();
                        engine = Engine::restore(RESTS, saved);
                    }
                    Happens::Gone => {
                        for decision in engine.gone(now, id, Some(seen)) {
                            told += new(&decision.what);
                        }
                        *seen = Seen { id, user_made: seen.user_made, ..Seen::default() };
                        taken.retain(|(container, ..)| *container != id);
                    }
                    Happens::Late(more) => now += Duration::from_millis(u64::from(more) / 8),
                }
            }
            let all: Vec<Seen> = host.values().copied().collect();
            for decision in engine.tick(now, &HostSeen::default(), &all, &|_| Some(&limits)) {
                told += new(&decision.what);
                let seen = host.get_mut(&decision.container).unwrap();
                match decision.what {
                    What::Act { step, .. } => {
                        prop_assert!(!seen.protected, "acted on a protected one");
                        prop_assert_eq!(seen.frozen, Frozen::No, "acted on a frozen one");
                        acted.push((seen.user_made, now));
                        let recently = acted
                            .iter()
                            .filter(|(user_made, at)| *user_made == seen.user_made && now - *at < RESTS.per)
                            .count();
                        let most = if seen.user_made { RESTS.user_made } else { RESTS.actions };
                        prop_assert!(recently <= most, "over the budget");
                        let id = decision.container;
                        let cooling = taken.iter().any(|(container, other, at)| {
                            *container == id && *other == step && now - *at < RESTS.cool_down
                        });
                        prop_assert!(!cooling, "taken again while it cools down");
                        if step.act != StepAction::Kill {
                            seen.frozen = Frozen::Ours;
                        }
                        taken.push((id, step, now));
                    }
                    What::Thaw { .. } => {
                        prop_assert_eq!(seen.frozen, Frozen::Ours, "thawed what is not ours");
                        seen.frozen = Frozen::No;
                    }
                    _ => {}
                }
            }
            for (id, kind, open) in engine.open() {
                let quiet = now.saturating_sub(open.last) >= QUIET;
                prop_assert!(!quiet || (kind == Kind::Limit && engine.holds(id)), "a breach goes on in quiet");
            }
        }
        prop_assert_eq!(engine.open().count(), 0);
        prop_assert!(host.values().all(|seen| seen.frozen != Frozen::Ours), "left frozen");
        prop_assert_eq!(told, counted, "refusals that were told twice or never");
    }

    #[test]
    fn a_limit_is_never_raised_and_never_fought_over(
        story in vec(
            (
                proptest::option::of(1..9_u64),
                proptest::option::of(1..9_u32),
                proptest::bool::weighted(0.2),
                proptest::bool::weighted(0.2),
            ),
            1..50,
        ),
    ) {
        let mut setting = Setting::default();
        let mut theirs = Max::Unlimited;
        let mut stands = theirs;
        let mut wrote = None;
        let mut fights = 0;
        let mut ours = None;
        // Somebody has rewritten it since we wrote.
        let mut rewritten = false;
        for (rewrite, limit, off, fails) in story {
            // Off, and on again.
            if off
                && let Some((old, value)) = wrote.take()
                && stands == value
            {
                stands = old;
            }
            // Who writes what stands there already, or what we wrote, is not seen.
            if let Some(value) = rewrite.map(Max::Number)
                && stands != value
                && wrote.is_none_or(|(_, ours)| ours != value)
            {
                theirs = value;
                stands = theirs;
                rewritten = true;
            }
            if limit.is_some() && limit != ours {
                ours = limit;
                fights = 0;
            }
            let next = setting.next(stands, wrote, ours);
            match next {
                Next::Leave => {}
                Next::Contested { .. } => {
                    prop_assert!(rewritten);
                    wrote = None;
                }
                Next::Write { .. } if fails => setting.not_done(next),
                Next::Write { value, old, again } => {
                    prop_assert!(value < old && old == theirs);
                    prop_assert!(rewritten || !again);
                    prop_assert!(Some(value) == ours.map(|ours| Max::Number(ours.into())));
                    fights += u32::from(again);
                    prop_assert!(fights <= 1);
                    stands = value;
                    wrote = Some((old, value));
                    rewritten = false;
                }
                Next::Restore { old } => {
                    prop_assert_eq!(old, theirs);
                    stands = old;
                    wrote = None;
                }
            }
            prop_assert!(stands <= theirs);
        }
    }
}

/// Refusals that a decision tells of for the first time.
fn new(what: &What) -> u64 {
    match what {
        What::Began(breach) | What::GoesOn(breach) | What::Ended(breach) => breach.new.sum(),
        What::Act { breach, .. } | What::WouldAct { breach, .. } => breach.new.sum(),
        What::Missed { new, .. } => new.sum(),
        What::Withheld { .. }
        | What::Thaw { .. }
        | What::ThawedByOthers { .. }
        | What::Asked(_)
        | What::Leak(_)
        | What::LeakOver(_) => 0,
    }
}

#[test]
fn a_thousand_quiet_containers_cost_a_tick_next_to_nothing() {
    let limits = Limits {
        leak: Some(Duration::from_secs(3600)),
        ..Limits::default()
    };
    let all: Vec<Seen> = (0..1000)
        .map(|id| Seen {
            id,
            pids: Some(id),
            ..Seen::default()
        })
        .collect();
    let mut engine = Engine::new(RESTS);
    let start = std::time::Instant::now();
    for second in 100..200 {
        let now = Duration::from_secs(second);
        let told = engine.tick(now, &HostSeen::default(), &all, &|_| Some(&limits));
        assert_eq!(told, []);
    }
    let each = start.elapsed() / 100;
    eprintln!("{each:?} a tick");
    assert!(each < Duration::from_millis(50), "{each:?} a tick");
}
