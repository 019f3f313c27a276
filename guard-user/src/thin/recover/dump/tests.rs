use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// As thin_dump 0.9 prints it.
const OLD: &str = r#"<superblock uuid="" time="1" transaction="3" flags="0" version="2" data_block_size="128" nr_data_blocks="4800">
  <device dev_id="1" mapped_blocks="2" transaction="0" creation_time="0" snap_time="1">
    <single_mapping origin_block="0" data_block="312" time="1"/>
    <single_mapping origin_block="9" data_block="1" time="1"/>
  </device>
  <device dev_id="2" mapped_blocks="4" transaction="1" creation_time="1" snap_time="1">
    <single_mapping origin_block="0" data_block="312" time="1"/>
    <range_mapping origin_begin="1" data_begin="260" length="3" time="0"/>
  </device>
</superblock>
"#;

/// As thin_dump 1.x prints it, with what volumes share once.
const NEW: &str = r#"<superblock uuid="" time="1" transaction="3" version="2" data_block_size="128" nr_data_blocks="0">
  <def name="0">
    <range_mapping origin_begin="1" data_begin="260" length="3" time="0"/>
  </def>
  <device dev_id="2" mapped_blocks="4" transaction="1" creation_time="1" snap_time="1">
    <single_mapping origin_block="0" data_block="312" time="1"/>
    <ref name="0"/>
  </device>
</superblock>"#;

fn parse(text: &str, wanted: Option<u64>) -> Result<Dump, DumpError<Infallible>> {
    read(text.as_bytes(), wanted, || Ok(()))
}

fn extent(origin: u64, data: u64, length: u64) -> Extent {
    Extent {
        origin,
        data,
        length,
    }
}

#[test]
fn volumes_and_the_mapping_of_one_are_read_of_both_forms() {
    for text in [OLD, NEW] {
        let dump = parse(text, Some(2)).unwrap();
        assert_eq!((dump.transaction, dump.data_block), (3, 128));
        assert_eq!(dump.extents, [extent(0, 312, 1), extent(1, 260, 3)]);
        let last = dump.devices.last().unwrap();
        assert_eq!((last.id, last.mapped, last.transaction), (2, 4, 1));
    }
    assert_eq!(parse(OLD, None).unwrap().devices.len(), 2);
    assert!(parse(OLD, None).unwrap().extents.is_empty());
    assert!(parse(OLD, Some(9)).unwrap().extents.is_empty());
}

#[test]
fn what_is_cut_off_is_no_dump() {
    for end in 0..OLD.trim_end().len() {
        assert!(parse(&OLD[..end], Some(2)).is_err(), "{end}");
    }
}

#[test]
fn what_is_no_number_or_was_not_there_before_is_refused() {
    for (from, to) in [
        ("\"312\"", "\"-1\""),
        ("\"312\"", "\"\""),
        ("data_block=", "other="),
    ] {
        assert!(parse(&OLD.replace(from, to), Some(2)).is_err(), "{to}");
    }
    let wrong = NEW.replace("ref name=\"0\"", "ref name=\"1\"");
    assert!(matches!(parse(&wrong, Some(2)), Err(DumpError::Reference)));
}

/// Parts within parts, each twice the one before: 2^40 mappings of a few lines.
#[test]
fn parts_that_multiply_are_stopped() {
    let mut text = String::from("<superblock transaction=\"0\" data_block_size=\"128\">");
    text.push_str("<def name=\"0\"><single_mapping origin_block=\"0\" data_block=\"0\"/></def>");
    for number in 1..40 {
        let before = number - 1;
        text.push_str(&format!(
            "<def name=\"{number}\"><ref name=\"{before}\"/><ref name=\"{before}\"/></def>"
        ));
    }
    text.push_str("</superblock>");
    assert!(matches!(parse(&text, Some(1)), Err(DumpError::TooMany)));
}

#[test]
fn an_element_without_an_end_is_not_kept() {
    let text = format!("<superblock uuid=\"{}", "a".repeat(100_000));
    assert!(matches!(parse(&text, None), Err(DumpError::Xml(_))));
}

#[test]
fn the_caller_can_stop_it() {
    let many = OLD.replace(
        "</device>",
        &"<single_mapping origin_block=\"1\" data_block=\"1\"/>".repeat(5000),
    );
    let stopped = read(many.as_bytes(), None, || Err("enough"));
    assert!(matches!(stopped, Err(DumpError::Stopped("enough"))));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), at in 0..OLD.len()) {
        let _ = read(bytes.as_slice(), Some(1), || Ok::<_, Infallible>(()));
        let mut text = OLD.as_bytes().to_vec();
        for (place, byte) in text.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        let _ = read(text.as_slice(), Some(1), || Ok::<_, Infallible>(()));
    }
}
