//! What a rule denies: actions, some of them only of certain kinds, and where.

use guard_common::{
    action::{Action, Argument},
    net_link,
};

use super::{
    fields::near,
    problem::{At, Desk},
    section::{Given, Section, twice},
    yaml::{Node, Value},
};

/// Kinds that one action of a rule may name.
const KINDS: usize = 64;

/// An action that a rule denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which.
    pub action: Action,
    /// Only where it is done to one of these; empty: whatever it is done to.
    pub kinds: Vec<Kind>,
    /// Only in a network namespace that is not the host's first.
    pub nested: bool,
}

/// What an action is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// As the kernel side has it.
    pub argument: Argument,
}

impl Denial {
    /// Whether it refuses an action whenever that is done to one of these kinds, or to whichever where there are none, and only
    /// in a nested network namespace if `nested`.
    #[must_use]
    pub fn covers(&self, action: Action, kinds: &[String], nested: bool) -> bool {
        let has = |name: &String| self.kinds.iter().any(|kind| kind.name == *name);
        let of_kinds = self.kinds.is_empty() || !kinds.is_empty() && kinds.iter().all(has);
        self.action.includes(action) && of_kinds && (!self.nested || nested)
    }

    /// As a policy writes it, without `when`.
    #[must_use]
    pub fn words(&self) -> String {
        if self.kinds.is_empty() {
            return self.action.name().to_owned();
        }
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name.as_str()).collect();
        format!("{} of {}", self.action.name(), kinds.join(", "))
    }
}

/// The same of all that a rule denies.
#[must_use]
pub fn words(all: &[Denial]) -> String {
    let each: Vec<String> = all.iter().map(Denial::words).collect();
    let place = if all.iter().any(|denial| denial.nested) {
        " in a nested network namespace"
    } else {
        ""
    };
    format!("{}{place}", each.join(", "))
}

/// Reads a rule's `deny` and `when`.
pub(super) fn denials(
    desk: &mut Desk,
    deny: Option<Given<'_>>,
    when: Option<Given<'_>>,
) -> Vec<Denial> {
    let mut all: Vec<(Denial, At)> = Vec::new();
    let nodes = deny
        .map(|given| (given, given.list(desk).unwrap_or_default()))
        .map_or(&[][..], |(_, nodes)| nodes);
    for node in nodes {
        let Some((denial, at)) = denial(desk, node) else {
            continue;
        };
        if let Some((_, first)) = all.iter().find(|(known, _)| known.action == denial.action) {
            let (first, what) = (
                desk.place(*first),
                format!("action `{}`", denial.action.name()),
            );
            twice(desk, at, &what, &first.to_string());
            continue;
        }
        all.push((denial, at));
    }
    if let Some(given) = deny.filter(Given::list_is_empty) {
        given.wrong(desk, "`deny` names no action".to_owned());
    }
    let nested = when.is_some_and(|given| nested(desk, given, deny.is_some(), &all));
    let mut all: Vec<Denial> = all.into_iter().map(|(denial, _)| denial).collect();
    for denial in &mut all {
        denial.nested = nested;
    }
    all
}

fn denial(desk: &mut Desk, node: &Node) -> Option<(Denial, At)> {
    let (word, at, arguments) = match &node.value {
        Value::Text(text) => (text.as_str(), node.at, None),
        Value::Map(pairs) => match pairs.as_slice() {
            [(key, value)] => match &key.value {
                Value::Text(text) => (text.as_str(), key.at, Some(value)),
                Value::Nothing | Value::List(_) | Value::Map(_) => return no_action(desk, node.at),
            },
            _ => return no_action(desk, node.at),
        },
        Value::Nothing | Value::List(_) => return no_action(desk, node.at),
    };
    let known = || Action::ALL.into_iter().map(Action::name);
    let Some(action) = Action::ALL.into_iter().find(|action| action.name() == word) else {
        let advice = match near(word, known()).first() {
            Some(near) => format!("did you mean `{near}`?"),
            None => "see `bulkhead explain deny`".to_owned(),
        };
        desk.tell(
            at,
            format!("there is no action `{word}` that this version of Bulkhead can refuse"),
            &known().collect::<Vec<_>>().join(", "),
            &advice,
        );
        return None;
    };
    let kinds = match arguments {
        None => Vec::new(),
        Some(_) if !action.has_kinds() => {
            desk.tell(
                at,
                format!("`{word}` is refused whatever it is done to"),
                "the action's name alone",
                &format!("write `{word}` without a colon"),
            );
            return None;
        }
        Some(value) => {
            let section = Section::new(desk, value, "rules[].deny[].ACTION")?;
            let given = section.need(desk, "kinds")?;
            kinds(desk, given)
        }
    };
    Some((
        Denial {
            action,
            kinds,
            nested: false,
        },
        at,
    ))
}

fn no_action(desk: &mut Desk, at: At) -> Option<(Denial, At)> {
    desk.tell(
        At { length: 1, ..at },
        "an item of `deny` that is no action",
        "an action's name, or `net_link.create: {kinds: […]}`",
        "see `bulkhead explain deny`",
    );
    None
}

fn kinds(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    let names = given.texts(desk).unwrap_or_default();
    if given.list_is_empty() {
        given.wrong(
            desk,
            "`kinds` names none: the rule can never apply".to_owned(),
        );
    }
    if names.len() > KINDS {
        given.wrong(desk, format!("{} kinds; at most {KINDS}", names.len()));
    }
    for (name, at) in names.into_iter().take(KINDS) {
        match net_link::kind(name) {
            Some(argument) => kinds.push(Kind {
                name: name.to_owned(),
                argument,
            }),
            None => desk.tell(
                at,
                format!("`{name}` cannot be the kind of a link: no kernel has one of that length"),
                "a kind as `ip link help` lists them, 1 to 15 bytes",
                "write the kind as `ip link add type KIND` takes it",
            ),
        }
    }
    kinds
}

/// Reads `when`: whether the rule is about nested network namespaces alone.
fn nested(desk: &mut Desk, given: Given<'_>, denies: bool, all: &[(Denial, At)]) -> bool {
    let Some(section) = Section::new(desk, given.node, "rules[].when") else {
        return false;
    };
    let nested = section
        .need(desk, "netns")
        .and_then(|given| given.parse(desk, |text| (text == "nested").then_some(true)));
    let elsewhere = all
        .iter()
        .find(|(denial, _)| !denial.action.is_of_a_netns());
    if let Some((denial, _)) = elsewhere {
        let message = format!(
            "{} is not done in a network namespace: `when` can never hold for it",
            denial.action.name()
        );
        let expected = "a rule of bridge.create or net_link.create alone";
        desk.tell(
            given.key,
            message,
            expected,
            "put the other actions into a rule of their own",
        );
    } else if !denies {
        let message = "only what is denied has a condition, and this rule denies nothing";
        desk.tell(given.key, message, "`deny` beside it", "take `when` out");
    }
    nested.unwrap_or(false)
}
