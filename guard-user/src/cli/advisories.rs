//! `bulkhead advisories`: which known bugs this kernel has, why that is said, and whether the policy refuses what triggers them.

mod words;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, CommandFactory, error::ErrorKind};
use guard_user::{
    advisory::{
        arm::{Bugs, arm},
        cover::{Coverage, coverage},
        host::Host,
        judge::{Judgement, judge},
        kernel::Kernel,
        model::{Advisory, Cover, Trigger},
        set::{self, Places, Set},
    },
    policy::{load, model::Policy, problem::Problems},
    record::Text,
};
use serde::Serialize;

use super::host;

/// Show which known bugs of the kernel a container could use here, and whether each is covered.
///
/// An advisory is a bug that a container can reach, with the kernels that have it, and the action that triggers it. The
/// kernel's package is compared first, since distributions fix bugs ahead of the kernel's own releases, then its release.
///
/// affected: this kernel has the bug. unsure: it may have it, since its vendor fixes bugs without a new version, or brings
/// them to old ones; it counts as affected. fixed: it has the fix. not affected: it never had the bug. Shown are the first
/// two; --all shows all.
///
/// `covered` names the rules of the policy (what `bulkhead check` checks) that refuse the action, and their mode; only
/// `enforce` keeps anybody out. A rule with `kernel: affected` that is not armed on this kernel is marked so. And `bulkhead doctor` says whether the hook works here. "no action of this version refuses
/// it": no rule can. "not coverable": no version will, since the trigger is what every program does; only a fixed kernel helps.
///
/// Advisories are built into the program. Those of a signed /etc/bulkhead/advisories.bundle (its signature beside it in
/// advisories.bundle.minisig, the key in advisories.pub) and of the folder /etc/bulkhead/advisories come to them, and take the
/// place of those with the same id. One mistake in any of them, or a wrong signature, and nothing is shown but that.
///
/// Exit code 0: shown, whatever was found; 1: the advisories or the policy have a mistake; 2: usage, a --kernel that is none
/// included; 3: this kernel's version cannot be read. Needs no root.
#[derive(Args)]
#[command(after_help = "Examples:
  bulkhead advisories                                  the kernel that runs
  bulkhead advisories --kernel \"$(ssh HOST cat /proc/version)\"
  bulkhead advisories --kernel 6.6.30                  a release of the kernel's own
  bulkhead advisories --kernel 'debian 6.1.170-1'      a package; also ubuntu, redhat, amazon
  bulkhead advisories --kernel 5.14.0-427.18.1.el9_4.x86_64
  bulkhead advisories --from new/ --all                try a folder before it goes to /etc/bulkhead/advisories")]
pub struct Arguments {
    /// Judge this kernel instead of the one that runs: what `uname -r` or `uname -rv` says, a line of /proc/version or
    /// /proc/version_signature, or a distribution and a package version. `uname -r` alone tells little on Debian.
    #[arg(long, value_name = "VERSION")]
    kernel: Option<String>,
    /// Take this folder of advisories, or this bundle with its .minisig beside it, instead of those in /etc/bulkhead.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// The public key that a bundle must be signed with.
    #[arg(long, value_name = "FILE", default_value = set::KEY)]
    key: PathBuf,
    /// Show those that are fixed, and those that this kernel never had, as well.
    #[arg(long)]
    all: bool,
    /// Print JSON: all of them, whatever --all says.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    kernel: Said<'a>,
    /// How many advisories came from where.
    from: &'a [String],
    advisories: Vec<Line<'a>>,
}

/// What is known of the kernel.
#[derive(Serialize)]
struct Said<'a> {
    release: &'a str,
    vendor: &'static str,
    /// The package's version, where the kernel or the package database tells it.
    package: Option<&'a str>,
    /// The release of mainline or stable that it is built of.
    upstream: String,
    /// Whether that is the very release, or only its branch.
    upstream_exact: bool,
    built: Option<String>,
    /// By os-release; absent with --kernel.
    system: Option<&'a str>,
    /// Live patches in force, which no version tells of.
    livepatches: &'a [String],
}

