//! rsyslog's reader of the kernel log, on the host and in a container.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    cgroup::{Cgroup, number},
    host::wait_for,
};

/// How rsyslog reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// `/proc/kmsg`, whose readers take the lines from each other.
    Imklog,
    /// `/dev/kmsg`.
    Imkmsg,
}

impl Input {
    /// Its module.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imklog => "imklog",
            Self::Imkmsg => "imkmsg",
        }
    }

    const fn load(self) -> &'static str {
        match self {
            Self::Imklog => r#"module(load="imklog" permitnonkernelfacility="on")"#,
            Self::Imkmsg => r#"module(load="imkmsg")"#,
        }
    }
}

/// A running rsyslogd that reads nothing else, and writes each line to a file.
pub struct Rsyslog {
    child: Child,
    folder: PathBuf,
}

impl Rsyslog {
    /// Starts it, in a container's cgroup or the host's, and waits until it works.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(cgroup: Option<&Cgroup>, input: Input) -> Result<Self> {
        let folder = PathBuf::from(format!("/tmp/rsyslog-{}", number()));
        fs::create_dir_all(&folder)?;
        let at = folder.display();
        fs::write(
            folder.join("conf"),
            format!(
                "global(workDirectory=\"{at}\" processInternalMessages=\"on\")\n\
                 main_queue(queue.size=\"200000\")\n\
                 {}\n\
                 template(name=\"text\" type=\"string\" string=\"%msg%\\n\")\n\
                 if $syslogtag startswith \"rsyslogd\" then action(type=\"omfile\" file=\"{at}/own\" template=\"text\")\n\
                 else action(type=\"omfile\" file=\"{at}/kernel\" template=\"text\")\n",
                input.load()
            ),
        )?;
        let mut command = Command::new("rsyslogd");
        command
            .arg("-n")
            .arg("-f")
            .arg(folder.join("conf"))
            .arg("-i")
            .arg(folder.join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(folder.join("stderr"))?));
        if let Some(cgroup) = cgroup {
            cgroup.enter(&mut command)?;
        }
        let child = command.spawn().context("rsyslogd")?;
        let started = Self { child, folder };
        wait_for("rsyslogd", Duration::from_secs(60), || {
            Ok(started.own().contains("start"))
        })
        .with_context(|| started.own())?;
        Ok(started)
    }

    /// What it says of itself.
    pub fn own(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        read("own") + &read("stderr")
    }

    /// The numbers of the lines `WORD NUMBER` that it has.
    pub fn numbers(&self, word: &str) -> Vec<u64> {
        numbers(&self.folder.join("kernel"), word)
    }
}

/// The numbers of the lines `WORD NUMBER` in a file, whatever stands before them.
pub fn numbers(file: &Path, word: &str) -> Vec<u64> {
    let text = fs::read(file).unwrap_or_default();
    let word = format!("{word} ");
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.rsplit_once(&word)?.1.trim().parse().ok())
        .collect()
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
