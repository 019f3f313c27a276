//! What the kernel side must know of this kernel and this host before it runs: read-only data, set when it is loaded.

/// Value of a field that this kernel does not have. Whatever needs it is off.
pub const MISSING: u32 = u32::MAX;

/// No field of a structure that is read lies further behind its beginning. A bound that an instruction has room for.
pub const OFFSET_MAX: u32 = 0xffff;

/// In a program, the address of the per-CPU variable that holds `preempt_count`: the loader puts the variable in its place, as
/// the verifier knows it (`BPF_PSEUDO_BTF_ID`, include/uapi/linux/bpf.h).
pub const PREEMPT_COUNT: u64 = 0x7065_7263_7075_0001;
/// In a program, the address of the kernel's `prb`, which points to the ring of the kernel log's records.
pub const PRINTK_RING: u64 = 0x7065_7263_7075_0002;

/// Bits of `preempt_count` that say that an interrupt is being handled, soft, hard or NMI (`in_task`, include/linux/preempt.h):
/// while it has 32 bits, 5.10 to 6.x.
pub const INTERRUPT_BITS: u32 = 0x00ff_0100;
/// The same since it has 64 (7.x), of which the upper half says nothing else.
pub const INTERRUPT_BITS_OF_64: u32 = 0xff00_0100;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $path:literal,)*) => {
        /// A word of the kernel side's read-only `CONFIG`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $($(#[$doc])* $name,)* }

        impl Field {
            /// Every field, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Where the running kernel's BTF says it: `struct.member.member` (offset in bytes), `struct` (its size),
            /// `enum:constant`, or empty where the daemon sets it.
            #[must_use]
            pub const fn btf(self) -> &'static str {
                match self { $(Self::$name => $path,)* }
            }
        }
    };
}

