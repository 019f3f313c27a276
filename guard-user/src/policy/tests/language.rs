//! One language: what the parser takes, what `explain` tells, what the docs say and what the default policy shows.

use super::problems;
use guard_common::action::Action;

use crate::policy::{
    fields::{FIELDS, Field, children, find},
    load::{EMBEDDED, from_bytes},
};

const DOCS: &str = include_str!("../../../../docs/policy.md");

/// An action to which a field of that name belongs.
fn action(key: &str) -> &'static str {
    match key {
        "families" | "types" | "protocols" => "socket",
        "names" => "module.autoload",
        "fs" => "mount",
        "devices" => "device.open",
        "paths" => "kernel_setting.write",
        _ => "net_link.create",
    }
}

fn is_leaf(field: &Field) -> bool {
    children(field.path).next().is_none()
}

/// A policy in which nothing but this field is, with a value that no field takes.
fn with_nonsense(field: &Field) -> String {
    let mut text = String::from("{nonsense: [[]]}");
    for part in field.path.rsplit('.') {
        let key = part
            .trim_end_matches("[]")
            .replace("ACTION", action(field.key()));
        let list =
            part.ends_with("[]") && part != field.path.rsplit('.').next().unwrap_or_default();
        text = if list {
            format!("{{{key}: [{text}]}}")
        } else {
            format!("{{{key}: {text}}}")
        };
    }
    text
}

#[test]
fn every_field_of_the_table_is_read_by_the_parser() {
    for field in FIELDS.iter().filter(|field| is_leaf(field)) {
        let said = from_bytes("x", with_nonsense(field).as_bytes())
            .unwrap_err()
            .to_string();
        let refused = format!("`{}` is a map", field.key());
        assert!(
            said.contains(&refused),
            "{}: {}\n{said}",
            field.path,
            with_nonsense(field)
        );
        assert!(!said.contains("has no field"), "{}\n{said}", field.path);
    }
}

#[test]
fn every_field_is_in_the_docs_and_in_the_default_policy() {
    for field in FIELDS {
        assert!(
            DOCS.contains(&format!("`{}`", field.path)),
            "docs/policy.md lacks `{}`",
            field.path
        );
        let shown =
            field.path == "subjects.NAME" || EMBEDDED.contains(&format!("{}:", field.key()));
        assert!(shown, "default.yaml lacks {}", field.path);
    }
}

#[test]
fn every_default_in_the_docs_is_the_tables() {
    for field in FIELDS.iter().filter(|field| is_leaf(field)) {
        let row = format!(
            "| `{}` | {} | {} |",
            field.path,
            field.kind.replace('|', "\\|"),
            field.default
        );
        assert!(DOCS.contains(&row), "docs/policy.md lacks the row\n{row}");
    }
}

#[test]
fn every_field_is_found_by_its_path_and_by_the_end_of_it() {
    for field in FIELDS {
        assert!(find(field.path).contains(&field), "{}", field.path);
        assert!(find(field.key()).contains(&field), "{}", field.path);
    }
    assert_eq!(find("pids.max")[0].path, "rules[].pids.max");
    assert_eq!(find("reserve")[0].path, "host.reserve");
    assert_eq!(find("freeze")[0].path, "rules[].escalate[].do");
    assert!(find("nonsense").is_empty());
}

#[test]
fn every_example_of_the_table_is_what_the_parser_takes() {
    for field in FIELDS {
        let mut text = field.example.to_owned();
        if field.path == "subjects.NAME" {
            text = format!("subjects: {{{text}}}");
        } else {
            for part in field.parent().rsplit('.').filter(|part| !part.is_empty()) {
                let key = part
                    .trim_end_matches("[]")
                    .replace("ACTION", action(field.key()));
                text = if !part.ends_with("[]") {
                    format!("{key}: {{{text}}}")
                } else {
                    format!("{key}: [{{{text}}}]")
                };
            }
        }
        // Other fields may be missing, and names unknown; the example itself must not be wrong.
        let said = from_bytes("x", format!("{{{text}}}").as_bytes())
            .map_or_else(|said| said.to_string(), |_| String::new());
        for line in said.lines().filter(|line| line.starts_with("x:")) {
            let fits = [
                " has no ",
                "no subject",
                "limits nothing",
                "can never apply",
                "this rule denies nothing",
            ];
            assert!(
                fits.iter().any(|fit| line.contains(fit)),
                "{}: {line}",
                field.path
            );
        }
    }
}

