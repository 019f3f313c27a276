//! No input whatever makes the reader panic, and the automaton answers as the patterns read.

use proptest::prelude::*;

use crate::{
    identity::names::{Names, Role},
    policy::{
        compile::compile,
        glob,
        load::{EMBEDDED, from_bytes},
    },
};

const STRICT: &str = include_str!("../../../../policies/examples/kubernetes-strict.yaml");

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = from_bytes("x", &bytes).map_err(|problems| problems.to_string());
    }

    #[test]
    fn no_yaml_like_text_makes_the_reader_panic(text in "([a-z]{0,6}[:\\-\\[\\]{}&*!|>'\"#%,? \n\t]{0,3}){0,60}") {
        let _ = from_bytes("x", text.as_bytes()).map_err(|problems| problems.to_string());
    }

    #[test]
    fn no_mutation_of_a_valid_file_makes_the_reader_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\x00-\\x7fé→]{0,5}"), 1..6),
    ) {
        let mut text: Vec<char> = STRICT.chars().collect();
        for (at, gone, new) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + gone).min(text.len());
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        match from_bytes("x", text.as_bytes()) {
            // What is taken compiles, or says why not.
            Ok(policy) => drop(compile(&policy, None)),
            Err(problems) => {
                prop_assert!(!problems.0.is_empty());
                for problem in &problems.0 {
                    let said = problem.to_string();
                    let place = format!("x:{}:{}: ", problem.line, problem.column);
                    prop_assert!(said.starts_with(&place) && !problem.expected.is_empty() && !problem.advice.is_empty());
                    prop_assert!(problem.line >= 1 && problem.line <= text.split(['\n', '\r']).count() + 1, "{said}");
                }
            }
        }
    }

    #[test]
    fn the_automaton_answers_as_the_patterns_read(
        patterns in proptest::collection::vec("(/(\\*\\*|[ab*.]{1,5})){1,4}", 1..8),
        except in proptest::collection::vec("(/(\\*\\*|[ab*.]{1,5})){1,3}", 0..3),
        paths in proptest::collection::vec("(/[ab.c]{1,6}){1,5}", 40),
    ) {
        let plain = |patterns: Vec<String>| patterns.iter().filter_map(|pattern| glob::plain(pattern).ok()).collect::<Vec<_>>();
        let (patterns, except) = (plain(patterns), plain(except));
        let mut all: Vec<(String, Role)> = patterns.iter().map(|pattern| (pattern.clone(), Role::Subject(0))).collect();
        all.extend(except.iter().map(|pattern| (pattern.clone(), Role::Except(0))));
        let names = Names::compile(&all, &mut |_| Ok(1)).unwrap();
        for path in paths {
            let any = |patterns: &[String]| patterns.iter().any(|pattern| glob::matches(pattern, &path));
            let expected = any(&patterns) && !any(&except);
            prop_assert_eq!(names.label(path.as_bytes()) == 1, expected, "{} {:?} {:?}", path, patterns, except);
            let below = format!("/user@1.service{path}");
            let expected = patterns.iter().any(|pattern| glob::matches(pattern, &below));
            prop_assert_eq!(names.label(below.as_bytes()) == 0x8001, expected, "{} {:?}", below, patterns);
        }
    }
}

#[test]
fn aliases_that_multiply_are_refused_before_they_fill_the_memory() {
    let mut text = String::from("version: 1\na: &a [x, x, x, x, x, x, x, x, x]\n");
    for (one, other) in ('a'..'j').zip('b'..'k') {
        text.push_str(&format!(
            "{other}: &{other} [{}]\n",
            vec![format!("*{one}"); 9].join(", ")
        ));
    }
    assert!(from_bytes("x", text.as_bytes()).is_err());
    let nested = format!("version: 1\nrules: {}", "[".repeat(100_000));
    assert!(from_bytes("x", nested.as_bytes()).is_err());
    let indented: String = (0..1000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(from_bytes("x", indented.as_bytes()).is_err());
}

#[test]
fn patterns_that_do_not_fit_are_refused_and_not_worked_on_for_ever() {
    let list = |count: usize, pattern: &dyn Fn(usize) -> String| {
        let patterns: Vec<String> = (0..count).map(pattern).collect();
        let text = format!("version: 1\nsubjects: {{all: {{cgroups: {patterns:?}}}}}\n");
        compile(&from_bytes("x", text.as_bytes()).unwrap(), None)
    };
    let wide = list(60, &|number| format!("/**/*{number}*a{}", number % 20));
    let error = std::error::Error::source(&wide.err().unwrap())
        .unwrap()
        .to_string();
    assert!(error.contains("transitions"), "{error}");
    let long = list(500, &|number| format!("/{}", number.to_string().repeat(80)));
    let error = std::error::Error::source(&long.err().unwrap())
        .unwrap()
        .to_string();
    assert!(error.contains("60000 characters"), "{error}");
}

#[test]
fn the_default_policy_is_valid_however_its_lines_end() {
    assert!(from_bytes("x", EMBEDDED.replace('\n', "\r\n").as_bytes()).is_ok());
    assert!(from_bytes("x", format!("\u{feff}{EMBEDDED}").as_bytes()).is_ok());
}
