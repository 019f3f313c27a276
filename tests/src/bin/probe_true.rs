//! The smallest program that can be executed: what fork and exec cost is measured with it.
#![no_main]

/// Does nothing, successfully.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    0
}
