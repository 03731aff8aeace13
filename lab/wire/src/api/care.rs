//! What is told of a lab's database by those who care for it.

use super::{Schema, Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A backup that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// `pitstop.backup/1`
    pub schema: Schema,
    /// The file.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Epoch of the daemon that led.
    pub epoch: u64,
    /// Machines in it.
    pub machines: u64,
    /// Reservations in it that were not over.
    pub reservations: u64,
    /// Its newest commit.
    pub newest: Time,
}

/// A backup that was put in the place of a lab's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restore {
    /// `pitstop.restore/1`
    pub schema: Schema,
    /// What was put there.
    pub backup: Backup,
    /// The data directory.
    pub data: String,
    /// Where what was there is kept; nothing, if there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

/// What was found in a lab's database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fsck {
    /// `pitstop.fsck/1`
    pub schema: Schema,
    /// The file.
    pub file: String,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// The number of its tables' shape; a daemon brings it up to date.
    pub tables: u32,
    /// Whether it is a backup that nobody has led from.
    pub copy: bool,
    /// Records in it.
    pub records: u64,
    /// Epoch of the daemon that led.
    pub epoch: u64,
    /// Machines in it.
    pub machines: usize,
    /// Reservations in it, those that are over too.
    pub reservations: usize,
    /// What is wrong.
    pub findings: Vec<FsckFinding>,
    /// How much more is wrong than is listed.
    pub more: usize,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FsckFinding {
    /// What it is about: `machine board01`, `record 17`.
    pub about: String,
    /// What is wrong with it.
    pub text: String,
}
