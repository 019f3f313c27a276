//! Reads what a rule denies: actions, some of them only of certain kinds, and where.

use guard_common::{
    action::{Action, Argument, Takes},
    device::Device,
    module, mount,
    netlink::{self, Family},
    rtnetlink,
    setting::Path,
    socket::{ANY, FAMILIES, PROTOCOLS, Socket, TYPES},
};

use super::{
    armed::Armed,
    denial::{Denial, Kind, action},
    fields::near,
    problem::{At, Desk},
    section::{Given, Section, twice},
    when::{Conditions, conditions},
    yaml::{Node, Value},
};

/// Kinds that one action of a rule may name.
const KINDS: usize = 64;
/// Combinations of families, types and protocols that one action of a rule may name.
const SOCKETS: usize = 256;

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
    let conditions = when.map_or_else(Conditions::default, |given| {
        conditions(desk, given, deny.is_some(), &all)
    });
    let mut all: Vec<Denial> = all.into_iter().map(|(denial, _)| denial).collect();
    for denial in &mut all {
        denial.nested = conditions.nested;
        denial.kinds.extend(conditions.stands_on.clone());
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
    let Some(action) = action(word) else {
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
    let kinds = match (arguments, action.takes()) {
        (None, Takes::Devices | Takes::Paths) => {
            desk.tell(
                at,
                format!("`{word}` of everything would leave no program able to start"),
                example(action),
                &format!("write it like `{word}: {{{}}}`", example(action)),
            );
            return None;
        }
        (None, _) => Vec::new(),
        (Some(_), Takes::StandsOn) => {
            desk.tell(
                at,
                format!("`{word}` says nothing of a device by itself"),
                "the action's name alone, and the device in `when` of the rule",
                &format!("write `deny: [{word}]` and beside it `when: {{device: dm-thin}}`"),
            );
            return None;
        }
        (Some(_), Takes::Nothing) => {
            desk.tell(
                at,
                format!("`{word}` is refused whatever it is done to"),
                "the action's name alone",
                &format!("write `{word}` without a colon"),
            );
            return None;
        }
        (Some(value), Takes::Kinds) => {
            let section = of_action(desk, value, action, &["kinds"])?;
            let like = match action {
                Action::TrafficControl => "list of kinds of traffic control",
                _ => "list of kinds of links",
            };
            let given = section.need_as(desk, "kinds", Some((like, example(action))))?;
            kinds(desk, given, action)
        }
        (Some(value), Takes::Sockets) => {
            let section = of_action(desk, value, action, &["families", "types", "protocols"])?;
            sockets(desk, &section, at)
        }
        (Some(value), Takes::Devices) => {
            let section = of_action(desk, value, action, &["devices"])?;
            let given = section.need(desk, "devices")?;
            devices(desk, given)
        }
        (Some(value), Takes::Paths) => {
            let section = of_action(desk, value, action, &["paths"])?;
            let given = section.need(desk, "paths")?;
            paths(desk, given)
        }
        (Some(value), Takes::FileSystems) => {
            let section = of_action(desk, value, action, &["fs"])?;
            let given = section.need(desk, "fs")?;
            file_systems(desk, given)
        }
        (Some(value), Takes::KeyTypes) => {
            let section = of_action(desk, value, action, &["types"])?;
            let like = ("list of types of keys", example(action));
            let given = section.need_as(desk, "types", Some(like))?;
            key_types(desk, given)
        }
        (Some(value), Takes::Names) => {
            let section = of_action(desk, value, action, &["names"])?;
            let given = section.need(desk, "names")?;
            names(desk, given)
        }
        (Some(value), Takes::Families) => {
            let section = of_action(desk, value, action, &["families"])?;
            let like = ("list of families of netlink", example(action));
            let given = section.need_as(desk, "families", Some(like))?;
            families(desk, given)
        }
    };
    Some((
        Denial {
            action,
            kinds,
            nested: false,
            armed: Armed::Always,
        },
        at,
    ))
}

fn no_action(desk: &mut Desk, at: At) -> Option<(Denial, At)> {
    desk.tell(
        At { length: 1, ..at },
        "an item of `deny` that is no action",
        "an action's name, or one with what it is done to: `net_link.create: {kinds: […]}`",
        "see `bulkhead explain deny`",
    );
    None
}

/// What an action is done to, of which only these keys are this action's.
fn of_action<'n>(
    desk: &mut Desk,
    value: &'n Node,
    action: Action,
    keys: &[&str],
) -> Option<Section<'n>> {
    let section = Section::new(desk, value, "rules[].deny[].ACTION")?;
    for given in section
        .all()
        .filter(|given| !keys.contains(&given.field.key()))
    {
        desk.tell(
            given.key,
            format!("`{}` is not of {}", given.field.key(), action.name()),
            &keys.join(", "),
            &format!("write it like `{}: {{{}}}`", action.name(), example(action)),
        );
    }
    Some(section)
}

