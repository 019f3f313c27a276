//! A pool as docker's devicemapper driver leaves it after a crash: two files, its books, and nobody who knows what to do.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::pty::openpty;

use crate::host::wait_for;

/// Makes the pool by hand: a base volume, a snapshot of it for what lies below the container, a snapshot of that for the
/// container, and one that docker does not know. `$FS` is the file system, `$D` docker's folder.
const MAKE: &str = r#"
modprobe loop; modprobe dm-thin-pool
P=$D/devicemapper/devicemapper; mkdir -p $P $D/m
truncate -s 8M $P/metadata; truncate -s 300M $P/data
M=$(losetup -f --show $P/metadata); L=$(losetup -f --show $P/data)
dmsetup create docker-pool --table "0 614400 thin-pool $M $L 128 0"
volume() { dmsetup create "$1" --table "0 $SIZE thin /dev/mapper/docker-pool $2"; }
# As docker does: the pool is told of a transaction when what it made is written down.
transaction() { dmsetup message docker-pool 0 "set_transaction_id $1 $2"; }
dmsetup message docker-pool 0 "create_thin 1"; transaction 0 1; volume base 1
case $FS in
ext4) mkfs.ext4 -q -E nodiscard /dev/mapper/base ;;
xfs) mkfs.xfs -q -K /dev/mapper/base ;;
btrfs) mkfs.btrfs -qK /dev/mapper/base ;;
esac
mount /dev/mapper/base $D/m; mkdir $D/m/rootfs; head -c 300000 /dev/urandom > $D/m/rootfs/image; umount $D/m
dmsetup message docker-pool 0 "create_snap 2 1"; transaction 1 2
dmsetup message docker-pool 0 "create_snap 3 2"; transaction 2 3; volume container 3
OPTIONS=; [ $FS = xfs ] && OPTIONS="-o nouuid"
mount $OPTIONS /dev/mapper/container $D/m
cd $D/m/rootfs; mkdir -p a/b/c "a name"; echo hello > "a name/with
a line"
for n in 1 2 3 4 5 6 7; do head -c 200000 /dev/urandom > a/b/c/$n; done
head -c 70000 /dev/urandom > a/odd; ln a/odd a/again; ln -s ../../../etc/shadow a/link; mkfifo a/fifo
truncate -s 20M a/holes; echo end >> a/holes; mknod a/null c 1 3
chown -R 1000:1001 a/b; chmod 4755 a/odd; chmod 750 a/b; touch -d 2020-01-01 a/b
python3 -c 'import os; os.setxattr("a/odd", "user.x", b"of a user"); os.setxattr("a/odd", "security.y", b"of the system")'
cd /; sync; eval "$SUM" > $D/sum; eval "$ATTRIBUTES" > $D/attributes
eval "$BEFORE_UNMOUNT"
umount $D/m
dmsetup message docker-pool 0 "create_thin 7"; volume other 7
head -c 200000 /dev/urandom > $D/other; dd if=$D/other of=/dev/mapper/other bs=4k seek=100 conv=notrunc,fsync status=none
dmsetup remove other; dmsetup remove container; dmsetup remove base
[ -n "$ACTIVE" ] || { dmsetup remove docker-pool; losetup -d $M; losetup -d $L; }
id() { head -c 64 < /dev/zero | tr '\0' $1; }
info() { echo "{\"device_id\":$2,\"size\":$((SIZE * 512)),\"transaction_id\":$3,\"initialized\":true,\"deleted\":false}" > $D/devicemapper/metadata/$1; }
mkdir -p $D/devicemapper/metadata $D/containers/$(id 1)
echo "{\"next_device_id\":4,\"BaseDeviceUUID\":\"\",\"BaseDeviceFilesystem\":\"$FS\"}" > $D/devicemapper/metadata/deviceset-metadata
info base 1 1; info $(id b)-init 2 2; info $(id b) 3 3; info $(id c) 9 3
R=$D/image/devicemapper/layerdb/mounts/$(id 1); mkdir -p $R
printf %s $(id b) > $R/mount-id; printf %s $(id b)-init > $R/init-id
echo '{"ID":"1","Name":"/web"}' > $D/containers/$(id 1)/config.v2.json
sync
"#;

