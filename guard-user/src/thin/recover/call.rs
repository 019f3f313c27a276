//! Lost volumes: every program that a recovery calls is shown as it would be typed, ends with us, and its words are kept.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Interrupts, RecoverError};
use crate::record::Text;

/// Where they are looked for: not where the caller's PATH says.
const FOLDERS: [&str; 5] = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// At most so much of what one says is kept, its end.
const KEPT: u64 = 512;
/// At most so much of what one prints is read, where all of it is wanted.
const PRINTED: u64 = 1 << 20;

/// A call of a program.
#[derive(Clone, Debug)]
pub(super) struct Call {
    program: &'static str,
    arguments: Vec<OsString>,
    input: Vec<u8>,
}

impl Call {
    pub(super) fn new<S: AsRef<OsStr>>(
        program: &'static str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            program,
            arguments: (arguments.into_iter())
                .map(|argument| argument.as_ref().to_owned())
                .collect(),
            input: Vec::new(),
        }
    }

    /// The same with something on its standard input.
    pub(super) fn reading(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// As it would be typed.
    pub(super) fn words(&self) -> Text {
        let mut words = self.program.to_owned();
        for argument in &self.arguments {
            words.push(' ');
            let text = argument.to_string_lossy();
            let plain = |character: char| {
                character.is_ascii_alphanumeric() || "-_=/.,:+%".contains(character)
            };
            if !text.is_empty() && text.chars().all(plain) {
                words.push_str(&text);
            } else {
                words.push_str(&format!("'{}'", text.replace('\'', r"'\''")));
            }
        }
        Text::from(words)
    }

    /// Runs it to its end; what it printed, up to 1 MiB of it.
    pub(super) fn run(&self, interrupts: &Interrupts) -> Result<Vec<u8>, RecoverError> {
        let mut printed = memory(self)?;
        let mut begun = self.begin(Stdio::from(self.own(printed.try_clone())?))?;
        begun.wait(self, interrupts)?;
        let mut output = Vec::new();
        self.own(printed.seek(SeekFrom::Start(0)))?;
        self.own(printed.take(PRINTED).read_to_end(&mut output))?;
        Ok(output)
    }

    /// Runs it, and reads what it prints meanwhile. What is wrong with that counts only if the program itself was content.
    pub(super) fn stream<T>(
        &self,
        interrupts: &Interrupts,
        read: impl FnOnce(ChildStdout) -> Result<T, RecoverError>,
    ) -> Result<T, RecoverError> {
        let mut begun = self.begin(Stdio::piped())?;
        let result = match begun.child.stdout.take() {
            Some(output) => read(output),
            None => Err(self.failed("has no output".to_owned(), "")),
        };
        if let Err(RecoverError::Interrupted { .. }) = result {
            return result;
        }
        begun.wait(self, interrupts)?;
        result
    }

    fn begin(&self, output: Stdio) -> Result<Begun, RecoverError> {
        let said = memory(self)?;
        let mut command = Command::new(find(self.program)?);
        command
            .args(&self.arguments)
            .env("LC_ALL", "C")
            // dmsetup makes its nodes itself, and udev's rules leave alone what does not come with a cookie of dmsetup's:
            // nothing in a container's volume is looked at by LVM or by blkid.
            .env("DM_DISABLE_UDEV", "1")
            .current_dir("/")
            .stdout(output)
            .stderr(Stdio::from(self.own(said.try_clone())?));
        if self.input.is_empty() {
            command.stdin(Stdio::null());
        } else {
            let mut input = memory(self)?;
            self.own(input.write_all(&self.input))?;
            self.own(input.seek(SeekFrom::Start(0)))?;
            command.stdin(Stdio::from(input));
        }
        let child = self.own(command.spawn())?;
        Ok(Begun { child, said })
    }

    fn own<T>(&self, result: std::io::Result<T>) -> Result<T, RecoverError> {
        result.map_err(RecoverError::io("run", Path::new(self.program)))
    }

    fn failed(&self, how: String, said: &str) -> RecoverError {
        RecoverError::Failed {
            command: self.words(),
            how,
            said: Text::from(said.trim()),
        }
    }
}

/// A program that runs. It does not outlive this.
struct Begun {
    child: Child,
    said: File,
}

impl Begun {
    fn wait(&mut self, call: &Call, interrupts: &Interrupts) -> Result<(), RecoverError> {
        let status = loop {
            if let Some(status) = call.own(self.child.try_wait())? {
                break status;
            }
            interrupts.wait(20)?;
        };
        if status.success() {
            return Ok(());
        }
        Err(call.failed(how(status), &self.words()))
    }

    /// The end of what it said.
    fn words(&mut self) -> String {
        let mut bytes = Vec::new();
        let length = self.said.seek(SeekFrom::End(0)).unwrap_or(0);
        let _ = (self.said).seek(SeekFrom::Start(length.saturating_sub(KEPT)));
        let _ = (&self.said).take(KEPT).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        // Of a line that was cut, nothing.
        let whole = match text.split_once('\n') {
            Some((_, rest)) if length > KEPT => rest,
            _ => &text,
        };
        whole.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

fn memory(call: &Call) -> Result<File, RecoverError> {
    let file = memfd_create(c"bulkhead", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from);
    call.own(file.map(File::from))
}

/// Where a program is.
pub(super) fn find(program: &'static str) -> Result<PathBuf, RecoverError> {
    (FOLDERS.iter())
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
        .ok_or(RecoverError::Missing {
            program,
            package: match program {
                "thin_check" | "thin_dump" | "thin_repair" => "thin-provisioning-tools",
                "dmsetup" => "dmsetup",
                "cp" => "coreutils",
                _ => "util-linux",
            },
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_stands_as_it_would_be_typed() {
        let call = Call::new("cp", ["-a", "a b", "it's", ""]);
        assert_eq!(call.words().as_str(), r"cp -a 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("thin_none").unwrap_err();
        assert!(error.is_of_the_host());
        assert!(find("cp").is_ok());
    }

    #[test]
    fn what_a_program_prints_comes_back_and_its_failure_has_its_words() {
        let interrupts = Interrupts::hold().unwrap();
        let echo = Call::new("cat", ["-"]).reading(b"two\nlines".to_vec());
        assert_eq!(echo.run(&interrupts).unwrap(), b"two\nlines");
        let error = Call::new("cat", ["/nowhere/at all"]).run(&interrupts);
        let words = error.unwrap_err().to_string();
        assert!(
            words.starts_with("`cat '/nowhere/at all'` failed with 1: "),
            "{words}"
        );
        assert!(words.contains("No such file"), "{words}");
    }
}
