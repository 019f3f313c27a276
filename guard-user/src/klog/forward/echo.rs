//! No line goes round for ever: what our own forwarding brought back into the kernel log is not forwarded again.
//!
//! journald with `ForwardToKMsg=`, and any syslog daemon that writes to `/dev/kmsg`, gives each line that it gets back to
//! the log that it came from. Three things end that, whatever the receiver makes of a line:
//!
//! - A line of a program that has our name in it, as journald and syslog daemons put before a line, is an echo.
//! - A line of a program that ends with a line that was forwarded, and a kernel's line that our own sending called forth
//!   (a packet filter's `LOG`), goes out a hundred times, then once a minute.
//! - All lines of programs: ten thousand, and ten more each second. After more than that none goes out until they have been
//!   quiet for ten seconds: no loop survives that. The programs of each container are counted by themselves, so that none
//!   holds back what the host's or another's write.
//!
//! What the kernel says by itself is never held back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    super::{line::Line, names::Origin},
    said::NAME,
};
use crate::record::Text;

/// Lines that are remembered.
const REMEMBERED: usize = 4096;
/// What is shorter than so many bytes is a word that many lines end with.
const SHORT: usize = 8;
/// Repeated lines that go out at once, and the time after which one more does.
const REPEATED: (u32, Duration) = (100, Duration::from_secs(60));
/// Lines of programs, the same.
const WRITTEN: (u32, Duration) = (10_000, Duration::from_millis(100));
/// Containers that are counted by themselves; the others share one.
const COUNTED: usize = 1024;
/// Programs are quiet when they wrote nothing for so long.
const QUIET: Duration = Duration::from_secs(10);

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes out.
    Go,
    /// It is what we said ourselves.
    Echo,
    /// There were too many of its kind.
    Held,
}

/// What went out, as far as it may come back.
#[derive(Debug)]
pub struct Echoes {
    /// This process.
    pid: u32,
    /// Lines that went out, the latest last.
    went: VecDeque<u64>,
    /// The same.
    known: HashSet<u64>,
    /// What our own sending called forth.
    repeated: Budget,
    /// What programs write, by their container; the host's by none.
    written: HashMap<Option<Text>, Written>,
}

/// What the programs of one container write.
#[derive(Debug)]
struct Written {
    repeated: Budget,
    all: Budget,
    /// Too much was written; it ends when it is quiet.
    shut: bool,
    /// When a program wrote last.
    last: Option<Duration>,
}

impl Written {
    const fn new() -> Self {
        Self {
            repeated: Budget::new(REPEATED),
            all: Budget::new(WRITTEN),
            shut: false,
            last: None,
        }
    }

    /// Whether one more line may go out.
    fn may(&mut self, is_repeated: bool, now: Duration) -> bool {
        let quiet = (self.last.replace(now)).is_some_and(|last| now.saturating_sub(last) >= QUIET);
        if self.shut && quiet {
            self.shut = false;
            self.all = Budget::new(WRITTEN);
        }
        if !self.shut && !self.all.take(now) {
            self.shut = true;
        }
        !self.shut && (!is_repeated || self.repeated.take(now))
    }
}

impl Echoes {
    /// Of a process that forwards.
    pub fn new(pid: u32) -> Self {
        Self {
            pid,
            went: VecDeque::new(),
            known: HashSet::new(),
            repeated: Budget::new(REPEATED),
            written: HashMap::new(),
        }
    }

    /// Judges the next line, at `now` of a clock that never goes back.
    pub fn judge(&mut self, line: &Line, now: Duration) -> Verdict {
        let text = line.text.as_ref().map_or("", |text| text.as_str());
        let verdict = if line.written() {
            // Whose cannot be told may be a container's, which can bring that about: not the host's.
            let unknown = (line.by.from == Some(Origin::Unknown)).then(|| Text::from("?"));
            let of = line.by.container.clone().or(unknown);
            self.judge_written(of, text, now)
        } else if line.by.pid == Some(self.pid) && !self.repeated.take(now) {
            Verdict::Held
        } else {
            Verdict::Go
        };
        if verdict == Verdict::Go {
            self.remember(text);
        }
        verdict
    }

    fn judge_written(&mut self, mut of: Option<Text>, text: &str, now: Duration) -> Verdict {
        if is_ours(text) {
            return Verdict::Echo;
        }
        let is_repeated = self.ends_as_before(text);
        if !self.written.contains_key(&of) && self.written.len() >= COUNTED {
            // Of those who have been quiet there is nothing to know.
            (self.written).retain(|_, one| one.last.is_some_and(|last| now < last + QUIET));
            if self.written.len() >= COUNTED {
                of = Some(Text::from(""));
            }
        }
        let written = self.written.entry(of).or_insert_with(Written::new);
        if written.may(is_repeated, now) {
            Verdict::Go
        } else {
            Verdict::Held
        }
    }

