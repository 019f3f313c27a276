//! A virtual machine with one of Debian's kernels and a Debian userland, for one script.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    debian::{self, Apt, run},
    kernels::{self, Image, Kernel},
};

/// Programs that scripts find in the virtual machine, with all that they need.
const USERLAND: [&str; 47] = [
    "base-files",
    "dash",
    "bash",
    "coreutils",
    "util-linux",
    "mount",
    "iproute2",
    "bridge-utils",
    "bpftool",
    "nftables",
    "conntrack",
    "procps",
    "psmisc",
    "kmod",
    "stress-ng",
    "podman",
    "crun",
    "runc",
    "conmon",
    "gawk",
    "sed",
    "grep",
    "findutils",
    "hostname",
    "jq",
    "tar",
    "python3-minimal",
    "strace",
    "busybox-static",
    "rsyslog",
    "systemd",
    "docker.io",
    "iptables",
    "dmsetup",
    "lvm2",
    "cryptsetup-bin",
    "thin-provisioning-tools",
    "e2fsprogs",
    "xfsprogs",
    "btrfs-progs",
    "f2fs-tools",
    "udev",
    "mdadm",
    "fdisk",
    "apparmor",
    "bindfs",
    "ca-certificates",
];

/// The exit code of a machine that was cut off by its time limit, and of one that crashed.
pub const TIMED_OUT: i32 = 124;
/// See [`TIMED_OUT`].
pub const CRASHED: i32 = 125;
/// Lines of the console that are shown then.
const CONSOLE_LINES: usize = 80;

/// The emulated processor. `rep movsb` and `rep stosb` are a byte a step here, and kernels copy and clear whole pages by them
/// where the processor says that they are fast; a fifth level of page tables is one more look-up for each miss.
const EMULATED: &str = "max,-erms,-la57";
/// What emulated machines boot with. Translations are found by virtual address (QEMU 7.2): where each start of a program has
/// addresses of its own, each is translated anew, which is most of what a fork and exec takes.
const EMULATED_CMDLINE: &str = "norandmaps";

/// How long KVM may take to boot a kernel that only powers off.
const KVM_TRIAL: Duration = Duration::from_secs(10);

/// One boot.
#[derive(Args, Clone, Debug)]
pub struct Boot {
    /// Which of Debian's kernels.
    #[arg(long, value_enum)]
    pub kernel: Kernel,
    /// Processors.
    #[arg(long, default_value_t = 2)]
    pub smp: u32,
    /// Memory in MiB.
    #[arg(long, default_value_t = 1024)]
    pub memory: u32,
    /// Appended to the kernel's command line, and wins.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// Seconds after which the machine is switched off.
    #[arg(long, default_value_t = 300)]
    pub timeout: u64,
    /// A file or a folder's contents to put into the machine; without DEST as /root/NAME.
    #[arg(long, value_name = "PATH[:DEST]")]
    pub add: Vec<String>,
    /// Appended to QEMU's own command line, for instance `-icount shift=1,sleep=off`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub qemu: String,
    /// Take `bulkhead` as it was built last.
    #[arg(long)]
    pub no_build: bool,
    /// What to run there, as root.
    #[arg(long)]
    pub script: PathBuf,
}

/// Where the machine's two streams go.
pub enum Streams {
    /// To our own, as they come.
    Inherit,
    /// Into one file.
    File(PathBuf),
}

/// What became of a boot.
pub struct Outcome {
    /// The script's exit code, [`TIMED_OUT`] or [`CRASHED`].
    pub code: i32,
    /// The end of the console, where the script has not ended by itself.
    pub console: Option<String>,
}

/// Boots and runs the script. The console goes to `target/vm/console-KERNEL.log`, the last machine's to end winning.
pub fn boot(boot: &Boot, streams: Streams) -> Result<Outcome> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let vm = folder()?;
    let (image, root, accelerator) = built(&vm, boot.kernel)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let work = vm.join(format!(
        "run-{}-{}-{number}",
        boot.kernel.name(),
        std::process::id()
    ));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let result = boot_in(boot, streams, &work, &image, &root, accelerator);
    let kept = vm.join(format!("console-{}.log", boot.kernel.name()));
    let _ = fs::rename(work.join("console"), kept);
    let _ = fs::remove_dir_all(&work);
    result
}

/// Builds what a boot of this kernel needs, if that has not been done.
pub fn build(kernel: Kernel) -> Result<()> {
    built(&folder()?, kernel).map(drop)
}

