//! What does not work as it should: each thing told once, and told again when it is over.

use std::collections::BTreeMap;

/// A trouble that was not met again for so many ticks is over: every container is looked at more often than that.
const OVER: u64 = 120;

/// The troubles of the moment, by what they are about.
#[derive(Debug, Default)]
pub(super) struct Notes(BTreeMap<String, Note>);

#[derive(Debug)]
struct Note {
    words: String,
    /// The tick in which it was last met; `None`: it stands until it is settled.
    met: Option<u64>,
}

impl Notes {
    /// A trouble that stands until it is settled.
    pub(super) fn stand(&mut self, what: &str, words: impl Into<String>) -> bool {
        self.put(what, words.into(), None)
    }

    /// A trouble that was met in a tick, and is over when it is met no more. Whether it is news.
    pub(super) fn meet(&mut self, what: &str, words: String, tick: u64) -> bool {
        self.put(what, words, Some(tick))
    }

    fn put(&mut self, what: &str, words: String, met: Option<u64>) -> bool {
        self.0
            .insert(what.to_owned(), Note { words, met })
            .is_none()
    }

    /// It is over.
    pub(super) fn settle(&mut self, what: &str) -> Option<String> {
        self.0.remove(what).map(|note| note.words)
    }

    /// Those that are over by this tick.
    pub(super) fn expire(&mut self, tick: u64) -> Vec<String> {
        let over = |note: &Note| note.met.is_some_and(|met| tick.saturating_sub(met) > OVER);
        self.0
            .extract_if(.., |_, note| over(note))
            .map(|(_, note)| note.words)
            .collect()
    }

    /// In words, each.
    pub(super) fn words(&self) -> Vec<String> {
        self.0.values().map(|note| note.words.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_news_once_and_over_when_it_is_met_no_more() {
        let mut notes = Notes::default();
        assert!(notes.meet("pids", "first".into(), 1));
        assert!(!notes.meet("pids", "second".into(), OVER));
        assert!(notes.stand("rung", "observe"));
        assert_eq!(notes.words(), ["second", "observe"]);
        assert!(notes.expire(2 * OVER).is_empty());
        assert_eq!(notes.expire(2 * OVER + 1), ["second"]);
        assert!(notes.meet("pids", "third".into(), 3 * OVER));
        assert_eq!(notes.settle("rung").as_deref(), Some("observe"));
        assert_eq!(notes.words(), ["third"]);
    }
}
