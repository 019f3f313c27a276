//! Who printed a line: what the kernel side told at the moment of printing is joined with the record that the log has of it.
//!
//! From 6.1 on the kernel side tells the text, piece by piece; on 5.10 only the format, but one after the other, as the records
//! are. A name is given where one only fits, or the clock leaves but one: never a guess.

use std::collections::VecDeque;

use guard_common::kernel_log::{
    PRINTED_BY_KERNEL, PRINTED_FORMAT, PRINTED_TEXT, PRINTED_UNTOLD, Printed,
};

/// What nobody has asked for after so long never will be: its record was overwritten.
const FORGOTTEN_NS: i64 = 10_000_000_000;
/// So many are remembered at most.
const REMEMBERED: usize = 16_384;
/// Of two that fit, one must be so much nearer in time. A text is formatted in less.
const APART_NS: i64 = 200_000;
/// On 5.10 a record has its time no later than this after its format was told.
const SOON_NS: i64 = 10_000_000;
/// So much of a microsecond or two is lost in rounding.
const SLACK_NS: i64 = 2_000;
/// The clocks are known no better than this.
const DOUBT_NS: i64 = 30_000;
/// One part in so many is what two clocks of a host come apart by, at most (`adjtimex`, 50 parts in a million).
const APART_BY: i64 = 20_000;
/// Who prints alone for so long on either side is alone.
const ALONE_NS: i64 = 1_000_000_000;

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
    told: VecDeque<Printed>,
    /// Nanoseconds that `CLOCK_MONOTONIC` is ahead of the log's clock; `None`: not known yet.
    ahead_ns: Option<i64>,
    /// The line's time at which that was last learnt.
    learnt_us: u64,
    /// A line of our own, and our process.
    mark: Option<(u32, Vec<u8>)>,
}

impl Naming {
    /// The kernel side told of a line, before its record can be read.
    pub fn told(&mut self, printed: Printed) {
        if self.told.len() == REMEMBERED {
            self.told.pop_front();
        }
        self.told.push_back(printed);
    }

    /// This process is about to write this line: that it is ours says how the clocks stand.
    pub fn mark(&mut self, tgid: u32, text: &[u8]) {
        self.mark = Some((tgid, text.to_vec()));
    }

    /// Records were lost: what was told of them would be taken for what was told of others.
    pub fn lost(&mut self, next: Line<'_>) {
        let Some(at) = self.at(next) else {
            self.told.clear();
            return;
        };
        self.told
            .retain(|told| told.time_ns as i64 >= at - APART_NS);
    }

    /// Who printed the line that was read next. Everything that was told by then must have been passed to [`Naming::told`].
    pub fn name(&mut self, line: Line<'_>) -> Printer {
        if let Some(at) = self.at(line) {
            let too_old = |told: &Printed| at - told.time_ns as i64 > FORGOTTEN_NS;
            while self.told.front().is_some_and(too_old) {
                self.told.pop_front();
            }
        }
        let formats = (self.told.front()).is_some_and(|told| told.flags & PRINTED_FORMAT != 0);
        let found = if formats {
            self.by_order(line)
        } else {
            self.by_text(line)
        };
        found.unwrap_or(Printer::Unknown)
    }

    /// The time of a line on the kernel side's clock.
    fn at(&self, line: Line<'_>) -> Option<i64> {
        Some(line.time_us as i64 * 1000 + self.ahead_ns?)
    }

    fn by_text(&mut self, line: Line<'_>) -> Option<Printer> {
        let fits: Vec<(usize, usize)> = (0..self.told.len())
            .filter_map(|at| Some((at, self.pieces(at, line.text)?)))
            .collect();
        let (at, pieces) = match fits.as_slice() {
            [] => return None,
            [only] => {
                self.learn(line, only.0);
                *only
            }
            several => self.nearest(line, several)?,
        };
        let printer = Printer::of(self.told.get(at)?);
        let tgid = self.told.get(at)?.pid;
        // The pieces that follow are the same task's.
        let mut left = pieces;
        let mut index = at;
        while left > 0 && index < self.told.len() {
            if self.told[index].pid == tgid {
                self.told.remove(index);
                left -= 1;
            } else {
                index += 1;
            }
        }
        Some(printer)
    }

