//! Who in a container has the kernel log open: what is refused to it from one moment to the next may be more than it bears.
//!
//! rsyslogd goes on reading what it has closed when a read was refused to it, and takes a whole processor until it is restarted.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    identity::names::Names,
    klog::about::{Living, in_proc},
    record::Text,
};

/// A process of a container's that has a descriptor of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reader {
    /// The process.
    pub pid: u32,
    /// What it calls itself.
    pub comm: Text,
    /// Path of its cgroup.
    pub cgroup: Text,
    /// What it has open, by the name that it has there: `/dev/kmsg`, `/proc/kmsg`, or no more than `/kmsg` where that is mounted
    /// elsewhere.
    pub file: Text,
}

/// Those that there are now, as far as /proc tells. A device node with another name than the usual one is not found: only the
/// names are looked at, since a look at a file itself may wait for a file server that is gone.
#[must_use]
pub fn in_containers(names: &Names) -> Vec<Reader> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut readers: Vec<Reader> = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| reader(names, pid, in_proc(pid)?))
        .collect();
    readers.sort_by_key(|reader| reader.pid);
    readers
}

fn reader(names: &Names, pid: u32, living: Living) -> Option<Reader> {
    names.container(&living.cgroup)?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let file = (descriptors.flatten())
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .find(|file| is_the_log(file))?;
    Some(Reader {
        pid,
        comm: Text::from_bytes(&living.comm),
        cgroup: Text::from_bytes(&living.cgroup),
        file: Text::from_bytes(file.as_os_str().as_bytes()),
    })
}

fn is_the_log(file: &Path) -> bool {
    let usual = ["/dev/kmsg", "/proc/kmsg", "/kmsg"].map(PathBuf::from);
    usual.iter().any(|name| name == file)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process};

    use super::*;
    use crate::identity::names::Role;

    #[test]
    fn a_process_is_a_reader_while_it_is_in_a_container_and_has_the_log_open() {
        // Whatever cgroup the test runs in is a container, or none is.
        let all = |glob: &str| {
            Names::compile(&[(glob.to_owned(), Role::Subject(0))], &mut |_| Ok(1)).unwrap()
        };
        let us = process::id();
        let living = || in_proc(us).unwrap();
        let path = String::from_utf8(living().cgroup).unwrap();
        if path == "/" || File::open("/dev/kmsg").is_err() {
            println!("skipping: a process in the root, or one that may not open /dev/kmsg");
            return;
        }
        let (ours, others) = (all(&path), all("/elsewhere/*"));
        assert_eq!(reader(&ours, us, living()), None);
        let open = File::open("/dev/kmsg").unwrap();
        let found = reader(&ours, us, living()).unwrap();
        assert_eq!((found.pid, found.file.as_str()), (us, "/dev/kmsg"));
        assert!(in_containers(&ours).contains(&found));
        assert_eq!(reader(&others, us, living()), None);
        drop(open);
        assert_eq!(reader(&ours, us, living()), None);
    }

    #[test]
    fn the_log_is_known_by_its_names() {
        for (file, expected) in [
            ("/dev/kmsg", true),
            ("/proc/kmsg", true),
            ("/kmsg", true),
            ("/var/log/kmsg", false),
            ("/dev/kmsg2", false),
            ("socket:[12]", false),
        ] {
            assert_eq!(is_the_log(Path::new(file)), expected, "{file}");
        }
    }
}
