//! The daemon's side of the socket: every call becomes a question to the daemon's own loop.
#![expect(
    missing_docs,
    reason = "the service macro makes public items without any"
)]

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use zlink::{Reply, ReplyError, introspect};

use super::status::{
    ActionStatus, ByReason, ContainerStatus, DenialStatus, HookStatus, HostPids, KernelLogStatus,
    Losses, RuleStatus, Status, Told, Tried,
};
use crate::record::Text;

/// What a caller wants.
#[derive(Debug)]
pub enum Request {
    /// The state of everything.
    Status(oneshot::Sender<Status>),
    /// Allow everything, for so many seconds or until it is switched on.
    Off(Option<u64>, oneshot::Sender<Switched>),
    /// Enforce again.
    On(oneshot::Sender<Switched>),
    /// Read the policy anew.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
}

/// What a turn of the switch came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Switched {
    /// What was done, a line each.
    pub done: Vec<Text>,
}

impl From<Vec<String>> for Switched {
    fn from(done: Vec<String>) -> Self {
        Self {
            done: done.into_iter().map(Text::from).collect(),
        }
    }
}

/// What a reload came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, introspect::Type)]
pub struct Reloaded {
    /// Rules now in force.
    pub rules: u64,
}

/// What the interface calls an error.
#[derive(Debug, PartialEq, ReplyError, introspect::ReplyError)]
#[zlink(interface = "io.bulkhead.Control")]
pub enum ControlError {
    /// The policy has mistakes; the old one is still in force.
    PolicyRefused {
        /// The mistakes, a line each at least.
        message: String,
    },
    /// The daemon is about to stop.
    Stopping,
}

/// The service.
pub struct Control {
    requests: mpsc::Sender<Request>,
}

impl Control {
    /// A service that puts its questions into `requests`.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| ControlError::Stopping)?;
        answered.await.map_err(|_| ControlError::Stopping)
    }
}

#[zlink::service(
    interface = "io.bulkhead.Control",
    types = [ActionStatus, ByReason, ContainerStatus, DenialStatus, HookStatus, HostPids, KernelLogStatus, Losses, RuleStatus, Status, Tried],
    product = "Bulkhead",
    version = env!("CARGO_PKG_VERSION")
)]
impl Control {
    /// Whoever does not ask for more gets all but the containers.
    #[zlink(more)]
    async fn status(
        &mut self,
        more: bool,
    ) -> impl Stream<Item = Result<Reply<Told>, ControlError>> + Unpin {
        let replies: Vec<Result<Reply<Told>, ControlError>> = match self.ask(Request::Status).await
        {
            Ok(status) => {
                let told = status.told();
                let count = if more { told.len() } else { 1 };
                (told.take(count).zip(1..))
                    .map(|(told, number)| {
                        Ok(Reply::new(Some(told)).set_continues(Some(number < count)))
                    })
                    .collect()
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(replies)
    }

    async fn off(&mut self, seconds: Option<u64>) -> Result<Switched, ControlError> {
        self.ask(|answer| Request::Off(seconds, answer)).await
    }

    async fn on(&mut self) -> Result<Switched, ControlError> {
        self.ask(Request::On).await
    }

    async fn reload(&mut self) -> Result<Reloaded, ControlError> {
        self.ask(Request::Reload)
            .await?
            .map_err(|message| ControlError::PolicyRefused { message })
    }
}

/// Binds the socket, for root alone; a stale one is taken over. The caller holds the lock of the one instance.
///
/// # Errors
/// What the system said.
pub fn bind(path: &Path) -> io::Result<zlink::tokio::unix::Listener> {
    let _ = fs::remove_file(path);
    let listener = zlink::tokio::unix::bind(path).map_err(io::Error::other)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
