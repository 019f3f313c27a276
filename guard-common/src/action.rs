//! What a task of a container can be refused besides a fork: the one list that policy, kernel side and records share.

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// What a task tries to do, as policy names it. Its number is an index into [`Fates`] and into
        /// [`crate::Container::actions`].
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Action { $($(#[$doc])* $name = $number,)* }

        impl Action {
            /// All of them, by number.
            pub const ALL: [Self; ACTIONS] = [$(Self::$name),*];

            /// The name in policies and records.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

actions! {
    /// Reads the kernel log, or asks how much of it there is.
    KernelLogRead = 0, "kernel_log.read";
    /// Clears it for those who read it by syslog(2).
    KernelLogClear = 1, "kernel_log.clear";
    /// Writes a line into it.
    KernelLogWrite = 2, "kernel_log.write";
    /// Changes how much of it the console shows.
    KernelLogConsole = 3, "kernel_log.console";
    /// Makes a bridge.
    BridgeCreate = 4, "bridge.create";
    /// Makes a network link of some kind.
    NetLinkCreate = 5, "net_link.create";
    /// Makes a socket of some family, type and protocol.
    Socket = 6, "socket";
    /// Switches off the hooks that refuse. Denied to whom anything is denied.
    GuardDisable = 7, "guard.disable";
    /// Takes lines out of the kernel log: whoever else reads it in the same way lacks them.
    KernelLogConsume = 8, "kernel_log.consume";
    /// Calls bpf(2).
    Bpf = 9, "bpf";
    /// Asks something of a family of netlink.
    Netlink = 10, "netlink";
    /// Makes a user namespace, in which whoever makes it has all capabilities.
    UserNamespaceCreate = 11, "user_namespace.create";
    /// Loads a module of the kernel by itself.
    ModuleLoad = 12, "module.load";
    /// Does something for which the kernel asks for a module that is not loaded.
    ModuleAutoload = 13, "module.autoload";
    /// Mounts something, or a file system of some type.
    Mount = 14, "mount";
    /// Makes a network namespace.
    NetNamespaceCreate = 15, "net_namespace.create";
    /// Calls perf_event_open(2).
    PerfEventOpen = 16, "perf_event_open";
    /// Makes a key, or one of some type.
    KeyCreate = 17, "key.create";
    /// Makes a ring of io_uring.
    IoUring = 18, "io_uring";
    /// Makes a descriptor by which it handles page faults itself.
    Userfaultfd = 19, "userfaultfd";
    /// Takes hold of another process: traces it, or reads and writes its memory and its descriptors.
    Ptrace = 20, "ptrace";
    /// Changes where the host swaps to.
    Swap = 21, "swap";
    /// Restarts or halts the host, or has it run another kernel.
    Reboot = 22, "reboot";
    /// Opens a device.
    DeviceOpen = 23, "device.open";
    /// Tells the device mapper to do something.
    DeviceMapperControl = 24, "device_mapper.control";
    /// Gives the kernel a command of the magic key, or says which of them it takes.
    Sysrq = 25, "sysrq";
    /// Opens a file by which the kernel is set, to write it.
    KernelSettingWrite = 26, "kernel_setting.write";
    /// Adds or changes a qdisc, class, filter, chain or action of traffic control of some kind.
    TrafficControl = 27, "traffic_control";
    /// Asks for a discard of blocks of a device, or of what a file system on it does not use.
    Discard = 28, "discard";
    /// Moves a task out of the container, or has one born outside.
    CgroupMoveOut = 29, "cgroup.move_out";
}

/// How many there are.
pub const ACTIONS: usize = 30;

impl Action {
    /// Whether who refuses this refuses `other` too: who may not read takes nothing out either, and a forged line is no worse
    /// than a console that shows none.
    #[must_use]
    pub const fn includes(self, other: Self) -> bool {
        self as u32 == other as u32
            || matches!(
                (self, other),
                (Self::KernelLogRead, Self::KernelLogConsume)
                    | (Self::KernelLogWrite, Self::KernelLogConsole)
            )
    }

    /// What a policy may say of what it is done to.
    #[must_use]
    pub const fn takes(self) -> Takes {
        match self {
            Self::NetLinkCreate | Self::TrafficControl => Takes::Kinds,
            Self::Socket => Takes::Sockets,
            Self::Netlink => Takes::Families,
            Self::ModuleAutoload => Takes::Names,
            Self::Mount => Takes::FileSystems,
            Self::KeyCreate => Takes::KeyTypes,
            Self::DeviceOpen => Takes::Devices,
            Self::Discard => Takes::StandsOn,
            Self::KernelSettingWrite => Takes::Paths,
            Self::KernelLogRead
            | Self::KernelLogClear
            | Self::KernelLogWrite
            | Self::KernelLogConsole
            | Self::KernelLogConsume
            | Self::Bpf
            | Self::BridgeCreate
            | Self::UserNamespaceCreate
            | Self::ModuleLoad
            | Self::NetNamespaceCreate
            | Self::PerfEventOpen
            | Self::IoUring
            | Self::Userfaultfd
            | Self::Ptrace
            | Self::Swap
            | Self::Reboot
            | Self::DeviceMapperControl
            | Self::CgroupMoveOut
            | Self::Sysrq
            | Self::GuardDisable => Takes::Nothing,
        }
    }

    /// Whether runtimes do it themselves in a container, before they run what it is for: that is left alone ([`crate::setup`]).
    #[must_use]
    pub const fn is_setup(self) -> bool {
        matches!(
            self,
            Self::UserNamespaceCreate
                | Self::ModuleAutoload
                | Self::Mount
                | Self::NetNamespaceCreate
                | Self::KeyCreate
                | Self::DeviceOpen
                | Self::KernelSettingWrite
        )
    }

    /// Whether it is done in a network namespace, so that a policy may say in which.
    #[must_use]
    pub const fn is_of_a_netns(self) -> bool {
        matches!(
            self,
            Self::BridgeCreate | Self::NetLinkCreate | Self::Netlink | Self::TrafficControl
        )
    }

    /// The action with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// What a policy may say of what an action is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: it is denied altogether.
    Nothing,
    /// `kinds` of links, or of traffic control.
    Kinds,
    /// `families`, `types` and `protocols` of sockets.
    Sockets,
    /// `families` of netlink.
    Families,
    /// `names` of modules.
    Names,
    /// `fs`: types of file systems.
    FileSystems,
    /// `types` of keys.
    KeyTypes,
    /// `devices`, without which it would be of all that a program opens.
    Devices,
    /// `paths` of files, likewise.
    Paths,
    /// What the device stands on, which a rule's `when` says.
    StandsOn,
}

/// What an action is done to, as the kernel side has it: a name of at most 15 bytes and NULs behind it, a
/// [`crate::socket::Socket`], a [`crate::netlink::Family`], a [`crate::device::Device`] or [`crate::thin::DM_THIN`]; of a file what [`crate::setting::Path`] makes
/// of it; of the name of a module, what [`crate::module::argument`] makes of it.
pub type Argument = [u64; 2];

/// The same as it is told: an [`Argument`] and zeros, or the whole name of a module.
pub type Told = [u64; 7];

/// A name as the kernel side has it, with NULs behind it; `None`: it is empty, holds a NUL, or leaves no room for one.
#[must_use]
pub const fn name<const WORDS: usize>(text: &str) -> Option<[u64; WORDS]> {
    let text = text.as_bytes();
    if text.is_empty() || text.len() >= 8 * WORDS {
        return None;
    }
    let mut words = [0; WORDS];
    let mut index = 0;
    while index < text.len() {
        if text[index] == 0 {
            return None;
        }
        words[index / 8] |= (text[index] as u64) << (8 * (index % 8));
        index += 1;
    }
    Some(words)
}

/// A key of the kernel table `ARGUMENTS`: the value says what becomes of this action where it is done to this.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ArgumentKey {
    /// Index in `PROFILES`.
    pub profile: u32,
    /// An [`Action`].
    pub action: u32,
    /// To what.
    pub argument: Argument,
}
const _: () = assert!(size_of::<ArgumentKey>() == 24);

/// Entries of the kernel table `ARGUMENTS`: those of two policies, of which one is in force while the other is filled.
pub const ARGUMENTS: u32 = 8192;

/// What becomes of an action: a bit in [`Fates`], and of a value of the kernel table `ARGUMENTS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is refused.
    Refused = 0,
    /// It is refused in a network namespace that is not the host's first.
    RefusedNested = 1,
    /// It is counted, and allowed.
    Audited = 2,
    /// The same in a network namespace that is not the host's first.
    AuditedNested = 3,
}

impl Fate {
    /// Its bit in a value of the kernel table `ARGUMENTS`.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What becomes of each [`Action`]: in the lower four bits the [`Fate::bit`]s whatever it is done to; in the upper four those that it may
/// have by what it is done to, as the kernel table `ARGUMENTS` says. A byte each, with room to spare: one load tells both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates([u8; 32]);
const _: () = assert!(ACTIONS <= size_of::<Fates>());

impl Fates {
    /// It has this fate as well, whatever it is done to.
    pub const fn add(&mut self, action: Action, fate: Fate) {
        self.0[action as usize] |= fate.bit() as u8;
    }

    /// It may have this fate as well, by what it is done to.
    pub const fn add_by_argument(&mut self, action: Action, fate: Fate) {
        self.0[action as usize] |= (fate.bit() as u8) << 4;
    }

    /// Its fates whatever it is done to: a [`Fate::bit`] each.
    #[must_use]
    #[inline(always)]
    pub const fn of(&self, action: Action) -> u32 {
        self.0[action as usize] as u32 & 0xf
    }

    /// Those that it may have by what it is done to: a [`Fate::bit`] each.
    #[must_use]
    #[inline(always)]
    pub const fn by_argument(&self, action: Action) -> u32 {
        self.0[action as usize] as u32 >> 4
    }

    /// Those that it may have at all: a [`Fate::bit`] each.
    #[must_use]
    #[inline(always)]
    pub const fn any(&self, action: Action) -> u32 {
        self.of(action) | self.by_argument(action)
    }
}

/// What became of one action in one container.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Refused.
    pub refused: u64,
    /// Allowed; enforcing would have refused it.
    pub audited: u64,
    /// Start of the window in which it was last told.
    pub told_ns: u64,
}
const _: () = assert!(size_of::<Asked>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_includes_itself_and_what_is_no_worse() {
        for one in Action::ALL {
            for other in Action::ALL {
                let both = (one.name(), other.name());
                let expected = one == other
                    || both == ("kernel_log.write", "kernel_log.console")
                    || both == ("kernel_log.read", "kernel_log.consume");
                assert_eq!(one.includes(other), expected, "{both:?}");
            }
        }
    }

    #[test]
    fn numbers_are_each_ones_own() {
        for (index, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, index);
            assert_eq!(Action::from_number(index as u32), Some(action));
        }
        assert_eq!(Action::from_number(ACTIONS as u32), None);
    }

    #[test]
    fn the_fates_of_one_action_are_no_others() {
        const ALL: [Fate; 4] = [
            Fate::Refused,
            Fate::RefusedNested,
            Fate::Audited,
            Fate::AuditedNested,
        ];
        for (action, fate) in Action::ALL
            .into_iter()
            .flat_map(|one| ALL.map(|fate| (one, fate)))
        {
            let (mut whatever, mut by_argument) = (Fates::default(), Fates::default());
            whatever.add(action, fate);
            by_argument.add_by_argument(action, fate);
            for other in Action::ALL {
                let expected = if other == action { fate.bit() } else { 0 };
                assert_eq!(
                    (whatever.of(other), whatever.by_argument(other)),
                    (expected, 0)
                );
                assert_eq!(
                    (by_argument.of(other), by_argument.by_argument(other)),
                    (0, expected)
                );
                assert_eq!(
                    (whatever.any(other), by_argument.any(other)),
                    (expected, expected)
                );
            }
        }
    }
}
