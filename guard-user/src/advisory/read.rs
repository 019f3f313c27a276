//! One file: every field in its place and of its form, or an error that says so.

use chrono::NaiveDate;
use guard_common::{
    action::{Action, Takes},
    device::Device,
    module, mount,
    netlink::Family,
    rtnetlink,
    setting::Path,
    socket::FAMILIES,
    thin::DM_THIN_NAME,
};

use super::{
    language::ADVISORY,
    model::{Advisory, Cover, Harm, Known, Package, Range, Reach, Trigger},
    packages::is_version,
    upstream::Upstream,
    vendor::Distribution,
};
use crate::policy::{
    denial,
    problem::{At, Desk},
    section::{Given, Section},
    units::is_off,
    yaml::Node,
};

/// Characters of a text.
const TEXT: usize = 2048;
/// Items of a list.
const ITEMS: usize = 128;

/// Reads a file's tree. What is wrong is told at the desk; `None`: something is.
pub fn advisory(desk: &mut Desk, node: &Node) -> Option<(Advisory, At)> {
    let before = desk.problems.len();
    let top = Section::of(&ADVISORY, desk, node, "")?;
    let id = top.need(desk, "id");
    let at = id.map_or(node.at, |given| given.node.at);
    let id = id.and_then(|given| given.parse(desk, name));
    let title = top.need(desk, "title").and_then(|given| line(desk, given));
    let happens = top
        .need(desk, "happens")
        .and_then(|given| text(desk, given));
    let harm = (top.need(desk, "harm")).and_then(|given| given.parse(desk, harm));
    let reach = (top.need(desk, "reach")).and_then(|given| given.parse(desk, reach));
    let historical = top.get("historical").and_then(|given| line(desk, given));
    let upstream = top.get("upstream").and_then(|given| range(desk, given));
    let packages = items(desk, top.get("packages"), package);
    if let Some(given) = top.get("packages") {
        each_once(desk, given, &packages);
    }
    let config = (top.get("config"))
        .map(|given| each(desk, given, option))
        .unwrap_or_default();
    let cover = cover(desk, &top);
    let references = (top.get("references"))
        .map(|given| each(desk, given, |text| short(text).then(|| text.to_owned())))
        .unwrap_or_default();
    let checked = (top.need(desk, "checked"))
        .and_then(|given| Section::of(&ADVISORY, desk, given.node, "checked"));
    let on = (checked.as_ref())
        .and_then(|section| section.need(desk, "on"))
        .and_then(|given| given.parse(desk, date));
    let how = (checked.as_ref())
        .and_then(|section| section.need(desk, "how"))
        .and_then(|given| text(desk, given));
    if upstream.is_none() && packages.is_empty() && top.get("upstream").is_none() {
        desk.tell(
            At { length: 1, ..node.at },
            "the advisory names no kernel: neither `upstream` nor `packages`",
            "at least one of the two",
            "add `upstream: {introduced: [\"5.10\"], fixed: [\"6.1\"]}`, or leave the advisory out until its range is known",
        );
    }
    let advisory = Advisory {
        id: id?,
        title: title?,
        happens: happens?,
        harm: harm?,
        reach: reach?,
        historical,
        upstream,
        packages,
        config,
        cover: cover?,
        references,
        checked: on?,
        how: how?,
        place: desk.place(at),
    };
    (desk.problems.len() == before).then_some((advisory, at))
}