/// How what an action is done to is written.
const fn example(action: Action) -> &'static str {
    match action.takes() {
        Takes::Nothing | Takes::StandsOn => "",
        Takes::Kinds if matches!(action, Action::TrafficControl) => "kinds: [hfsc, route, pedit]",
        Takes::Kinds => "kinds: [vxcan, netkit]",
        Takes::Sockets => "families: [vsock, alg]",
        Takes::Families => "families: [nf_tables, xfrm]",
        Takes::Names => "names: [net-pf-40]",
        Takes::Devices => "devices: [\"char 10:229\", \"block 8:*\"]",
        Takes::Paths => "paths: [/proc/sys/kernel/core_pattern, \"**/release_agent\"]",
        Takes::FileSystems => "fs: [overlay, fuse]",
        Takes::KeyTypes => "types: [keyring, cifs.spnego]",
    }
}

/// The name that a word could have been meant for: also one as the kernel's headers write it, or as people call it.
fn meant<'w>(word: &str, names: impl Iterator<Item = &'w str> + Clone) -> Option<&'w str> {
    const HEADERS: [&str; 5] = ["af_", "pf_", "sock_", "ipproto_", "netlink_"];
    let small = word.to_ascii_lowercase();
    let bare = (HEADERS.iter()).find_map(|prefix| small.strip_prefix(prefix));
    let bare = match bare.unwrap_or(&small) {
        "ipv4" => "inet",
        "ipv6" => "inet6",
        bare => bare,
    };
    (names.clone())
        .find(|name| *name == bare)
        .or_else(|| near(bare, names).first().copied())
}

/// Every combination of the families, types and protocols that are named; what is not named is whichever.
fn sockets(desk: &mut Desk, section: &Section<'_>, at: At) -> Vec<Kind> {
    let mut of = |key, names| match section.get(key) {
        Some(given) => numbers(desk, given, names),
        None => vec![(String::new(), ANY)],
    };
    let (families, types) = (of("families", FAMILIES), of("types", TYPES));
    let protocols = of("protocols", PROTOCOLS);
    if section.all().next().is_none() {
        desk.tell(
            At { length: 1, ..at },
            "`socket` is denied for nothing",
            "families, types or protocols",
            "name some, or write `socket` without a colon to deny all",
        );
    }
    let count = families.len() * types.len() * protocols.len();
    if count > SOCKETS {
        desk.tell(
            at,
            format!("{count} combinations of families, types and protocols"),
            &format!("at most {SOCKETS}"),
            "name less of them, or leave one of the keys out",
        );
        return Vec::new();
    }
    let mut kinds = Vec::with_capacity(count);
    for (family, one) in &families {
        for (kind, two) in &types {
            for (protocol, three) in &protocols {
                let words: Vec<&str> = [family, kind, protocol]
                    .into_iter()
                    .map(String::as_str)
                    .filter(|word| !word.is_empty())
                    .collect();
                let socket = Socket {
                    family: *one,
                    kind: *two,
                    protocol: *three,
                };
                kinds.push(Kind {
                    name: words.join(" "),
                    argument: socket.argument(),
                });
            }
        }
    }
    kinds
}

/// Names out of a table, or numbers.
fn numbers(desk: &mut Desk, given: Given<'_>, known: &[(&str, u16)]) -> Vec<(String, u16)> {
    let mut all = Vec::new();
    if given.list_is_empty() {
        given.wrong(
            desk,
            format!(
                "`{}` names none: the rule can never apply",
                given.field.key()
            ),
        );
    }
    for (word, at) in given.texts(desk).unwrap_or_default() {
        let by_name = known
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, number)| *number);
        match by_name.or_else(|| word.parse().ok().filter(|number| *number < 0x7fff)) {
            Some(number) => all.push((word.to_owned(), number)),
            None => {
                let names = || known.iter().map(|(name, _)| *name);
                let advice = match meant(word, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "write its number where it has no name here".to_owned(),
                };
                desk.tell(
                    at,
                    format!("`{}` cannot be `{word}`", given.field.key()),
                    &format!(
                        "{}, or a number up to 32766",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                    &advice,
                );
            }
        }
    }
    all
}

