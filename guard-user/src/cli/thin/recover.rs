//! `bulkhead thin recover`: volumes of a pool that nobody dares to activate.

use std::{
    io::{IsTerminal, stdin},
    path::{Path, PathBuf, absolute},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use guard_user::{
    control::RUN_DIRECTORY,
    record::Text,
    thin::recover::{
        self, Books, Done, Found, Hints, Interrupts, Line, Metadata, Plan, Pool, RecoverError,
        Target, Work,
    },
};
use serde_json::json;

use crate::cli::{host, print};

/// List the volumes of a thin pool, or recover one, without activating the pool and without writing to it.
///
/// Neither docker, containerd nor LVM need run. A copy of the metadata is checked (thin_check), repaired if it must be
/// (thin_repair) and dumped (thin_dump); the data is opened read-only. dm-thin, which may be what crashes the kernel, takes no part.
/// What is going to be done is shown first, with each command, and asked about.
///
///   D=/var/lib/docker/devicemapper/devicemapper
///   bulkhead thin recover --metadata $D/metadata --data $D/data --list
///   bulkhead thin recover --metadata $D/metadata --data $D/data --volume web --to /srv/web
///   bulkhead thin recover --metadata /dev/vg/pool_tmeta --data /dev/vg/pool_tdata --volume 7 --to /srv/7.img
///
/// LVM shows the two parts of a pool that is not active after `lvchange -ay vg/pool_tmeta vg/pool_tdata`, which asks.
/// Of an active pool only a snapshot of its metadata can be read: what to do is said then.
///
/// Exit code 0: done; 1: it cannot be done so, or was not agreed to, and nothing is left mapped or mounted; 2: the call is
/// wrong; 3: the host cannot: not root, or a program is missing.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// The pool's metadata: a device, or a file that holds it.
    #[arg(long, value_name = "DEVICE|FILE")]
    metadata: PathBuf,
    /// The pool's data: the same. A list can do without.
    #[arg(long, value_name = "DEVICE|FILE", required_unless_present = "list")]
    data: Option<PathBuf>,
    /// Docker's folder, whose books tell whose a volume is, and are doubted where they do not fit the pool's transactions. Of containerd's, which are a database of its own, nothing is read:
    /// go by the number there.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/docker")]
    docker: PathBuf,
    /// List the volumes.
    #[arg(long, conflicts_with_all = ["volume", "to", "to_volume"])]
    list: bool,
    /// The volume: its number, its container's name, the beginning of the container's id (4 letters), or docker's name of it. What is a
    /// number, and is meant as a name or the beginning of an id: /12.
    #[arg(long, value_name = "NUMBER|NAME", required_unless_present = "list")]
    volume: Option<String>,
    /// Where it goes: a file that ends in .img or .raw gets an image, else a new folder gets all files in `files`, for root alone.
    #[arg(long, value_name = "FOLDER|FILE.img", required_unless_present_any = ["list", "to_volume"])]
    to: Option<PathBuf>,
    /// Or a device that holds nothing, as a new logical volume.
    #[arg(long, value_name = "DEVICE", conflicts_with = "to")]
    to_volume: Option<PathBuf>,
    /// That device may hold something, which is lost then. The pool's own stays refused, by whichever name.
    #[arg(long, requires = "to_volume")]
    overwrite: bool,
    /// The volume's size, as 10G, if docker's books do not tell it, or not the right one.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    size: Option<u64>,
    /// Where copies of the metadata go for the time being.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/var/lib/bulkhead/thin/work"
    )]
    work: PathBuf,
    /// For thin_repair, if the metadata's first block is lost.
    #[arg(long, value_name = "NUMBER")]
    transaction_id: Option<u64>,
    /// The same: sectors of 512 bytes, docker's are 128.
    #[arg(long, value_name = "SECTORS")]
    data_block_size: Option<u64>,
    /// The same, if it is not what the data device has.
    #[arg(long, value_name = "NUMBER")]
    nr_data_blocks: Option<u64>,
    /// Go on without asking.
    #[arg(long)]
    yes: bool,
    /// Print JSON: the list; or the plan and then the result, an object a line.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    match recover(arguments) {
        Err(error) => match error.downcast_ref::<RecoverError>() {
            Some(cause) if cause.is_of_the_host() => Ok(host::cannot(cause)),
            _ => Err(error),
        },
        done => done,
    }
}

