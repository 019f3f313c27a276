//! A line of the kernel log in words.

use chrono::SecondsFormat;
use guard_user::{
    klog::{
        line::Line,
        names::{By, Origin},
        record::Level,
    },
    record::Text,
};

/// One line for a terminal, without its end. No byte of what was logged is more than text: see
/// [`guard_user::record::Text`].
pub fn readable(line: &Line) -> String {
    let time = line.time.map_or_else(String::new, |time| {
        time.to_rfc3339_opts(SecondsFormat::Micros, true)
    });
    if let Some(lost) = line.lost {
        let reason =
            (line.reason.as_ref()).map_or_else(String::new, |reason| format!(", {reason}"));
        let lines = if lost == 1 { "line" } else { "lines" };
        return format!("{time:<27}  LOST {lost} {lines}{reason}");
    }
    let facility = line.facility.as_ref().map_or("?", |name| name.as_str());
    let level = line.level.map_or("?", Level::name);
    let mark = if line.injected { '*' } else { ' ' };
    let by = printer(&line.by);
    let text = line.text.as_ref().map_or("", |text| text.as_str());
    let about = about(&line.by)
        .filter(|id| line.by.container.as_ref() != Some(*id))
        .map_or_else(String::new, |id| format!("(about {}) ", short(id)));
    format!("{time:<27}  {facility:<8} {mark}{level:<7}  {by:<14}  {about}{text}")
}

/// The container that a line is about.
pub fn about(by: &By) -> Option<&Text> {
    by.about.as_ref()?.container.as_ref()
}

fn short(id: &Text) -> String {
    id.as_str().chars().take(12).collect()
}

/// Who printed a line: a container's id, else in a word.
fn printer(by: &By) -> String {
    match (&by.container, by.from) {
        (Some(id), _) => short(id),
        (None, Some(Origin::Kernel)) => "kernel".to_owned(),
        (None, Some(Origin::Host)) => {
            (by.comm.as_ref()).map_or("host".to_owned(), |comm| comm.as_str().to_owned())
        }
        (None, Some(Origin::Container | Origin::Unknown) | None) => "?".to_owned(),
    }
}