/// Everything that is built once, and by one process at a time.
fn built(vm: &Path, kernel: Kernel) -> Result<(Image, PathBuf, Accelerator)> {
    let lock = File::create(vm.join("lock"))?;
    lock.lock().context("cannot lock target/vm")?;
    prepare()?;
    let image = kernel.image(vm)?;
    let root = userland(vm)?;
    let accelerator = accelerator(vm, &image)?;
    Ok((image, root, accelerator))
}

fn boot_in(
    boot: &Boot,
    streams: Streams,
    work: &Path,
    image: &Image,
    root: &Path,
    accelerator: Accelerator,
) -> Result<Outcome> {
    let initramfs = added(boot, work, &image.initramfs)?;
    let console = work.join("console");
    let mut command = Command::new("qemu-system-x86_64");
    let mut cmdline = "console=ttyS0 quiet panic=-1 oops=panic".to_owned();
    if accelerator == Accelerator::Kvm && !boot.qemu.contains("-icount") {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        // One thread for all processors: with one for each, a processor may go on with a stale translation of code that
        // another patches at that moment (seen on 5.10: it took a breakpoint for ever that text_poke had removed).
        command.args(["-accel", "tcg,thread=single", "-cpu", EMULATED]);
        cmdline = format!("{cmdline} {EMULATED_CMDLINE}");
    }
    command
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-smp", &boot.smp.to_string()])
        .args(["-m", &boot.memory.to_string()])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(&image.vmlinuz)
        .arg("-initrd")
        .arg(&initramfs)
        .arg("-append")
        .arg(format!("{cmdline} {}", boot.cmdline))
        .args(["-rtc", "base=utc"])
        .args(["-object", "rng-random,filename=/dev/urandom,id=random"])
        .args(["-device", "virtio-rng-pci,rng=random"])
        .args(["-device", "virtio-serial-pci,max_ports=8"]);
    for disk in [root, &image.modules] {
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=virtio,snapshot=on",
            disk.display()
        ));
    }
    for name in ["stdout", "stderr", "exit"] {
        let file = work.join(name);
        File::create(&file)?;
        command
            .arg("-chardev")
            .arg(format!("file,id={name},path={}", file.display()))
            .arg("-device")
            .arg(format!("virtserialport,chardev={name},name={name}"));
    }
    command
        .args(boot.qemu.split_whitespace())
        .env("TMPDIR", work)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let code = watch(&mut child, boot, work, streams);
    let _ = child.kill();
    let _ = child.wait();
    let code = code?;
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
    Ok(Outcome {
        code,
        console: (code == CRASHED || code == TIMED_OUT).then_some(end),
    })
}

/// Installs what a boot needs on this machine.
fn prepare() -> Result<()> {
    debian::need(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("cpio", "cpio"),
        ("mke2fs", "e2fsprogs"),
        ("depmod", "kmod"),
        ("xz", "xz-utils"),
    ])
}

fn folder() -> Result<PathBuf> {
    let folder = crate::ebpf::root()?.join("target/vm");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn watch(child: &mut Child, boot: &Boot, work: &Path, streams: Streams) -> Result<i32> {
    let mut sinks: Vec<(File, Box<dyn Write>)> = Vec::new();
    let both = match streams {
        Streams::File(path) => Some(File::create(path)?),
        Streams::Inherit => None,
    };
    for name in ["stdout", "stderr"] {
        let sink: Box<dyn Write> = match &both {
            Some(file) => Box::new(file.try_clone()?),
            None if name == "stdout" => Box::new(std::io::stdout()),
            None => Box::new(std::io::stderr()),
        };
        sinks.push((File::open(work.join(name))?, sink));
    }
    let mut pump = move || -> Result<()> {
        for (from, to) in &mut sinks {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes)?;
            to.write_all(&bytes)?;
            to.flush()?;
        }
        Ok(())
    };
    let deadline = Instant::now() + Duration::from_secs(boot.timeout);
    let mut timed_out = false;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            timed_out = true;
            child.kill()?;
            child.wait()?;
            break None;
        }
        pump()?;
        thread::sleep(Duration::from_millis(50));
    };
    pump()?;
    if let Some(status) = ended {
        ensure!(status.success(), "qemu-system-x86_64 ended with {status}");
    }
    let code = fs::read_to_string(work.join("exit"))?;
    Ok(match code.trim().parse() {
        Ok(code) => code,
        Err(_) if timed_out => TIMED_OUT,
        Err(_) => CRASHED,
    })
}

