//! What the registers are known to hold before each instruction, and which instructions anything comes to.

use std::collections::BTreeSet;

use aya_obj::generated::{
    BPF_ADD, BPF_AND, BPF_ARSH, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JLE, BPF_JLT, BPF_JNE, BPF_JSET,
    BPF_JSGE, BPF_JSGT, BPF_JSLE, BPF_JSLT, BPF_LSH, BPF_MOV, BPF_MUL, BPF_NEG, BPF_OR,
    BPF_PSEUDO_MAP_VALUE, BPF_RSH, BPF_SUB, BPF_XOR,
};

use super::{
    Constants,
    instruction::{Instruction, Kind},
};

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Unknown,
    Number(u64),
    /// An address so far into [`Constants`].
    Constants(i64),
}

/// `r0` to `r10`.
const REGISTERS: usize = 11;
pub type Registers = [Value; REGISTERS];
/// `r0` to `r5` are a call's.
const CALL: usize = 6;

/// See the module.
pub struct Known<'c> {
    code: &'c [Instruction],
    constants: &'c Constants,
    /// What is known where a jump, a call or the start leads to, and nowhere else: from there on it is reckoned.
    joins: Vec<Option<Box<Registers>>>,
}

impl<'c> Known<'c> {
    /// `None`: there is an instruction that is not known.
    pub fn of(code: &'c [Instruction], constants: &'c Constants) -> Option<Self> {
        let mut known = Self {
            code,
            constants,
            joins: vec![None; code.len()],
        };
        let targets = targets(code)?;
        let mut open = BTreeSet::from([0]);
        known.joins.first()?;
        known.joins[0] = Some(Box::new([Value::Unknown; REGISTERS]));
        // The first one first: most ways lead on, and few back.
        while let Some(start) = open.pop_first() {
            let mut ways = Vec::new();
            known.follow(start, &targets, |_, _| {}, &mut ways)?;
            for (target, registers) in ways {
                if known.joins(target, &registers) {
                    open.insert(target);
                }
            }
        }
        Some(known)
    }

    /// Every instruction that anything comes to, and the registers before it.
    pub fn each(&self, mut visit: impl FnMut(usize, &Registers)) -> Option<()> {
        let targets = targets(self.code)?;
        let starts = (self.joins.iter().enumerate()).filter(|(_, join)| join.is_some());
        for (start, _) in starts {
            self.follow(start, &targets, &mut visit, &mut Vec::new())?;
        }
        Some(())
    }

    /// From where some ways meet to where others do, and where it leads to then.
    fn follow(
        &self,
        start: usize,
        targets: &[bool],
        mut visit: impl FnMut(usize, &Registers),
        ways: &mut Vec<(usize, Registers)>,
    ) -> Option<()> {
        let mut registers = **self.joins[start].as_ref()?;
        let mut at = start;
        loop {
            let instruction = self.code.get(at)?;
            visit(at, &registers);
            let mut next = at + 1;
            match instruction.kind? {
                Kind::Exit => return Some(()),
                Kind::Jump => {
                    ways.push((instruction.target(at)?, registers));
                    return Some(());
                }
                Kind::Branch { .. } => {
                    let taken = taken(instruction, &registers);
                    if taken != Some(false) {
                        ways.push((instruction.target(at)?, registers));
                    }
                    if taken == Some(true) {
                        return Some(());
                    }
                }
                Kind::Constant => {
                    let second = self.code.get(next)?;
                    registers[usize::from(instruction.destination)] =
                        constant(instruction, second, self.constants);
                    next += 1;
                }
                Kind::CallOwn => {
                    let called = instruction.called(at)?;
                    ways.push((called, [Value::Unknown; REGISTERS]));
                    registers[..CALL].fill(Value::Unknown);
                }
                Kind::Call => registers[..CALL].fill(Value::Unknown),
                Kind::Load { size } => {
                    let loaded = loaded(instruction, &registers, size, self.constants);
                    registers[usize::from(instruction.destination)] =
                        loaded.map_or(Value::Unknown, Value::Number);
                }
                Kind::Alu { .. } => {
                    registers[usize::from(instruction.destination)] =
                        computed(instruction, &registers);
                }
                Kind::StoreNumber | Kind::Store { atomic: false } => {}
                Kind::Store { atomic: true } => {
                    // It may give back what was there, in the source or, as a comparison does, in r0.
                    registers[usize::from(instruction.source)] = Value::Unknown;
                    registers[0] = Value::Unknown;
                }
            }
            if *targets.get(next)? {
                ways.push((next, registers));
                return Some(());
            }
            at = next;
        }
    }

    /// One more way leads there; whether less is known for it.
    fn joins(&mut self, at: usize, registers: &Registers) -> bool {
        match &mut self.joins[at] {
            none @ None => {
                *none = Some(Box::new(*registers));
                true
            }
            Some(before) => {
                let mut less = false;
                for (one, other) in before.iter_mut().zip(registers) {
                    if one != other && *one != Value::Unknown {
                        *one = Value::Unknown;
                        less = true;
                    }
                }
                less
            }
        }
    }
}

/// Which instructions are jumped to or called. `None`: one that is not known, or a way out of the code.
fn targets(code: &[Instruction]) -> Option<Vec<bool>> {
    let mut targets = vec![false; code.len()];
    for (at, instruction) in code.iter().enumerate() {
        let target = match instruction.kind {
            Some(Kind::Jump | Kind::Branch { .. }) => instruction.target(at)?,
            Some(Kind::CallOwn) => instruction.called(at)?,
            _ => continue,
        };
        *targets.get_mut(target)? = true;
    }
    Some(targets)
}

