//! `bulkhead off` and `bulkhead on`: the panic switch, with a daemon or without.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use guard_user::{
    control::{
        SOCKET,
        client::{self, ClientError},
        server::Switched,
    },
    record::Kind,
};

use super::{host, pins};

/// Allow everything at once: refuse nothing, thaw what was frozen, set changed settings back.
///
/// Works on the switch in the kernel when no daemon answers. It survives a restart of the daemon, not a reboot.
/// `bulkhead on` ends it.
#[derive(Args)]
pub struct Off {
    /// Only for so long, as 90s, 10m or 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    time: Option<u64>,
    /// A time without `--for`: what it is missing is said.
    #[arg(hide = true, value_name = "TIME", value_parser = without_for)]
    stray: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Enforce again what the policy says.
#[derive(Args)]
pub struct On {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `off`.
pub fn off(arguments: &Off) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    let done = match client::off(Path::new(SOCKET), arguments.time) {
        Err(ClientError::NoDaemon | ClientError::Broken(_)) => {
            let done = pins::off(arguments.time)?.context(NOTHING)?;
            let told = tell(&done, arguments.json);
            // Whoever waits for it sees it before it is on record.
            pins::record(Kind::SwitchOff, &done);
            return told;
        }
        answer => answer?,
    };
    tell(&done, arguments.json)
}

/// Runs `on`.
pub fn on(arguments: &On) -> Result<ExitCode> {
    if let Some(code) = host::not_root() {
        return Ok(code);
    }
    let done = match client::on(Path::new(SOCKET)) {
        Err(ClientError::NoDaemon | ClientError::Broken(_)) => {
            let (done, was_off) = pins::on()?.context(NOTHING)?;
            let told = tell(&done, arguments.json);
            if was_off {
                pins::record(Kind::SwitchOn, &done);
            }
            return told;
        }
        answer => answer?,
    };
    tell(&done, arguments.json)
}

const NOTHING: &str = "not running, and nothing of it is in the kernel: there is nothing to switch";

fn tell(done: &Switched, json: bool) -> Result<ExitCode> {
    if json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(done)?))?;
    } else {
        for line in &done.done {
            super::print(&format!("{line}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses what stands alone: a switch that is thrown for good is no guess at what a time was meant for.
fn without_for(text: &str) -> Result<String, String> {
    Err(match seconds(text) {
        Ok(_) => format!("a time stands behind --for: `bulkhead off --for {text}`"),
        Err(_) => "it takes no such word: `bulkhead off`, or `bulkhead off --for 10m`".to_owned(),
    })
}

/// Seconds of `90s`, `10m`, `2h` or `1d`.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a time: write 90s, 10m or 2h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match number.checked_mul(factor) {
        Some(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Off, seconds};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        off: Off,
    }

    #[test]
    fn a_time_alone_is_told_to_stand_behind_for() {
        let read = |words: &[&str]| Line::try_parse_from([&["off"], words].concat());
        let said = |words| read(words).err().unwrap().to_string();
        assert!(said(&["10m"]).contains("`bulkhead off --for 10m`"));
        assert!(said(&["now"]).contains("`bulkhead off`, or"));
        assert_eq!(read(&["--for", "10m"]).unwrap().off.time, Some(600));
        assert_eq!(read(&[]).unwrap().off.time, None);
    }

    #[test]
    fn a_time_needs_a_unit_and_is_never_nothing() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("2h"), Ok(7200));
        for wrong in [
            "",
            "10",
            "m",
            "0s",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "1é",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
