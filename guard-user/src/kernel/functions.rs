//! Type information of our own programs, as little as the kernel wants for a global function.
//!
//! The verifier looks at a global function once, and not at each call with what is known there (`do_check_subprogs`,
//! kernel/bpf/verifier.c, 5.6). Which function is one stands in the type information that the program is loaded with
//! (Documentation/bpf/btf.rst, `BPF_PROG_LOAD`); so a program that calls one is loaded with some, made here: a global function
//! takes numbers, which 5.10 is content with, and gives one. What a static one takes the verifier sees at each call, whatever is
//! said of it here.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya_obj::{
    Function,
    generated::{
        BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, BTF_INT_SIGNED, BTF_KIND_FUNC, BTF_KIND_FUNC_PROTO,
        BTF_KIND_INT, bpf_insn, btf_func_linkage,
    },
};

use super::{fold::Folded, image::Image, sys};

/// The kernel side's global functions, and how many numbers each takes.
const GLOBAL: [(&str, usize); 13] = [
    ("asking_by_helpers", 1),
    ("asking_by_reading", 1),
    ("climb", 2),
    ("gate_close", 3),
    ("gate_denies", 1),
    ("gate_tell_fork", 2),
    ("identity_walk_on", 0),
    ("kernel_current_cgroup", 0),
    ("rtnetlink_many_steps", 0),
    ("rtnetlink_step", 0),
    ("rtnetlink_steps", 0),
    ("subject_hand_over", 0),
    ("thin_discard_search", 2),
];

/// `BTF_MAGIC` (include/uapi/linux/btf.h).
const MAGIC: u16 = 0xeb9f;
/// Bytes of a `struct btf_header`.
const HEADER: u32 = 24;
/// `struct bpf_func_info`: where a function begins, an index into the code, and its type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begins {
    at: u32,
    kind: u32,
}

/// The functions of a program, for its load.
pub struct Functions {
    types: OwnedFd,
    pub begins: Vec<Begins>,
}

impl Functions {
    /// Of this program's code, with all that it calls behind it; `None`: none of that is global.
    ///
    /// # Errors
    /// What the kernel says to the type information.
    pub fn of(image: &Image, program: &str, code: &[bpf_insn]) -> io::Result<Option<Self>> {
        let begins = image.with_functions(|all| {
            let globals: Vec<(&Function, usize)> = all
                .filter_map(|function| {
                    let mut all = GLOBAL.iter();
                    let at = all.position(|(name, _)| *name == function.name)?;
                    Some((function, at))
                })
                .collect();
            begins(code, |code| {
                // Of two that look alike it is either: these take as many numbers.
                let (_, at) = globals.iter().find(|(global, _)| is(global, code))?;
                Some(*at)
            })
        });
        if begins.iter().all(|one| one.kind <= PROGRAM) {
            return Ok(None);
        }
        let types = sys::load_types(&types(program))?;
        Ok(Some(Self { types, begins }))
    }

    /// The code was folded: its functions begin elsewhere, if they are still called.
    pub fn follow(&mut self, folded: &Folded) {
        self.begins.retain_mut(|one| {
            let at = folded.moved(one.at);
            one.at = at.unwrap_or_default();
            at.is_some()
        });
    }

    pub fn types(&self) -> BorrowedFd<'_> {
        self.types.as_fd()
    }
}

/// Numbers of the types, in their order.
const NUMBER: u32 = 1;
const NOTHING: u32 = 2;
const STATIC: u32 = 3;
const PROGRAM: u32 = 4;

/// The type of a global function; its prototype stands before it.
const fn of_global(at: usize) -> u32 {
    PROGRAM + 2 * (at as u32 + 1)
}

/// Where functions begin: the program itself, and all that it calls.
fn begins(code: &[bpf_insn], global: impl Fn(&[bpf_insn]) -> Option<usize>) -> Vec<Begins> {
    let called: BTreeSet<u32> = (code.iter().zip(1_i32..))
        .filter(|(instruction, _)| {
            u32::from(instruction.code) == BPF_JMP | BPF_CALL
                && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
        })
        .filter_map(|(instruction, next)| u32::try_from(next + instruction.imm).ok())
        .collect();
    let called = called.into_iter().map(|at| Begins {
        at,
        kind: (code.get(at as usize..).and_then(&global)).map_or(STATIC, of_global),
    });
    let program = Begins {
        at: 0,
        kind: PROGRAM,
    };
    std::iter::once(program).chain(called).collect()
}

/// Whether code begins with this function. What it calls is elsewhere now; nothing else of it was changed.
fn is(function: &Function, code: &[bpf_insn]) -> bool {
    let own = &function.instructions;
    let alike = |(one, other): (&bpf_insn, &bpf_insn)| {
        (one.code, one.off, one.dst_reg()) == (other.code, other.off, other.dst_reg())
    };
    code.len() >= own.len() && own.iter().zip(code).all(alike)
}

/// The names stand in what `bpftool prog` and a kernel's stack trace show of a program.
fn types(program: &str) -> Vec<u8> {
    let info = |kind: u32, rest: u32| kind << 24 | rest;
    // Each with its NUL; the first is that of what has none.
    let mut names = vec![0];
    let mut named = |name: &str| {
        let at = names.len() as u32;
        names.extend(name.bytes().chain([0]));
        at
    };
    let function = |name: u32, linkage: btf_func_linkage, prototype: u32| {
        let info = info(BTF_KIND_FUNC, linkage as u32);
        [name, info, prototype]
    };
    // `long`, of 64 bits, signed.
    let long = [info(BTF_KIND_INT, 0), 8, BTF_INT_SIGNED << 24 | 64];
    let mut all = vec![named("long")];
    all.extend(long);
    all.extend([0, info(BTF_KIND_FUNC_PROTO, 0), NUMBER]);
    for name in ["function", program] {
        let linkage = btf_func_linkage::BTF_FUNC_STATIC;
        all.extend(function(named(name), linkage, NOTHING));
    }
    let taken = named("number");
    for (at, (name, takes)) in GLOBAL.into_iter().enumerate() {
        all.extend([0, info(BTF_KIND_FUNC_PROTO, takes as u32), NUMBER]);
        for _ in 0..takes {
            all.extend([taken, NUMBER]);
        }
        let linkage = btf_func_linkage::BTF_FUNC_GLOBAL;
        all.extend(function(named(name), linkage, of_global(at) - 1));
    }
    let (length, text) = (4 * all.len() as u32, names.len() as u32);
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    // Version 1, no flags.
    bytes.extend([1, 0]);
    for word in [HEADER, 0, length, length, text].into_iter().chain(all) {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(names);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u32, source: u8, imm: i32) -> bpf_insn {
        let mut instruction = bpf_insn {
            code: code as u8,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(0, source),
            off: 0,
            imm,
        };
        instruction.set_src_reg(source);
        instruction
    }

    #[test]
    fn a_function_begins_where_it_is_called_and_the_program_at_0() {
        let exit = instruction(0x95, 0, 0);
        let call = |imm| instruction(BPF_JMP | BPF_CALL, BPF_PSEUDO_CALL as u8, imm);
        let helper = instruction(BPF_JMP | BPF_CALL, 0, 14);
        let of = |code: &[bpf_insn]| {
            begins(code, |code| (code[0].code == 0x95).then_some(1))
                .iter()
                .map(|one| (one.at, one.kind))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[helper, exit]), [(0, PROGRAM)]);
        let code = [call(2), call(2), call(1), helper, exit];
        // The second and the third call the same one.
        assert_eq!(of(&code), [(0, PROGRAM), (3, STATIC), (4, of_global(1))]);
    }
}