    /// How many pieces, from this one on, make up the text; `None`: they do not.
    fn pieces(&self, at: usize, text: &[u8]) -> Option<usize> {
        let first = self.told.get(at)?;
        let mut rest = text;
        let mut pieces = 0;
        for told in self
            .told
            .iter()
            .skip(at)
            .filter(|told| told.pid == first.pid)
        {
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

    /// The one of several that is nearest in time, if they are not all the same one's anyway.
    fn nearest(&self, line: Line<'_>, several: &[(usize, usize)]) -> Option<(usize, usize)> {
        let owner = |(at, _): &(usize, usize)| Printer::of(&self.told[*at]);
        let first = *several.first()?;
        if several.iter().all(|other| owner(other) == owner(&first)) {
            return Some(first);
        }
        let expected = self.at(line)?;
        let distance = |(at, _): &(usize, usize)| (self.told[*at].time_ns as i64 - expected).abs();
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
    fn learn(&mut self, line: Line<'_>, at: usize) {
        if let Some(told) = self.told.get(at) {
            self.ahead_ns = Some(told.time_ns as i64 - line.time_us as i64 * 1000);
            self.learnt_us = line.time_us;
        }
    }

    /// The same where a text is formatted between the two times: the line for which that took least says most. What was learnt
    /// counts for less as the clocks come apart.
    fn learn_least(&mut self, line: Line<'_>, at: usize) {
        let (Some(before), Some(told)) = (self.ahead_ns, self.told.get(at)) else {
            return self.learn(line, at);
        };
        let now = told.time_ns as i64 - line.time_us as i64 * 1000;
        let passed = line.time_us.saturating_sub(self.learnt_us) as i64 * 1000;
        self.ahead_ns = Some(now.max(before - passed / APART_BY));
        self.learnt_us = line.time_us;
    }

    /// On 5.10 a record has its time from within the call that was told of, and the calls come one after the other: the last
    /// that was told of before that time is the one.
    fn by_order(&mut self, line: Line<'_>) -> Option<Printer> {
        if let Some((tgid, _)) = self.mark.take_if(|(_, text)| text == line.text) {
            let at = self.told.iter().rposition(|told| told.tgid == tgid)?;
            let printer = Printer::of(self.told.get(at)?);
            self.learn(line, at);
            self.told.drain(..=at);
            return Some(printer);
        }
        let Some(expected) = self.at(line) else {
            return self.alone(line, i64::MAX);
        };
        let before = |told: &Printed| told.time_ns as i64 <= expected + SLACK_NS;
        let next = self.told.iter().position(|told| !before(told));
        let at = next.unwrap_or(self.told.len()).checked_sub(1);
        let told = at.and_then(|at| self.told.get(at));
        let (Some(at), Some(told)) = (at, told) else {
            return self.alone(line, ALONE_NS);
        };
        if expected - told.time_ns as i64 > SOON_NS || !made_from(line.text, told) {
            return self.alone(line, ALONE_NS);
        }
        let printer = Printer::of(told);
        // Were the clocks a little further apart than we think, it would be the next one's.
        let doubtful = next
            .and_then(|next| self.told.get(next))
            .is_some_and(|next| {
                Printer::of(next) != printer
                    && next.time_ns as i64 - expected < DOUBT_NS
                    && made_from(line.text, next)
            });
        if doubtful {
            return None;
        }
        self.learn_least(line, at);
        self.told.drain(..=at);
        Some(printer)
    }

    /// The only one that was told of for a while, if the line can be its: that says how the clocks stand.
    fn alone(&mut self, line: Line<'_>, within: i64) -> Option<Printer> {
        let expected = self.at(line).unwrap_or_default();
        let mut near = (0..self.told.len()).filter(|at| {
            (self.told[*at].time_ns as i64).abs_diff(expected) <= within.unsigned_abs()
        });
        let (only, None) = (near.next()?, near.next()) else {
            return None;
        };
        let told = &self.told[only];
        if !made_from(line.text, told) || !is_plain(told) {
            return None;
        }
        let printer = Printer::of(told);
        self.learn(line, only);
        self.told.drain(..=only);
        Some(printer)
    }
}

/// Whether a format says enough to know its text by.
fn is_plain(told: &Printed) -> bool {
    literals(told).map(<[u8]>::len).sum::<usize>() >= 12
}

/// Whether a text can have been made from a format: what stands in it as it is comes in this order.
fn made_from(text: &[u8], told: &Printed) -> bool {
    let mut rest = text;
    for literal in literals(told) {
        let Some(at) = rest
            .windows(literal.len())
            .position(|window| window == literal)
        else {
            return false;
        };
        rest = &rest[at + literal.len()..];
    }
    true
}

/// What of a format stands in its text as it is.
fn literals(told: &Printed) -> impl Iterator<Item = &[u8]> {
    let end = (told.text.iter().position(|byte| *byte == 0)).unwrap_or(PRINTED_TEXT - 1);
    let mut format = &told.text[..end];
    // The level, or two of them.
    while let [1, _, rest @ ..] = format {
        format = rest;
    }
    let format = format.strip_suffix(b"\n").unwrap_or(format);
    // Between two directives; a directive's own letters, which vary, are left out with what follows up to a space.
    format
        .split(|byte| *byte == b'%')
        .enumerate()
        .filter_map(|(number, part)| {
            let part = if number == 0 {
                part
            } else {
                let skip = part
                    .iter()
                    .position(|byte| b" ,:;()[]=<>\"'".contains(byte))?;
                &part[skip..]
            };
            (!part.is_empty()).then_some(part)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(time_us: i64, pid: u32, container: u64, text: &str) -> Printed {
        let mut bytes = [0; PRINTED_TEXT];
        let known = text.len().min(PRINTED_TEXT);
        bytes[..known].copy_from_slice(&text.as_bytes()[..known]);
        Printed {
            // The log's clock began five seconds later.
            time_ns: ((time_us + 5_000_000) * 1000) as u64,
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

    fn format(time_us: i64, pid: u32, text: &str) -> Printed {
        Printed {
            flags: PRINTED_FORMAT,
            length: 0,
            ..told(time_us, pid, u64::from(pid), text)
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

    const FAULT: &str = "%s%s[%d]: segfault at %lx ip %px";

    fn begun() -> Naming {
        let mut naming = Naming::default();
        naming.told(format(
            0,
            3,
            "\u{1}6bulkhead keeps the kernel log from %s on\n",
        ));
        let text = "bulkhead keeps the kernel log from 12 on";
        assert_eq!(pid(naming.name(line(1, text))), 3);
        naming
    }

    #[test]
    fn of_formats_the_last_one_before_the_record_is_its() {
        let mut naming = begun();
        naming.told(format(500, 4, FAULT));
        naming.told(format(520, 4, "%s%s[%lx+%lx]"));
        naming.told(format(600, 5, FAULT));
        naming.told(format(700, 6, "%s"));
        assert_eq!(pid(naming.name(line(504, "a[9]: segfault at 0 ip 0"))), 4);
        assert_eq!(pid(naming.name(line(606, "b[8]: segfault at 0 ip 0"))), 5);
        assert_eq!(pid(naming.name(line(702, "anything"))), 6);
        assert_eq!(naming.name(line(800, "anything")), Printer::Unknown);
    }

    #[test]
    fn a_record_that_another_could_have_made_at_that_moment_is_nobodys() {
        let mut naming = begun();
        naming.told(format(500, 4, FAULT));
        naming.told(format(520, 5, FAULT));
        assert_eq!(
            naming.name(line(508, "a[9]: segfault at 0 ip 0")),
            Printer::Unknown
        );
        naming.told(format(900, 6, FAULT));
        assert_eq!(
            naming.name(line(905, "EXT4-fs (sda): no")),
            Printer::Unknown
        );
        assert_eq!(
            naming.name(line(50_000, "a[9]: segfault at 0 ip 0")),
            Printer::Unknown
        );
    }

    #[test]
    fn who_prints_alone_says_how_the_clocks_stand_and_several_at_first_say_nothing() {
        let mut naming = Naming::default();
        naming.told(format(1, 4, FAULT));
        naming.told(format(2, 5, FAULT));
        let text = "a[9]: segfault at 0 ip 0";
        assert_eq!(naming.name(line(3, text)), Printer::Unknown);
        let mut naming = begun();
        // The clocks have come apart by 20 ms meanwhile.
        naming.told(format(3_000_000, 7, FAULT));
        assert_eq!(pid(naming.name(line(3_020_000, text))), 7);
        naming.told(format(3_000_500, 8, FAULT));
        assert_eq!(pid(naming.name(line(3_020_510, text))), 8);
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
