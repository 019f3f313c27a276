//! A switch of the host that keeps its unprivileged readers out is only ever thrown, and never fought over.

/// What is to be done about the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is as it is wanted, or left alone.
    Leave,
    /// Throw it.
    Throw {
        /// Somebody had thrown it back: this is the once more.
        again: bool,
    },
    /// Ours is not wanted any more.
    Restore,
    /// Somebody threw it back a second time. It is left alone from now on; told once.
    Contested,
}

/// What is known of it. What we did stands in the journal alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restrict {
    /// How often somebody threw it back.
    thrown_back: u8,
}

impl Restrict {
    /// What to do. `thrown`: it is; `ours`: by us, as the journal says; `wanted`: the policy asks for it.
    pub fn next(&mut self, thrown: bool, ours: bool, wanted: bool) -> Step {
        if !wanted {
            *self = Self::default();
            return if ours { Step::Restore } else { Step::Leave };
        }
        if thrown || self.thrown_back >= 2 {
            return Step::Leave;
        }
        if ours {
            self.thrown_back += 1;
            if self.thrown_back >= 2 {
                return Step::Contested;
            }
        }
        Step::Throw { again: ours }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_thrown_already_is_nobodys_to_give_back() {
        let mut switch = Restrict::default();
        assert_eq!(switch.next(true, false, true), Step::Leave);
        assert_eq!(switch.next(true, false, false), Step::Leave);
        assert_eq!(switch.next(false, false, false), Step::Leave);
    }

    #[test]
    fn ours_goes_back_when_it_is_not_wanted_any_more() {
        let mut switch = Restrict::default();
        assert_eq!(
            switch.next(false, false, true),
            Step::Throw { again: false }
        );
        assert_eq!(switch.next(true, true, true), Step::Leave);
        assert_eq!(switch.next(true, true, false), Step::Restore);
    }

    #[test]
    fn what_is_thrown_back_is_thrown_once_more_and_then_left_alone() {
        let mut switch = Restrict::default();
        assert_eq!(
            switch.next(false, false, true),
            Step::Throw { again: false }
        );
        assert_eq!(switch.next(false, true, true), Step::Throw { again: true });
        assert_eq!(switch.next(false, true, true), Step::Contested);
        assert_eq!(switch.next(false, false, true), Step::Leave);
        // Asked for anew, it is another matter.
        assert_eq!(switch.next(false, false, false), Step::Leave);
        assert_eq!(
            switch.next(false, false, true),
            Step::Throw { again: false }
        );
    }
}
