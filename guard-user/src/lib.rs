//! Bulkhead's daemon: compiles a policy into kernel tables, escalates, and keeps the record.
//!
//! The spine is by stage (`sense` → `decide` → `act` → `record`), the leaves are by hazard.

pub mod act;
pub mod advisory;
pub mod control;
pub mod daemon;
pub mod decide;
pub mod identity;
pub mod kernel;
pub mod klog;
pub mod policy;
pub mod record;
pub mod sense;
pub mod thin;
