//! Lost volumes: what stands in a pool that must not be activated comes back whole, and the pool stays as it was.

pub mod activate;
mod bed;
mod docker;
mod trouble;

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use self::bed::{Lab, Left, ended, nothing_left, size};
use super::{Needs, Scenario};

/// All scenarios of this hazard.
pub const SCENARIOS: &[&[Scenario]] = &[
    &[
        Scenario {
            name: "thin_recover::a_containers_volume_comes_back_identical_without_docker",
            needs: Needs::Ordinary,
            run: comes_back,
        },
        Scenario {
            name: "thin_recover::a_volume_comes_back_as_an_image_and_on_a_device",
            needs: Needs::Ends,
            run: images,
        },
        Scenario {
            name: "thin_recover::damaged_metadata_is_repaired_on_a_copy",
            needs: Needs::Ordinary,
            run: damaged,
        },
        Scenario {
            name: "thin_recover::of_an_active_pool_only_a_snapshot_of_its_metadata_is_read",
            needs: Needs::Ends,
            run: active,
        },
        Scenario {
            name: "thin_recover::a_volume_that_may_be_another_than_dockers_is_told",
            needs: Needs::Ends,
            run: another,
        },
        Scenario {
            name: "thin_recover::nothing_is_done_that_was_not_agreed_to",
            needs: Needs::Ends,
            run: agreed,
        },
    ],
    trouble::SCENARIOS,
    activate::SCENARIOS,
    docker::SCENARIOS,
];

fn comes_back() -> Result<()> {
    for file_system in ["ext4", "xfs"] {
        let lab = Lab::new(file_system)?;
        ensure!(lab.bytes()? >= 1_000_000);
        let before = lab.pool()?;
        let list = lab.succeed(&["--list"])?;
        for words in [
            "docker's base volume",
            "container web (111111111111)",
            "missing",
        ] {
            ensure!(list.contains(words), "{words} is not in the list:\n{list}");
        }
        let list: Value = serde_json::from_str(&lab.succeed(&["--list", "--json"])?)?;
        let volumes = list["volumes"].as_array().context("no volumes")?;
        let ids: Vec<_> = volumes.iter().map(|volume| volume["id"].as_u64()).collect();
        ensure!(ids == [Some(1), Some(2), Some(3), Some(7)], "{ids:?}");
        ensure!(list["missing"][0]["id"] == 9 && volumes[2]["size"] == size(file_system));
        ensure!(list["warnings"] == json!([]), "{}", list["warnings"]);
        nothing_left()?;
        let to = lab.to("web");
        let said = lab.succeed(&["--volume", "web", "--to", &to, "--yes"])?;
        for words in [
            "dmsetup create",
            "--readonly",
            "mount -t",
            "Nothing of this writes to the pool",
        ] {
            ensure!(said.contains(words), "{words} is not in the plan:\n{said}");
        }
        ensure!(!said.contains("thin_repair"), "{said}");
        nothing_left()?;
        lab.compare(&format!("{to}/files"))?;
        let mode = lab.shell(&format!("stat -c %a {to}"))?;
        ensure!(mode.trim() == "700", "the folder has mode {mode}");
        ensure!(before == lab.pool()?, "the pool was written to");
        println!(
            "    {file_system}: {}",
            said.lines().last().unwrap_or_default()
        );
    }
    Ok(())
}

