//! Instructions, as far as folding must know them.

use aya_obj::generated::{
    BPF_ADD, BPF_ALU, BPF_ALU64, BPF_AND, BPF_ATOMIC, BPF_B, BPF_CALL, BPF_DW, BPF_EXIT, BPF_FETCH,
    BPF_H, BPF_IMM, BPF_JA, BPF_JMP, BPF_JMP32, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MOV, BPF_OR,
    BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, BPF_ST, BPF_STX, BPF_W, BPF_X, BPF_XOR, bpf_insn,
};

use super::known::{Operation, operation};

/// What an instruction is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A constant of 64 bits into a register; the next instruction is its second half.
    Constant,
    /// So many bytes of memory into a register.
    Load {
        size: usize,
    },
    /// A number into memory.
    StoreNumber,
    /// A register into memory, or an atomic operation with both.
    Store {
        atomic: bool,
    },
    /// Arithmetic, of 64 bits or 32.
    Alu {
        wide: bool,
    },
    /// A jump with a condition, over 64 bits or 32.
    Branch {
        wide: bool,
    },
    /// A jump without.
    Jump,
    /// A call of a function of the kernel's.
    Call,
    /// A call of a function in the same code.
    CallOwn,
    Exit,
}

/// `BPF_XCHG` and `BPF_CMPXCHG`, without `BPF_FETCH`.
const EXCHANGE: u32 = 0xe0;
const COMPARE: u32 = 0xf0;

fn kind(code: u32, source: u32, imm: u32) -> Option<Kind> {
    let (class, operation) = (code & 0x07, code & 0xf0);
    Some(match class {
        BPF_LD => {
            let whole = code == BPF_LD | BPF_IMM | BPF_DW && source != BPF_PSEUDO_FUNC;
            whole.then_some(Kind::Constant)?
        }
        BPF_LDX => Kind::Load {
            size: (code & 0xe0 == BPF_MEM).then(|| size(code))?,
        },
        BPF_ST => (code & 0xe0 == BPF_MEM).then_some(Kind::StoreNumber)?,
        BPF_STX => match code & 0xe0 {
            BPF_MEM => Kind::Store { atomic: false },
            // The others of RFC 9669, 5.3, and none that loads or stores (6.15).
            BPF_ATOMIC => match imm & !BPF_FETCH {
                BPF_ADD | BPF_OR | BPF_AND | BPF_XOR | EXCHANGE | COMPARE => {
                    Kind::Store { atomic: true }
                }
                _ => return None,
            },
            _ => return None,
        },
        BPF_ALU | BPF_ALU64 => Kind::Alu {
            wide: class == BPF_ALU64,
        },
        BPF_JMP if operation == BPF_JA => (code & BPF_X == 0).then_some(Kind::Jump)?,
        BPF_JMP if operation == BPF_EXIT => Kind::Exit,
        BPF_JMP if operation == BPF_CALL => match source {
            BPF_PSEUDO_CALL => Kind::CallOwn,
            _ => Kind::Call,
        },
        BPF_JMP | BPF_JMP32 if operation != BPF_JA && operation <= 0xd0 => Kind::Branch {
            wide: class == BPF_JMP,
        },
        _ => return None,
    })
}

const fn size(code: u32) -> usize {
    match code & 0x18 {
        BPF_W => 4,
        BPF_H => 2,
        BPF_B => 1,
        _ => 8,
    }
}

/// An instruction, taken apart.
#[derive(Clone, Copy)]
pub struct Instruction {
    pub code: u8,
    pub destination: u8,
    pub source: u8,
    pub off: i16,
    pub imm: i32,
    /// `None`: not known here.
    pub kind: Option<Kind>,
}

impl Instruction {
    pub fn of(raw: &bpf_insn) -> Self {
        let (destination, source) = (raw.dst_reg(), raw.src_reg());
        Self {
            code: raw.code,
            destination,
            source,
            off: raw.off,
            imm: raw.imm,
            kind: kind(u32::from(raw.code), u32::from(source), raw.imm as u32),
        }
    }

    pub fn raw(&self) -> bpf_insn {
        bpf_insn {
            code: self.code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(self.destination, self.source),
            off: self.off,
            imm: self.imm,
        }
    }

    fn new(code: u32, destination: u8, off: i16, imm: i32) -> Self {
        Self {
            code: code as u8,
            destination,
            source: 0,
            off,
            imm,
            kind: kind(code, 0, imm as u32),
        }
    }

    /// A jump without a condition.
    pub fn jump(off: i16) -> Self {
        Self::new(BPF_JMP | BPF_JA, 0, off, 0)
    }

    /// Puts a number into the register that this one writes; `None`: it takes two instructions.
    pub fn set(&self, number: u64) -> Option<Self> {
        let (class, imm) = match (u32::try_from(number), i32::try_from(number as i64)) {
            // 32 bits, and zeros above them.
            (Ok(low), _) => (BPF_ALU, low as i32),
            (Err(_), Ok(signed)) => (BPF_ALU64, signed),
            (Err(_), Err(_)) => return None,
        };
        Some(Self::new(class | BPF_MOV | BPF_K, self.destination, 0, imm))
    }

    /// The same with a number in place of the source register; `None`: it cannot be said so.
    pub fn by_number(&self, number: u64, wide: bool) -> Option<Self> {
        let imm = match wide {
            true => i32::try_from(number as i64).ok()?,
            false => number as u32 as i32,
        };
        if !matches!(self.kind?, Kind::Branch { .. }) {
            let bits = if wide { 64 } else { 32 };
            match operation(self)? {
                // The verifier wants to see a number of bits there.
                Operation::Left | Operation::Right | Operation::SignedRight if number >= bits => {
                    return None;
                }
                _ => {}
            }
        }
        let code = u32::from(self.code) & !BPF_X;
        Some(Self::new(code, self.destination, self.off, imm))
    }

    /// Whether arithmetic or a branch takes its second operand from a register.
    pub fn has_source(&self) -> bool {
        u32::from(self.code) & BPF_X != 0
    }

    /// Where a jump leads to.
    pub fn target(&self, at: usize) -> Option<usize> {
        (at + 1).checked_add_signed(isize::from(self.off))
    }

    /// Where a function begins that is called.
    pub fn called(&self, at: usize) -> Option<usize> {
        (at + 1).checked_add_signed(isize::try_from(self.imm).ok()?)
    }
}