    fn remember(&mut self, text: &str) {
        let Some((_, line)) = ends(text).last() else {
            return;
        };
        if self.known.insert(line) {
            self.went.push_back(line);
        }
        if self.went.len() > REMEMBERED
            && let Some(old) = self.went.pop_front()
        {
            self.known.remove(&old);
        }
    }

    /// Whether a line that went out is the end of this one, or all of it.
    fn ends_as_before(&self, text: &str) -> bool {
        ends(text).any(|(length, end)| {
            (length >= SHORT || length == text.len()) && self.known.contains(&end)
        })
    }
}

/// Whether a program's line has our name in it: that of what is forwarded, or that of the daemon's own messages.
fn is_ours(text: &str) -> bool {
    text.contains(NAME) || text.starts_with("bulkhead[") || text.starts_with("bulkhead: ")
}

/// Every end of a text, the shortest first: its length, and FNV-1a of its bytes from the last to the first.
fn ends(text: &str) -> impl Iterator<Item = (usize, u64)> {
    let bytes = text.bytes().rev();
    let hashes = bytes.scan(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Some(*hash)
    });
    (1..).zip(hashes)
}

/// So many at once, and one more after each such time.
#[derive(Debug)]
struct Budget {
    most: u32,
    each: Duration,
    /// When there will be all of them again.
    full: Duration,
}