fn range(desk: &mut Desk, given: Given<'_>) -> Option<Range> {
    let section = Section::of(&ADVISORY, desk, given.node, "upstream")?;
    let introduced = section.need(desk, "introduced")?;
    let came = each(desk, introduced, Upstream::parse);
    if introduced.list_is_empty() {
        introduced.wrong(desk, "`introduced` names no release".to_owned());
    }
    let went = section.get("fixed");
    let went_list = went
        .map(|given| each(desk, given, Upstream::parse))
        .unwrap_or_default();
    for (given, points) in [(Some(introduced), &came), (went, &went_list)] {
        if let Some(given) = given
            && !points.is_empty()
        {
            points_fit(desk, given, points);
        }
    }
    if let Some(given) = went
        && let Some(point) = (went_list.iter()).find(|point| came.contains(point))
    {
        given.wrong(desk, format!("{point} cannot have brought it and fixed it"));
    }
    for (point, brought) in went_list.iter().flat_map(|point| {
        // A branch's own, or mainline's: what it came to a branch with need not be known.
        let same = |came: &&Upstream| {
            came.same_branch(*point) || came.is_mainline() && point.is_mainline()
        };
        came.iter().filter(same).map(move |came| (point, came))
    }) {
        if let Some(given) = went
            && point < brought
        {
            given.wrong(
                desk,
                format!("{point} cannot have fixed what came with {brought}"),
            );
        }
    }
    let commits = |desk: &mut Desk, key| {
        (section.get(key))
            .map(|given| each(desk, given, commit))
            .unwrap_or_default()
    };
    Some(Range {
        introduced: came,
        fixed: went_list,
        introduced_by: commits(desk, "introduced_by"),
        fixed_by: commits(desk, "fixed_by"),
        public: section
            .get("public")
            .and_then(|given| given.parse(desk, date)),
    })
}

/// A branch has one point: where a fix came in two parts, the later.
fn points_fit(desk: &mut Desk, given: Given<'_>, points: &[Upstream]) {
    for (index, point) in points.iter().enumerate() {
        let earlier = points.get(..index).unwrap_or_default();
        if let Some(other) = earlier.iter().find(|other| point.same_branch(**other)) {
            let key = given.field.key();
            given.wrong(
                desk,
                format!("`{key}` has {other} and {point}, which are of one branch"),
            );
        }
    }
    // A candidate or release of mainline decides for all branches that have no point of their own.
    if !points.iter().any(|point| point.is_mainline()) && given.field.key() == "introduced" {
        given.wrong(desk, "`introduced` names no release of mainline".to_owned());
    }
}

fn package(desk: &mut Desk, node: &Node) -> Option<Package> {
    let section = Section::of(&ADVISORY, desk, node, "packages[]")?;
    let distribution =
        (section.need(desk, "distribution")).and_then(|given| given.parse(desk, distribution));
    let series = (section.need(desk, "series")).and_then(|given| given.parse(desk, word));
    let flavour = section
        .get("flavour")
        .and_then(|given| given.parse(desk, word));
    let distribution = distribution?;
    let version = |desk: &mut Desk, key| {
        let given = section.get(key)?;
        given.parse(desk, |text| {
            is_version(distribution, text).then(|| text.to_owned())
        })
    };
    let from = version(desk, "from");
    let known = ["fixed", "unfixed", "never"].map(|key| section.get(key));
    let given: Vec<&Given<'_>> = known.iter().flatten().collect();
    let [_] = given.as_slice() else {
        desk.tell(
            At { length: 1, ..node.at },
            format!("a package has {} of `fixed`, `unfixed` and `never`", given.len()),
            "one of them",
            "write `fixed: VERSION`, or `unfixed: VERSION` for the last that was looked at, or `never: WHY`",
        );
        return None;
    };
    // Debian's are numbered by the release that they are built of.
    if distribution == Distribution::Debian
        && let Some(series) = &series
    {
        for key in ["from", "fixed", "unfixed"] {
            let Some(given) = section.get(key) else {
                continue;
            };
            let text = given.text(desk).unwrap_or_default();
            if let Some((release, _)) = Upstream::begin(text)
                && release.series() != *series
            {
                given.wrong(desk, format!("{text} is no version of the series {series}"));
            }
        }
    }
    let known = if let [.., Some(given)] = &known {
        Known::Never(line(desk, *given)?)
    } else if known[0].is_some() {
        Known::Fixed(version(desk, "fixed")?)
    } else {
        Known::Unfixed(version(desk, "unfixed")?)
    };
    Some(Package {
        distribution,
        series: series?,
        flavour: flavour.unwrap_or_else(|| "generic".to_owned()),
        from,
        known,
    })
}

