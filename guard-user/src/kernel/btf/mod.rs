//! Offsets, enum values and function ids of the running kernel, from its own type information (BTF): never assumed.
//!
//! Kinds of types that this reader does not know end the reading with an error.

use std::{collections::HashMap, io, path::Path};

use foldhash::fast::FixedState;
use guard_common::config::{
    FIELDS, Field, INTERRUPT_BITS, INTERRUPT_BITS_OF_64, MISSING, OFFSET_MAX,
};
use thiserror::Error;

use self::types::{
    BEGINS, ENUM, FUNC, MAGIC, NAMED, STRUCT, TYPEDEF, Type, UNION, VAR, beginning, word,
};
use super::bytes::Bytes;

mod types;

/// The per-CPU variable of x86 that holds `preempt_count`: 6.1, and again since 6.15.
const PREEMPT_COUNT: &str = "__preempt_count";
/// The one that held it in between, among others.
const HOT: (&str, &str) = ("pcpu_hot", "pcpu_hot.preempt_count");

/// Why the kernel's type information could not be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel was built without it, or it cannot be read.
    #[error("cannot read the kernel's type information {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what the format says.
    #[error("the kernel's type information is malformed at byte {0}")]
    Malformed(usize),
}

/// The kernel's type information, with an index of the names that were asked for.
pub struct Btf {
    data: Bytes,
    strings: usize,
    types: Vec<u32>,
    named: HashMap<(u32, String), u32>,
}

/// Where a processor's `preempt_count` is, as the kernel's type information says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreemptCount {
    /// Id of the per-CPU variable that it is in.
    pub variable: u32,
    /// Bytes from the beginning of that.
    at: u32,
    /// Which of its bits say that an interrupt is being handled.
    interrupt_bits: u32,
}

/// Kinds and names that are asked for.
type Wanted<'n> = HashMap<(u32, &'n [u8]), &'n str, FixedState>;

impl Btf {
    /// That of a kernel that says nothing of its types: every field and function is missing.
    #[must_use]
    pub fn none() -> Self {
        Self {
            data: Vec::new().into(),
            strings: 0,
            types: Vec::new(),
            named: HashMap::new(),
        }
    }

    /// Reads the running kernel's, and finds every type that [`Field::ALL`] and `functions` name.
    ///
    /// # Errors
    /// [`BtfError`].
    pub fn of_this_kernel(functions: &[&str]) -> Result<Self, BtfError> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let data = Bytes::of(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(data, functions)
    }

