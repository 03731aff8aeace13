//! Programs of the lab's that run for a machine, as far as rows remember them:
//! hooks, and what writes and reads back the flash of a board.

use crate::id::{AttemptNo, IntentId};
use crate::inventory::Point;
use crate::time::{LabTime, WallMs};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a program is run for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Job {
    /// A hook of the machine's.
    Hook {
        /// At which point.
        point: Point,
        /// Its name there.
        hook: String,
    },
    /// The image is written to the board's flash, and read back where that can be.
    Write,
    /// The flash is read back and compared, and not written.
    ReadBack,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hook { point, hook } => write!(f, "hook {point} {hook}"),
            Self::Write => f.write_str("reimage.command"),
            Self::ReadBack => f.write_str("read_back of reimage.command"),
        }
    }
}

/// A program that was begun, and whose end nobody has heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What for.
    pub job: Job,
    /// What its report must carry; another run has another.
    pub nonce: String,
    /// The intent that keeps the machine from being handed over meanwhile.
    pub intent: IntentId,
}

/// A programmer waits for something that is the lab's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// When it is tried again.
    pub again: LabTime,
    /// For what.
    pub why: String,
}

/// What a command wrote to a board's flash and read back. It is the command's
/// word: nothing of ours ran on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandProof {
    /// Digest of the image.
    pub digest: String,
    /// The attempt that wrote it.
    pub attempt: AttemptNo,
    /// The nonce of the run that read it back.
    pub nonce: String,
    /// The program that read it back, and on which bench host.
    pub by: String,
    /// Length of the image in bytes: as many were equal.
    pub image_bytes: u64,
    /// Bytes that were read back; those behind the image were all 0x00 or 0xff.
    pub read_bytes: u64,
    /// Lab time of the commit.
    pub at: LabTime,
    /// Wall time of the commit.
    pub wall: WallMs,
}
