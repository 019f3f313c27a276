//! Which kernel has which hook on which rung: a table in docs/hazards.md, made of what the scenario that denies everything has seen on
//! each kernel's plain boot.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::ebpf::root;

/// Where it stands.
const DOCS: &str = "docs/hazards.md";
/// The same table for `bulkhead explain`.
const COPY: &str = "guard-user/src/kernel/hooks/seen.md";
/// Between these two lines.
const BEGIN: &str = "<!-- rungs: `cargo xtask rungs` writes what is between these two lines -->";
const END: &str = "<!-- rungs end -->";
/// How the scenario begins a line of its output: `rung | HAZARD | HOOK | RUNG | STATE`.
const SAID: &str = "rung | ";
/// Boots whose logs are read, and what the columns are called.
const KERNELS: [(&str, &str); 4] = [
    ("5.10", "5.10"),
    ("6.1", "6.1"),
    ("6.12", "6.12"),
    ("latest", "newest"),
];

/// Writes the table from the logs of the last run.
///
/// # Errors
/// A kernel's log lacks it, or the page has no place for it.
pub fn write() -> Result<()> {
    let docs = root()?.join(DOCS);
    let page = fs::read_to_string(&docs)?;
    let (before, _, after) = parts(&page)?;
    let table = table(&root()?.join("target/vm/tests"))?;
    fs::write(docs, format!("{before}{BEGIN}\n{table}{END}{after}"))?;
    fs::write(root()?.join(COPY), table)?;
    Ok(())
}

/// Fails if the page does not have the table of the run that has just ended.
///
/// # Errors
/// See [`write`].
pub fn check() -> Result<()> {
    let page = fs::read_to_string(root()?.join(DOCS))?;
    let (_, shown, _) = parts(&page)?;
    let seen = table(&root()?.join("target/vm/tests"))?;
    ensure!(
        shown == seen,
        "{DOCS} does not have the hooks as these kernels have them: `cargo xtask rungs` writes\n{seen}"
    );
    Ok(())
}

/// What stands before the table, the table, and what stands behind it.
fn parts(page: &str) -> Result<(&str, &str, &str)> {
    let split = |page| {
        let (before, rest): (&str, &str) = str::split_once(page, BEGIN)?;
        let (shown, after) = rest.split_once(END)?;
        Some((before, shown.trim_start_matches('\n'), after))
    };
    split(page).with_context(|| format!("{DOCS} lacks the lines {BEGIN} and {END}"))
}

fn table(logs: &Path) -> Result<String> {
    let mut rows: BTreeMap<(String, String), [String; KERNELS.len()]> = BTreeMap::new();
    for (column, (boot, _)) in KERNELS.iter().enumerate() {
        let log = logs.join(format!("{boot}.log"));
        let text = fs::read_to_string(&log)
            .with_context(|| format!("no log of {boot}: run `cargo xtask test` first"))?;
        let mut seen = false;
        for line in text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(SAID))
        {
            let words: Vec<&str> = line.split(" | ").collect();
            let [hazard, hook, rung, state] = words[..] else {
                continue;
            };
            let cell = match state {
                "ENFORCING" => rung.to_owned(),
                "ATTACHED" => format!("{rung}, not tried"),
                other => format!("{rung} {}", other.to_lowercase()),
            };
            let row = rows
                .entry((hazard.to_owned(), hook.to_owned()))
                .or_default();
            if row[column] != cell {
                let both = [row[column].as_str(), &cell];
                row[column] = both
                    .into_iter()
                    .filter(|cell| !cell.is_empty())
                    .collect::<Vec<_>>()
                    .join("; ");
            }
            seen = true;
        }
        ensure!(seen, "the log of {boot} does not say which hooks it has");
    }
    let mut table = format!(
        "| hazard | hook | {} |\n|---|---|{}\n",
        KERNELS.map(|(_, name)| name).join(" | "),
        "---|".repeat(KERNELS.len())
    );
    for ((hazard, hook), cells) in rows {
        let cells = cells.map(|cell| {
            if cell.is_empty() {
                "–".to_owned()
            } else {
                cell
            }
        });
        table += &format!("| `{hazard}` | `{hook}` | {} |\n", cells.join(" | "));
    }
    Ok(table)
}
