//! Identity: the policy's patterns as a table of transitions, in the few million instructions that a start can spare.
//!
//! A path is names with slashes between. What is left of a pattern at a slash is a *rest*, what is left of a name within
//! it a *tail*; both are kept once wherever they read the same, so that a dozen runtimes whose scopes end alike cost what
//! one does. Only the names' own bytes need a look at every state, so a state costs what its few live tails cost.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use guard_common::identity::{LABEL_USER_MADE, NameMatcher, TRANSITIONS};

use super::names::{Matched, NamesError, Role, USER_MADE};

/// Tails of all patterns: their numbers fit 16 bits, with the longest pattern to spare.
const TAILS: usize = 60_000;

/// Asks for the label of a kind of container.
type Ask<'a> = &'a mut dyn FnMut(&Matched) -> Result<u16, NamesError>;

/// Builds the table; `ask` is asked once for each kind of container.
///
/// # Errors
/// The table would be too large, or what `ask` said.
pub(super) fn build(
    patterns: &[(String, Role)],
    ask: Ask<'_>,
) -> Result<Box<NameMatcher>, NamesError> {
    let mut builder = Builder::default();
    let mut first = Vec::new();
    for (glob, role) in patterns {
        first.push(builder.add(glob, Some(*role)));
        if builder.tails.len() > TAILS {
            return Err(NamesError::TooLong);
        }
    }
    first.push(builder.add(USER_MADE, None));
    builder.find_covered();

    // Column 0 is for all bytes that no name has; then one for each that some has, the slash, the NUL that changes nothing,
    // and the end of the path.
    let mut table = NameMatcher::empty();
    let mut slash = 1;
    let named = builder.tails.iter().filter_map(|tail| tail.next);
    for byte in named.filter(|(byte, _)| *byte != 0) {
        let class = &mut table.classes[usize::from(byte.0)];
        if *class == 0 {
            *class = slash as u8;
            slash += 1;
        }
    }
    table.classes[usize::from(b'/')] = slash as u8;
    let nul = slash + 1;
    table.classes[0] = nul as u8;
    let stride = slash + 3;
    table.stride = stride as u32;
    table.start = 1;

    // State 0 is dead; state 1 is before the first byte, which must be a slash.
    builder.states = vec![State::default(), State::default()];
    let start = builder.place(first, ask)?.start;
    table.transitions[stride + slash] = start;
    table.transitions[stride + nul] = 1;
    let mut at = 2;
    while let Some(state) = builder.states.get(at).cloned() {
        let row = at * stride;
        if row + stride > TRANSITIONS || builder.states.len() > usize::from(u16::MAX) {
            return Err(NamesError::TooLarge {
                states: builder.states.len(),
                columns: stride,
            });
        }
        let stay: Vec<u16> = (state.tails.iter().copied())
            .filter(|tail| builder.tails[usize::from(*tail)].starred)
            .collect();
        let other = builder.state(state.carry, stay.clone());
        table.transitions[row..row + slash].fill(other);
        let mut steps: Vec<(u8, u16)> = (state.tails.iter())
            .filter_map(|tail| builder.tails[usize::from(*tail)].next)
            .collect();
        steps.sort_unstable();
        for same in steps.chunk_by(|one, other| one.0 == other.0) {
            let mut tails = stay.clone();
            tails.extend(same.iter().map(|(_, tail)| *tail));
            let column = usize::from(table.classes[usize::from(same[0].0)]);
            table.transitions[row + column] = builder.state(state.carry, tails);
        }
        let mut ended: Vec<u16> = (state.tails.iter())
            .map(|tail| &builder.tails[usize::from(*tail)])
            .filter(|tail| tail.complete)
            .map(|tail| tail.then)
            .collect();
        ended.sort_unstable();
        let place = builder.after(state.carry, ended, ask)?;
        table.transitions[row + slash] = place.start;
        table.transitions[row + nul] = at as u16;
        table.transitions[row + stride - 1] = place.label;
        at += 1;
    }
    Ok(table)
}

