//! A host's trouble, brought on for real: the kernel says it in its own words, and the shipped pattern for it raises its alarm, and no
//! other.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::bed::{Copy, FIRST, LINES, Numbered};
use crate::{
    cgroup::Cgroup,
    daemon::Daemon,
    hazards::{Needs, Scenario},
    host::{Setting, wait_for},
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "kernel_log::real_trouble_raises_its_own_alarm_and_no_other",
    needs: Needs::Ordinary,
    run: real_trouble_raises_its_own_alarm_and_no_other,
}];

/// Something that goes wrong.
struct Trouble {
    /// A script of the shell that brings it on and leaves nothing behind, or what is done by hand.
    bring: Bring,
    /// Patterns that must raise an alarm.
    alarms: &'static [&'static str],
    /// Patterns that may, on one kernel or another.
    also: &'static [&'static str],
}

enum Bring {
    Script(&'static str),
    Function(fn() -> Result<()>),
}

/// What scripts stand on: `make NAME SIZE` is a device of the device mapper over a file in memory, and sets `D` and `L` to it and to
/// the loop device below; `fail NAME` lets it fail from then on. `A` is a place to mount at, `G` the folder of a container's cgroup, `I`
/// the next minor number.
const PRELUDE: &str = r#"
F=/tmp/trouble; A=$F/mounted; M=; N=
mkdir -p $A
modprobe -a loop dm_mod
make() {
    truncate -s $2 $F/$1
    L=$(losetup --find --show $F/$1); N="$N $L"
    S=$(blockdev --getsz $L)
    # A number of its own each time: alarms about one device are told once a minute.
    dmsetup create $1 --major $(awk '$2 == "device-mapper" { print $1 }' /proc/devices) --minor $I --table "0 $S linear $L 0"
    I=$((I + 1)); M="$1 $M"
    D=/dev/mapper/$1
}
fail() {
    dmsetup load $1 --table "0 $(blockdev --getsz /dev/mapper/$1) error"
    dmsetup suspend --noflush --nolockfs $1
    dmsetup resume $1
}
end() {
    code=$?
    set +e
    umount -q $A
    for m in $M; do dmsetup remove --retry $m; done
    for n in $N; do losetup -d $n; done
    rm -rf $F
    exit $code
} 2>/dev/null
trap end EXIT
"#;

const TROUBLES: &[Trouble] = &[
    Trouble {
        // It asks a loop device for what that cannot do, and the kernel says so in the words of an error.
        bring: Bring::Script("make fine 64M; dmsetup remove fine; mkfs.ext4 -q $L; mkfs.xfs -qf -s size=512 $L || true"),
        alarms: &[],
        also: &[],
    },
    Trouble {
        // Its sector 0x1234 cannot be read.
        bring: Bring::Script(
            "modprobe -a sd_mod; modprobe scsi_debug opts=2 dev_size_mb=16; sleep 1
             D=/dev/$(basename $(ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/*))
             [ -e $D ] || mknod $D b $(tr : ' ' < /sys/block/${D#/dev/}/dev)
             dd if=$D of=/dev/null bs=4k count=1 skip=582 iflag=direct status=none || true
             modprobe -r scsi_debug",
        ),
        alarms: &["io-error"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "make bad 1M; fail bad; dd if=$D of=/dev/null bs=4k count=1 status=none || true",
        ),
        alarms: &["buffer-io-error"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "modprobe raid1; make one 16M; O=$D; make two 16M
             mdadm --create /dev/md7 --quiet --metadata=1.2 --run --assume-clean --level=1 --raid-devices=2 $O $D
             mdadm --quiet /dev/md7 --fail $O; mdadm --quiet --stop /dev/md7",
        ),
        alarms: &["raid-disk-failed"],
        also: &[],
    },
    Trouble {
        // What the file system offers for this (`trigger_test_error`, fs/ext4/sysfs.c).
        bring: Bring::Script(
            "make ext 64M; mkfs.ext4 -q $D; mount -o errors=remount-ro $D $A
             echo tried > /sys/fs/ext4/dm-$((I - 1))/trigger_fs_error",
        ),
        alarms: &["ext4-error", "ext4-stopped"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "make lost 64M; mkfs.ext4 -q $D; mount $D $A; : > $A/file; sync; fail lost
             dd if=/dev/zero of=$A/file bs=1M count=4 conv=fsync status=none || true",
        ),
        alarms: &["ext4-warning", "buffer-io-error"],
        also: &["ext4-error", "ext4-stopped"],
    },
    Trouble {
        bring: Bring::Script(
            "make xfs 320M; mkfs.xfs -q $D; mount $D $A; xfs_io -x -c shutdown $A",
        ),
        alarms: &["xfs-shutdown"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "make agf 320M; mkfs.xfs -q $D; xfs_db -x -c 'agf 0' -c 'write -d levels 99' $D
             mount $D $A && touch $A/file || true",
        ),
        alarms: &["xfs-error", "xfs-shutdown"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "make log 320M; mkfs.xfs -q $D; mount $D $A; fail log; mkdir $A/folder || true; sync",
        ),
        alarms: &["xfs-error", "xfs-shutdown"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "make flip 256M; mkfs.btrfs -q $D; mount $D $A
             yes sixteen.letters. | tr -d '\\n' | head -c 65536 > $A/file; umount $A
             at=$(grep -abo -m1 sixteen.letters. $F/flip | head -1 | cut -d: -f1)
             printf X | dd of=$F/flip bs=1 seek=$at conv=notrunc status=none; blockdev --flushbufs $L; blockdev --flushbufs $D
             mount $D $A; cat $A/file > /dev/null || true",
        ),
        alarms: &["btrfs-checksum"],
        // The count of such errors.
        also: &["btrfs-error"],
    },
    Trouble {
        bring: Bring::Script(
            "make bt 256M; mkfs.btrfs -q $D; mount $D $A; fail bt
             dd if=/dev/zero of=$A/file bs=1M count=2 conv=fsync status=none || true; sync",
        ),
        alarms: &["btrfs-error", "btrfs-stopped"],
        // Of 5.10, when it is unmounted then.
        also: &["warning"],
    },
    Trouble {
        bring: Bring::Script(
            "modprobe dm_thin_pool; make meta 4M; T=$D; make data 16M
             dmsetup create thick --table \"0 32768 thin-pool $T $D 128 128 2 skip_block_zeroing error_if_no_space\"; M=\"thick $M\"
             dmsetup message thick 0 'create_thin 0'
             dmsetup create vol --table '0 65536 thin /dev/mapper/thick 0'; M=\"vol $M\"
             dd if=/dev/zero of=/dev/mapper/vol bs=1M count=24 oflag=direct status=none || true
             fail meta; dmsetup message thick 0 'create_thin 1' || true",
        ),
        alarms: &["dm-thin-low", "dm-thin-stopped", "dm-thin-metadata"],
        also: &["buffer-io-error"],
    },
    Trouble {
        bring: Bring::Script(
            "modprobe nf_conntrack; nft add table ip t
             nft add chain ip t c '{type filter hook output priority 0;}'; nft add rule ip t c ct state new accept
             old=$(sysctl -n net.netfilter.nf_conntrack_max); sysctl -qw net.netfilter.nf_conntrack_max=1
             ip link set lo up
             for i in 1 2 3 4 5; do bash -c \"echo x > /dev/udp/127.0.0.$i/9\" || true; done
             sysctl -qw net.netfilter.nf_conntrack_max=$old; nft flush ruleset",
        ),
        alarms: &["conntrack-full"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "ip link add full0 type veth peer full1; ip addr add 10.98.0.1/16 dev full0
             ip link set full0 up; ip link set full1 up
             cd /proc/sys/net/ipv4/neigh/default; old=$(cat gc_thresh1 gc_thresh2 gc_thresh3)
             echo 1 > gc_thresh1; echo 2 > gc_thresh2; echo 3 > gc_thresh3
             for i in 2 3 4 5 6 7 8 9; do bash -c \"echo x > /dev/udp/10.98.0.$i/9\" || true; done
             for i in 3 2 1; do echo $old | cut -d' ' -f$i > gc_thresh$i; done
             ip link del full0",
        ),
        alarms: &["neighbour-full"],
        also: &[],
    },
    Trouble {
        bring: Bring::Function(no_memory_for_sockets),
        alarms: &["tcp-memory"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "sh -c 'echo 1000 > /proc/self/oom_score_adj; exec sleep 100' & sleep 1
             echo f > /proc/sysrq-trigger; wait",
        ),
        alarms: &["oom-kill"],
        // The kernel prints it in pieces, and another processor's line may come between.
        also: &["oom-limit"],
    },
    Trouble {
        bring: Bring::Script(
            "echo 16M > $G/memory.max; code=0
             sh -ec \"echo 0 > $G/cgroup.procs; exec python3 -c 'bytearray(64<<20)'\" || code=$?
             echo max > $G/memory.max
             [ $code = 137 ] || { echo \"ended with $code\" >&2; cat $G/memory.events /proc/swaps >&2; false; }",
        ),
        alarms: &["oom-kill-container"],
        // The kernel prints it in pieces, and another processor's line may come between.
        also: &["oom-limit"],
    },
    Trouble {
        // It is let go as soon as the kernel has nobody to kill.
        bring: Bring::Script(
            "echo 16M > $G/memory.max; before=$(grep '^oom ' $G/memory.events)
             sh -c \"echo 0 > $G/cgroup.procs; echo -1000 > /proc/self/oom_score_adj; exec python3 -c 'bytearray(64<<20)'\" &
             while [ \"$before\" = \"$(grep '^oom ' $G/memory.events)\" ]; do :; done
             echo max > $G/memory.max; wait",
        ),
        alarms: &["oom-nobody"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "echo 2 > $G/pids.max
             sh -c \"echo 0 > $G/cgroup.procs; sleep 0 & sleep 0 & sleep 0 & wait\" || true
             echo max > $G/pids.max",
        ),
        alarms: &["fork-rejected"],
        also: &[],
    },
    Trouble {
        // MADV_HWPOISON.
        bring: Bring::Script(
            "python3 -c 'import mmap; m = mmap.mmap(-1, 4096); m[0] = 1; m.madvise(100); m[0]' || true",
        ),
        alarms: &["memory-lost"],
        also: &[],
    },
    Trouble {
        // A corrected error of memory, handed to the kernel where its own handler ends.
        bring: Bring::Script(
            "modprobe mce-inject; cd /sys/kernel/debug/mce-inject
             echo 1 > cpu; echo sw > flags; echo 0x9c00000000010092 > status; echo 0x1234000 > addr; echo 4 > bank",
        ),
        alarms: &["hardware-error"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script(
            "cd /proc/sys/kernel; old=$(cat hung_task_timeout_secs)
             make hung 1M; dmsetup suspend hung
             # So many are told of since the boot, and then none.
             echo 10 > hung_task_warnings; echo 1 > hung_task_check_interval_secs; echo 2 > hung_task_timeout_secs
             dd if=/dev/zero of=$D bs=4k count=1 conv=fsync status=none & sleep 6
             dmsetup resume hung; wait
             echo $old > hung_task_timeout_secs; echo 0 > hung_task_check_interval_secs",
        ),
        alarms: &["hung-task"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script("bulkhead-probe crash --name lost --times 1"),
        alarms: &["segfault"],
        also: &[],
    },
    Trouble {
        bring: Bring::Script("bulkhead-probe crash --name lost --how trap --times 1"),
        alarms: &["trap"],
        also: &[],
    },
];

/// What has been raised is told once in this time.
const LOOK: Duration = Duration::from_secs(1);
/// How long an alarm may take, on an emulated processor that others use too.
const SOON: Duration = Duration::from_secs(20);

fn real_trouble_raises_its_own_alarm_and_no_other() -> Result<()> {
    let _all = Setting::new("kernel/printk_ratelimit", "0\n")?;
    let _of_the_network = Setting::new("net/core/message_cost", "0\n")?;
    let copy = Copy::new()?;
    // Trouble of before, of which the daemon would tell first: ten of a kind, and then none of that kind for a minute.
    Numbered::new("push")?.write(LINES)?;
    let _daemon = Daemon::start(&copy.policy, &[])?;
    let container = Cgroup::container()?;
    copy.wait_until_named()?;
    let mut wrong = Vec::new();
    let mut before = 0;
    for (number, trouble) in TROUBLES.iter().enumerate() {
        if let Err(error) = trouble.bring(&container, 20 + 4 * number) {
            wrong.push(format!("{}: {error:#}", trouble.what()));
            continue;
        }
        let wanted: BTreeSet<_> = trouble
            .alarms
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        // Of what should raise none, whatever comes until a line of the host's own has come through.
        if trouble.alarms.is_empty() {
            let mut end = Numbered::new("end")?;
            end.write(1)?;
            copy.wait(&end.last())?;
            std::thread::sleep(2 * LOOK);
        }
        let came = wait_for("the alarms", SOON, || {
            let names: BTreeSet<_> = raised(&copy, before)?
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            Ok(wanted.is_subset(&names))
        });
        let alarms = raised(&copy, before)?;
        before += alarms.len();
        for (name, line) in &alarms {
            println!("    {name}: {line}");
            ensure!(!line.contains(r"\x5cx"), "escaped twice: {line}");
        }
        let others: Vec<_> = alarms
            .iter()
            .filter(|(name, _)| !wanted.contains(name) && !trouble.also.contains(&name.as_str()))
            .collect();
        if came.is_err() || !others.is_empty() {
            wrong.push(format!("{}: alarms {alarms:?}", trouble.what()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Alarms behind the first `after`: the pattern, and the line. What only says how often one came again has none.
fn raised(copy: &Copy, after: usize) -> Result<Vec<(String, String)>> {
    let records = copy.policy.records()?;
    let told = records.iter().filter_map(|record| {
        let (_, line) = record["reason"].as_str()?.split_once(" Line: ")?;
        (record["kind"] == "alarm" && !line.starts_with(FIRST)).then(|| {
            (
                record["rule"].as_str().unwrap_or_default().to_owned(),
                line.to_owned(),
            )
        })
    });
    Ok(told.skip(after).collect())
}

impl Trouble {
    fn bring(&self, container: &Cgroup, minor: usize) -> Result<()> {
        let script = match self.bring {
            Bring::Script(script) => script,
            Bring::Function(function) => return function(),
        };
        let output = Command::new("bash")
            .args(["-ec", &format!("{PRELUDE}{script}")])
            .env("G", container.folder())
            .env("I", minor.to_string())
            .env("DM_DISABLE_UDEV", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "{script}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn what(&self) -> String {
        format!("what should raise {}", self.alarms.join(", "))
    }
}

/// Closes sockets that still have to send, on a host whose sockets may hold no more than a page.
fn no_memory_for_sockets() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut pairs = Vec::new();
    for _ in 0..4 {
        let mut sender = TcpStream::connect(listener.local_addr()?)?;
        let (receiver, _) = listener.accept()?;
        sender.set_nonblocking(true)?;
        while sender.write(&[0; 65_536]).is_ok() {}
        pairs.push((sender, receiver));
    }
    let _little = Setting::new("net/ipv4/tcp_mem", "1 1 1\n")?;
    drop(pairs);
    Ok(())
}
