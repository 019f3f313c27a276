//! A thin pool on loop devices over files in memory, with what a test puts onto it; it goes when the test ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bed,
    cgroup::{Cgroup, number},
};

/// Sectors of the pool's data, and of each volume.
pub const DATA: u64 = 1_966_080;
/// Sectors of the device that it is on: it can be made larger.
pub const ROOM: u64 = 2_097_152;
/// See [`DATA`].
pub const VOLUME: u64 = 786_432;

/// What became of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was done.
    Done,
    /// EPERM.
    Refused,
    /// EOPNOTSUPP.
    Unsupported,
}

/// What becomes of a script of the shell.
///
/// # Errors
/// It fails for another reason.
pub fn came(cgroup: Option<&Cgroup>, script: &str) -> Result<Came> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let output = bed::output(cgroup, command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let has = |words: &[&str]| words.iter().any(|words| said.contains(words));
    Ok(match output.status.success() {
        true => Came::Done,
        false if has(&["Operation not permitted", "permission denied."]) => Came::Refused,
        false if has(&["not supported"]) => Came::Unsupported,
        false => bail!("{script}: {} {said}", output.status),
    })
}

/// Runs a script that must work.
///
/// # Errors
/// It failed.
pub fn must(script: &str) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("sh")
        .args(["-ec", script])
        .env("DM_DISABLE_UDEV", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        status.success(),
        "{script}: {status} {}",
        String::from_utf8_lossy(&stderr)
    );
    Ok(String::from_utf8_lossy(&stdout).trim_end().to_owned())
}

/// The pool.
pub struct Pool {
    name: String,
    folder: PathBuf,
    loops: Vec<String>,
    /// What stands on it, in the order in which it was made.
    mapped: Vec<String>,
    arrays: Vec<String>,
    volumes: u32,
}

