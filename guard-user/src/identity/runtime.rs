//! What a container's own cgroup path says of it: the runtime that made it and the id that it goes by there.
//!
//! Only a name for records: nothing is decided by it, since anyone who may make a cgroup may choose its name.

/// Prefixes of scope names, and the runtime that uses each. The longer comes first.
const SCOPES: [(&str, &str); 12] = [
    ("libpod-payload-", "podman"),
    ("cri-containerd-", "containerd"),
    ("docker-", "docker"),
    ("crio-", "cri-o"),
    ("libpod-", "podman"),
    ("nerdctl-", "nerdctl"),
    ("runc-", "runc"),
    ("crun-", "crun"),
    ("youki-", "youki"),
    ("runsc-", "gvisor"),
    ("lxc.payload.", "lxc"),
    ("kata_", "kata"),
];

/// First names of a path, and the runtime that puts its containers below.
const PARENTS: [(&str, &str); 12] = [
    ("docker", "docker"),
    ("actions_job", "docker"),
    ("azpl_job", "docker"),
    ("buildkit", "buildkit"),
    ("default", "containerd"),
    ("k8s.io", "containerd"),
    ("moby", "docker"),
    ("lxc", "lxc"),
    ("mesos", "mesos"),
    ("nomad", "nomad"),
    ("nomad.slice", "nomad"),
    ("ecs", "ecs"),
];

/// The runtime and the container's id in it, of the container whose own cgroup `path` is. A path that tells no runtime
/// gives `unknown` and the last name.
#[must_use]
pub fn parse(path: &str) -> (&'static str, &str) {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let Some((last, above)) = names.split_last() else {
        return ("unknown", "");
    };
    let parent = above.last().copied().unwrap_or_default();
    let bare = last.strip_suffix(".scope").unwrap_or(last);
    if let Some((_, id)) = last.rsplit_once(":cri-containerd:") {
        return ("containerd", id);
    }
    if *last == "payload" {
        for (prefix, suffix) in [("systemd-nspawn@", ".service"), ("machine-", ".scope")] {
            if let Some(name) = parent
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(suffix))
            {
                return ("systemd-nspawn", name);
            }
        }
    }
    if let Some(name) = bare.strip_prefix(r"machine-lxc\x2d") {
        return (
            "libvirt-lxc",
            name.split_once(r"\x2d").map_or(name, |(_, name)| name),
        );
    }
    if above.len() == 2 && above[0] == "docker" && parent == "buildkit" {
        return ("buildkit", last);
    }
    for (prefix, runtime) in SCOPES {
        if let Some(id) = bare.strip_prefix(prefix) {
            return (runtime, id);
        }
    }
    if parent == "lxc.payload" {
        return ("lxc", last);
    }
    if parent == "garden"
        || matches!(parent, "good" | "bad")
            && above.len() >= 2
            && above[above.len() - 2] == "garden"
    {
        return ("garden", last);
    }
    if parent.starts_with("pod") && above.contains(&"kubepods") {
        return ("cri", last);
    }
    if let Some(name) = last.strip_prefix("bpm-") {
        return ("bpm", name);
    }
    for (first, runtime) in PARENTS {
        if above.first() == Some(&first) {
            return (runtime, bare);
        }
    }
    ("unknown", bare)
}
