//! The hook that stands before moving tasks out of a container.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use guard_common::action::Action;
use nix::libc;

use super::{BY_ITSELF, Hook, Place, Tool, came_of};
use crate::identity::tree::Hierarchy;

/// The hook of moving out.
pub static CGROUP_MOVE: [Hook; 1] = [Hook {
    hazard: "cgroup_move",
    name: "inode_permission",
    program: "cgroup_move_permission",
    place: Place::Asked {
        lsm: "bpf_lsm_inode_permission",
        security: "security_inode_permission",
    },
    what: "moving a task into a cgroup outside the container, also by a file that was opened before, and having one born there",
    open: &["moving tasks out of the container, to who can write to cgroups outside it"],
    on_v2: true,
    actions: &[Action::CgroupMoveOut],
    trial: open_the_roots,
    ..BY_ITSELF
}];

fn open_the_roots() -> Result<Tool, String> {
    let hierarchy = Hierarchy::of_this_host().map_err(|error| error.to_string())?;
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&hierarchy.mount)
        .map_err(|error| format!("{}: {error}", hierarchy.mount.display()))?;
    Ok(Tool {
        file: Some(root.into()),
        run: |root| {
            // SAFETY: a static text. Nothing is written, and what is opened goes with the child.
            came_of(i64::from(unsafe {
                libc::openat(root, c"cgroup.procs".as_ptr(), libc::O_WRONLY)
            }))
        },
    })
}
