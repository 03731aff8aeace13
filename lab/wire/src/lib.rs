//! What outsiders see of pitstop, versioned: the bodies of the HTTP API, the
//! messages between daemon and agents, the frames both travel in, names and
//! the selector grammar. Types only; nothing here decides or does I/O.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![deny(missing_docs)]

pub mod agent;
pub mod api;
pub mod console;
pub mod error;
pub mod frame;
pub mod name;
pub mod run;
pub mod selector;
pub mod text;

pub use error::{ApiError, Code};
pub use name::{MachineName, UserName};
pub use selector::Selector;
pub use text::nearest;
