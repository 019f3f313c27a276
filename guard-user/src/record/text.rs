//! Text that a container may have written: no byte of it reaches a terminal or a log as anything but text.

use std::{
    fmt::{self, Write as _},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use serde::{Deserialize, Deserializer, Serialize};

/// Longest text in a record, in bytes; of a path that is longer, the end is left out.
pub const TEXT_MAX: usize = 1024;
/// Longest [`LongText`], in bytes: four for each byte of what a kernel before 6.3 makes of a record.
pub const LONG_MAX: usize = 4 * 8192 + CUT.len_utf8();
/// Stands at the end of a text that was cut.
const CUT: char = '…';

/// Text without control characters, escapes of terminals, changes of direction or invalid UTF-8.
///
/// A byte that is not part of a printable character stands as `\xNN`, in lower case. So does a backslash, if else it
/// would read as the beginning of such a byte; every other backslash stands as it is, so that a cgroup's `\x2d` remains
/// what it is on disk. Nothing is lost but the end of what is longer than [`TEXT_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Text(String);

impl Text {
    /// Escapes what a kernel or a container says.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(escape(bytes, TEXT_MAX))
    }

    /// Escapes a fixed buffer that a NUL ends, as the kernel's `comm` is one.
    #[must_use]
    pub fn from_buffer(bytes: &[u8]) -> Self {
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len());
        Self::from_bytes(&bytes[..end])
    }

    /// The text, safe to print.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that were escaped. Of a text that was cut, the beginning and the mark.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        unescape(&self.0)
    }
}

/// As [`Text`], with room for a whole line of the kernel log: [`LONG_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LongText(String);

impl LongText {
    /// Escapes what a kernel or a container says.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(escape(bytes, LONG_MAX))
    }

    /// The text, safe to print.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that were escaped. Of a text that was cut, the beginning and the mark.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        unescape(&self.0)
    }
}

impl fmt::Display for LongText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for LongText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(again(&text, LONG_MAX)))
    }
}

/// The bytes as text of at most so many bytes.
fn escape(bytes: &[u8], max: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(max));
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        for (offset, character) in chunk.valid().char_indices() {
            let at = done + offset;
            let piece = &bytes[at..at + character.len_utf8()];
            if !push(&mut out, max, piece, |piece| {
                printable(character) && !(piece == b"\\" && looks_escaped(&bytes[at..]))
            }) {
                return out;
            }
        }
        done += chunk.valid().len();
        if !push(&mut out, max, chunk.invalid(), |_| false) {
            return out;
        }
        done += chunk.invalid().len();
    }
    out
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some(&first) = rest.first() {
        if let Some(byte) = escaped_byte(rest) {
            out.push(byte);
            rest = &rest[4..];
        } else {
            out.push(first);
            rest = &rest[1..];
        }
    }
    out
}

/// Takes text that was escaped before, from a file that somebody may have edited since.
fn again(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        let mut buffer = [0; 4];
        let piece = character.encode_utf8(&mut buffer).as_bytes();
        if !push(&mut out, max, piece, |_| printable(character)) {
            break;
        }
    }
    out
}

