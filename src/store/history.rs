//! Reading what is committed: rows and records.

use super::sqlite::describe;
use super::{History, RecordQuery, StoreError};
use pitstop_core::id::{Epoch, ReservationId};
use pitstop_core::lab::{Meta, NamedImage, Remembered, Row, Rows};
use pitstop_core::machine::Machine;
use pitstop_core::record::Record;
use pitstop_core::reservation::Reservation;
use pitstop_core::time::LabTime;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params_from_iter};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a reader waits for a writer that holds everything (recovery
/// after a crash); an ordinary commit never makes it wait.
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// Connections that only read.
pub struct SqliteHistory {
    path: PathBuf,
    store_id: String,
    connection: Mutex<Connection>,
    /// For what is found by wall time, which looks through all of the history: nobody else waits for that.
    searches: Mutex<Connection>,
}

impl SqliteHistory {
    pub fn open(path: &Path, store_id: String) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || -> Result<Mutex<Connection>, StoreError> {
            let connection =
                Connection::open_with_flags(path, flags).map_err(|e| describe("open", path, e))?;
            connection.busy_timeout(READER_PATIENCE).map_err(|e| describe("open", path, e))?;
            Ok(Mutex::new(connection))
        };
        Ok(Self { path: path.to_owned(), store_id, connection: connect()?, searches: connect()? })
    }
}

impl History for SqliteHistory {
    fn store_id(&self) -> &str {
        &self.store_id
    }

    fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, StoreError> {
        let (sql, values) = select(query);
        let connection = if query.since.is_some() { &self.searches } else { &self.connection };
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |e| describe("read the history", &self.path, e);
        let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
        let found = statement
            .query_map(params_from_iter(values), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
            .map_err(failed)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let decode_one =
            |(number, text): (i64, String)| decode(&self.path, "record", &number.to_string(), &text);
        let mut records = found.into_iter().map(decode_one).collect::<Result<Vec<_>, _>>()?;
        if query.newest {
            records.reverse();
        }
        Ok(records)
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        // By a connection of its own: other readers need not wait.
        super::copy::backup(&self.path, to)
    }

    fn rows(&self) -> Result<Rows, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        read_rows(&mut connection, &self.path)
    }
}

/// A query as SQL. Only conditions that are asked for appear, so that each
/// combination uses the index that fits it.
fn select(query: &RecordQuery) -> (String, Vec<Value>) {
    let number = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    let conditions = [
        ("number > ?", query.after.map(number)),
        ("number < ?", query.before.map(number)),
        ("wall >= ?", query.since.map(Value::Integer)),
        ("machine = ?", query.machine.as_ref().map(|m| Value::Text(m.to_string()))),
        ("reservation = ?", query.reservation.map(|r| number(r.0))),
    ];
    let mut sql = "SELECT number, json FROM record".to_owned();
    let mut values = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql += if values.is_empty() { " WHERE " } else { " AND " };
            sql += condition;
            values.push(value);
        }
    }
    sql += if query.newest { " ORDER BY number DESC LIMIT ?" } else { " ORDER BY number LIMIT ?" };
    values.push(Value::Integer(query.most() as i64));
    (sql, values)
}

/// All rows as of one commit, in a fixed order.
pub fn read_rows(connection: &mut Connection, path: &Path) -> Result<Rows, StoreError> {
    let failed = |source| StoreError::Sqlite { what: "read the lab", path: path.to_owned(), source };
    let moment = connection.transaction_with_behavior(TransactionBehavior::Deferred).map_err(failed)?;
    let meta = read_meta(&moment).map_err(failed)?;
    let table = |sql: &str| -> Result<Vec<(String, String)>, StoreError> {
        let mut statement = moment.prepare(sql).map_err(failed)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    };
    let mut rows = Vec::new();
    for (key, text) in table("SELECT name, row FROM machine ORDER BY name")? {
        let machine: Machine = decode(path, "machine", &key, &text)?;
        same_key(path, "machine", &key, machine.name.as_ref())?;
        rows.push(Row::Machine(Arc::new(machine)));
    }
    for (key, text) in table("SELECT CAST(id AS TEXT), row FROM reservation ORDER BY id")? {
        let reservation: Reservation = decode(path, "reservation", &key, &text)?;
        same_key(path, "reservation", &key, &reservation.id.0.to_string())?;
        rows.push(Row::Reservation(Arc::new(reservation)));
    }
    for (key, text) in table("SELECT name, row FROM image ORDER BY name")? {
        let image: NamedImage = decode(path, "image", &key, &text)?;
        same_key(path, "image", &key, &image.image.name)?;
        rows.push(Row::Image(Arc::new(image)));
    }
    for (key, text) in table("SELECT CAST(number AS TEXT), row FROM key ORDER BY number")? {
        let remembered: Remembered = decode(path, "key", &key, &text)?;
        same_key(path, "key", &key, &remembered.number.to_string())?;
        rows.push(Row::Key(Arc::new(remembered)));
    }
    Ok(Rows { meta, rows })
}

pub fn read_meta(connection: &Connection) -> rusqlite::Result<Meta> {
    connection.query_row("SELECT epoch, records, reservations, now, wall FROM meta", [], |row| {
        let count = |n| Ok::<_, rusqlite::Error>(row.get::<_, i64>(n)?.unsigned_abs());
        Ok(Meta {
            epoch: Epoch(count(0)?),
            records: count(1)?,
            reservations: ReservationId(count(2)?).0,
            now: LabTime(count(3)?),
            wall: row.get(4)?,
        })
    })
}

fn decode<T: DeserializeOwned>(
    path: &Path,
    table: &'static str,
    key: &str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| damaged(path, table, key, e.to_string()))
}

fn same_key(path: &Path, table: &'static str, key: &str, inside: &str) -> Result<(), StoreError> {
    if key == inside {
        return Ok(());
    }
    Err(damaged(path, table, key, format!("it says it is {inside}")))
}

fn damaged(path: &Path, table: &'static str, key: &str, reason: String) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), table, key: key.to_owned(), reason }
}
