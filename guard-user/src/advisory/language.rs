//! What may stand in an advisory's file, as data: what the parser knows, and a test holds the docs to.

use crate::policy::{fields::Field, section::Language};

macro_rules! fields {
    ($($path:literal, $kind:literal, $default:literal, $example:literal, $says:literal;)*) => {
        &[$(Field { path: $path, kind: $kind, default: $default, example: $example, says: $says },)*]
    };
}

/// Every field, in the order of a file.
pub const FIELDS: &[Field] = fields! {
    "id", "a name: letters, digits, - _ .", "must be given", "id: CVE-2024-1086",
    "The CVE where there is one, else a name. The file is called by it.";
    "title", "one line of text", "must be given", "title: \"nf_tables: double free by a QUEUE or DROP verdict\"",
    "What is wrong, in a few words.";
    "happens", "text", "must be given", "happens: A container that may make a user namespace runs code in the kernel.",
    "What happens to a host that has the bug.";
    "harm", "crash | corruption | leak | escape", "must be given", "harm: escape",
    "The worst that it is known for. leak: kernel memory, or another container's, is read.";
    "reach", "any | net_raw | user_namespace | privileged", "must be given", "reach: user_namespace",
    "What a container needs for it. any: nothing. net_raw: CAP_NET_RAW, which docker gives. user_namespace: a user namespace of its own. privileged: real capabilities on the host, or a device.";
    "historical", "one line of text", "-", "historical: no kernel that runs eBPF has it",
    "Why no kernel that Bulkhead runs on can have it. It is kept for its story.";
    "upstream", "map", "no release of mainline or stable had it", "upstream: {introduced: [\"3.15\"], fixed: [\"6.6.15\", \"6.8-rc2\"]}",
    "Which releases of the mainline and stable trees have it.";
    "upstream.introduced", "list of releases", "must be given within `upstream`", "introduced: [\"5.10.117\", \"5.18\"]",
    "The mainline release that brought it, and one for each stable branch that got it by a backport.";
    "upstream.introduced_by", "list of commits", "[]", "introduced_by: [e0abdadcc6e1]",
    "The commits that brought it.";
    "upstream.fixed", "list of releases", "[]", "fixed: [\"6.1.76\", \"6.6.15\", \"6.8-rc2\"]",
    "The mainline release that fixed it, and the first of each stable branch that has the fix. Where a branch got it in two parts, the later. A branch that is not named has it until the mainline release.";
    "upstream.fixed_by", "list of commits", "[]", "fixed_by: [f342de4e2f33]",
    "The commits that fixed it.";
    "upstream.public", "a date: YYYY-MM-DD", "-", "public: \"2024-01-20\"",
    "The first day on which the fix can have been public. A vendor's kernel that was built more than 30 days before cannot hold it.";
    "packages", "list of packages", "[]", "packages: [{distribution: debian, series: \"6.1\", fixed: 6.1.76-1}]",
    "What distributions say of their own packages. It is looked at before `upstream`.";
    "packages[].distribution", "debian | ubuntu | redhat | suse | amazon", "must be given", "distribution: debian",
    "Whose package it is. redhat: Red Hat, and those that rebuild its packages with its numbers.";
    "packages[].series", "the line of packages within which versions can be compared", "must be given", "series: \"6.1\"",
    "debian: the upstream series, 6.1. ubuntu: the base, 5.15.0. redhat: el9_4 for one minor release, el9 for the line that all later ones begin at. suse: the first number of the release, 150400. amazon: the upstream series.";
    "packages[].flavour", "one word", "generic", "flavour: aws",
    "ubuntu: aws, azure, gcp and others count their packages themselves.";
    "packages[].fixed", "a package version", "one of fixed, unfixed and never must be given", "fixed: 6.1.76-1",
    "The first package of the series with the fix.";
    "packages[].unfixed", "a package version", "-", "unfixed: 6.12.118-1",
    "The last package that was looked at, and did not have the fix.";
    "packages[].from", "a package version", "the first of the series", "from: 2.6.32-431.el6",
    "The first package that is known to have the bug.";
    "packages[].never", "one line of text", "-", "never: that tree has no catch-all elements",
    "Why no package of the series ever had the bug.";
    "config", "list of kernel options", "[]", "config: [NF_TABLES]",
    "Options without one of which a kernel cannot have it: where the kernel's own configuration says of each that it is not set, it has not.";
    "triggers", "list of triggers", "must be given, unless it is not coverable", "triggers: [{action: netlink, what: the family nf_tables}]",
    "Actions by which a container gets at it. Each of them, refused, keeps the container from it.";
    "triggers[].action", "an action's name", "must be given", "action: net_link.create",
    "As policy names it. It may be one that a later version of Bulkhead can refuse.";
    "triggers[].what", "one line of text", "the action altogether", "what: the kinds veth, vxcan and netkit",
    "Its argument, in words.";
    "triggers[].kinds", "list of kinds of links or of traffic control", "all kinds", "kinds: [veth, vxcan, netkit]",
    "The links that it takes, or the qdiscs, filters and actions of traffic control: a rule about some kinds alone covers the advisory only if these are among them.";
    "triggers[].families", "list of families of sockets or of netlink", "all families", "families: [vsock]",
    "The same of sockets and of netlink: a rule about some families covers it only if these are among them, with no types or protocols beside them.";
    "triggers[].names", "list of names of modules", "all modules", "names: [net-pf-40, fs-cifs]",
    "The same of modules, as the kernel asks for them, `-` and `_` alike: all names by which a container has the module loaded.";
    "triggers[].fs", "list of types of file systems", "everything", "fs: [overlay]",
    "The same of mounts.";
    "triggers[].types", "list of types of keys", "all types", "types: [cifs.spnego]",
    "The same of keys.";
    "triggers[].devices", "list of devices", "all devices", "devices: [\"char 10:229\"]",
    "The same of devices; of discard `dm-thin`, what they stand on.";
    "triggers[].paths", "list of paths", "all settings", "paths: [\"**/release_agent\"]",
    "The same of files by which the kernel is set.";
    "triggers[].netns", "nested", "any", "netns: nested",
    "It takes a network namespace that is not the host's first: a rule with `when: {netns: nested}` covers it.";
    "triggers[].leaves", "one line of text", "nothing", "leaves: discards of the kernel itself",
    "What stays open when it is refused.";
    "coverable", "yes | no", "yes", "coverable: no",
    "no: the trigger is something that every program does.";
    "because", "one line of text", "must be given with `coverable: no`", "because: splice and writing to a pipe are what programs do",
    "Why it is not coverable.";
    "references", "list of texts", "[]", "references: [\"jpetazzo/dind#41\"]",
    "Where to read more.";
    "checked", "map", "must be given", "checked: {on: \"2026-11-28\", how: \"the kernel's CVE record\"}",
    "When somebody last held this file against its sources.";
    "checked.on", "a date: YYYY-MM-DD", "must be given", "on: \"2026-11-28\"",
    "The day.";
    "checked.how", "text", "must be given", "how: the kernel's CVE record, and Debian's changelogs",
    "Against which sources, and what was not checked.";
};

/// How files of advisories are read.
pub const ADVISORY: Language = Language {
    fields: FIELDS,
    holds: "an advisory",
    one: "one advisory",
    begin: "begin with `id: NAME`; docs/advisories.md shows all fields",
    split: "write one advisory a file",
    titles: &[
        ("", "the advisory"),
        ("packages[]", "a package"),
        ("triggers[]", "a trigger"),
    ],
    take_out: "take it out: what is not known would not be heeded",
    read_on: |_| "docs/advisories.md".to_owned(),
};
