//! The record: what was seen, decided and done, one JSON object a line (`docs/audit.md`).

pub mod audit;
#[cfg(test)]
mod docs;
pub mod fields;
pub(crate) mod file;
pub mod read;
mod readable;
pub mod text;
pub mod words;

pub use audit::{AuditError, Health, Settings, Shown, Writer};
pub use fields::Record;
pub use readable::readable;
pub use text::{LongText, Text};
pub use words::{Kind, Measure, Mode, Severity, Verdict};
