//! Patterns over the kernel log: what several files and the shipped ones come to together.

use super::{policy, problems};
use crate::policy::pattern::{Chosen, shipped};

const OWN: &str =
    "{name: link-down, match: '^ixgbe .* Down', severity: high, means: Gone., do: Look.}";

#[test]
fn what_is_watched_for_is_the_shipped_but_the_ignored_then_the_own() {
    let all = shipped().unwrap().len();
    let names = |more: &str| -> Vec<String> {
        (Chosen::of(&policy(more)).in_force().into_iter())
            .map(|pattern| pattern.name)
            .collect()
    };
    assert_eq!(names("").len(), all);
    let some = names(&format!(
        "kernel_log: {{ignore: [segfault, trap], patterns: [{OWN}]}}"
    ));
    assert_eq!(some.len(), all - 1);
    assert_eq!(some.last().unwrap(), "link-down");
    assert!(!some.contains(&"segfault".to_owned()) && some.contains(&"oops".to_owned()));
}

#[test]
fn an_ignored_pattern_may_be_replaced_by_one_of_the_same_name() {
    let own = OWN.replace("link-down", "segfault");
    let policy = policy(&format!(
        "kernel_log: {{ignore: [segfault], patterns: [{own}]}}"
    ));
    let replaced = Chosen::of(&policy).in_force();
    let named: Vec<bool> = (replaced.iter())
        .filter(|pattern| pattern.name == "segfault")
        .map(|pattern| pattern.shipped)
        .collect();
    assert_eq!(named, [false]);
}

#[test]
fn patterns_that_one_pass_cannot_look_for_are_refused_together() {
    let wide: Vec<String> = (0..200)
        .map(|number| {
            OWN.replace("link-down", &format!("w{number}"))
                .replace("ixgbe .*", &format!("{number}.{{0,900}}"))
        })
        .collect();
    let one = format!("kernel_log: {{patterns: [{}]}}", wide[0]);
    assert_eq!(policy(&one).patterns.len(), 1);
    let all = format!("kernel_log:\n  patterns:\n    - {}", wide.join("\n    - "));
    assert_eq!(
        problems(&all),
        ["204:14: the patterns of `kernel_log` are too many or too long together"]
    );
}