/// One advisory.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    title: &'a str,
    happens: &'a str,
    harm: &'static str,
    reach: &'static str,
    #[serde(skip)]
    who: &'static str,
    state: &'static str,
    reason: String,
    historical: Option<&'a str>,
    coverable: bool,
    triggers: Vec<String>,
    covered: Vec<By>,
    /// Why no rule covers it; absent where one does.
    uncovered: Option<String>,
    fixed_by: &'a [String],
    references: &'a [String],
    checked: String,
    how: &'a str,
    place: String,
}

/// A rule that covers one.
#[derive(Serialize)]
struct By {
    rule: String,
    mode: &'static str,
    action: &'static str,
    leaves: Option<String>,
    /// Subjects of the policy that the rule is not about.
    not_for: Vec<String>,
    /// Whether it does so on this kernel: `kernel: affected` may leave it out.
    armed: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let read = sources(arguments).and_then(|set| Ok((set, load::in_force(None)?)));
    let (set, mut policy) = match read {
        Ok(read) => read,
        Err(problems) => {
            eprint!("{problems}");
            return Ok(ExitCode::from(1));
        }
    };
    let (kernel, host) = match kernel(arguments.kernel.as_deref())? {
        Err(code) => return Ok(code),
        Ok(Some(kernel)) => (kernel, None),
        Ok(None) => match Host::of(Path::new("/")) {
            Ok(host) => (host.kernel.clone(), Some(host)),
            Err(error) => return Ok(host::cannot(&error)),
        },
    };
    let unset = |option: &str| host.as_ref().is_some_and(|host| host.unset(option));
    arm(&mut policy, Ok(&Bugs::of(&set, &kernel, &unset)));
    let report = report(&set, &policy, &kernel, host.as_ref());
    if arguments.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        super::print(&words::words(&report, arguments.all)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernel that somebody asks about; else the exit code, when it is told that it is none.
pub fn kernel(text: Option<&str>) -> Result<Result<Option<Kernel>, ExitCode>> {
    match text.map(Kernel::parse).transpose() {
        Ok(kernel) => Ok(Ok(kernel)),
        Err(message) => {
            let words = Text::from(message.as_str()).to_string();
            super::Arguments::command()
                .error(ErrorKind::ValueValidation, words)
                .print()?;
            Ok(Err(ExitCode::from(2)))
        }
    }
}

fn sources(arguments: &Arguments) -> Result<Set, Problems> {
    let places = match &arguments.from {
        Some(path) => Places::one(path, &arguments.key),
        None => Places::of_this_host(&arguments.key)?,
    };
    set::load(&places)
}

fn report<'a>(
    set: &'a Set,
    policy: &Policy,
    kernel: &'a Kernel,
    host: Option<&'a Host>,
) -> Report<'a> {
    let unset = |option: &str| host.is_some_and(|host| host.unset(option));
    let mut judged: Vec<(&Advisory, Judgement)> = (set.advisories.iter())
        .map(|advisory| (advisory, judge(advisory, kernel, &unset)))
        .collect();
    judged.sort_by_key(|(_, judgement)| judgement.state);
    Report {
        kernel: Said {
            release: &kernel.release,
            vendor: kernel.vendor.title(),
            package: kernel.package.as_deref(),
            upstream: kernel.upstream.to_string(),
            upstream_exact: kernel.exact,
            built: kernel.built.map(|day| day.to_string()),
            system: host.and_then(|host| host.system.as_deref()),
            livepatches: host.map_or(&[], |host| &host.livepatches),
        },
        from: &set.from,
        advisories: (judged.into_iter())
            .map(|(advisory, judgement)| line(advisory, judgement, policy))
            .collect(),
    }
}

