//! The policies of this repository: the default, the examples, and one mistake a file.

use std::{fs, path::PathBuf};

use crate::policy::{compile::compile, describe, load};

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../policies")
        .join(name);
    let mut files: Vec<PathBuf> = (fs::read_dir(&folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

#[test]
fn each_invalid_policy_is_refused_where_its_first_line_says() {
    let mut wrong = Vec::new();
    let files = folder("invalid");
    assert!(files.len() >= 25);
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let expected = first
            .strip_prefix("# expect: ")
            .unwrap_or("(no `# expect: `)");
        let said = load::load(std::slice::from_ref(&file))
            .map_or_else(|problems| problems.to_string(), |_| "valid".to_owned());
        let name = file.display().to_string();
        if !said.starts_with(&format!("{name}:{expected}")) {
            wrong.push(format!("{name}: expected {expected}\n{said}"));
        }
        // Every problem says where, what was expected and what to do.
        if said.matches("\n  expected: ").count() != said.matches("\n  do: ").count() {
            wrong.push(said);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_example_is_valid_and_means_what_it_says() {
    for file in folder("examples") {
        let policy =
            load::load(std::slice::from_ref(&file)).unwrap_or_else(|problems| panic!("{problems}"));
        let compiled = compile(&policy, None).unwrap();
        assert_eq!(
            describe::notes(&policy, &compiled),
            Vec::<String>::new(),
            "{}",
            file.display()
        );
    }
}

#[test]
fn several_files_make_one_policy_and_a_name_twice_names_both_places() {
    let folder = std::env::temp_dir().join(format!("bulkhead-policy-{}", std::process::id()));
    fs::create_dir_all(folder.join("policy.d")).unwrap();
    assert_eq!(
        load::sources_in(&folder.join("none")).unwrap(),
        Vec::<PathBuf>::new()
    );
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write(
        "policy.yaml",
        "version: 1\nmode: enforce\nsubjects: {containers: {cgroups: [\"/docker/*\"]}}\n",
    );
    write(
        "policy.d/20-more.yaml",
        "version: 1\nrules: [{name: cap, subjects: [containers], pids: {max: 5}}]\n",
    );
    write(
        "policy.d/10-rate.yaml",
        "version: 1\nrules: [{name: rate, subjects: [containers], forks: {rate: 5/s}}]\n",
    );
    write("policy.d/notes.txt", "not YAML: [");
    let files = load::sources_in(&folder).unwrap();
    let policy = load::load(&files).unwrap();
    let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["rate", "cap"]);
    assert_eq!(policy.files.len(), 3);

    write(
        "policy.d/30-again.yaml",
        "version: 1\nmode: audit\nrules: [{name: cap, subjects: [containers], pids: {max: 6}}]\nsubjects: {containers: {cgroups: [\"/lxc/*\"]}}\n",
    );
    let problems = load::load(&load::sources_in(&folder).unwrap())
        .unwrap_err()
        .to_string();
    for both in [
        (
            "30-again.yaml:2:1: `mode` stands here again",
            "policy.yaml:2:1",
        ),
        (
            "30-again.yaml:3:16: rule `cap` stands here again",
            "20-more.yaml:2:16",
        ),
        (
            "30-again.yaml:4:12: subject `containers` stands here again",
            "policy.yaml:3:12",
        ),
    ] {
        let line = problems
            .lines()
            .find(|line| line.contains(both.0))
            .unwrap_or_else(|| panic!("{problems}"));
        assert!(line.contains(both.1), "{line}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_file_that_is_too_large_or_no_text_or_not_there_is_refused() {
    let large = vec![b'#'; (1 << 20) + 1];
    assert!(
        load::from_bytes("x", &large)
            .unwrap_err()
            .to_string()
            .starts_with("x:1:1: the file has more than 1 MiB")
    );
    assert!(
        load::from_bytes("x", b"version: 1\n# \xff")
            .unwrap_err()
            .to_string()
            .starts_with("x:2:3: the file is not UTF-8")
    );
    let none = PathBuf::from("/nonexistent/policy.yaml");
    assert!(
        load::load(&[none])
            .unwrap_err()
            .to_string()
            .starts_with("/nonexistent/policy.yaml:1:1: cannot read")
    );
}

#[test]
fn what_is_valid_and_hardly_meant_has_a_note() {
    let notes = |more: &str| {
        let text = format!(
            "version: 1\nsubjects: {{all: {{cgroups: [\"/docker/*\", {more}]}}}}\nrules: [{{name: cap, subjects: [all], pids: {{max: 5}}}}]\nhost: {{reserve: {{pids: 10}}}}\n"
        );
        let policy = load::from_bytes("x", text.as_bytes()).unwrap();
        let reserve = describe::rules(&policy, None).pop().unwrap();
        assert!(
            reserve.says.ends_with("the last 10 pids of the host"),
            "{}",
            reserve.says
        );
        describe::notes(&policy, &compile(&policy, None).unwrap())
    };
    assert_eq!(
        notes("\"/lxc/*\""),
        ["a reserve of 10 pids is too small to log in and to act with: did you mean `10%`?"]
    );
    for pattern in ["/lxc/[ab]*", "/lxc/a?", "/{lxc,lxd}/*"] {
        let notes = notes(&format!("\"{pattern}\""));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[1].starts_with(&format!("pattern `{pattern}`: ")));
    }
}

#[test]
fn a_tab_is_seen_and_a_list_that_is_too_long_says_what_to_do() {
    let said = |text: &str| {
        load::from_bytes("x", text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    let tab = said("version: 1\nsubjects:\n\tall: {}\n");
    assert!(tab.contains("3 | →all: {}\n"), "{tab}");
    assert!(tab.contains("replace the tab by blanks"), "{tab}");
    let below = said("version: 1\n\tmode: audit\n");
    assert!(below.starts_with("x:2:1: "), "{below}");
    let list: Vec<String> = (0..513).map(|n| format!("/docker/{n}")).collect();
    let long = said(&format!(
        "version: 1\nsubjects: {{all: {{cgroups: [{}]}}}}\n",
        list.join(", ")
    ));
    assert!(
        long.contains("513 patterns in one list; at most 512"),
        "{long}"
    );
    assert!(long.contains("into another subject"), "{long}");
}

#[test]
fn a_pipe_is_not_waited_for_unless_it_was_named() {
    let folder = std::env::temp_dir().join(format!("bulkhead-pipe-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let pipe = folder.join("policy.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let said = |file: &PathBuf| {
        load::load(std::slice::from_ref(file))
            .unwrap_err()
            .to_string()
    };
    assert!(said(&pipe).contains("this is not a regular file"));
    assert!(said(&folder).contains("this is a directory"));

    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, load::EMBEDDED)
    });
    assert!(load::load_also_pipes(std::slice::from_ref(&pipe)).is_ok());
    writer.join().unwrap().unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn each_whole_policy_of_the_docs_is_valid() {
    let docs = include_str!("../../../../docs/policy.md");
    let blocks: Vec<&str> = (docs.split("```yaml\n").skip(1))
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .filter(|block| block.starts_with("version:"))
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        load::from_bytes("docs", block.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    }
}
