//! The files of this repository: each shipped one is valid, each of `advisories-invalid` is refused where it says.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::advisory::{
    cover::{Coverage, coverage},
    embedded::FILES,
    language::FIELDS,
    model::{Cover, Known},
    set::{self, Places, embedded},
    upstream::Upstream,
};
use crate::policy::problem::{Problems, Source};

const DOCS: &str = include_str!("../../../../docs/advisories.md");
/// The actions of the vocabulary, those included that no version refuses yet.
const ACTIONS: [&str; 26] = [
    "bpf",
    "bridge.create",
    "cgroup.move_out",
    "device.open",
    "device_mapper.control",
    "discard",
    "io_uring",
    "key.create",
    "kernel_log.clear",
    "kernel_log.console",
    "kernel_log.read",
    "kernel_log.write",
    "kernel_setting.write",
    "module.autoload",
    "module.load",
    "mount",
    "net_link.create",
    "net_namespace.create",
    "netlink",
    "perf_event_open",
    "ptrace",
    "reboot",
    "socket",
    "swap",
    "traffic_control",
    "user_namespace.create",
];

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../policies")
        .join(name);
    let mut files: Vec<PathBuf> = (fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn each_shipped_file_is_built_in_and_valid() {
    let files: BTreeSet<String> = (folder("advisories").iter())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let built_in: BTreeSet<String> = FILES.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(
        files, built_in,
        "policies/advisories and embedded.rs differ"
    );
    let set = embedded().unwrap_or_else(|problems| panic!("{problems}"));
    assert!(set.len() >= 25);
    // They can be put together into a bundle as they are.
    for (id, text) in FILES {
        assert!(text.starts_with("---\n"), "{id}");
    }
}

#[test]
fn each_shipped_advisory_says_who_fixed_it_and_names_an_action_that_there_will_be() {
    for advisory in embedded().unwrap() {
        let id = &advisory.id;
        if let Cover::By(triggers) = &advisory.cover {
            for trigger in triggers {
                assert!(
                    ACTIONS.contains(&trigger.action.as_str()),
                    "{id}: {}",
                    trigger.action
                );
            }
        }
        assert!(advisory.how.len() > 60, "{id}");
        let Some(range) = &advisory.upstream else {
            assert!(advisory.historical.is_some(), "{id}");
            continue;
        };
        // Where the fixing commit is not known, the file says so.
        assert!(
            !range.fixed_by.is_empty() || advisory.how.contains("was not found"),
            "{id}"
        );
        let mut fixed = range.fixed.clone();
        fixed.sort();
        assert_eq!(fixed, range.fixed, "{id}: in order");
        let mainline: Vec<_> = fixed.iter().filter(|point| point.is_mainline()).collect();
        assert_eq!(
            mainline.len(),
            1,
            "{id}: one mainline release fixed it: {mainline:?}"
        );
        assert_eq!(fixed.last(), mainline.first().copied(), "{id}");
        let mut introduced = range.introduced.clone();
        introduced.sort();
        assert_eq!(introduced, range.introduced, "{id}: in order");
        // Debian's packages are of the series that they stand under, and no older than the fix of their branch.
        for package in &advisory.packages {
            let (Known::Fixed(version) | Known::Unfixed(version)) = &package.known else {
                continue;
            };
            if package.distribution.name() == "debian" {
                let (release, _) = Upstream::begin(version).unwrap();
                assert_eq!(release.series(), package.series, "{id}");
            }
        }
    }
}

#[test]
fn each_invalid_file_is_refused_where_its_first_line_says() {
    let files = folder("advisories-invalid");
    assert!(files.len() >= 20);
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap_or_default();
        let expected = first
            .strip_prefix("# expect: ")
            .unwrap_or("(no `# expect: `)");
        let said =
            alone(&file).map_or_else(|problems| problems.to_string(), |()| "valid".to_owned());
        let name = file.file_name().unwrap().to_str().unwrap();
        if !said.contains(&format!("/{name}:{expected}")) {
            wrong.push(format!("{name}: expected {expected}\n{said}"));
        }
        if said.matches("\n  expected: ").count() != said.matches("\n  do: ").count() {
            wrong.push(said);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One file in a folder of its own, with a good one beside it.
fn alone(file: &Path) -> Result<(), Problems> {
    let name = file.file_name().unwrap();
    let folder = std::env::temp_dir()
        .join(format!("bulkhead-advisories-{}", std::process::id()))
        .join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(file, folder.join(name)).unwrap();
    let (good, text) = FILES[0];
    fs::write(folder.join(format!("{good}.yaml")), text).unwrap();
    let places = Places::one(&folder, Path::new("/nonexistent"));
    let loaded = set::load(&places).map(drop);
    fs::remove_dir_all(&folder).unwrap();
    loaded
}

#[test]
fn a_folder_replaces_what_is_built_in_and_adds_to_it() {
    let folder = std::env::temp_dir().join(format!("bulkhead-advisory-set-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (id, text) = FILES[0];
    // Checked long before the built-in one: the operator's counts all the same.
    let own = text.replace("on: \"2026-11-28\"", "on: \"2020-01-01\"");
    assert_ne!(own, text);
    fs::write(folder.join(format!("{id}.yaml")), &own).unwrap();
    let added = own.replacen(&format!("id: {id}"), "id: ours-1", 1);
    fs::write(folder.join("ours-1.yaml"), added).unwrap();
    fs::write(folder.join("notes.txt"), "no YAML: [").unwrap();
    let set = set::load(&Places::one(&folder, Path::new("/nonexistent"))).unwrap();
    assert_eq!(set.advisories.len(), FILES.len() + 1);
    assert_eq!(set.from.len(), 2);
    let replaced = (set.advisories.iter())
        .find(|advisory| advisory.id == id)
        .unwrap();
    assert_eq!(replaced.checked.to_string(), "2020-01-01");
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_docs_example_is_valid() {
    let (_, rest) = DOCS.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let source = Source {
        file: "CVE-2026-46331.yaml".to_owned(),
        text: example.to_owned(),
    };
    set::parse(vec![source], true).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn the_docs_know_every_field() {
    for field in FIELDS {
        let name = field.path.replace("[]", "");
        assert!(
            DOCS.contains(&format!("`{name}`")),
            "docs/advisories.md: {name}"
        );
    }
}

/// The rules of a policy with this `deny` that cover an advisory that comes with Bulkhead.
fn covers(deny: &str, id: &str) -> bool {
    let text = format!(
        "version: 1\nsubjects: {{s: {{cgroups: [/x/*]}}}}\nrules: [{{name: r, subjects: [s], deny: [{deny}]}}]"
    );
    let policy = crate::policy::load::from_bytes("x", text.as_bytes())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let all = embedded().unwrap();
    let advisory = all.iter().find(|advisory| advisory.id == id).unwrap();
    matches!(coverage(advisory, &policy), Coverage::By(_))
}

#[test]
fn a_rule_about_modules_covers_what_only_they_open_if_it_names_all_of_their_names() {
    let names = |names: &str| format!("{{module.autoload: {{names: [{names}]}}}}");
    for (id, all, fewer) in [
        ("CVE-2026-31431", "algif-aead", "algif-hash"),
        ("CVE-2026-31431", "net_pf_38", "net-pf-39"),
        ("CVE-2026-43500", "fs-afs, net-pf-33", "net-pf-33"),
        (
            "CVE-2022-27666",
            "xfrm_type_10_50, xfrm-type-2-50",
            "xfrm-type-2-50",
        ),
        ("CVE-2024-53141", "\"ip_set_bitmap:ip\"", "ip_set_bitmap"),
    ] {
        assert!(covers(&names(all), id), "{id}: {all}");
        assert!(!covers(&names(fewer), id), "{id}: {fewer}");
        assert!(covers("module.autoload", id), "{id}");
    }
}

#[test]
fn numbers_and_what_is_behind_netfilter_cover_as_names_do() {
    let (xfrm, nf_tables) = ("CVE-2022-27666", "CVE-2024-1086");
    assert!(covers("{netlink: {families: [6]}}", xfrm));
    assert!(!covers("{netlink: {families: [7]}}", xfrm));
    assert!(covers("{netlink: {families: [netfilter]}}", nf_tables));
    assert!(!covers("{netlink: {families: [ipset]}}", nf_tables));
    assert!(covers("{socket: {families: [40]}}", "CVE-2024-50264"));
    assert!(!covers(
        "{socket: {families: [40], types: [1]}}",
        "CVE-2024-50264"
    ));
}

#[test]
fn every_shipped_trigger_that_loads_modules_names_them() {
    let mut found = 0;
    for advisory in embedded().unwrap() {
        let Cover::By(triggers) = &advisory.cover else {
            continue;
        };
        for trigger in triggers
            .iter()
            .filter(|one| one.action == "module.autoload")
        {
            assert!(!trigger.kinds.is_empty(), "{}", advisory.id);
            found += 1;
        }
    }
    assert!(found >= 14, "{found}");
}

#[test]
fn the_example_of_virtual_patches_covers_what_is_reached_by_families_of_netlink_and_by_traffic_control()
 {
    let example = include_bytes!("../../../../policies/examples/virtual-patches.yaml");
    let policy = crate::policy::load::from_bytes("virtual-patches.yaml", example).unwrap();
    let mut covered = 0;
    for advisory in embedded().unwrap() {
        let Cover::By(triggers) = &advisory.cover else {
            continue;
        };
        let is_of_these = |action: &str| action == "netlink" || action == "traffic_control";
        if !(triggers.iter()).any(|one| is_of_these(&one.action) && !one.kinds.is_empty()) {
            continue;
        }
        let Coverage::By(rules) = coverage(&advisory, &policy) else {
            panic!("{} is not covered", advisory.id);
        };
        assert!(
            (rules.iter())
                .any(|one| one.rule == "networks-within-networks" && one.leaves.is_some()),
            "{}: {rules:?}",
            advisory.id
        );
        covered += 1;
    }
    assert!(covered >= 19, "{covered}");
}