/// Adds one piece, as it is or escaped; false, and the mark, if it finds no more room.
fn push(out: &mut String, max: usize, piece: &[u8], as_it_is: impl FnOnce(&[u8]) -> bool) -> bool {
    let plain = std::str::from_utf8(piece).ok().filter(|_| as_it_is(piece));
    let length = plain.map_or(4 * piece.len(), str::len);
    if out.len() + length > max - CUT.len_utf8() {
        // The mark is not put twice where a text that was cut is read again.
        if !out.ends_with(CUT) {
            out.push(CUT);
        }
        return false;
    }
    match plain {
        Some(plain) => out.push_str(plain),
        None => {
            for byte in piece {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    true
}

/// What the standard library would print as it is in a debug string; no control, format, private or unassigned character.
fn printable(character: char) -> bool {
    matches!(character, '\\' | '"' | '\'') || character.escape_debug().len() == 1
}

/// Whether these bytes would be taken for an escaped one.
fn looks_escaped(bytes: &[u8]) -> bool {
    escaped_byte(bytes).is_some()
}

/// The byte that an escape at the beginning stands for: only such as are escaped have one.
fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = digit(*high)? << 4 | digit(*low)?;
    (!(0x20..0x7f).contains(&byte) || byte == b'\\').then_some(byte)
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::from_bytes(text.as_bytes())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        Self::from_bytes(path.as_os_str().as_bytes())
    }
}

/// To whoever asks over Varlink it is a string.
impl zlink::introspect::Type for Text {
    const TYPE: &'static zlink::idl::Type<'static> = String::TYPE;
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(again(&text, TEXT_MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn harmless(text: &str) -> bool {
        text.chars().all(|character| {
            !character.is_control()
                && !('\u{202a}'..='\u{202e}').contains(&character)
                && !('\u{2066}'..='\u{2069}').contains(&character)
        })
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_and_carry_no_control_character(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let text = Text::from_bytes(&bytes);
            prop_assert!(harmless(text.as_str()), "{text:?}");
            prop_assert_eq!(text.to_bytes(), bytes);
        }

        #[test]
        fn backslashes_and_digits_come_back(bytes in r"[\\x15bce\x1b-]{0,40}") {
            let text = Text::from(&bytes);
            prop_assert_eq!(text.to_bytes(), bytes.as_bytes());
        }

        #[test]
        fn any_text_comes_back_and_a_file_gives_it_unchanged(bytes in any::<String>()) {
            let text = Text::from(&bytes);
            prop_assert!(harmless(text.as_str()));
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Text>(&json).unwrap(), &text);
            if !text.as_str().ends_with(CUT) {
                prop_assert_eq!(text.to_bytes(), bytes.as_bytes());
            }
        }

        #[test]
        fn what_somebody_wrote_into_the_file_is_harmless_too(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert!(harmless(serde_json::from_str::<Text>(&json).unwrap().as_str()));
        }
    }

    #[test]
    fn a_terminal_escape_is_text_and_a_units_own_escape_stays() {
        assert_eq!(Text::from("\x1b[2J").as_str(), r"\x1b[2J");
        assert_eq!(Text::from_bytes(b"a\xffb").as_str(), r"a\xffb");
        assert_eq!(Text::from(r"a\x2db.slice").as_str(), r"a\x2db.slice");
        assert_eq!(Text::from(r"\x1b").as_str(), r"\x5cx1b");
        assert_eq!(Text::from("\u{202e}").as_str(), r"\xe2\x80\xae");
        assert_eq!(Text::from("grün").as_str(), "grün");
        assert_eq!(Text::from_buffer(b"sh\0\x1bold").as_str(), "sh");
        assert_eq!(Text::from(Path::new("/a\x1bb")).as_str(), r"/a\x1bb");
    }

    #[test]
    fn a_long_text_is_whole_where_a_text_is_cut() {
        let bytes = vec![0; 8192];
        let long = LongText::from_bytes(&bytes);
        assert!(!long.as_str().ends_with(CUT));
        assert_eq!(long.to_bytes(), bytes);
        let json = serde_json::to_string(&long).unwrap();
        assert_eq!(serde_json::from_str::<LongText>(&json).unwrap(), long);
        assert!(LongText::from_bytes(&[0; 8193]).as_str().ends_with(CUT));
    }

    #[test]
    fn a_text_is_whole_up_to_the_bound_and_cut_beyond_it() {
        let room = TEXT_MAX - CUT.len_utf8();
        assert_eq!(Text::from("a".repeat(room)).as_str(), "a".repeat(room));
        let cut = Text::from("a".repeat(room + 1));
        assert_eq!(cut.as_str(), format!("{}{CUT}", "a".repeat(room)));
        assert!(Text::from_bytes(&[0; 5000]).as_str().len() <= TEXT_MAX);
    }
}