fields! {
    /// Number of this load; see [`crate::host::Host::generation`].
    Generation = "",
    /// 1: cgroups are told apart in the pids controller's v1 hierarchy; 2: in the v2 hierarchy.
    CgroupVersion = "",
    /// The helper that says what a task's cgroup stands below on v2, where this kernel has it for hooks and tracepoints.
    HelperAncestor = "",
    /// Here no read overtakes an earlier one (x86-64), so that what is the host's can be remembered.
    ReadsInOrder = "",
    /// Number of that hierarchy; ids are unique only within one.
    Hierarchy = "",
    /// Nested cgroups of one container that may stand in `SUBJECTS`.
    NestedMax = "",
    /// Nested cgroups of all containers together that may: the rest of the table is the containers' own.
    NestedTotal = "",
    /// Containers with a name that an unprivileged user could have made, at most.
    UserMadeMax = "",
    /// Of these, one user's, at most.
    UserMadeEach = "",
    /// Flags of a task; `PF_KTHREAD` is 0x00200000 on every kernel since 2.6.
    TaskFlags = "task_struct.flags",
    /// A task's number in the host's pid namespace.
    TaskNumber = "task_struct.pid",
    /// That of its process.
    TaskProcess = "task_struct.tgid",
    /// What a task calls itself.
    TaskName = "task_struct.comm",
    /// A task's shared memory segments, a list: where it is empty it leads to itself, from `shm_init_task` on.
    TaskShared = "task_struct.sysvshm.shm_clist.next",
    /// With PREEMPT_RT, where each task says for itself how it stands to softirqs.
    TaskSoftirqs = "task_struct.softirq_disable_cnt",
    /// Where a processor's `preempt_count` is in the per-CPU variable that holds it.
    PreemptCount = "",
    /// Which of its bits say that an interrupt is being handled.
    InterruptBits = "",
    /// What a task does about a signal; 0: what the kernel does.
    SignalHandler = "k_sigaction.sa.sa_handler",
    /// The first thread of a task's process.
    TaskLeader = "task_struct.group_leader",
    /// The memory that a task runs in.
    TaskMemory = "task_struct.mm",
    /// A task's namespaces but that of users.
    TaskNamespaces = "task_struct.nsproxy",
    /// Of these, that of mounts.
    NamespacesMounts = "nsproxy.mnt_ns",
    /// How a task entered the kernel: the bit 2, `TS_COMPAT`, is set within a system call of 32 bits
    /// (arch/x86/include/asm/thread_info.h).
    TaskStatus = "task_struct.thread_info.status",
    /// Where a task's kernel stack begins.
    TaskStack = "task_struct.stack",
    /// The helper that says where a task's registers are (5.15): elsewhere from 6.9 on, with FRED.
    HelperTaskRegisters = "bpf_func_id:BPF_FUNC_task_pt_regs",
    /// Registers as they were when the kernel was entered: how many bytes,
    Registers = "pt_regs",
    /// the number of the system call,
    RegisterCall = "pt_regs.orig_ax",
    /// its first argument,
    RegisterFirst = "pt_regs.di",
    /// that of one of 32 bits,
    RegisterFirst32 = "pt_regs.bx",
    /// its second argument,
    RegisterSecond = "pt_regs.si",
    /// and that of one of 32 bits.
    RegisterSecond32 = "pt_regs.cx",
    /// How many arguments `security_perf_event_open` has: 2 where what is asked for stands before them (to 6.11).
    PerfArguments = "",
    /// How many arguments `cgroup_attach_permissions` has: 4 at first, and 5 from 5.15 on.
    PermissionArguments = "",
    /// A file is read to be loaded as a module; the same of one that is compressed (7.x).
    ReadingModule = "kernel_read_file_id:READING_MODULE",
    /// See the former.
    ReadingModuleCompressed = "kernel_read_file_id:READING_MODULE_COMPRESSED",
    /// Memory is read to be loaded as one.
    LoadingModule = "kernel_load_data_id:LOADING_MODULE",
    /// The file that is executed.
    ExecutedFile = "linux_binprm.file",
    /// The mount by which a file was opened, as others see it.
    FileMount = "file.f_path.mnt",
    /// Where that is in a `struct mount`.
    MountSeen = "mount.mnt",
    /// The mount namespace that a mount is in.
    MountNamespace = "mount.mnt_ns",
    /// Names that a file has.
    InodeLinks = "inode.i_nlink",
    /// When a task began, `CLOCK_MONOTONIC`, nanoseconds.
    TaskStart = "task_struct.start_time",
    /// What the threads of a task's process share.
    TaskSignal = "task_struct.signal",
    /// One of these threads.
    SignalTarget = "signal_struct.curr_target",
    /// The pids of the process, a `struct pid` of each kind.
    SignalPids = "signal_struct.pids",
    /// The kind that numbers the process itself.
    PidKind = "pid_type:PIDTYPE_TGID",
    /// The cgroups of a task, a `css_set`.
    TaskCgroups = "task_struct.cgroups",
    /// The task's pid, a `struct pid`.
    TaskPid = "task_struct.thread_pid",
    /// The states of a `css_set`, by controller.
    CssSetSubsys = "css_set.subsys",
    /// The v2 cgroup of a `css_set`.
    CssSetDefault = "css_set.dfl_cgrp",
    /// The cgroup of a controller's state.
    CssCgroup = "cgroup_subsys_state.cgroup",
    /// The parent of a controller's state.
    CssParent = "cgroup_subsys_state.parent",
    /// A cgroup's own state.
    CgroupSelf = "cgroup.self",
    /// A cgroup's states, by controller; null where it has not got the controller.
    CgroupSubsys = "cgroup.subsys",
    /// A cgroup's kernfs node.
    CgroupNode = "cgroup.kn",
    /// A cgroup's hierarchy.
    CgroupRoot = "cgroup.root",
    /// A cgroup's depth; the root's is 0.
    CgroupLevel = "cgroup.level",
    /// A cgroup's ancestors from the root down, itself last (since 6.1).
    CgroupAncestors = "cgroup.ancestors",
    /// The ids of a cgroup's ancestors from the root down, its own last (5.10).
    CgroupAncestorIds = "cgroup.ancestor_ids",
    /// A hierarchy's number.
    RootHierarchy = "cgroup_root.hierarchy_id",
    /// A kernfs node's id: the cgroup id.
    NodeId = "kernfs_node.id",
    /// A kernfs node's name, under which it stands in its directory: `cgroup.procs`,
    NodeName = "kernfs_node.name",
    /// the directory, up to 6.13,
    NodeParent = "kernfs_node.parent",
    /// and from then on,
    NodeParentNow = "kernfs_node.__parent",
    /// and what a directory is of: a cgroup.
    NodePrivate = "kernfs_node.priv",
    /// What an inode is of to its file system: in cgroupfs, of a kernfs node.
    InodePrivate = "inode.i_private",
    /// How deep the pid namespace is in which a pid was made; 0: it is the host's.
    PidLevel = "pid.level",
    /// A pid's numbers, one for each namespace, the host's first.
    PidNumbers = "pid.numbers",
    /// The namespace of a number.
    NumberNamespace = "upid.ns",
    /// Pids in use in a namespace.
    NamespacePids = "pid_namespace.pid_allocated",
    /// Pids in a container, and all below it.
    PidsCounter = "pids_cgroup.counter",
    /// What an open file is a file of.
    FileInode = "file.f_inode",
    /// The device that a device node is of.
    InodeDevice = "inode.i_rdev",
    /// What kind of file it is, and who may use it.
    InodeMode = "inode.i_mode",
    /// What kind a file system is.
    SuperBlockMagic = "super_block.s_magic",
    /// The block device that a file system is on,
    SuperBlockDevice = "super_block.s_bdev",
    /// the number that it is known by itself,
    SuperBlockNumber = "super_block.s_dev",
    /// and the device's.
    BlockDeviceNumber = "block_device.bd_dev",
    /// The file that a command of io_uring is for (5.19),
    UringFile = "io_uring_cmd.file",
    /// and which of the file's own commands it is.
    UringCommand = "io_uring_cmd.cmd_op",
    /// Of what type a file system is,
    SuperBlockType = "super_block.s_type",
    /// the same of one that is being set up,
    ContextType = "fs_context.fs_type",
    /// what its type keeps of its options,
    ContextPrivate = "fs_context.fs_private",
    /// of a type that reads them all at once, as text,
    LegacyOptions = "legacy_fs_context.legacy_data",
    /// which it is if it has nothing here,
    TypeInit = "file_system_type.init_fs_context",
    /// the name of one option,
    ParameterKey = "fs_parameter.key",
    /// and the type's name.
    TypeName = "file_system_type.name",
    /// What is asked of a block device, and how.
    BioOperation = "bio.bi_opf",
    /// Which of it is a discard (6.0), and which it was called before.
    OperationDiscard = "req_op:REQ_OP_DISCARD",
    /// See the former.
    OperationDiscardOld = "req_opf:REQ_OP_DISCARD",
    /// The device (5.12),
    BioDevice = "bio.bi_bdev",
    /// and before.
    BioDisk = "bio.bi_disk",
    /// A disk's major number,
    DiskMajor = "gendisk.major",
    /// and its minor number.
    DiskMinor = "gendisk.first_minor",
    /// The type of a key,
    KeyType = "key.index_key.type",
    /// and its name.
    KeyTypeName = "key_type.name",
    /// A name, with its length before it.
    StringName = "qstr.name",
    /// The file system that an inode is of.
    InodeSuperBlock = "inode.i_sb",
    /// The directory entry by which a file was opened.
    FileEntry = "file.f_path.dentry",
    /// The entry of the directory that it is in; a root's is itself.
    EntryParent = "dentry.d_parent",
    /// For what a file was opened: the bit 2, `FMODE_WRITE`, is set where it may be written (include/linux/fs.h).
    FileMode = "file.f_mode",
    /// The name in a directory entry.
    EntryName = "dentry.d_name.name",
    /// What an open file is of to its driver: of a socket's, the `struct socket`.
    FilePrivate = "file.private_data",
    /// Of an open terminal's, the terminal,
    TerminalTty = "tty_file_private.tty",
    /// its driver,
    TtyDriver = "tty_struct.driver",
    /// and which numbers the driver's devices have: the first one,
    DriverMajor = "tty_driver.major",
    /// and its second one, of the first device.
    DriverMinor = "tty_driver.minor_start",
    /// The `struct sock` of a socket.
    SocketSock = "socket.sk",
    /// The protocol of a socket: of a netlink socket, its family.
    SockProtocol = "sock.sk_protocol",
    /// The network namespace of a socket.
    SockNet = "sock.__sk_common.skc_net.net",
    /// The number of a network namespace, as `/proc/PID/ns/net` has it.
    NetNumber = "net.ns.inum",
    /// That of the host's first one.
    HostNet = "",
    /// Where the bytes of a message begin.
    SkbData = "sk_buff.data",
    /// How many bytes a message has.
    SkbLength = "sk_buff.len",
    /// The descriptors of a ring of records.
    RingDescriptors = "printk_ringbuffer.desc_ring",
    /// How many there are, as a power of two.
    DescriptorBits = "prb_desc_ring.count_bits",
    /// What is known of each record, by its descriptor.
    DescriptorInfos = "prb_desc_ring.infos",
    /// The last descriptor that was taken, counted on.
    DescriptorHead = "prb_desc_ring.head_id",
    /// The number of a record.
    InfoNumber = "printk_info.seq",
    /// Who printed a record: a task's number, or that of a processor that handled an interrupt.
    InfoCaller = "printk_info.caller_id",
    /// Bytes of what is known of a record.
    InfoSize = "printk_info",
    /// The pids controller's number.
    PidsController = "cgroup_subsys_id:pids_cgrp_id",
}

/// Number of words in `CONFIG`.
pub const FIELDS: usize = Field::ALL.len();
