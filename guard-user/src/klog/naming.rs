//! Who printed a line: what the kernel side told at the moment of printing is joined with the record that the log has of it.
//!
//! The kernel side tells the text, piece by piece, from 6.1 on, and on 5.10 the record's number. A name is given where one only fits, or the clock leaves but one:
//! never a guess.

mod clock;
mod told;

use std::collections::BTreeMap;

use guard_common::kernel_log::{
    PRINTED_BY_KERNEL, PRINTED_LOST_SHIFT, PRINTED_NUMBER, PRINTED_UNTOLD, Printed,
};

use clock::Ahead;
use told::{Fit, Told};

/// What nobody has asked for after so long never will be: its record was overwritten.
const FORGOTTEN_NS: i64 = 10_000_000_000;
/// The two clocks both began with the boot: while nothing better is known, they are no further apart than this. What was
/// printed before anybody told of it has words that may come again.
const COARSELY_NS: i64 = 5_000_000_000;
/// Of two that fit, one must be so much nearer in time. A text is formatted in less.
const APART_NS: i64 = 200_000;
/// So many are remembered by number at most.
const NUMBERED: usize = 16_384;

/// A line of the log, as far as its name is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Line<'l> {
    /// Its number.
    pub seq: u64,
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
    /// By the number of the record.
    numbered: BTreeMap<u64, Printer>,
    ahead: Ahead,
    /// How many messages were lost before the last one, as that one says, and when it was told.
    last: Option<(u32, i64)>,
    /// Between these times, by the kernel side's clock, some that were told were lost: what fits a line of then may be another's.
    lossy: Option<(i64, i64)>,
}

impl Naming {
    /// The kernel side told of a line, before its record can be read.
    pub fn told(&mut self, printed: Printed) {
        if printed.flags & PRINTED_NUMBER != 0 {
            self.told_of_a_number(&printed);
            return;
        }
        let (lost, at) = (printed.flags >> PRINTED_LOST_SHIFT, printed.time_ns as i64);
        // Of a daemon before this one nothing is known.
        let (before, since) = self.last.unwrap_or((0, i64::MIN));
        if before != lost {
            let from = self.lossy.map_or(since, |(from, _)| from);
            self.lossy = Some((from, at));
        }
        self.last = Some((lost, at));
        self.told.push(printed);
    }

    fn told_of_a_number(&mut self, printed: &Printed) {
        let mut seq = [0; 8];
        seq.copy_from_slice(&printed.text[..8]);
        // The first piece of a record says whose it is: the kernel adds no other's to it (`prb_reserve_in_last`).
        (self.numbered.entry(u64::from_ne_bytes(seq))).or_insert_with(|| Printer::of(printed));
        if self.numbered.len() > NUMBERED {
            self.numbered.pop_first();
        }
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
        if let Some(printer) = self.numbered.remove(&line.seq) {
            self.numbered = self.numbered.split_off(&line.seq);
            return printer;
        }
        if let Some(at) = self.at(line) {
            self.told
                .forget_while(|told| at - told.time_ns as i64 > FORGOTTEN_NS);
            self.lossy = self.lossy.filter(|(_, until)| at <= until + FORGOTTEN_NS);
        }
        self.by_text(line).unwrap_or(Printer::Unknown)
    }

    /// The time of a line on the kernel side's clock.
    fn at(&self, line: Line<'_>) -> Option<i64> {
        Some(line.time_us as i64 * 1000 + self.ahead.ns()?)
    }

    fn by_text(&mut self, line: Line<'_>) -> Option<Printer> {
        let known = self.at(line);
        let expected = known.unwrap_or(line.time_us as i64 * 1000);
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
        let told = *self.told.get(fit.first)?;
        let (printer, late) = (Printer::of(&told), told.time_ns as i64 - expected);
        // That of this line may have been lost, and another have printed the same words since.
        let is_sure = match (self.lossy, known) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((from, until)), Some(at)) => {
                let within = at >= from.saturating_sub(APART_NS) && at <= until + APART_NS;
                !within || late.abs() <= APART_NS
            }
        };
        self.told.take(fit);
        is_sure.then_some(printer)
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
            self.ahead.learn(line.time_us, told.time_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use guard_common::kernel_log::PRINTED_TEXT;

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
            seq: 0,
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
        assert!(naming.told.is_empty());
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
    fn where_messages_were_lost_no_others_is_taken_for_them() {
        let mut naming = Naming::default();
        for number in 0..5 {
            naming.told(told(number, 3, 3, "begin"));
            assert_eq!(pid(naming.name(line(number as u64, "begin"))), 3);
        }
        // What 7 printed at 1000 was lost; 8 prints the same a second later.
        let mut after = told(1_001_000, 8, 2, "same");
        after.flags |= 1 << PRINTED_LOST_SHIFT;
        naming.told(after);
        assert_eq!(naming.name(line(1_000, "same")), Printer::Unknown);
        // What comes later is told as ever, and what was told at the very time is sure.
        for (number, text) in [(2_000_000, "next"), (2_100_000, "same")] {
            let mut printed = told(number, 9, 2, text);
            printed.flags |= 1 << PRINTED_LOST_SHIFT;
            naming.told(printed);
            assert_eq!(pid(naming.name(line(number as u64, text))), 9);
        }
        // A daemon that comes after a loss knows nothing of the clocks yet.
        let mut naming = Naming::default();
        let mut first = told(5_000, 7, 1, "first");
        first.flags |= 3 << PRINTED_LOST_SHIFT;
        naming.told(first);
        assert_eq!(naming.name(line(5_000, "first")), Printer::Unknown);
    }

    #[test]
    fn a_printer_that_was_held_up_does_not_move_the_clock() {
        let mut naming = Naming::default();
        for number in 0..5 {
            naming.told(told(number, 3, 3, "begin"));
            naming.name(line(number as u64, "begin"));
        }
        // Told 40 milliseconds after the record had its time.
        naming.told(told(41_000, 4, 4, "late"));
        assert_eq!(pid(naming.name(line(1_000, "late"))), 4);
        naming.told(told(50_000, 7, 1, "first"));
        naming.told(told(60_000, 8, 2, "second"));
        naming.lost(line(50_000, "first"));
        assert_eq!(pid(naming.name(line(50_000, "first"))), 7);
        assert_eq!(pid(naming.name(line(60_000, "second"))), 8);
    }

    #[test]
    fn of_a_record_whose_number_was_told_it_is_known_whose_it_is() {
        let of = |seq: u64, pid: u32| {
            let mut printed = told(0, pid, 1, "");
            printed.text[..8].copy_from_slice(&seq.to_ne_bytes());
            printed.flags = PRINTED_NUMBER;
            printed
        };
        let numbered = |seq: u64| Line {
            seq,
            ..line(0, "text")
        };
        let mut naming = Naming::default();
        for (seq, pid) in [(4, 3), (5, 7), (5, 8), (6, 9), (8, 9)] {
            naming.told(of(seq, pid));
        }
        assert_eq!(pid(naming.name(numbered(5))), 7);
        assert_eq!(pid(naming.name(numbered(6))), 9);
        assert_eq!(naming.name(numbered(7)), Printer::Unknown);
        assert_eq!(pid(naming.name(numbered(8))), 9);
        assert!(naming.numbered.is_empty());
        for seq in 0..2 * NUMBERED as u64 {
            naming.told(of(seq, 1));
        }
        assert_eq!(naming.numbered.len(), NUMBERED);
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
