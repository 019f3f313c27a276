//! What `CONFIG` decides in a program, decided before it is loaded.
//!
//! Programs are made for all kernels and both versions of cgroups: what a kernel is like stands in `CONFIG`, which the verifier
//! knows too, so that it goes no way that leads nowhere. But it carries what it knows along each instruction that is there, which on
//! 7.3 is most of a start (docs/decisions/0024), and a task that comes by runs the reads of `CONFIG` and the branches on it. Here they
//! become numbers, and what they lead to alone is left out.
//!
//! Conditional constant propagation (Wegman and Zadeck, 1991) over the registers, then removal of what nobody uses; each function for itself.
//! Instructions are those of RFC 9669. Code that comes to one that is not known here stays as it is.

mod instruction;
mod known;
mod used;

use std::os::fd::RawFd;

use aya_obj::generated::bpf_insn;

use instruction::{Instruction, Kind};
use known::{Known, Value};

/// The table that holds `CONFIG`, as programs name it, and what is in it for good.
pub struct Constants {
    pub table: RawFd,
    pub bytes: Vec<u8>,
}

impl Constants {
    /// What a load of so many bytes finds there.
    fn load(&self, offset: i64, size: usize) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(size)?)?;
        let mut word = [0; 8];
        word.get_mut(..size)?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(word))
    }
}

/// A program without what `CONFIG` has decided.
pub struct Folded {
    pub code: Vec<bpf_insn>,
    /// For each instruction that there was: where it is, or what comes in its place; `None`: nothing comes to it.
    moved: Vec<Option<u32>>,
}

impl Folded {
    /// Where the function is that began at `at`; `None`: nobody calls it any more.
    pub fn moved(&self, at: u32) -> Option<u32> {
        *self.moved.get(at as usize)?
    }
}

/// The program, with all that it calls behind it. `None`: it holds an instruction that is not known here.
pub fn folded(code: &[bpf_insn], constants: &Constants) -> Option<Folded> {
    let code: Vec<Instruction> = code.iter().map(Instruction::of).collect();
    let known = Known::of(&code, constants)?;
    let mut new = code.clone();
    let mut reached = vec![false; code.len()];
    let mut kept = vec![false; code.len()];
    known.each(|at, registers| {
        reached[at] = true;
        match rewritten(&code[at], registers, constants) {
            Rewritten::As(instruction) => {
                new[at] = instruction;
                kept[at] = true;
                // The second half of a constant is kept or left out with the first.
                if instruction.kind == Some(Kind::Constant) {
                    kept[at + 1] = true;
                }
            }
            Rewritten::Nothing => {}
        }
    })?;
    loop {
        used::remove(&new, &mut kept)?;
        if !remove_jumps_to_next(&new, &mut kept)? {
            return compact(&new, &kept, &reached);
        }
    }
}

enum Rewritten {
    As(Instruction),
    Nothing,
}

/// An instruction that does the same where these are the registers.
fn rewritten(old: &Instruction, registers: &[Value], constants: &Constants) -> Rewritten {
    let mut new = *old;
    let by_number = match (old.has_source(), registers[usize::from(old.source)]) {
        (true, Value::Number(number)) => Some(number),
        _ => None,
    };
    match old.kind {
        Some(Kind::Load { size }) => {
            let found = known::loaded(old, registers, size, constants);
            new = found.and_then(|value| old.set(value)).unwrap_or(new);
        }
        Some(Kind::Alu { wide }) => {
            let result = known::computed(old, registers);
            match (result, by_number) {
                (Value::Number(result), _) => new = old.set(result).unwrap_or(new),
                (_, Some(number)) => new = old.by_number(number, wide).unwrap_or(new),
                _ => {}
            }
        }
        Some(Kind::Branch { wide }) => match (known::taken(old, registers), by_number) {
            (Some(true), _) => new = Instruction::jump(old.off),
            (Some(false), _) => return Rewritten::Nothing,
            (None, Some(number)) => new = old.by_number(number, wide).unwrap_or(new),
            (None, None) => {}
        },
        _ => {}
    }
    Rewritten::As(new)
}

/// The first instruction from `at` on that is kept.
fn first_kept(kept: &[bool], at: usize) -> usize {
    (at..kept.len()).find(|at| kept[*at]).unwrap_or(kept.len())
}

/// Whether there was a jump to what comes next anyway.
fn remove_jumps_to_next(code: &[Instruction], kept: &mut [bool]) -> Option<bool> {
    let mut removed = false;
    for at in 0..code.len() {
        if kept[at]
            && matches!(code[at].kind, Some(Kind::Jump | Kind::Branch { .. }))
            && first_kept(kept, code[at].target(at)?) == first_kept(kept, at + 1)
        {
            kept[at] = false;
            removed = true;
        }
    }
    Some(removed)
}

fn compact(code: &[Instruction], kept: &[bool], reached: &[bool]) -> Option<Folded> {
    let mut position = Vec::with_capacity(code.len() + 1);
    let mut count = 0_u32;
    for kept in kept {
        position.push(count);
        count += u32::from(*kept);
    }
    position.push(count);
    let mut new = Vec::with_capacity(count as usize);
    for (at, instruction) in code.iter().enumerate().filter(|(at, _)| kept[*at]) {
        let mut instruction = *instruction;
        let distance = |target: usize| {
            let to = i64::from(*position.get(target)?);
            Some(to - i64::from(position[at]) - 1)
        };
        match instruction.kind {
            Some(Kind::Jump | Kind::Branch { .. }) => {
                let target = instruction.target(at)?;
                instruction.off = i16::try_from(distance(target)?).ok()?;
            }
            Some(Kind::CallOwn) => {
                let target = instruction.called(at)?;
                instruction.imm = i32::try_from(distance(target)?).ok()?;
            }
            _ => {}
        }
        new.push(instruction.raw());
    }
    let moved = (0..code.len())
        .map(|at| reached[at].then_some(position[at]))
        .collect();
    Some(Folded { code: new, moved })
}

#[cfg(test)]
mod tests;
