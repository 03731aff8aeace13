//! `pitstop run M -- CMD`: the stream of one command, the same from CLI to
//! daemon and from daemon to agent.
//!
//! The agent keeps what a command printed until the CLI has acknowledged it,
//! and positions count bytes from the start of each stream. So neither a
//! restart of the daemon nor a lost connection of the CLI loses or repeats a
//! byte: whoever comes back says how far it is. The agent stops reading the
//! command's pipes while [`WINDOW`] bytes wait, which is the back-pressure.

use serde::{Deserialize, Serialize};

/// Bytes of unacknowledged output the agent holds per stream.
pub const WINDOW: usize = 1 << 20;

/// Most bytes in one output or input message.
pub const PIECE: usize = 64 << 10;

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; no shell looks at them.
    pub argv: Vec<String>,
    /// Environment added to the agent's own.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Whether standard input follows; without it the command reads EOF.
    #[serde(default)]
    pub stdin: bool,
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// It exited by itself.
    Exit {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It never ran, or nobody can say how it ended.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Towards the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "run", rename_all = "kebab-case")]
pub enum ToRun {
    /// Start it, or, if `id` is known, attach to it again: output is sent
    /// from the given positions.
    Start {
        /// Chosen by the caller, unique per machine and boot.
        id: String,
        /// The command; ignored on a repeat.
        command: Command,
        /// Bytes of standard output the caller has.
        stdout: u64,
        /// Bytes of standard error the caller has.
        stderr: u64,
    },
    /// Standard input from `offset` on (body). An empty body with `eof` ends it.
    Input {
        /// The command.
        id: String,
        /// Position of the first byte.
        offset: u64,
        /// Nothing follows.
        eof: bool,
    },
    /// Send a signal to the command's process group.
    Signal {
        /// The command.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// The caller has this much.
    Seen {
        /// The command.
        id: String,
        /// Bytes of standard output.
        stdout: u64,
        /// Bytes of standard error.
        stderr: u64,
        /// The caller has the end too: forget the command.
        end: bool,
    },
}

/// From the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "run", rename_all = "kebab-case")]
pub enum FromRun {
    /// It runs (or ran); `input` bytes of its standard input were taken, so
    /// that a caller who comes back knows where to go on.
    Started {
        /// The command.
        id: String,
        /// Bytes of standard input taken so far.
        input: u64,
    },
    /// Output (body).
    Output {
        /// The command.
        id: String,
        /// Which stream.
        stream: Stream,
        /// Position of the first byte.
        offset: u64,
    },
    /// So much of the standard input was taken.
    Taken {
        /// The command.
        id: String,
        /// Bytes of standard input taken so far.
        input: u64,
    },
    /// It ended; all its output was sent before this.
    Ended {
        /// The command.
        id: String,
        /// How.
        end: End,
    },
}

impl ToRun {
    /// The command this is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Start { id, .. }
            | Self::Input { id, .. }
            | Self::Signal { id, .. }
            | Self::Seen { id, .. } => id,
        }
    }
}

impl FromRun {
    /// The command this is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Started { id, .. }
            | Self::Output { id, .. }
            | Self::Taken { id, .. }
            | Self::Ended { id, .. } => id,
        }
    }
}
