//! What the kernel side told of lines whose records are not read yet.

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry};

use guard_common::kernel_log::{PRINTED_TEXT, Printed};

use super::{COARSELY_NS, Printer};

/// So many are remembered at most.
const REMEMBERED: usize = 16_384;
/// What was told that makes up a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Number of the first piece.
    pub first: u64,
    /// How many there are, all of one task.
    pub pieces: usize,
}

/// What was told and not yet asked for, in that order, and found by the words it begins with: in a flood thousands wait.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// `None`: was asked for.
    pieces: VecDeque<Option<Printed>>,
    /// Number of the first.
    first: u64,
    /// By length and what is known of the text.
    by_text: HashMap<(u32, u64), Alike>,
    /// How many there are of each length.
    lengths: BTreeMap<u32, usize>,
}

/// Pieces with the same words.
#[derive(Debug)]
struct Alike {
    /// Their numbers.
    numbers: VecDeque<u64>,
    /// Whose all of them are; `None`: several have printed them.
    owner: Option<Printer>,
}

/// So many may be told at once, and out of the order of time.
const AT_ONCE: usize = 256;
/// Of so many that are alike and one's, not each is looked at.
const MANY: usize = 8;

impl Told {
    pub fn push(&mut self, printed: Printed) {
        if self.pieces.len() == REMEMBERED {
            self.forget_first();
        }
        let number = self.first + self.pieces.len() as u64;
        let owner = Some(Printer::of(&printed));
        let alike = self.by_text.entry(key(&printed)).or_insert(Alike {
            numbers: VecDeque::new(),
            owner,
        });
        alike.numbers.push_back(number);
        alike.owner = alike.owner.filter(|first| owner == Some(*first));
        *self.lengths.entry(printed.length).or_default() += 1;
        self.pieces.push_back(Some(printed));
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn get(&self, number: u64) -> Option<&Printed> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.pieces.get(index)?.as_ref()
    }

    /// Forgets those at the beginning of which this is so.
    pub fn forget_while(&mut self, is_so: impl Fn(&Printed) -> bool) {
        while let Some(first) = self.pieces.front() {
            if first.as_ref().is_some_and(|printed| !is_so(printed)) {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        self.remove(self.first);
        self.pieces.pop_front();
        self.first += 1;
    }

    /// Forgets those before the time at which this begins to be so. They are told in the order of time, but for those that
    /// several processors told at once.
    pub fn forget_until(&mut self, is_so: impl Fn(&Printed) -> bool) {
        self.forget_while(|printed| !is_so(printed));
        let older: Vec<u64> = (self.pieces.iter().zip(self.first..))
            .take(AT_ONCE)
            .filter(|(piece, _)| piece.as_ref().is_some_and(|printed| !is_so(printed)))
            .map(|(_, number)| number)
            .collect();
        for number in older {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(index) = number.checked_sub(self.first) else {
            return;
        };
        let Some(printed) = self.pieces.get_mut(index as usize).and_then(Option::take) else {
            return;
        };
        if let Entry::Occupied(mut entry) = self.by_text.entry(key(&printed)) {
            let numbers = &mut entry.get_mut().numbers;
            if let Ok(at) = numbers.binary_search(&number) {
                numbers.remove(at);
            }
            if numbers.is_empty() {
                entry.remove();
            }
        }
        if let Some(count) = self.lengths.get_mut(&printed.length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&printed.length);
            }
        }
    }

    /// Numbers of those with which a text of about this time may begin, in order.
    pub fn that_begin(&self, text: &[u8], expected: i64) -> Vec<u64> {
        // A piece of no length makes up no text but the empty one.
        let shortest = u32::from(!text.is_empty());
        let mut hash = Prefix::default();
        let mut numbers: Vec<u64> = (self.lengths.range(shortest..=text.len() as u32))
            .filter_map(|(length, _)| {
                let hash = hash.grown(text, (*length as usize).min(PRINTED_TEXT));
                self.by_text.get(&(*length, hash))
            })
            .flat_map(|alike| self.of_the_time(alike, expected))
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// Of pieces that are alike those that are of the time at all. If all are one's it is only the first that may be taken,
    /// or the nearest.
    fn of_the_time(&self, alike: &Alike, expected: i64) -> Vec<u64> {
        let time = |number: &u64| {
            self.get(*number)
                .map_or(i64::MIN, |told| told.time_ns as i64)
        };
        let is_near = |number: &u64| time(number).abs_diff(expected) <= COARSELY_NS.unsigned_abs();
        if alike.numbers.len() <= MANY || alike.owner.is_none() {
            return alike.numbers.iter().copied().filter(is_near).collect();
        }
        let behind = |at: i64| alike.numbers.partition_point(|number| time(number) < at);
        let (first, nearest) = (behind(expected - COARSELY_NS), behind(expected));
        let mut few = vec![first, nearest.saturating_sub(1).max(first), nearest];
        few.dedup();
        (few.into_iter())
            .filter_map(|at| alike.numbers.get(at).copied())
            .filter(is_near)
            .collect()
    }

    /// How many pieces, from this one on, make up the text; `None`: they do not.
    pub fn pieces(&self, first: u64, text: &[u8]) -> Option<usize> {
        let mut rest = text;
        let mut pieces = 0;
        for (_, told) in self.of_one_task(first) {
            let length = told.length as usize;
            let piece = rest.get(..length)?;
            let known = length.min(PRINTED_TEXT);
            if piece[..known] != told.text[..known] {
                return None;
            }
            rest = &rest[length..];
            pieces += 1;
            if rest.is_empty() {
                return Some(pieces);
            }
            if length == 0 {
                return None;
            }
        }
        None
    }

    /// A piece and those that follow, as far as they are the same task's.
    fn of_one_task(&self, first: u64) -> impl Iterator<Item = (u64, &Printed)> {
        let pid = self.get(first).map(|printed| printed.pid);
        let from = first.saturating_sub(self.first);
        (self.pieces.iter().zip(self.first..))
            .skip(from as usize)
            .filter_map(|(piece, number)| Some((number, piece.as_ref()?)))
            .filter(move |(_, printed)| Some(printed.pid) == pid)
    }

    /// It was asked for.
    pub fn take(&mut self, fit: Fit) {
        let numbers: Vec<u64> = (self.of_one_task(fit.first).take(fit.pieces))
            .map(|(number, _)| number)
            .collect();
        for number in numbers {
            self.remove(number);
        }
        self.forget_while(|_| false);
    }
}

fn key(printed: &Printed) -> (u32, u64) {
    let known = (printed.length as usize).min(PRINTED_TEXT);
    let hash = Prefix::default().grown(&printed.text, known);
    (printed.length, hash)
}

/// The hash of a text's beginning (FNV-1a), which grows with it.
struct Prefix {
    length: usize,
    hash: u64,
}

impl Default for Prefix {
    fn default() -> Self {
        Self {
            length: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Prefix {
    /// Of the first `length` bytes, which are no fewer than those before.
    fn grown(&mut self, text: &[u8], length: usize) -> u64 {
        for byte in text.get(self.length..length).unwrap_or_default() {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.length = length;
        self.hash
    }
}
