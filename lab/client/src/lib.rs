//! Typed client of the pitstop API, for the command line, the dashboard and
//! tests.
//!
//! Every call gives an [`ApiError`] when it fails; a daemon that cannot be
//! reached is [`Code::NotKnown`]. A mutation carries an idempotency key and
//! is sent again with the same key while its outcome is not known, so a
//! restart of the daemon in the middle costs time and nothing else.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

mod backup;
mod calls;
mod console;
mod events;
pub mod frames;
mod http;
mod retry;
mod run;
mod sse;
mod upload;

pub use console::ConsoleLink;
pub use events::{EventQuery, EventStream, Item};
pub use http::{Client, new_key};
pub use pitstop_wire::{ApiError, Code, api};
pub use run::{Feed, Input};

/// What a call gives.
pub type Result<T> = std::result::Result<T, ApiError>;
