//! Lost volumes, in trouble: bad input and a sudden end are told clearly, and leave nothing mapped or mounted.

use std::{process::Child, time::Duration};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::bed::{Lab, Left, ended, nothing_in_the_kernel, nothing_left, said};
use crate::{
    hazards::{Needs, Scenario},
    host::{release, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "thin_recover::bad_input_is_told_and_leaves_nothing",
        needs: Needs::Ends,
        run: bad_input,
    },
    Scenario {
        name: "thin_recover::a_pool_that_vanishes_half_way_leaves_nothing",
        needs: Needs::Ends,
        run: vanishes,
    },
    Scenario {
        name: "thin_recover::a_target_that_fills_up_half_way_leaves_nothing",
        needs: Needs::Ends,
        run: fills_up,
    },
    Scenario {
        name: "thin_recover::a_copy_that_cannot_be_taken_away_is_named",
        needs: Needs::Ends,
        run: remains,
    },
    Scenario {
        name: "thin_recover::the_subvolumes_of_a_btrfs_are_named",
        needs: Needs::Ends,
        run: subvolumes,
    },
    Scenario {
        name: "thin_recover::a_call_that_is_stopped_or_killed_leaves_nothing",
        needs: Needs::Ends,
        run: stopped,
    },
    Scenario {
        name: "thin_recover::a_file_system_that_was_not_unmounted_is_read_without_a_replay",
        needs: Needs::Ends,
        run: not_unmounted,
    },
    Scenario {
        name: "thin_recover::a_volume_whose_superblock_asks_for_a_panic_at_an_error_is_no_panic",
        needs: Needs::Ends,
        run: asks_for_a_panic,
    },
];

fn bad_input() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let before = lab.pool()?;
    let (metadata, data, to) = (lab.part("metadata"), lab.part("data"), lab.to("web"));
    let of = |metadata: &str, arguments: &[&str]| {
        let all = [&["--to", &to, "--yes"], arguments].concat();
        lab.recover_of(metadata, &data, &all)
    };
    let web = &["--volume", "web"];
    ended(
        &of(&metadata, &["--volume", "99"])?,
        1,
        "99 is no volume of this pool",
    )?;
    ended(
        &of(&metadata, &["--volume", "nobody"])?,
        1,
        "nobody is no volume",
    )?;
    ended(&of(&lab.to("none"), web)?, 1, "No such file")?;
    ended(&of("/dev/null", web)?, 1, "a block device or a file")?;
    lab.shell("head -c 8M /dev/urandom > $P/garbage; head -c 100 /dev/urandom > $P/short")?;
    for name in ["garbage", "short", "data"] {
        ended(
            &of(&lab.part(name), web)?,
            1,
            "does not begin as a thin pool's metadata does",
        )?;
    }
    // Nothing but its first block is a pool's.
    lab.shell("cp $P/garbage $P/first; dd if=$P/metadata of=$P/first bs=4k count=1 conv=notrunc status=none")?;
    let output = of(&lab.part("first"), web)?;
    println!("    garbage behind a superblock: {}", last(&said(&output)));
    ensure!(output.status.code() == Some(1), "{}", said(&output));
    nothing_left()?;
    // Data that ends before what is mapped.
    lab.shell("head -c 1M $P/data > $P/cut")?;
    let output = lab.recover_of(
        &metadata,
        &lab.part("cut"),
        &["--to", &to, "--yes", "--volume", "web"],
    )?;
    ended(&output, 1, "of the data device, which has 16")?;
    lab.shell("mkdir $D/small; mount -t tmpfs -o size=256k none $D/small")?;
    let small = lab.docker.join("small").display().to_string();
    ended(
        &of(&metadata, &["--volume", "web", "--work", &small])?,
        1,
        "(--work)",
    )?;
    let output = lab.recover(&["--volume", "web", "--yes", "--to", &format!("{small}/web")])?;
    ended(&output, 1, "(--to)")?;
    if release() < (6, 6) {
        let output = of(&metadata, &["--volume", "web", "--work", "/tmp"])?;
        ended(&output, 1, "O_DIRECT")?;
    }
    // A program that is missing is the host's.
    lab.shell("mount --bind /dev/null /usr/sbin/thin_check")?;
    let output = of(&metadata, web);
    lab.shell("umount /usr/sbin/thin_check")?;
    ended(&output?, 3, "install thin-provisioning-tools")?;
    ensure!(!lab.place.join("web").exists());
    ensure!(before == lab.pool()?, "the pool was written to");
    Ok(())
}

