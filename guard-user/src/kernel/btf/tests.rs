//! Files that are made by hand, and such as no kernel has.

use super::*;

/// A file with these types and these names.
fn file(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut data = MAGIC.to_le_bytes().to_vec();
    data.extend([1, 0]);
    let (length, names) = (types.len() as u32, strings.len() as u32);
    for word in [24, 0, length, length, names] {
        data.extend(word.to_le_bytes());
    }
    data.extend(types);
    data.extend(strings);
    data
}

/// A struct `task_struct { int a; union { long cgroups; }; }`, by hand.
fn sample() -> Vec<u8> {
    let strings = b"\0int\0task_struct\0a\0cgroups\0f\0";
    let mut types: Vec<u32> = Vec::new();
    types.extend([1, 1 << 24, 4, 32]); // 1: int
    types.extend([0, UNION << 24 | 1, 8, 19, 1, 0]); // 2: anonymous union
    types.extend([5, STRUCT << 24 | 2, 16, 17, 1, 0, 0, 2, 64]); // 3: task_struct
    types.extend([27, FUNC << 24, 1]); // 4: f
    file(&types, strings)
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
    let mut data = file(&types, &strings);
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
        let data = file(types, strings.as_bytes());
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
