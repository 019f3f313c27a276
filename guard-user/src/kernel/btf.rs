//! Offsets, enum values and function ids of the running kernel, from its own type information (BTF): never assumed.
//!
//! Format: Documentation/bpf/btf.rst. Kinds that this reader does not know end the reading with an error.

use std::{collections::HashMap, io, path::Path};

use foldhash::fast::FixedState;
use guard_common::config::{
    FIELDS, Field, INTERRUPT_BITS, INTERRUPT_BITS_OF_64, MISSING, OFFSET_MAX,
};
use thiserror::Error;

use super::bytes::Bytes;

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const VAR: u32 = 14;

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

/// One type: where it stands, and its three words.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    info: u32,
    size: u32,
}

impl Type {
    fn at(data: &[u8], at: usize) -> Option<Self> {
        let three: &[u8; 12] = data.get(at..)?.first_chunk()?;
        let [name, info, size] = [0, 4, 8].map(|from| {
            let mut word = [0; 4];
            word.copy_from_slice(&three[from..from + 4]);
            u32::from_le_bytes(word)
        });
        Some(Self {
            at,
            name,
            info,
            size,
        })
    }
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    fn members(self) -> usize {
        (self.info & 0xffff) as usize
    }
    fn bitfields(self) -> bool {
        self.info >> 31 != 0
    }
    /// Bytes that follow the three words.
    fn tail(self) -> Option<usize> {
        let (once, each) = TAILS[self.kind() as usize]?;
        Some(usize::from(once) + usize::from(each) * self.members())
    }
}

/// By kind: bytes that follow the three words once, and for each member. A table, since this is asked of each type of the kernel.
const TAILS: [Option<(u8, u8)>; 32] = {
    const NONE: Option<(u8, u8)> = Some((0, 0));
    const ONE_WORD: Option<(u8, u8)> = Some((4, 0));
    const THREE_EACH: Option<(u8, u8)> = Some((0, 12));
    const TWO_EACH: Option<(u8, u8)> = Some((0, 8));
    let mut tails = [None; 32];
    // Integers, pointers, arrays;
    (tails[1], tails[2], tails[3]) = (ONE_WORD, NONE, Some((12, 0)));
    (tails[STRUCT as usize], tails[UNION as usize]) = (THREE_EACH, THREE_EACH);
    tails[ENUM as usize] = TWO_EACH;
    // declarations, typedefs, `volatile`, `const`, `restrict`, functions and their prototypes;
    (tails[7], tails[TYPEDEF as usize], tails[9]) = (NONE, NONE, NONE);
    (tails[10], tails[11], tails[FUNC as usize]) = (NONE, NONE, NONE);
    tails[13] = TWO_EACH;
    // variables, sections, floating-point numbers, tags of declarations and of types, enums of 64 bits.
    (tails[VAR as usize], tails[15], tails[16]) = (ONE_WORD, THREE_EACH, NONE);
    (tails[17], tails[18], tails[19]) = (ONE_WORD, NONE, THREE_EACH);
    tails
};

/// Kinds that are looked for by name, a bit each.
const NAMED: u32 = 1 << STRUCT | 1 << ENUM | 1 << TYPEDEF | 1 << FUNC | 1 << VAR;

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

/// Beginnings of names that are told apart.
const BEGINS: usize = 1 << 14;

