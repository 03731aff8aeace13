//! The store as one SQLite file: write-ahead log, every commit synced.

use super::history::{SqliteHistory, read_rows};
use super::mark::{Found, Mark, Marker};
use super::past::{Own, Past, declare_copy};
use super::{Batch, CommitError, History, PATIENCE, Pause, Store, StoreError, schema};
use pitstop_core::id::Epoch;
use pitstop_core::lab::{Meta, Row, RowKey, Rows};
use pitstop_core::record::Change;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The database's name within the data directory.
pub const FILE: &str = "lab.db";

/// First pause when the database is busy; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest single pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pages in the log (4 KiB each) before they are copied into the database: a
/// busy lab changes the same ones over and over, and they are copied once.
const LOG_PAGES: &str = "4000";
/// Pages kept in memory: 16 MiB, as SQLite writes it. The rows of thousands of
/// machines fit, so that a commit reads nothing.
const CACHE: &str = "-16384";

/// The one writer of a lab's database.
pub struct SqliteStore {
    path: PathBuf,
    connection: Option<Connection>,
    /// Whether a commit failed so that nobody knows what is on disk.
    doubtful: bool,
    history: Arc<SqliteHistory>,
    /// How far the lab has come, beside the database.
    marker: Marker,
    /// The database is of the past, and nobody has led from it yet.
    past: Option<Past>,
}

impl SqliteStore {
    /// Opens the database in the data directory `dir`; makes both if they are
    /// not there, readable by their owner alone, and brings the schema up to
    /// date.
    ///
    /// # Errors
    /// The directory cannot be used, the file is somebody else's or newer.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = create_files(dir)?;
        // Before anything is written: another's, or a newer one, is left alone.
        wait_out(&path, &mut super::sleep, || look_first(&path))?;
        let mut connection = connect(&path)?;
        wait_out(&path, &mut super::sleep, || sound(&connection, &path))?;
        wait_out(&path, &mut super::sleep, || schema::migrate(&mut connection, &path))?;
        name_store(&connection, &path)?;
        let past = wait_out(&path, &mut super::sleep, || find_out(&connection, &path, dir))?;
        let store_id = Own::read(&connection, &path)?.store;
        let history = Arc::new(SqliteHistory::open(&path, store_id)?);
        let marker = Marker::new(dir);
        Ok(Self { path, connection: Some(connection), doubtful: false, history, marker, past })
    }

    /// The history in the data directory `dir`, read only: nothing is made,
    /// migrated or taken over, and a daemon may be at work on it.
    ///
    /// # Errors
    /// There is no database that can be read.
    pub fn read_only(dir: &Path) -> Result<Arc<dyn History>, StoreError> {
        let path = dir.join(FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(&path, flags).map_err(|e| describe("open", &path, e))?;
        let store_id = connection
            .query_row("SELECT store FROM meta", [], |row| row.get(0))
            .map_err(|e| describe("read the name of", &path, e))?;
        Ok(Arc::new(SqliteHistory::open(&path, store_id)?))
    }

    /// Limits the file to so many pages, as a full disk would.
    #[cfg(test)]
    pub(super) fn limit_pages(&mut self, pages: u32) {
        let connection = self.connection.as_ref().unwrap();
        // The pragma answers with the new limit, so it is a query.
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    }

    /// As after a commit of which nobody knows whether it is on disk.
    #[cfg(test)]
    pub(super) fn doubt(&mut self) {
        (self.connection, self.doubtful) = (None, true);
    }

    #[cfg(test)]
    pub(super) fn pages(&self) -> u32 {
        self.connection.as_ref().unwrap().query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap()
    }

    #[cfg(test)]
    pub(super) fn execute(&self, sql: &str) {
        self.connection.as_ref().unwrap().execute_batch(sql).unwrap();
    }

    /// A batch is on disk: says beside the database how far the lab has come.
    /// With the first one of a daemon nothing may be done before this is
    /// written, too.
    fn advance_mark(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.past = None;
        let mark = Mark::of(self.history.store_id(), &batch.meta);
        if self.marker.advance(mark)? {
            let connection = reconnect(&mut self.connection, &self.path)?;
            let failed = |e| describe("write", &self.path, e);
            connection.execute("UPDATE meta SET marked = 1 WHERE marked = 0", []).map_err(failed)?;
        }
        Ok(())
    }

    /// One try: `Ok(None)` if the database is busy and nothing was written.
    fn attempt(&mut self, batch: &Encoded<'_>) -> Result<Option<()>, CommitError> {
        let connection = reconnect(&mut self.connection, &self.path).map_err(CommitError::Refused)?;
        match execute(connection, "BEGIN IMMEDIATE") {
            Err(e) if is_busy(&e) => return Ok(None),
            other => other.map_err(|e| CommitError::Refused(describe("begin a commit", &self.path, e)))?,
        }
        if let Err(refused) = batch.write(connection, &self.path) {
            // Without its commit frame nothing of a transaction survives,
            // whether or not the rollback can be said aloud.
            if execute(connection, "ROLLBACK").is_err() {
                self.connection = None;
            }
            return Err(refused);
        }
        let Err(error) = execute(connection, "COMMIT") else { return Ok(Some(())) };
        self.judge_failed_commit(error)
    }

    /// A COMMIT failed. Busy and full are told by SQLite before the commit
    /// frame is complete; after anything else (say a failed fsync) the frame
    /// may or may not be found after a crash.
    fn judge_failed_commit(&mut self, error: rusqlite::Error) -> Result<Option<()>, CommitError> {
        let harmless = is_busy(&error) || is_full(&error);
        let rolled_back =
            self.connection.as_ref().is_some_and(|c| c.is_autocommit() || execute(c, "ROLLBACK").is_ok());
        if !(harmless && rolled_back) {
            (self.connection, self.doubtful) = (None, true);
            return Err(CommitError::Unknown(describe("commit", &self.path, error)));
        }
        if is_busy(&error) {
            return Ok(None);
        }
        Err(CommitError::Refused(describe("commit", &self.path, error)))
    }
}

