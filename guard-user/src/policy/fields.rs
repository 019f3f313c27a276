//! The policy's language as data: what the parser knows, `bulkhead explain` prints, and a test holds the docs to.

use serde::Serialize;

/// One field of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its path: `[]` is an item of a list, `NAME` a key of the operator's choice,
    /// `ACTION` an action.
    pub path: &'static str,
    /// What it holds, with its unit.
    pub kind: &'static str,
    /// What holds where it is left out.
    pub default: &'static str,
    /// How it is written.
    pub example: &'static str,
    /// What it does.
    pub says: &'static str,
}

impl Field {
    /// The last part of its path, as it stands in a file.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.path
            .rsplit('.')
            .next()
            .unwrap_or(self.path)
            .trim_end_matches("[]")
    }

    /// The word that may be written there and that `text` could have been meant for; `None`: it takes no words, or none near.
    pub(crate) fn word_near(&self, text: &str) -> Option<&'static str> {
        if !self.kind.contains(" | ") {
            return None;
        }
        near(text, self.kind.split(" | ")).first().copied()
    }

    /// The unit that a number alone lacks; `None` where it needs none.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        let units = [("a rate", "/s"), ("a duration", "s"), ("a size", "MiB")];
        let fits = |(kind, _): &&(&str, &str)| self.kind.starts_with(kind);
        units.iter().find(fits).map(|(_, unit)| *unit)
    }

    /// The path of what it stands in; empty for the file itself.
    #[must_use]
    pub fn parent(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(parent, _)| parent)
    }
}

/// The fields that may stand directly in what has this path.
pub fn children(parent: &str) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| field.parent() == parent)
}

/// The fields that `word` names: by the end of their path, or as one of the words that may be written there.
#[must_use]
pub fn find(word: &str) -> Vec<&'static Field> {
    let word = plain(word.trim_matches('.'));
    let end = format!(".{word}");
    let named: Vec<&Field> = (FIELDS.iter())
        .filter(|field| plain(field.path) == word || plain(field.path).ends_with(&end))
        .collect();
    if !named.is_empty() {
        return named;
    }
    (FIELDS.iter())
        .filter(|field| {
            field.kind.contains(" | ") && field.kind.split(" | ").any(|one| one == word)
        })
        .collect()
}

/// A path without the marks of lists.
fn plain(path: &str) -> String {
    path.replace("[]", "")
}

macro_rules! fields {
    ($($path:literal, $kind:literal, $default:literal, $example:literal, $says:literal;)*) => {
        &[$(Field { path: $path, kind: $kind, default: $default, example: $example, says: $says },)*]
    };
}

