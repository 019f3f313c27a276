use aya_obj::generated::{
    BPF_ADD, BPF_ALU, BPF_ALU64, BPF_AND, BPF_ARSH, BPF_CALL, BPF_DIV, BPF_DW, BPF_EXIT, BPF_IMM,
    BPF_JA, BPF_JEQ, BPF_JMP, BPF_JMP32, BPF_JSGT, BPF_K, BPF_LD, BPF_LDX, BPF_LSH, BPF_MEM,
    BPF_MOV, BPF_NEG, BPF_PSEUDO_CALL, BPF_PSEUDO_MAP_VALUE, BPF_STX, BPF_W, BPF_X, BPF_XOR,
};
use proptest::prelude::*;

use super::*;

const TABLE: i32 = 77;

fn constants(words: &[u32]) -> Constants {
    Constants {
        table: TABLE,
        bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
    }
}

fn op(code: u32, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
    let mut instruction = bpf_insn {
        code: code as u8,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, 0),
        off,
        imm,
    };
    instruction.set_dst_reg(destination);
    instruction.set_src_reg(source);
    instruction
}

/// The address of a word of the constants.
fn address(register: u8, offset: i32) -> [bpf_insn; 2] {
    let first = op(
        BPF_LD | BPF_IMM | BPF_DW,
        register,
        BPF_PSEUDO_MAP_VALUE as u8,
        0,
        TABLE,
    );
    [first, op(0, 0, 0, 0, offset)]
}

fn load(register: u8, from: u8, off: i16) -> bpf_insn {
    op(BPF_LDX | BPF_MEM | BPF_W, register, from, off, 0)
}

fn mov(register: u8, imm: i32) -> bpf_insn {
    op(BPF_ALU64 | BPF_MOV | BPF_K, register, 0, 0, imm)
}

fn exit() -> bpf_insn {
    op(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
}

/// As text that can be compared.
fn listed(code: &[bpf_insn]) -> Vec<(u8, u8, u8, i16, i32)> {
    code.iter()
        .map(|one| (one.code, one.dst_reg(), one.src_reg(), one.off, one.imm))
        .collect()
}

fn fold(code: &[bpf_insn], words: &[u32]) -> Vec<(u8, u8, u8, i16, i32)> {
    listed(&folded(code, &constants(words)).expect("all is known").code)
}

#[test]
fn a_constant_is_a_number_and_its_address_is_gone() {
    let code: Vec<_> = (address(1, 4).into_iter())
        .chain([load(0, 1, 4), exit()])
        .collect();
    let set = op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, -2);
    assert_eq!(fold(&code, &[1, 2, u32::MAX - 1]), listed(&[set, exit()]));
}

#[test]
fn what_lies_beyond_the_constants_or_elsewhere_is_not_known() {
    let code: Vec<_> = (address(1, 8).into_iter())
        .chain([load(0, 1, 2), exit()])
        .collect();
    assert_eq!(fold(&code, &[1, 2, 3]), listed(&code));
    let code = [load(0, 1, 0), exit()];
    assert_eq!(fold(&code, &[1]), listed(&code));
}

#[test]
fn a_branch_on_a_constant_leads_one_way_and_the_other_is_gone() {
    let branch = op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 2, 5);
    let code: Vec<_> = (address(1, 0).into_iter())
        .chain([load(1, 1, 0), branch, mov(0, 1), exit(), mov(0, 2), exit()])
        .collect();
    let number = |number| op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, number);
    assert_eq!(fold(&code, &[5]), listed(&[number(2), exit()]));
    assert_eq!(fold(&code, &[6]), listed(&[number(1), exit()]));
}

#[test]
fn where_two_ways_meet_only_what_both_say_is_known() {
    // r0 is 1 or 2, r2 is 7 on both.
    let unknown = op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 3, 0);
    let code = [
        load(1, 1, 0),
        unknown,
        mov(0, 1),
        mov(2, 7),
        op(BPF_JMP | BPF_JA, 0, 0, 2, 0),
        mov(0, 2),
        mov(2, 7),
        op(BPF_ALU64 | BPF_ADD | BPF_X, 0, 2, 0, 0),
        exit(),
    ];
    let number = |number| op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, number);
    let expected = [
        load(1, 1, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 2, 0),
        number(1),
        op(BPF_JMP | BPF_JA, 0, 0, 1, 0),
        number(2),
        op(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, 7),
        exit(),
    ];
    assert_eq!(fold(&code, &[]), listed(&expected));
}