fn recover(arguments: &Arguments) -> Result<ExitCode> {
    let interrupts = Interrupts::hold()?;
    let notes = Path::new(RUN_DIRECTORY).join("recover");
    for told in recover::clean(&arguments.work, &notes, &interrupts)? {
        eprintln!("bulkhead: left by a call that was killed: {told}");
    }
    let pool = Pool::open(&arguments.metadata, arguments.data.as_deref(), &interrupts)?;
    let work = Work::new(&arguments.work, &notes)?;
    let hints = Hints {
        transaction: arguments.transaction_id,
        data_block: arguments.data_block_size,
        data_blocks: arguments.nr_data_blocks,
    };
    let metadata = Metadata::prepare(&pool, &work, hints, &interrupts)?;
    let books = Books::read(&arguments.docker)?;
    for trouble in books.iter().flat_map(|books| &books.troubles) {
        eprintln!("bulkhead: docker's books, {trouble}");
    }
    let found = recover::find(&metadata, books.as_ref());
    let target = match (&arguments.to, &arguments.to_volume) {
        (_, Some(device)) => Target::Device(absolute(device)?, arguments.overwrite),
        (Some(to), None) => Target::to(absolute(to)?),
        (None, None) => return list(&found, &metadata, arguments.json),
    };
    let volume = found
        .volume(arguments.volume.as_deref().unwrap_or_default())
        .inspect_err(|_| warn(&metadata, &found))?;
    let size = arguments.size;
    let plan = recover::plan(&pool, &metadata, volume, target, size, &work, &interrupts)?;
    if arguments.json {
        print(&format!("{}\n", json!({ "plan": plan })))?;
    } else {
        print(&words(&plan))?;
    }
    if !arguments.yes {
        if !stdin().is_terminal() {
            eprintln!(
                "bulkhead: not done: nobody can be asked here. If this is what you want, say --yes"
            );
            return Ok(ExitCode::from(1));
        }
        eprint!("Go on? [y/N] ");
        if !matches!(interrupts.answer()?.as_str(), "y" | "Y" | "yes") {
            eprintln!("bulkhead: not done");
            return Ok(ExitCode::from(1));
        }
    }
    let done = recover::execute(&plan, &pool, &work, &interrupts)?;
    if arguments.json {
        print(&format!("{}\n", json!({ "done": done })))?;
    } else {
        print(&told(&done))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(found: &Found, metadata: &Metadata, json: bool) -> Result<ExitCode> {
    if json {
        let all = json!({
            "volumes": found.volumes,
            "missing": found.missing,
            "steps": metadata.steps,
            "warnings": metadata.warnings.iter().chain(found.warnings()).collect::<Vec<_>>(),
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    warn(metadata, found);
    let mut text = format!(
        "{:>8}  {:>10}  {:>10}  {:>11}  whose\n",
        "volume", "size", "mapped", "transaction"
    );
    for line in &found.volumes {
        text.push_str(&row(line, &human(line.mapped)));
    }
    for line in &found.missing {
        text.push_str(&row(line, "missing"));
    }
    if found.volumes.is_empty() {
        text.push_str("the pool has no volumes\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the metadata may lack, and docker's books, where no plan says it.
fn warn(metadata: &Metadata, found: &Found) {
    for warning in metadata.warnings.iter().chain(found.warnings()) {
        eprintln!("bulkhead: {warning}");
    }
}

fn row(line: &Line, mapped: &str) -> String {
    format!(
        "{:>8}  {:>10}  {mapped:>10}  {:>11}  {}\n",
        line.id,
        line.size.map_or("?".to_owned(), human),
        line.transaction,
        line.whose()
    )
}

/// A plan, for a person who has not seen one before.
fn words(plan: &Plan) -> String {
    let mut text = format!(
        "volume {} ({}): {} bytes, of which {} are mapped, {}\n",
        plan.volume.id,
        plan.volume.whose(),
        plan.size,
        plan.mapped,
        plan.file_system()
            .unwrap_or("no file system that is known here"),
    );
    text.push_str(&format!(
        "goes to {}: {} bytes are mapped, {} are free there\n",
        plan.to, plan.needed, plan.free
    ));
    for (number, step) in plan.steps.iter().enumerate() {
        let done = if step.done { "done: " } else { "" };
        text.push_str(&format!("{:>3}. {done}{}\n", number + 1, step.what));
        if let Some(command) = &step.command {
            text.push_str(&format!("       {command}\n"));
        }
    }
    for warning in &plan.warnings {
        text.push_str(&format!("  ! {warning}\n"));
    }
    text.push_str("Nothing of this writes to the pool.\n");
    text
}

fn told(done: &Done) -> String {
    let mut text = came(done);
    if !done.left_out.is_empty() {
        let folders: Vec<&str> = done.left_out.iter().map(Text::as_str).collect();
        text.push_str(&format!(
            "  ! LEFT OUT, since they are subvolumes of btrfs, of which only the default one is mounted, and empty there: {}\n  \
             ! recover the volume as an image, --to FILE.img, and mount that\n",
            folders.join(", ")
        ));
    }
    text
}

fn came(done: &Done) -> String {
    match done.files {
        Some(files) => format!(
            "volume {} is in {}: {files} files and folders, {} bytes\n",
            done.volume, done.to, done.bytes
        ),
        None => format!(
            "volume {} is on {}: {} bytes were written\n",
            done.volume, done.to, done.bytes
        ),
    }
}

/// Bytes with the unit that leaves them at most four digits.
fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 10_240 && unit + 1 < units.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

/// Bytes of `4096`, `10G` or `10GiB`, in whole sectors.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no size: write 10G or 10737418240");
    let end = text.find(|character: char| !character.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let shift = match unit.trim_end_matches("iB") {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    if bytes == 0 || !bytes.is_multiple_of(512) || bytes > 1 << 50 {
        return Err(format!(
            "{text}: a volume has whole sectors of 512 bytes, up to 1 PiB"
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_or_none_and_is_whole_sectors() {
        assert_eq!(bytes("10G"), Ok(10 << 30));
        assert_eq!(bytes("10GiB"), Ok(10 << 30));
        assert_eq!(bytes("512"), Ok(512));
        for wrong in [
            "",
            "G",
            "0",
            "513",
            "10X",
            "-1",
            "2048T",
            "99999999999999999999",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_said_in_a_unit_of_their_size() {
        assert_eq!(human(9999), "9999 B");
        assert_eq!(human(10_240), "10 KiB");
        assert_eq!(human(10 << 30), "10 GiB");
    }
}
