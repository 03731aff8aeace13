//! What can go wrong with a store, and what is known afterwards.

use pitstop_core::id::Epoch;
use std::path::PathBuf;
use std::time::Duration;

/// The database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("cannot {what} in the database {path}: {source}")]
    Sqlite {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What came back.
        source: rusqlite::Error,
    },
    /// No room.
    #[error("the disk under the database {path} is full; free some space there, pitstop goes on by itself")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Some other process holds the write lock.
    #[error(
        "another process has the database {path} locked and did not let go within {}; \
         find it with `fuser {path}` and end it",
        humantime::format_duration(*.waited)
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The database belongs to a later program.
    #[error(
        "the database {path} has schema {found}, this pitstop knows up to {known}: run the newer pitstop that wrote it, or restore a backup"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Newest schema known here.
        known: u32,
    },
    /// Pages of the file are not what SQLite wrote.
    #[error(
        "the database {path} is damaged: {what}; `pitstop admin fsck` lists what can still be read, `pitstop admin restore` puts a backup in its place"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        what: String,
    },
    /// The file is some other program's database.
    #[error("{path} is not a database of pitstop; name another directory with --data")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A row's text is not what was written.
    #[error(
        "row {key} of table {table} in the database {path} is damaged: {reason}; restore a backup, or remove this row by hand if the loss is acceptable"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A batch that does not follow what is stored.
    #[error(
        "the batch begins after record {expected}, but {path} ends with record {found}: somebody else wrote to it"
    )]
    OutOfStep {
        /// The file.
        path: PathBuf,
        /// The record the batch follows.
        expected: u64,
        /// The newest stored one.
        found: u64,
    },
    /// A number that no column holds.
    #[error("{what} is {number}, which the database {path} cannot hold")]
    TooBig {
        /// The file.
        path: PathBuf,
        /// What the number is.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A row that cannot be put into words.
    #[error("cannot encode {what}: {source}")]
    Encode {
        /// What.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// A commit that was not made, and what is known about it.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written.
    #[error("nothing was written: {0}")]
    Refused(#[source] StoreError),
    /// It cannot be told whether the batch was written; loading tells.
    #[error("whether it was written is not known: {0}")]
    Unknown(#[source] StoreError),
    /// Another daemon leads. Nothing was written, nothing ever will be.
    #[error("another pitstop has taken this lab over (epoch {}, this one has {})", .by.0, .ours.0)]
    Superseded {
        /// Its epoch.
        by: Epoch,
        /// Ours.
        ours: Epoch,
    },
}
