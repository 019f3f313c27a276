//! bpf(2): a container that would get at what Bulkhead has in the kernel is refused it.

/// What bpf(2) makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A program.
    Program,
    /// A table.
    Table,
    /// What holds a program to a place.
    Link,
}

impl Object {
    /// The kind and the id that a key of the kernel table `OWN` is of.
    #[must_use]
    pub const fn of_key(key: u64) -> Option<(Self, u32)> {
        let kind = match key >> 32 {
            1 => Self::Program,
            2 => Self::Table,
            3 => Self::Link,
            _ => return None,
        };
        Some((kind, key as u32))
    }

    /// Key of the kernel table `OWN` of one with this id: of each kind they are numbered by themselves.
    #[must_use]
    #[inline(always)]
    pub const fn own(self, id: u32) -> u64 {
        (self as u64 + 1) << 32 | id as u64
    }
}

/// Of what kind the object is that a command gives a descriptor of, by its id, which then is the first word of its argument
/// (`enum bpf_cmd` and `union bpf_attr`, include/uapi/linux/bpf.h).
#[must_use]
#[inline(always)]
pub const fn opened_by_id(command: u32) -> Option<Object> {
    match command {
        // BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID.
        13 => Some(Object::Program),
        14 => Some(Object::Table),
        30 => Some(Object::Link),
        _ => None,
    }
}

/// Entries of the kernel table `OWN`.
pub const OWN: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_of_another_kind_is_another() {
        let kinds = [13, 14, 30].map(|command| opened_by_id(command).unwrap());
        let keys = kinds.map(|kind| kind.own(u32::MAX));
        for (kind, key) in kinds.into_iter().zip(keys) {
            assert_eq!(Object::of_key(key), Some((kind, u32::MAX)));
        }
        assert_eq!((Object::of_key(5), Object::of_key(4 << 32)), (None, None));
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
        // BPF_PROG_GET_NEXT_ID, BPF_BTF_GET_FD_BY_ID.
        assert_eq!((opened_by_id(11), opened_by_id(19)), (None, None));
    }
}
