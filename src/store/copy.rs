//! Copies of a lab's database: made while a daemon writes, and put back.

use super::past::{Own, Past, declare_copy, mark_copy};
use super::sqlite::{FILE, describe, random_name, wall};
use super::{StoreError, mark, schema};
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a copy waits for whoever holds everything (recovery after a
/// crash); an ordinary commit never makes it wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a copy holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Records.
    pub records: u64,
    /// Epoch of the daemon that led.
    pub epoch: u64,
    /// Machines.
    pub machines: u64,
    /// Reservations that were not over.
    pub reservations: u64,
    /// When the newest commit in it was made, in wall milliseconds.
    pub newest: i64,
    /// Its size.
    pub bytes: u64,
}

/// Writes a copy of the database `db` to the file `to`, which must not hold
/// anything yet: all that was committed at one moment. Nobody waits for it.
///
/// # Errors
/// Either file cannot be used.
pub fn backup(db: &Path, to: &Path) -> Result<(), StoreError> {
    copy(db, to)?;
    let connection = open(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    mark_copy(&connection, to, wall())?;
    drop(connection);
    sync(to)
}

/// What a copy holds.
///
/// # Errors
/// It is no lab's database, or one of a newer program.
pub fn summary(path: &Path) -> Result<Summary, StoreError> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    schema::known(&connection, path)?;
    let failed = |e| describe("read the lab", path, e);
    let meta = super::history::read_meta(&connection).map_err(failed)?;
    let count = |sql| {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs).map_err(failed)
    };
    Ok(Summary {
        records: count("SELECT count(*) FROM record")?,
        epoch: meta.epoch.0,
        machines: count("SELECT count(*) FROM machine")?,
        reservations: count(
            "SELECT count(*) FROM reservation WHERE json_extract(row, '$.status.status') != 'ended'",
        )?,
        newest: meta.wall,
        bytes: std::fs::metadata(path)
            .map_err(|source| StoreError::File { what: "look at", path: path.to_owned(), source })?
            .len(),
    })
}

/// What was done with the database that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where it is now; `None`: there was none.
    pub replaced: Option<PathBuf>,
}

