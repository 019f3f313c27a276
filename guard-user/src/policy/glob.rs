//! Cgroup patterns: what one may look like, so that none makes the host itself a container.

/// Characters of a pattern.
const LENGTH: usize = 256;
/// `**` in a pattern, of which each multiplies what the names' automaton must remember.
const DEEP: usize = 4;

/// Cgroups of the host that no subject may take in, and what each is.
pub const HOSTS_OWN: [(&str, &str); 13] = [
    ("/init.scope", "the host's pid 1"),
    ("/system.slice", "all of the host's services"),
    ("/system.slice/bulkhead.service", "Bulkhead itself"),
    ("/system.slice/containerd.service", "a container runtime"),
    ("/system.slice/crio.service", "a container runtime"),
    ("/system.slice/docker.service", "a container runtime"),
    ("/system.slice/k3s.service", "a container runtime"),
    ("/system.slice/kubelet.service", "the kubelet"),
    ("/system.slice/podman.service", "a container runtime"),
    ("/system.slice/ssh.service", "the way to log in"),
    ("/system.slice/sshd.service", "the way to log in"),
    (
        "/system.slice/systemd-journald.service",
        "the host's journal",
    ),
    ("/user.slice", "everyone who is logged in"),
];

/// What is wrong with a pattern, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Ends a sentence that begins with the pattern.
    pub because: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// The pattern in its plain form.
///
/// # Errors
/// [`Wrong`].
pub fn plain(pattern: &str) -> Result<String, Wrong> {
    let wrong = |because, advice| Err(Wrong { because, advice });
    let pattern = if pattern.starts_with("**/") {
        format!("/{pattern}")
    } else {
        pattern.to_owned()
    };
    if !pattern.starts_with('/') {
        return wrong(
            "does not begin with `/`",
            "write the path from the root of the cgroup hierarchy, as /proc/PID/cgroup shows it on the host; `/**/` in front matches at any depth",
        );
    }
    if pattern.chars().count() > LENGTH {
        return wrong("is longer than 256 characters", "use `*` and `**`");
    }
    if pattern.chars().any(char::is_control) {
        return wrong(
            "has a control character in it",
            "systemd writes such a character as `\\x2d`; so does a pattern",
        );
    }
    let names: Vec<&str> = pattern.split('/').skip(1).collect();
    if names.iter().all(|name| matches!(*name, "" | "**")) {
        return wrong(
            "is the root of the hierarchy: the whole host would be one container",
            "name the cgroups that the runtime makes, for example `/docker/*`",
        );
    }
    if names.contains(&"") {
        return wrong(
            "has an empty name in it",
            "write one `/` between names, and none at the end",
        );
    }
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        return wrong(
            "climbs: no cgroup has such a path",
            "write the path from the root of the hierarchy, as the host sees it",
        );
    }
    if names
        .iter()
        .any(|name| *name != "**" && name.contains("**"))
    {
        return wrong(
            "has `**` within a name",
            "`**` stands alone between two `/`; within a name write `*`",
        );
    }
    if names.iter().filter(|name| **name == "**").count() > DEEP {
        return wrong(
            "has more than four `**`",
            "one `**` already matches any number of names",
        );
    }
    Ok(pattern)
}

/// Whether a pattern matches the path of one cgroup.
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    overlap(pattern, path)
}

/// Whether some cgroup is matched by both patterns.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    if begin_apart(one.as_bytes(), other.as_bytes()) {
        return false;
    }
    let one: Vec<&[u8]> = one.split('/').map(str::as_bytes).collect();
    let other: Vec<&[u8]> = other.split('/').map(str::as_bytes).collect();
    common(&one, &other, &|name| *name == b"**", &|one, other| {
        !begin_apart(one, other) && common(one, other, &|byte| *byte == b'*', &u8::eq)
    })
}

/// Whether two patterns differ in a byte before any star: most do, and have nothing in common then.
fn begin_apart(one: &[u8], other: &[u8]) -> bool {
    let mut bytes = one.iter().zip(other);
    let first = bytes.find(|(a, b)| a != b || **a == b'*');
    first.is_some_and(|(a, b)| *a != b'*' && *b != b'*')
}

/// Whether two sequences, in each of which some items stand for any number of items, have a sequence in common.
fn common<T>(
    one: &[T],
    other: &[T],
    any: &dyn Fn(&T) -> bool,
    same: &dyn Fn(&T, &T) -> bool,
) -> bool {
    // Row by row from the ends: whether what is left of each has something in common.
    let mut below = vec![false; other.len() + 1];
    for at in (0..=one.len()).rev() {
        let mut row = vec![false; other.len() + 1];
        for beside in (0..=other.len()).rev() {
            row[beside] = match (one.get(at), other.get(beside)) {
                (None, None) => true,
                (Some(item), _) if any(item) => {
                    below[beside] || beside < other.len() && row[beside + 1]
                }
                (_, Some(item)) if any(item) => row[beside + 1] || at < one.len() && below[beside],
                (Some(item), Some(with)) => below[beside + 1] && same(item, with),
                (Some(_), None) | (None, Some(_)) => false,
            };
        }
        below = row;
    }
    below[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_the_automaton_does() {
        for (pattern, path, yes) in [
            ("/docker/*", "/docker/a", true),
            ("/docker/*", "/docker/a/b", false),
            ("/**/docker-*.scope", "/docker-1.scope", true),
            ("/**/docker-*.scope", "/a/b/docker-1.scope", true),
            ("/**/docker-*.scope", "/a/docker-1.scopes", false),
            ("/**/kubepods/**/pod*/*", "/kubepods/pod1/c", true),
            (
                "/**/kubepods/**/pod*/*",
                "/x/kubepods/besteffort/pod1/c",
                true,
            ),
            (
                "/**/kubepods/**/pod*/*",
                "/x/kubepods/besteffort/pod1",
                false,
            ),
        ] {
            assert_eq!(matches(pattern, path), yes, "{pattern} {path}");
        }
    }

    #[test]
    fn two_patterns_overlap_if_some_path_is_in_both() {
        assert!(overlap("/**/libpod-*", "/**/libpod-conmon-*"));
        assert!(overlap("/**/pod*/*", "/**/*.mount"));
        assert!(overlap("/a/**/b", "/**/c/b"));
        assert!(!overlap("/docker/*", "/lxc/*"));
        assert!(!overlap("/**/a-*.scope", "/**/a-*.service"));
    }

    #[test]
    fn the_whole_host_is_no_container() {
        for pattern in [
            "/",
            "/**",
            "/**/**",
            "//",
            "docker/*",
            "/a//b",
            "/a/",
            "/a/../b",
            "/a**",
            "/**/**/**/**/**/a",
        ] {
            assert!(plain(pattern).is_err(), "{pattern}");
        }
        assert_eq!(plain("**/x").unwrap(), "/**/x");
        assert!(plain(r"/machine.slice/machine-lxc\x2d*.scope").is_ok());
    }
}