impl Budget {
    const fn new((most, each): (u32, Duration)) -> Self {
        Self {
            most,
            each,
            full: Duration::ZERO,
        }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Duration) -> bool {
        let full = self.full.max(now) + self.each;
        let fits = full.saturating_sub(now) <= self.each * self.most;
        if fits {
            self.full = full;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{klog::forward::said::tests, record::LongText};

    const OURS: u32 = 77;

    fn written(text: &str) -> Line {
        Line {
            text: Some(LongText::from_bytes(text.as_bytes())),
            ..tests::line(b"14,1,1,-;x\n")
        }
    }

    fn kernels(text: &str, pid: u32) -> Line {
        let mut line = Line {
            text: Some(LongText::from_bytes(text.as_bytes())),
            ..tests::line(b"6,1,1,-;x\n")
        };
        line.by.pid = Some(pid);
        line
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn no_container_holds_back_what_another_writes() {
        let mut echoes = Echoes::new(OURS);
        let of = |container: Option<&str>, number: u32| {
            let mut line = written(&format!("line {number}"));
            line.by.container = container.map(Text::from);
            line
        };
        let mut went = 0;
        for number in 0..3 * WRITTEN.0 {
            went += u32::from(echoes.judge(&of(Some("flood"), number), at(0)) == Verdict::Go);
        }
        assert_eq!(went, WRITTEN.0);
        assert_eq!(echoes.judge(&of(None, 1_000_000), at(1)), Verdict::Go);
        assert_eq!(
            echoes.judge(&of(Some("other"), 1_000_001), at(1)),
            Verdict::Go
        );
        let mut flood = of(None, 0);
        flood.by.from = Some(Origin::Unknown);
        let went = (0..2 * WRITTEN.0).filter(|number| {
            flood.text = Some(LongText::from_bytes(format!("whose {number}").as_bytes()));
            echoes.judge(&flood, at(1)) == Verdict::Go
        });
        assert_eq!(went.count(), WRITTEN.0 as usize);
        assert_eq!(echoes.judge(&of(None, 1_000_002), at(1)), Verdict::Go);
        // So many containers are not each counted for ever.
        for number in 0..3 * COUNTED as u32 {
            echoes.judge(
                &of(Some(&format!("many-{number}")), 2_000_000 + number),
                at(2),
            );
        }
        assert!(echoes.written.len() <= COUNTED + 1);
        echoes.judge(&of(Some("late"), 3_000_000), at(20_000));
        assert!(echoes.written.len() < 3);
    }

    /// Lines that a receiver gives back, until none of them goes out or there were too many.
    fn goes_round(first: Line, gives_back: impl Fn(&str) -> String, step: u64) -> usize {
        let mut echoes = Echoes::new(OURS);
        let (mut line, mut rounds, mut time) = (first, 0, 0);
        while echoes.judge(&line, at(time)) == Verdict::Go && rounds < 100_000 {
            let text = gives_back(line.text.as_ref().unwrap().as_str());
            line = written(&text);
            rounds += 1;
            time += step;
        }
        rounds
    }

    #[test]
    fn what_a_receiver_gives_back_goes_round_no_more() {
        let first = || kernels("EXT4-fs error (device vda1): ext4_lookup", 1);
        // journald with ForwardToKMsg=, and a syslog daemon that writes what it got.
        assert_eq!(
            goes_round(first(), |text| format!("{NAME}[5]: {text}"), 1),
            1
        );
        // One that takes the name away, or the end, or puts its own before the line until nothing else is left.
        let most = REPEATED.0 as usize + 1;
        assert_eq!(goes_round(first(), str::to_owned, 1), most);
        assert_eq!(goes_round(first(), |text| format!("x: {text}"), 1), most);
        assert_eq!(
            goes_round(kernels("ok", 1), |text| format!("kmsg: {text}"), 1),
            most + 1
        );
        let cut = |text: &str| format!("x: {text}").chars().take(80).collect();
        assert!(goes_round(first(), cut, 1) < 2 * most);
        // One that makes another line of it each time.
        let count = std::cell::Cell::new(0);
        let another = |_: &str| {
            count.set(count.get() + 1);
            format!("line number {} of another kind", count.get())
        };
        let rounds = goes_round(first(), another, 1);
        assert!((10_000..10_200).contains(&rounds), "{rounds}");
    }

    #[test]
    fn what_our_own_sending_calls_forth_is_held_back_and_another_process_is_not() {
        let mut echoes = Echoes::new(OURS);
        let line = |number: u32| format!("IN= OUT=eth0 LEN={number} PROTO=UDP DPT=514");
        for number in 0..REPEATED.0 {
            assert_eq!(
                echoes.judge(&kernels(&line(number), OURS), at(0)),
                Verdict::Go
            );
        }
        assert_eq!(echoes.judge(&kernels(&line(0), OURS), at(0)), Verdict::Held);
        assert_eq!(
            echoes.judge(&kernels(&line(0), OURS), at(59_999)),
            Verdict::Held
        );
        assert_eq!(
            echoes.judge(&kernels(&line(0), OURS), at(60_000)),
            Verdict::Go
        );
        for number in 0..20_000 {
            assert_eq!(
                echoes.judge(&kernels(&line(number), 1), at(60_000)),
                Verdict::Go
            );
        }
    }

    #[test]
    fn programs_write_so_many_lines_and_then_none_until_they_are_quiet() {
        let mut echoes = Echoes::new(OURS);
        let mut number = 0;
        let mut next = |echoes: &mut Echoes, time| {
            number += 1;
            echoes.judge(&written(&format!("written line {number}.")), at(time))
        };
        for _ in 0..WRITTEN.0 {
            assert_eq!(next(&mut echoes, 1), Verdict::Go);
        }
        assert_eq!(next(&mut echoes, 1), Verdict::Held);
        // Whoever goes on writing goes on being held back.
        assert_eq!(next(&mut echoes, 9_000), Verdict::Held);
        assert_eq!(next(&mut echoes, 18_999), Verdict::Held);
        assert_eq!(
            echoes.judge(&kernels("the kernel's", 1), at(18_999)),
            Verdict::Go
        );
        assert_eq!(next(&mut echoes, 28_999), Verdict::Go);
        // Ten a second never end.
        let mut echoes = Echoes::new(OURS);
        for turn in 0..50_000 {
            assert_eq!(next(&mut echoes, 100 * turn), Verdict::Go);
        }
    }

    #[test]
    fn the_daemons_own_messages_and_our_name_anywhere_are_echoes_of_programs_alone() {
        let mut echoes = Echoes::new(OURS);
        for text in [
            "bulkhead[12]: DEGRADED udp:host:514",
            "bulkhead: DEGRADED",
            "<46>1 - host bulkhead-kernel - kmsg - text",
        ] {
            assert_eq!(echoes.judge(&written(text), at(0)), Verdict::Echo);
            assert_eq!(echoes.judge(&kernels(text, 1), at(0)), Verdict::Go);
        }
        assert_eq!(echoes.judge(&written("the bulkhead"), at(0)), Verdict::Go);
        assert_eq!(
            echoes.judge(&written("bulkheads[1]: x"), at(0)),
            Verdict::Go
        );
    }

    #[test]
    fn a_line_that_only_ends_with_the_same_word_is_no_repetition() {
        let mut echoes = Echoes::new(OURS);
        for number in 0..3 * REPEATED.0 {
            echoes.judge(&kernels("started", 1), at(0));
            let line = written(&format!("unit {number} started"));
            assert_eq!(echoes.judge(&line, at(0)), Verdict::Go);
            let line = written(&format!("{number:03} {}", "x".repeat(200)));
            assert_eq!(echoes.judge(&line, at(0)), Verdict::Go);
        }
    }
}