fn line<'a>(advisory: &'a Advisory, judgement: Judgement, policy: &Policy) -> Line<'a> {
    let (covered, uncovered) = match coverage(advisory, policy) {
        Coverage::Impossible(because) => (Vec::new(), Some(format!("not coverable: {because}"))),
        Coverage::NoAction => (
            Vec::new(),
            Some("no action of this version refuses it".to_owned()),
        ),
        Coverage::NoRule { actions, partly } => {
            let actions = actions.join(" or ");
            let words = if partly.is_empty() {
                format!("no rule of the policy denies {actions}")
            } else {
                let rules = partly.join(", ");
                format!(
                    "no rule of the policy denies all of {actions} that triggers it: {rules} leaves some open"
                )
            };
            (Vec::new(), Some(words))
        }
        Coverage::By(rules) => {
            let by = rules.into_iter().map(|by| By {
                rule: by.rule,
                mode: by.mode.name(),
                action: by.action,
                leaves: by.leaves,
                not_for: by.not_for,
                armed: by.armed,
            });
            (by.collect(), None)
        }
    };
    let (coverable, triggers) = match &advisory.cover {
        Cover::By(triggers) => (true, triggers.iter().map(trigger).collect()),
        Cover::Nothing(_) => (false, Vec::new()),
    };
    Line {
        id: &advisory.id,
        title: &advisory.title,
        happens: &advisory.happens,
        harm: advisory.harm.name(),
        reach: advisory.reach.name(),
        who: advisory.reach.who(),
        state: judgement.state.name(),
        reason: judgement.reason,
        historical: advisory.historical.as_deref(),
        coverable,
        triggers,
        covered,
        uncovered,
        fixed_by: advisory
            .upstream
            .as_ref()
            .map_or(&[], |range| &range.fixed_by),
        references: &advisory.references,
        checked: advisory.checked.to_string(),
        how: &advisory.how,
        place: advisory.place.to_string(),
    }
}

