//! Boot loop: a pool that took the kernel down with it is held back on the next boot, until somebody says otherwise.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::bed::said;
use crate::{
    daemon::{bulkhead, succeed},
    hazards::{Needs, Scenario},
    host::wait_for,
};

/// All scenarios of this theme.
pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_recover::a_pool_whose_activation_crashed_the_kernel_is_held_back",
    needs: Needs::Ends,
    run: held,
}];

/// Where the markers are.
pub const FOLDER: &str = "/var/lib/bulkhead/thin/activating";

/// As a kernel that died meanwhile left it: the marker of this boot, with another boot's id in it.
///
/// # Errors
/// There is no such marker.
pub fn crash() -> Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    for marker in fs::read_dir(FOLDER)? {
        let path = marker?.path();
        let text = fs::read_to_string(&path)?;
        let other = text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
        ensure!(text != other, "the marker does not name its boot: {text}");
        fs::write(path, other)?;
    }
    Ok(())
}

fn held() -> Result<()> {
    let _ = fs::remove_dir_all(FOLDER);
    let activate = |more: &[&str]| bulkhead(&[&["thin", "activate", "vg/pool"], more].concat());
    let markers = || fs::read_dir(FOLDER).map_or(0, Iterator::count);
    // The marker is there while the command runs, and on the disk; it goes with it, whether it fails or not.
    let shown = activate(&["--", "cat", &format!("{FOLDER}/vg%2fpool")])?;
    ensure!(
        shown.status.success() && said(&shown).contains("boot_id"),
        "{}",
        said(&shown)
    );
    ensure!(markers() == 0);
    ensure!(activate(&["--", "false"])?.status.code() == Some(1));
    ensure!(markers() == 0);
    // Whoever ends it in good order is no crash.
    let mut child = Command::new("bulkhead")
        .args([
            "thin", "activate", "vg/pool", "--settle", "1h", "--", "true",
        ])
        .spawn()?;
    thread::sleep(Duration::from_secs(2));
    ensure!(markers() == 1, "there is no marker while it settles");
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    ensure!(child.wait()?.success() && markers() == 0);
    // kill -9 is not: on this boot that holds nothing back, on the next one it does.
    let mut child = Command::new("bulkhead")
        .args(["thin", "activate", "vg/pool", "--", "sleep", "2"])
        .spawn()?;
    wait_for("the marker", Duration::from_secs(10), || Ok(markers() == 1))?;
    child.kill()?;
    child.wait()?;
    ensure!(activate(&["--", "true"])?.status.success());
    ensure!(markers() == 0);
    succeed(&["thin", "activate", "vg/pool", "--begin"])?;
    crash()?;
    // A unit's stop on the boot after is not what lets it go.
    succeed(&["thin", "activate", "vg/pool", "--end"])?;
    let refused = activate(&["--", "touch", "/run/bulkhead-activated"])?;
    ensure!(refused.status.code() == Some(1), "{}", said(&refused));
    for words in ["vg/pool is held back", "--override", "thin recover"] {
        ensure!(said(&refused).contains(words), "{}", said(&refused));
    }
    ensure!(
        fs::metadata("/run/bulkhead-activated").is_err(),
        "it was activated"
    );
    ensure!(activate(&["--begin"])?.status.code() == Some(1));
    // Another pool is not held back for it.
    succeed(&["thin", "activate", "vg/other", "--", "true"])?;
    ensure!(activate(&["--override", "--", "true"])?.status.success());
    ensure!(activate(&["--", "true"])?.status.success() && markers() == 0);
    Ok(())
}
