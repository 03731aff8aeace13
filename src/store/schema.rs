//! The database's shape, in numbered steps that are never edited once released.

use super::StoreError;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// Each step brings a database from the schema of its index to the next.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_lab.sql"),
    include_str!("migrations/0002_keys_by_age.sql"),
    include_str!("migrations/0003_copies.sql"),
];

/// The newest schema.
pub const NEWEST: u32 = MIGRATIONS.len() as u32;

/// Marks the file as ours (`PITS`), see <https://www.sqlite.org/fileformat.html#application_id>.
const APPLICATION: i32 = 0x5049_5453;

/// Brings the database to the newest schema. Each step commits with its
/// number, so a crash in between goes on where it was.
pub fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate_with(connection, path, MIGRATIONS)
}

fn migrate_with(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StoreError> {
    let failed = |source| StoreError::Sqlite { what: "prepare the tables", path: path.to_owned(), source };
    let known = steps.len() as u32;
    loop {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let found = check_owner(&step, path)?;
        if found > known {
            return Err(StoreError::Newer { path: path.to_owned(), found, known });
        }
        let Some(sql) = steps.get(found as usize) else { return Ok(()) };
        step.execute_batch(sql).map_err(failed)?;
        step.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
        step.pragma_update(None, "user_version", found + 1).map_err(failed)?;
        step.commit().map_err(failed)?;
    }
}

/// The schema's number, if this program knows it.
///
/// # Errors
/// The file is not ours, or a newer program's.
pub fn known(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let (found, known) = (check_owner(connection, path)?, NEWEST);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// The schema's number; an error if the file is not ours to touch.
fn check_owner(connection: &Connection, path: &Path) -> Result<u32, StoreError> {
    let failed = |source| StoreError::Sqlite { what: "read the schema", path: path.to_owned(), source };
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(failed);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let blank = application == 0 && version == 0 && tables == 0;
    match u32::try_from(version) {
        Ok(version) if blank || application == APPLICATION => Ok(version),
        _ => Err(StoreError::Foreign { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(c: &Connection) -> u32 {
        c.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_new_file_gets_every_step_and_a_second_run_changes_nothing() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate(&mut c, Path::new("x")).unwrap();
        migrate(&mut c, Path::new("x")).unwrap();
        assert_eq!(version(&c), MIGRATIONS.len() as u32);
        assert_eq!(c.query_row("SELECT count(*) FROM record", [], |r| r.get::<_, u32>(0)).unwrap(), 0);
    }

    #[test]
    fn a_step_that_fails_leaves_the_steps_before_it() {
        let mut c = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x) ", "CREATE TABLE b (x); nonsense"];
        assert!(migrate_with(&mut c, Path::new("x"), &steps).is_err());
        assert_eq!(version(&c), 1);
        let b =
            c.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'b'", [], |r| r.get::<_, u32>(0));
        assert_eq!(b.unwrap(), 0);
    }

    #[test]
    fn keys_of_the_first_schema_are_kept() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate_with(&mut c, Path::new("x"), &MIGRATIONS[..1]).unwrap();
        c.execute_batch(
            "INSERT INTO key VALUES ('ada', 'k9', '{\"number\":7}'), ('bob', 'k1', '{\"number\":3}')",
        )
        .unwrap();
        migrate(&mut c, Path::new("x")).unwrap();
        let mut keys = c.prepare("SELECT number, row FROM key ORDER BY number").unwrap();
        let keys = keys.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))).unwrap();
        let keys: Vec<_> = keys.map(Result::unwrap).collect();
        assert_eq!(keys, [(3, r#"{"number":3}"#.to_owned()), (7, r#"{"number":7}"#.to_owned())]);
    }

    #[test]
    fn a_newer_schema_is_left_alone_with_clear_words() {
        let mut c = Connection::open_in_memory().unwrap();
        migrate(&mut c, Path::new("x")).unwrap();
        c.pragma_update(None, "user_version", 99).unwrap();
        let words = migrate(&mut c, Path::new("x")).unwrap_err().to_string();
        assert!(words.contains("schema 99") && words.contains("newer pitstop"), "{words}");
        assert_eq!(version(&c), 99);
    }

    #[test]
    fn another_programs_database_is_not_touched() {
        let mut c = Connection::open_in_memory().unwrap();
        c.execute_batch("CREATE TABLE songs (title)").unwrap();
        assert!(matches!(migrate(&mut c, Path::new("x")), Err(StoreError::Foreign { .. })));
        assert_eq!(version(&c), 0);
    }
}
