//! All outlets together: the policy changes them while lines go out, and those that stay notice nothing.

use std::{
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    super::line::Line,
    echo::{Echoes, Verdict},
    outlet::{Handle, Health},
    said::{Gap, Why},
};
use crate::policy::model::Outlet;

/// An outlet that is no longer wanted may send for so long what waits for it.
const LAST_LINES: Duration = Duration::from_secs(2);
/// That lines were held back is told so often.
const TOLD: Duration = Duration::from_secs(10);

/// Lines that were not forwarded, and nobody was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Losses {
    /// Which outlet did not get them; `None`: none of them did.
    pub to: Option<String>,
    /// How many.
    pub count: u64,
}

/// The outlets.
#[derive(Debug)]
pub struct Outlets(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    open: Vec<Handle>,
    /// Those that no policy wants any more, and that have not ended yet.
    leaving: Vec<Handle>,
    echoes: Echoes,
    echoed: u64,
    /// Lines that were held back and not told: to the receivers, and to the record.
    held: Option<Gap>,
    held_untold: u64,
    told: Option<Duration>,
}

impl Default for Outlets {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            open: Vec::new(),
            leaving: Vec::new(),
            echoes: Echoes::new(process::id()),
            echoed: 0,
            held: None,
            held_untold: 0,
            told: None,
        }))
    }
}

impl Outlets {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes them those of the policy: what stays goes on, what is new begins with the next line. Returns those that
    /// cannot be had.
    pub fn set(&self, wanted: &[Outlet]) -> Vec<String> {
        let mut inner = self.lock();
        let names: Vec<String> = wanted.iter().map(Outlet::to_string).collect();
        let (stay, leave) = std::mem::take(&mut inner.open)
            .into_iter()
            .partition(|handle: &Handle| names.iter().any(|name| name == handle.name()));
        inner.open = stay;
        inner.leave(leave, LAST_LINES);
        let mut failed = Vec::new();
        for outlet in wanted {
            let name = outlet.to_string();
            if inner.open.iter().any(|handle| handle.name() == name) {
                continue;
            }
            match Handle::start(outlet) {
                Ok(handle) => inner.open.push(handle),
                Err(error) => failed.push(format!("{name}: cannot start its thread: {error}")),
            }
        }
        failed
    }

    /// Whether anybody wants lines.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// Gives them the lines that are in the copy, at `now` of a clock that never goes back. Never waits for a receiver.
    pub fn offer(&self, lines: Vec<Line>, now: Duration) {
        let mut inner = self.lock();
        for line in lines {
            inner.offer(line, now);
        }
    }

    /// How they do.
    #[must_use]
    pub fn health(&self) -> Vec<Health> {
        self.lock().open.iter().map(Handle::health).collect()
    }

    /// Lines that were not forwarded since they came from a receiver.
    #[must_use]
    pub fn echoed(&self) -> u64 {
        self.lock().echoed
    }

    /// What was lost since this was asked last. What a receiver that is still gone loses is told once a minute.
    pub fn take_losses(&self) -> Vec<Losses> {
        let now = Instant::now();
        let mut inner = self.lock();
        let mut losses = Vec::new();
        let mut take = |handle: &mut Handle| {
            if let Some(count) = handle.take_losses(now) {
                let to = Some(handle.name().to_owned());
                losses.push(Losses { to, count });
            }
        };
        inner.open.iter_mut().for_each(&mut take);
        inner.leaving.retain_mut(|handle| {
            // Asked first: what is counted until then is taken with it.
            let ended = handle.has_ended();
            take(handle);
            !ended
        });
        let count = std::mem::take(&mut inner.held_untold);
        losses.extend((count > 0).then_some(Losses { to: None, count }));
        losses
    }

    /// Sends what waits if that can be done within so long, and ends all of them.
    pub fn stop(&self, within: Duration) {
        let mut inner = self.lock();
        let open = std::mem::take(&mut inner.open);
        inner.leave(open, within);
        let until = Instant::now() + within;
        for handle in &inner.leaving {
            handle.wait(until.saturating_duration_since(Instant::now()));
        }
    }
}

