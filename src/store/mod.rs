//! What the lab remembers: rows, which are the truth, and records, which are
//! the history. One writer commits both in one transaction; readers of the
//! history never wait for it.

mod check;
mod copy;
mod error;
mod history;
mod mark;
mod past;
mod rate;
mod schema;
mod sqlite;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod durability;
#[cfg(test)]
pub(crate) mod fault;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod sample;

pub use check::{Checked, Finding, check};
pub use copy::{Restored, Summary, backup, restore, summary};
pub use error::{CommitError, StoreError};
pub use past::Past;
pub use rate::sync_rate;
pub use sqlite::{FILE, SqliteStore};

use pitstop_core::id::{RecordNo, ReservationId};
use pitstop_core::lab::{Meta, Row, RowKey, Rows};
use pitstop_core::record::Record;
use pitstop_core::time::WallMs;
use pitstop_wire::MachineName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a store lets time pass while it waits for the disk: it asks for a
/// pause instead of sleeping, so that the decision loop can serve readers.
pub type Pause<'a> = &'a mut dyn FnMut(Duration);

/// A lab's memory. There is one writer: whoever owns this.
pub trait Store: Send {
    /// Everything as it was last committed.
    ///
    /// # Errors
    /// A row that cannot be read is named by table and key.
    fn load(&mut self, pause: Pause<'_>) -> Result<Rows, StoreError>;

    /// Writes a batch, all or nothing, and returns only when it is on disk.
    /// A disk or database that is busy is waited for, up to [`PATIENCE`].
    ///
    /// # Errors
    /// [`CommitError`] says whether anything may have been written.
    fn commit(&mut self, batch: &Batch, pause: Pause<'_>) -> Result<(), CommitError>;

    /// A reader of committed state that does not wait for the writer.
    fn history(&self) -> Arc<dyn History>;

    /// Whether what is stored is of the past: a backup, or what a disk that
    /// lost writes has left. `None` again with the first commit.
    fn past(&self) -> Option<Past> {
        None
    }
}

/// Reads committed state, from any thread.
pub trait History: Send + Sync {
    /// Name of this database, made when it was created: record numbers mean
    /// nothing without it.
    fn store_id(&self) -> &str;

    /// Records that fit, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, StoreError>;

    /// All rows.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn rows(&self) -> Result<Rows, StoreError>;

    /// Writes a copy of all that is committed now to an empty file or one
    /// that is not there, while the writer goes on.
    ///
    /// # Errors
    /// The file cannot be written.
    fn backup(&self, to: &Path) -> Result<(), StoreError>;
}

/// How long a commit waits for a busy database before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is committed together.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The lab's own row after the batch.
    pub meta: Meta,
    /// New records, in order. The first one follows the newest stored one.
    pub records: Vec<Record>,
    /// Rows that are new or changed.
    pub upserts: Vec<Row>,
    /// Rows that are gone.
    pub removes: Vec<RowKey>,
}

/// Which records to read. Conditions add up; the default is the oldest
/// [`RecordQuery::MOST`] of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordQuery {
    /// Only records with a greater number.
    pub after: Option<RecordNo>,
    /// Only records with a smaller number.
    pub before: Option<RecordNo>,
    /// Only records at or after this wall time, in milliseconds.
    pub since: Option<WallMs>,
    /// Only records about this machine.
    pub machine: Option<MachineName>,
    /// Only records about this reservation.
    pub reservation: Option<ReservationId>,
    /// At most so many; `None` and anything above: [`RecordQuery::MOST`].
    pub limit: Option<usize>,
    /// If more fit, whether the newest are wanted rather than the oldest.
    /// Either way they come oldest first.
    pub newest: bool,
}

impl RecordQuery {
    /// Most records one query gives.
    pub const MOST: usize = 10_000;

    /// The newest `n` records.
    pub fn newest(n: usize) -> Self {
        Self { limit: Some(n), newest: true, ..Self::default() }
    }

    /// Records that follow `number`, as a stream that resumes needs them.
    pub fn after(number: RecordNo) -> Self {
        Self { after: Some(number), ..Self::default() }
    }

    /// Only those about this machine.
    #[must_use]
    pub fn machine(mut self, machine: MachineName) -> Self {
        self.machine = Some(machine);
        self
    }

    /// Only those about this reservation.
    #[must_use]
    pub fn reservation(mut self, reservation: ReservationId) -> Self {
        self.reservation = Some(reservation);
        self
    }

    fn most(&self) -> usize {
        self.limit.unwrap_or(Self::MOST).min(Self::MOST)
    }
}

/// Lets time pass for callers that have nothing better to do meanwhile.
pub fn sleep(time: Duration) {
    std::thread::sleep(time);
}
