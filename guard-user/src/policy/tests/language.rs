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
