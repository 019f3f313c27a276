//! File systems that discard though nobody asks for that as they are mounted are named before they are.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pool::{Pool, must};
use crate::{
    daemon::succeed,
    hazards::{Needs, Scenario},
    host::release,
};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "thin_discard::what_would_discard_unasked_is_named_before_it_is_mounted",
    needs: Needs::Ends,
    run: named,
}];

fn named() -> Result<()> {
    let mut pool = Pool::make()?;
    let at = pool.place()?.display().to_string();
    let thin = pool.volume()?;
    let btrfs = if release() >= (6, 2) { "btrfs" } else { "" };
    for (make, unasked, sign) in [
        ("true", "", ""),
        ("mkfs.ext4 -qF", "", ""),
        (
            "mkfs.ext4 -qF -E nodiscard $D; tune2fs -o discard",
            "ext4_stored",
            "tune2fs -o ^discard",
        ),
        (
            "tune2fs -o ^discard -E mount_opts=discard",
            "ext4_stored",
            "tune2fs -o ^discard",
        ),
        (
            "wipefs -aq $D; mkfs.f2fs -f",
            "f2fs",
            "f2fs, which discards",
        ),
        (
            "wipefs -aq $D; mkfs.btrfs -q -f",
            btrfs,
            if btrfs.is_empty() { "" } else { "btrfs, which" },
        ),
        ("wipefs -aq $D; mkfs.xfs -q", "", ""),
    ] {
        must(&format!("D={thin}; {make} $D >/dev/null"))?;
        let found = device(&thin)?;
        ensure!(
            found["unasked"].as_str().unwrap_or_default() == unasked,
            "{make}: {found}"
        );
        let said = succeed(&["thin", "status"])?;
        ensure!(
            sign.is_empty() != said.contains("unless it is mounted with nodiscard"),
            "{make}: {said}"
        );
        ensure!(said.contains(sign), "{make}: {said}");
        if unasked.is_empty() {
            continue;
        }
        must(&format!("mount {thin} {at}"))?;
        let mounted = device(&thin)?;
        must(&format!("umount {at}"))?;
        ensure!(
            mounted["unasked"].is_null() && mounted["mounted_with_discard"] == true,
            "{make}, mounted: {mounted}"
        );
    }
    Ok(())
}

/// What `thin status` says of a volume.
fn device(path: &str) -> Result<Value> {
    let report: Value = serde_json::from_str(&succeed(&["thin", "status", "--json"])?)?;
    let devices = report["devices"].as_array().context("no devices")?;
    let is_it =
        |device: &&Value| (device["mapped"].as_str()).is_some_and(|name| path.ends_with(name));
    Ok(devices.iter().find(is_it).context("not listed")?.clone())
}
