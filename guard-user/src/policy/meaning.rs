//! What each action is, in words, and which ways round its refusal are known: for `bulkhead explain ACTION`.

use guard_common::action::Action;

/// What doing it means.
#[must_use]
pub const fn what(action: Action) -> &'static str {
    match action {
        Action::KernelLogRead => {
            "reading the kernel log, or asking how much of it is unread; writing kernel.dmesg_restrict counts as this"
        }
        Action::KernelLogClear => {
            "clearing the kernel log for those who read it by syslog(2), as dmesg does"
        }
        Action::KernelLogWrite => "writing a line into the kernel log",
        Action::KernelLogConsole => {
            "setting how much of the kernel log the console shows; writing kernel.printk* counts as this"
        }
        Action::KernelLogConsume => {
            "taking lines out of the kernel log (/proc/kmsg, syslog(2) type 2), which the host's own reader then lacks"
        }
        Action::BridgeCreate => "making a bridge",
        Action::NetLinkCreate => {
            "making a network link of any kind, or of those that `kinds` names"
        }
        Action::Socket => {
            "making a socket, of any kind or of those that `families`, `types` and `protocols` name"
        }
        Action::GuardDisable => {
            "switching off what refuses: writing kernel.ftrace_enabled, and asking bpf(2) for Bulkhead's own by number; \
             denied by itself to every container that is refused anything"
        }
        Action::Bpf => "calling bpf(2)",
        Action::Netlink => {
            "asking something of any family of netlink, or of those that `families` names"
        }
        Action::TrafficControl => {
            "adding or changing a qdisc, class, filter, chain or action of traffic control, of any kind or of those that `kinds` names"
        }
        Action::ModuleLoad => "loading a module of the kernel, from a file or from memory",
        Action::ModuleAutoload => {
            "having the kernel load a module, whichever or one of those that `names` names, by asking for what is not there"
        }
        Action::Mount => {
            "mounting anything, moving or changing what is mounted, or mounting file systems of the types that `fs` names"
        }
        Action::NetNamespaceCreate => "making a network namespace",
        Action::PerfEventOpen => "calling perf_event_open(2)",
        Action::KeyCreate => {
            "making a key or a keyring of any type, or of those that `types` names"
        }
        Action::IoUring => "making a ring of io_uring",
        Action::Userfaultfd => "making a descriptor by which page faults are handled in user space",
        Action::Ptrace => {
            "tracing a process, and reading or writing its memory or taking its descriptors, one of the same container included"
        }
        Action::Swap => "switching swap on or off",
        Action::Reboot => {
            "restarting or halting the host, or having it run another kernel; ending the container's own pid namespace is none of it"
        }
        Action::DeviceOpen => "opening a device that `devices` names, whatever its node is called",
        Action::CgroupMoveOut => {
            "moving a task, itself included, into a cgroup outside the container, or having one born there (CLONE_INTO_CGROUP)"
        }
        Action::DeviceMapperControl => {
            "telling the device mapper to do something, a question included"
        }
        Action::Sysrq => {
            "giving the kernel a command of the magic key by /proc/sysrq-trigger, or writing kernel.sysrq"
        }
        Action::KernelSettingWrite => {
            "opening a file of the kernel's that `paths` names, to write it"
        }
        Action::Discard => {
            "asking for blocks of a device to be discarded: of the device itself, or of what a file system on it does not use"
        }
        Action::UserNamespaceCreate => {
            "making a user namespace, in which whoever makes it has all capabilities"
        }
    }
}

