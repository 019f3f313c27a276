use std::os::unix::fs::symlink;

use super::*;

/// A file on the first part of a disk.
const FILE: Identity = (0x803, 77);

/// A sysfs of some block devices.
struct Sys {
    root: PathBuf,
    behind: BTreeMap<String, Identity>,
}

impl Sys {
    fn new(name: &str) -> Self {
        let here = format!("bulkhead-stands-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(here);
        let _ = fs::remove_dir_all(&root);
        for folder in ["dev/block", "block"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let behind = BTreeMap::new();
        Self { root, behind }
    }

    /// A device at a path below `devices`, on others.
    fn device(&self, path: &str, number: (u64, u64), on: &[&str]) -> u64 {
        let at = self.root.join("devices").join(path);
        fs::create_dir_all(at.join("slaves")).unwrap();
        let text = format!("{}:{}", number.0, number.1);
        fs::write(at.join("dev"), format!("{text}\n")).unwrap();
        symlink(&at, self.root.join("dev/block").join(text)).unwrap();
        if path.contains('/') {
            fs::write(at.join("partition"), "1\n").unwrap();
        } else {
            symlink(&at, self.root.join("block").join(path)).unwrap();
        }
        for below in on {
            let name = below.rsplit('/').next().unwrap();
            symlink(
                self.root.join("devices").join(below),
                at.join("slaves").join(name),
            )
            .unwrap();
        }
        makedev(number.0, number.1)
    }

    fn looped(&mut self, number: u64, behind: Identity) -> u64 {
        let name = format!("loop{number}");
        let device = self.device(&name, (7, number), &[]);
        fs::create_dir_all(self.root.join("devices").join(&name).join("loop")).unwrap();
        self.behind.insert(name, behind);
        device
    }

    fn ask<T>(&self, ask: impl FnOnce(&Host<'_>) -> T) -> T {
        ask(&Host {
            sys: &self.root,
            behind: &|name| self.behind.get(name).copied(),
        })
    }

    /// Of a device by its number.
    fn stands(&self, number: u64) -> Stands {
        self.ask(|host| host.stands((u64::MAX, number), 0))
    }

    /// Whether they touch, which is the same both ways.
    fn touch(&self, one: &Stands, other: &Stands) -> bool {
        assert_eq!(one.touches(other), other.touches(one));
        one.touches(other)
    }
}

impl Drop for Sys {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn a_loop_device_over_a_file_of_the_pools_is_the_pools_and_one_over_another_file_is_not() {
    let mut sys = Sys::new("loops");
    sys.device("sda", (8, 0), &[]);
    let on = sys.device("sda/sda3", (8, 3), &[]);
    let data = sys.ask(|host| host.stands(FILE, on));
    let same = sys.looped(1, FILE);
    let other = sys.looped(2, (FILE.0, FILE.1 + 1));
    assert!(sys.touch(&sys.stands(same), &data));
    assert!(!sys.touch(&sys.stands(other), &data));
    // What stands on the loop device does as well.
    let above = sys.device("dm-1", (253, 1), &["loop1"]);
    assert!(sys.touch(&sys.stands(above), &data));
    // The disk that the file is on.
    assert!(sys.touch(&sys.stands(makedev(8, 0)), &data));
    // Two loop devices over the same, when the pool is given by one of them; also where that is a device.
    let again = sys.looped(3, FILE);
    assert!(sys.touch(&sys.stands(again), &sys.stands(same)));
    let disk = (u64::MAX, sys.device("sdb", (8, 16), &[]));
    let (first, second) = (sys.looped(4, disk), sys.looped(5, disk));
    assert!(sys.touch(&sys.stands(first), &sys.stands(second)));
    assert!(sys.touch(&sys.stands(first), &sys.stands(disk.1)));
}

#[test]
fn a_disk_touches_its_parts_and_volumes_beside_each_other_do_not_touch() {
    let mut sys = Sys::new("disks");
    let disk = sys.device("sdb", (8, 16), &[]);
    let (one, two) = (
        sys.device("sdb/sdb1", (8, 17), &[]),
        sys.device("sdb/sdb2", (8, 18), &[]),
    );
    assert!(sys.touch(&sys.stands(one), &sys.stands(disk)));
    assert!(!sys.touch(&sys.stands(one), &sys.stands(two)));
    assert!(sys.touch(&sys.stands(one), &sys.stands(one)));
    // A volume group on a part, and one on a loop device.
    let loops = sys.looped(0, FILE);
    for (below, first) in [("sdb/sdb1", 0), ("loop0", 10)] {
        let pool = sys.device(&format!("dm-{first}"), (253, first), &[below]);
        let new = sys.device(&format!("dm-{}", first + 1), (253, first + 1), &[below]);
        assert!(!sys.touch(&sys.stands(new), &sys.stands(pool)), "{below}");
        let below = if first == 0 { one } else { loops };
        assert!(sys.touch(&sys.stands(below), &sys.stands(pool)));
    }
    assert!(sys.touch(&sys.stands(disk), &sys.stands(makedev(253, 0))));
}

#[test]
fn a_pool_is_looked_for_on_each_loop_device_over_the_same_and_not_on_what_carries_others_too() {
    let mut sys = Sys::new("names");
    let names = |sys: &Sys, stands: &Stands| -> Vec<String> {
        let names = sys.ask(|host| host.names(stands));
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<String> = names.into_iter().map(name).collect();
        names.sort();
        names
    };
    let first = sys.looped(0, FILE);
    sys.looped(1, FILE);
    sys.looped(2, (FILE.0, FILE.1 + 1));
    let file = sys.ask(|host| host.stands(FILE, 0));
    assert_eq!(names(&sys, &file), ["loop0", "loop1"]);
    assert_eq!(names(&sys, &sys.stands(first)), ["7:0", "loop1"]);
    // A volume group on a loop device.
    let volume = sys.device("dm-3", (253, 3), &["loop0"]);
    assert_eq!(names(&sys, &sys.stands(volume)), ["253:3", "loop1"]);
}

#[test]
fn what_stands_in_a_circle_ends() {
    let sys = Sys::new("circle");
    let one = sys.device("dm-1", (253, 1), &["dm-2"]);
    let two = sys.device("dm-2", (253, 2), &["dm-1"]);
    assert!(sys.touch(&sys.stands(one), &sys.stands(two)));
}

/// The kernel's own account, where this may make a loop device.
#[test]
fn a_loop_device_of_another_mount_namespace_is_known_by_its_file() {
    use std::process::Command;

    let at = std::env::temp_dir().join(format!("bulkhead-looped-{}", std::process::id()));
    for folder in ["here", "there"] {
        fs::create_dir_all(at.join(folder)).unwrap();
        fs::write(at.join(folder).join("data"), vec![0; 1 << 16]).unwrap();
    }
    // What is `here/data` to us is `there/data` to whoever makes it.
    let made = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind here there && losetup --find --show --read-only there/data")
        .current_dir(&at)
        .output();
    let file = identity(&fs::metadata(at.join("here/data")).unwrap());
    match made {
        Ok(made) if made.status.success() => {
            let node = String::from_utf8(made.stdout).unwrap();
            let found = behind(node.trim().strip_prefix("/dev/").unwrap());
            let mut detach = Command::new("losetup");
            let _ = detach.args(["--detach", node.trim()]).status();
            assert_eq!(found, Some(file));
        }
        _ => println!("skipping: the kernel's own account: no loop device can be made here"),
    }
    fs::remove_dir_all(at).unwrap();
}