    /// Whether the kernel said anything.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !self.types.is_empty()
    }

    /// Those of a kernel whose type information this is.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn parse(data: impl Into<Bytes>, functions: &[&str]) -> Result<Self, BtfError> {
        let data = data.into();
        let word = |at: usize| word(&data, at).ok_or(BtfError::Malformed(at));
        if data.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(BtfError::Malformed(0));
        }
        let header = word(4)? as usize;
        let begin = header.saturating_add(word(8)? as usize);
        let end = begin.saturating_add(word(12)? as usize);
        let strings = header.saturating_add(word(16)? as usize);
        if end > data.len() || strings > data.len() {
            return Err(BtfError::Malformed(8));
        }
        let wanted: Vec<(u32, &str)> = functions
            .iter()
            .map(|name| (kind_of(name), *name))
            .chain([(VAR, PREEMPT_COUNT), (VAR, HOT.0), (STRUCT, HOT.0)])
            .chain(Field::ALL.iter().filter_map(|field| {
                let path = field.btf();
                if let Some((name, _)) = path.split_once(':') {
                    return Some((ENUM, name));
                }
                let (name, _) = path.split_once('.').unwrap_or((path, ""));
                (!name.is_empty()).then_some((STRUCT, name))
            }))
            .collect();
        // Of a hundred thousand types, hardly a name begins like one of these but they: only those are read whole.
        let mut begins = vec![false; BEGINS];
        for (_, name) in &wanted {
            begins[beginning(name.as_bytes())] = true;
        }
        let wanted: Wanted<'_> = wanted
            .into_iter()
            .map(|(kind, name)| ((kind, name.as_bytes()), name))
            .collect();
        let mut types = Vec::with_capacity((end - begin) / 24);
        types.push(0);
        let mut named = HashMap::new();
        let mut at = begin;
        while at < end {
            let Some((one, tail)) = Type::at(&data, at).and_then(|one| Some((one, one.tail()?)))
            else {
                return Err(BtfError::Malformed(at));
            };
            let kind = one.kind();
            if NAMED >> kind & 1 != 0 && one.name != 0 {
                let from = strings.saturating_add(one.name as usize);
                let Some(rest) = data.get(from..) else {
                    return Err(BtfError::Malformed(at));
                };
                if begins[beginning(rest)] {
                    let length = rest.iter().position(|byte| *byte == 0);
                    let name = &rest[..length.unwrap_or(rest.len())];
                    if let Some(name) = wanted.get(&(kind, name)) {
                        // A declaration without members says nothing; the first definition counts.
                        named
                            .entry((kind, (*name).to_owned()))
                            .or_insert(types.len() as u32);
                    }
                }
            }
            types.push(at as u32);
            at += 12 + tail;
        }
        Ok(Self {
            data,
            strings,
            types,
            named,
        })
    }

    /// Id of a function or a tracepoint's type, as `attach_btf_id` wants it; only of those that were asked for.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named.get(&(kind_of(name), name.to_owned())).copied()
    }

    /// How many arguments a function has; only of those that were asked for.
    #[must_use]
    pub fn arguments(&self, name: &str) -> Option<u32> {
        let prototype = self.get(self.get(self.function(name)?)?.size)?;
        u32::try_from(prototype.members()).ok()
    }

    /// The words of the kernel side's `CONFIG` that BTF knows; [`MISSING`] elsewhere.
    #[must_use]
    pub fn config(&self) -> [u32; FIELDS] {
        let mut words = [MISSING; FIELDS];
        for (word, field) in words.iter_mut().zip(Field::ALL) {
            let path = field.btf();
            let found = match path.split_once(':') {
                Some((name, constant)) => self.constant(name, constant),
                None => self.offset(path),
            };
            if let Some(found) = found.filter(|found| *found <= OFFSET_MAX) {
                *word = found;
            }
        }
        if let Some(count) = self.preempt_count() {
            words[Field::PreemptCount as usize] = count.at;
            words[Field::InterruptBits as usize] = count.interrupt_bits;
        }
        words
    }

    /// Where each processor counts what it may not be taken away from; `None`: this kernel's type information does not say.
    #[must_use]
    pub fn preempt_count(&self) -> Option<PreemptCount> {
        let variable = |name: &str| self.named.get(&(VAR, name.to_owned())).copied();
        if let Some(variable) = variable(PREEMPT_COUNT) {
            let interrupt_bits = match self.resolve(self.get(variable)?.size)?.size {
                4 => INTERRUPT_BITS,
                8 => INTERRUPT_BITS_OF_64,
                _ => return None,
            };
            return Some(PreemptCount {
                variable,
                at: 0,
                interrupt_bits,
            });
        }
        Some(PreemptCount {
            variable: variable(HOT.0)?,
            at: self.offset(HOT.1)?,
            interrupt_bits: INTERRUPT_BITS,
        })
    }

    /// Offset in bytes of `struct.member.member`; the size of a `struct`.
    fn offset(&self, path: &str) -> Option<u32> {
        let mut names = path.split('.');
        let mut id = *self.named.get(&(STRUCT, names.next()?.to_owned()))?;
        if !path.contains('.') {
            return self.get(id).map(|whole| whole.size);
        }
        let mut bits = 0;
        for name in names {
            let (more, next) = self.member(id, name, 0)?;
            bits += more;
            id = next;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// A member's offset in bits and its type; anonymous structs and unions are looked into.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let of = self.resolve(id)?;
        if !matches!(of.kind(), STRUCT | UNION) || depth > 8 {
            return None;
        }
        for index in 0..of.members() {
            let at = of.at + 12 + 12 * index;
            let (called, kind, mut bits) = (
                word(&self.data, at)?,
                word(&self.data, at + 4)?,
                word(&self.data, at + 8)?,
            );
            if of.bitfields() {
                if bits >> 24 != 0 {
                    continue;
                }
                bits &= 0x00ff_ffff;
            }
            if called == 0 {
                if let Some((more, found)) = self.member(kind, name, depth + 1) {
                    return Some((bits + more, found));
                }
            } else if self.is(called, name) {
                return Some((bits, kind));
            }
        }
        None
    }

    fn constant(&self, name: &str, constant: &str) -> Option<u32> {
        let of = self.get(*self.named.get(&(ENUM, name.to_owned()))?)?;
        (0..of.members()).find_map(|index| {
            let at = of.at + 12 + 8 * index;
            self.is(word(&self.data, at)?, constant)
                .then(|| word(&self.data, at + 4))?
        })
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..16 {
            let of = self.get(id)?;
            match of.kind() {
                8..=11 | 18 => id = of.size,
                _ => return Some(of),
            }
        }
        None
    }

    fn get(&self, id: u32) -> Option<Type> {
        let at = *self.types.get(id as usize).filter(|_| id != 0)? as usize;
        Type::at(&self.data, at)
    }

    fn is(&self, name: u32, text: &str) -> bool {
        self.data
            .get(self.strings.saturating_add(name as usize)..)
            .is_some_and(|rest| {
                rest.starts_with(text.as_bytes()) && rest.get(text.len()) == Some(&0)
            })
    }
}

/// A tracepoint's arguments are a typedef of this prefix (include/trace/bpf_probe.h).
fn kind_of(name: &str) -> u32 {
    if name.starts_with("btf_trace_") {
        TYPEDEF
    } else {
        FUNC
    }
}

#[cfg(test)]
mod tests;