/// The first eight bytes of a name, or all before its NUL, as an index.
fn beginning(name: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut eight = [0; 8];
    match name.first_chunk() {
        Some(first) => eight = *first,
        None => eight[..name.len()].copy_from_slice(name),
    }
    let word = u64::from_le_bytes(eight);
    // The top bit of each byte that is 0, the lowest of them for certain.
    let nul = word.wrapping_sub(ONES) & !word & ONES << 7;
    let before = (nul & nul.wrapping_neg()).wrapping_sub(1);
    // Fibonacci hashing, as in `guard_common::host::user_of`.
    ((word & before).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BEGINS.trailing_zeros())) as usize
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct `task_struct { int a; union { long cgroups; }; }`, by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0task_struct\0a\0cgroups\0f\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([1, 1 << 24, 4, 32]); // 1: int
        types.extend([0, UNION << 24 | 1, 8, 19, 1, 0]); // 2: anonymous union
        types.extend([5, STRUCT << 24 | 2, 16, 17, 1, 0, 0, 2, 64]); // 3: task_struct
        types.extend([27, FUNC << 24, 1]); // 4: f
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut data = MAGIC.to_le_bytes().to_vec();
        data.extend([1, 0]);
        for word in [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ] {
            data.extend(word.to_le_bytes());
        }
        data.extend(types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_are_found_inside_anonymous_unions_and_only_those_that_exist() {
        let btf = Btf::parse(sample(), &["f", "g"]).unwrap();
        let words = btf.config();
        assert_eq!(words[Field::TaskCgroups as usize], 8);
        assert_eq!(words[Field::TaskFlags as usize], MISSING);
        assert_eq!((btf.function("f"), btf.function("g")), (Some(4), None));
    }

    #[test]
    fn a_name_of_any_length_is_found_behind_a_type_of_any_kind() {
        let names = ["", "f", "seventh", "eight888", "nine99999", "nine9999"];
        let strings: Vec<u8> = (names.iter())
            .flat_map(|name| name.bytes().chain([0]))
            .collect();
        let mut types: Vec<u32> = Vec::new();
        // Each kind with two members, and as many words behind it as the format says (Documentation/bpf/btf.rst).
        let words = [1, 0, 3, 6, 6, 4, 0, 0, 0, 0, 0, 0, 4, 1, 6, 0, 1, 0, 6];
        for (kind, words) in (1_u32..).zip(words) {
            types.extend([0, kind << 24 | 2, 0]);
            types.extend(std::iter::repeat_n(0, words));
        }
        let mut at = 0;
        for name in names {
            types.extend([at, FUNC << 24, 0]);
            at += name.len() as u32 + 1;
        }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut data = MAGIC.to_le_bytes().to_vec();
        data.extend([1, 0]);
        let (length, all) = (types.len() as u32, strings.len() as u32);
        for word in [24, 0, length, length, all] {
            data.extend(word.to_le_bytes());
        }
        data.extend(types);
        data.extend(&strings);
        let asked = [&names[1..], &["eight88", "eight8888", "nine999999"]].concat();
        // With and without the NUL behind the last.
        for _ in 0..2 {
            let btf = Btf::parse(data.clone(), &asked).unwrap();
            let found: Vec<Option<u32>> = asked.iter().map(|name| btf.function(name)).collect();
            let expected = (21..26).map(Some).chain([None; 3]);
            assert_eq!(found, expected.collect::<Vec<_>>());
            data.pop();
        }
    }

    #[test]
    fn preempt_count_is_where_the_kernel_has_it_and_as_wide() {
        // `int` or `long`, a variable of it; or a variable of a structure with it behind a pointer.
        let of = |variable: &str, types: &[u32]| {
            let strings = format!("\0int\0{variable}\0pcpu_hot\0preempt_count\0");
            let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut data = MAGIC.to_le_bytes().to_vec();
            data.extend([1, 0]);
            let (length, names) = (types.len() as u32, strings.len() as u32);
            for word in [24, 0, length, length, names] {
                data.extend(word.to_le_bytes());
            }
            data.extend(types);
            data.extend(strings.bytes());
            Btf::parse(data, &[]).unwrap().preempt_count()
        };
        let found = |variable, at, interrupt_bits| {
            Some(PreemptCount {
                variable,
                at,
                interrupt_bits,
            })
        };
        let plain = |size: u32| [1, 1 << 24, size, 8 * size, 5, VAR << 24, 1, 1];
        assert_eq!(
            of("__preempt_count", &plain(4)),
            found(2, 0, INTERRUPT_BITS)
        );
        assert_eq!(
            of("__preempt_count", &plain(8)),
            found(2, 0, INTERRUPT_BITS_OF_64)
        );
        assert_eq!(of("__preempt_count", &plain(2)), None);
        assert_eq!(of("__preempt_counts", &plain(4)), None);
        let hot = [
            1,
            1 << 24,
            4,
            32, // int
            14,
            STRUCT << 24 | 1,
            64,
            23,
            1,
            64, // pcpu_hot { …; int preempt_count; }
            5,
            VAR << 24,
            2,
            1, // the variable
        ];
        assert_eq!(of("pcpu_hot", &hot), found(3, 8, INTERRUPT_BITS));
    }

    #[test]
    fn a_cut_or_foreign_file_is_an_error_and_no_panic() {
        let whole = sample();
        for length in 0..whole.len() {
            let _ = Btf::parse(whole[..length].to_vec(), &["f"]).map(|btf| btf.config());
        }
        assert!(Btf::parse(b"\x7fELF and more".to_vec(), &[]).is_err());
        assert!(Btf::parse(whole[..30].to_vec(), &[]).is_err());
    }
}
