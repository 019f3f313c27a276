//! Thin discard: who uses a device, by the names that programs give theirs.

use serde::Serialize;

use crate::record::Text;

/// A program that makes thin volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// Docker's `devicemapper` storage driver: `docker-MAJOR:MINOR-INODE-ID`
    /// (moby, daemon/graphdriver/devmapper/deviceset.go).
    Docker,
    /// That of containers/storage, which podman, Buildah and CRI-O share: `container-MAJOR:MINOR-INODE-ID`
    /// (drivers/devmapper/deviceset.go).
    ContainersStorage,
    /// containerd's `devmapper` snapshotter: `POOL-snap-NUMBER` (snapshots/devmapper/snapshotter.go).
    Containerd,
    /// A logical volume, as LVM calls it: its uuid begins with `LVM-` (lib/activate/dev_manager.c).
    Lvm(String),
}

impl User {
    /// By a device's name in the device mapper and its uuid there. `is_pool`: whether there is a pool of that name.
    #[must_use]
    pub fn of(mapped: &str, uuid: &str, is_pool: impl Fn(&str) -> bool) -> Option<Self> {
        let inode = |prefix: &str| {
            let (major, rest) = mapped.strip_prefix(prefix)?.split_once(':')?;
            let mut rest = rest.splitn(3, '-');
            let numbers = [major, rest.next()?, rest.next()?];
            rest.next().filter(|id| !id.is_empty())?;
            numbers.into_iter().all(is_number).then_some(())
        };
        if inode("docker-").is_some() {
            return Some(Self::Docker);
        }
        if inode("container-").is_some() {
            return Some(Self::ContainersStorage);
        }
        if let Some((pool, number)) = mapped.rsplit_once("-snap-")
            && is_number(number)
            && is_pool(pool)
        {
            return Some(Self::Containerd);
        }
        uuid.starts_with("LVM-").then(|| Self::Lvm(volume(mapped)))
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Docker => "docker".to_owned(),
            Self::ContainersStorage => "containers/storage (podman, CRI-O)".to_owned(),
            Self::Containerd => "containerd".to_owned(),
            // Whoever may tell the device mapper names it.
            Self::Lvm(volume) => format!("LVM {}", Text::from(volume.as_str())),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `VG/LV`: within a name `-` stands twice, between two once (`dm_build_dm_name`).
fn volume(mapped: &str) -> String {
    let bytes = mapped.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'-', Some(b'-')) => at += 2,
            (b'-', _) => break,
            _ => at += 1,
        }
    }
    let (group, volume) = mapped.split_at(at);
    let volume = volume.strip_prefix('-').unwrap_or(volume);
    // What LVM adds to a pool's name for its own use.
    let volume = volume.strip_suffix("-tpool").unwrap_or(volume);
    format!("{}/{}", group.replace("--", "-"), volume.replace("--", "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(mapped: &str, uuid: &str) -> Option<String> {
        User::of(mapped, uuid, |name| name == "devpool").map(|user| user.words())
    }

    #[test]
    fn each_program_is_known_by_the_names_that_it_gives() {
        for (mapped, uuid, user) in [
            ("docker-8:1-12345-base", "", "docker"),
            ("docker-8:1-12345-pool", "", "docker"),
            (
                "docker-254:3-1835012-0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
                "",
                "docker",
            ),
            (
                "container-254:3-77-base",
                "",
                "containers/storage (podman, CRI-O)",
            ),
            ("devpool-snap-12", "", "containerd"),
            ("vg-thin1", "LVM-abc", "LVM vg/thin1"),
            ("my--vg-a--b", "LVM-abc", "LVM my-vg/a-b"),
            (
                "docker-thinpool-tpool",
                "LVM-abc-tpool",
                "LVM docker/thinpool",
            ),
        ] {
            assert_eq!(words(mapped, uuid).as_deref(), Some(user), "{mapped}");
        }
    }

    #[test]
    fn what_only_looks_alike_is_nobodys() {
        for (mapped, uuid) in [
            ("docker-8:1-12345", ""),
            ("docker-8:1-12345-", ""),
            ("docker-a:1-12345-base", ""),
            ("docker-thinpool", ""),
            ("container-1-2", ""),
            ("other-snap-12", ""),
            ("devpool-snap-", ""),
            ("thin1", "CRYPT-LUKS2-abc"),
        ] {
            assert_eq!(words(mapped, uuid), None, "{mapped}");
        }
        // A name that LVM would not give is no reason to fail.
        assert_eq!(words("-", "LVM-"), Some("LVM /".to_owned()));
        assert_eq!(words("--", "LVM-"), Some("LVM -/".to_owned()));
    }
}