/// The data, each read of which takes 100 ms.
const SLOW: &str = "modprobe dm-delay; L=$(losetup -f --show $P/data); \
     dmsetup create slow --readonly --table \"0 614400 delay $L 0 100\"";
const FAST: &str = "dmsetup remove slow; losetup -j $P/data | cut -d: -f1 | xargs -r losetup -d";

/// Starts a recovery, and waits until it copies.
fn copying(lab: &Lab, to: &str) -> Result<Child> {
    let child = lab.start(
        "/dev/mapper/slow",
        &["--volume", "web", "--to", to, "--yes"],
    )?;
    let partial = format!("{to}/files.partial/rootfs");
    wait_for("the copy to begin", Duration::from_secs(60), || {
        Ok(std::path::Path::new(&partial).exists())
    })?;
    Ok(child)
}

fn vanishes() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let before = lab.pool()?;
    lab.shell(SLOW)?;
    let to = lab.to("web");
    let child = copying(&lab, &to)?;
    lab.shell("dmsetup wipe_table slow")?;
    let output = child.wait_with_output()?;
    println!("    {}", last(&said(&output)));
    lab.shell(FAST)?;
    ended(&output, 1, "Input/output error")?;
    ensure!(!lab.place.join("web").exists(), "part of it is left");
    // The same without a mount: the second half of the data is gone.
    lab.shell("L=$(losetup -f --show $P/data); printf \"0 8192 linear $L 0\\n8192 606208 error\\n\" | dmsetup create slow --readonly")?;
    let image = lab.to("web.img");
    let metadata = lab.part("metadata");
    let output = lab.recover_of(
        &metadata,
        "/dev/mapper/slow",
        &["--volume", "web", "--to", &image, "--yes"],
    )?;
    lab.shell(FAST)?;
    ended(&output, 1, "cannot read /dev/")?;
    let left = lab.shell("ls $T")?;
    ensure!(left.is_empty(), "left: {left}");
    ensure!(before == lab.pool()?, "the pool was written to");
    Ok(())
}

/// There was room when it was looked for, and somebody else takes it.
fn fills_up() -> Result<()> {
    let lab = Lab::new("ext4")?;
    let before = lab.pool()?;
    lab.shell("mkdir $T/room; mount -t tmpfs -o size=10M none $T/room")?;
    let full = lab.shell(SLOW).and_then(|_| {
        let child = copying(&lab, &lab.to("room/web"))?;
        lab.shell("dd if=/dev/zero of=$T/room/other bs=1M status=none 2> /dev/null || true")?;
        Ok(child.wait_with_output()?)
    });
    lab.shell(FAST)?;
    let left = lab.shell("ls $T/room")?;
    lab.shell("umount $T/room")?;
    ended(&full?, 1, "No space left on device")?;
    ensure!(left.trim() == "other", "left: {left}");
    ensure!(before == lab.pool()?, "the pool was written to");
    Ok(())
}

/// What somebody made immutable is not ours to take away.
fn remains() -> Result<()> {
    let lab = Lab::new("ext4")?;
    lab.shell(
        "truncate -s 100M $T/disk; mkfs.ext4 -q $T/disk; mkdir $T/room; mount -o loop $T/disk $T/room",
    )?;
    lab.shell(SLOW)?;
    let to = lab.to("room/web");
    let child = copying(&lab, &to)?;
    lab.shell("chattr +i $T/room/web/files.partial/rootfs")?;
    let output = child.wait_with_output()?;
    lab.shell(&format!(
        "chattr -i $T/room/web/files.partial/rootfs; umount $T/room; {FAST}"
    ))?;
    let words = format!("{to} is not whole, and is still there (Operation not permitted");
    ended(&output, 1, &words)?;
    ended(&output, 1, "It failed since `setpriv")
}

