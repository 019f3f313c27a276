//! What the service manager is told: in what state we are, and that the loop goes round. Without one nobody is told.

use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use sd_notify::NotifyState;

use super::Daemon;
use crate::{
    control::status::{RuleStatus, Status},
    record::Text,
};

/// Messages that wait for a manager that does not listen; more are not sent.
const QUEUE: usize = 4;

/// The service manager, and what it knows.
#[derive(Default)]
pub(super) struct Manager {
    /// To a thread that may wait: the manager's socket takes only so much. `None`: there is none.
    to: Option<SyncSender<Message>>,
    /// It starts us anew if it hears nothing of us for a time (`WatchdogSec=`).
    watches: bool,
    told: String,
}

struct Message {
    ready: bool,
    alive: bool,
    status: Option<String>,
}

impl Manager {
    /// The one that started us, if one did.
    pub(super) fn of_this_service() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self::default();
        }
        let (to, messages) = sync_channel::<Message>(QUEUE);
        let thread = thread::Builder::new().name("manager".to_owned());
        let spawned = thread.spawn(move || {
            for message in messages {
                let parts = [
                    message.ready.then_some(NotifyState::Ready),
                    message.alive.then_some(NotifyState::Watchdog),
                    message.status.as_deref().map(NotifyState::Status),
                ];
                // It is no matter of ours whether it listens.
                let _ = sd_notify::notify(&parts.into_iter().flatten().collect::<Vec<_>>());
            }
        });
        Self {
            to: spawned.is_ok().then_some(to),
            watches: sd_notify::watchdog_enabled().is_some(),
            told: String::new(),
        }
    }

    /// We are ready.
    pub(super) fn ready(&mut self, daemon: &Daemon) {
        self.tell(daemon, true);
    }

    /// The loop went round.
    pub(super) fn alive(&mut self, daemon: &Daemon) {
        self.tell(daemon, false);
    }

    fn tell(&mut self, daemon: &Daemon, ready: bool) {
        let Some(to) = &self.to else { return };
        let words = in_short(&daemon.summary());
        let news = words != self.told;
        if !(ready || news || self.watches) {
            return;
        }
        let message = Message {
            ready,
            alive: self.watches,
            status: news.then(|| words.clone()),
        };
        if to.try_send(message).is_ok() {
            self.told = words;
        }
    }
}

/// One line: the state, the rung, the policy, and what is wrong with them.
fn in_short(status: &Status) -> String {
    let mut words = format!(
        "{}, rung {}; policy {}",
        status.state,
        status.rung,
        status.policy.join(", ")
    );
    if !status.rules.iter().any(RuleStatus::refuses) {
        words.push_str(if status.rules.iter().any(|rule| rule.idle) {
            ", which refuses nothing on this kernel"
        } else {
            ", which only audits"
        });
    }
    if status.policy_refused.is_some() {
        words.push_str("; its last change was refused");
    }
    match status.degraded.len() {
        0 => {}
        count => words.push_str(&format!("; {count} DEGRADED")),
    }
    // A file's name must not begin another line of the protocol.
    Text::from(words.as_str()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_one_line_and_tells_of_a_refused_policy() {
        let mut status = Status {
            state: "ENFORCING".to_owned(),
            rung: "lsm".to_owned(),
            policy: vec!["/etc/bulkhead/policy.yaml".to_owned()],
            rules: vec![RuleStatus {
                mode: "enforce".to_owned(),
                ..RuleStatus::default()
            }],
            ..Status::default()
        };
        assert_eq!(
            in_short(&status),
            "ENFORCING, rung lsm; policy /etc/bulkhead/policy.yaml"
        );
        status.rules[0].idle = true;
        assert!(in_short(&status).ends_with(", which refuses nothing on this kernel"));
        status.policy = vec!["a\nREADY=1".to_owned()];
        status.policy_refused = Some("x:1:1: wrong".to_owned());
        status.rules.clear();
        status.degraded = vec!["something".into()];
        assert_eq!(
            in_short(&status),
            r"ENFORCING, rung lsm; policy a\x0aREADY=1, which only audits; its last change was refused; 1 DEGRADED"
        );
    }
}
