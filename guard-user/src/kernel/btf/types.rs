//! The format of BTF, as it stands in the file (Documentation/bpf/btf.rst).

/// What a file begins with (`BTF_MAGIC`), and kinds of types (`BTF_KIND_*`, include/uapi/linux/btf.h).
pub const MAGIC: u16 = 0xeb9f;
pub const STRUCT: u32 = 4;
pub const UNION: u32 = 5;
pub const ENUM: u32 = 6;
pub const TYPEDEF: u32 = 8;
pub const FUNC: u32 = 12;
pub const VAR: u32 = 14;

/// One type: where it stands, and its three words.
#[derive(Clone, Copy)]
pub struct Type {
    pub at: usize,
    pub name: u32,
    info: u32,
    pub size: u32,
}

impl Type {
    pub fn at(data: &[u8], at: usize) -> Option<Self> {
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
    pub fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }
    pub fn members(self) -> usize {
        (self.info & 0xffff) as usize
    }
    pub fn bitfields(self) -> bool {
        self.info >> 31 != 0
    }
    /// Bytes that follow the three words.
    pub fn tail(self) -> Option<usize> {
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
pub const NAMED: u32 = 1 << STRUCT | 1 << ENUM | 1 << TYPEDEF | 1 << FUNC | 1 << VAR;

/// Beginnings of names that are told apart.
pub const BEGINS: usize = 1 << 14;

/// The first eight bytes of a name, or all before its NUL, as an index.
pub fn beginning(name: &[u8]) -> usize {
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

/// A word of the file; `None`: it ends before.
pub fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