/// Those begin file systems of their own, and are not copied.
fn subvolumes() -> Result<()> {
    let left = Left {
        before_unmount: "btrfs -q subvolume create $D/m/rootfs/a/sub; echo x > $D/m/rootfs/a/sub/file",
        ..Left::default()
    };
    let lab = Lab::left("btrfs", left)?;
    let to = lab.to("web");
    let output = lab.recover(&["--volume", "web", "--yes", "--to", &to])?;
    ended(&output, 0, "rootfs/a/sub")?;
    lab.shell("rmdir $T/web/files/rootfs/a/sub")?;
    // All else is there; times of the folder are what the new entry and its removal made them.
    lab.shell(&format!(
        "rmdir $D/m; ln -sfn {to}/files $D/m; eval \"$SUM\" > $D/now; rm $D/m; mkdir $D/m; same $D/now $D/sum"
    ))?;
    Ok(())
}

fn stopped() -> Result<()> {
    let lab = Lab::new("ext4")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        lab.shell(SLOW)?;
        let to = lab.to("web");
        let child = copying(&lab, &to)?;
        kill(pid(&child)?, signal)?;
        let output = child.wait_with_output()?;
        lab.shell(FAST)?;
        ended(&output, 1, &format!("stopped by {signal}"))?;
        ensure!(!lab.place.join("web").exists(), "part of it is left");
    }
    lab.shell(SLOW)?;
    let to = lab.to("killed");
    let mut child = copying(&lab, &to)?;
    kill(pid(&child)?, Signal::SIGKILL)?;
    child.wait()?;
    nothing_in_the_kernel()?;
    lab.shell(FAST)?;
    ensure!(nothing_left().is_err(), "what was killed left no note");
    let output = lab.recover(&["--list"])?;
    ended(&output, 0, "left by a call that was killed: removed")?;
    Ok(())
}

/// The kernel dies while the file system is mounted: what is on the disk then is a snapshot of that moment.
fn not_unmounted() -> Result<()> {
    let left = Left {
        before_unmount: "dmsetup suspend --nolockfs container; dmsetup message docker-pool 0 \"create_snap 8 3\"; \
                         dmsetup resume container",
        ..Left::default()
    };
    let lab = Lab::left("ext4", left)?;
    let to = lab.to("8");
    let said = lab.succeed(&["--volume", "8", "--to", &to, "--size", "128M", "--yes"])?;
    ensure!(said.contains("the file system was not unmounted"), "{said}");
    let image = lab.to("8.img");
    lab.succeed(&["--volume", "8", "--to", &image, "--yes"])?;
    // What is advised: a replay on the image brings the whole tree.
    lab.shell(&format!("mkdir $T/m; mount -o loop {image} $T/m"))?;
    let same = lab.compare(&lab.to("m"));
    lab.shell("umount $T/m")?;
    same
}

/// A container's root can write its superblock: whoever reads a damaged directory then would panic.
fn asks_for_a_panic() -> Result<()> {
    let left = Left {
        before_unmount: "dmsetup suspend container; dmsetup message docker-pool 0 \"create_snap 8 3\"; dmsetup resume container; \
                         volume asks 8; E=/dev/mapper/asks; tune2fs -e panic -E mount_opts=warn_on_error $E > /dev/null; \
                         B=$(debugfs -R \"bmap /rootfs/a 0\" $E 2> /dev/null); \
                         S=$(dumpe2fs -h $E 2> /dev/null | sed -n \"s/^Block size: *//p\"); \
                         head -c $S /dev/urandom | dd of=$E bs=$S seek=$B conv=notrunc,fsync status=none; dmsetup remove asks",
        ..Left::default()
    };
    let lab = Lab::left("ext4", left)?;
    let to = lab.to("8");
    let arguments = ["--volume", "8", "--to", &to, "--size", "128M", "--yes"];
    lab.shell("echo 1 > /proc/sys/kernel/panic_on_warn")?;
    let output = lab.recover(&arguments);
    lab.shell("echo 0 > /proc/sys/kernel/panic_on_warn")?;
    // cp tells of the directory.
    ended(&output?, 1, "/rootfs/a")?;
    ensure!(!lab.place.join("8").exists());
    nothing_left()
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

fn last(text: &str) -> &str {
    text.lines()
        .rfind(|line| line.contains("bulkhead: "))
        .unwrap_or("nothing")
}