/// Families of netlink, and what is behind netfilter.
fn families(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    let mut all: Vec<Kind> = Vec::new();
    if given.list_is_empty() {
        given.wrong(
            desk,
            "`families` names none: the rule can never apply".to_owned(),
        );
    }
    let names = || {
        let both = netlink::FAMILIES.iter().chain(netlink::SUBSYSTEMS);
        both.map(|(name, _)| *name)
    };
    for (word, at) in given.texts(desk).unwrap_or_default() {
        let number = word.parse().ok().filter(|number| *number < netlink::COUNT);
        let by_number = || number.map(Family::whole);
        match Family::named(word).or_else(by_number) {
            Some(family) => all.push(Kind {
                name: word.to_owned(),
                argument: family.argument(),
            }),
            None => {
                let advice = match meant(word, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "write the number of a family where it has no name here".to_owned(),
                };
                desk.tell(
                    at,
                    format!("netlink has no family `{word}`"),
                    &format!(
                        "{}, or a number up to 31",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                    &advice,
                );
            }
        }
    }
    all
}

/// Names of modules, as the kernel asks for them.
fn names(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    let as_kind = |name: &str| Some(module::argument(&module::name(name)?));
    named(
        desk,
        given,
        as_kind,
        "the kernel asks for no module by a name of that length",
        "a name as the kernel asks for it, such as net-pf-40, fs-ntfs3 or tcp-ulp-tls, 1 to 55 bytes",
        "`modprobe --resolve-alias NAME` says which module it comes to",
    )
}

/// Types of file systems.
fn file_systems(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    let one = |name: &str| mount::file_system(name).filter(|_| !name.contains('.'));
    named(
        desk,
        given,
        one,
        "no kernel has a type of file system by such a name",
        "a type as /proc/filesystems lists them, without a subtype, 1 to 15 bytes",
        "for `fuse.sshfs` write fuse: what is behind the dot is the file system's own",
    )
}

/// Devices.
fn devices(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    named(
        desk,
        given,
        |text| text.parse().ok().map(Device::argument),
        "this is no device",
        "char or block, then MAJOR:MINOR, MAJOR:* or *, in quotes: \"char 10:229\", \"block 8:*\"",
        "`ls -l` of the node shows its numbers, and a c or a b before its rights",
    )
}

/// Files by which the kernel is set.
fn paths(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    named(
        desk,
        given,
        Path::argument,
        "this is no file of the kernel's that can be told from others",
        "a path below /proc or /sys as the host has it, of up to 8 names of up to 31 bytes, or `**/NAME`",
        "write it as `readlink -f` shows it; a file of a process or of a cgroup has no one path: write `**/NAME` for all with that name",
    )
}

/// Types of keys.
fn key_types(desk: &mut Desk, given: Given<'_>) -> Vec<Kind> {
    named(
        desk,
        given,
        guard_common::action::name,
        "a type of keys with a name of that length cannot be told from others",
        "a type as keyctl(1) and the kernel name it, such as keyring, user or cifs.spnego, 1 to 15 bytes",
        "deny `key.create` altogether where it matters",
    )
}

/// Kinds of links, or of traffic control.
fn kinds(desk: &mut Desk, given: Given<'_>, action: Action) -> Vec<Kind> {
    let (wrong, expected, advice) = match action {
        Action::TrafficControl => (
            "no kernel has a kind of qdisc, filter or action of that length",
            "a kind as tc(8) has them, such as hfsc, route or pedit, 1 to 15 bytes",
            "write the kind as `tc qdisc add`, `tc filter add` or `tc actions add` takes it",
        ),
        _ => (
            "no kernel has a kind of link of that length",
            "a kind as `ip link help` lists them, 1 to 15 bytes",
            "write the kind as `ip link add type KIND` takes it",
        ),
    };
    named(desk, given, rtnetlink::kind, wrong, expected, advice)
}

/// Names of which each is an argument, or wrong.
fn named(
    desk: &mut Desk,
    given: Given<'_>,
    argument: impl Fn(&str) -> Option<Argument>,
    wrong: &str,
    expected: &str,
    advice: &str,
) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    let key = given.field.key();
    let names = given.texts(desk).unwrap_or_default();
    if given.list_is_empty() {
        given.wrong(
            desk,
            format!("`{key}` names none: the rule can never apply"),
        );
    }
    if names.len() > KINDS {
        given.wrong(desk, format!("{} {key}; at most {KINDS}", names.len()));
    }
    for (name, at) in names.into_iter().take(KINDS) {
        match argument(name) {
            Some(argument) => kinds.push(Kind {
                name: name.to_owned(),
                argument,
            }),
            None => desk.tell(at, format!("`{name}`: {wrong}"), expected, advice),
        }
    }
    kinds
}
