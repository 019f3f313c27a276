//! Variables of the running kernel that our programs read: put into their code when they are loaded, in the place of marks.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, BufReader},
};

use aya_obj::generated::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_BTF_ID, bpf_insn};
use guard_common::config::{PREEMPT_COUNT, PRINTK_RING};

use super::{btf::Btf, load::LoadError};

/// An instruction that loads a constant of 64 bits; the next one holds its upper half.
const LOAD: u32 = BPF_LD | BPF_IMM | BPF_DW;

/// Addresses of the kernel's variables (Documentation/admin-guide/sysctl/kernel.rst, `kptr_restrict`).
const SYMBOLS: &str = "/proc/kallsyms";

const MARKS: [u64; 2] = [PREEMPT_COUNT, PRINTK_RING];

/// What a program holds in the place of a mark.
enum Value {
    /// A variable that the verifier knows, by its id.
    Variable(u32),
    /// A number.
    Number(u64),
}

/// The code, with this kernel's variables in the place of marks.
///
/// # Errors
/// [`LoadError::NoVariable`].
pub fn resolved<'c>(btf: &Btf, code: &'c [bpf_insn]) -> Result<Cow<'c, [bpf_insn]>, LoadError> {
    with(code, |mark| {
        match mark {
            // Where there is none the program does not come to it: it knows that by its `CONFIG`.
            PREEMPT_COUNT => Ok(match btf.preempt_count() {
                Some(count) => Value::Variable(count.variable),
                None => Value::Number(0),
            }),
            _ => address("prb"),
        }
    })
}

fn address(name: &'static str) -> Result<Value, LoadError> {
    let read = || symbol(BufReader::new(File::open(SYMBOLS)?), name);
    match read() {
        Ok(Some(address)) => Ok(Value::Number(address)),
        Ok(None) | Err(_) => Err(LoadError::NoVariable(name)),
    }
}

/// The address of a variable (of `d`, `D`, `b` or `B`) in a list of lines `ADDRESS KIND NAME [MODULE]`. 0 is what those are shown who may not see it.
fn symbol(mut lines: impl BufRead, name: &str) -> io::Result<Option<u64>> {
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let mut words = line.split_ascii_whitespace();
        if let (Some(address), Some("d" | "D" | "b" | "B"), Some(found), None) =
            (words.next(), words.next(), words.next(), words.next())
            && found == name
        {
            return Ok(u64::from_str_radix(address, 16)
                .ok()
                .filter(|address| *address != 0));
        }
        line.clear();
    }
    Ok(None)
}

fn with(
    code: &[bpf_insn],
    value: impl Fn(u64) -> Result<Value, LoadError>,
) -> Result<Cow<'_, [bpf_insn]>, LoadError> {
    let mut code = Cow::Borrowed(code);
    for at in 1..code.len() {
        let (low, high) = (&code[at - 1], &code[at]);
        if u32::from(low.code) != LOAD || low.src_reg() != 0 {
            continue;
        }
        let mark = u64::from(high.imm as u32) << 32 | u64::from(low.imm as u32);
        if !MARKS.contains(&mark) {
            continue;
        }
        let value = value(mark)?;
        let code = code.to_mut();
        (code[at - 1].imm, code[at].imm) = match value {
            Value::Variable(id) => {
                code[at - 1].set_src_reg(BPF_PSEUDO_BTF_ID as u8);
                // Of the kernel itself, not of a module.
                (id as i32, 0)
            }
            Value::Number(number) => (number as i32, (number >> 32) as i32),
        };
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(value: u64) -> [bpf_insn; 2] {
        let of = |code: u32, imm: u64| bpf_insn {
            code: code as u8,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(1, 0),
            off: 0,
            imm: imm as i32,
        };
        [of(LOAD, value), of(0, value >> 32)]
    }

    #[test]
    fn marks_are_replaced_and_nothing_else() {
        let plain = load(0x1234_5678_9abc_def0);
        let untouched = with(&plain, |_| Err(LoadError::NoVariable("x"))).unwrap();
        assert!(matches!(untouched, Cow::Borrowed(_)));
        let code = [load(PREEMPT_COUNT), plain, load(PRINTK_RING)].concat();
        assert!(with(&code, |_| Err(LoadError::NoVariable("x"))).is_err());
        let code = with(&code, |mark| {
            Ok(match mark {
                PREEMPT_COUNT => Value::Variable(7),
                _ => Value::Number(0xffff_ffff_8123_4567),
            })
        })
        .unwrap();
        let words: Vec<(u8, i32)> = code.iter().map(|one| (one.src_reg(), one.imm)).collect();
        assert_eq!(words[..2], [(BPF_PSEUDO_BTF_ID as u8, 7), (0, 0)]);
        assert_eq!((words[2].1, words[3].1), (plain[0].imm, plain[1].imm));
        assert_eq!(words[4..], [(0, 0x8123_4567_u32 as i32), (0, -1)]);
    }

    #[test]
    fn a_symbol_is_the_kernels_own_and_not_one_that_is_hidden() {
        let find = |text: &str| symbol(text.as_bytes(), "prb").unwrap();
        let own = "ffffffff82000000 D prb\n";
        assert_eq!(find(own), Some(0xffff_ffff_8200_0000));
        assert_eq!(
            find("ffffffff81000000 D prb_x\nffffffff81000000 T prb\n"),
            None
        );
        assert_eq!(find("ffffffffc0000000 d prb\t[module]\n"), None);
        assert_eq!(
            find(&format!("1 d prb\t[module]\n{own}")),
            Some(0xffff_ffff_8200_0000)
        );
        assert_eq!(find("0000000000000000 D prb\n"), None);
        assert_eq!(find(""), None);
    }
}
