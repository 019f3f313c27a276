//! The verbs' side of the socket.

use std::{future::Future, io, path::Path, time::Duration};

use futures_util::stream::{Stream, StreamExt as _};
use thiserror::Error;

use super::{
    server::{ControlError, Reloaded, Switched},
    status::{Status, Told},
};

/// How long a daemon may take to answer before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a daemon gave no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is none.
    #[error("no daemon answers")]
    NoDaemon,
    /// Only root may ask.
    #[error("only root may speak to the daemon: run it with sudo")]
    NotAllowed,
    /// It is alive and does not answer, or not in this protocol.
    #[error("the daemon does not answer as it should: {0}")]
    Broken(String),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

#[zlink::proxy("io.bulkhead.Control")]
trait ControlProxy {
    #[zlink(more)]
    async fn status(
        &mut self,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<Told, ControlError>>>>;
    async fn off(&mut self, seconds: Option<u64>) -> zlink::Result<Result<Switched, ControlError>>;
    async fn on(&mut self) -> zlink::Result<Result<Switched, ControlError>>;
    async fn reload(&mut self) -> zlink::Result<Result<Reloaded, ControlError>>;
}

/// The state of everything.
///
/// # Errors
/// [`ClientError`].
pub fn status(socket: &Path) -> Result<Status, ClientError> {
    call(socket, async |connection| {
        let mut replies = std::pin::pin!(connection.status().await?);
        let mut status = Status::default();
        while let Some(reply) = replies.next().await {
            match reply? {
                Ok(told) => status.hear(told),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(status))
    })
}

/// Everything is allowed, for so many seconds or until it is switched on.
///
/// # Errors
/// [`ClientError`].
pub fn off(socket: &Path, seconds: Option<u64>) -> Result<Switched, ClientError> {
    call(socket, async move |connection| {
        connection.off(seconds).await
    })
}

/// Enforces again.
///
/// # Errors
/// [`ClientError`].
pub fn on(socket: &Path) -> Result<Switched, ClientError> {
    call(socket, async |connection| connection.on().await)
}

/// Reads the policy anew.
///
/// # Errors
/// [`ClientError`].
pub fn reload(socket: &Path) -> Result<Reloaded, ClientError> {
    call(socket, async |connection| connection.reload().await)
}

fn call<T>(
    socket: &Path,
    ask: impl AsyncFnOnce(&mut zlink::tokio::unix::Connection) -> zlink::Result<Result<T, ControlError>>,
) -> Result<T, ClientError> {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ClientError::NotAllowed);
        }
        Err(_) => return Err(ClientError::NoDaemon),
    }
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    block(async {
        let mut connection = zlink::tokio::unix::connect(socket)
            .await
            .map_err(|error| broken(&error))?;
        match ask(&mut connection).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ControlError::PolicyRefused { message })) => Err(ClientError::Refused(message)),
            Ok(Err(ControlError::Stopping)) => Err(ClientError::NoDaemon),
            Err(error) => Err(broken(&error)),
        }
    })
}

fn block<T>(future: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future)
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Broken(
                    "no answer within 10 seconds".to_owned(),
                ))
            })
    })
}
