//! A database is damaged in one way, and that way is named.

use super::*;
use crate::store::sample::Sample;
use crate::store::{FILE, SqliteStore, Store, sleep};

/// A small lab's database, its daemon stopped.
fn lab(dir: &Path) -> PathBuf {
    let (mut store, mut sample) = (SqliteStore::open(dir).unwrap(), Sample::new());
    let mut commit = |batch| store.commit(&batch, &mut sleep).unwrap();
    commit(sample.start(2));
    let (batch, id) = sample.reserve("ada", "k1");
    commit(batch);
    commit(sample.reserve("bob", "k2").0);
    commit(sample.release("ada", id));
    dir.join(FILE)
}

/// What is found after this was done to the database.
fn after(sql: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = lab(dir.path());
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let checked = check(&path).unwrap();
    checked.findings.iter().map(|f| format!("{}: {}", f.about, f.what)).collect()
}

#[track_caller]
fn assert_named(sql: &str, words: &[&str]) {
    let found = after(sql);
    let named = found.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(named, "{sql}\n{words:?} is not in {found:#?}");
}

#[test]
fn a_lab_in_order_has_no_findings_and_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = lab(dir.path());
    let before = std::fs::read(&path).unwrap();
    let checked = check(&path).unwrap();
    assert_eq!(checked.findings, []);
    assert_eq!((checked.machines, checked.meta.epoch.0, checked.schema), (2, 1, schema::NEWEST));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [FILE, crate::store::mark::FILE], "no log, no lock");
}

#[test]
fn what_is_in_the_log_only_is_looked_at_too_and_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = (SqliteStore::open(dir.path()).unwrap(), Sample::new());
    store.commit(&sample.start(2), &mut sleep).unwrap();
    // As a killed daemon leaves it.
    let copy = tempfile::tempdir().unwrap();
    for name in [FILE.to_owned(), format!("{FILE}-wal")] {
        std::fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let log = copy.path().join(format!("{FILE}-wal"));
    let before = std::fs::read(&log).unwrap();
    let checked = check(&copy.path().join(FILE)).unwrap();
    assert_eq!((checked.findings, checked.machines), (vec![], 2));
    assert_eq!(std::fs::read(&log).unwrap(), before);
}

#[test]
fn damaged_rows_are_named() {
    assert_named(
        "UPDATE machine SET row = substr(row, 1, 40) WHERE name = 'm0'",
        &["machine m0", "makes no sense"],
    );
    assert_named("UPDATE machine SET name = 'm9' WHERE name = 'm1'", &["machine m9", "says it is m1"]);
    assert_named("UPDATE reservation SET row = '{}' WHERE id = 2", &["reservation 2", "makes no sense"]);
    assert_named("DELETE FROM machine WHERE name = 'm1'", &["machine m1", "it has no row"]);
    assert_named(
        "INSERT INTO machine SELECT 'm7', replace(row, '\"m1\"', '\"m7\"') FROM machine WHERE name = 'm1'",
        &["machine m7", "the history says that it is gone"],
    );
}

#[test]
fn rows_that_are_not_the_fold_of_the_history_are_named_with_the_place() {
    assert_named(
        "UPDATE machine SET row = json_set(row, '$.turns', 99) WHERE name = 'm0'",
        &["machine m0", "turns is 99", "the history says"],
    );
    assert_named("UPDATE meta SET reservations = 1", &["table meta", "reservations is 1"]);
    assert_named("DELETE FROM key", &["key ", "it has no row"]);
}

#[test]
fn gaps_and_damage_in_the_history_are_named() {
    assert_named("DELETE FROM record WHERE number = 3", &["record 3", "not there"]);
    assert_named("DELETE FROM record WHERE number < 4", &["records 1 to 3", "not there"]);
    assert_named("UPDATE record SET json = '?' WHERE number = 2", &["record 2", "makes no sense"]);
    assert_named("UPDATE record SET machine = 'm9' WHERE number = 2", &["record 2", "column machine"]);
    assert_named(
        "DELETE FROM record WHERE number = (SELECT max(number) FROM record)",
        &["table meta", "the newest record is"],
    );
    assert_named(
        "UPDATE record SET at = 0, json = json_set(json, '$.at', 0) WHERE number > 5",
        &["record 6", "lab time goes back"],
    );
}

#[test]
fn rows_that_contradict_each_other_are_named() {
    assert_named(
        "UPDATE reservation SET row = json_set(row, '$.members[0].machine', 'm9') WHERE id = 2",
        &["rows", "m1 is held by R-2, which does not know it"],
    );
    assert_named("UPDATE meta SET reservations = 1", &["reservation R-2", "the newest reservation is R-1"]);
    assert_named(
        "UPDATE machine SET row = json_set(row, '$.intents', 0)",
        &["machine m", "power command", "has given out 0"],
    );
    assert_named(
        "UPDATE key SET row = json_set(row, '$.key', 'k1', '$.owner', 'ada')",
        &["key ", "the same key of ada"],
    );
    assert_named("DELETE FROM meta", &["table meta", "cannot be read"]);
}

#[test]
fn a_page_that_was_written_over_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = lab(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 512].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let checked = check(&path).unwrap();
    assert!(checked.findings.iter().any(|f| f.what.contains("SQLite")), "{:?}", checked.findings);
    std::fs::write(
        &path,
        b"no database at all, but long enough to be looked at as one, or so one would think",
    )
    .unwrap();
    let checked = check(&path).unwrap();
    assert!(checked.findings.iter().any(|f| f.what.contains("not a database")), "{:?}", checked.findings);
}

#[test]
fn what_is_not_a_labs_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("songs.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE songs (title)").unwrap();
    assert!(check(&path).unwrap_err().to_string().contains("is not a database of pitstop"));
    assert!(check(&dir.path().join("none")).unwrap_err().to_string().contains("No such file"));
    let newer = lab(dir.path());
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(check(&newer).unwrap_err().to_string().contains("schema 99"));
}
