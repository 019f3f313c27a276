//! `host.thin`: the host's thin pools.

use std::time::Duration;

use super::{
    armed::Armed,
    model::{Denial, PoolAlarm},
    parse::{DAY, SECOND, off},
    problem::{At, Desk},
    section::{Given, Section},
    units::{self, Pids},
};

/// What a file says of it.
#[derive(Default)]
pub struct DraftThin {
    pub discard: Option<(Option<Denial>, At)>,
    pub alarm: Option<(Option<PoolAlarm>, At)>,
}

pub fn thin(desk: &mut Desk, given: Given<'_>) -> DraftThin {
    let Some(section) = Section::new(desk, given.node, "host.thin") else {
        return DraftThin::default();
    };
    DraftThin {
        discard: (section.get("discard"))
            .and_then(|given| Some((given.parse(desk, discard)?, given.key))),
        alarm: (section.get("alarm")).and_then(|given| Some((alarm(desk, given)?, given.key))),
    }
}

/// What of discards on dm-thin is switched off for everybody. YAML takes `off` for false.
fn discard(text: &str) -> Option<Option<Denial>> {
    match text {
        "where-affected" => Some(Some(Denial::of_thin_discards(Armed::Unasked))),
        "leave" => Some(None),
        text => units::is_off(text).then(|| Some(Denial::of_thin_discards(Armed::Always))),
    }
}

/// `None`: wrong, and told. `Some(None)`: pools are not watched.
fn alarm(desk: &mut Desk, given: Given<'_>) -> Option<Option<PoolAlarm>> {
    if off(given.node) {
        return Some(None);
    }
    let section = Section::new(desk, given.node, "host.thin.alarm")?;
    let mut alarm = PoolAlarm::DEFAULT;
    for (key, part) in [("data", &mut alarm.data), ("metadata", &mut alarm.metadata)] {
        if let Some(given) = section.get(key) {
            *part = percent(desk, given)?;
        }
    }
    if let Some(given) = section.get("left") {
        alarm.left = given.duration(desk, 60 * SECOND, 30 * DAY)?;
    }
    Some(Some(alarm))
}

/// In thousandths.
fn percent(desk: &mut Desk, given: Given<'_>) -> Option<u32> {
    let thousandths = given.parse(desk, |text| match Pids::parse(text)? {
        Pids::Share { thousandths } => Some(thousandths),
        Pids::Absolute(_) => None,
    })?;
    given.within(desk, thousandths, 10, 990, |thousandths| {
        Pids::Share { thousandths }.to_string()
    })
}

impl PoolAlarm {
    /// Where no file says anything.
    pub const DEFAULT: Self = Self {
        data: 800,
        metadata: 800,
        left: Duration::from_secs(4 * 3600),
    };
}