/// What is left of a pattern at a slash.
#[derive(Clone, Copy)]
struct Rest {
    /// What the pattern is for; `None`: [`USER_MADE`].
    role: Option<Role>,
    first: First,
}

/// What a rest begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// Nothing: the path is the pattern's.
    End,
    /// A name, by its tail.
    Name(u16),
    /// `**`, and the rest after it.
    Any(u16),
}

/// What a rest reads like: its pattern's role, and its names.
type Reads = (Option<Role>, Vec<String>);

/// What is looked up by what it is.
type Numbers<K, V = u16> = HashMap<K, V, FixedState>;

/// What is left of a name, and the rest that follows it.
struct Tail {
    text: Vec<u8>,
    then: u16,
    /// Any byte may come first.
    starred: bool,
    /// Nothing need come.
    complete: bool,
    /// The next byte that the pattern names, and the tail after it.
    next: Option<(u8, u16)>,
    /// Tails that match whatever this one does.
    covered_by: Vec<u16>,
}

/// Within a name: what it may still become, and what goes on after it whatever it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    carry: u16,
    tails: Vec<u16>,
}

/// After a name.
#[derive(Clone, Copy)]
struct Place {
    /// The state at the first byte of the next name.
    start: u16,
    /// The label of the path up to here.
    label: u16,
}

#[derive(Default)]
struct Builder {
    rests: Vec<Rest>,
    rest_numbers: Numbers<Reads>,
    tails: Vec<Tail>,
    tail_numbers: Numbers<(Vec<u8>, u16)>,
    /// Sets of rests that begin with `**`.
    carries: Vec<Vec<u16>>,
    carry_numbers: Numbers<Vec<u16>>,
    states: Vec<State>,
    state_numbers: Numbers<State>,
    places: Numbers<(u16, Vec<u16>), Place>,
    labels: Numbers<Matched>,
}

impl Builder {
    /// Enters a pattern; returns its first rest.
    fn add(&mut self, glob: &str, role: Option<Role>) -> u16 {
        let names = glob.split('/').skip(usize::from(glob.starts_with('/')));
        self.rest((role, names.map(str::to_owned).collect()))
    }

    fn rest(&mut self, reads: Reads) -> u16 {
        if let Some(number) = self.rest_numbers.get(&reads) {
            return *number;
        }
        let (role, names) = &reads;
        let first = match names.split_first() {
            None => First::End,
            Some((name, after)) => {
                let then = self.rest((*role, after.to_vec()));
                match name.as_str() {
                    "**" => First::Any(then),
                    name => First::Name(self.tail(name.as_bytes(), then)),
                }
            }
        };
        let number = self.rests.len() as u16;
        self.rests.push(Rest { role: *role, first });
        self.rest_numbers.insert(reads, number);
        number
    }

    fn tail(&mut self, text: &[u8], then: u16) -> u16 {
        let bare = text.iter().position(|byte| *byte != b'*');
        let bare = &text[bare.unwrap_or(text.len())..];
        let starred = bare.len() < text.len();
        let text = [if starred { &b"*"[..] } else { &[] }, bare].concat();
        let key = (text, then);
        if let Some(number) = self.tail_numbers.get(&key) {
            return *number;
        }
        let next = bare
            .split_first()
            .map(|(byte, after)| (*byte, self.tail(after, then)));
        let number = self.tails.len() as u16;
        self.tails.push(Tail {
            text: key.0.clone(),
            then,
            starred,
            complete: bare.is_empty(),
            next,
            covered_by: Vec::new(),
        });
        self.tail_numbers.insert(key, number);
        number
    }

