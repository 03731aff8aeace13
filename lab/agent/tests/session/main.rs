//! The agent against a daemon made of a script: everything on loopback, over real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attach;
mod commands;
mod daemon;
mod host;
mod namespaces;
mod work;
