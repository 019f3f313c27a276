//! Who gave a device the discards that reached it all the same.

use std::fmt;

use guard_common::thin::Origin;
use serde::Serialize;

use crate::record::Text;

/// One of them, by name: the kernel has no other that outlives a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct From {
    /// The task's name.
    pub name: Text,
    /// It is a kernel thread: a file system's journal, or a worker that carries out what others have begun.
    pub kernel: bool,
    /// How many.
    pub count: u64,
}

/// Those of a device, who gave most of them first.
#[must_use]
pub fn of(origins: &[(Origin, u64)], device: u32) -> Vec<From> {
    let mut all: Vec<From> = (origins.iter())
        .filter(|(origin, _)| origin.device == device)
        .map(|(origin, count)| From {
            name: Text::from_buffer(&origin.name),
            kernel: origin.kernel != 0,
            count: *count,
        })
        .collect();
    all.sort_by(|one, other| {
        let by_count = other.count.cmp(&one.count);
        by_count.then_with(|| one.name.as_str().cmp(other.name.as_str()))
    });
    all
}

/// Those that are said, of many: `12 by jbd2/dm-3-8 (kernel), 3 by mkfs.ext4`.
const SAID: usize = 5;

/// They in words; `None`: nobody is known.
#[must_use]
pub fn words(all: &[From]) -> Option<String> {
    let (said, rest) = all.split_at(all.len().min(SAID));
    let mut words: Vec<String> = said.iter().map(ToString::to_string).collect();
    if !rest.is_empty() {
        let count: u64 = rest.iter().map(|one| one.count).sum();
        words.push(format!("{count} by {} others", rest.len()));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = if self.kernel { " (kernel)" } else { "" };
        write!(f, "{} by {}{kernel}", self.count, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(device: u32, kernel: u32, name: &str) -> Origin {
        let mut buffer = [0; 16];
        buffer[..name.len()].copy_from_slice(name.as_bytes());
        Origin {
            device,
            kernel,
            name: buffer,
        }
    }

    #[test]
    fn who_gave_most_is_named_first_and_of_many_some() {
        let all = [
            (origin(7, 0, "mkfs.ext4"), 3),
            (origin(8, 0, "fstrim"), 99),
            (origin(7, 1, "jbd2/dm-3-8"), 12),
        ];
        let words_of = |device| words(&of(&all, device));
        assert_eq!(
            words_of(7).as_deref(),
            Some("12 by jbd2/dm-3-8 (kernel), 3 by mkfs.ext4")
        );
        assert_eq!(words_of(9), None);
        let many: Vec<(Origin, u64)> = (1..=7)
            .map(|count| (origin(7, 0, &format!("p{count}")), count))
            .collect();
        let words = words(&of(&many, 7)).unwrap_or_default();
        assert_eq!(
            words,
            "7 by p7, 6 by p6, 5 by p5, 4 by p4, 3 by p3, 3 by 2 others"
        );
    }
}