impl Store for SqliteStore {
    fn load(&mut self, pause: Pause<'_>) -> Result<Rows, StoreError> {
        let Self { path, connection, doubtful, .. } = self;
        wait_out(path, pause, || {
            let connection = reconnect(connection, path)?;
            if *doubtful {
                settle_doubt(connection, path)?;
                *doubtful = false;
            }
            read_rows(connection, path)
        })
    }

    fn commit(&mut self, batch: &Batch, pause: Pause<'_>) -> Result<(), CommitError> {
        if self.doubtful {
            // Nothing may follow a batch that may vanish again.
            self.load(pause).map_err(CommitError::Refused)?;
        }
        let encoded = Encoded::of(batch, &self.path).map_err(CommitError::Refused)?;
        let mut waits = Waits::default();
        loop {
            match self.attempt(&encoded)? {
                Some(()) => return self.advance_mark(batch).map_err(CommitError::Unknown),
                None => waits.next(&self.path, pause).map_err(CommitError::Refused)?,
            }
        }
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::clone(&self.history) as Arc<dyn History>
    }

    fn past(&self) -> Option<Past> {
        self.past
    }
}

/// Whether the database is of the past. If it is, that is written into it
/// before anybody leads from it, so that no crash makes it forget.
fn find_out(connection: &Connection, path: &Path, dir: &Path) -> Result<Option<Past>, StoreError> {
    let past = Own::read(connection, path)?.past(&Found::read(dir)?, wall());
    if let Some(past) = past {
        declare_copy(connection, path, past, &random_name(path)?)?;
    }
    Ok(past)
}

/// Wall time in milliseconds.
pub(super) fn wall() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A batch as text, so that nothing can fail to encode in mid-transaction
/// and the write lock is held no longer than needed.
struct Encoded<'b> {
    batch: &'b Batch,
    records: Vec<String>,
    upserts: Vec<String>,
}

impl<'b> Encoded<'b> {
    fn of(batch: &'b Batch, path: &Path) -> Result<Self, StoreError> {
        let newest = batch.meta.records;
        if i64::try_from(newest).is_err() {
            return Err(StoreError::TooBig {
                path: path.to_owned(),
                what: "the record number",
                number: newest,
            });
        }
        let records = batch.records.iter().map(|r| encode(r, || format!("record {}", r.number)));
        let upserts = batch.upserts.iter().map(|row| match row {
            Row::Machine(m) => encode(m, || format!("machine {}", m.name)),
            Row::Reservation(r) => encode(r, || format!("reservation {}", r.id)),
            Row::Image(i) => encode(i, || format!("image {}", i.image.name)),
            Row::Key(k) => encode(k, || format!("idempotency key of {}", k.owner)),
        });
        Ok(Self {
            batch,
            records: records.collect::<Result<_, _>>()?,
            upserts: upserts.collect::<Result<_, _>>()?,
        })
    }

    fn write(&self, connection: &Connection, path: &Path) -> Result<(), CommitError> {
        self.check_fence(connection, path)?;
        self.write_all(connection).map_err(|e| CommitError::Refused(describe("write", path, e)))
    }

