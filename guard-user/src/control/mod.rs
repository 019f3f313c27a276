//! The door to a running daemon: a Varlink service on a socket that only root may open.

pub mod client;
pub mod server;
pub mod status;

/// Where the daemon keeps what lives as long as the host is up.
pub const RUN_DIRECTORY: &str = "/run/bulkhead";
/// The socket.
pub const SOCKET: &str = "/run/bulkhead/control.sock";
/// The Varlink interface.
pub const INTERFACE: &str = "io.bulkhead.Control";