fn trigger(trigger: &Trigger) -> String {
    let mut words = trigger.action.clone();
    if !trigger.kinds.is_empty() {
        words.push_str(&format!(" of {}", trigger.kinds.join(", ")));
    }
    if trigger.nested {
        words.push_str(" in a nested network namespace");
    }
    if let Some(what) = &trigger.what {
        words.push_str(&format!(": {what}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const POLICY: &str = "version: 1\nmode: enforce\nsubjects: {all: {cgroups: [\"/docker/*\"]}}\nrules:\n  - {name: log, subjects: [all], deny: [kernel_log.read]}\n  - {name: look, subjects: [all], mode: audit, deny: [kernel_log.read]}\n  - {name: patch, subjects: [all], kernel: affected, deny: [bpf, netlink: {families: [xfrm]}]}\n";
    const FILE: &str = "id: made-up\ntitle: a bug\nhappens: Nothing.\nharm: crash\nreach: any\nupstream: {introduced: [\"5.10\"], fixed: [\"6.2\"]}\nTRIGGERS\nchecked: {on: \"2026-11-28\", how: made up}\n";

    fn said(triggers: &str, kernel: &str, all: bool) -> String {
        said_of(POLICY, triggers, kernel, all)
    }

    fn said_of(policy: &str, triggers: &str, kernel: &str, all: bool) -> String {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-advisories-cli-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("made-up.yaml"),
            FILE.replace("TRIGGERS", triggers),
        )
        .unwrap();
        let set = set::load(&Places::one(&folder, Path::new("/nonexistent")));
        std::fs::remove_dir_all(&folder).unwrap();
        let mut set = set.unwrap_or_else(|problems| panic!("{problems}"));
        set.advisories.retain(|advisory| advisory.id == "made-up");
        let mut policy = load::from_bytes("x", policy.as_bytes()).unwrap();
        let kernel = Kernel::parse(kernel).unwrap();
        arm(&mut policy, Ok(&Bugs::of(&set, &kernel, &|_| false)));
        words::words(&report(&set, &policy, &kernel, None), all).unwrap()
    }

    #[test]
    fn it_says_state_reason_trigger_and_rule() {
        let said = said(
            "triggers: [{action: kernel_log.read, leaves: nothing much}]",
            "6.1.50",
            false,
        );
        for line in [
            "kernel    6.1.50 of mainline, built of 6.1.50\n",
            "\naffected     made-up  a bug\n",
            "  why        fixed upstream in 6.2, in no release of 6.1; this is 6.1.50\n",
            "  harm       crash, by any process\n",
            "  trigger    kernel_log.read\n",
            "  covered    by rule log (enforce), which denies kernel_log.read; leaves nothing much\n",
            "  covered    by rule look (audit, which refuses nothing), which denies kernel_log.read; leaves nothing much\n",
            "\n1 affected, 0 unsure; 0 fixed and 0 that this kernel never had: --all shows them\n",
        ] {
            assert!(said.contains(line), "{line}{said}");
        }
    }

    #[test]
    fn triggers_of_one_action_are_told_apart_by_families_and_namespace() {
        let said = said(
            "triggers: [{action: netlink, families: [nf_tables, xfrm]}, {action: netlink, families: [nf_tables], netns: nested}, \
             {action: netlink, what: queues}]",
            "6.1.50",
            false,
        );
        for line in [
            "  trigger    netlink of nf_tables, xfrm\n",
            "             netlink of nf_tables in a nested network namespace\n",
            "             netlink: queues\n",
        ] {
            assert!(said.contains(line), "{line}{said}");
        }
    }

    #[test]
    fn what_is_not_covered_says_why() {
        let of = |triggers: &str| said(triggers, "6.1.50", false);
        for (triggers, expected) in [
            (
                "triggers: [{action: some.day}]",
                "no action of this version refuses it",
            ),
            (
                "triggers: [{action: kernel_log.clear}]",
                "no rule of the policy denies kernel_log.clear",
            ),
            (
                "coverable: no\nbecause: it is ordinary",
                "not coverable: it is ordinary",
            ),
        ] {
            let said = of(triggers);
            assert!(
                said.contains(&format!("  covered    {expected}\n")),
                "{said}"
            );
        }
    }

    #[test]
    fn whom_the_rule_is_not_about_is_said() {
        let policy = POLICY
            .replace("subjects: {all: {cgroups: [\"/docker/*\"]}}", "subjects: {all: {cgroups: [\"/docker/*\"]}, ci: {cgroups: [\"/ci/*\"]}, own: {cgroups: [\"/own/*\"]}}")
            .replace("{name: log, subjects: [all],", "{name: log, subjects: [all], except: [own],");
        let said = said_of(
            &policy,
            "triggers: [{action: kernel_log.read}]",
            "6.1.50",
            false,
        );
        let line =
            "  covered    by rule log (enforce), which denies kernel_log.read; not for ci, own\n";
        assert!(said.contains(line), "{said}");
    }

    #[test]
    fn a_rule_for_affected_kernels_covers_on_them_and_is_said_not_to_be_armed_on_others() {
        let of = |kernel| said("triggers: [{action: bpf}]", kernel, true);
        let covered = "  covered    by rule patch (enforce), which denies bpf\n";
        assert!(of("6.1.50").contains(covered), "{}", of("6.1.50"));
        let not =
            "  covered    by rule patch (enforce; not armed on this kernel), which denies bpf\n";
        assert!(of("6.2").contains(not), "{}", of("6.2"));
        let some = said(
            "triggers: [{action: netlink, families: [nf_tables, xfrm]}]",
            "6.1.50",
            true,
        );
        let leaves = "  covered    no rule of the policy denies all of netlink that triggers it: patch leaves some open\n";
        assert!(some.contains(leaves), "{some}");
    }

    #[test]
    fn what_is_fixed_is_shown_with_all() {
        let of = |all| said("triggers: [{action: mount}]", "6.2", all);
        assert!(!of(false).contains("made-up  a bug"));
        assert!(of(true).contains("fixed        made-up  a bug"));
    }
}