#[test]
fn a_loop_counts_on() {
    // r0 counts up to an unknown r1.
    let code = [
        load(1, 1, 0),
        mov(0, 0),
        op(BPF_ALU64 | BPF_ADD | BPF_K, 0, 0, 0, 1),
        op(BPF_JMP | BPF_JSGT | BPF_X, 1, 0, -2, 0),
        exit(),
    ];
    let mut expected = code;
    expected[1] = op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, 0);
    assert_eq!(fold(&code, &[]), listed(&expected));
}

#[test]
fn a_function_that_nobody_calls_is_gone_and_calls_lead_where_they_did() {
    let call = |imm| op(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL as u8, 0, imm);
    // Not in a register that calls take.
    let branch = op(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 2, 0);
    let code: Vec<_> = (address(6, 0).into_iter())
        .chain([load(6, 6, 0), branch, call(3), exit()])
        .chain([call(3), exit()])
        // The one that is called where the constant is not 0, and the one where it is.
        .chain([mov(0, 1), exit()])
        .chain([mov(0, 2), exit()])
        .collect();
    let of = |word| {
        let folded = folded(&code, &constants(&[word])).expect("all is known");
        (listed(&folded.code), folded.moved(8), folded.moved(10))
    };
    let number = |number| op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, number);
    let expected = |result| listed(&[call(1), exit(), number(result), exit()]);
    assert_eq!(of(7), (expected(1), Some(2), None));
    assert_eq!(of(0), (expected(2), None, Some(2)));
}

#[test]
fn what_a_call_or_an_atomic_leaves_is_not_known() {
    let helper = op(BPF_JMP | BPF_CALL, 0, 0, 0, 5);
    let keep = |register| op(BPF_ALU64 | BPF_ADD | BPF_X, 0, register, 0, 0);
    let code = [mov(1, 3), helper, keep(1), exit()];
    let mut expected = code;
    expected[0] = op(BPF_ALU | BPF_MOV | BPF_K, 1, 0, 0, 3);
    assert_eq!(fold(&code, &[]), listed(&expected));
    // Of 64 bits, giving back what was there: BPF_ADD | BPF_FETCH.
    let atomic = op(BPF_STX | 0xc0 | BPF_DW, 10, 6, -8, 1);
    let code = [mov(6, 3), atomic, helper, keep(6), exit()];
    let mut expected = code;
    expected[0] = op(BPF_ALU | BPF_MOV | BPF_K, 6, 0, 0, 3);
    assert_eq!(fold(&code, &[]), listed(&expected));
}

#[test]
fn code_that_is_not_known_stays_as_it_is() {
    // A jump of 32 bits (RFC 9669, 4.3), which 5.10 does not know either; a function's address; a way out of the code.
    let pseudo = op(BPF_LD | BPF_IMM | BPF_DW, 1, 4, 0, 0);
    for wrong in [
        vec![op(BPF_JMP32 | BPF_JA, 0, 0, 0, 0), exit()],
        vec![pseudo, op(0, 0, 0, 0, 0), exit()],
        vec![op(BPF_JMP | BPF_JA, 0, 0, 7, 0), exit()],
        vec![op(BPF_JMP | BPF_JA, 0, 0, -7, 0), exit()],
        vec![mov(0, 0)],
    ] {
        assert!(folded(&wrong, &constants(&[])).is_none());
    }
}

#[test]
fn what_is_negated_is_known() {
    let negate = op(BPF_ALU64 | BPF_NEG, 0, 0, 0, 0);
    let code = [mov(0, 5), negate, exit()];
    let number = op(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -5);
    assert_eq!(fold(&code, &[]), listed(&[number, exit()]));
}

