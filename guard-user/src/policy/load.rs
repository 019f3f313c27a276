//! Where a policy comes from: the files of /etc, one file that replaces them, or the one that is built in.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;

use super::{
    merge,
    model::Policy,
    problem::{Problem, Problems, Source},
    yaml::FILE_BYTES,
};

/// Where the host's policy lies: `policy.yaml`, and `policy.d/*.yaml` in order of their names.
pub const DIRECTORY: &str = "/etc/bulkhead";
/// The policy of a host that has none.
pub const EMBEDDED: &str = include_str!("../../../policies/default.yaml");
/// What the embedded policy is called in messages.
pub const EMBEDDED_NAME: &str = "(built in) default.yaml";

/// The files of `directory` that make up its policy, in order; none where it has none.
///
/// # Errors
/// The directory is there and cannot be read.
pub fn sources_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    let main = directory.join("policy.yaml");
    // Not `exists`: what is there and cannot be seen must not be passed over.
    match fs::symlink_metadata(&main) {
        Ok(_) => sources.push(main),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parts = match fs::read_dir(directory.join("policy.d")) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut parts: Vec<PathBuf> = (parts.into_iter())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    parts.sort();
    sources.extend(parts);
    Ok(sources)
}

/// The files of [`DIRECTORY`].
///
/// # Errors
/// The directory is there and cannot be read.
pub fn default_sources() -> io::Result<Vec<PathBuf>> {
    sources_in(Path::new(DIRECTORY))
}

/// Reads the policy that these files make up together, each of them a regular file.
///
/// # Errors
/// All that is wrong with them, a file that cannot be read among it.
pub fn load(files: &[PathBuf]) -> Result<Policy, Problems> {
    load_by(files, open_regular)
}

/// As [`load`], and waits for what comes through a pipe: for whoever has named it and can interrupt.
///
/// # Errors
/// As those of [`load`].
pub fn load_also_pipes(files: &[PathBuf]) -> Result<Policy, Problems> {
    load_by(files, |path| fs::File::open(path))
}

fn load_by(
    files: &[PathBuf],
    open: impl Fn(&Path) -> io::Result<fs::File>,
) -> Result<Policy, Problems> {
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    for path in files {
        match read(path, &open) {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() {
        merge::policy(sources)
    } else {
        Err(Problems(problems))
    }
}

/// What the daemon runs with: `file` alone if there is one, else the host's files, else the embedded policy.
///
/// # Errors
/// All that is wrong with it.
pub fn in_force(file: Option<&Path>) -> Result<Policy, Problems> {
    if let Some(file) = file {
        return load(&[file.to_owned()]);
    }
    match default_sources() {
        Ok(files) if files.is_empty() => embedded(),
        Ok(files) => load(&files),
        Err(error) => {
            let message = format!("cannot look for policy files: {error}");
            let problem = Problem::of_file(
                DIRECTORY,
                message,
                "a directory that can be read",
                "check its permissions",
            );
            Err(Problems(vec![problem]))
        }
    }
}

/// The mistake that none of the files is left that a policy in force came from.
#[must_use]
pub fn gone(files: &[String]) -> Problem {
    Problem::of_file(
        files.first().map_or(DIRECTORY, String::as_str),
        "the file is gone, and no other policy file is left".to_owned(),
        "a policy file, since the policy in force came from one",
        "put it back; to go back to the built-in policy, restart the daemon",
    )
}

/// The policy that is built in.
///
/// # Errors
/// None that a test would not have found.
pub fn embedded() -> Result<Policy, Problems> {
    let source = Source {
        file: EMBEDDED_NAME.to_owned(),
        text: EMBEDDED.to_owned(),
    };
    Ok(Policy {
        embedded: true,
        ..merge::policy(vec![source])?
    })
}

/// Reads the text of a policy that is in memory; `name` stands for the file in messages.
///
/// # Errors
/// All that is wrong with it.
pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Policy, Problems> {
    let source = text(name, bytes).map_err(|problem| Problems(vec![*problem]))?;
    merge::policy(vec![source])
}

/// Opens what can be read to its end at once. To wait for the other end of a pipe would hold the daemon for ever, and the
/// panic switch with it.
fn open_regular(path: &Path) -> io::Result<fs::File> {
    let file = fs::File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let data = file.metadata()?;
    if data.is_file() {
        Ok(file)
    } else if data.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::other("this is not a regular file"))
    }
}

/// The bytes of a regular file, and one more than `most` of one that has more.
pub(crate) fn bounded(path: &Path, most: usize) -> Result<Vec<u8>, Box<Problem>> {
    let mut bytes = Vec::new();
    let taken =
        open_regular(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    match taken {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Box::new(Problem::of_file(
            &path.display().to_string(),
            format!("cannot read the file: {error}"),
            "a regular file",
            "check its path and its permissions",
        ))),
    }
}

fn read(path: &Path, open: impl Fn(&Path) -> io::Result<fs::File>) -> Result<Source, Box<Problem>> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too much is seen, and a device or a pipe does not fill the memory.
    let taken =
        open(path).and_then(|file| file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes));
    match taken {
        Ok(_) => text(&name, &bytes),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Err(Box::new(Problem::of_file(
                &name,
                "this is a directory".to_owned(),
                "a policy file",
                "name the file in it; without one, `bulkhead check` reads /etc/bulkhead",
            )))
        }
        Err(error) => Err(Box::new(Problem::of_file(
            &name,
            format!("cannot read the file: {error}"),
            "a policy file",
            "check that it is a regular file, its path and its permissions",
        ))),
    }
}

/// The bytes as the text of a source.
pub(crate) fn text(name: &str, bytes: &[u8]) -> Result<Source, Box<Problem>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Source {
            file: name.to_owned(),
            text: text.to_owned(),
        }),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let good = String::from_utf8_lossy(good);
            let mut problem = Problem::of_file(
                name,
                "the file is not UTF-8 text here".to_owned(),
                "UTF-8",
                "save it as UTF-8; comments may be the cause",
            );
            problem.line = good.matches('\n').count() + 1;
            problem.column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Err(Box::new(problem))
        }
    }
}
