//! Every test in one command.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    debian::output,
    demo,
    ebpf::{self, root, target},
    kernels::Kernel,
    rungs,
    variants::{VARIANTS, Variant},
    vm::{self, Boot, Streams},
};

/// What to test.
#[derive(Args)]
pub struct Options {
    /// As on a machine that only says yes or no: what is optional is left out, and said.
    #[arg(long)]
    ci: bool,
    /// In virtual machines with these kernels alone.
    #[arg(long, value_enum)]
    kernel: Vec<Kernel>,
    /// Print all that the tests say, not only what failed.
    #[arg(long)]
    verbose: bool,
    /// Take the binaries as they were built last.
    #[arg(long)]
    no_build: bool,
    /// Virtual machines at a time, each of which waits half of its time; 0: one for each processor of this machine, and one more.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Only tests in virtual machines whose name contains this.
    filter: Option<String>,
}

/// What machines are started for.
enum Work {
    /// All tests in one.
    Tests(&'static Variant),
    /// See [`crash`].
    Crashes,
}

impl Work {
    const fn name(&self) -> &'static str {
        match self {
            Self::Tests(variant) => variant.name,
            Self::Crashes => CRASHES,
        }
    }
}

/// Stands for [`crash`] in what is printed.
const CRASHES: &str = "what kills 5.10";

/// What became of one boot.
struct Ran {
    name: &'static str,
    passed: usize,
    failed: usize,
    ignored: usize,
    wrong: Option<String>,
}

/// Formatting, lints and unit tests of the workspace, the committed object, dependencies, and every hazard on every kernel.
pub fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    // What the machines boot is fetched meanwhile.
    thread::scope(|scope| {
        let images = scope.spawn(|| {
            let mut kernels: Vec<Kernel> = variants(options).map(|one| one.kernel).collect();
            kernels.dedup();
            kernels.into_iter().try_for_each(vm::build)
        });
        if options.filter.is_none() && options.kernel.is_empty() {
            on_this_machine(options)?;
        }
        if !options.no_build {
            step("build for the virtual machines", || {
                build_release()?;
                build_tests()
            })?;
        }
        (images.join()).unwrap_or_else(|_| bail!("what builds the images panicked"))
    })?;
    let ran = step("virtual machines", || in_machines(options))?;
    println!();
    for Ran {
        name,
        passed,
        failed,
        ignored,
        wrong,
    } in &ran
    {
        println!(
            "{name:<24} {passed} passed, {failed} failed, {ignored} not for this host{}",
            wrong
                .as_ref()
                .map_or_else(String::new, |wrong| format!("; {wrong}"))
        );
    }
    println!("everything took {} s", began.elapsed().as_secs());
    let sum = |of: fn(&Ran) -> usize| ran.iter().map(of).sum::<usize>();
    let failed = sum(|ran| ran.failed);
    println!("vm: {} passed, {failed} failed", sum(|ran| ran.passed));
    ensure!(
        failed == 0 && ran.iter().all(|ran| ran.wrong.is_none()),
        "tests failed"
    );
    ensure!(sum(|ran| ran.passed) > 0, "no test has this name");
    if options.filter.is_none() && options.kernel.is_empty() {
        rungs::check()?;
    }
    Ok(())
}

/// What kills 5.10, each in machines of its own, and what its logs are called.
const OUTAGES: [(demo::Outage, &str); 2] = [
    (demo::Outage::ThinDiscard, "thin-crash"),
    (demo::Outage::BootLoop, "boot-loop"),
];

/// Without Bulkhead the kernel dies with the words of the outage; with it, nothing happens. A host that does not know of them yet dies of
/// its pool once, and not again.
fn crash(folder: &Path) -> Result<Ran> {
    let began = Instant::now();
    for (outage, name) in OUTAGES {
        for (argument, side) in [
            ("", name.to_owned()),
            ("--guarded", format!("{name}-guarded")),
        ] {
            let side = folder.join(side);
            demo::play(outage, argument, &side)?;
            for said in demo::said(outage, &side) {
                print!("{}", fs::read_to_string(said)?);
            }
        }
    }
    println!("-- {CRASHES}: {} s", began.elapsed().as_secs());
    Ok(Ran {
        name: CRASHES,
        passed: OUTAGES.len(),
        failed: 0,
        ignored: 0,
        wrong: None,
    })
}

fn on_this_machine(options: &Options) -> Result<()> {
    step("formatting", || {
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["fmt", "--manifest-path", "guard-ebpf/Cargo.toml", "--check"])
    })?;
    step("lints", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    step("unit tests", || cargo(&["test", "--workspace", "--locked"]))?;
    step("the kernel side's object", ebpf::check)?;
    step("dependencies", || crate::deny::check(options.ci))
}

fn step<T>(what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {what}");
    let began = Instant::now();
    let result = run();
    println!("== {what}: {} s", began.elapsed().as_secs());
    result
}

/// Builds the binary that the virtual machines run.
pub fn build_release() -> Result<()> {
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "bulkhead",
    ])
}

/// The tests' binaries.
const BINARIES: [&str; 5] = [
    "bulkhead-vm-tests",
    "bulkhead-bench",
    "bulkhead-demo",
    "bulkhead-probe",
    "bulkhead-probe-true",
];

/// Where the tests' binaries are: the harness and the probes, linked statically so that they run in any container.
fn binaries() -> Result<PathBuf> {
    Ok(target()?
        .join("vm-tests")
        .join(host_target()?)
        .join("release"))
}

fn host_target() -> Result<String> {
    let text = output(Command::new("rustc").arg("-vV").current_dir(root()?))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say its host")
}

