//! The machines that tests run in.

use crate::kernels::Kernel;

/// One boot of all tests.
pub struct Variant {
    pub name: &'static str,
    pub kernel: Kernel,
    pub cmdline: &'static str,
    /// It has a rung that its kernel does not have as Debian boots it, and that another kernel shows in every run.
    pub second: bool,
}

/// Every kernel as Debian boots it, and hosts that differ in what matters; what takes longest comes first.
pub const VARIANTS: [Variant; 10] = [
    Variant {
        name: "latest",
        kernel: Kernel::Latest,
        cmdline: "",
        second: false,
    },
    Variant {
        name: "5.10",
        kernel: Kernel::V5_10,
        cmdline: "",
        second: false,
    },
    Variant {
        name: "6.12",
        kernel: Kernel::V6_12,
        cmdline: "",
        second: false,
    },
    Variant {
        name: "6.1",
        kernel: Kernel::V6_1,
        cmdline: "",
        second: false,
    },
    Variant {
        name: "6.1-without-bpf-in-lsm",
        kernel: Kernel::V6_1,
        cmdline: "lsm=lockdown,capability,landlock,yama,apparmor",
        second: true,
    },
    Variant {
        name: "5.10-with-bpf-in-lsm",
        kernel: Kernel::V5_10,
        cmdline: "lsm=lockdown,yama,apparmor,bpf",
        second: true,
    },
    Variant {
        name: "6.1-cgroup-v1",
        kernel: Kernel::V6_1,
        cmdline: "systemd.unified_cgroup_hierarchy=0",
        second: false,
    },
    Variant {
        name: "6.12-patient",
        kernel: Kernel::V6_12,
        cmdline: "bulkhead.tests=patient",
        second: false,
    },
    Variant {
        name: "6.12-observe",
        kernel: Kernel::V6_12,
        cmdline: "bulkhead.rung=observe",
        second: false,
    },
    Variant {
        name: "6.12-locked-down",
        kernel: Kernel::V6_12,
        cmdline: "lockdown=confidentiality",
        second: false,
    },
];
