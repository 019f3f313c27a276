//! Who printed a line: what the kernel side told at the moment of printing is joined with the record that the log has of it.
//!
//! The kernel side tells the text, piece by piece, from 6.1 on. A name is given where one only fits, or the clock leaves but one:
//! never a guess.

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry};

use guard_common::kernel_log::{PRINTED_BY_KERNEL, PRINTED_TEXT, PRINTED_UNTOLD, Printed};

/// What nobody has asked for after so long never will be: its record was overwritten.
const FORGOTTEN_NS: i64 = 10_000_000_000;
/// So many are remembered at most.
const REMEMBERED: usize = 16_384;
/// The two clocks both began with the boot: while nothing better is known, they are no further apart than this. What was
/// printed before anybody told of it has words that may come again.
const COARSELY_NS: i64 = 5_000_000_000;
/// Of two that fit, one must be so much nearer in time. A text is formatted in less.
const APART_NS: i64 = 200_000;
/// A line of the log, as far as its name is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Line<'l> {
    /// Its time by the log's own clock, microseconds.
    pub time_us: u64,
    /// The whole text, without escapes.
    pub text: &'l [u8],
}

/// The task that printed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Thread id, in the host's pid namespace.
    pub pid: u32,
    /// Thread group id.
    pub tgid: u32,
    /// Its name, as it calls itself.
    pub comm: [u8; 16],
    /// Cgroup id.
    pub cgroup: u64,
    /// Cgroup id of its container; 0: the host's.
    pub container: u64,
}

/// Who printed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printer {
    /// A task, by a system call or a fault of its own.
    Task(Task),
    /// A kernel thread or an interrupt.
    Kernel,
    /// It cannot be told.
    Unknown,
}

impl Printer {
    fn of(told: &Printed) -> Self {
        if told.flags & PRINTED_BY_KERNEL != 0 {
            return Self::Kernel;
        }
        if told.flags & PRINTED_UNTOLD != 0 {
            return Self::Unknown;
        }
        Self::Task(Task {
            pid: told.pid,
            tgid: told.tgid,
            comm: told.comm,
            cgroup: told.cgroup,
            container: told.container,
        })
    }
}

/// What was told and not yet asked for, and how the two clocks stand to each other.
#[derive(Debug, Default)]
pub struct Naming {
    told: Told,
    /// Nanoseconds that `CLOCK_MONOTONIC` is ahead of the log's clock; `None`: not known yet.
    ahead_ns: Option<i64>,
}

impl Naming {
    /// The kernel side told of a line, before its record can be read.
    pub fn told(&mut self, printed: Printed) {
        self.told.push(printed);
    }

    /// Records were lost: what was told of them would be taken for what was told of others.
    pub fn lost(&mut self, next: Line<'_>) {
        let from = match self.at(next) {
            Some(at) => at - APART_NS,
            None => next.time_us as i64 * 1000 - COARSELY_NS,
        };
        self.told.forget_until(|told| told.time_ns as i64 >= from);
    }

    /// Who printed the line that was read next. Everything that was told by then must have been passed to [`Naming::told`].
    pub fn name(&mut self, line: Line<'_>) -> Printer {
        if let Some(at) = self.at(line) {
            self.told
                .forget_while(|told| at - told.time_ns as i64 > FORGOTTEN_NS);
        }
        self.by_text(line).unwrap_or(Printer::Unknown)
    }

    /// The time of a line on the kernel side's clock.
    fn at(&self, line: Line<'_>) -> Option<i64> {
        Some(line.time_us as i64 * 1000 + self.ahead_ns?)
    }

    fn by_text(&mut self, line: Line<'_>) -> Option<Printer> {
        let expected = (self.at(line)).unwrap_or(line.time_us as i64 * 1000);
        let fits: Vec<Fit> = (self.told.that_begin(line.text, expected).into_iter())
            .filter_map(|first| {
                let pieces = self.told.pieces(first, line.text)?;
                Some(Fit { first, pieces })
            })
            .collect();
        let fit = match fits.as_slice() {
            [] => return None,
            [only] => {
                self.learn(line, only.first);
                *only
            }
            several => self.nearest(line, several)?,
        };
        let printer = Printer::of(self.told.get(fit.first)?);
        self.told.take(fit);
        Some(printer)
    }

