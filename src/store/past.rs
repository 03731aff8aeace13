//! Whether a database is of the past: a backup that was put in the place of
//! the lab's own, or one that has lost what it was told is on disk.
//!
//! | what is found | means |
//! |---|---|
//! | `copy` in the database | it is a backup, or was found out before and nobody has led since |
//! | `lab.mark` is ahead of it, or is another database's | it was put back |
//! | `lab.mark` is gone, and there was one | it came here without it |
//! | neither | it is the lab's own |
//!
//! What cannot be found out: that database and mark were put back together
//! (a snapshot of the whole disk), or that the mark on disk had fallen behind
//! (power was lost) and the database was put back to between the two by hand.
//! `pitstop admin restore` says it in so many words, and is found out always.

use super::StoreError;
use super::mark::{Found, Mark};
use super::sqlite::describe;
use pitstop_core::event::Floor;
use pitstop_core::id::Epoch;
use pitstop_core::lab::Meta;
use pitstop_core::time::LabTime;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Added to what a copy knows where nothing else is known; and as much again
/// for every second since it was current. No lab starts a daemon, or takes a
/// reservation, more than once a second for long.
const LEAP: u64 = 1_000;

/// How far the lab of a restored database had come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Past {
    /// Epochs and reservations go on above it.
    pub floor: Floor,
    /// Lab time goes on behind it.
    pub now: LabTime,
}

/// What a copy says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Epoch of the daemon that led when it was made, or a later one.
    pub epoch: u64,
    /// Newest reservation then, or a later one.
    pub reservations: u64,
    /// Lab time then, or later.
    pub now: u64,
    /// When it was made, in wall milliseconds.
    pub taken: i64,
}

/// The database's one row about the lab, as far as it concerns its past.
#[derive(Debug, Clone)]
pub struct Own {
    /// The database's name.
    pub store: String,
    /// Where it stands.
    pub meta: Meta,
    marked: bool,
    copy: Option<Copy>,
}

impl Own {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such row.
    pub fn read(connection: &Connection, path: &Path) -> Result<Self, StoreError> {
        let failed = |e| describe("read the lab", path, e);
        let meta = super::history::read_meta(connection).map_err(failed)?;
        let sql = "SELECT store, marked, copy FROM meta";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?));
        let (store, marked, copy) = connection.query_row(sql, [], row).map_err(failed)?;
        // Whatever it says, it says that this is a copy.
        let unknown = Copy { epoch: 0, reservations: 0, now: 0, taken: meta.wall };
        let copy = copy.map(|text| serde_json::from_str(&text).unwrap_or(unknown));
        Ok(Self { store, meta, marked, copy })
    }

    /// Whether this database is of the past, and how far its lab had come.
    pub fn past(&self, mark: &Found, wall: i64) -> Option<Past> {
        let suspect = match mark {
            _ if self.copy.is_some() => true,
            Found::Mark(mark) => {
                mark.store != self.store || mark.epoch > self.meta.epoch || mark.records > self.meta.records
            }
            Found::Nothing => self.marked,
        };
        suspect.then(|| self.how_far(mark, wall))
    }

    fn how_far(&self, mark: &Found, wall: i64) -> Past {
        let own = Past::from(&self.meta);
        let copy = self.copy.map(|c| Past {
            floor: Floor { epoch: Epoch(c.epoch), reservations: c.reservations },
            now: LabTime(c.now),
        });
        let marked = match mark {
            Found::Mark(mark) => Past::from(mark),
            Found::Nothing => leap(copy.map_or(own, |c| c.or(own)), wall - self.meta.wall),
        };
        copy.into_iter().fold(marked.or(own), Past::or)
    }
}

/// Where a lab has come to at most since it was where a copy says.
fn leap(from: Past, age: i64) -> Past {
    let most = LEAP.saturating_add(u64::try_from(age / 1_000).unwrap_or(0));
    let floor = Floor {
        epoch: Epoch(from.floor.epoch.0.saturating_add(most)),
        reservations: from.floor.reservations.saturating_add(most),
    };
    Past { floor, now: from.now }
}

impl Past {
    /// The later of the two, item by item.
    pub fn or(self, other: Self) -> Self {
        Self {
            floor: Floor {
                epoch: self.floor.epoch.max(other.floor.epoch),
                reservations: self.floor.reservations.max(other.floor.reservations),
            },
            now: self.now.max(other.now),
        }
    }