impl Inner {
    fn leave(&mut self, handles: Vec<Handle>, within: Duration) {
        for handle in &handles {
            handle.close(within);
        }
        self.leaving.extend(handles);
    }

    fn offer(&mut self, line: Line, now: Duration) {
        match self.echoes.judge(&line, now) {
            Verdict::Go => {}
            Verdict::Echo => {
                self.echoed += 1;
                return;
            }
            Verdict::Held => {
                let one = Gap::of(line.seq, Why::Repeated);
                self.held = Some(self.held.map_or(one, |gap| gap.and(one)));
                self.held_untold += 1;
                return;
            }
        }
        let late = (self.told).is_none_or(|told| now.saturating_sub(told) >= TOLD);
        if late && let Some(gap) = self.held.take() {
            self.told = Some(now);
            for handle in &self.open {
                handle.tell(gap);
            }
        }
        let line = Arc::new(line);
        for handle in &self.open {
            handle.offer(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::{klog::forward::said::tests, policy::model::Syslog};

    fn numbered(prio: u8, seq: u64) -> Line {
        tests::line(format!("{prio},{seq},1,-;the same line\n").as_bytes())
    }

    fn receiver(name: &str) -> (UnixDatagram, Outlet) {
        let path = std::env::temp_dir().join(format!("bulkhead-{}-{name}", process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        (socket, Outlet::Syslog(Syslog::Unix(path)))
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 9000];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_change_of_the_policy_leaves_those_alone_that_stay() {
        let ((first, one), (second, two)) = (receiver("stays"), receiver("comes"));
        let outlets = Outlets::default();
        assert!(!outlets.any());
        assert_eq!(
            outlets.set(std::slice::from_ref(&one)),
            Vec::<String>::new()
        );
        assert!(outlets.any());
        outlets.offer(vec![numbered(6, 1)], Duration::ZERO);
        outlets.set(&[one.clone(), two.clone()]);
        outlets.offer(vec![numbered(6, 2)], Duration::ZERO);
        outlets.set(&[two]);
        outlets.offer(vec![numbered(6, 3)], Duration::ZERO);
        for (socket, seqs) in [(&first, [1, 2]), (&second, [2, 3])] {
            for seq in seqs {
                let said = receive(socket);
                assert!(said.contains(&format!("seq=\"{seq}\"")), "{said}");
            }
        }
        outlets.stop(Duration::from_secs(30));
        assert!(!outlets.any());
        assert_eq!(outlets.take_losses(), []);
        first
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert!(first.recv(&mut [0; 1]).is_err());
    }

    #[test]
    fn what_was_held_back_is_told_to_everyone_and_counted_once() {
        let (socket, outlet) = receiver("held");
        let outlets = Outlets::default();
        outlets.set(&[outlet]);
        // The first is the kernel's; a hundred more may repeat it.
        let lines = (0..=105).map(|seq| numbered(if seq == 0 { 6 } else { 14 }, seq));
        outlets.offer(lines.collect(), Duration::ZERO);
        for seq in 0..=100 {
            let said = receive(&socket);
            assert!(said.contains(&format!("seq=\"{seq}\"")), "{said}");
        }
        let held = |losses: Vec<Losses>| losses.into_iter().map(|loss| (loss.to, loss.count));
        assert!(held(outlets.take_losses()).eq([(None, 5)]));
        assert!(held(outlets.take_losses()).eq([]));
        outlets.offer(vec![numbered(6, 106)], Duration::from_secs(1));
        let said = receive(&socket);
        assert!(
            said.contains("count=\"5\" first=\"101\" last=\"105\""),
            "{said}"
        );
        assert!(receive(&socket).contains("seq=\"106\""));
        // Our own words that come back are no loss.
        let mut echo = numbered(14, 107);
        echo.text = Some(crate::record::LongText::from_bytes(
            format!("bulkhead-kernel: {said}").as_bytes(),
        ));
        outlets.offer(vec![echo], Duration::from_secs(30));
        assert_eq!(outlets.echoed(), 1);
        assert!(held(outlets.take_losses()).eq([]));
        outlets.stop(Duration::from_secs(30));
    }
}
