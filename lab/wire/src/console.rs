//! A console between CLI and daemon, after the upgrade of
//! `POST /machines/{name}/console` (bodies: [`crate::api::ConsoleRequest`]).
//!
//! Positions count bytes of the console's journal, so a client whose
//! connection was lost attaches again `from` where it was and misses nothing
//! that the journal kept.

use crate::api::Time;
use serde::{Deserialize, Serialize};

/// Most bytes in one piece of input or output.
pub const PIECE: usize = 64 << 10;

/// Towards the console. Only the writer's are obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToConsole {
    /// Keys typed (body).
    Input,
    /// A break on the line.
    Break,
    /// Take the keyboard.
    Write {
        /// From whoever has it now.
        steal: bool,
    },
    /// Give the keyboard back, go on watching.
    Watch,
}

/// From the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromConsole {
    /// First message: where we are.
    Attached {
        /// Name of the console.
        console: String,
        /// Position of the next output.
        position: u64,
    },
    /// Bytes the machine said (body).
    Output {
        /// Position of the first byte.
        position: u64,
    },
    /// What follows came then, to a second. Sent where it was asked for
    /// ([`crate::api::ConsoleRequest::times`]), whenever it changes.
    Time {
        /// Position of the next output.
        position: u64,
        /// When.
        at: Time,
    },
    /// Something happened between the bytes: power, a holder, a lost line.
    Mark {
        /// Position of the byte it stands before.
        position: u64,
        /// When.
        at: Time,
        /// What.
        text: String,
    },
    /// Who has the keyboard, how many watch, and how the line is. Sent when
    /// it changes.
    Seats {
        /// The writer.
        writer: Option<String>,
        /// Whether that is this connection.
        you: bool,
        /// Connections that watch, this one too.
        watchers: usize,
        /// Their users, in the order they came.
        #[serde(default)]
        names: Vec<String>,
        /// Why the line is not open; absent while it is.
        down: Option<String>,
    },
    /// What was asked for was not done.
    Refused {
        /// Why.
        reason: String,
    },
    /// Bytes are missing here: this client is too slow for the line, or the
    /// journal lost them.
    Skipped {
        /// Position of the next output.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// All that was there at the attach was sent.
    Replayed,
    /// The console is over for this connection.
    Closed {
        /// Why.
        reason: String,
    },
}