    fn as_copy(self, taken: i64) -> Copy {
        Copy { epoch: self.floor.epoch.0, reservations: self.floor.reservations, now: self.now.0, taken }
    }
}

/// Says in the database that it is a copy, and gives it another name: its
/// record numbers will mean other records than those of the lab it is from.
///
/// # Errors
/// It cannot be written.
pub fn declare_copy(connection: &Connection, path: &Path, past: Past, name: &str) -> Result<(), StoreError> {
    let own = Own::read(connection, path)?;
    let copy = past.as_copy(own.copy.map_or(own.meta.wall, |c| c.taken));
    write_copy(connection, path, &copy, name)
}

/// The same of a copy that was made at this moment (wall milliseconds), which
/// keeps its name as long as nobody leads from it.
///
/// # Errors
/// It cannot be written.
pub fn mark_copy(connection: &Connection, path: &Path, taken: i64) -> Result<(), StoreError> {
    let own = Own::read(connection, path)?;
    write_copy(connection, path, &Past::from(&own.meta).as_copy(taken), &own.store)
}

fn write_copy(connection: &Connection, path: &Path, copy: &Copy, name: &str) -> Result<(), StoreError> {
    let text = serde_json::to_string(copy)
        .map_err(|source| StoreError::Encode { what: "what a copy says of itself".to_owned(), source })?;
    connection
        .execute("UPDATE meta SET copy = ?1, store = ?2", params![text, name])
        .map(drop)
        .map_err(|e| describe("mark a copy", path, e))
}

impl From<&Meta> for Past {
    fn from(meta: &Meta) -> Self {
        let floor = Floor { epoch: meta.epoch, reservations: meta.reservations };
        Self { floor, now: meta.now }
    }
}

impl From<&Mark> for Past {
    fn from(mark: &Mark) -> Self {
        let floor = Floor { epoch: mark.epoch, reservations: mark.reservations };
        Self { floor, now: mark.now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(epoch: u64, records: u64) -> Own {
        let meta = Meta { epoch: Epoch(epoch), records, reservations: 17, now: LabTime(50), wall: 1_000_000 };
        Own { store: "a".into(), meta, marked: true, copy: None }
    }

    fn mark(store: &str, epoch: u64, records: u64) -> Found {
        Found::Mark(Mark {
            store: store.into(),
            epoch: Epoch(epoch),
            records,
            reservations: 40,
            now: LabTime(90),
        })
    }

    const NOW: i64 = 1_000_000 + 3_600_000;

    #[test]
    fn the_labs_own_database_is_believed() {
        assert_eq!(own(3, 100).past(&mark("a", 3, 100), NOW), None);
        // A crash between the commit and the mark.
        assert_eq!(own(4, 120).past(&mark("a", 3, 100), NOW), None);
        // One that never had a mark: of an older program.
        let old = Own { marked: false, ..own(3, 100) };
        assert_eq!(old.past(&Found::Nothing, NOW), None);
    }

    #[test]
    fn one_that_was_put_back_is_found_out() {
        let floor = |past: Option<Past>| past.map(|p| (p.floor.epoch.0, p.floor.reservations, p.now.0));
        assert_eq!(floor(own(3, 100).past(&mark("a", 5, 90), NOW)), Some((5, 40, 90)));
        assert_eq!(floor(own(3, 100).past(&mark("a", 3, 101), NOW)), Some((3, 40, 90)), "of the same epoch");
        assert_eq!(floor(own(9, 100).past(&mark("b", 5, 90), NOW)), Some((9, 40, 90)), "another's mark");
        let copy = Some(Copy { epoch: 7, reservations: 50, now: 60, taken: 0 });
        let backup = Own { copy, ..own(3, 100) };
        assert_eq!(floor(backup.past(&mark("a", 3, 100), NOW)), Some((7, 50, 90)), "it says so itself");
    }

    #[test]
    fn without_a_mark_it_leaps_over_all_that_can_have_been() {
        let past = own(3, 100).past(&Found::Nothing, NOW).unwrap();
        assert_eq!(past.floor, Floor { epoch: Epoch(3 + 1_000 + 3_600), reservations: 17 + 1_000 + 3_600 });
        // A wall clock that went back makes it no smaller than the leap.
        let past = own(3, 100).past(&Found::Nothing, 0).unwrap();
        assert_eq!(past.floor.epoch, Epoch(1_003));
    }
}
