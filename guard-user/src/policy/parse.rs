//! One file of a policy: every field in its place, in its unit and within its bounds, or an error that says so.

use std::time::Duration;

use super::{
    glob,
    model::{LogSettings, Mode, Outlet, RULES, Reserve, SUBJECTS},
    outlet::outlets,
    pattern::{DraftWatch, watching},
    problem::{At, Desk},
    rule::{DraftRule, rule},
    section::{Given, Section, twice},
    thin::{DraftThin, thin},
    units::{self, PIDS, Pids},
    yaml::{Node, Value},
};
use crate::identity::names::is_user_made;

pub const SECOND: Duration = Duration::from_secs(1);
pub const DAY: Duration = Duration::from_secs(86_400);
/// Patterns of a list.
const PATTERNS: usize = 512;
/// Characters of a name.
const NAME: usize = 64;

/// What one file says.
#[derive(Default)]
pub struct Draft {
    pub mode: Option<(Mode, At)>,
    pub subjects: Vec<DraftSubject>,
    pub exempt: Vec<(String, At)>,
    pub rules: Vec<DraftRule>,
    pub reserve: Option<(Option<Reserve>, At)>,
    pub thin: DraftThin,
    pub dmesg_restrict: Option<(bool, At)>,
    pub audit: Option<(LogSettings, At)>,
    pub kernel_log: Option<(Option<LogSettings>, At)>,
    pub watch: DraftWatch,
    pub forward: Option<(Vec<Outlet>, At)>,
    /// The file itself.
    pub at: At,
}

pub struct DraftSubject {
    pub name: String,
    pub at: At,
    pub cgroups: Vec<(String, At)>,
    pub except: Vec<(String, At)>,
}

/// Reads a file's tree. What is wrong is told at the desk, and left out of the draft; `None`: it is no policy at all.
pub fn file(desk: &mut Desk, node: &Node) -> Option<Draft> {
    let mut draft = Draft {
        at: node.at,
        ..Draft::default()
    };
    let top = Section::new(desk, node, "")?;
    if let Some(version) = top.need(desk, "version")
        && let Some(text) = version.text(desk)
        && text != "1"
    {
        let message = format!("this version of Bulkhead does not know policies of version {text}");
        version.wrong(desk, message);
    }
    draft.mode = top
        .get("mode")
        .and_then(|given| Some((given.mode(desk)?, given.key)));
    if let Some(given) = top.get("subjects") {
        draft.subjects = subjects(desk, given);
    }
    if let Some(given) = top.get("exempt")
        && let Some(section) = Section::new(desk, given.node, "exempt")
        && let Some(given) = section.get("cgroups")
    {
        draft.exempt = patterns(desk, given, true);
    }
    if let Some(given) = top.get("rules") {
        let items = given.list(desk).unwrap_or_default();
        if items.len() > RULES {
            given.wrong(desk, format!("{} rules; at most {RULES}", items.len()));
        }
        draft.rules = items
            .iter()
            .take(RULES)
            .filter_map(|item| rule(desk, item))
            .collect();
    }
    if let Some(given) = top.get("host")
        && let Some(section) = Section::new(desk, given.node, "host")
    {
        draft.reserve = section
            .get("reserve")
            .and_then(|given| Some((reserve(desk, given)?, given.key)));
        if let Some(given) = section.get("thin") {
            draft.thin = thin(desk, given);
        }
        draft.dmesg_restrict = section
            .get("dmesg_restrict")
            .and_then(|given| Some((given.parse(desk, on_or_leave)?, given.key)));
    }
    draft.audit = top
        .get("audit")
        .and_then(|given| Some((audit(desk, given)?, given.key)));
    if let Some(given) = top.get("kernel_log") {
        kernel_log(desk, given, &mut draft);
    }
    Some(draft)
}

fn subjects(desk: &mut Desk, given: Given<'_>) -> Vec<DraftSubject> {
    let Value::Map(pairs) = &given.node.value else {
        given.wrong(desk, format!("`subjects` is {}", given.node.value.kind()));
        return Vec::new();
    };
    let mut subjects: Vec<DraftSubject> = Vec::new();
    for (key, value) in pairs {
        let Value::Text(text) = &key.value else {
            desk.tell(
                key.at,
                "a subject's name is not a word",
                "a name",
                "write `name: {cgroups: […]}`",
            );
            continue;
        };
        let Some(name) = name(desk, text, key.at) else {
            continue;
        };
        if let Some(first) = subjects.iter().find(|subject| subject.name == name) {
            let first = desk.place(first.at).to_string();
            twice(desk, key.at, &format!("subject `{name}`"), &first);
            continue;
        }
        let mut subject = DraftSubject {
            name,
            at: key.at,
            cgroups: Vec::new(),
            except: Vec::new(),
        };
        // A subject that is wrong within keeps its name, so that rules about it are not wrong as well.
        if let Some(section) = Section::new(desk, value, "subjects.NAME") {
            if let Some(given) = section.need(desk, "cgroups") {
                subject.cgroups = patterns(desk, given, false);
                if given.list_is_empty() {
                    given.wrong(
                        desk,
                        format!(
                            "subject `{}` has no cgroups: no rule can ever apply to it",
                            subject.name
                        ),
                    );
                }
            }
            if let Some(given) = section.get("except") {
                subject.except = patterns(desk, given, true);
            }
        }
        subjects.push(subject);
    }
    if subjects.len() > SUBJECTS {
        given.wrong(
            desk,
            format!("{} subjects; at most {SUBJECTS}", subjects.len()),
        );
        subjects.truncate(SUBJECTS);
    }
    subjects
}