impl Pool {
    /// A pool without volumes.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make() -> Result<Self> {
        let mut pool = Self::none()?;
        let metadata = pool.attach("metadata", 8 << 20)?;
        let data = pool.attach("data", ROOM * 512)?;
        pool.map(
            &pool.name.clone(),
            &format!("0 {DATA} thin-pool {metadata} {data} 128 0 1 skip_block_zeroing"),
        )?;
        Ok(pool)
    }

    /// One of 1,024 blocks of data, in which what finds no room fails at once; its metadata is on the mapping `NAME-metadata`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn small() -> Result<Self> {
        Self::with_metadata(8 << 20)
    }

    /// The same with so many bytes of metadata.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn with_metadata(bytes: u64) -> Result<Self> {
        let mut pool = Self::none()?;
        let name = pool.name.clone();
        let metadata = pool.attach("metadata", bytes)?;
        let metadata = pool.map(
            &format!("{name}-metadata"),
            &format!("0 {} linear {metadata} 0", bytes / 512),
        )?;
        let data = pool.attach("data", 64 << 20)?;
        pool.map(
            &name,
            &format!(
                "0 131072 thin-pool {metadata} {data} 128 0 2 skip_block_zeroing error_if_no_space"
            ),
        )?;
        Ok(pool)
    }

    /// No pool: what only needs devices that go when it ends.
    ///
    /// # Errors
    /// The kernel has no device mapper.
    pub fn none() -> Result<Self> {
        must("modprobe -a loop dm_mod dm_thin_pool")?;
        let name = format!("pool{}", number());
        let folder = PathBuf::from(format!("/tmp/{name}"));
        fs::create_dir(&folder)?;
        Ok(Self {
            name,
            folder,
            loops: Vec::new(),
            mapped: Vec::new(),
            arrays: Vec::new(),
            volumes: 0,
        })
    }

    /// A loop device over a new file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn attach(&mut self, file: &str, bytes: u64) -> Result<String> {
        let at = self.folder.join(file);
        fs::File::create(&at)?.set_len(bytes)?;
        let device = must(&format!("losetup --find --show {}", at.display()))?;
        self.loops.push(device.clone());
        Ok(device)
    }

    /// Bytes that a file below a loop device takes up.
    ///
    /// # Errors
    /// There is no such file.
    pub fn taken(&self, file: &str) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(self.folder.join(file))?.blocks() * 512)
    }

    /// A device of the device mapper; gives its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn map(&mut self, name: &str, table: &str) -> Result<String> {
        must(&format!("dmsetup create {name} --table '{table}'"))?;
        self.mapped.push(name.to_owned());
        Ok(format!("/dev/mapper/{name}"))
    }

    /// An array of md over a device, which lacks its other half; gives its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn array(&mut self, over: &str) -> Result<String> {
        // More than 511 mdadm cannot make by name.
        let array = format!("/dev/md{}", number() % 512);
        must(&format!(
            "modprobe raid1; mdadm --create {array} --quiet --run --level=1 --raid-devices=2 --metadata=1.2 {over} missing"
        ))?;
        self.arrays.push(array.clone());
        Ok(array)
    }

    /// A device of the device mapper that a tool has made; gives its path.
    pub fn took(&mut self, name: &str) -> String {
        self.mapped.push(name.to_owned());
        format!("/dev/mapper/{name}")
    }

    /// A new volume; gives its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn volume(&mut self) -> Result<String> {
        self.volumes += 1;
        let (pool, id) = (self.name.clone(), self.volumes);
        must(&format!("dmsetup message {pool} 0 'create_thin {id}'"))?;
        self.map(
            &format!("{pool}-{id}"),
            &format!("0 {VOLUME} thin /dev/mapper/{pool} {id}"),
        )
    }

    /// A snapshot of a volume, which is idle meanwhile; gives its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn snapshot(&mut self, of: u32) -> Result<String> {
        self.volumes += 1;
        let (pool, id) = (self.name.clone(), self.volumes);
        must(&format!(
            "dmsetup suspend {pool}-{of}; dmsetup message {pool} 0 'create_snap {id} {of}'; dmsetup resume {pool}-{of}"
        ))?;
        self.map(
            &format!("{pool}-{id}"),
            &format!("0 {VOLUME} thin /dev/mapper/{pool} {id}"),
        )
    }

    /// Blocks of all volumes that are mapped, by the pool's own word.
    ///
    /// # Errors
    /// It has none.
    pub fn used(&self) -> Result<u64> {
        Ok(self.space(5)?.0)
    }

    /// Blocks of metadata that are used, and that there are.
    ///
    /// # Errors
    /// It does not say.
    pub fn metadata(&self) -> Result<(u64, u64)> {
        self.space(4)
    }

    /// One of the spaces in the pool's status: what is used, and what there is.
    fn space(&self, word: usize) -> Result<(u64, u64)> {
        let status = must(&format!("dmsetup status {}", self.name))?;
        let words = status.split_whitespace().nth(word);
        let (used, total) = words
            .and_then(|words| words.split_once('/'))
            .with_context(|| format!("the pool's status is another: {status}"))?;
        Ok((used.parse()?, total.parse()?))
    }

    /// The pool is one that a tool makes on what was attached.
    pub fn is_called(&mut self, name: &str) {
        name.clone_into(&mut self.name);
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A place to mount at.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn place(&self) -> Result<PathBuf> {
        let at = self.folder.join("mounted");
        fs::create_dir_all(&at)?;
        Ok(at)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = must(&format!("umount {}/mounted", self.folder.display()));
        for array in &self.arrays {
            let _ = must(&format!("mdadm --quiet --stop {array}"));
        }
        for name in self.mapped.iter().rev() {
            let _ = must(&format!("swapoff /dev/mapper/{name}"));
            if let Err(error) = must(&format!("dmsetup remove --retry {name}")) {
                println!("{error}");
            }
        }
        for device in &self.loops {
            let _ = must(&format!("losetup -d {device}"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The most that a device takes in one discard.
///
/// # Errors
/// There is no such device.
pub fn most(device: &str) -> Result<u64> {
    let real = fs::canonicalize(device)?;
    let number = {
        use std::os::unix::fs::MetadataExt;
        let number = fs::metadata(real)?.rdev();
        format!(
            "{}:{}",
            nix::sys::stat::major(number),
            nix::sys::stat::minor(number)
        )
    };
    let file = Path::new("/sys/dev/block")
        .join(number)
        .join("queue/discard_max_bytes");
    Ok(fs::read_to_string(file)?.trim().parse()?)
}
