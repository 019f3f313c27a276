//! All files of a policy together: what one says and another takes back is an error, never a matter of their order.

use super::{
    armed::Armed,
    fields::near,
    glob::{self, HOSTS_OWN},
    model::{Denial, LogSettings, Mode, Policy, PoolAlarm, Reserve, Rule, SUBJECTS, Subject},
    parse::{DEFAULT_RESERVE, Draft, DraftSubject, file},
    pattern::{self, DraftWatch},
    problem::{At, Desk, Problems, Source},
    section::twice,
    yaml,
};

/// Patterns of a policy.
const PATTERNS: usize = 1024;

/// Reads the files of a policy, in their order.
///
/// # Errors
/// All that is wrong with them.
pub fn policy(sources: Vec<Source>) -> Result<Policy, Problems> {
    let mut desk = Desk {
        sources,
        problems: Vec::new(),
    };
    let mut drafts = Vec::new();
    let mut whole = true;
    for number in 0..desk.sources.len() {
        match yaml::read(&desk.sources[number], number) {
            Ok(node) => match file(&mut desk, &node) {
                Some(draft) => drafts.push(draft),
                None => whole = false,
            },
            Err(problem) => {
                whole = false;
                desk.problems.push(*problem);
            }
        }
    }
    // What a file that cannot be read would have said is not missing from the others.
    let policy = whole.then(|| join(&mut desk, drafts)).flatten();
    desk.problems.sort_by_key(|problem| {
        let number = desk
            .sources
            .iter()
            .position(|source| source.file == problem.file);
        (number, problem.line, problem.column)
    });
    match policy {
        Some(policy) if desk.problems.is_empty() => Ok(policy),
        Some(_) | None => Err(Problems(desk.problems)),
    }
}

fn join(desk: &mut Desk, drafts: Vec<Draft>) -> Option<Policy> {
    let start = drafts.first()?.at;
    let (mut mode, mut reserve, mut audit, mut kernel_log) = (None, None, None, None);
    let mut forward = None;
    let (mut thin_discard, mut pool_alarm, mut dmesg_restrict) = (None, None, None);
    let mut subjects: Vec<DraftSubject> = Vec::new();
    let mut rules: Vec<(Rule, At)> = Vec::new();
    let mut exempt: Vec<(String, At)> = Vec::new();
    let mut uses: Vec<(String, At)> = Vec::new();
    let mut watch = DraftWatch::default();
    for draft in drafts {
        once(desk, &mut mode, draft.mode, "`mode`");
        once(desk, &mut reserve, draft.reserve, "`reserve`");
        let thin = draft.thin;
        once(desk, &mut thin_discard, thin.discard, "`thin.discard`");
        once(desk, &mut pool_alarm, thin.alarm, "`thin.alarm`");
        let asked = draft.dmesg_restrict;
        once(desk, &mut dmesg_restrict, asked, "`dmesg_restrict`");
        once(desk, &mut audit, draft.audit, "`audit`");
        once(desk, &mut kernel_log, draft.kernel_log, "`kernel_log`");
        once(desk, &mut forward, draft.forward, "`forward`");
        for subject in draft.subjects {
            match subjects.iter().find(|known| known.name == subject.name) {
                Some(first) => {
                    let first = desk.place(first.at).to_string();
                    twice(
                        desk,
                        subject.at,
                        &format!("subject `{}`", subject.name),
                        &first,
                    );
                }
                None => subjects.push(subject),
            }
        }
        exempt.extend(draft.exempt);
        watch.patterns.extend(draft.watch.patterns);
        watch.ignore.extend(draft.watch.ignore);
        for rule in draft.rules {
            if let Some((first, _)) = rules.iter().find(|(known, _)| known.name == rule.name) {
                let first = first.place.to_string();
                twice(desk, rule.at, &format!("rule `{}`", rule.name), &first);
                continue;
            }
            let place = desk.place(rule.at);
            uses.extend(rule.subjects.iter().chain(&rule.except).cloned());
            let rule_itself = Rule {
                name: rule.name,
                subjects: rule.subjects.into_iter().map(|(name, _)| name).collect(),
                mode: rule.mode,
                forks: rule.forks,
                pids: rule.pids,
                leak: rule.leak,
                deny: rule.deny,
                except: rule.except.into_iter().map(|(name, _)| name).collect(),
                severity: rule.severity,
                escalate: rule.escalate,
                place,
            };
            rules.push((rule_itself, rule.at));
        }
    }
    let names: Vec<&str> = subjects
        .iter()
        .map(|subject| subject.name.as_str())
        .collect();
    for (name, at) in &uses {
        if names.contains(&name.as_str()) {
            continue;
        }
        let advice = match near(name, names.iter().copied()).first() {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("define it: `subjects: {{{name}: {{cgroups: […]}}}}`"),
        };
        let known = if names.is_empty() {
            "no subject is defined".to_owned()
        } else {
            names.join(", ")
        };
        desk.tell(
            *at,
            format!("there is no subject `{name}`"),
            &format!("a subject of this policy: {known}"),
            &advice,
        );
    }
    if subjects.is_empty() {
        desk.tell(
            At { length: 1, ..start },
            "the policy has no subjects: it governs nothing",
            "`subjects`, with the cgroups that are containers",
            "`bulkhead explain subjects` shows how; the default policy has the patterns of two dozen runtimes",
        );
    }
    if let Some(last) = subjects.get(SUBJECTS) {
        desk.tell(
            last.at,
            format!("{} subjects in all files together", subjects.len()),
            "at most 64",
            "put their patterns together",
        );
    }
    let count = subjects
        .iter()
        .map(|subject| subject.cgroups.len() + subject.except.len())
        .sum::<usize>()
        + exempt.len();
    if count > PATTERNS {
        desk.tell(
            At { length: 1, ..start },
            format!("{count} cgroup patterns in all files together"),
            "at most 1024",
            "use `*` and `**`",
        );
        return None;
    }
    for subject in &subjects {
        check_patterns(desk, subject);
    }
    for (pattern, at) in &exempt {
        let all = subjects.iter().flat_map(|subject| &subject.cgroups);
        never(desk, pattern, *at, all, "exempt");
    }
    pattern::check(desk, &watch);
    let logs_at = (kernel_log.as_ref().map(|(_, at)| *at)).or(audit.as_ref().map(|(_, at)| *at));
    let audit = audit.map_or_else(LogSettings::audit, |(audit, _)| audit);
    let kernel_log = kernel_log.map_or_else(|| Some(LogSettings::kernel_log()), |(log, _)| log);
    if let (Some(at), Some(log)) = (logs_at, &kernel_log)
        && log.meets(&audit)
    {
        desk.tell(
            at,
            format!(
                "the copy of the kernel log would be written to {}, and the audit log to {}",
                log.file.escape_debug(),
                audit.file.escape_debug()
            ),
            "a file of its own for each, and for what is rotated",
            "give `kernel_log` or `audit` another `file`",
        );
    }
    Some(Policy {
        files: desk
            .sources
            .iter()
            .map(|source| source.file.clone())
            .collect(),
        embedded: false,
        mode: mode.map_or(Mode::Audit, |(mode, _)| mode),
        subjects: (subjects.into_iter())
            .map(|subject| Subject {
                place: desk.place(subject.at),
                name: subject.name,
                cgroups: subject
                    .cgroups
                    .into_iter()
                    .map(|(pattern, _)| pattern)
                    .collect(),
                except: subject
                    .except
                    .into_iter()
                    .map(|(pattern, _)| pattern)
                    .collect(),
            })
            .collect(),
        exempt: exempt.into_iter().map(|(pattern, _)| pattern).collect(),
        rules: rules.into_iter().map(|(rule, _)| rule).collect(),
        reserve: reserve.map_or(
            Some(Reserve {
                pids: DEFAULT_RESERVE,
                mode: None,
            }),
            |(reserve, _)| reserve,
        ),
        thin_discard: thin_discard.map_or_else(
            || Some(Denial::of_thin_discards(Armed::Unasked)),
            |(asked, _)| asked,
        ),
        pool_alarm: pool_alarm.map_or(Some(PoolAlarm::DEFAULT), |(alarm, _)| alarm),
        dmesg_restrict: dmesg_restrict.is_some_and(|(asked, _)| asked),
        audit,
        kernel_log,
        patterns: (watch.patterns.into_iter())
            .map(|(pattern, _)| pattern)
            .collect(),
        ignore_patterns: watch.ignore.into_iter().map(|(name, _)| name).collect(),
        forward: forward.map_or_else(Vec::new, |(outlets, _)| outlets),
    })
}

