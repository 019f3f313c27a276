//! Thin discard: what an operator says at this moment, until he says otherwise or the host is booted anew; it beats the policy.

use std::{fs, io, path::Path};

use crate::control::RUN_DIRECTORY;

/// Where it stands, below [`RUN_DIRECTORY`].
const FILE: &str = "thin-discard";

/// What is to become of discards on dm-thin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody gets one through.
    Off,
    /// They are left on.
    On,
}

/// What was said last; `None`: the policy holds.
#[must_use]
pub fn asked() -> Option<Asked> {
    let text = fs::read_to_string(Path::new(RUN_DIRECTORY).join(FILE)).ok()?;
    match text.trim() {
        "off" => Some(Asked::Off),
        "on" => Some(Asked::On),
        _ => None,
    }
}

/// Says it, or takes it back.
///
/// # Errors
/// It cannot be written.
pub fn ask(asked: Option<Asked>) -> io::Result<()> {
    let file = Path::new(RUN_DIRECTORY).join(FILE);
    let text = match asked {
        Some(Asked::Off) => "off\n",
        Some(Asked::On) => "on\n",
        None => {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
    };
    fs::write(file, text)
}