#[test]
fn every_problem_of_a_file_is_told_and_not_the_first_alone() {
    let said = problems(
        "mode: enfroce
rules:
  - {name: a, subjects: [containers], forks: {rate: 500}, pids: {max: 0}}
  - {name: b, subjects: [contaniers], pids: {max: 5}, deny: [x]}
",
    );
    assert_eq!(
        said,
        [
            "3:7: `mode` cannot be `enfroce`",
            "5:53: `rate` is 500, a number without a unit",
            "5:71: `max` cannot be 0: at least 1, at most 4194304",
            "6:26: there is no subject `contaniers`",
            "6:62: there is no action `x` that this version of Bulkhead can refuse",
        ]
    );
}

#[test]
fn a_problem_shows_the_line_and_points_into_it() {
    let said = from_bytes(
        "p.yaml",
        b"version: 1\nsubjects:\n  c: {cgroups: [\"/\"]}\n",
    )
    .unwrap_err()
    .to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0],
        "p.yaml:3:17: `/` is the root of the hierarchy: the whole host would be one container"
    );
    assert_eq!(lines[1], "3 |   c: {cgroups: [\"/\"]}");
    assert_eq!(lines[2], "  |                 ^^^");
    assert!(lines[3].starts_with("  expected: "), "{said}");
    assert!(lines[4].starts_with("  do: "), "{said}");
}

#[test]
fn a_near_key_is_suggested_and_a_control_character_never_reaches_the_terminal() {
    let said = from_bytes("x", b"version: 1\nsubjcets: {}\n")
        .unwrap_err()
        .to_string();
    assert!(said.contains("did you mean `subjects`?"), "{said}");
    let said = from_bytes("x", "version: 1\nrules: \"\\e[31m\u{85}\"\n".as_bytes())
        .unwrap_err()
        .to_string();
    assert!(
        !said
            .chars()
            .any(|letter| letter.is_control() && letter != '\n'),
        "{said:?}"
    );
}

/// What is to be done about each problem of a policy.
fn advice(text: &str) -> Vec<String> {
    let said = from_bytes("x", text.as_bytes()).unwrap_err().to_string();
    let lines = said.lines().filter_map(|line| line.strip_prefix("  do: "));
    lines.map(str::to_owned).collect()
}

/// The same of a rule's `deny`.
fn advice_to_deny(deny: &str) -> Vec<String> {
    advice(&format!(
        "version: 1\nsubjects: {{s: {{cgroups: [/x/*]}}}}\nrules: [{{name: r, subjects: [s], deny: [{deny}]}}]"
    ))
}

#[test]
fn a_word_near_one_that_may_be_written_is_proposed_and_a_far_one_is_not() {
    let of = |rest: &str| {
        advice(&format!(
            "version: 1\nsubjects: {{s: {{cgroups: [/x/*]}}}}\n{rest}"
        ))
    };
    let rule = "name: r, subjects: [s], pids: {max: 5}";
    assert_eq!(of("mode: enforced"), ["did you mean `mode: enforce`?"]);
    assert_eq!(
        of(&format!("rules: [{{{rule}, mode: audited}}]")),
        ["did you mean `mode: audit`?"]
    );
    assert_eq!(of("mode: strict"), ["write it like `mode: enforce`"]);
    assert_eq!(of("enforce: true"), ["did you mean `mode: enforce`?"]);
    assert_eq!(of("enfroce: true"), ["did you mean `mode: enforce`?"]);
    assert_eq!(of("ruls: []"), ["did you mean `rules`?"]);
    assert_eq!(
        of("strict: true"),
        ["take it out: what is not known would not be enforced"]
    );
}

#[test]
fn what_an_action_is_done_to_is_shown_by_an_example_of_its_own() {
    assert_eq!(
        advice_to_deny("{netlink: {kinds: [a]}}"),
        [
            "add `families: [nf_tables, xfrm]`",
            "write it like `netlink: {families: [nf_tables, xfrm]}`",
        ]
    );
    assert_eq!(
        advice_to_deny("{socket: {kinds: [a], families: [alg]}}"),
        ["write it like `socket: {families: [vsock, alg]}`"]
    );
    assert_eq!(
        advice_to_deny("{net_link.create: {families: [alg]}}"),
        [
            "add `kinds: [vxcan, netkit]`",
            "write it like `net_link.create: {kinds: [vxcan, netkit]}`",
        ]
    );
    assert_eq!(
        advice_to_deny("{traffic_control: {families: [route]}}"),
        [
            "add `kinds: [hfsc, route, pedit]`",
            "write it like `traffic_control: {kinds: [hfsc, route, pedit]}`",
        ]
    );
}