/// Builds the harness and the probes.
pub fn build_tests() -> Result<()> {
    let host = host_target()?;
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "guard-tests", "--bins", "--target", &host])
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static",
        )
        .env("CARGO_TARGET_DIR", target()?.join("vm-tests"))
        .current_dir(root()?)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the tests do not build");
    Ok(())
}

/// What a machine must be given to run tests: arguments of `--add`.
pub fn additions() -> Result<Vec<String>> {
    let binaries = binaries()?;
    let mut all = vec![format!(
        "{}:/usr/local/share/bulkhead/invalid",
        root()?.join("policies/invalid").display()
    )];
    let programs = BINARIES
        .into_iter()
        .map(|name| {
            let from = binaries.join(name);
            ensure!(from.exists(), "{} is not built", from.display());
            Ok(format!("{}:/usr/local/bin/{name}", from.display()))
        })
        .collect::<Result<Vec<String>>>()?;
    all.extend(programs);
    Ok(all)
}

/// The boots that are asked for.
fn variants(options: &Options) -> impl Iterator<Item = &'static Variant> {
    (VARIANTS.iter())
        .filter(|variant| options.kernel.is_empty() || options.kernel.contains(&variant.kernel))
        .filter(|variant| !(options.ci && variant.second))
}

fn in_machines(options: &Options) -> Result<Vec<Ran>> {
    let logs = root()?.join("target/vm/tests");
    fs::create_dir_all(&logs)?;
    // Not another run's, which may have another filter.
    let script = logs.join(format!("script.{}", std::process::id()));
    let filter = options.filter.as_deref().unwrap_or("");
    ensure!(!filter.contains('\''), "a test's name has no quotes");
    fs::write(
        &script,
        format!("#!/bin/bash\nexec bulkhead-vm-tests '{filter}' 2>&1\n"),
    )?;
    let mut works: VecDeque<Work> = variants(options).map(Work::Tests).collect();
    if options.filter.is_none()
        && (options.kernel.is_empty() || options.kernel.contains(&Kernel::V5_10))
    {
        works.push_back(Work::Crashes);
    }
    let queue = Mutex::new(works);
    let jobs = if options.jobs == 0 {
        thread::available_parallelism().map_or(1, usize::from) + 1
    } else {
        options.jobs
    };
    let additions = additions()?;
    let ran = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(work) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let result = match &work {
                        Work::Tests(variant) => one(variant, &script, &additions, &logs, options),
                        Work::Crashes => crash(&logs),
                    };
                    if let Ok(mut ran) = ran.lock() {
                        ran.push(result.unwrap_or_else(|error| Ran {
                            name: work.name(),
                            passed: 0,
                            failed: 0,
                            ignored: 0,
                            wrong: Some(format!("{error:#}")),
                        }));
                    }
                }
            });
        }
    });
    let _ = fs::remove_file(&script);
    match ran.into_inner() {
        Ok(ran) => Ok(ran),
        Err(_) => bail!("a test run panicked"),
    }
}

fn one(
    variant: &Variant,
    script: &Path,
    additions: &[String],
    logs: &Path,
    options: &Options,
) -> Result<Ran> {
    let began = Instant::now();
    let log = logs.join(format!("{}.log", variant.name));
    // Two of us may run at once: the log is this run's own until it is done.
    let partial = log.with_extension(format!("{}.partial", std::process::id()));
    let outcome = vm::boot(
        &Boot {
            kernel: variant.kernel,
            smp: 2,
            memory: 1024,
            cmdline: if options.ci {
                format!("{} bulkhead.tests=brief", variant.cmdline)
            } else {
                variant.cmdline.to_owned()
            },
            timeout: 2700,
            add: additions.to_vec(),
            qemu: String::new(),
            no_build: true,
            script: script.to_path_buf(),
        },
        Streams::File(partial.clone()),
    )?;
    fs::rename(partial, &log)?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let ran = Ran {
        name: variant.name,
        passed: count(&text, "passed"),
        failed: count(&text, "failed"),
        ignored: count(&text, "ignored"),
        wrong: match outcome.code {
            // The harness has said itself how many failed.
            0 | 101 if text.contains("test result:") => None,
            vm::TIMED_OUT => Some("not done in time".to_owned()),
            vm::CRASHED => Some("the machine crashed".to_owned()),
            code => Some(format!("ended with {code}")),
        },
    };
    let mut said = format!(
        "-- {}: {} s, log {}\n",
        variant.name,
        began.elapsed().as_secs(),
        log.strip_prefix(root()?).unwrap_or(&log).display()
    );
    if options.verbose || ran.failed > 0 || ran.wrong.is_some() {
        said.push_str(&text);
        if let Some(console) = outcome.console {
            said.push_str(&format!("the end of the console:\n{console}\n"));
        }
    }
    print!("{said}");
    Ok(ran)
}

/// The number before a word in the harness's last line: `test result: ok. 3 passed; 0 failed; …`.
fn count(text: &str, word: &str) -> usize {
    text.lines()
        .rev()
        .find(|line| line.starts_with("test result:"))
        .and_then(|line| {
            let words: Vec<&str> = line
                .split([' ', ';'])
                .filter(|word| !word.is_empty())
                .collect();
            let at = words.iter().position(|other| *other == word)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        })
        .unwrap_or(0)
}

/// Runs cargo on the workspace.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new("cargo")
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir(root()?)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_the_last_line() {
        let text = "noise\ntest result: ok. 31 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 3s\n";
        assert_eq!(
            (
                count(text, "passed"),
                count(text, "failed"),
                count(text, "ignored")
            ),
            (31, 2, 4)
        );
        assert_eq!(count("nothing", "passed"), 0);
    }
}
