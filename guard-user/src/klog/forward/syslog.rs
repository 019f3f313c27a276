//! A line as RFC 5424 has it, for receivers that take no other: bounded, escaped, and never two messages of one.

use std::io;

use chrono::SecondsFormat;
use syslog_fmt::{
    Facility, Severity,
    v5424::{Config, Msg, Timestamp, write_data, write_msg},
};

use super::said::{NAME, Said};

/// Bytes of a message: what rsyslog takes by default (`maxMessageSize`), and four times what every receiver should.
pub const MESSAGE_MAX: usize = 8192;
/// Whose the structured data is. A name of one's own has a private enterprise number in it; this is the one for who has
/// none (RFC 5612).
pub const SD_ID: &str = "bulkhead@32473";
/// Stands at the end of what was cut.
const CUT: &str = "…";

/// Adds the message to `out`. `host`: this host's name, as [`host_name`] gives it.
///
/// # Errors
/// Numbers that syslog does not have; a [`Said`] has none.
pub fn write(out: &mut Vec<u8>, said: &Said<'_>, host: Option<&str>) -> io::Result<()> {
    let unknown = |what: String| io::Error::other(what);
    let facility = Facility::try_from(said.facility).map_err(|error| unknown(error.to_string()))?;
    let severity =
        Severity::try_from(said.level as u8).map_err(|error| unknown(error.to_string()))?;
    let pid = said.pid.map(|pid| pid.to_string());
    let formatter = Config {
        facility,
        hostname: host,
        app_name: Some(NAME),
        proc_id: pid.as_deref(),
    }
    .into_formatter();
    // Six digits at most, and `Z`.
    let time = said.time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let begin = out.len();
    formatter.write_header(
        out,
        severity,
        Timestamp::PreformattedStr(&time),
        Some(said.kind),
    )?;
    let fields = said.fields.iter().map(|(key, value)| (*key, &**value));
    write_data(out, [(SD_ID, fields)])?;
    // The blank and the byte order mark.
    let room = MESSAGE_MAX.saturating_sub(out.len() - begin + 4);
    let text = cut(&said.text, room);
    // What is ASCII is the same in every encoding; a byte order mark belongs only before what is more (section 6.4).
    let message = if text.is_ascii() {
        Msg::NonUnicodeBytes(text.as_bytes())
    } else {
        Msg::Utf8Str(&text)
    };
    write_msg(out, message)
}

/// The text, or as much of it as there is room for, and a mark.
fn cut(text: &str, room: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= room {
        return text.into();
    }
    let end = text.floor_char_boundary(room.saturating_sub(CUT.len()));
    format!("{}{CUT}", &text[..end]).into()
}

/// The same with its length before it, as RFC 6587 counts (section 3.4.1): a newline would be a message's end only by
/// custom.
pub fn counted(message: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    frame
}

