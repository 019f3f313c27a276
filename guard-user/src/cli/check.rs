//! `bulkhead check`: whether a policy is valid, and what it would do.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use guard_user::{
    advisory::{arm::arm_by_this_host, kernel::Kernel},
    klog::watch::npd,
    policy::{
        compile::compile,
        describe::{self, Line},
        load,
        model::Policy,
        problem::{Problem, Problems},
    },
    record::Text,
};
use serde::Serialize;

/// The section that is no rule and is told of beside them.
const KERNEL_LOG: &str = "kernel_log";

/// Bytes of a configuration of node-problem-detector.
const NPD_BYTES: u64 = 1 << 20;

/// Check a policy, and say in one line for each rule what it would do. Needs no root, and changes nothing.
///
/// Each FILE is checked as a policy of its own. Without one: what the daemon would load, which is
/// /etc/bulkhead/policy.yaml, then /etc/bulkhead/policy.d/*.yaml in order of their names, together; the built-in default
/// where there is none. Every error begins with FILE:LINE:COLUMN: and says what was expected and what to do.
///
/// Of a rule with `kernel: affected` it says what is armed on the kernel that runs, or on that of --kernel, by which advisory,
/// and what is not and why; `bulkhead advisories` tells more of each.
///
/// With --import-npd nothing is checked: the rules of a kernel monitor's configuration of node-problem-detector are printed
/// as the part of a policy that they become. A rule that cannot be a pattern is told on standard error, with the reason.
///
/// Exit code 0: valid, or all rules imported; 1: not, or a rule was left out.
#[derive(Args)]
#[command(after_help = "Examples:
  bulkhead check                       what the daemon would load
  bulkhead check new.yaml && sudo cp new.yaml /etc/bulkhead/policy.yaml && sudo systemctl reload bulkhead
  bulkhead check --json policies/*.yaml
  bulkhead check --kernel 'debian 6.1.170-1'
  bulkhead check --import-npd /config/kernel-monitor.json")]
pub struct Arguments {
    /// Policy files, each checked alone.
    file: Vec<PathBuf>,
    /// Judge rules with `kernel: affected` by this kernel instead of the one that runs, as `bulkhead advisories` takes it.
    #[arg(long, value_name = "VERSION", conflicts_with = "import_npd")]
    kernel: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print the rules of this configuration of node-problem-detector as patterns of a policy.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "json"])]
    import_npd: Option<PathBuf>,
}

#[derive(Serialize)]
struct Checked {
    files: Vec<String>,
    valid: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
    #[serde(flatten)]
    effect: Option<Effect>,
}

#[derive(Serialize)]
struct Effect {
    embedded: bool,
    mode: &'static str,
    subjects: usize,
    patterns: usize,
    rules: Vec<Line>,
    exempt: Vec<String>,
    kernel_log: KernelLog,
    notes: Vec<String>,
}

/// What becomes of the kernel log.
#[derive(Serialize)]
struct KernelLog {
    /// Where its copy is; absent: none is kept, and nothing is watched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    forward: Vec<String>,
    /// The policy's own patterns.
    patterns: Vec<String>,
    /// Shipped patterns that raise no alarm.
    ignore: Vec<String>,
}

impl KernelLog {
    fn of(policy: &Policy) -> Self {
        Self {
            file: (policy.kernel_log.as_ref()).map(|settings| settings.file.clone()),
            forward: policy.forward.iter().map(ToString::to_string).collect(),
            patterns: (policy.patterns.iter())
                .map(|pattern| pattern.name.clone())
                .collect(),
            ignore: policy.ignore_patterns.clone(),
        }
    }

    /// `on` or `off`, and what it comes to.
    fn words(&self) -> (&'static str, String) {
        let Some(file) = &self.file else {
            return (
                "off",
                "no copy is kept, and no line raises an alarm".to_owned(),
            );
        };
        let mut words = format!("kept in {file}");
        if !self.forward.is_empty() {
            words.push_str(&format!(", forwarded to {}", self.forward.join(", ")));
        }
        words.push_str("; an alarm for each line of the shipped patterns");
        if !self.ignore.is_empty() {
            words.push_str(&format!(" but {}", self.ignore.join(", ")));
        }
        if !self.patterns.is_empty() {
            words.push_str(&format!(", and of {}", self.patterns.join(", ")));
        }
        ("on", words)
    }
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(file) = &arguments.import_npd {
        return import(file);
    }
    let kernel = match super::advisories::kernel(arguments.kernel.as_deref())? {
        Ok(kernel) => kernel,
        Err(code) => return Ok(code),
    };
    let kernel = kernel.as_ref();
    let mut all = Vec::new();
    if arguments.file.is_empty() {
        let files = load::default_sources().unwrap_or_default();
        let files = files
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        all.push(checked(files, load::in_force(None), kernel));
    }
    for file in &arguments.file {
        let files = vec![file.display().to_string()];
        all.push(checked(
            files,
            load::load_also_pipes(std::slice::from_ref(file)),
            kernel,
        ));
    }
    let valid = all.iter().all(|checked| checked.valid);
    to_stdout(|out| {
        if arguments.json {
            return writeln!(out, "{}", serde_json::to_string_pretty(&all)?);
        }
        all.iter().try_for_each(|checked| print(out, checked))
    })?;
    Ok(ExitCode::from(u8::from(!valid)))
}

fn import(path: &Path) -> Result<ExitCode> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too much is seen, and a device or a pipe does not fill the memory.
    fs::File::open(path)
        .and_then(|file| file.take(NPD_BYTES + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {name}"))?;
    ensure!(
        bytes.len() as u64 <= NPD_BYTES,
        "{name}: more than 1 MiB is no configuration of node-problem-detector"
    );
    let imported = npd::import(&name, &bytes)?;
    for skipped in &imported.skipped {
        let line = format!(
            "{name}: rule {} ({}) is left out: {}",
            skipped.number, skipped.reason, skipped.why
        );
        eprintln!("{}", Text::from(line.as_str()));
    }
    to_stdout(|out| out.write_all(npd::yaml(&imported.patterns).as_bytes()))?;
    Ok(ExitCode::from(u8::from(!imported.skipped.is_empty())))
}

fn checked(
    files: Vec<String>,
    policy: Result<Policy, Problems>,
    kernel: Option<&Kernel>,
) -> Checked {
    let refused = |files, problems| Checked {
        files,
        valid: false,
        problems,
        effect: None,
    };
    let mut policy = match policy {
        Ok(policy) => policy,
        Err(Problems(problems)) => return refused(files, problems),
    };
    // What cannot be judged is noted below.
    let _ = arm_by_this_host(&mut policy, kernel);
    let compiled = match compile(&policy, None) {
        Ok(compiled) => compiled,
        Err(error) => {
            let file = policy.files.first().map_or("", String::as_str);
            let message = format!("{:#}", anyhow::Error::from(error));
            return refused(
                policy.files.clone(),
                vec![Problem::of_file(
                    file,
                    message,
                    "patterns and rules that fit the kernel's tables",
                    "write patterns that begin with the names they mean; put subjects together that are treated alike",
                )],
            );
        }
    };
    Checked {
        valid: true,
        problems: Vec::new(),
        effect: Some(Effect {
            embedded: policy.embedded,
            mode: policy.mode.name(),
            subjects: policy.subjects.len(),
            patterns: compiled.patterns,
            rules: describe::rules(&policy, None),
            notes: describe::notes(&policy, &compiled),
            kernel_log: KernelLog::of(&policy),
            exempt: policy.exempt,
        }),
        files: policy.files,
    }
}

fn print(out: &mut dyn Write, checked: &Checked) -> io::Result<()> {
    for problem in &checked.problems {
        eprintln!("{problem}");
    }
    let files = checked.files.join(", ");
    let Some(effect) = &checked.effect else {
        return Ok(());
    };
    writeln!(
        out,
        "{files}: valid; mode {}, {} pattern{} of {} subject{}",
        effect.mode,
        effect.patterns,
        plural(effect.patterns),
        effect.subjects,
        plural(effect.subjects)
    )?;
    if effect.embedded {
        writeln!(
            out,
            "  no policy in {}: the built-in one is audited altogether; `bulkhead run --enforce` enforces it",
            load::DIRECTORY
        )?;
    }
    let width = effect
        .rules
        .iter()
        .map(|line| line.rule.len())
        .chain([KERNEL_LOG.len()])
        .max()
        .unwrap_or(0);
    for line in &effect.rules {
        writeln!(
            out,
            "  {:<width$}  {:<8} {}",
            line.rule, line.mode, line.says
        )?;
        for told in &line.armed {
            writeln!(out, "  {:<width$}  {:<8} {}", "", "", told.says)?;
        }
    }
    if let Some((first, more)) = effect.exempt.split_first() {
        let more = match more.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        writeln!(
            out,
            "  {:<width$}  {:<8} {first}{more}: refused nothing, never frozen or killed",
            "exempt", "off"
        )?;
    }
    let (mode, words) = effect.kernel_log.words();
    writeln!(out, "  {KERNEL_LOG:<width$}  {mode:<8} {words}")?;
    for note in &effect.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Prints. Whoever stops reading, as `head` does, has read enough.
pub fn to_stdout(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_armed_on_a_kernel_stands_below_its_rule_and_what_is_not_as_well() {
        let policy = "version: 1\nmode: enforce\nsubjects: {all: {cgroups: [\"/docker/*\"]}}\nrules: [{name: patch, subjects: [all], \
                      kernel: affected, deny: [bpf]}]\n";
        let text = |kernel: &str| {
            let kernel = Kernel::parse(kernel).unwrap();
            let policy = load::from_bytes("x", policy.as_bytes());
            let checked = checked(vec!["x".to_owned()], policy, Some(&kernel));
            let mut out = Vec::new();
            print(&mut out, &checked).unwrap();
            String::from_utf8(out).unwrap()
        };
        let said = text("5.11.10");
        assert!(said.contains("enforce  all: refuses bpf\n"), "{said}");
        assert!(
            said.contains("         bpf: armed by CVE-2021-3490"),
            "{said}"
        );
        let said = text("999.0");
        let nothing =
            "enforce  all: refuses nothing on this kernel: none of what it denies is armed\n";
        assert!(said.contains(nothing), "{said}");
        let why = "bpf: not armed: this kernel (999.0) has none of the bugs that it triggers\n";
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn an_exemption_has_a_line_and_one_pattern_is_no_patterns() {
        let text = |policy: &str| {
            let checked = checked(
                vec!["x".to_owned()],
                load::from_bytes("x", policy.as_bytes()),
                None,
            );
            let mut out = Vec::new();
            print(&mut out, &checked).unwrap();
            String::from_utf8(out).unwrap()
        };
        let plain = "version: 1\nsubjects: {all: {cgroups: [\"/docker/*\"]}}\n";
        let said = text(plain);
        assert!(
            said.starts_with("x: valid; mode audit, 1 pattern of 1 subject\n"),
            "{said}"
        );
        assert!(!said.contains("exempt"), "{said}");
        let said = text(&format!(
            "{plain}exempt: {{cgroups: [/docker/a, /docker/b]}}\n"
        ));
        assert!(
            said.contains("off      /docker/a and 1 more: refused nothing"),
            "{said}"
        );
        for (section, says) in [
            (
                "",
                "on       kept in /var/log/bulkhead/kernel.jsonl; an alarm for each line of the shipped patterns\n",
            ),
            (
                "kernel_log: off\n",
                "off      no copy is kept, and no line raises an alarm\n",
            ),
            (
                "kernel_log: {file: /k, forward: [{to: journald}], ignore: [trap], patterns: [{name: p, match: '^x', severity: low, \
                 means: m, do: d}]}\n",
                "on       kept in /k, forwarded to journald; an alarm for each line of the shipped patterns but trap, and of p\n",
            ),
        ] {
            let said = text(&format!("{plain}{section}"));
            assert!(said.contains(&format!("  kernel_log    {says}")), "{said}");
        }
    }
}