/// Keeps the first of a setting that only one file may have.
fn once<T>(desk: &mut Desk, kept: &mut Option<(T, At)>, new: Option<(T, At)>, what: &str) {
    match (&kept, new) {
        (Some((_, first)), Some((_, at))) => {
            let first = desk.place(*first).to_string();
            twice(desk, at, what, &first);
        }
        (None, Some(new)) => *kept = Some(new),
        (_, None) => {}
    }
}

fn check_patterns(desk: &mut Desk, subject: &DraftSubject) {
    for (pattern, at) in &subject.cgroups {
        if let Some((_, first)) = subject.except.iter().find(|(except, _)| except == pattern) {
            let first = desk.place(*first).to_string();
            desk.tell(
                *at,
                format!("`{pattern}` can never apply: {first} takes it out again"),
                "a pattern that no `except` takes out altogether",
                "take one of the two out",
            );
        }
        let host = HOSTS_OWN.iter().find(|(path, _)| {
            glob::matches(pattern, path)
                && !subject
                    .except
                    .iter()
                    .any(|(except, _)| glob::matches(except, path))
        });
        if let Some((path, what)) = host {
            desk.tell(
                *at,
                format!("`{pattern}` takes in {path}: {what} would be a container"),
                "cgroups that a container runtime makes, and none of the host's",
                "name the runtime's cgroups more closely, or take the host's out with `except`",
            );
        }
    }
    // Without patterns of its own the subject is wrong already.
    for (pattern, at) in subject
        .except
        .iter()
        .filter(|_| !subject.cgroups.is_empty())
    {
        never(desk, pattern, *at, subject.cgroups.iter(), "take out");
    }
}

/// Tells of a pattern that has no cgroup in common with any of `all`.
fn never<'p>(
    desk: &mut Desk,
    pattern: &str,
    at: At,
    mut all: impl Iterator<Item = &'p (String, At)>,
    what: &str,
) {
    if !all.any(|(cgroups, _)| glob::overlap(pattern, cgroups)) {
        desk.tell(
            at,
            format!("`{pattern}` can never apply: no pattern of `cgroups` has a cgroup in common with it, so there is nothing to {what}"),
            "a pattern that some container's own cgroup matches",
            "write the container's own cgroup, not one above or below it; or take it out",
        );
    }
}
