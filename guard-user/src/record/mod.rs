//! (wiring)
