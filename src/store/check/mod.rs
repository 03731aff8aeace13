//! Whether a lab's database holds what it must: for `pitstop admin fsck`.
//!
//! Nothing is written, not even a log: a file whose log still holds commits,
//! or that is of an older schema, is looked at as a copy.

mod difference;
mod history;
mod rows;
#[cfg(test)]
mod tests;

use super::sqlite::describe;
use super::{StoreError, history::read_meta, schema};
use pitstop_core::Lab;
use pitstop_core::lab::Meta;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};

/// So many findings are told one by one.
const MOST: usize = 200;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `record 17`, `machine board01`.
    pub about: String,
    /// What is wrong with it.
    pub what: String,
}

/// What was looked at, and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The file's schema.
    pub schema: u32,
    /// Where the lab stands.
    pub meta: Meta,
    /// Whether it says that it is a copy, from which nobody has led yet.
    pub copy: bool,
    /// Machines.
    pub machines: usize,
    /// Reservations, ended ones that are kept too.
    pub reservations: usize,
    /// Digests of the images that rows name, with their names.
    pub images: Vec<(String, String)>,
    /// What is wrong, the first of it if it is much.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub more: usize,
}

impl Checked {
    fn add(&mut self, about: impl Into<String>, what: impl Into<String>) {
        if self.findings.len() < MOST {
            self.findings.push(Finding { about: about.into(), what: what.into() });
        } else {
            self.more += 1;
        }
    }
}

/// Looks at a lab's database.
///
/// # Errors
/// It is not there, is no lab's database, or one of a newer program.
pub fn check(path: &Path) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let (connection, _copy) = match open(path) {
        Ok((connection, copy, schema)) => {
            checked.schema = schema;
            (connection, copy)
        }
        Err(StoreError::Sqlite { source, .. }) if is_damage(&source) => {
            checked.add("file", format!("SQLite: {source}"));
            return Ok(checked);
        }
        Err(other) => return Err(other),
    };
    if !pages(&connection, path, &mut checked)? {
        // What such a file says, it may say by its damage.
        return Ok(checked);
    }
    match read_meta(&connection) {
        Ok(meta) => checked.meta = meta,
        Err(e) => {
            checked.add("table meta", format!("the row about the lab cannot be read: {e}"));
            return Ok(checked);
        }
    }
    let sql = "SELECT copy IS NOT NULL FROM meta";
    checked.copy = connection.query_row(sql, [], |row| row.get(0)).map_err(|e| describe("read", path, e))?;
    let rows = rows::read(&connection, path, &mut checked)?;
    let told = history::fold(&connection, path, &mut checked)?;
    let lab = rows.lab;
    if let Some(told) = told {
        difference::compare(&rows.stored, lab.meta(), &told, &rows.damaged, &mut checked);
    }
    if rows.damaged.is_empty() {
        references(&lab, &mut checked);
        if let Err(what) = pitstop_core::invariant::check(&lab) {
            checked.add("rows", what);
        }
    }
    Ok(checked)
}

/// A connection that cannot write, its copy where one was needed, and the
/// schema of the file.
fn open(path: &Path) -> Result<(Connection, Option<tempfile::TempDir>, u32), StoreError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::File { what, path, source }
    };
    std::fs::File::open(path).map_err(failed("open", path))?;
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let has_log = std::fs::metadata(&log).is_ok_and(|m| m.len() > 0);
    if !has_log {
        let connection = immutable(path)?;
        let schema = schema::known(&connection, path)?;
        if schema == schema::NEWEST {
            return Ok((connection, None, schema));
        }
    }
    let dir = tempfile::tempdir().map_err(failed("make a directory beside", path))?;
    let file = dir.path().join("lab.db");
    std::fs::copy(path, &file).map_err(failed("copy", path))?;
    if has_log {
        std::fs::copy(&log, dir.path().join("lab.db-wal")).map_err(failed("copy", &log))?;
    }
    let mut connection = Connection::open(&file).map_err(|e| describe("open", path, e))?;
    let schema = schema::known(&connection, path)?;
    schema::migrate(&mut connection, path)?;
    Ok((connection, Some(dir), schema))
}

/// A file that nobody changes, and that is not locked or written to.
fn immutable(path: &Path) -> Result<Connection, StoreError> {
    let name = path.display().to_string().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
        .map_err(|e| describe("open", path, e))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Whether SQLite finds the file's pages in order.
fn pages(connection: &Connection, path: &Path, checked: &mut Checked) -> Result<bool, StoreError> {
    let found = connection
        .prepare("PRAGMA integrity_check")
        .and_then(|mut s| s.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>());
    match found {
        Ok(lines) if lines == ["ok"] => Ok(true),
        Ok(lines) => {
            lines.iter().for_each(|line| checked.add("file", format!("SQLite: {line}")));
            Ok(false)
        }
        Err(e) if is_damage(&e) => {
            checked.add("file", format!("SQLite: {e}"));
            Ok(false)
        }
        Err(e) => Err(describe("check", path, e)),
    }
}

/// Numbers that rows mention, and that were given out by others.
fn references(lab: &Lab, checked: &mut Checked) {
    let meta = lab.meta().clone();
    for r in lab.reservations().filter(|r| r.id.0 > meta.reservations) {
        let newest = meta.reservations;
        checked.add(format!("reservation {}", r.id), format!("the newest reservation is R-{newest}"));
    }
    for m in lab.machines() {
        let intents = m.legs.iter().flat_map(|leg| &leg.unsettled);
        for intent in intents.filter(|i| i.id > m.intents) {
            let what = format!("it has power command {}, and has given out {} so far", intent.id, m.intents);
            checked.add(format!("machine {}", m.name), what);
        }
        let newest = m.turn().and_then(|t| t.attempt.as_ref()).map_or(0, |a| a.number);
        if newest > m.attempts {
            let what = format!("it is on attempt {newest}, and has begun {} so far", m.attempts);
            checked.add(format!("machine {}", m.name), what);
        }
    }
}
