//! The system call that the running task is in, for hooks that are not told what it asks for.
//!
//! Nobody but the task itself, or who traces it, writes its registers, and no longer when the kernel has read them.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use guard_common::config::{Field, MISSING};

use crate::kernel::{config, current, offset, read, read_at};

/// Bytes of a task's kernel stack before 5.15 (`THREAD_SIZE`, arch/x86/include/asm/page_64_types.h, without KASAN).
const STACK: u64 = 16 << 10;
/// A system call by the x32 ABI (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
/// `PF_IO_WORKER` (include/linux/sched.h, the same bit on 5.10 to 7.3).
const PF_IO_WORKER: u32 = 0x10;
/// `TS_COMPAT`: the call is one of 32 bits (arch/x86/include/asm/thread_info.h).
const COMPAT: u32 = 2;

/// The number of no system call.
pub const NONE: u32 = u32::MAX;

/// A system call: its number, and that of 32 bits (arch/x86/entry/syscalls/).
#[derive(Clone, Copy)]
pub struct Call(pub u32, pub u32);

impl Call {
    /// The registers with which the running task has made this call; `None`: it is in another, or in none.
    #[inline(always)]
    pub fn running(self) -> Option<Registers> {
        self.is(entered()?)
    }

    /// Whether the running task is in one of these calls.
    #[inline(always)]
    pub fn is_any<const N: usize>(calls: [Self; N]) -> bool {
        entered().is_some_and(|entered| calls.iter().any(|call| call.is(entered).is_some()))
    }

    #[inline(always)]
    fn is(self, (registers, number): (u64, u32)) -> Option<Registers> {
        if number != self.0 && number != self.1 {
            return None;
        }
        // A worker of io_uring has its maker's registers, and is in no system call.
        if read::<u32>(current(), Field::TaskFlags)? & PF_IO_WORKER != 0 {
            return None;
        }
        let status: u32 = read(current(), Field::TaskStatus)?;
        let compat = status & COMPAT != 0;
        let own = if compat { self.1 } else { self.0 };
        (number == own).then_some(Registers { registers, compat })
    }
}

/// The registers with which the running task has entered the kernel, and the number of its call, if it is in one.
#[inline(always)]
fn entered() -> Option<(u64, u32)> {
    let registers = registers()?;
    // Of the number the kernel takes 32 bits (`syscall_get_nr`, arch/x86/include/asm/syscall.h).
    let number = read::<u32>(registers, Field::RegisterCall)? & !X32;
    Some((registers, number))
}

/// Address of the registers with which the running task has entered the kernel.
#[inline(always)]
fn registers() -> Option<u64> {
    if config(Field::HelperTaskRegisters) != MISSING {
        // SAFETY: the helpers have no preconditions; the second is given what the first returns.
        return Some(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64);
    }
    let stack: u64 = read(current(), Field::TaskStack)?;
    Some(stack + STACK - offset(Field::Registers)?)
}

/// Registers as they were when the kernel was entered.
#[derive(Clone, Copy)]
pub struct Registers {
    registers: u64,
    compat: bool,
}

impl Registers {
    /// The lower 32 bits of the call's first argument.
    #[inline(always)]
    pub fn first(self) -> Option<u32> {
        self.one(Field::RegisterFirst, Field::RegisterFirst32)
    }

    /// The lower 32 bits of its second.
    #[inline(always)]
    pub fn second(self) -> Option<u32> {
        self.one(Field::RegisterSecond, Field::RegisterSecond32)
    }

    #[inline(always)]
    fn one(self, whole: Field, compat: Field) -> Option<u32> {
        let field = if self.compat {
            offset(compat)?
        } else {
            offset(whole)?
        };
        read_at(self.registers + field)
    }
}
