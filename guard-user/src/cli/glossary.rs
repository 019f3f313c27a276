//! Words that stand in what Bulkhead prints and are no fields of a policy: each in a sentence, for `bulkhead explain WORD`.

/// A word, and what it means.
pub struct Entry {
    /// As it is printed.
    pub word: &'static str,
    /// What it means.
    pub says: &'static str,
}

/// All of them.
pub const GLOSSARY: &[Entry] = &[
    Entry {
        word: "rung",
        says: "the mechanism by which forks are judged on this host, the best that a self-test saw work: lsm, fmod_ret, observe or \
               setting. `bulkhead doctor` says which work here, and why the others do not.",
    },
    Entry {
        word: "lsm",
        says: "the best rung: a BPF program at a hook of the kernel's security modules refuses what a rule denies, before it \
               happens. It takes `bpf` among the active security modules (`lsm=` on the kernel's command line).",
    },
    Entry {
        word: "fmod_ret",
        says: "a rung that refuses as lsm does, by a BPF program that changes what the security hook's own function returns. It is \
               taken where `bpf` is no active security module.",
    },
    Entry {
        word: "observe",
        says: "a rung that refuses no fork: forks are seen when they are done, by a tracepoint. pids.max, freezing and killing hold \
               the limits; the host's reserve is not held. `bulkhead doctor` says why the better rungs do not work.",
    },
    Entry {
        word: "setting",
        says: "the last rung: no fork is seen. pids.max holds the caps, and the ladder acts on what it refuses; rate and reserve \
               are not held. In a record, the `setting` is what was changed on the host, as pids.max.",
    },
    Entry {
        word: "cgroup",
        says: "of a hook and in a record's `rung`: device programs at the root of the cgroups. Opening a node, as /dev/kmsg, is \
               refused by them where the host lets no program stand at the hooks, and nothing else.",
    },
    Entry {
        word: "breach",
        says: "what begins when a container is refused for a limit, and ends when it was refused nothing for two seconds. The \
               steps of a rule's `escalate` count from its beginning.",
    },
    Entry {
        word: "ladder",
        says: "the steps of a rule's `escalate`: what is done to a container whose breach lasts.",
    },
    Entry {
        word: "nested",
        says: "of a network namespace: not the host's first one, so a container's own or one that it made. A rule with \
               `when: {netns: nested}` holds only there.",
    },
    Entry {
        word: "ENFORCING",
        says: "the state in `bulkhead status`: forks can be refused before they happen, as a self-test saw on this boot. Whether a \
               rule refuses or only counts is its mode.",
    },
    Entry {
        word: "DEGRADED",
        says: "something works less than it should, and what it is stands beside it: as the state, no fork can be refused before \
               it happens, or a hook that a rule needs does not refuse.",
    },
    Entry {
        word: "ATTACHED",
        says: "of a hook: it is in the kernel, and no self-test saw it refuse, since this host has nothing to try it on, or \
               refuses it to Bulkhead itself. It judges all the same.",
    },
    Entry {
        word: "OPEN",
        says: "of a hook: it does not refuse here, and what it would stop gets through; the reason stands beside it.",
    },
    Entry {
        word: "OFF",
        says: "the state while the panic switch is thrown (`bulkhead off`): nothing is refused, frozen or killed until its time is \
               over, or `bulkhead on`.",
    },
];

/// What a word means, however its letters are written.
pub fn find(word: &str) -> Option<&'static Entry> {
    (GLOSSARY.iter()).find(|entry| entry.word.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_once_however_it_is_written() {
        for entry in GLOSSARY {
            let again = find(&entry.word.to_lowercase()).unwrap();
            assert_eq!(again.says, entry.says, "{}", entry.word);
        }
        assert!(find("rungs").is_none());
    }

    #[test]
    fn each_rung_is_a_word() {
        use guard_user::kernel::rungs::Rung;
        for rung in [
            Rung::Lsm,
            Rung::FmodRet,
            Rung::Cgroup,
            Rung::Observe,
            Rung::Setting,
        ] {
            assert!(find(rung.name()).is_some(), "{rung}");
        }
    }
}
