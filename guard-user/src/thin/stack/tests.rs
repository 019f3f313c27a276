//! Devices on devices, in a tree of files like sysfs.

use std::{collections::HashMap, os::unix::fs::symlink};

use super::*;

/// A sysfs, and what the device mapper would say.
struct Sys {
    at: PathBuf,
    targets: HashMap<u32, Option<Vec<String>>>,
    loops: HashMap<String, Below>,
}

impl Ask for Sys {
    fn targets(&self, number: u32) -> Option<Vec<String>> {
        self.targets.get(&number).cloned().flatten()
    }
    fn below_loop(&self, name: &str) -> Below {
        self.loops.get(name).copied().unwrap_or(Below::Nothing)
    }
}

impl Sys {
    fn new(name: &str) -> Self {
        let at = std::env::temp_dir().join(format!("bulkhead-stack-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&at);
        fs::create_dir_all(at.join("class/block")).unwrap();
        Self {
            at,
            targets: HashMap::new(),
            loops: HashMap::new(),
        }
    }

    fn block(&self, name: &str, number: &str, slaves: &[&str]) {
        let at = self.at.join("class/block").join(name);
        fs::create_dir_all(at.join("slaves")).unwrap();
        fs::create_dir_all(at.join("holders")).unwrap();
        fs::write(at.join("dev"), format!("{number}\n")).unwrap();
        for slave in slaves {
            fs::write(at.join("slaves").join(slave), "").unwrap();
            let holders = self.at.join("class/block").join(slave).join("holders");
            fs::write(holders.join(name), "").unwrap();
        }
    }

    fn mapped(&mut self, minor: u32, targets: Option<&[&str]>, slaves: &[&str]) -> u32 {
        let name = format!("dm-{minor}");
        self.block(&name, &format!("253:{minor}"), slaves);
        let at = self.at.join("class/block").join(&name).join("dm");
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("name"), format!("volume{minor}\n")).unwrap();
        let own = |all: &[&str]| all.iter().map(|kind| (*kind).to_owned()).collect();
        self.targets.insert(number(253, minor), targets.map(own));
        number(253, minor)
    }

    fn stack(&self) -> Stack {
        Stack::of(&self.at, self).unwrap()
    }
}

impl Drop for Sys {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.at);
    }
}

#[test]
fn where_no_devices_can_be_listed_nothing_is_said_of_any() {
    let sys = Sys::new("unlisted");
    fs::remove_dir_all(sys.at.join("class/block")).unwrap();
    assert!(Stack::of(&sys.at, &sys).is_err());
    fs::write(sys.at.join("class/block"), "").unwrap();
    assert!(Stack::of(&sys.at, &sys).is_err());
}

#[test]
fn what_stands_on_a_thin_volume_is_thin_and_what_the_pool_stands_on_is_not() {
    let mut sys = Sys::new("classes");
    sys.block("loop0", "7:0", &[]);
    sys.loops
        .insert("loop0".to_owned(), Below::On(number(8, 1)));
    let pool = sys.mapped(0, Some(&["thin-pool"]), &["loop0"]);
    let thin = sys.mapped(1, Some(&["thin"]), &["dm-0"]);
    let crypt = sys.mapped(2, Some(&["crypt"]), &["dm-1"]);
    let linear = sys.mapped(3, Some(&["linear"]), &["loop0"]);
    let new = sys.mapped(4, Some(&[]), &[]);
    let mute = sys.mapped(5, None, &[]);
    sys.block("md0", "9:0", &["dm-2", "loop0"]);
    let stack = sys.stack();
    for (device, class) in [
        (number(7, 0), Class::Other),
        (pool, Class::Other),
        (thin, Class::Thin),
        (crypt, Class::Thin),
        (linear, Class::Other),
        (new, Class::Unknown),
        (mute, Class::Unknown),
        (number(9, 0), Class::Thin),
        (number(200, 0), Class::Other),
    ] {
        assert_eq!(stack.class(device), class, "{device:#x}");
    }
    let above: Vec<&str> = stack.above(thin).map(|block| block.name.as_str()).collect();
    assert_eq!(above, ["dm-2"]);
}

#[test]
fn a_partition_stands_on_its_device_and_a_loop_on_what_its_file_is_on() {
    let mut sys = Sys::new("parts");
    sys.mapped(1, Some(&["thin"]), &[]);
    sys.block("md0", "9:0", &["dm-1"]);
    let whole = sys.at.join("class/block/md0");
    fs::create_dir_all(whole.join("md0p1")).unwrap();
    fs::write(whole.join("md0p1/partition"), "1").unwrap();
    fs::write(whole.join("md0p1/dev"), "259:0").unwrap();
    symlink(whole.join("md0p1"), sys.at.join("class/block/md0p1")).unwrap();
    sys.block("loop1", "7:1", &[]);
    fs::create_dir_all(sys.at.join("class/block/loop1/loop")).unwrap();
    sys.loops
        .insert("loop1".to_owned(), Below::On(number(259, 0)));
    // One whose file nobody serves does not say what it is on.
    sys.block("loop2", "7:2", &[]);
    fs::create_dir_all(sys.at.join("class/block/loop2/loop")).unwrap();
    sys.loops.insert("loop2".to_owned(), Below::Unknown);
    let stack = sys.stack();
    assert_eq!(stack.class(number(7, 2)), Class::Unknown);
    assert_eq!(stack.class(number(259, 0)), Class::Thin);
    assert!(stack.block(number(259, 0)).unwrap().is_partition);
    assert_eq!(stack.class(number(7, 1)), Class::Thin);
}