fn constant(first: &Instruction, second: &Instruction, constants: &Constants) -> Value {
    match u32::from(first.source) {
        0 => Value::Number(u64::from(second.imm as u32) << 32 | u64::from(first.imm as u32)),
        BPF_PSEUDO_MAP_VALUE if first.imm == constants.table => {
            Value::Constants(i64::from(second.imm))
        }
        _ => Value::Unknown,
    }
}

/// What a load finds in [`Constants`]; `None`: it looks elsewhere.
pub fn loaded(
    load: &Instruction,
    registers: &[Value],
    size: usize,
    constants: &Constants,
) -> Option<u64> {
    match registers[usize::from(load.source)] {
        Value::Constants(offset) => constants.load(offset + i64::from(load.off), size),
        Value::Unknown | Value::Number(_) => None,
    }
}

/// Arithmetic that is done here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Or,
    And,
    Xor,
    Left,
    Right,
    SignedRight,
    Negate,
    Move,
}

/// `None`: some that is not done here.
pub fn operation(alu: &Instruction) -> Option<Operation> {
    // With one it is another operation, that extends signs (RFC 9669, 4.1).
    if alu.off != 0 {
        return None;
    }
    Some(match u32::from(alu.code) & 0xf0 {
        BPF_ADD => Operation::Add,
        BPF_SUB => Operation::Subtract,
        BPF_MUL => Operation::Multiply,
        BPF_OR => Operation::Or,
        BPF_AND => Operation::And,
        BPF_XOR => Operation::Xor,
        BPF_LSH => Operation::Left,
        BPF_RSH => Operation::Right,
        BPF_ARSH => Operation::SignedRight,
        BPF_NEG => Operation::Negate,
        BPF_MOV => Operation::Move,
        _ => return None,
    })
}

/// The second operand of arithmetic or of a branch.
fn second(instruction: &Instruction, registers: &[Value]) -> Value {
    if instruction.has_source() {
        registers[usize::from(instruction.source)]
    } else {
        Value::Number(i64::from(instruction.imm) as u64)
    }
}

/// What arithmetic comes to.
pub fn computed(alu: &Instruction, registers: &[Value]) -> Value {
    let (Some(operation), Some(Kind::Alu { wide })) = (operation(alu), alu.kind) else {
        return Value::Unknown;
    };
    let first = registers[usize::from(alu.destination)];
    match (operation, first, second(alu, registers)) {
        (Operation::Move, _, Value::Constants(offset)) if wide => Value::Constants(offset),
        (Operation::Move, _, Value::Number(number)) if wide => Value::Number(number),
        (Operation::Move, _, Value::Number(number)) => Value::Number(u64::from(number as u32)),
        (Operation::Add, Value::Constants(offset), Value::Number(number)) if wide => {
            Value::Constants(offset.wrapping_add(number as i64))
        }
        (_, Value::Number(first), Value::Number(second)) => Value::Number(match wide {
            true => of_64(operation, first, second),
            false => u64::from(of_32(operation, first as u32, second as u32)),
        }),
        _ => Value::Unknown,
    }
}

// A shift is by as many bits as fit (RFC 9669, 4.1).
const fn of_64(operation: Operation, first: u64, second: u64) -> u64 {
    match operation {
        Operation::Add => first.wrapping_add(second),
        Operation::Subtract => first.wrapping_sub(second),
        Operation::Multiply => first.wrapping_mul(second),
        Operation::Or => first | second,
        Operation::And => first & second,
        Operation::Xor => first ^ second,
        Operation::Left => first.wrapping_shl(second as u32),
        Operation::Right => first.wrapping_shr(second as u32),
        Operation::SignedRight => (first as i64).wrapping_shr(second as u32) as u64,
        Operation::Negate => first.wrapping_neg(),
        Operation::Move => second,
    }
}

// But for what is shifted, the low half of a result is that of the low halves.
const fn of_32(operation: Operation, first: u32, second: u32) -> u32 {
    match operation {
        Operation::Left => first.wrapping_shl(second),
        Operation::Right => first.wrapping_shr(second),
        Operation::SignedRight => (first as i32).wrapping_shr(second) as u32,
        _ => of_64(operation, first as u64, second as u64) as u32,
    }
}

/// Whether a branch is taken; `None`: not known.
pub fn taken(branch: &Instruction, registers: &[Value]) -> Option<bool> {
    let Some(Kind::Branch { wide }) = branch.kind else {
        return None;
    };
    let first = registers[usize::from(branch.destination)];
    let (Value::Number(first), Value::Number(second)) = (first, second(branch, registers)) else {
        return None;
    };
    // Of 32 bits each is extended as the comparison takes it.
    let (signed, other) = match wide {
        true => (first as i64, second as i64),
        false => (i64::from(first as i32), i64::from(second as i32)),
    };
    let (first, second) = match wide {
        true => (first, second),
        false => (u64::from(first as u32), u64::from(second as u32)),
    };
    Some(match u32::from(branch.code) & 0xf0 {
        BPF_JEQ => first == second,
        BPF_JNE => first != second,
        BPF_JGT => first > second,
        BPF_JGE => first >= second,
        BPF_JLT => first < second,
        BPF_JLE => first <= second,
        BPF_JSET => first & second != 0,
        BPF_JSGT => signed > other,
        BPF_JSGE => signed >= other,
        BPF_JSLT => signed < other,
        BPF_JSLE => signed <= other,
        _ => return None,
    })
}
