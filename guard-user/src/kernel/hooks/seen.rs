//! Which kernels a hook was seen on, and on which rung: the table that `cargo xtask rungs` writes from what the tests saw.

use super::Hook;

const SEEN: &str = include_str!("seen.md");

/// Each kernel that the tests boot, and the rung of the hook there: `–` where the kernel asks elsewhere. `None`: it stands in no table,
/// since it needs no rung.
#[must_use]
pub fn seen(hook: &Hook) -> Option<Vec<(&'static str, &'static str)>> {
    let mut rows = SEEN.lines().map(cells);
    let kernels = rows.next()?;
    let named = |word: &str| format!("`{word}`");
    let of = [named(hook.hazard), named(hook.name)];
    let row = rows.find(|row| row.get(..2).is_some_and(|row| row == of))?;
    Some(kernels.into_iter().zip(row).skip(2).collect())
}

/// The cells of a row.
fn cells(row: &'static str) -> Vec<&'static str> {
    let inner = row.trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Place, all},
        *,
    };

    #[test]
    fn the_docs_have_the_same_table() {
        let docs = include_str!("../../../../docs/hazards.md");
        assert!(docs.contains(SEEN), "run `cargo xtask rungs`");
    }

    #[test]
    fn each_hook_of_the_security_modules_was_seen_on_some_kernel() {
        for hook in all().filter(|hook| matches!(hook.place, Place::Asked { .. })) {
            let seen = seen(hook).unwrap_or_else(|| panic!("{} {}", hook.hazard, hook.name));
            assert_eq!(seen.len(), 4, "{seen:?}");
            assert!(seen.iter().any(|(_, rung)| *rung != "–"), "{seen:?}");
        }
    }
}