/// Ways round its refusal that are known, where the hooks themselves stand.
#[must_use]
pub const fn ways_round(action: Action) -> &'static [&'static str] {
    match action {
        Action::KernelLogRead | Action::KernelLogConsume => &[
            "a trace of printk that is mapped into memory (6.10), by perf_event_open or by a BPF program (unless `bpf` is denied)",
            "/dev/mem, /proc/kcore, /dev/vcs*, netconsole",
            "a pstore that is mounted already, efivarfs",
        ],
        Action::KernelLogClear => &[],
        Action::KernelLogWrite => {
            &["trace_marker and then /proc/sysrq-trigger, to who may write both"]
        }
        Action::KernelLogConsole => {
            &["/proc/sysrq-trigger, and the parameters of the module printk below /sys/module"]
        }
        Action::BridgeCreate => &["asking a program of the host to make one"],
        Action::NetLinkCreate => &[
            "moving a link that another made into one's namespace",
            "families that make links by generic netlink (openvswitch, batadv)",
        ],
        Action::Socket => &[
            "a socket that was made before, or that another made and sent",
            "a protocol that is chosen later (TCP_ULP)",
        ],
        Action::GuardDisable => &[
            "a container's own BPF programs (unless `bpf` is denied)",
            "the host's bpffs, where it is mounted into the container",
        ],
        Action::Bpf => &["what was loaded or attached before goes on"],
        Action::Netlink => &[
            "iptables' setsockopt for netfilter's old tables; AF_KEY for xfrm",
            "a socket on which another asks",
        ],
        Action::TrafficControl => &[
            "what is set up already goes on; a class is told by the kind that its message says, which the kernel does not look at",
            "qdiscs that the kernel makes by itself: the default one (net.core.default_qdisc), and those in one that is made",
            "BPF programs on a device by bpf(2), from 6.6 on (unless `bpf` is denied)",
            "a socket on which another asks",
        ],
        Action::ModuleLoad => &["having a program of the host load it", "module.autoload"],
        Action::ModuleAutoload => &[
            "a module that is loaded already",
            "another name by which the kernel asks for the same module",
        ],
        Action::Mount => &[
            "what the runtime mounted, and what is propagated into the container",
            "attributes of what is mounted, by mount_setattr(2); umount(2)",
            "a clone of what is mounted, by open_tree(2), as far as it is used by its descriptor alone",
            "of `fs`: other names of what the same code reads, such as ext2 and ext3 for ext4, fuseblk for fuse, nfs4, smb3",
            "having a program of the host mount, as udisks and autofs do",
        ],
        Action::NetNamespaceCreate => {
            &["joining a namespace that was made before, or by the runtime (setns)"]
        }
        Action::PerfEventOpen => &["an event that another opened and sent"],
        Action::KeyCreate => &["keys that are there already"],
        Action::IoUring => &["a ring that was made before, or that another made and sent"],
        Action::Userfaultfd => {
            &["a descriptor that was made before, or that another made and sent"]
        }
        Action::Ptrace => &[
            "what is traced already",
            "looking without taking hold, as ps does: /proc/PID/fd, map_files and environ are opened by that right",
        ],
        Action::Swap => &["writing the host's block devices, and the limits of memory of cgroups"],
        Action::Reboot => &[
            "/proc/sysrq-trigger, /sys/power, and devices of watchdogs",
            "signals to the host's first process, in its pid namespace; ports of the machine, to who has CAP_SYS_RAWIO",
        ],
        Action::DeviceOpen => &[
            "a device that was opened before, or that another opened and sent",
            "mounting a block device, or naming one to what is mounted, to the device mapper or to md: deny `mount` as well",
            "another device with the same contents, such as a partition of a disk",
        ],
        Action::CgroupMoveOut => &[
            "having a program of the host do it, as systemd does to who may ask it for a scope",
            "a host on cgroup v1, where the kernel asks no program",
            "io_uring before 5.12 (Debian's 5.10: before 5.10.162), which may have a thread of the kernel write: deny `io_uring` beside it",
        ],
        Action::DeviceMapperControl => &["having a program of the host do it"],
        Action::Sysrq => &[
            "a file that was opened before, or that another opened and sent",
            "a keyboard, a serial line",
        ],
        Action::KernelSettingWrite => &[
            "a file that was opened before, or that another opened and sent",
            "another file that sets the same; the same by a system call, or by an option of a mount (release_agent=)",
        ],
        Action::Discard => &[
            "a file system that was mounted with `discard`, which discards by itself what is deleted",
            "the kernel's own users of a device: targets of iSCSI, NVMe and vhost, whose clients trim",
            "deleting a thin volume by a message of the device mapper (deny `device_mapper.control` as well)",
        ],
        Action::UserNamespaceCreate => &[
            "joining a namespace that was made before, or by the runtime",
            "tracing a runtime's process that is about to enter the container (the host's CAP_SYS_PTRACE)",
        ],
    }
}
