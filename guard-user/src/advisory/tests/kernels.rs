//! Real kernels' own words, and what is said of three bugs: nf_tables (CVE-2024-1086), AF_ALG (CVE-2026-31431) and dm-thin
//! (CVE-2026-46107).

use crate::advisory::{
    judge::{Judgement, State, judge},
    kernel::Kernel,
    model::Advisory,
    set::embedded,
};

const BUGS: [&str; 3] = ["CVE-2024-1086", "CVE-2026-31431", "CVE-2026-46107"];

/// What a kernel says, and the states of [`BUGS`]: `aff`, `uns`, `fix`, or `not` where it never had it.
const KERNELS: &[(&str, [&str; 3])] = &[
    // Debian: the package is in `uname -v`.
    (
        "5.10.0-46-amd64 #1 SMP Debian 5.10.262-1 (2026-07-31)",
        ["fix", "fix", "fix"],
    ),
    (
        "5.10.0-32-amd64 #1 SMP Debian 5.10.223-1 (2024-08-10)",
        ["fix", "aff", "aff"],
    ),
    (
        "6.1.0-56-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
        ["fix", "fix", "fix"],
    ),
    (
        "6.12.117+deb13-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)",
        ["fix", "fix", "fix"],
    ),
    (
        "6.12.107+deb13-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-08-29)",
        ["fix", "fix", "fix"],
    ),
    (
        "6.1.0-25-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)",
        ["fix", "aff", "aff"],
    ),
    (
        "4.19.0-27-amd64 #1 SMP Debian 4.19.316-1 (2024-06-25)",
        ["fix", "aff", "aff"],
    ),
    (
        "4.19.0-21-amd64 #1 SMP Debian 4.19.249-2 (2022-06-30)",
        ["aff", "aff", "aff"],
    ),
    (
        "4.19.0-11-cloud-amd64 #1 SMP Debian 4.19.146-1 (2020-09-17)",
        ["aff", "aff", "aff"],
    ),
    (
        "4.19.0-9-amd64 #1 SMP Debian 4.19.118-2+deb10u1 (2020-06-07)",
        ["aff", "aff", "aff"],
    ),
    (
        "Linux version 2.6.32-5-amd64 (Debian 2.6.32-48squeeze6) (gcc version 4.3.5 (Debian 4.3.5-4) ) #1 SMP Tue May 13 16:34:35 UTC 2014",
        ["not", "not", "not"],
    ),
    // The compiler is Debian's as well, and no kernel.
    (
        "Linux version 6.1.0-25-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)",
        ["fix", "aff", "aff"],
    ),
    ("debian 7.3.4-1~bpo13+1", ["fix", "fix", "fix"]),
    // A rebuild for an older release sorts before what it was built of, and has its fixes.
    ("debian 6.12.85-1~bpo12+1", ["fix", "fix", "aff"]),
    ("debian 6.1.175-1", ["fix", "fix", "aff"]),
    ("debian 5.10.209-1", ["aff", "aff", "aff"]),
    ("debian 5.10.251-2", ["fix", "fix", "aff"]),
    // Without the package only the branch is known.
    ("6.1.0-25-amd64", ["uns", "uns", "uns"]),
    ("6.12.107+deb13-arm64", ["fix", "fix", "fix"]),
    ("6.12.80+deb13-arm64", ["fix", "uns", "uns"]),
    // Debian's derivatives: their packages are not Debian's.
    (
        "4.18.0-kali2-amd64 #1 SMP Debian 4.18.10-2kali1 (2018-10-09)",
        ["aff", "aff", "aff"],
    ),
    (
        "6.12.62+rpt-rpi-2712 #1 SMP PREEMPT Debian 1:6.12.62-1+rpt1",
        ["fix", "uns", "uns"],
    ),
    // Ubuntu: the release of stable that was merged last stands at the end.
    (
        "5.15.0-124-generic #134-Ubuntu SMP Fri Sep 27 20:20:17 UTC 2024 (Ubuntu 5.15.0-124.134-generic 5.15.163)",
        ["fix", "aff", "aff"],
    ),
    (
        "5.15.0-43-generic #46-Ubuntu SMP (Ubuntu 5.15.0-43.46-generic 5.15.39)",
        ["uns", "uns", "uns"],
    ),
    (
        "5.15.0-67-generic #74-Ubuntu SMP (Ubuntu 5.15.0-67.74-generic 5.15.85)",
        ["uns", "uns", "uns"],
    ),
    (
        "5.15.0-113-generic #123-Ubuntu SMP (Ubuntu 5.15.0-113.123-generic 5.15.152)",
        ["fix", "uns", "uns"],
    ),
    (
        "Linux version 5.15.0-160-generic (buildd@bos03-arm64-029) (gcc (Ubuntu 11.4.0-1ubuntu1~22.04.2) 11.4.0) #170-Ubuntu SMP Wed Oct 1 10:12:04 UTC 2025 (Ubuntu 5.15.0-160.170-generic 5.15.189)",
        ["fix", "aff", "aff"],
    ),
    (
        "5.15.0-1063-aws #69~20.04.1-Ubuntu SMP Fri May 10 19:20:12 UTC 2024 (Ubuntu 5.15.0-1063.69~20.04.1-aws 5.15.152)",
        ["fix", "aff", "aff"],
    ),
    (
        "5.15.0-1017-aws #21~20.04.1-Ubuntu SMP Fri Aug 5 11:44:14 UTC 2022 (Ubuntu 5.15.0-1017.21~20.04.1-aws 5.15.39)",
        ["aff", "aff", "aff"],
    ),
    (
        "6.8.0-41-generic #41-Ubuntu SMP PREEMPT_DYNAMIC Fri Aug 2 20:41:06 UTC 2024",
        ["fix", "aff", "aff"],
    ),
    (
        "6.8.0-40-generic #40-Ubuntu SMP PREEMPT_DYNAMIC Fri Jul 5 11:20:03 UTC 2024",
        ["fix", "aff", "aff"],
    ),
    (
        "6.17.0-1011-azure #11~24.04.2-Ubuntu SMP",
        ["fix", "uns", "uns"],
    ),
    (
        "2.6.32-24-generic #38-Ubuntu SMP (Ubuntu 2.6.32-24.38-generic 2.6.32.15+drm33.5)",
        ["not", "not", "not"],
    ),
    (
        "Ubuntu 5.15.0-124.134-generic 5.15.163",
        ["fix", "uns", "uns"],
    ),
    // Mainline's own build for Ubuntu is not Ubuntu's.
    ("6.9.3-060903-generic", ["fix", "uns", "uns"]),
    // Red Hat and those that rebuild it: features are brought to old releases as well.
    (
        "5.14.0-570.26.1.el9_6.x86_64 #1 SMP PREEMPT_DYNAMIC Wed Jul 16 09:12:04 EDT 2025",
        ["uns", "aff", "aff"],
    ),
    (
        "5.14.0-570.12.1.el9_6.x86_64 #1 SMP PREEMPT_DYNAMIC Tue May 13 06:11:55 EDT 2025",
        ["uns", "aff", "aff"],
    ),
    ("5.14.0-427.18.1.el9_4.x86_64", ["uns", "uns", "uns"]),
    ("5.14.0-503.40.1.el9_5.x86_64", ["uns", "uns", "uns"]),
    ("5.14.0-362.8.1.el9_3.x86_64", ["uns", "uns", "uns"]),
    ("5.14.0-284.30.1.el9_2.x86_64", ["uns", "uns", "uns"]),
    ("5.14.0-611.54.1.el9_7.0.1.x86_64", ["uns", "uns", "uns"]),
    (
        "4.18.0-348.2.1.el8_5.x86_64 #1 SMP Tue Nov 16 14:42:35 UTC 2021",
        ["aff", "aff", "aff"],
    ),
    ("4.18.0-193.6.3.el8_2.x86_64", ["uns", "uns", "uns"]),
    (
        "4.18.0-513.11.1.lve.el8.x86_64 #1 SMP Thu Jan 18 16:21:02 UTC 2024",
        ["uns", "aff", "aff"],
    ),
    (
        "4.18.0-147.5.1.el8_1.5es.20.numa64.aarch64 #1 SMP Fri Jul 9 09:46:55 UTC 2021",
        ["aff", "aff", "aff"],
    ),
    ("3.10.0-693.17.1.el7.x86_64", ["uns", "uns", "uns"]),
    ("2.6.32-431.el6.x86_64", ["uns", "uns", "uns"]),
    (
        "2.6.32-754.14.2.el6.x86_64 #1 SMP Tue May 14 19:35:42 UTC 2019",
        ["uns", "uns", "uns"],
    ),
    ("6.12.0-55.29.1.el10_0.x86_64", ["fix", "uns", "uns"]),
    // Oracle.
    ("5.4.17-2136.310.7.1.el8uek.x86_64", ["uns", "uns", "uns"]),
    (
        "5.15.0-318.199.3.2.el8uek.x86_64 #2 SMP Mon Mar 9 08:37:04 PDT 2026",
        ["uns", "uns", "uns"],
    ),
    // Amazon: the release is stable's.
    (
        "6.1.102-108.177.amzn2023.x86_64 #1 SMP PREEMPT_DYNAMIC Thu Aug 15 02:44:38 UTC 2024",
        ["fix", "aff", "aff"],
    ),
    (
        "6.1.159-181.297.amzn2023.x86_64 #1 SMP PREEMPT_DYNAMIC Mon Dec 22 22:31:59 UTC 2025",
        ["fix", "aff", "aff"],
    ),
    ("6.1.66-91.160.amzn2023.x86_64", ["uns", "uns", "uns"]),
    (
        "5.10.75-79.358.amzn2.x86_64 #1 SMP Thu Nov 4 21:08:30 UTC 2021",
        ["aff", "aff", "aff"],
    ),
    // SUSE: enterprise, and Tumbleweed, which is as upstream.
    (
        "5.14.21-150400.24.103-default #1 SMP PREEMPT_DYNAMIC Wed Jan 10 13:40:49 UTC 2024 (8afebed)",
        ["uns", "aff", "aff"],
    ),
    ("4.12.14-122.23-default", ["uns", "uns", "uns"]),
    // Another flavour of SUSE's is known by who built it.
    (
        "Linux version 5.14.21-150400.14.72-azure (geeko@buildhost) (gcc (SUSE Linux) 7.5.0, GNU ld (GNU Binutils; SUSE Linux Enterprise 15) 2.41.0) #1 SMP PREEMPT_DYNAMIC Thu Jan 18 09:00:00 UTC 2024 (abcdef0)",
        ["uns", "aff", "aff"],
    ),
    // A stable release of 0 that stands for any: openEuler, Kali.
    ("5.10.0-136.12.0.86.oe2203sp1.x86_64", ["uns", "uns", "uns"]),
    ("5.10.0-kali9-amd64", ["uns", "uns", "uns"]),
    ("6.7.9-1-default", ["fix", "aff", "aff"]),
    // Fedora, Proxmox, and kernels that nobody's package is.
    ("5.7.10-201.fc32.x86_64", ["aff", "aff", "aff"]),
    ("6.8.12-4-pve", ["fix", "uns", "uns"]),
    ("5.14.0-rc3-00066-gf227f0faf63b", ["aff", "aff", "aff"]),
    ("6.12.0-rc3-next-20241017", ["fix", "aff", "aff"]),
    (
        "6.18.44-fc-v595 #1 SMP PREEMPT_DYNAMIC @0",
        ["fix", "fix", "fix"],
    ),
    ("5.15.153.1-microsoft-standard-WSL2", ["fix", "uns", "uns"]),
    ("6.6.64.2-9.azl3", ["fix", "uns", "uns"]),
    (
        "Linux host 6.1.0-25-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26) x86_64 GNU/Linux",
        ["fix", "aff", "aff"],
    ),
    // The package's version was cut short by the 64 letters that uname has for it.
    (
        "6.1.0-25-amd64 #1 SMP PREEMPT_DYNAMIC and whatever else may be said Debian 6.1.1",
        ["uns", "uns", "uns"],
    ),
    ("6.1.100-mine", ["fix", "uns", "uns"]),
    ("mainline 6.8-rc1", ["aff", "aff", "aff"]),
    ("mainline 7.1-rc1", ["fix", "fix", "aff"]),
    ("mainline 7.3.4", ["fix", "fix", "fix"]),
];