/// Of two entries for the same kernels the second would never be looked at.
fn each_once(desk: &mut Desk, given: Given<'_>, packages: &[Package]) {
    let which = |package: &Package| {
        (
            package.distribution,
            package.series.clone(),
            package.flavour.clone(),
        )
    };
    for (index, package) in packages.iter().enumerate() {
        let earlier = packages.get(..index).unwrap_or_default();
        if earlier.iter().any(|other| which(other) == which(package)) {
            let title = package.distribution.title();
            given.wrong(
                desk,
                format!("{title} {} stands there twice", package.series),
            );
        }
    }
}

fn cover(desk: &mut Desk, top: &Section<'_>) -> Option<Cover> {
    let coverable = match top.get("coverable") {
        Some(given) => given.parse(desk, |text| match text {
            "yes" | "true" => Some(true),
            text if is_off(text) => Some(false),
            _ => None,
        })?,
        None => true,
    };
    let (triggers, because) = (top.get("triggers"), top.get("because"));
    if !coverable {
        let because = top
            .need(desk, "because")
            .and_then(|given| line(desk, given));
        if let Some(given) = triggers {
            given.wrong(
                desk,
                "there are `triggers`, and it is not coverable".to_owned(),
            );
        }
        return because.map(Cover::Nothing);
    }
    if let Some(given) = because {
        desk.tell(
            given.key,
            "`because` says why it is not coverable, and it is",
            "`because` beside `coverable: no`",
            "take it out, or write `coverable: no`",
        );
    }
    let given = top.need(desk, "triggers")?;
    if given.list_is_empty() {
        given.wrong(desk, "`triggers` names no action".to_owned());
    }
    let triggers = items(desk, Some(given), trigger);
    (!triggers.is_empty()).then_some(Cover::By(triggers))
}

fn trigger(desk: &mut Desk, node: &Node) -> Option<Trigger> {
    let section = Section::of(&ADVISORY, desk, node, "triggers[]")?;
    let action = (section.need(desk, "action")).and_then(|given| given.parse(desk, action));
    let what = section.get("what").and_then(|given| line(desk, given));
    let mut kinds = Vec::new();
    for key in [
        "kinds", "families", "names", "fs", "types", "devices", "paths",
    ] {
        let Some(given) = section.get(key) else {
            continue;
        };
        if let Some(action) = action.as_deref().and_then(denial::action) {
            fits(desk, given, action);
        }
        if given.list_is_empty() {
            given.wrong(desk, format!("`{key}` names none"));
        }
        let of_action = action.as_deref().and_then(denial::action);
        let stands_on = of_action.is_some_and(|action| action.takes() == Takes::StandsOn);
        kinds.extend(each(desk, given, |name| {
            let is = match key {
                "kinds" => rtnetlink::kind(name).is_some(),
                "families" => is_family(name),
                "devices" if stands_on => name == DM_THIN_NAME,
                "devices" => name.parse::<Device>().is_ok(),
                "paths" => Path::argument(name).is_some(),
                "fs" => mount::file_system(name).is_some(),
                "types" => guard_common::action::name::<2>(name).is_some(),
                _ => module::name(name).is_some(),
            };
            is.then(|| name.to_owned())
        }));
    }
    let nested = (section.get("netns"))
        .and_then(|given| given.parse(desk, |text| (text == "nested").then_some(true)))
        .unwrap_or(false);
    let leaves = section.get("leaves").and_then(|given| line(desk, given));
    Some(Trigger {
        action: action?,
        what,
        kinds,
        nested,
        leaves,
    })
}

/// A family of sockets, or of netlink with what is behind netfilter.
fn is_family(name: &str) -> bool {
    let of_sockets = FAMILIES.iter().any(|(known, _)| *known == name);
    of_sockets || Family::named(name).is_some()
}

/// Tells of a key that is not of an action of this version. Of one that a later version has it is not known.
fn fits(desk: &mut Desk, given: Given<'_>, action: Action) {
    let own = match action.takes() {
        Takes::Nothing => None,
        Takes::Kinds => Some("kinds"),
        Takes::Sockets | Takes::Families => Some("families"),
        Takes::Names => Some("names"),
        Takes::FileSystems => Some("fs"),
        Takes::KeyTypes => Some("types"),
        Takes::Devices | Takes::StandsOn => Some("devices"),
        Takes::Paths => Some("paths"),
    };
    let key = given.field.key();
    if own == Some(key) {
        return;
    }
    let (expected, advice) = match own {
        Some(own) => (
            format!("`{own}`, or nothing"),
            format!("write `{own}`, or `what` for words"),
        ),
        None => (
            "the action, and nothing that it is done to".to_owned(),
            "take it out, or write `what` for words".to_owned(),
        ),
    };
    let message = format!("`{key}` is not of {}", action.name());
    desk.tell(given.key, message, &expected, &advice);
}