/// A list of patterns; `lifts`: they take containers out of what rules govern.
fn patterns(desk: &mut Desk, given: Given<'_>, lifts: bool) -> Vec<(String, At)> {
    let texts = given.texts(desk).unwrap_or_default();
    if texts.len() > PATTERNS {
        desk.tell(
            given.node.at,
            format!("{} patterns in one list; at most {PATTERNS}", texts.len()),
            "a list of at most 512 patterns, and 1024 in the whole policy",
            "let `*` and `**` stand for many; what is left over goes into another subject, which the same rules may be about",
        );
    }
    let mut patterns: Vec<(String, At)> = Vec::new();
    for (text, at) in texts.into_iter().take(PATTERNS) {
        let shown: String = text.chars().take(80).collect();
        let pattern = match glob::plain(text) {
            Ok(pattern) => pattern,
            Err(wrong) => {
                desk.tell(
                    at,
                    format!("`{shown}` {}", wrong.because),
                    given.field.kind,
                    wrong.advice,
                );
                continue;
            }
        };
        if let Some((_, first)) = patterns.iter().find(|(known, _)| *known == pattern) {
            let first = desk.place(*first).to_string();
            twice(desk, at, &format!("`{shown}`"), &first);
            continue;
        }
        if lifts && is_user_made(&pattern) {
            desk.tell(
                at,
                format!("`{shown}` can never apply: below user@UID.service users choose names themselves, and could free themselves with it"),
                "a pattern of cgroups that only root can make",
                "take it out; to govern no rootless containers, give `cgroups` without a leading `/**/`",
            );
            continue;
        }
        patterns.push((pattern, at));
    }
    patterns
}

pub fn name(desk: &mut Desk, text: &str, at: At) -> Option<String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if text.is_empty() || text.len() > NAME || !text.chars().all(fits) {
        let short: String = text.chars().take(NAME).collect();
        desk.tell(
            at,
            format!("`{short}` cannot be a name"),
            "1 to 64 letters, digits, `-`, `_` and `.`",
            "choose a name that reads well in a record, for example `fork-storm`",
        );
        return None;
    }
    Some(text.to_owned())
}

pub fn off(node: &Node) -> bool {
    matches!(&node.value, Value::Text(text) if units::is_off(text))
}

/// YAML takes `on` for true.
fn on_or_leave(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" => Some(true),
        "leave" => Some(false),
        _ => None,
    }
}

/// `None`: wrong, and told. `Some(None)`: no reserve.
fn reserve(desk: &mut Desk, given: Given<'_>) -> Option<Option<Reserve>> {
    if off(given.node) {
        return Some(None);
    }
    let section = Section::new(desk, given.node, "host.reserve")?;
    let mode = match section.get("mode") {
        Some(given) => Some(given.mode(desk)?),
        None => None,
    };
    let pids = match section.get("pids") {
        None => DEFAULT_RESERVE,
        Some(given) if off(given.node) => return Some(None),
        Some(given) => {
            let pids = given.parse(desk, Pids::parse)?;
            let possible = match pids {
                Pids::Absolute(pids) => (1..=PIDS).contains(&pids),
                Pids::Share { thousandths } => (1..=900).contains(&thousandths),
            };
            if !possible {
                given.wrong(desk, format!("`pids` cannot be {pids}: the reserve is more than nothing, and leaves the containers some"));
                return None;
            }
            pids
        }
    };
    Some(Some(Reserve { pids, mode }))
}

/// What the host keeps where no file says anything.
pub const DEFAULT_RESERVE: Pids = Pids::Share { thousandths: 100 };

fn audit(desk: &mut Desk, given: Given<'_>) -> Option<LogSettings> {
    let section = Section::new(desk, given.node, "audit")?;
    log(desk, &section, "audit.rotate", LogSettings::audit())
}

/// Patterns may stand in every file; where the copy and its lines go, and that there is none, in one.
fn kernel_log(desk: &mut Desk, given: Given<'_>, draft: &mut Draft) {
    if off(given.node) {
        draft.kernel_log = Some((None, given.key));
        return;
    }
    let Some(section) = Section::new(desk, given.node, "kernel_log") else {
        return;
    };
    draft.watch = watching(desk, &section);
    draft.forward = section
        .get("forward")
        .map(|given| (outlets(desk, given), given.key));
    if section.get("file").is_some() || section.get("rotate").is_some() {
        let settings = LogSettings::kernel_log();
        draft.kernel_log = log(desk, &section, "kernel_log.rotate", settings)
            .map(|settings| (Some(settings), given.key));
    }
}

/// A log's section, with the path of its `rotate`.
fn log(
    desk: &mut Desk,
    section: &Section<'_>,
    rotate: &'static str,
    mut settings: LogSettings,
) -> Option<LogSettings> {
    if let Some(given) = section.get("file") {
        let file = given.text(desk)?;
        if !file.starts_with('/')
            || file.ends_with('/')
            || file.contains("/../")
            || file.chars().any(char::is_control)
        {
            given.wrong(desk, format!("`file` cannot be `{}`", file.escape_debug()));
        }
        file.clone_into(&mut settings.file);
    }
    if let Some(given) = section.get("rotate")
        && let Some(section) = Section::new(desk, given.node, rotate)
    {
        if let Some(size) = section
            .get("size")
            .and_then(|given| given.size(desk, 64 << 10, 64 << 30))
        {
            settings.size = size;
        }
        if let Some(age) = section
            .get("age")
            .and_then(|given| given.duration(desk, 60 * SECOND, 365 * DAY))
        {
            settings.age = age;
        }
        if let Some(keep) = section
            .get("keep")
            .and_then(|given| given.count(desk, 1, 1000))
        {
            settings.keep = keep;
        }
    }
    Some(settings)
}