    /// The one of several that is nearest in time, if they are not all the same one's anyway.
    fn nearest(&self, line: Line<'_>, several: &[Fit]) -> Option<Fit> {
        let owner = |fit: &Fit| self.told.get(fit.first).map(Printer::of);
        let first = *several.first()?;
        if several.iter().all(|other| owner(other) == owner(&first)) {
            return Some(first);
        }
        let expected = self.at(line)?;
        let distance = |fit: &Fit| {
            (self.told.get(fit.first))
                .map_or(i64::MAX, |told| (told.time_ns as i64 - expected).abs())
        };
        let mut sorted = several.to_vec();
        sorted.sort_by_key(distance);
        let (best, rest) = sorted.split_first()?;
        let apart = rest
            .iter()
            .filter(|other| owner(other) != owner(best))
            .all(|other| distance(other) - distance(best) > APART_NS);
        apart.then_some(*best)
    }

    /// What fits says how the clocks stand.
    fn learn(&mut self, line: Line<'_>, number: u64) {
        if let Some(told) = self.told.get(number) {
            self.ahead_ns = Some(told.time_ns as i64 - line.time_us as i64 * 1000);
        }
    }
}

/// What was told that makes up a line.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// Number of the first piece.
    first: u64,
    /// How many there are, all of one task.
    pieces: usize,
}

/// What was told and not yet asked for, in that order, and found by the words it begins with: in a flood thousands wait.
#[derive(Debug, Default)]
struct Told {
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
    fn push(&mut self, printed: Printed) {
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

    fn get(&self, number: u64) -> Option<&Printed> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.pieces.get(index)?.as_ref()
    }