/// The initramfs with the script, our binary and what was asked for behind it.
fn added(boot: &Boot, work: &Path, initramfs: &Path) -> Result<PathBuf> {
    let add = work.join("add.d/add");
    fs::create_dir_all(add.join("usr/local/bin"))?;
    fs::create_dir_all(add.join("root"))?;
    let binary = crate::ebpf::target()?.join("release/bulkhead");
    ensure!(
        binary.exists(),
        "{} is not built: cargo build --release -p bulkhead",
        binary.display()
    );
    fs::copy(binary, add.join("usr/local/bin/bulkhead"))?;
    let script = add.join("bulkhead-vm-script");
    fs::copy(&boot.script, &script)
        .with_context(|| format!("cannot read {}", boot.script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    for pair in &boot.add {
        let (from, to) = match pair.split_once(':') {
            Some((from, to)) => (Path::new(from), to.to_owned()),
            None => {
                let name = Path::new(pair)
                    .file_name()
                    .context("--add needs a name")?
                    .to_string_lossy();
                (Path::new(pair), format!("/root/{name}"))
            }
        };
        let to = add.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("--add needs a destination")?)?;
        let from = if from.is_dir() {
            from.join(".")
        } else {
            from.to_path_buf()
        };
        if from.ends_with(".") {
            fs::create_dir_all(&to)?;
        }
        run(Command::new("cp").arg("-a").arg(&from).arg(&to))?;
    }
    let archive = work.join("add.cpio.gz");
    kernels::pack(&work.join("add.d"), &archive)?;
    let whole = work.join("initramfs");
    let mut bytes = fs::read(initramfs)?;
    bytes.extend(fs::read(archive)?);
    fs::write(&whole, bytes)?;
    Ok(whole)
}

/// The disk with the Debian userland, built once.
fn userland(vm: &Path) -> Result<PathBuf> {
    let init = crate::ebpf::root()?.join("xtask/vm/root-init");
    let text = fs::read_to_string(&init)?;
    let image = vm.join("root.img");
    // Noted last: an image without its note is built again.
    let recorded = vm.join("root.of");
    let of = format!("{}\n{text}", USERLAND.join(" "));
    if image.exists() && fs::read_to_string(&recorded).is_ok_and(|recorded| recorded == of) {
        return Ok(image);
    }
    eprintln!("building the virtual machine's Debian userland");
    let tree = vm.join("root.d");
    let _ = fs::remove_dir_all(&tree);
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.join("usr").join(name))?;
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name))?;
    }
    Apt::new(&vm.join("apt-root"), &["bookworm", "bookworm-security"])?
        .unpack_closure(&USERLAND, &tree)?;
    for name in [
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "lib/modules",
        "etc/containers",
    ] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy(&init, tree.join("sbin/bulkhead-vm-init"))?;
    fs::set_permissions(
        tree.join("sbin/bulkhead-vm-init"),
        fs::Permissions::from_mode(0o755),
    )?;
    for (file, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hostname", "bulkhead-vm\n"),
    ] {
        fs::write(tree.join(file), text)?;
    }
    // What the packages' own scripts would have done.
    for (link, to) in [
        ("usr/bin/sh", "dash"),
        ("usr/bin/awk", "gawk"),
        ("usr/bin/python3", "python3.11"),
        ("usr/sbin/iptables", "xtables-nft-multi"),
        ("usr/sbin/ip6tables", "xtables-nft-multi"),
    ] {
        let link = tree.join(link);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(to, link)?;
        }
    }
    run(Command::new("ldconfig").arg("-r").arg(&tree))?;
    kernels::disk(&tree, &image)?;
    fs::remove_dir_all(&tree)?;
    fs::write(recorded, of)?;
    Ok(image)
}

/// What carries the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Tcg,
}

/// KVM, if it carries a kernel from its first instruction to power-off; found out once. Some machines have a /dev/kvm
/// that opens and then fails.
fn accelerator(vm: &Path, image: &Image) -> Result<Accelerator> {
    let recorded = vm.join("accelerator");
    match fs::read_to_string(&recorded).as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok(_) | Err(_) => {}
    }
    let works = Path::new("/dev/kvm").exists() && kvm_carries(image)?;
    let partial = vm.join("accelerator.partial");
    fs::write(&partial, if works { "kvm" } else { "tcg" })?;
    fs::rename(partial, recorded)?;
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

fn kvm_carries(image: &Image) -> Result<bool> {
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults"])
        .args(["-display", "none", "-no-reboot", "-kernel"])
        .arg(&image.vmlinuz)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", "panic=-1 rdinit=/bin/busybox -- poweroff -f"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let deadline = Instant::now() + KVM_TRIAL;
    let works = loop {
        match child.try_wait()? {
            Some(status) => break status.success(),
            None if Instant::now() > deadline => break false,
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}