    /// Every tail is covered by what follows its stars, and by `*` alone: what a star has passed need not be remembered.
    fn find_covered(&mut self) {
        for at in 0..self.tails.len() {
            let Tail { text, then, .. } = &self.tails[at];
            let mut covering = Vec::new();
            for star in (1..text.len()).filter(|star| text[*star] == b'*') {
                covering.extend(self.tail_numbers.get(&(text[star..].to_vec(), *then)));
            }
            if text != b"*" {
                covering.extend(self.tail_numbers.get(&(b"*".to_vec(), *then)));
            }
            self.tails[at].covered_by = covering;
        }
    }

    /// The number of a state.
    fn state(&mut self, carry: u16, mut tails: Vec<u16>) -> u16 {
        tails.sort_unstable();
        tails.dedup();
        let all = tails.clone();
        tails.retain(|tail| {
            let covering = &self.tails[usize::from(*tail)].covered_by;
            !(covering.iter()).any(|other| all.binary_search(other).is_ok())
        });
        if tails.is_empty() && self.carries[usize::from(carry)].is_empty() {
            return 0;
        }
        let state = State { carry, tails };
        if let Some(number) = self.state_numbers.get(&state) {
            return *number;
        }
        // One too many is found when its row is filled.
        let number = self.states.len() as u16;
        self.states.push(state.clone());
        self.state_numbers.insert(state, number);
        number
    }

    /// Where a path is at the end of a name: what was carried over it goes on, and what ended with it.
    fn after(&mut self, carry: u16, ended: Vec<u16>, ask: Ask<'_>) -> Result<Place, NamesError> {
        let key = (carry, ended);
        if let Some(place) = self.places.get(&key) {
            return Ok(*place);
        }
        let rests = [&self.carries[usize::from(carry)][..], &key.1].concat();
        let place = self.place(rests, ask)?;
        self.places.insert(key, place);
        Ok(place)
    }

    /// Where a path is when `rests` are left of the patterns.
    fn place(&mut self, mut rests: Vec<u16>, ask: Ask<'_>) -> Result<Place, NamesError> {
        // `**` may stand for no name at all.
        let mut at = 0;
        while let Some(number) = rests.get(at) {
            if let First::Any(then) = self.rests[usize::from(*number)].first {
                rests.push(then);
            }
            at += 1;
        }
        rests.sort_unstable();
        rests.dedup();
        let user_made = (rests.iter())
            .map(|number| &self.rests[usize::from(*number)])
            .any(|rest| rest.role.is_none() && rest.first == First::End);
        if user_made {
            // Neither counts from here on.
            rests.retain(|number| match self.rests[usize::from(*number)].role {
                Some(Role::Except(_) | Role::Exempt) => false,
                Some(Role::Subject(_)) | None => true,
            });
        }
        let mut matched = Matched {
            user_made,
            ..Matched::default()
        };
        let (mut except, mut carried, mut tails) = (0_u64, Vec::new(), Vec::new());
        for number in &rests {
            let rest = &self.rests[usize::from(*number)];
            match (rest.first, rest.role) {
                (First::End, Some(Role::Subject(subject))) => {
                    matched.subjects |= 1 << (subject & 63);
                }
                (First::End, Some(Role::Except(subject))) => except |= 1 << (subject & 63),
                (First::End, Some(Role::Exempt)) => matched.exempt = true,
                (First::End, None) => {}
                (First::Any(_), _) => carried.push(*number),
                (First::Name(tail), _) => tails.push(tail),
            }
        }
        matched.subjects &= !except;
        let label = match self.labels.get(&matched) {
            _ if matched.subjects == 0 => 0,
            Some(label) => *label,
            None => {
                let mut label = ask(&matched)?;
                if label != 0 && user_made {
                    label |= LABEL_USER_MADE;
                }
                self.labels.insert(matched, label);
                label
            }
        };
        let carries = self.carries.len() as u16;
        let carry = *self.carry_numbers.entry(carried.clone()).or_insert(carries);
        if carry == carries {
            self.carries.push(carried);
        }
        Ok(Place {
            start: self.state(carry, tails),
            label,
        })
    }
}