    /// Forgets those at the beginning of which this is so.
    fn forget_while(&mut self, is_so: impl Fn(&Printed) -> bool) {
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
    fn forget_until(&mut self, is_so: impl Fn(&Printed) -> bool) {
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
    fn that_begin(&self, text: &[u8], expected: i64) -> Vec<u64> {
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
    fn pieces(&self, first: u64, text: &[u8]) -> Option<usize> {
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
    fn take(&mut self, fit: Fit) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(time_us: i64, pid: u32, container: u64, text: &str) -> Printed {
        let mut bytes = [0; PRINTED_TEXT];
        let known = text.len().min(PRINTED_TEXT);
        bytes[..known].copy_from_slice(&text.as_bytes()[..known]);
        Printed {
            // The log's clock began a second later.
            time_ns: ((time_us + 1_000_000) * 1000) as u64,
            container,
            cgroup: container + 1,
            pid,
            tgid: pid,
            comm: [b'x'; 16],
            flags: 0,
            length: text.len() as u32,
            text: bytes,
        }
    }

    fn line(time_us: u64, text: &str) -> Line<'_> {
        Line {
            time_us,
            text: text.as_bytes(),
        }
    }

    fn pid(printer: Printer) -> u32 {
        match printer {
            Printer::Task(task) => task.pid,
            Printer::Kernel => 1,
            Printer::Unknown => 0,
        }
    }

    #[test]
    fn a_text_that_one_printed_is_that_ones_in_whatever_order_they_come() {
        let mut naming = Naming::default();
        naming.told(told(10, 7, 1, "a[7]: segfault"));
        naming.told(told(11, 8, 2, "b[8]: segfault"));
        assert_eq!(pid(naming.name(line(11, "b[8]: segfault"))), 8);
        assert_eq!(pid(naming.name(line(10, "a[7]: segfault"))), 7);
        assert_eq!(naming.name(line(10, "a[7]: segfault")), Printer::Unknown);
    }

    #[test]
    fn the_same_text_of_two_is_told_apart_by_time_or_not_at_all() {
        let mut naming = Naming::default();
        naming.told(told(0, 3, 3, "begin"));
        assert_eq!(pid(naming.name(line(0, "begin"))), 3);
        naming.told(told(1000, 7, 1, "same"));
        naming.told(told(2000, 8, 2, "same"));
        assert_eq!(pid(naming.name(line(1990, "same"))), 8);
        assert_eq!(pid(naming.name(line(999, "same"))), 7);
        naming.told(told(5000, 7, 1, "same"));
        naming.told(told(5010, 8, 2, "same"));
        assert_eq!(naming.name(line(5000, "same")), Printer::Unknown);
        assert_eq!(naming.name(line(5010, "same")), Printer::Unknown);
    }

    #[test]
    fn the_same_text_of_one_and_the_same_is_its_own() {
        let mut naming = Naming::default();
        naming.told(told(1, 7, 1, "same"));
        naming.told(told(1, 7, 1, "same"));
        assert_eq!(pid(naming.name(line(1, "same"))), 7);
        assert_eq!(pid(naming.name(line(1, "same"))), 7);
        assert_eq!(naming.name(line(1, "same")), Printer::Unknown);
    }

    #[test]
    fn a_line_of_several_pieces_is_whose_the_pieces_are() {
        let mut naming = Naming::default();
        naming.told(told(1, 7, 1, "one, "));
        naming.told(told(1, 8, 2, "other"));
        naming.told(told(2, 7, 1, "two"));
        assert_eq!(pid(naming.name(line(1, "one, two"))), 7);
        assert_eq!(pid(naming.name(line(1, "other"))), 8);
        assert!(naming.told.pieces.is_empty());
    }

    #[test]
    fn long_texts_are_told_apart_by_their_length() {
        let long = "x".repeat(PRINTED_TEXT + 10);
        let longer = format!("{long}x");
        let mut naming = Naming::default();
        naming.told(told(1, 7, 1, &long));
        naming.told(told(1, 8, 2, &longer));
        assert_eq!(pid(naming.name(line(1, &longer))), 8);
        assert_eq!(pid(naming.name(line(1, &long))), 7);
    }

    #[test]
    fn an_interrupt_is_the_kernels_and_what_could_not_be_read_is_nobodys() {
        let mut naming = Naming::default();
        for flags in [PRINTED_BY_KERNEL, PRINTED_UNTOLD] {
            let mut printed = told(1, 7, 1, "text");
            printed.flags = flags;
            naming.told(printed);
            let expected = if flags == PRINTED_BY_KERNEL {
                Printer::Kernel
            } else {
                Printer::Unknown
            };
            assert_eq!(naming.name(line(1, "text")), expected);
        }
    }

    #[test]
    fn what_was_printed_before_anybody_told_of_it_is_nobodys() {
        let mut naming = Naming::default();
        naming.told(told(60_000_000, 7, 1, "same"));
        assert_eq!(naming.name(line(40_000_000, "same")), Printer::Unknown);
        assert_eq!(pid(naming.name(line(60_000_000, "same"))), 7);
        // Nothing is known of the clocks, and records were lost.
        let mut naming = Naming::default();
        naming.told(told(60_000_000, 7, 1, "same"));
        naming.lost(line(58_000_000, "other"));
        assert_eq!(pid(naming.name(line(60_000_000, "same"))), 7);
    }

    #[test]
    fn after_a_loss_what_was_told_before_is_not_taken_for_what_comes() {
        let mut naming = Naming::default();
        naming.told(told(0, 3, 3, "begin"));
        naming.name(line(0, "begin"));
        naming.told(told(1000, 7, 1, "same"));
        naming.lost(line(9000, "same"));
        assert_eq!(naming.name(line(9000, "same")), Printer::Unknown);
        naming.told(told(9500, 8, 2, "same"));
        assert_eq!(pid(naming.name(line(9499, "same"))), 8);
    }
}