    /// A daemon that was superseded, or that decided on other rows than the
    /// stored ones, writes nothing.
    fn check_fence(&self, connection: &Connection, path: &Path) -> Result<(), CommitError> {
        let stored = (connection.prepare_cached("SELECT epoch, records FROM meta"))
            .and_then(|mut s| s.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))))
            .map_err(|e| CommitError::Refused(describe("read the epoch", path, e)))?;
        let (by, found) = (Epoch(stored.0.unsigned_abs()), stored.1.unsigned_abs());
        let Meta { epoch: ours, records, .. } = self.batch.meta;
        if by > ours {
            return Err(CommitError::Superseded { by, ours });
        }
        let expected = records.saturating_sub(self.batch.records.len() as u64);
        if expected != found {
            return Err(CommitError::Refused(StoreError::OutOfStep {
                path: path.to_owned(),
                expected,
                found,
            }));
        }
        Ok(())
    }

    fn write_all(&self, c: &Connection) -> rusqlite::Result<()> {
        self.write_meta(c)?;
        if self.batch.records.iter().any(|r| matches!(r.change, Change::Restored { .. })) {
            // From here on it is the lab's own again.
            c.execute("UPDATE meta SET copy = NULL", [])?;
        }
        self.write_records(c)?;
        for (row, text) in self.batch.upserts.iter().zip(&self.upserts) {
            upsert(c, row, text)?;
        }
        self.batch.removes.iter().try_for_each(|key| remove(c, key))
    }

    fn write_meta(&self, c: &Connection) -> rusqlite::Result<()> {
        let m = &self.batch.meta;
        c.prepare_cached("UPDATE meta SET epoch = ?1, records = ?2, reservations = ?3, now = ?4, wall = ?5")?
            .execute(params![
                whole(m.epoch.0)?,
                whole(m.records)?,
                whole(m.reservations)?,
                whole(m.now.0)?,
                m.wall
            ])
            .map(drop)
    }

    fn write_records(&self, c: &Connection) -> rusqlite::Result<()> {
        let mut insert = c.prepare_cached("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (r, text) in self.batch.records.iter().zip(&self.records) {
            let machine = r.change.machine().map(ToString::to_string);
            let reservation = r.change.reservation().map(|id| whole(id.0)).transpose()?;
            insert.execute(params![whole(r.number)?, whole(r.at.0)?, r.wall, machine, reservation, text])?;
        }
        Ok(())
    }
}

fn upsert(c: &Connection, row: &Row, text: &str) -> rusqlite::Result<()> {
    let changed = match row {
        Row::Machine(m) => c
            .prepare_cached(
                "INSERT INTO machine VALUES (?1, ?2) ON CONFLICT DO UPDATE SET row = excluded.row",
            )?
            .execute(params![m.name.to_string(), text]),
        Row::Reservation(r) => c
            .prepare_cached(
                "INSERT INTO reservation VALUES (?1, ?2) ON CONFLICT DO UPDATE SET row = excluded.row",
            )?
            .execute(params![whole(r.id.0)?, text]),
        Row::Image(i) => c
            .prepare_cached("INSERT INTO image VALUES (?1, ?2) ON CONFLICT DO UPDATE SET row = excluded.row")?
            .execute(params![i.image.name, text]),
        Row::Key(k) => c
            .prepare_cached("INSERT INTO key VALUES (?1, ?2) ON CONFLICT DO UPDATE SET row = excluded.row")?
            .execute(params![whole(k.number)?, text]),
    };
    changed.map(drop)
}

fn remove(c: &Connection, key: &RowKey) -> rusqlite::Result<()> {
    let changed = match key {
        RowKey::Machine(name) => {
            c.prepare_cached("DELETE FROM machine WHERE name = ?1")?.execute([name.to_string()])
        }
        RowKey::Reservation(id) => {
            c.prepare_cached("DELETE FROM reservation WHERE id = ?1")?.execute([whole(id.0)?])
        }
        RowKey::Image(name) => c.prepare_cached("DELETE FROM image WHERE name = ?1")?.execute([name]),
        RowKey::Key(number) => {
            c.prepare_cached("DELETE FROM key WHERE number = ?1")?.execute([whole(*number)?])
        }
    };
    changed.map(drop)
}

/// SQLite's integers are signed.
fn whole(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn encode<T: Serialize>(value: &T, what: impl Fn() -> String) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Encode { what: what(), source })
}

