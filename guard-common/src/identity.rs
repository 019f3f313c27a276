//! Identity: whose a cgroup is, decided when it is made, so that no task of a container runs unrecognised.

/// Longest path of a cgroup that its name recognises, the final NUL included: the kernel's own buffer for the
/// `cgroup_mkdir` tracepoint (`TRACE_CGROUP_PATH_LEN`, 1024 on 5.10 to 7.3).
pub const PATH_MAX: usize = 1024;

/// Bytes that the kernel side reads at a time.
pub const PATH_STEP: usize = 16;

/// Room for transitions of the name matcher: states × stride.
pub const TRANSITIONS: usize = 1 << 18;

/// A match that an unprivileged user could have made himself; it may only tighten policy.
pub const LABEL_USER_MADE: u16 = 0x8000;
/// The bits of a label that are an index into the kernel table `PROFILES`.
pub const LABEL_PROFILE: u16 = 0x00ff;

/// A path while it is being matched: the value of the kernel table `WALK`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The path, and NULs behind it.
    pub path: [u8; PATH_MAX + PATH_STEP],
    /// Bytes read so far.
    pub at: u32,
    /// Bytes of the path.
    pub length: u32,
    /// The automaton's state behind what was read.
    pub state: u32,
    /// Which automaton.
    pub matcher: u32,
}
const _: () = assert!(size_of::<Walk>() == PATH_MAX + PATH_STEP + 16);

/// All patterns of a policy as one deterministic automaton over the bytes of a cgroup's path.
///
/// State 0 is dead: every byte leads back to it and its label is 0. A state's row is `stride` transitions, one for each
/// byte class, and in its last column, the end of the path, a label: 0 for none, else a profile's index (1 to 255),
/// with [`LABEL_USER_MADE`] where it holds. A NUL, which no path has, changes nothing: a path may be followed by some.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NameMatcher {
    /// Number of columns in a row: byte classes, and one for the end of the path.
    pub stride: u32,
    /// The state before the first byte.
    pub start: u32,
    /// Byte → its column.
    pub classes: [u8; 256],
    /// Row by row: `transitions[state * stride + column]`.
    pub transitions: [u16; TRANSITIONS],
}
const _: () = assert!(size_of::<NameMatcher>() == 8 + 256 + 2 * TRANSITIONS);

impl NameMatcher {
    /// The automaton that recognises nothing, on the heap: it is too large for a stack.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn empty() -> std::boxed::Box<Self> {
        std::boxed::Box::new(Self {
            stride: 1,
            start: 0,
            classes: [0; 256],
            transitions: [0; TRANSITIONS],
        })
    }

    /// The state after `byte`.
    #[must_use]
    #[inline(always)]
    pub fn step(&self, state: u16, byte: u8) -> u16 {
        self.column(state, u32::from(self.classes[byte as usize]))
    }

    /// What the path read so far is: a label, 0 for nothing.
    #[must_use]
    #[inline(always)]
    pub fn label(&self, state: u16) -> u16 {
        self.column(state, self.stride.wrapping_sub(1))
    }

    #[inline(always)]
    fn column(&self, state: u16, column: u32) -> u16 {
        let at = u32::from(state)
            .wrapping_mul(self.stride)
            .wrapping_add(column);
        self.transitions[(at as usize) & (TRANSITIONS - 1)]
    }
}