/// Checksums of all files below `$D/m`, and of everything its owner, mode, times, links and attributes.
const SUM: &str = "(cd $D/m && find . -type f -print0 | sort -z | xargs -0 sha256sum)";
const ATTRIBUTES: &str = r#"(cd $D/m && python3 -c '
import os
for folder, folders, files in os.walk("."):
    for name in folders + files:
        path = os.path.join(folder, name)
        s = os.lstat(path)
        plain = not os.path.isdir(path) or os.path.islink(path)
        x = [(k, os.getxattr(path, k, follow_symlinks=False)) for k in sorted(os.listxattr(path, follow_symlinks=False))]
        print([path, oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev, s.st_mtime_ns, plain and [s.st_size, s.st_nlink], x,
               os.path.islink(path) and os.readlink(path)])
' | sort)"#;

/// Tells what the first lines are in which two files differ.
const SAME: &str = r#"same() {
    [ "$(sha256sum < "$1")" = "$(sha256sum < "$2")" ] && return
    echo "$1 differs from $2"; sort "$1" "$2" | uniq -u | head -20 | cut -c1-200; return 1
}"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Bytes of each volume: mkfs.xfs wants 300 MB.
pub fn size(file_system: &str) -> u64 {
    if file_system == "xfs" {
        512 << 20
    } else {
        128 << 20
    }
}

/// A pool, and a place for what comes back.
pub struct Lab {
    /// Docker's folder, where files can be read directly: tmpfs takes that from 6.6 on.
    pub docker: PathBuf,
    /// Where things are recovered to: a file system with extended attributes.
    pub place: PathBuf,
}

/// How a pool is left.
#[derive(Clone, Copy, Default)]
pub struct Left {
    /// It is active still.
    pub active: bool,
    /// What happens before the container's volume is unmounted.
    pub before_unmount: &'static str,
}

impl Lab {
    pub fn new(file_system: &str) -> Result<Self> {
        Self::left(file_system, Left::default())
    }

