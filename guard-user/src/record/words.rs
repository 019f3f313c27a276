//! The words of the record, each with what it means: the one list that code, `docs/audit.md` and tests share.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A word that no record has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word} is not a {what}; there are {known}")]
pub struct UnknownWord {
    /// The word.
    pub word: String,
    /// What it should have been.
    pub what: &'static str,
    /// All that there are.
    pub known: String,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident, $what:literal { $($word:ident = $name:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $(#[doc = $meaning] $word,)* }

        impl $type {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$word),*];

            /// The word in the record.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$word => $name,)* }
            }

            /// One line on what it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$word => $meaning,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;
            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|known| known.name() == word).ok_or_else(|| UnknownWord {
                    word: super::Text::from(word).to_string(),
                    what: $what,
                    known: Self::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

words! {
    /// What a record tells.
    Kind, "kind of record" {
        DaemonStart = "daemon.start", "The daemon started; `outcome` says what it took over.";
        DaemonStop = "daemon.stop", "The daemon stopped; `outcome` says whether enforcement was released or stays.";
        DaemonGap = "daemon.gap", "Nobody watched for `gap.ms`: what was enforced stayed so, what was counted is told now.";
        PolicyLoaded = "policy.loaded", "A policy is in force; `policy` names it.";
        RuleArmed = "rule.armed", "What `kernel: affected` comes to for one thing that a rule denies; `outcome` says by which advisories it is armed, or why it is not.";
        PolicyRefused = "policy.refused", "A policy was refused and changed nothing; `reason` says what is wrong with it.";
        RungChosen = "rung.chosen", "The mechanism that refusals run on, and why none that is better.";
        ContainerMade = "container.made", "A container was made, and recognised as it was.";
        ContainerGone = "container.gone", "A container is gone; the counts are of its whole life.";
        BreachBegan = "breach.began", "A container went over a limit; the first refusal of a breach.";
        Refusals = "refusals", "A breach goes on: what was refused, or would have been, since the last record of it.";
        BreachEnded = "breach.ended", "A breach is over, or its container is; the counts are of the whole breach.";
        Action = "action", "A container was refused an action, `count` times since the last record of it; or would have been. The first time is told at once, and what follows is gathered: a record a minute at most.";
        Step = "step", "A step of a ladder: what was done, on what grounds, and what came of it.";
        SettingChanged = "setting.changed", "A setting of the host was changed from `old` to `new`.";
        SettingRestored = "setting.restored", "A setting of the host has its old value again.";
        SettingContested = "setting.contested", "Somebody else rewrites a setting; it is left alone from now on.";
        LeakAlarm = "leak.alarm", "The pids of a container rise steadily; `cap.ms` and `reserve.ms` say how long until a limit.";
        MovedOut = "moved_out", "A task of a container moved a task out of it.";
        SwitchOff = "switch.off", "Everything is allowed, until the switch is on again.";
        SwitchOn = "switch.on", "What the policy says is in force again.";
        Alarm = "alarm", "The kernel said that something is wrong; `rule` names the pattern, `reason` says what it means and what to do, `count` how many lines it stands for.";
        Discards = "discards", "Discards of a device that stands on dm-thin were refused, or would have been, `count` of them since the last record; or some reached it all the same, which `outcome` says. `process.*` is who asked for the last.";
        ThinPool = "thin.pool", "A thin pool is filling up, or is no longer well, or is again, as `outcome` says; `reason` says what to do, `full.ms` how long until it is full, where it fills steadily.";
        Lost = "lost", "Something was lost: `lost` counts records, `count` what `reason` names.";
        Degraded = "degraded", "Something works less than it should; `reason` says what, and what to do.";
    }
}

words! {
    /// What a decision was.
    Verdict, "verdict" {
        Allow = "allow", "Allowed.";
        Audit = "audit", "Allowed; enforcing would have refused it.";
        Deny = "deny", "Refused.";
    }
}

words! {
    /// How a rule is applied.
    Mode, "mode" {
        Audit = "audit", "Recorded, not refused.";
        Enforce = "enforce", "Refused.";
    }
}

words! {
    /// How grave a record is, as its rule says.
    Severity, "severity" {
        Info = "info", "To be known.";
        Low = "low", "To be looked at some day.";
        Medium = "medium", "To be looked at.";
        High = "high", "To be looked at today.";
        Critical = "critical", "To be looked at now.";
    }
}

words! {
    /// What was measured when a decision was made: a key of the record's `measured`.
    Measure, "measure" {
        Pids = "pids", "Tasks in the container, threads counted.";
        PidsMax = "pids.max", "Tasks that the limit allows, threads counted.";
        Rate = "rate", "Forks a second that the limit allows, rounded up.";
        Burst = "burst", "Forks at once that the limit allows.";
        Allowed = "allowed", "Forks that were allowed.";
        RefusedRate = "refused.rate", "Forks refused for their rate.";
        RefusedPidsCap = "refused.pids_cap", "Forks refused for the cap on pids.";
        RefusedHostReserve = "refused.host_reserve", "Forks refused for the host's reserve.";
        RefusedKernel = "refused.kernel", "Forks that the pids controller refused.";
        AuditedRate = "audited.rate", "Forks that would have been refused for their rate.";
        AuditedPidsCap = "audited.pids_cap", "Forks that would have been refused for the cap on pids.";
        AuditedHostReserve = "audited.host_reserve", "Forks that would have been refused for the host's reserve.";
        HostPids = "host.pids", "Tasks on the host.";
        HostPidsFree = "host.pids.free", "Tasks that the host has left, its reserve counted.";
        BreachMs = "breach.ms", "How long the breach has lasted, in milliseconds.";
        AfterMs = "after.ms", "How long a breach must have lasted for this step, in milliseconds.";
        ForMs = "for.ms", "How long what was done is to last, in milliseconds.";
        GapMs = "gap.ms", "How long nobody watched, in milliseconds.";
        FullMs = "full.ms", "Time left until the thin pool is full, in milliseconds.";
        CapMs = "cap.ms", "Time left until the container's cap, in milliseconds.";
        ReserveMs = "reserve.ms", "Time left until the host's reserve, in milliseconds.";
        StartMs = "start.ms", "How long the daemon took to enforce, in milliseconds.";
        Containers = "containers", "Containers that are known.";
        Rules = "rules", "Rules of the policy.";
        Killed = "killed", "Processes that were killed one by one. Absent where the kernel killed all at once and does not count (`cgroup.kill`).";
    }
}

impl Kind {
    /// Whether a terminal shows it as it comes. A host may have thousands of containers, and makes and ends them all day.
    #[must_use]
    pub const fn shown(self) -> bool {
        match self {
            Self::ContainerMade | Self::ContainerGone => false,
            Self::DaemonStart
            | Self::DaemonStop
            | Self::DaemonGap
            | Self::PolicyLoaded
            | Self::RuleArmed
            | Self::PolicyRefused
            | Self::RungChosen
            | Self::BreachBegan
            | Self::Refusals
            | Self::BreachEnded
            | Self::Action
            | Self::Step
            | Self::SettingChanged
            | Self::SettingRestored
            | Self::SettingContested
            | Self::LeakAlarm
            | Self::MovedOut
            | Self::SwitchOff
            | Self::SwitchOn
            | Self::Alarm
            | Self::Discards
            | Self::ThinPool
            | Self::Lost
            | Self::Degraded => true,
        }
    }

    /// Whether the service's journal has it as well: that the daemon itself does not do what was asked of it. What
    /// containers do, and may do a thousand times, is in the audit log alone.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        matches!(self, Self::PolicyRefused | Self::Degraded)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_is_read_back_and_none_stands_for_two() {
        let names: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        for measure in Measure::ALL {
            assert_eq!(measure.name().parse(), Ok(*measure));
        }
        let error = "steep".parse::<Severity>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "steep is not a severity; there are info, low, medium, high, critical"
        );
    }
}