#[test]
fn a_number_in_a_comparison_has_a_sign_also_where_the_comparison_has_none() {
    // RFC 9669, 4.3: BPF_JLT compares with what the number is when it is extended by its sign.
    let branch = op(BPF_JMP | 0xa0 | BPF_K, 1, 0, 2, -1);
    let code = [mov(1, 5), branch, mov(0, 1), exit(), mov(0, 2), exit()];
    let number = op(BPF_ALU | BPF_MOV | BPF_K, 0, 0, 0, 2);
    assert_eq!(fold(&code, &[]), listed(&[number, exit()]));
}

/// A step of a program that is made up.
#[derive(Clone, Debug)]
enum Step {
    /// Operation, 64 bits, destination, source or number.
    Alu(u32, bool, u8, Operand),
    Constant(u8, u8),
    Input(u8, u8),
    /// Comparison, 64 bits, first, second, and how many steps are passed over.
    Branch(u32, bool, u8, Operand, u8),
}

#[derive(Clone, Debug)]
enum Operand {
    Register(u8),
    Number(i32),
}

const WORDS: u8 = 4;
/// Registers that steps use; r9 holds the input's address.
const USED: u8 = 6;

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        (0..USED).prop_map(Operand::Register),
        prop_oneof![-3..70, any::<i32>()].prop_map(Operand::Number),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // BPF_MOD is not done here, nor BPF_END; rbpf's BPF_NEG panics at the lowest number.
    let operations = (BPF_ADD..=BPF_ARSH)
        .step_by(0x10)
        .filter(|op| ![0x80, 0x90].contains(op));
    let operations: Vec<u32> = operations.collect();
    let branches: Vec<u32> = (BPF_JEQ..=0xd0)
        .step_by(0x10)
        .filter(|op| *op != BPF_CALL && *op != BPF_EXIT)
        .collect();
    prop_oneof![
        4 => (prop::sample::select(operations), any::<bool>(), 0..USED, operand())
            .prop_map(|(operation, wide, register, operand)| Step::Alu(operation, wide, register, operand)),
        2 => (0..USED, 0..WORDS).prop_map(|(register, word)| Step::Constant(register, word)),
        1 => (0..USED, 0..WORDS).prop_map(|(register, word)| Step::Input(register, word)),
        3 => (prop::sample::select(branches), any::<bool>(), 0..USED, operand(), 0_u8..6).prop_map(
            |(comparison, wide, register, operand, over)| Step::Branch(comparison, wide, register, operand, over)
        ),
    ]
}

impl Step {
    /// `over`: instructions of the steps that it may pass over.
    fn code(&self, over: i16) -> Vec<bpf_insn> {
        let with = |code: u32, register: u8, operand: &Operand, off: i16| match operand {
            Operand::Register(source) => op(code | BPF_X, register, *source, off, 0),
            Operand::Number(number) => op(code | BPF_K, register, 0, off, *number),
        };
        match self {
            Self::Alu(operation, wide, register, operand) => {
                let class = if *wide { BPF_ALU64 } else { BPF_ALU };
                let operand = match (*operation, operand) {
                    (BPF_DIV, Operand::Number(0)) => &Operand::Number(1),
                    // What the verifier asks for; registers are kept to as many bits by a step before.
                    (BPF_LSH | 0x70 | BPF_ARSH, Operand::Number(number)) => {
                        &Operand::Number(number & 31)
                    }
                    (_, operand) => operand,
                };
                let shift = matches!(*operation, BPF_LSH | 0x70 | BPF_ARSH);
                let kept = match operand {
                    Operand::Register(source) if shift => {
                        vec![op(BPF_ALU64 | BPF_AND | BPF_K, *source, 0, 0, 31)]
                    }
                    _ => vec![],
                };
                let alu = with(class | operation, *register, operand, 0);
                kept.into_iter().chain([alu]).collect()
            }
            Self::Constant(register, word) => (address(*register, i32::from(*word) * 4)
                .into_iter())
            .chain([load(*register, *register, 0)])
            .collect(),
            Self::Input(register, word) => vec![load(*register, 9, i16::from(*word) * 4)],
            Self::Branch(comparison, wide, register, operand, _) => {
                let class = if *wide { BPF_JMP } else { BPF_JMP32 };
                vec![with(class | comparison, *register, operand, over)]
            }
        }
    }
}