/// A list of maps.
fn items<T>(
    desk: &mut Desk,
    given: Option<Given<'_>>,
    read: impl Fn(&mut Desk, &Node) -> Option<T>,
) -> Vec<T> {
    let Some(given) = given else {
        return Vec::new();
    };
    let items = given.list(desk).unwrap_or_default();
    if items.len() > ITEMS {
        given.wrong(desk, format!("{} items; at most {ITEMS}", items.len()));
    }
    (items.iter().take(ITEMS))
        .filter_map(|item| read(desk, item))
        .collect()
}

/// A list of single values.
fn each<T>(desk: &mut Desk, given: Given<'_>, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let texts = given.texts(desk).unwrap_or_default();
    if texts.len() > ITEMS {
        given.wrong(desk, format!("{} items; at most {ITEMS}", texts.len()));
    }
    let mut values = Vec::new();
    for (text, at) in texts.into_iter().take(ITEMS) {
        match read(text) {
            Some(value) => values.push(value),
            None => {
                let shown: String = text.chars().take(60).collect();
                let message = format!("an item of `{}` cannot be `{shown}`", given.field.key());
                let advice = format!("write it like `{}`", given.field.example);
                desk.tell(at, message, given.field.kind, &advice);
            }
        }
    }
    values
}

fn text(desk: &mut Desk, given: Given<'_>) -> Option<String> {
    given.parse(desk, |text| {
        let fits = !text.trim().is_empty()
            && text.chars().count() <= TEXT
            && !text
                .chars()
                .any(|letter| letter.is_control() && letter != '\n');
        fits.then(|| text.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

fn line(desk: &mut Desk, given: Given<'_>) -> Option<String> {
    given.parse(desk, |text| short(text).then(|| text.to_owned()))
}

fn short(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= TEXT / 8
        && !text.chars().any(char::is_control)
}

fn name(text: &str) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let good =
        !text.is_empty() && text.len() <= 64 && !text.starts_with('.') && text.chars().all(fits);
    good.then(|| text.to_owned())
}

fn word(text: &str) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    (!text.is_empty() && text.len() <= 32 && text.chars().all(fits)).then(|| text.to_owned())
}

/// `net_link.create`: not held to a list, since a set may name actions of a later version.
fn action(text: &str) -> Option<String> {
    let plain = |part: &str| {
        part.starts_with(|letter: char| letter.is_ascii_lowercase())
            && (part.chars()).all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    (text.len() <= 64 && text.split('.').all(plain)).then(|| text.to_owned())
}

fn option(text: &str) -> Option<String> {
    let plain =
        |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    let good = !text.is_empty()
        && text.len() <= 64
        && text.chars().all(plain)
        && !text.starts_with("CONFIG_");
    good.then(|| text.to_owned())
}

fn commit(text: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ((12..=40).contains(&text.len()) && text.bytes().all(hex)).then(|| text.to_owned())
}

fn date(text: &str) -> Option<NaiveDate> {
    (text.len() == 10)
        .then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())
        .flatten()
}

fn harm(text: &str) -> Option<Harm> {
    [Harm::Crash, Harm::Corruption, Harm::Leak, Harm::Escape]
        .into_iter()
        .find(|harm| harm.name() == text)
}

fn reach(text: &str) -> Option<Reach> {
    [
        Reach::Any,
        Reach::NetRaw,
        Reach::UserNamespace,
        Reach::Privileged,
    ]
    .into_iter()
    .find(|reach| reach.name() == text)
}

fn distribution(text: &str) -> Option<Distribution> {
    (Distribution::ALL.into_iter()).find(|distribution| distribution.name() == text)
}
