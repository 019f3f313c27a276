//! Lost volumes: what stands in a thin pool comes back without the pool being activated, and without a byte of it written.
//!
//! A copy of the metadata is checked, repaired where it must be, and dumped by thin-provisioning-tools; from the dump
//! alone follows where a volume's blocks lie. dm-thin, whose code may be what crashes the kernel, takes no part.

mod books;
mod call;
mod copy;
mod dump;
mod error;
mod execute;
mod filesystem;
mod interrupts;
mod list;
mod map;
mod metadata;
mod mounted;
mod plan;
mod pool;
mod space;
mod stands;
mod superblock;
mod target;
mod work;

pub use books::{Books, Owner};
pub use dump::Device;
pub use error::RecoverError;
pub use execute::{Done, execute};
pub use interrupts::Interrupts;
pub use list::{Found, Line, find};
pub use metadata::{Hints, Metadata};
pub use plan::{Plan, Step, plan};
pub use pool::Pool;
pub use target::Target;
pub use work::{Work, clean};
