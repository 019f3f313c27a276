//! Which registers are used after each instruction.

use aya_obj::generated::{BPF_END, BPF_MOV};

use super::instruction::{Instruction, Kind};

/// A bit for each register.
type Set = u16;
/// `r1` to `r5`: what a call may take.
const TAKEN: Set = 0b11_1110;
/// `r0` to `r5`: what a call leaves as it likes.
const CLOBBERED: Set = 0b11_1111;

const fn of(register: u8) -> Set {
    1 << register
}

/// Leaves out what nobody uses, of what is kept. `None`: there is an instruction that is not known.
pub fn remove(code: &[Instruction], kept: &mut [bool]) -> Option<()> {
    // From each instruction on, before they are written.
    let mut used: Vec<Set> = vec![0; code.len() + 1];
    // What leads on is known when it is come to from behind; what leads back has to be gone over until nothing changes.
    while pass(code, kept, &mut used, false)? && leads_back(code, kept) {}
    pass(code, kept, &mut used, true)?;
    Some(())
}

/// Once over all, from behind; whether anything has changed. `removing`: what is not used after it is left out, and uses nothing.
fn pass(code: &[Instruction], kept: &mut [bool], used: &mut [Set], removing: bool) -> Option<bool> {
    let mut changed = false;
    for at in (0..code.len()).rev() {
        let instruction = &code[at];
        let second_half = instruction.code == 0;
        if removing && kept[at] && !second_half {
            let length = match instruction.kind? {
                Kind::Constant => 2,
                Kind::Alu { .. } | Kind::Load { .. } => 1,
                _ => 0,
            };
            if length > 0 && used[at + length] & of(instruction.destination) == 0 {
                kept[at..at + length].fill(false);
            }
        }
        let now = if !kept[at] || second_half {
            used[at + 1]
        } else {
            from(instruction, at, used)?
        };
        changed |= now != used[at];
        used[at] = now;
    }
    Some(changed)
}

fn leads_back(code: &[Instruction], kept: &[bool]) -> bool {
    (code.iter().zip(kept)).any(|(instruction, kept)| {
        *kept
            && instruction.off < 0
            && matches!(instruction.kind, Some(Kind::Jump | Kind::Branch { .. }))
    })
}

fn from(instruction: &Instruction, at: usize, used: &[Set]) -> Option<Set> {
    let (destination, source) = (of(instruction.destination), of(instruction.source));
    let operand = match instruction.has_source() {
        true => source,
        false => 0,
    };
    let next = used[at + 1];
    Some(match instruction.kind? {
        Kind::Constant => used.get(at + 2)? & !destination,
        Kind::Load { .. } => next & !destination | source,
        Kind::StoreNumber => next | destination,
        // A comparison looks at r0.
        Kind::Store { atomic } => next | destination | source | Set::from(atomic),
        Kind::Alu { .. } => match u32::from(instruction.code) & 0xf0 {
            BPF_MOV => next & !destination | operand,
            // The bit says which end comes first.
            BPF_END => next | destination,
            _ => next | destination | operand,
        },
        Kind::Branch { .. } => {
            let target = *used.get(instruction.target(at)?)?;
            next | target | destination | operand
        }
        Kind::Jump => *used.get(instruction.target(at)?)?,
        Kind::Call | Kind::CallOwn => next & !CLOBBERED | TAKEN,
        Kind::Exit => of(0),
    })
}