/// Every field, in the order of a file.
pub const FIELDS: &[Field] = fields! {
    "version", "the number 1", "must be given, in every file", "version: 1",
    "The version of the policy language.";
    "mode", "audit | enforce", "audit", "mode: enforce",
    "audit: allow, and record what would have been refused. enforce: refuse. Holds for every rule and for the reserve, unless they say their own.";
    "subjects", "map: name → cgroups", "must be given in one of the files", "subjects: {containers: {cgroups: [\"/docker/*\"]}}",
    "What rules are about: sets of cgroups, each with a name of your choice. At most 64.";
    "subjects.NAME", "map", "-", "containers: {cgroups: [\"/docker/*\"]}",
    "One subject. A container is the outermost cgroup that matches; everything below it belongs to it.";
    "subjects.NAME.cgroups", "list of cgroup patterns", "must be given", "cgroups: [\"/docker/*\", \"/**/libpod-*.scope\"]",
    "The cgroups that are containers, absolute from the root of the hierarchy. `*` is any text within one name, `**` any number of names.";
    "subjects.NAME.except", "list of cgroup patterns", "[]", "except: [\"/**/libpod-conmon-*\"]",
    "Cgroups that are not containers after all: runtimes' helpers. Wins over `cgroups`, for that one cgroup and not for those below it; ignored below user@UID.service, where users make names themselves.";
    "exempt", "map", "{}", "exempt: {cgroups: [\"/docker/0123abcd*\"]}",
    "What is never refused, frozen or killed.";
    "exempt.cgroups", "list of cgroup patterns", "[]", "cgroups: [\"/docker/0123abcd*\"]",
    "Containers that are refused nothing, the host's reserve included. Beats every rule; ignored below user@UID.service, where users make names themselves.";
    "rules", "list of rules", "[]", "rules: [{name: cap, subjects: [containers], pids: {max: 4096}}]",
    "Limits for the containers of some subjects. Where several apply, the smallest limit holds. At most 256.";
    "rules[].name", "a name: letters, digits, - _ .", "must be given", "name: fork-storm",
    "The rule's name in records, unique in all files.";
    "rules[].subjects", "list of subjects' names", "must be given", "subjects: [containers]",
    "Whom the rule is about.";
    "rules[].mode", "audit | enforce", "the policy's mode", "mode: audit",
    "This rule's own mode; `run --enforce` does not change it, `run --audit` does.";
    "rules[].forks", "map", "no limit", "forks: {rate: 500/s, burst: 2000}",
    "How fast a container may make processes and threads. What is too fast is refused with EAGAIN, before it costs the host a pid.";
    "rules[].forks.rate", "a rate: NUMBER/s, /m or /h", "must be given within `forks`", "rate: 500/s",
    "Forks that a container may make in the long run.";
    "rules[].forks.burst", "a count of forks", "twice the number in `rate`", "burst: 2000",
    "Forks that may come at once after a quiet time.";
    "rules[].pids", "map", "no limit", "pids: {max: 4096}",
    "How many processes and threads a container may have.";
    "rules[].pids.max", "a count of pids, 1 to 4194304", "no cap", "max: 4096",
    "Processes and threads of one container, all cgroups below it included. The fork after the last is refused with EAGAIN. Enforced, it is also written to the container's pids.max if it is less than what stands there.";
    "rules[].pids.leak", "a duration, or off", "30m", "leak: 30m",
    "Alarm when a container's pids rise so steadily that less than this is left until its cap or the host's reserve is reached. Refuses nothing.";
    "rules[].deny", "list of actions", "[]", "deny: [kernel_log.read, kernel_log.clear, kernel_log.write]",
    "What is refused, whatever capabilities the container has, with EPERM where the kernel tells it: kernel_log.consume, kernel_log.read, which includes it, kernel_log.clear, kernel_log.console, and kernel_log.write, which includes kernel_log.console; bridge.create; net_link.create, of all kinds or of some; socket, of all families, types and protocols or of some; netlink, of all families or of some; traffic_control, of all kinds or of some; user_namespace.create; module.load; module.autoload, of all modules or of some; mount, of everything or of some types of file systems; net_namespace.create; key.create, of all types or of some; bpf; perf_event_open; io_uring; userfaultfd; ptrace; swap; reboot; sysrq; device_mapper.control; cgroup.move_out; discard; device.open and kernel_setting.write, of what they name.";
    "rules[].deny[].ACTION.kinds", "list of kinds of links or of traffic control", "all kinds", "kinds: [vxcan, netkit]",
    "Of net_link.create: the links that it is about, as `ip link add type KIND` names them. Of traffic_control: qdiscs, filters and actions as tc(8) names them, such as hfsc, route and pedit. At most 64.";
    "rules[].deny[].ACTION.families", "list of families of sockets", "all families", "families: [vsock, alg, tipc]",
    "Of netlink: route, xfrm, netfilter, generic and others, or what is behind netfilter: nf_tables, ipset, conntrack and others. Of socket: AF_* in small letters and without AF_, or numbers. With types or protocols, only sockets to which all of them apply.";
    "rules[].deny[].ACTION.types", "list of types of sockets", "all types", "types: [raw, packet]",
    "Of socket: SOCK_* in small letters and without SOCK_, or numbers. Of key.create: types of keys, such as keyring, user, logon, cifs.spnego, of up to 15 bytes.";
    "rules[].deny[].ACTION.fs", "list of types of file systems", "everything", "fs: [overlay, fuse]",
    "Of mount: types as /proc/filesystems lists them. Then bind mounts, moves and changes of propagation are none of it. At most 64.";
    "rules[].deny[].ACTION.protocols", "list of protocols of sockets", "all protocols", "protocols: [sctp, dccp]",
    "Of socket: as they stand in the call, where 0 leaves it to the kernel: IPPROTO_* in small letters and without IPPROTO_, or numbers.";
    "rules[].deny[].ACTION.names", "list of names of modules", "all modules", "names: [net-pf-40, fs-ntfs3]",
    "Of module.autoload: as the kernel asks for them, net-pf-40 and not vsock; its records say which. At most 64.";
    "rules[].deny[].ACTION.devices", "list of devices", "must be given for device.open", "devices: [\"char 10:229\", \"block 8:*\"]",
    "Of device.open: char or block and the numbers of a device, of all of a major number, or of all (`block *`). At most 64.";
    "rules[].deny[].ACTION.paths", "list of paths", "must be given for kernel_setting.write", "paths: [/proc/sys/kernel/core_pattern, \"**/release_agent\"]",
    "Of kernel_setting.write: files below /proc and /sys as the host has them, wherever a container has them mounted, or `**/NAME` for all files of the kernel's file systems with that name. At most 64.";
    "rules[].when", "map", "everywhere", "when: {netns: nested}",
    "Where the rule's `deny` holds.";
    "rules[].when.netns", "nested", "any", "netns: nested",
    "Only where the link or what there is of traffic control would be made, or the family of netlink asked, in a network namespace that is not the host's first: the one that the message names, else the socket's. For bridge.create, net_link.create, netlink and traffic_control.";
    "rules[].when.device", "dm-thin", "any", "device: dm-thin",
    "Only on a device that stands on dm-thin: a thin volume, a partition, a logical volume, a mapping of dm-crypt or an array on one, or a file system on any of these. One that nobody has classified yet counts as such. For discard.";
    "rules[].kernel", "affected", "every kernel", "kernel: affected",
    "affected: each thing that `deny` names is refused only on a kernel that has, or may have, a bug that it triggers, by `bulkhead advisories`; `check` and `status` say which are armed here, by which advisory, and which are not. Only for `deny`.";
    "rules[].except", "list of subjects' names", "[]", "except: [monitors]",
    "Containers that are these subjects' as well are left out of the rule, and of no other.";
    "rules[].severity", "low | medium | high | critical", "high", "severity: high",
    "How much the rule's breaches matter; stands in every record.";
    "rules[].escalate", "list of steps", "[]", "escalate: [{after: 10s, do: freeze}, {after: 60s, do: kill}]",
    "What is done to a container whose breach of this rule lasts. Only refusals of an enforced rule escalate. At most 8 steps.";
    "rules[].escalate[].after", "a duration, 1s to 1d", "must be given", "after: 10s",
    "Time since the start of the breach; each step's is longer than the one before.";
    "rules[].escalate[].do", "freeze | kill", "must be given", "do: freeze",
    "freeze: stop all tasks of the container for a while. kill: kill all of them.";
    "rules[].escalate[].for", "a duration, 1s to 1h", "10s", "for: 10s",
    "How long a freeze lasts. The breach stays open meanwhile.";
    "host", "map", "its fields' defaults", "host: {reserve: {pids: 10%}}",
    "What the host keeps for itself.";
    "host.reserve", "map, or off", "its fields' defaults", "reserve: {pids: 10%}",
    "Pids that only the host may use: whatever the containers do, someone can log in and act.";
    "host.reserve.pids", "a percentage up to 90%, a count of pids, or off", "10%", "pids: 10%",
    "How many of the host's pids (the smaller of pid_max and threads-max) no container's fork may take.";
    "host.reserve.mode", "audit | enforce", "the policy's mode", "mode: enforce",
    "The reserve's own mode.";
    "host.thin", "map", "its fields' defaults", "thin: {discard: off}",
    "The host's thin pools of the device mapper.";
    "host.thin.discard", "off | where-affected | leave", "where-affected", "discard: off",
    "off: no discard reaches a device that stands on dm-thin, whoever asks for it, and discards of these devices are kept switched off. Who asks is told that there are none (EOPNOTSUPP; EPERM in a container). where-affected: the same on a kernel that has, or may have, a bug that they trigger, by `bulkhead advisories`; elsewhere they stay on, so that space comes back. leave: they stay on. In the policy's mode: audited, they are counted.";
    "host.thin.alarm", "map, or off", "its fields' defaults", "alarm: {data: 90%}",
    "When it is told that a thin pool fills up. That one is read-only, has failed or needs a check is told whatever stands here. off: pools are not watched.";
    "host.thin.alarm.data", "a percentage, 1% to 99%", "80%", "data: 90%",
    "So much of a pool's data is used; told again each time half of what was left is gone.";
    "host.thin.alarm.metadata", "a percentage, 1% to 99%", "80%", "metadata: 70%",
    "So much of its metadata is used. A pool without room for metadata takes no writes, and must be checked before it does again.";
    "host.thin.alarm.left", "a duration, 1m to 30d", "4h", "left: 1d",
    "Either is used up so steadily that less time than this is left until it is full.";
    "host.dmesg_restrict", "on | leave", "leave", "dmesg_restrict: on",
    "on: the host's kernel.dmesg_restrict is set to 1 and set back at `off` and at the end, if the policy's mode is enforce. Who has no CAP_SYSLOG can then not read the kernel log by syslog(2), users of the host included; who has it is not stopped. leave: it stays what it is.";
    "audit", "map", "its fields' defaults", "audit: {file: /var/log/bulkhead/audit.jsonl}",
    "The audit log.";
    "audit.file", "an absolute path", "/var/log/bulkhead/audit.jsonl", "file: /var/log/bulkhead/audit.jsonl",
    "Where it is written, one JSON object a line.";
    "audit.rotate", "map", "its fields' defaults", "rotate: {size: 64MiB, age: 7d, keep: 8}",
    "When a new file is begun.";
    "audit.rotate.size", "a size: KiB, MiB or GiB, 64KiB to 64GiB", "64MiB", "size: 64MiB",
    "A new file is begun when this one has grown so large.";
    "audit.rotate.age", "a duration, 1m to 365d", "7d", "age: 7d",
    "A new file is begun when this one is so old.";
    "audit.rotate.keep", "a count of files, 1 to 1000", "8", "keep: 8",
    "Old files that are kept.";
    "kernel_log", "map, or off", "its fields' defaults", "kernel_log: {file: /var/log/bulkhead/kernel.jsonl}",
    "The host's copy of the kernel log, each line once and in order; and what in it raises an alarm. off: no copy is kept, and nothing is watched for.";
    "kernel_log.file", "an absolute path", "/var/log/bulkhead/kernel.jsonl", "file: /var/log/bulkhead/kernel.jsonl",
    "Where it is written, one JSON object a line.";
    "kernel_log.rotate", "map", "its fields' defaults", "rotate: {size: 64MiB, age: 7d, keep: 8}",
    "When a new file is begun.";
    "kernel_log.rotate.size", "a size: KiB, MiB or GiB, 64KiB to 64GiB", "64MiB", "size: 64MiB",
    "A new file is begun when this one has grown so large.";
    "kernel_log.rotate.age", "a duration, 1m to 365d", "7d", "age: 7d",
    "A new file is begun when this one is so old.";
    "kernel_log.rotate.keep", "a count of files, 1 to 1000", "8", "keep: 8",
    "Old files that are kept.";
    "kernel_log.forward", "list of outlets", "[]", "forward: [{to: journald}, {to: syslog, address: \"tcp:logs.example.net:601\"}]",
    "Who gets each line as well, with who printed it. The copy never waits for them: what they do not take in time is not forwarded, counted and told. At most 8, in one file.";
    "kernel_log.forward[].to", "journald | syslog", "must be given", "to: journald",
    "journald: this host's journal, in its native protocol. syslog: a receiver of RFC 5424.";
    "kernel_log.forward[].address", "unix:/PATH, udp:HOST:PORT or tcp:HOST:PORT", "must be given with `to: syslog`", "address: \"tcp:logs.example.net:601\"",
    "Where the receiver is. unix: its datagram socket. tcp: each line with its length before it (RFC 6587). An IPv6 address stands in brackets.";
    "kernel_log.ignore", "list of shipped patterns' names", "[]", "ignore: [segfault, trap]",
    "Patterns that come with Bulkhead and raise no alarm here. `bulkhead explain NAME` tells what one is about.";
    "kernel_log.patterns", "list of patterns", "[]", "patterns: [{name: link-down, match: '^ixgbe .* NIC Link is Down', severity: high, means: The uplink is gone., do: Look at the switch.}]",
    "What else an alarm is raised for: lines of the kernel log, also those that programs wrote into it. At most 256.";
    "kernel_log.patterns[].name", "a name: letters, digits, - _ .", "must be given", "name: link-down",
    "The pattern's name in records, unique in all files; a shipped pattern's only where `ignore` has it.";
    "kernel_log.patterns[].match", "a regular expression", "must be given", "match: '^ixgbe .* NIC Link is Down'",
    "What a line must have in it, without time and level. `^` is its beginning. Letters are ASCII, `.` is any byte; groups named pid, comm and device tell what the line is about.";
    "kernel_log.patterns[].severity", "low | medium | high | critical", "must be given", "severity: high",
    "How much it matters; stands in every record.";
    "kernel_log.patterns[].means", "one line of text", "must be given", "means: The uplink is gone.",
    "What such a line means, for whoever is woken up.";
    "kernel_log.patterns[].do", "one line of text", "must be given", "do: Look at the switch.",
    "What to do then.";
    "kernel_log.patterns[].samples", "list of lines", "[]", "samples: ['ixgbe 0000:01:00.0 eth0: NIC Link is Down']",
    "Lines that it must match; the policy is refused if it does not.";
};

/// The words of `words` that `word` is a part of, as `oom` of `oom-kill`, in their order.
pub fn with_part<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Vec<&'w str> {
    let is_part = |known: &&str| known.split(['-', '_', '.']).any(|part| part == word);
    let mut all: Vec<&str> = words.filter(is_part).collect();
    all.dedup();
    all
}

/// The words of `words` that `word` could have been meant for, best first.
pub fn near<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Vec<&'w str> {
    let mut near: Vec<(usize, &str)> = words
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| {
            *distance <= known.len().max(word.len()) / 3 || known.len() > 2 && word.contains(known)
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().map(|(_, known)| known).take(3).collect()
}