#[test]
fn names_of_the_kernels_headers_and_of_people_are_known_for_what_they_mean() {
    for (deny, meant) in [
        ("{socket: {families: [AF_ALG]}}", "alg"),
        ("{socket: {families: [PF_VSOCK]}}", "vsock"),
        ("{socket: {families: [ipv4]}}", "inet"),
        ("{socket: {families: [IPv6]}}", "inet6"),
        ("{socket: {types: [SOCK_RAW]}}", "raw"),
        ("{socket: {protocols: [IPPROTO_SCTP]}}", "sctp"),
        ("{netlink: {families: [NETLINK_XFRM]}}", "xfrm"),
        ("{netlink: {families: [nftables]}}", "nf_tables"),
    ] {
        assert_eq!(
            advice_to_deny(deny),
            [format!("did you mean `{meant}`?")],
            "{deny}"
        );
    }
    assert_eq!(
        advice_to_deny("{socket: {families: [AF_WHATEVER]}}"),
        ["write its number where it has no name here"]
    );
}

#[test]
fn a_pattern_without_quotes_that_yaml_takes_for_its_own_is_told_to_be_quoted() {
    let of = |cgroups: &str| {
        advice(&format!(
            "version: 1\nsubjects:\n  s:\n    cgroups: {cgroups}\n"
        ))
    };
    for cgroups in [
        "[*docker]",
        "[**/x]",
        "\n      - **/libpod-*.scope",
        "\n      - *.scope",
        "\n      - [a]*.x",
        "[/docker/{a}]",
        "[\"/x/*\", *y]",
    ] {
        let said = of(cgroups);
        assert!(
            said[0].contains("patterns are quoted"),
            "{cgroups}: {said:?}"
        );
    }
    // What is quoted is not it.
    for cgroups in ["[\"/x/*\"", "[\"/x/*\", '*y'}", "[a]]  # *"] {
        let said = of(cgroups);
        assert!(
            said[0].starts_with("correct the line"),
            "{cgroups}: {said:?}"
        );
        assert!(!said[0].contains("quoted"), "{cgroups}: {said:?}");
    }
}

#[test]
fn a_part_of_the_names_of_shipped_patterns_proposes_these() {
    let of = |name: &str| {
        let text = format!(
            "version: 1\nsubjects: {{s: {{cgroups: [/x/*]}}}}\nkernel_log: {{ignore: [{name}]}}"
        );
        advice(&text).remove(0)
    };
    assert!(of("oom").starts_with("did you mean one of `oom-kill`, `oom-kill-container`"));
    assert_eq!(of("rcu"), "did you mean `rcu-stall`?");
    assert_eq!(of("hang-task"), "did you mean `hung-task`?");
    assert!(of("om").starts_with("see the table"));
}

#[test]
fn a_subject_that_rules_only_leave_out_is_no_surprise_and_one_that_none_names_is() {
    let notes = |rules: &str| {
        let text = format!(
            "version: 1\nsubjects: {{a: {{cgroups: [/x/*]}}, b: {{cgroups: [/x/y*]}}}}\nrules: [{rules}]"
        );
        let policy = from_bytes("x", text.as_bytes()).unwrap();
        crate::policy::describe::notes(
            &policy,
            &crate::policy::compile::compile(&policy, None).unwrap(),
        )
    };
    assert_eq!(
        notes("{name: r, subjects: [a], except: [b], pids: {max: 5}}"),
        Vec::<String>::new()
    );
    assert_eq!(
        notes("{name: r, subjects: [a], pids: {max: 5}}"),
        ["no rule is about subject `b`: only the host's reserve holds for it"]
    );
}

#[test]
fn a_denial_covers_what_is_no_more_than_it_denies() {
    let denials = |rule: &str| {
        let text = format!(
            "version: 1\nsubjects: {{s: {{cgroups: [/x/*]}}}}\nrules: [{{name: r, subjects: [s], {rule}}}]"
        );
        from_bytes("x", text.as_bytes()).unwrap().rules[0]
            .deny
            .clone()
    };
    let links = |rule: &str, kinds: &[&str], nested: bool| {
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        denials(rule)[0].covers(Action::NetLinkCreate, &kinds, nested)
    };
    let all = "deny: [net_link.create]";
    let some = "deny: [{net_link.create: {kinds: [veth, vxcan]}}]";
    let nested = "deny: [net_link.create], when: {netns: nested}";
    assert!(links(all, &[], false) && links(all, &["veth"], true));
    assert!(links(some, &["veth"], false) && links(some, &["vxcan", "veth"], false));
    assert!(!links(some, &["veth", "netkit"], false) && !links(some, &[], false));
    assert!(links(nested, &["veth"], true) && !links(nested, &["veth"], false));
    assert!(!denials("deny: [bridge.create]")[0].covers(Action::NetLinkCreate, &[], false));
    let sockets =
        |rule: &str| denials(rule)[0].covers(Action::Socket, &["vsock".to_owned()], false);
    assert!(sockets("deny: [socket]") && sockets("deny: [{socket: {families: [alg, vsock]}}]"));
    // Of some types alone it leaves the others.
    assert!(!sockets(
        "deny: [{socket: {families: [vsock], types: [stream]}}]"
    ));
}