#[test]
fn a_device_that_changes_takes_what_stands_on_it_along_and_one_that_is_gone_goes() {
    let mut sys = Sys::new("renew");
    let below = sys.mapped(1, Some(&[]), &[]);
    let above = sys.mapped(2, Some(&["linear"]), &["dm-1"]);
    let mut stack = sys.stack();
    assert_eq!(stack.class(above), Class::Unknown);
    let thin = vec!["thin".to_owned()];
    sys.targets.insert(below, Some(thin));
    let at = sys.at.clone();
    assert_eq!(stack.renew(&at, &sys, "dm-1"), [below, above]);
    assert_eq!(stack.class(above), Class::Thin);
    fs::remove_dir_all(sys.at.join("class/block/dm-2")).unwrap();
    assert_eq!(stack.renew(&at, &sys, "dm-2"), [above]);
    assert!(stack.block(above).is_none());
}

#[test]
fn what_cannot_be_seen_for_a_while_is_what_it_was() {
    let mut sys = Sys::new("blind");
    sys.block("loop0", "7:0", &[]);
    let thin = sys.mapped(1, Some(&["thin"]), &[]);
    let above = sys.mapped(2, Some(&["crypt"]), &["dm-1"]);
    let mut stack = sys.stack();
    let (at, class) = (sys.at.clone(), sys.at.join("class/block"));
    let away = sys.at.join("away");
    for empty in [false, true] {
        fs::rename(&class, &away).unwrap();
        if empty {
            fs::create_dir_all(&class).unwrap();
        }
        assert!(stack.renew(&at, &sys, "dm-1").is_empty());
        assert_eq!(stack.class(thin), Class::Thin);
        assert_eq!(stack.class(above), Class::Thin);
        fs::rename(&away, &class).unwrap();
    }
    // Listed, and not to be followed.
    symlink(sys.at.join("nowhere"), class.join("sda")).unwrap();
    assert!(Stack::of(&at, &sys).is_err());
    // Listed, and nobody's to open: a path of a disk's that has several.
    fs::remove_file(class.join("sda")).unwrap();
    fs::create_dir(class.join("nvme0c0n1")).unwrap();
    assert_eq!(sys.stack().class(above), Class::Thin);
    // Below it is something that cannot be read.
    fs::remove_file(class.join("dm-1/dev")).unwrap();
    assert_eq!(sys.stack().class(above), Class::Unknown);
}

#[test]
fn a_pool_in_another_pools_volume_is_thin_and_so_is_what_stands_on_it() {
    let mut sys = Sys::new("nested");
    sys.block("loop0", "7:0", &[]);
    sys.mapped(0, Some(&["thin-pool"]), &["loop0"]);
    sys.mapped(1, Some(&["thin"]), &["dm-0"]);
    let inner = sys.mapped(2, Some(&["thin-pool"]), &["loop0", "dm-1"]);
    let on_it = sys.mapped(3, Some(&["linear"]), &["dm-2"]);
    let stack = sys.stack();
    assert_eq!(stack.class(inner), Class::Thin);
    assert_eq!(stack.class(on_it), Class::Thin);
}

#[test]
fn of_a_file_system_on_several_devices_all_are_thin_if_one_is() {
    let mut sys = Sys::new("together");
    let thin = sys.mapped(1, Some(&["thin"]), &[]);
    sys.block("loop0", "7:0", &[]);
    sys.block("loop1", "7:1", &[]);
    let devices = sys.at.join("fs/btrfs/some-uuid/devices");
    fs::create_dir_all(&devices).unwrap();
    for name in ["dm-1", "loop0"] {
        symlink(sys.at.join("class/block").join(name), devices.join(name)).unwrap();
    }
    let stack = sys.stack();
    assert_eq!(stack.class(thin), Class::Thin);
    assert_eq!(stack.class(number(7, 0)), Class::Thin);
    assert_eq!(stack.class(number(7, 1)), Class::Other);
    // Its own queue leads to no thin volume.
    assert_eq!(stack.alone(number(7, 0)), Class::Other);
}

#[test]
fn majors_are_those_of_drivers_that_stack() {
    let devices = "Character devices:\n 10 misc\n253 md\n\nBlock devices:\n  7 loop\n  8 sd\n  9 md\n253 device-mapper\n254 mdp\n259 blkext\n";
    assert_eq!(majors(devices), [9, 253, 254]);
    assert!(majors("").is_empty());
}