/// A host's name as a message may have it: printable ASCII, up to 255 of it.
pub fn host_name(name: &str) -> Option<String> {
    let name: String = (name.trim().chars())
        .filter(char::is_ascii_graphic)
        .take(255)
        .collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::klog::forward::said::tests::{line, now, of_a_container};

    fn message(said: &Said<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, said, Some("host")).unwrap();
        out
    }

    #[test]
    fn a_line_is_a_message_with_who_printed_it_as_structured_data() {
        let line = of_a_container(b"11,340,5140900,-;oh \"no\" ]\\x5c\n");
        assert_eq!(
            String::from_utf8(message(&Said::line(&line, now()))).unwrap(),
            "<11>1 2026-11-25T10:00:03.140900Z host bulkhead-kernel 4711 kmsg [bulkhead@32473 seq=\"340\" boot=\"boot-id\" \
             monotonic_us=\"5140900\" from=\"container\" container=\"c0ffee\" runtime=\"docker\" pid=\"4711\" \
             comm=\"we\\\"ird\\]\\\\\" cgroup_id=\"99\" injected=\"true\"] oh \"no\" ]\\"
        );
    }

    #[test]
    fn only_what_is_no_ascii_has_a_byte_order_mark() {
        let with = line("6,1,1,-;grün\n".as_bytes());
        let with = message(&Said::line(&with, now()));
        let mark = b"] \xef\xbb\xbfgr\xc3\xbcn";
        assert!(with.ends_with(mark), "{}", with.escape_ascii());
        let without = line(b"6,1,1,-;\\x1b[2J\\x00\\x0a\n");
        let without = message(&Said::line(&without, now()));
        assert!(without.ends_with(br"] \x1b[2J\x00\x0a"));
    }

    #[test]
    fn a_message_is_whole_up_to_the_bound_and_cut_beyond_it() {
        let mut line = line(b"6,1,1,-;x\n");
        let head = message(&Said::line(&line, now())).len() - 1;
        for (letter, more) in [('a', 0), ('ü', 3)] {
            let room = MESSAGE_MAX - head - 3;
            let text = letter.to_string().repeat(room / letter.len_utf8());
            line.text = Some(crate::record::LongText::from_bytes(text.as_bytes()));
            let whole = message(&Said::line(&line, now()));
            assert_eq!(whole.len(), head + more + text.len());
            assert!(whole.ends_with(text.as_bytes()));
            line.text = Some(crate::record::LongText::from_bytes(
                format!("{text}{letter}").as_bytes(),
            ));
            let cut = message(&Said::line(&line, now()));
            assert!(cut.len() <= MESSAGE_MAX);
            assert!(cut.ends_with(CUT.as_bytes()));
        }
    }

    #[test]
    fn a_frame_begins_with_the_length_of_its_message() {
        assert_eq!(counted("grün".as_bytes()), "5 grün".as_bytes());
        assert_eq!(counted(b""), b"0 ");
    }

    #[test]
    fn a_host_without_a_name_that_can_be_said_has_none() {
        assert_eq!(host_name(" a host\n"), Some("ahost".to_owned()));
        assert_eq!(host_name("grün.example"), Some("grn.example".to_owned()));
        assert_eq!(host_name("\u{fc}"), None);
        assert_eq!(
            host_name(&"a".repeat(300)).map(|name| name.len()),
            Some(255)
        );
    }

    /// Takes structured data apart, as RFC 5424 has it (section 6.3): an unescaped quote ends a value.
    fn read_back(message: &str) -> (Vec<(String, String)>, &str) {
        let at = message.find(" [bulkhead@32473").unwrap() + 1;
        let mut rest = message[at..].strip_prefix("[bulkhead@32473").unwrap();
        let mut fields = Vec::new();
        while let Some(behind) = rest.strip_prefix(' ') {
            let (key, behind) = behind.split_once("=\"").unwrap();
            let (mut value, mut letters) = (String::new(), behind.char_indices());
            let end = loop {
                match letters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(letters.next().unwrap().1),
                    (_, ']') => panic!("an unescaped ]"),
                    (_, letter) => value.push(letter),
                }
            };
            fields.push((key.to_owned(), value));
            rest = &behind[end + 1..];
        }
        (fields, rest.strip_prefix("] ").unwrap())
    }

    proptest! {
        #[test]
        fn whatever_was_written_comes_back_and_no_control_character_with_it(
            text in prop::collection::vec(any::<u8>(), 0..200),
            comm in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b']')], 0..16),
            prio in 0..0x800_u32,
        ) {
            let mut line = line(format!("{prio},5,1,-;x\n").as_bytes());
            line.text = Some(crate::record::LongText::from_bytes(&text));
            line.by.comm = Some(crate::record::Text::from_bytes(&comm));
            let message = String::from_utf8(message(&Said::line(&line, now()))).unwrap();
            prop_assert!(!message.chars().any(char::is_control), "{message:?}");
            let (fields, said) = read_back(&message);
            let found = fields.iter().find(|(key, _)| key == "comm").unwrap();
            prop_assert_eq!(&found.1, line.by.comm.as_ref().unwrap().as_str());
            let said = said.strip_prefix('\u{feff}').unwrap_or(said);
            prop_assert_eq!(said, line.text.as_ref().unwrap().as_str());
        }
    }
}
