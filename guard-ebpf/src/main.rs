//! Bulkhead's kernel side: one ELF for every kernel.
#![no_std]
#![no_main]
// For `atomic_xadd`, which stable `core` does not offer on this target.
#![allow(internal_features)]
#![feature(core_intrinsics)]
// For `kernel::apart`, `names::behind` and `context::loaded`.
#![feature(asm_experimental_arch)]

mod asking;
mod attempt;
mod call;
mod context;
mod event;
mod gate;
mod hazards;
mod kernel;
mod maps;
mod names;
mod setup;
mod subject;

/// The helpers used here are for GPL-compatible programs only; the source is MIT as well.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