/// All steps, and at the end a number that every register is in.
fn program(steps: &[Step]) -> Vec<bpf_insn> {
    let lengths: Vec<usize> = steps.iter().map(|step| step.code(0).len()).collect();
    let mut code = vec![op(BPF_ALU64 | BPF_MOV | BPF_X, 9, 1, 0, 0)];
    code.extend((0..USED).map(|register| mov(register, i32::from(register))));
    for (at, step) in steps.iter().enumerate() {
        let over = match step {
            Step::Branch(.., over) => lengths[at + 1..].iter().take(usize::from(*over)).sum(),
            _ => 0,
        };
        code.extend(step.code(over as i16));
    }
    for register in 1..USED {
        code.push(op(BPF_ALU64 | 0x20 | BPF_K, 0, 0, 0, 31));
        code.push(op(BPF_ALU64 | BPF_XOR | BPF_X, 0, register, 0, 0));
    }
    code.push(exit());
    code
}

/// rbpf 0.4 extends a negative number by zeros where it compares without signs, and RFC 9669 by its sign: such a number is put into
/// a register that nothing else uses.
fn as_rbpf_takes_it(code: &[bpf_insn]) -> Vec<bpf_insn> {
    let is_branch = |one: &bpf_insn| {
        matches!(
            Instruction::of(one).kind,
            Some(Kind::Branch { .. } | Kind::Jump)
        )
    };
    let is_taken_amiss = |one: &bpf_insn| {
        Instruction::of(one).kind == Some(Kind::Branch { wide: true })
            && u32::from(one.code) & BPF_X == 0
            && one.imm < 0
    };
    let mut position = vec![0_usize];
    for one in code {
        let length = if is_taken_amiss(one) { 2 } else { 1 };
        position.push(position.last().copied().unwrap_or_default() + length);
    }
    let mut new = Vec::new();
    for (at, one) in code.iter().enumerate() {
        let mut one = *one;
        if is_branch(&one) {
            let target = (at as i64 + 1 + i64::from(one.off)) as usize;
            one.off = (position[target] as i64 - position[at + 1] as i64) as i16;
        }
        if is_taken_amiss(&one) {
            new.push(mov(8, one.imm));
            one = op(u32::from(one.code) | BPF_X, one.dst_reg(), 8, one.off, 0);
        }
        new.push(one);
    }
    new
}

/// What it comes to where `input` is what r1 leads to.
fn run(code: &[bpf_insn], words: &[u32], input: &[u32]) -> u64 {
    let bytes =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let (words, input) = (bytes(words), bytes(input));
    let code = as_rbpf_takes_it(code);
    let mut text = Vec::new();
    let mut second = 0;
    for one in &code {
        let mut one = *one;
        if one.code == 0 {
            one.imm = second;
        } else if u32::from(one.code) == BPF_LD | BPF_IMM | BPF_DW {
            // As the kernel would put the address there.
            let offset = code[text.len() / 8 + 1].imm;
            let address = words.as_ptr() as u64 + offset as u64;
            one.set_src_reg(0);
            (one.imm, second) = (address as i32, (address >> 32) as i32);
        }
        text.extend([one.code, one.src_reg() << 4 | one.dst_reg()]);
        text.extend(one.off.to_le_bytes());
        text.extend(one.imm.to_le_bytes());
    }
    let machine = rbpf::EbpfVmMbuff::new(Some(&text)).expect("a program");
    machine.execute_program(&words, &input).expect("it runs")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn a_folded_program_comes_to_the_same(
        steps in prop::collection::vec(step(), 0..40),
        words in prop::array::uniform4(prop_oneof![0_u32..4, any::<u32>()]),
        input in prop::array::uniform4(prop_oneof![0_u32..4, any::<u32>()]),
    ) {
        let code = program(&steps);
        let folded = folded(&code, &constants(&words)).expect("all is known");
        prop_assert!(folded.code.len() <= code.len());
        prop_assert_eq!(run(&folded.code, &words, &input), run(&code, &words, &input));
    }
}
