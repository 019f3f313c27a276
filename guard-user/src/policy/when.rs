//! Reads where what a rule denies holds: in which network namespaces, on which devices.

use guard_common::{
    action::{Action, Takes},
    thin::{DM_THIN, DM_THIN_NAME},
};

use super::{
    denial::{Denial, Kind},
    problem::{At, Desk},
    section::{Given, Section},
};

/// Where a rule's `deny` holds.
#[derive(Default)]
pub(super) struct Conditions {
    /// In nested network namespaces alone.
    pub nested: bool,
    /// On devices that stand on this.
    pub stands_on: Option<Kind>,
}

/// Reads `when`.
pub(super) fn conditions(
    desk: &mut Desk,
    given: Given<'_>,
    denies: bool,
    all: &[(Denial, At)],
) -> Conditions {
    let Some(section) = Section::new(desk, given.node, "rules[].when") else {
        return Conditions::default();
    };
    let netns = section.get("netns");
    let device = section.get("device");
    if netns.is_none() && device.is_none() {
        given.wrong(desk, "`when` has no condition".to_owned());
    } else if !denies {
        let message = "only what is denied has a condition, and this rule denies nothing";
        desk.tell(given.key, message, "`deny` beside it", "take `when` out");
    }
    let mut only_of =
        |given: Option<Given<'_>>, is: fn(Action) -> bool, wrong: &str, right: &str| {
            let other = all.iter().find(|(denial, _)| !is(denial.action));
            if let (Some(given), Some((denial, _))) = (given, other) {
                desk.tell(
                    given.key,
                    format!(
                        "{} {wrong}: `when` can never hold for it",
                        denial.action.name()
                    ),
                    right,
                    "put the other actions into a rule of their own",
                );
            }
        };
    only_of(
        netns,
        Action::is_of_a_netns,
        "is not done in a network namespace",
        "a rule of bridge.create, net_link.create, netlink or traffic_control alone",
    );
    only_of(
        device,
        |action| action.takes() == Takes::StandsOn,
        "is not done to what stands on a device",
        "a rule of discard alone",
    );
    Conditions {
        nested: netns
            .and_then(|given| given.parse(desk, |text| (text == "nested").then_some(true)))
            .unwrap_or(false),
        stands_on: device.and_then(|given| given.parse(desk, stands_on)),
    }
}

/// What a device may stand on.
fn stands_on(name: &str) -> Option<Kind> {
    (name == DM_THIN_NAME).then(|| Kind {
        name: name.to_owned(),
        argument: DM_THIN,
    })
}