/// Puts a copy of `from` in the place of the database of the data directory
/// `dir`, on which no daemon runs. What was there is kept beside it. `from`
/// may be any lab's database, whether or not `backup` made it.
///
/// At every moment there is a database; one of the two.
///
/// # Errors
/// Something cannot be read or written; the database is then the old one.
pub fn restore(from: &Path, dir: &Path) -> Result<Restored, StoreError> {
    let place = dir.join(FILE);
    let new = dir.join(format!("{FILE}.new"));
    remove(&new)?;
    copy(from, &new)?;
    let mut connection = open(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    schema::migrate(&mut connection, &new)?;
    let own = Own::read(&connection, &new)?;
    // What the lab knows of itself, as far as it can still be read.
    let found = mark::Found::read(dir)?;
    let mut past = own.past(&found, wall()).unwrap_or_else(|| Past::from(&own.meta));
    if let Some(was) = was(&place) {
        past = past.or(was);
    }
    declare_copy(&connection, &new, past, &random_name(&new)?)?;
    drop(connection);
    belong(&new, dir)?;
    sync(&new)?;
    let replaced = set_aside(&place, dir)?;
    std::fs::rename(&new, &place).map_err(failed("put in place", &place))?;
    sync(dir)?;
    Ok(Restored { replaced })
}

/// Root puts it back for the daemon's user, whose directory it is.
fn belong(file: &Path, dir: &Path) -> Result<(), StoreError> {
    let (own, theirs) = (std::fs::metadata(file), std::fs::metadata(dir));
    let own = own.map_err(failed("look at", file))?;
    let theirs = theirs.map_err(failed("look at", dir))?;
    if own.uid() == theirs.uid() {
        return Ok(());
    }
    chown(file, Some(theirs.uid()), Some(theirs.gid())).map_err(failed("give away", file))
}

/// How far the lab had come by the database that is replaced. It may be
/// damaged, or gone: that is why it is.
fn was(place: &Path) -> Option<Past> {
    let connection = open(place, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    super::history::read_meta(&connection).ok().map(|meta| Past::from(&meta))
}

/// Keeps what is there under another name. Its log goes first: without it the
/// database is one of the past, which a daemon finds out, and never would the
/// new one be taken for the one that the log belongs to.
fn set_aside(place: &Path, dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !place.exists() {
        return Ok(None);
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
    let kept = dir.join(format!("{FILE}.{stamp}"));
    let beside = |of: &Path, end: &str| PathBuf::from(format!("{}{end}", of.display()));
    let log = beside(place, "-wal");
    if log.exists() {
        std::fs::rename(&log, beside(&kept, "-wal")).map_err(failed("set aside", &log))?;
    }
    remove(&beside(place, "-shm"))?;
    sync(dir)?;
    std::fs::hard_link(place, &kept).map_err(failed("set aside", place))?;
    Ok(Some(kept))
}

/// All that is committed in one database, as another one.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    // Ours alone from the first byte on.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    made.map_err(failed("make", to))?;
    let connection = open(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    schema::known(&connection, from)?;
    let to_text = to.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [&to_text]).map(drop).map_err(|e| describe("copy", from, e))
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    // SQLite says no more than that it cannot.
    File::open(path).map_err(failed("open", path))?;
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| describe("open", path, e))?;
    connection.busy_timeout(PATIENCE).map_err(|e| describe("open", path, e))?;
    Ok(connection)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("sync", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sample::Sample;
    use crate::store::{SqliteStore, Store, sleep};
    use pitstop_core::Lab;
    use pitstop_core::event::Floor;
    use std::os::unix::fs::PermissionsExt;

    fn lab(dir: &Path) -> (SqliteStore, Sample) {
        let mut store = SqliteStore::open(dir).unwrap();
        let mut sample = Sample::on(Lab::from_rows(store.load(&mut sleep).unwrap()));
        store.commit(&sample.start(2), &mut sleep).unwrap();
        (store, sample)
    }

    fn reserve(store: &mut SqliteStore, sample: &mut Sample, key: &str) {
        store.commit(&sample.reserve("ada", key).0, &mut sleep).unwrap();
    }

    #[test]
    fn a_backup_holds_what_was_committed_and_says_that_it_is_one() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut store, mut sample) = lab(dir.path());
        reserve(&mut store, &mut sample, "k1");
        let file = elsewhere.path().join("b");
        backup(&dir.path().join(FILE), &file).unwrap();
        let kept = sample.lab.rows();
        reserve(&mut store, &mut sample, "k2");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let told = summary(&file).unwrap();
        assert_eq!((told.epoch, told.machines, told.reservations), (1, 2, 1));
        assert_eq!(told.records, kept.meta.records);
        // Put in a directory of its own, by hand.
        std::fs::rename(&file, elsewhere.path().join(FILE)).unwrap();
        let mut other = SqliteStore::open(elsewhere.path()).unwrap();
        assert_eq!(Lab::from_rows(other.load(&mut sleep).unwrap()).rows(), kept);
        assert!(other.past().is_some());
        assert_ne!(other.history().store_id(), store.history().store_id());
    }

    #[test]
    fn a_file_that_holds_something_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, _) = lab(dir.path());
        let file = dir.path().join("b");
        std::fs::write(&file, "mine").unwrap();
        assert!(backup(&dir.path().join(FILE), &file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    }

    #[test]
    fn what_is_restored_is_of_the_past_and_goes_on_above_all_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut sample) = lab(dir.path());
        let file = dir.path().join("b");
        backup(&dir.path().join(FILE), &file).unwrap();
        for key in ["k1", "k2", "k3"] {
            reserve(&mut store, &mut sample, key);
        }
        drop(store);
        let (store, _) = lab(dir.path()); // epoch 2
        drop(store);
        let replaced = restore(&file, dir.path()).unwrap().replaced.unwrap();
        assert_eq!(summary(&replaced).unwrap().epoch, 2, "what was there is kept");
        let mut store = SqliteStore::open(dir.path()).unwrap();
        let past = store.past().unwrap();
        assert_eq!(past.floor, Floor { epoch: pitstop_core::id::Epoch(2), reservations: 3 });
        // Until somebody has led from it, it stays so.
        drop(store);
        store = SqliteStore::open(dir.path()).unwrap();
        assert_eq!(store.past(), Some(past));
        let mut sample = Sample::on(Lab::from_rows(store.load(&mut sleep).unwrap()));
        store.commit(&sample.start_restored(2, past.floor), &mut sleep).unwrap();
        assert_eq!((sample.lab.meta().epoch.0, store.past()), (3, None));
        drop(store);
        assert_eq!(SqliteStore::open(dir.path()).unwrap().past(), None, "now it is the lab's own");
    }

    #[test]
    fn a_copy_by_hand_is_found_out_by_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut sample) = lab(dir.path());
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)");
        let by_hand = std::fs::read(dir.path().join(FILE)).unwrap();
        reserve(&mut store, &mut sample, "k1");
        drop(store);
        assert_eq!(SqliteStore::open(dir.path()).unwrap().past(), None);
        std::fs::write(dir.path().join(FILE), by_hand).unwrap();
        let past =
            SqliteStore::open(dir.path()).unwrap().past().expect("of the same epoch, one record short");
        assert_eq!(past.floor.reservations, 1);
    }

    #[test]
    fn a_database_that_comes_without_its_mark_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = lab(dir.path());
        drop(store);
        std::fs::remove_file(dir.path().join(mark::FILE)).unwrap();
        let past = SqliteStore::open(dir.path()).unwrap().past().unwrap();
        assert!(past.floor.epoch.0 > 1_000, "nobody knows how far it had come: {past:?}");
    }

    #[test]
    fn a_database_that_was_removed_does_not_start_its_epochs_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = lab(dir.path());
        drop(store);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let past = SqliteStore::open(dir.path()).unwrap().past().unwrap();
        assert_eq!(past.floor.epoch.0, 1);
    }
}