/// Growing pauses up to [`PATIENCE`] in all, spoken of once they get long.
struct Waits {
    next: Duration,
    total: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, total: Duration::ZERO }
    }
}

impl Waits {
    fn next(&mut self, path: &Path, pause: Pause<'_>) -> Result<(), StoreError> {
        if self.total >= PATIENCE {
            return Err(StoreError::Locked { path: path.to_owned(), waited: self.total });
        }
        if self.next >= LONGEST_PAUSE {
            let waited = humantime::format_duration(self.total).to_string();
            tracing::warn!(database = %path.display(), waited, "another process has the database locked; waiting");
        }
        pause(self.next);
        self.total += self.next;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Repeats what may be repeated for as long as the database is busy.
fn wait_out<T>(
    path: &Path,
    pause: Pause<'_>,
    mut work: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut waits = Waits::default();
    loop {
        match work() {
            Err(StoreError::Sqlite { source, .. }) if is_busy(&source) => waits.next(path, pause)?,
            other => return other,
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn reconnect<'c>(
    connection: &'c mut Option<Connection>,
    path: &Path,
) -> Result<&'c mut Connection, StoreError> {
    match connection {
        Some(connection) => Ok(connection),
        None => Ok(connection.insert(connect(path)?)),
    }
}

/// Nobody leads from a file of which pages are lost: what can still be read
/// of it may be half of the truth, and an answer may fail after it counts.
fn sound(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let what: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| describe("check", path, source))?;
    if what == "ok" {
        return Ok(());
    }
    Err(StoreError::Malformed { path: path.to_owned(), what: pitstop_wire::text::brief(&what, 300) })
}

fn look_first(path: &Path) -> Result<(), StoreError> {
    let opened = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    schema::known(&opened.map_err(|e| describe("open", path, e))?, path).map(drop)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(|e| describe("open", path, e))?;
    // We pause ourselves, so that readers are served meanwhile.
    connection.busy_timeout(Duration::ZERO).map_err(|e| describe("open", path, e))?;
    connection.set_prepared_statement_cache_capacity(32);
    wait_out(path, &mut super::sleep, || {
        let set = |name, value: &str| {
            connection
                .pragma_update_and_check(None, name, value, |_| Ok(()))
                .or_else(|e| if matches!(e, rusqlite::Error::QueryReturnedNoRows) { Ok(()) } else { Err(e) })
                .map_err(|source| StoreError::Sqlite {
                    what: "set up the log",
                    path: path.to_owned(),
                    source,
                })
        };
        set("journal_mode", "WAL")?;
        set("synchronous", "FULL")?;
        set("wal_autocheckpoint", LOG_PAGES)?;
        set("cache_size", CACHE)
    })?;
    Ok(connection)
}

/// After a failed fsync the kernel may hold pages it believes written that
/// are not, and a later fsync says all is well. Copying the log into the
/// database writes and syncs everything anew, and starts the log afresh.
fn settle_doubt(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Sqlite {
        what: "settle what a failed commit left",
        path: path.to_owned(),
        source,
    };
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(failed)?;
    if busy {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(failed(rusqlite::Error::SqliteFailure(code, None)));
    }
    Ok(())
}

fn create_files(dir: &Path) -> Result<PathBuf, StoreError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { what, path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed("create the data directory", dir))?;
    let path = dir.join(FILE);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    // SQLite gives its log the mode of the database.
    file.and_then(|f| f.set_permissions(std::fs::Permissions::from_mode(0o600)))
        .map_err(failed("create the database", &path))?;
    Ok(path)
}

/// Gives a new database its name.
fn name_store(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |e| describe("name the store", path, e);
    let name = random_name(path)?;
    wait_out(path, &mut super::sleep, || {
        let known: Option<String> = connection
            .query_row("SELECT store FROM meta", [], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        if known.is_none() {
            let sql = "INSERT INTO meta (one, store, epoch, records, reservations, now, wall)
                       VALUES (1, ?1, 0, 0, 0, 0, 0)";
            connection.execute(sql, [&name]).map_err(failed)?;
        }
        Ok(())
    })
}

pub(super) fn random_name(path: &Path) -> Result<String, StoreError> {
    let mut name = [0; 16];
    getrandom::fill(&mut name).map_err(|e| StoreError::File {
        what: "draw a random name for",
        path: path.to_owned(),
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(hex::encode(name))
}

pub(super) fn describe(what: &'static str, path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Malformed { path, what: source.to_string() },
        _ => StoreError::Sqlite { what, path, source },
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked, FileLockingProtocolFailed};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked | FileLockingProtocolFailed))
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}
