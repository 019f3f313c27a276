//! The day on which a kernel was built, by its own words.

use chrono::NaiveDate;

/// The day in `uname -v`: `(2026-07-31)`, or `Fri Sep 27 20:20:17 UTC 2024`.
pub fn date(version: &str) -> Option<NaiveDate> {
    let words: Vec<&str> = version
        .split(|letter: char| letter.is_whitespace() || matches!(letter, '(' | ')'))
        .filter(|word| !word.is_empty())
        .collect();
    let iso = |word: &&str| NaiveDate::parse_from_str(word, "%Y-%m-%d").ok();
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let spelt = |words: &[&str]| {
        let [month, day, time, _zone, year] = words else {
            return None;
        };
        let month = months.iter().position(|known| known == month)? + 1;
        let plain = time.split(':').count() == 3;
        let year = year
            .parse()
            .ok()
            .filter(|year| plain && (1991..3000).contains(year))?;
        NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, day.parse().ok()?)
    };
    words
        .windows(5)
        .find_map(spelt)
        .or_else(|| words.iter().find_map(iso))
}