    pub fn left(file_system: &str, left: Left) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            docker: format!("/var/tmp/bulkhead-thin-{number}").into(),
            place: format!("/var/tmp/bulkhead-thin-{number}-out").into(),
        };
        fs::create_dir_all(&lab.place)?;
        let active = if left.active { "1" } else { "" };
        let set = format!(
            "set -e; FS={file_system}; SIZE={}; ACTIVE={active}; BEFORE_UNMOUNT='{}'\n",
            size(file_system) / 512,
            left.before_unmount
        );
        lab.shell(&format!("{set}{MAKE}"))?;
        Ok(lab)
    }

    /// A path below docker's `devicemapper` folder.
    pub fn part(&self, name: &str) -> String {
        let folder = self.docker.join("devicemapper/devicemapper");
        folder.join(name).display().to_string()
    }

    /// A path where something is recovered to.
    pub fn to(&self, name: &str) -> String {
        self.place.join(name).display().to_string()
    }

    /// Runs a script with `$D`, `$P` (the pool's folder) and `$T` (the place).
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = Command::new("bash")
            .args(["-c", &format!("{SAME}\n{script}")])
            .env("D", &self.docker)
            .env("P", self.part(""))
            .env("T", &self.place)
            .env("SUM", SUM)
            .env("ATTRIBUTES", ATTRIBUTES)
            .env("DM_DISABLE_UDEV", "1")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "a script failed with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `bulkhead thin recover` with the pool's own parts, or others.
    fn command(&self, metadata: &str, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("bulkhead");
        command
            .args([
                "thin",
                "recover",
                "--metadata",
                metadata,
                "--data",
                data,
                "--docker",
            ])
            .arg(&self.docker)
            .args(arguments)
            .current_dir(&self.place)
            .stdin(Stdio::null());
        command
    }

    /// Runs it on the pool's own files.
    pub fn recover(&self, arguments: &[&str]) -> Result<Output> {
        self.recover_of(&self.part("metadata"), &self.part("data"), arguments)
    }

    /// Runs it on others.
    pub fn recover_of(&self, metadata: &str, data: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(metadata, data, arguments).output()?)
    }

    /// Starts it on another data device.
    pub fn start(&self, data: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command(&self.part("metadata"), data, arguments);
        Ok(command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?)
    }

    /// Runs it at a terminal, on which somebody answers; what is asked there, and what is printed.
    pub fn ask(&self, arguments: &[&str], answer: &str) -> Result<(String, Output)> {
        self.ask_late(arguments, ":", answer)
    }

    /// The same, where something happens between the question and the answer.
    pub fn ask_late(
        &self,
        arguments: &[&str],
        meanwhile: &str,
        answer: &str,
    ) -> Result<(String, Output)> {
        let terminal = openpty(None, None)?;
        let mut command = self.command(&self.part("metadata"), &self.part("data"), arguments);
        command.stdin(Stdio::from(terminal.slave));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut errors = child.stderr.take().context("it has no standard error")?;
        let (mut told, mut byte) = (Vec::new(), [0]);
        while !told.ends_with(b"[y/N] ") && errors.read(&mut byte)? == 1 {
            told.extend(byte);
        }
        self.shell(meanwhile)?;
        File::from(terminal.master.try_clone()?).write_all(answer.as_bytes())?;
        errors.read_to_end(&mut told)?;
        let mut output = child.wait_with_output()?;
        output.stderr = told;
        Ok((said(&output), output))
    }

    /// What it prints; it must succeed.
    pub fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.recover(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Checksums of the pool's two files.
    pub fn pool(&self) -> Result<String> {
        self.shell("sha256sum $P/metadata $P/data")
    }

    /// The container's files are in a folder, identical.
    pub fn compare(&self, folder: &str) -> Result<()> {
        let compare = |what: &str| {
            let script = format!(
                "rmdir $D/m; ln -sfn {folder} $D/m; eval \"${}\" > $D/now; rm $D/m; mkdir $D/m; same $D/now $D/{what}",
                what.to_uppercase()
            );
            self.shell(&script)
                .with_context(|| format!("the {what} of {folder} differ"))
        };
        compare("sum")?;
        compare("attributes")?;
        Ok(())
    }

    /// Bytes of the container's files.
    pub fn bytes(&self) -> Result<u64> {
        let files = self.shell("wc -l < $D/sum")?;
        ensure!(files.trim().parse::<u32>()? > 10, "{files} files");
        Ok(7 * 200_000 + 70_000 + 300_000)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.shell(
            "chattr -i $T/room/web/files.partial/rootfs; umount $T/room; \
             dmsetup remove slow; dmsetup remove docker-pool; umount $D/small; \
             losetup -j $P/data | cut -d: -f1 | xargs -r losetup -d; losetup -j $P/metadata | cut -d: -f1 | xargs -r losetup -d; \
             rm -rf $D $T",
        );
    }
}

/// All that a call said, and how it ended.
pub fn said(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// It ended with a code, and said something.
pub fn ended(output: &Output, code: i32, words: &str) -> Result<()> {
    let all = said(output);
    ensure!(output.status.code() == Some(code), "not {code}: {all}");
    ensure!(all.contains(words), "it does not say “{words}”: {all}");
    nothing_left()
}

/// Nothing is mapped, mounted, looped or noted, and no copy of metadata is left.
pub fn nothing_left() -> Result<()> {
    nothing_in_the_kernel()?;
    for folder in ["/run/bulkhead/recover", "/var/lib/bulkhead/thin/work"] {
        let entries = fs::read_dir(folder).map_or(0, Iterator::count);
        ensure!(entries == 0, "{entries} entries are left in {folder}");
    }
    Ok(())
}

/// Nothing is mapped, mounted or looped, at once or as soon as the kernel has closed what a killed process had.
pub fn nothing_in_the_kernel() -> Result<()> {
    wait_for("everything to be gone", Duration::from_secs(5), || {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let devices = fs::read_dir("/sys/block")?.flatten();
        let of_ours = devices.filter(|device| {
            let name = fs::read_to_string(device.path().join("dm/name")).unwrap_or_default();
            let behind = fs::read_to_string(device.path().join("loop/backing_file"));
            let read_only = fs::read_to_string(device.path().join("ro")).unwrap_or_default();
            name.starts_with("bulkhead-recover")
                || behind.is_ok_and(|file| file.contains("bulkhead-thin"))
                    && read_only.trim() == "1"
        });
        Ok(!mounts.contains("bulkhead-recover") && of_ours.count() == 0)
    })
}
