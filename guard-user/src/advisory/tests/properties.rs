//! Whatever a file, a kernel or a signature says, it is read or refused.

use std::sync::LazyLock;

use proptest::prelude::*;

use crate::{
    advisory::{
        embedded::FILES,
        judge::judge,
        kernel::Kernel,
        model::Advisory,
        set::{embedded, parse},
        upstream::Upstream,
    },
    policy::problem::Source,
};

static SHIPPED: LazyLock<Vec<Advisory>> = LazyLock::new(|| embedded().unwrap());

/// Parts of versions, put together in any order.
fn words() -> impl Strategy<Value = String> {
    let parts = [
        "Linux version ",
        "5.10.0",
        "6.1.106",
        "2.6.32",
        "-25",
        "-amd64",
        "-generic",
        ".el9_4",
        ".el8uek",
        ".x86_64",
        ".amzn2023",
        ".fc32",
        "-default",
        "-rc3",
        "-next-20241017",
        "-g0123456789",
        "+deb13",
        "+rpt",
        "-pve",
        " ",
        "#1 SMP ",
        "#134-Ubuntu ",
        "Debian 6.1.106-3",
        "(Debian 2.6.32-48squeeze6)",
        "(Ubuntu 5.15.0-124.134-generic 5.15.163)",
        "(2024-08-26)",
        "Fri Sep 27 20:20:17 UTC 2024",
        "debian ",
        "ubuntu ",
        "redhat ",
        "1:",
        "~bpo12+1",
        "~20.04.1",
        ".",
        "-",
        "é",
        "99999999999999999999",
    ];
    proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..9)
        .prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_kernel_panics_and_each_that_is_read_is_judged(text in prop_oneof![words(), "\\PC{0,80}"]) {
        if let Ok(kernel) = Kernel::parse(&text) {
            for advisory in &*SHIPPED {
                let judgement = judge(advisory, &kernel, &|_| false);
                prop_assert!(!judgement.reason.is_empty());
            }
        }
        let _ = Kernel::told(&text, &text, Some(&text));
    }

    #[test]
    fn a_release_is_read_as_it_is_written(text in "[0-9]{1,5}(\\.[0-9]{1,6}){0,4}(-rc[0-9]{1,4})?|\\PC{0,12}") {
        if let Some(release) = Upstream::parse(&text) {
            prop_assert_eq!(Upstream::parse(&release.to_string()), Some(release));
        }
    }

    #[test]
    fn no_file_panics(
        file in 0..FILES.len(), from in any::<prop::sample::Index>(), length in 0..40usize, new in "\\PC{0,12}|\n|---\n|: |[{}\\[\\],\"']{1,4}",
    ) {
        let (id, text) = FILES[file];
        let letters: Vec<char> = text.chars().collect();
        let start = from.index(letters.len());
        let end = (start + length).min(letters.len());
        let changed: String = letters[..start].iter().copied().chain(new.chars()).chain(letters[end..].iter().copied()).collect();
        let source = Source { file: format!("{id}.yaml"), text: changed };
        if let Err(problems) = parse(vec![source], true) {
            let said = problems.to_string();
            prop_assert!(said.starts_with(&format!("{id}.yaml:")), "{}", said);
            prop_assert!(said.contains("\n  expected: ") && said.contains("\n  do: "), "{}", said);
        }
    }
}