fn images() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let before = lab.pool()?;
    let image = lab.to("3.img");
    lab.succeed(&["--volume", "3", "--to", &image, "--yes"])?;
    lab.shell(&format!("mkdir $T/m; mount -o ro,noload,loop {image} $T/m"))?;
    let same = lab.compare(&lab.to("m"));
    lab.shell("umount $T/m")?;
    same?;
    let found = fs::metadata(&image)?;
    ensure!(
        found.len() == size("ext4"),
        "the image has {} bytes",
        found.len()
    );
    let (used, bytes) = (
        std::os::unix::fs::MetadataExt::blocks(&found) * 512,
        found.len(),
    );
    println!("    the image takes {used} bytes of {bytes}");
    ensure!(used < bytes / 4, "it is not sparse: {used}");
    // A volume that docker does not know, and without a file system: an image alone will do.
    let folder = lab.to("7");
    ended(
        &lab.recover(&["--volume", "7", "--to", &folder, "--yes"])?,
        1,
        "--to FILE.img",
    )?;
    let other = lab.to("7.raw");
    lab.succeed(&["--volume", "7", "--to", &other, "--yes"])?;
    lab.shell(&format!(
        "same <(tail -c +409601 {other} | head -c 200000) $D/other"
    ))?;
    // Onto a device that holds something: only if it is said, and with zeros where nothing was written.
    lab.shell("head -c 1M /dev/urandom > $T/device; truncate -s 128M $T/device; ln -s $(losetup -f --show $T/device) $T/loop")?;
    let device = lab.shell("readlink $T/loop")?;
    let to = ["--volume", "3", "--to-volume", device.trim(), "--yes"];
    ended(&lab.recover(&to)?, 1, "holds something")?;
    lab.succeed(&[&to[..], &["--overwrite"]].concat())?;
    onto_empty(&lab, &image)?;
    // A loop device that somebody left over the pool's own data.
    lab.shell("ln -s $(losetup -f --show $P/data) $T/own")?;
    let own = lab.shell("readlink $T/own")?;
    let to_own = [
        "--volume",
        "3",
        "--to-volume",
        own.trim(),
        "--yes",
        "--overwrite",
    ];
    let refused = lab.recover(&to_own);
    lab.shell("losetup -d $(readlink $T/own)")?;
    ended(&refused?, 1, "is the pool's own")?;
    lab.shell(&format!(
        "losetup -d $(readlink $T/loop); same $T/device {image}"
    ))?;
    nothing_left()?;
    ensure!(before == lab.pool()?, "the pool was written to");
    Ok(())
}

/// A device that holds nothing needs no word more: nothing is what its first MiB is zeros of, to the last byte.
fn onto_empty(lab: &Lab, image: &str) -> Result<()> {
    lab.shell("truncate -s 128M $T/empty; ln -s $(losetup -f --show $T/empty) $T/new")?;
    let device = lab.shell("readlink $T/new")?;
    let to = ["--volume", "3", "--to-volume", device.trim(), "--yes"];
    let mark = |at: u32| {
        lab.shell(&format!(
            "printf x | dd of=$(readlink $T/new) bs=1 seek={at} conv=fsync,notrunc status=none"
        ))
    };
    mark((1 << 20) - 1)?;
    ended(&lab.recover(&to)?, 1, "holds something")?;
    lab.shell("blkdiscard -z $(readlink $T/new)")?;
    // What stands behind that is written over, with zeros where the volume has none.
    mark(1 << 20)?;
    lab.succeed(&to)?;
    lab.shell(&format!(
        "losetup -d $(readlink $T/new); same $T/empty {image}"
    ))?;
    // One byte too small, as far as devices have bytes.
    let short = lab.shell(&format!(
        "truncate -s $(($(stat -c %s {image}) - 512)) $T/short; losetup -f --show $T/short"
    ))?;
    let to = ["--volume", "3", "--to-volume", short.trim(), "--yes"];
    let refused = lab.recover(&to);
    lab.shell(&format!("losetup -d {}", short.trim()))?;
    ended(&refused?, 1, "and the volume has 134217728")
}

/// Damages block `$B` of a copy of the metadata, in its checksum.
const DAMAGE: &str = "cp --sparse=always $P/metadata $P/damaged; \
    printf '\\336\\255\\276\\357' | dd of=$P/damaged bs=1 seek=$((B * 4096)) conv=notrunc status=none;";

fn damaged() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let before = lab.pool()?;
    // The superblock, and the blocks whose damage thin_check finds and thin_repair mends without a loss.
    let blocks = lab.shell(&format!(
        "thin_dump $P/metadata > $D/whole; for B in $(seq 1 256); do {DAMAGE} \
         thin_check -q $P/damaged 2>&1 > /dev/null && continue; rm -f $P/mended; truncate -s 8M $P/mended; \
         thin_repair -i $P/damaged -o $P/mended > /dev/null 2>&1 || continue; \
         thin_dump $P/mended > $D/mended 2> /dev/null; same $D/mended $D/whole > /dev/null && echo $B && N=$((N + 1)); \
         [ \"$N\" = 2 ] && break; done; true"
    ))?;
    let blocks: Vec<u32> = blocks
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    ensure!(
        !blocks.is_empty(),
        "no block of the metadata is one that can be mended"
    );
    println!("    blocks that can be mended: {blocks:?}, and the superblock");
    for block in std::iter::once(0).chain(blocks) {
        lab.shell(&format!(
            "B={block}; {DAMAGE} ! thin_check -q $P/damaged > /dev/null 2>&1"
        ))?;
        let sum = lab.shell("sha256sum $P/damaged")?;
        let to = lab.to(&format!("of-{block}"));
        let arguments = ["--volume", "web", "--to", &to, "--yes"];
        let output = lab.recover_of(&lab.part("damaged"), &lab.part("data"), &arguments)?;
        ended(&output, 0, "thin_repair -i")?;
        lab.compare(&format!("{to}/files"))?;
        lab.shell(&format!("rm -r {to}"))?;
        ensure!(
            sum == lab.shell("sha256sum $P/damaged")?,
            "block {block}: it was written to"
        );
    }
    ensure!(before == lab.pool()?, "the pool was written to");
    Ok(())
}