fn shipped(id: &str) -> Advisory {
    (embedded().unwrap().into_iter())
        .find(|advisory| advisory.id == id)
        .unwrap_or_else(|| panic!("{id}"))
}

fn said(id: &str, kernel: &str) -> Judgement {
    let kernel = Kernel::parse(kernel).unwrap_or_else(|error| panic!("{error}"));
    judge(&shipped(id), &kernel, &|_| false)
}

#[test]
fn each_kernel_is_judged_as_the_table_says() {
    assert!(KERNELS.len() >= 60);
    let bugs = BUGS.map(shipped);
    let mut wrong = Vec::new();
    for (text, expected) in KERNELS {
        let kernel = Kernel::parse(text).unwrap_or_else(|error| panic!("{error}"));
        for (advisory, expected) in bugs.iter().zip(expected) {
            let judgement = judge(advisory, &kernel, &|_| false);
            let state = match judgement.state {
                State::Affected => "aff",
                State::Unsure => "uns",
                State::Fixed => "fix",
                State::NotAffected => "not",
            };
            if state != *expected {
                wrong.push(format!(
                    "{text}\n  {}: {state}, not {expected}: {}",
                    advisory.id, judgement.reason
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reason_is_in_words() {
    for (id, kernel, expected) in [
        (
            "CVE-2026-46331",
            "debian 6.1.170-1",
            "Debian fixed it in 6.1.176-1, this is 6.1.170-1",
        ),
        (
            "CVE-2026-31692",
            "debian 6.12.117-1",
            "Debian had no fix in 6.12.118-1, this is 6.12.117-1",
        ),
        (
            "CVE-2026-46242",
            "debian 6.1.176-1",
            "6.1.176-1, the first package after 6.1.175, took the change that brought it out again; the fix came before it came back",
        ),
        (
            "CVE-2024-1086",
            "mainline 6.1.75",
            "fixed upstream in 6.1.76, this is 6.1.75",
        ),
        (
            "CVE-2024-1086",
            "mainline 6.5.13",
            "fixed upstream in 6.8-rc2, in no release of 6.5; this is 6.5.13",
        ),
        (
            "CVE-2023-2598",
            "mainline 6.2.16",
            "it came with 6.3-rc1, this is 6.2.16",
        ),
        (
            "CVE-2022-34918",
            "ubuntu 5.15.0-41.44",
            "Ubuntu fixed it in 5.15.0-43.46, this is 5.15.0-41.44",
        ),
    ] {
        assert_eq!(said(id, kernel).reason, expected, "{id} {kernel}");
    }
}

#[test]
fn the_two_outages() {
    // Both live ones on Debian's 5.10.223, the BUG alone on 5.10.262.
    for (id, old, new) in [
        ("dm-btree-remove-181", State::Affected, State::Affected),
        ("CVE-2026-46107", State::Affected, State::Fixed),
    ] {
        assert_eq!(
            said(id, "5.10.0-32-amd64 #1 SMP Debian 5.10.223-1 (2024-08-10)").state,
            old
        );
        assert_eq!(
            said(id, "5.10.0-46-amd64 #1 SMP Debian 5.10.262-1 (2026-07-31)").state,
            new
        );
        assert_eq!(said(id, "debian 6.12.118-1").state, State::Fixed);
    }
    // The bridge is Red Hat's 2.6.32 alone.
    for (kernel, state) in [
        ("2.6.32-431.el6.x86_64", State::Affected),
        ("2.6.32-504.1.3.el6.x86_64", State::Affected),
        ("2.6.32-504.12.2.el6.x86_64", State::Unsure),
        ("2.6.32-358.el6.x86_64", State::Unsure),
        ("2.6.32-5-amd64", State::NotAffected),
        ("6.1.0-25-amd64", State::NotAffected),
    ] {
        assert_eq!(said("RHEL6-nested-bridge", kernel).state, state, "{kernel}");
    }
}

#[test]
fn a_package_ends_an_advisory_though_the_release_does_not() {
    // Exactly Ubuntu's package with the fix, of a release before upstream's.
    let of = |package: &str| said("CVE-2022-34918", package).state;
    assert_eq!(
        of("5.15.0-43-generic #46-Ubuntu SMP (Ubuntu 5.15.0-43.46-generic 5.15.39)"),
        State::Fixed
    );
    assert_eq!(
        of("5.15.0-42-generic #45-Ubuntu SMP (Ubuntu 5.15.0-42.45-generic 5.15.39)"),
        State::Affected
    );
    // aws counts its own packages, and of them nothing is known here.
    assert_eq!(of("5.15.0-1017-aws #21~20.04.1-Ubuntu SMP"), State::Unsure);
    assert_eq!(
        said("CVE-2022-2588", "5.15.0-1017-aws #21~20.04.1-Ubuntu SMP").state,
        State::Fixed
    );
    assert_eq!(
        said("CVE-2022-2588", "5.15.0-1016-aws #20-Ubuntu SMP").state,
        State::Affected
    );
    // Red Hat's line: build 70 has it, and every minor release that begins later; of an earlier one nothing is said.
    let of = |package: &str| said("CVE-2022-0492", package).state;
    assert_eq!(of("5.14.0-70.13.1.el9_0.x86_64"), State::Fixed);
    assert_eq!(of("5.14.0-427.18.1.el9_4.x86_64"), State::Fixed);
    assert_eq!(of("5.14.0-69.el9.x86_64"), State::Affected);
    assert_eq!(of("4.18.0-372.9.1.el8.x86_64"), State::Unsure);
    assert_eq!(
        said("CVE-2022-0847", "5.14.0-70.13.1.el9_0.x86_64").state,
        State::Unsure
    );
    assert_eq!(
        said("CVE-2022-0847", "5.14.0-427.18.1.el9_4.x86_64").state,
        State::Fixed
    );
}

#[test]
fn a_kernel_without_the_option_is_not_affected() {
    let kernel = Kernel::parse("mainline 6.1.50").unwrap();
    let advisory = shipped("CVE-2026-43284");
    let judged = |options: &[&str]| judge(&advisory, &kernel, &|option| options.contains(&option));
    // One of two is enough to have it.
    assert_eq!(judged(&["INET_ESP"]).state, State::Affected);
    let none = judged(&["INET_ESP", "INET6_ESP"]);
    assert_eq!(none.state, State::NotAffected);
    assert_eq!(
        none.reason,
        "this kernel is built without CONFIG_INET_ESP and the like"
    );
}

#[test]
fn what_is_no_kernel_is_told_how_to_write_one() {
    for text in [
        "",
        "x",
        "linux",
        "6",
        "debian",
        "debian sid",
        "arch 6.1.1",
        "Linux version",
        "-25-amd64",
    ] {
        let error = Kernel::parse(text).unwrap_err();
        assert!(error.contains("`uname -r`"), "{text}: {error}");
    }
    assert!(Kernel::parse(&"6.1".repeat(3000)).is_err());
}
