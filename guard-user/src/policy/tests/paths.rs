//! The default policy against paths that runtimes really make.

use guard_common::identity::{LABEL_USER_MADE, NameMatcher, TRANSITIONS};

use crate::{
    identity::{names::Names, runtime},
    policy::{
        compile::{Compiled, compile},
        load,
    },
};

const PATHS: &str = include_str!("../../../tests/data/cgroup-paths.tsv");

fn default() -> Compiled {
    compile(&load::embedded().unwrap(), None).unwrap()
}

struct Row {
    path: &'static str,
    container: Option<&'static str>,
    runtime: &'static str,
    id: &'static str,
}

fn rows() -> Vec<Row> {
    (PATHS.lines())
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            Row {
                path: columns[0],
                container: (columns[1] == "yes").then_some(columns[2]),
                runtime: columns[3],
                id: columns[4],
            }
        })
        .collect()
}

fn container(names: &Names, path: &'static str) -> Option<&'static str> {
    let (path, _) = names.container(path.as_bytes())?;
    std::str::from_utf8(path).ok()
}

#[test]
fn every_path_is_the_container_that_its_runtime_meant() {
    let names = default().names;
    let rows = rows();
    assert_eq!(rows.len(), 145);
    let wrong: Vec<String> = (rows.iter())
        .map(|row| (row, container(&names, row.path)))
        .filter(|(row, found)| *found != row.container)
        .map(|(row, found)| format!("{}\n  is {found:?}, expected {:?}", row.path, row.container))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn runtime_and_id_are_read_from_a_containers_path() {
    let rows = rows();
    let wrong: Vec<String> = (rows.iter())
        .filter_map(|row| Some((row, runtime::parse(row.container?))))
        .filter(|(row, found)| *found != (row.runtime, row.id))
        .map(|(row, found)| {
            format!(
                "{}\n  is {found:?}, expected {:?}",
                row.path,
                (row.runtime, row.id)
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_user_could_have_made_is_marked() {
    let names = default().names;
    for row in rows() {
        if let Some((_, label)) = names.container(row.path.as_bytes()) {
            let below = row.path.contains("/user@1000.service/")
                || row.path.contains("/user@1001.service/");
            assert_eq!(label & LABEL_USER_MADE != 0, below, "{}", row.path);
        }
    }
}

#[test]
fn the_default_patterns_leave_half_of_the_kernels_table_to_the_site() {
    let names = default().names;
    let used = used(names.table());
    assert!(used < TRANSITIONS / 2, "{used} of {TRANSITIONS}");
}

/// Transitions up to the last that leads anywhere.
fn used(table: &NameMatcher) -> usize {
    table
        .transitions
        .iter()
        .rposition(|next| *next != 0)
        .unwrap_or(0)
}