fn active() -> Result<()> {
    let lab = Lab::left(
        "ext4",
        Left {
            active: true,
            ..Left::default()
        },
    )?;
    let to = lab.to("web");
    // From where the call is made.
    let arguments = ["--volume", "web", "--to", "web", "--yes"];
    ended(&lab.recover(&arguments)?, 1, "reserve_metadata_snap")?;
    lab.shell("dmsetup message docker-pool 0 reserve_metadata_snap; sync")?;
    let before = lab.pool()?;
    let output = lab.recover(&arguments)?;
    ended(&output, 0, "is active: what was written")?;
    lab.compare(&format!("{to}/files"))?;
    ensure!(before == lab.pool()?, "the pool was written to");
    lab.shell("dmsetup message docker-pool 0 release_metadata_snap")?;
    Ok(())
}

/// The metadata is of an earlier time than docker's books, as after a rollback.
fn another() -> Result<()> {
    let lab = Lab::new("ext4")?;
    lab.shell(
        r#"sed -i 's/"transaction_id":3,/"transaction_id":30,/' $D/devicemapper/metadata/*"#,
    )?;
    let listed = lab.recover(&["--list"])?;
    ended(
        &listed,
        0,
        "docker's books go on to transaction 30 at least, and the metadata ends with 3",
    )?;
    ended(&listed, 0, "volume 3 may be another than the one")?;
    ended(&listed, 0, "container web (111111111111), or another")?;
    let to = lab.to("web");
    let said = lab.succeed(&["--volume", "web", "--to", &to, "--yes"])?;
    ensure!(
        said.contains("the metadata ends with transaction 3"),
        "{said}"
    );
    let said = lab.succeed(&["--volume", "1", "--to", &lab.to("1"), "--yes"])?;
    ensure!(!said.contains("may be another"), "{said}");
    Ok(())
}

fn agreed() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let to = lab.to("web");
    let silent = lab.recover(&["--volume", "web", "--to", &to])?;
    ended(&silent, 1, "say --yes")?;
    ensure!(!lab.place.join("web").exists());
    let (asked, output) = lab.ask(&["--volume", "web", "--to", &to], "n\n")?;
    ensure!(asked.contains("Go on? [y/N]"), "{asked}");
    ended(&output, 1, "not done")?;
    ensure!(!lab.place.join("web").exists());
    let (_, output) = lab.ask(&["--volume", "web", "--to", &to], "y\n")?;
    ended(&output, 0, "volume 3 is in")?;
    lab.compare(&format!("{to}/files"))?;
    // A second one does not write over it.
    ended(
        &lab.recover(&["--volume", "web", "--to", &to, "--yes"])?,
        1,
        "is there already",
    )?;
    // Somebody activates the pool, or makes what is to be made, while the plan is read.
    let activate = "M=$(losetup -f --show $P/metadata); L=$(losetup -f --show $P/data); \
                    dmsetup create docker-pool --table \"0 614400 thin-pool $M $L 128 0\"";
    let late = lab.to("late.img");
    let (_, output) = lab.ask_late(&["--volume", "web", "--to", &late], activate, "y\n")?;
    lab.shell(
        "dmsetup remove docker-pool; losetup -j $P/data | cut -d: -f1 | xargs losetup -d; \
         losetup -j $P/metadata | cut -d: -f1 | xargs losetup -d",
    )?;
    ended(
        &output,
        1,
        "is active, and what stands in its metadata changes",
    )?;
    ensure!(!lab.place.join("late.img").exists());
    let arguments = ["--volume", "web", "--to", &late];
    let (_, output) = lab.ask_late(&arguments, "echo mine > $T/late.img", "y\n")?;
    ended(&output, 1, "is there already")?;
    ensure!(fs::read_to_string(&late)? == "mine\n");
    let json = lab.recover(&["--volume", "1", "--to", &lab.to("1"), "--yes", "--json"])?;
    let lines: Vec<Value> = (json.stdout.split(|byte| *byte == b'\n'))
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()?;
    ensure!(
        lines.len() == 2 && lines[0]["plan"]["steps"].is_array(),
        "{lines:?}"
    );
    ensure!(lines[1]["done"]["volume"] == 1, "{lines:?}");
    Ok(())
}
