//! What a program is loaded as, by how it is to be attached.

use std::{ffi::CStr, os::fd::BorrowedFd};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use super::{btf::Btf, load::LoadError};

/// How a program is attached.
#[derive(Clone, Copy)]
pub(super) enum How<'r> {
    Lsm(&'static str),
    ModifyReturn(&'static str),
    Entry(&'static str),
    Exit(&'static str),
    Tracepoint(&'static str),
    RawTracepoint(&'static CStr),
    Devices(BorrowedFd<'r>),
    Settings(BorrowedFd<'r>),
}

impl How<'_> {
    pub(super) fn kind(self, btf: &Btf) -> Result<Kind, LoadError> {
        use bpf_attach_type as attach;
        use bpf_prog_type as program;
        let (name, program, attach, function) = match self {
            Self::Lsm(function) => (
                "lsm",
                program::BPF_PROG_TYPE_LSM,
                attach::BPF_LSM_MAC as u32,
                Some(function),
            ),
            Self::ModifyReturn(function) => (
                "fmod_ret",
                program::BPF_PROG_TYPE_TRACING,
                attach::BPF_MODIFY_RETURN as u32,
                Some(function),
            ),
            Self::Entry(function) => (
                "fentry",
                program::BPF_PROG_TYPE_TRACING,
                attach::BPF_TRACE_FENTRY as u32,
                Some(function),
            ),
            Self::Exit(function) => (
                "fexit",
                program::BPF_PROG_TYPE_TRACING,
                attach::BPF_TRACE_FEXIT as u32,
                Some(function),
            ),
            Self::Tracepoint(function) => (
                "tp_btf",
                program::BPF_PROG_TYPE_TRACING,
                attach::BPF_TRACE_RAW_TP as u32,
                Some(function),
            ),
            Self::RawTracepoint(_) => (
                "raw tracepoint",
                program::BPF_PROG_TYPE_RAW_TRACEPOINT,
                0,
                None,
            ),
            Self::Devices(_) => (
                "cgroup device",
                program::BPF_PROG_TYPE_CGROUP_DEVICE,
                attach::BPF_CGROUP_DEVICE as u32,
                None,
            ),
            Self::Settings(_) => (
                "cgroup sysctl",
                program::BPF_PROG_TYPE_CGROUP_SYSCTL,
                attach::BPF_CGROUP_SYSCTL as u32,
                None,
            ),
        };
        let id = |name| btf.function(name).ok_or(LoadError::NoFunction(name));
        Ok(Kind {
            name,
            program,
            attach,
            function: function.map(id).transpose()?.unwrap_or_default(),
        })
    }
}

/// What kind of program one is loaded as.
pub(super) struct Kind {
    /// As errors name it.
    pub name: &'static str,
    /// `BPF_PROG_TYPE_*`.
    pub program: bpf_prog_type,
    /// `BPF_*` attach type; 0: none.
    pub attach: u32,
    /// Number of the function that it is for, if it is for one.
    pub function: u32,
}

impl Kind {
    /// Attached to nothing: the daemon runs it.
    pub(super) const RUN: Self = Self {
        name: "syscall",
        program: bpf_prog_type::BPF_PROG_TYPE_SYSCALL,
        attach: 0,
        function: 0,
    };
}
