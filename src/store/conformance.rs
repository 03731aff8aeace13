//! What every store does, and then what only a file can do.

use super::memory::MemoryStore;
use super::sample::{Sample, caller};
use super::{Batch, CommitError, RecordQuery, SqliteStore, Store, StoreError, sleep};
use pitstop_core::event::{Event, Request};
use pitstop_core::id::Epoch;
use pitstop_core::lab::{Row, RowKey, Rows};
use pitstop_core::machine::ImageRef;
use pitstop_wire::MachineName;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs a check on each kind of store; the function it gets opens the same
/// data again and again.
fn each(check: impl Fn(&dyn Fn() -> Box<dyn Store>)) {
    let memory = MemoryStore::default();
    check(&|| Box::new(memory.clone()));
    let dir = tempfile::tempdir().unwrap();
    check(&|| Box::new(SqliteStore::open(dir.path()).unwrap()));
}

fn commit(store: &mut dyn Store, batch: &Batch) {
    store.commit(batch, &mut sleep).unwrap();
}

fn sorted(mut rows: Rows) -> Rows {
    rows.rows.sort_by_key(|row| match row {
        Row::Machine(m) => format!("1{}", m.name),
        Row::Reservation(r) => format!("2{:9}", r.id.0),
        Row::Image(i) => format!("3{}", i.image.name),
        Row::Key(k) => format!("4{} {}", k.owner, k.key),
    });
    rows
}

#[test]
fn what_was_committed_is_what_is_loaded() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        commit(&mut *store, &sample.start(3));
        let (batch, id) = sample.reserve("ada", "k1");
        commit(&mut *store, &batch);
        commit(&mut *store, &sample.release("ada", id));
        drop(store);
        let loaded = open().load(&mut sleep).unwrap();
        assert!(loaded.rows.len() >= 5, "machines, a reservation and a key: {loaded:?}");
        assert_eq!(sorted(loaded), sorted(sample.lab.rows()));
    });
}

#[test]
fn a_removed_row_does_not_come_back() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        commit(&mut *store, &sample.start(2));
        // The inventory shrinks: the machine is retired and forgotten.
        let batch = sample.start(1);
        assert_eq!(batch.removes.len(), 1, "{batch:?}");
        commit(&mut *store, &batch);
        drop(store);
        assert_eq!(sorted(open().load(&mut sleep).unwrap()), sorted(sample.lab.rows()));
    });
}

#[test]
fn a_row_of_some_kind_is_not_stored_or_not_removed() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        commit(&mut *store, &sample.start(1));
        let image = ImageRef { name: "debian".into(), digest: "b3:debian".into(), seed: None };
        let added = Event::Request(caller("ada", None), Request::NameImage { image, bytes: 1 << 20 });
        commit(&mut *store, &sample.step(added).0);
        let (batch, id) = sample.reserve("ada", "k1");
        commit(&mut *store, &batch);
        let kinds = |rows: &Rows| rows.rows.iter().map(Row::key).collect::<BTreeSet<_>>();
        let all = kinds(&store.load(&mut sleep).unwrap());
        let (image, reservation) = (RowKey::Image("debian".into()), RowKey::Reservation(id));
        let key = all.iter().find(|k| matches!(k, RowKey::Key(_))).expect("no key was stored").clone();
        let removed = [image, reservation, key, RowKey::Machine(MachineName::new("m0").unwrap())];
        assert!(removed.iter().all(|key| all.contains(key)), "{all:?}");

        let mut batch = sample.release("ada", id);
        batch.upserts.clear();
        batch.removes.extend(removed);
        commit(&mut *store, &batch);
        drop(store);
        assert_eq!(open().load(&mut sleep).unwrap().rows, [], "of {all:?}");
    });
}

#[test]
fn a_superseded_daemon_writes_nothing() {
    each(|open| {
        let (mut old, mut sample) = (open(), Sample::new());
        commit(&mut *old, &sample.start(1));
        let mut new = open();
        let mut other = Sample::on(pitstop_core::Lab::from_rows(new.load(&mut sleep).unwrap()));
        commit(&mut *new, &other.start(1));
        let (late, _) = sample.reserve("ada", "k1");
        let error = old.commit(&late, &mut sleep).unwrap_err();
        assert!(matches!(error, CommitError::Superseded { by: Epoch(2), ours: Epoch(1) }), "{error}");
        assert_eq!(sorted(new.load(&mut sleep).unwrap()), sorted(other.lab.rows()));
    });
}

#[test]
fn a_batch_that_skips_or_repeats_records_is_refused_whole() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        commit(&mut *store, &sample.start(1));
        let (first, _) = sample.reserve("ada", "k1");
        let (second, _) = sample.reserve("ada", "k2");
        let skipped = store.commit(&second, &mut sleep).unwrap_err();
        assert!(matches!(skipped, CommitError::Refused(StoreError::OutOfStep { .. })), "{skipped}");
        commit(&mut *store, &first);
        let repeated = store.commit(&first, &mut sleep).unwrap_err();
        assert!(matches!(repeated, CommitError::Refused(StoreError::OutOfStep { .. })), "{repeated}");
        commit(&mut *store, &second);
        assert_eq!(sorted(store.load(&mut sleep).unwrap()), sorted(sample.lab.rows()));
    });
}

#[test]
fn history_is_found_by_range_machine_and_reservation() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        let mut all = Vec::new();
        let mut put = |batch: Batch| {
            commit(&mut *store, &batch);
            all.extend(batch.records);
        };
        put(sample.start(2));
        let (batch, id) = sample.reserve("ada", "k1");
        put(batch);
        put(sample.reserve("bob", "k2").0);
        put(sample.release("ada", id));

        let history = store.history();
        let find = |query: RecordQuery| history.records(&query).unwrap();
        assert_eq!(find(RecordQuery::default()), all);
        assert_eq!(find(RecordQuery::newest(3)), all[all.len() - 3..]);
        assert_eq!(find(RecordQuery::after(2)), all[2..]);
        assert_eq!(find(RecordQuery { before: Some(4), limit: Some(2), ..Default::default() }), all[..2]);
        let late = all[all.len() - 1].wall;
        let since = find(RecordQuery { since: Some(late), ..Default::default() });
        assert!(!since.is_empty() && since.iter().all(|r| r.wall == late));

        let m0 = MachineName::new("m0").unwrap();
        let of_machine = find(RecordQuery::default().machine(m0.clone()));
        let expected: Vec<_> = all.iter().filter(|r| r.change.machine() == Some(&m0)).cloned().collect();
        assert!(!expected.is_empty());
        assert_eq!(of_machine, expected);
        let of_both = find(RecordQuery::default().machine(m0.clone()).reservation(id));
        assert!(!of_both.is_empty() && of_both.len() < expected.len());
        assert!(
            of_both.iter().all(|r| r.change.machine() == Some(&m0) && r.change.reservation() == Some(id))
        );
    });
}

#[test]
fn rows_and_their_newest_record_are_of_the_same_moment() {
    each(|open| {
        let (mut store, mut sample) = (open(), Sample::new());
        commit(&mut *store, &sample.start(1));
        let rows = store.history().rows().unwrap();
        let newest = store.history().records(&RecordQuery::newest(1)).unwrap();
        assert_eq!(rows.meta.records, newest[0].number);
    });
}

// What only a file can do.

fn opened(dir: &Path) -> (SqliteStore, Sample) {
    let (mut store, mut sample) = (SqliteStore::open(dir).unwrap(), Sample::new());
    commit(&mut store, &sample.start(1));
    (store, sample)
}

#[test]
fn nobody_else_can_read_the_database() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("data");
    let (_store, _) = opened(&dir);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn a_store_keeps_its_name_and_two_have_different_ones() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let id = |dir: &Path| SqliteStore::open(dir).unwrap().history().store_id().to_owned();
    assert_eq!(id(a.path()), id(a.path()));
    assert_ne!(id(a.path()), id(b.path()));
}

#[test]
fn a_damaged_row_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(dir.path());
    store.execute("UPDATE machine SET row = substr(row, 1, 40) WHERE name = 'm0'");
    let words = store.load(&mut sleep).unwrap_err().to_string();
    assert!(words.contains("row m0 of table machine") && words.contains("lab.db"), "{words}");
}

#[test]
fn a_daemon_leads_from_a_file_of_which_pages_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    for n in 0..200 {
        let (batch, id) = sample.reserve("ada", &format!("k{n}"));
        commit(&mut store, &batch);
        commit(&mut store, &sample.release("ada", id));
    }
    drop(store);
    let file = dir.path().join(super::FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 8192].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let error = SqliteStore::open(dir.path()).err().expect("it was opened");
    assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
    assert!(error.to_string().contains("pitstop admin restore"), "{error}");
}

#[test]
fn a_row_under_another_rows_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(dir.path());
    store.execute("UPDATE machine SET name = 'm9'");
    let words = store.load(&mut sleep).unwrap_err().to_string();
    assert!(words.contains("row m9 of table machine") && words.contains("it says it is m0"), "{words}");
}

#[test]
fn a_locked_database_is_waited_for_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    let other = rusqlite::Connection::open(dir.path().join("lab.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waited = std::time::Duration::ZERO;
    let (batch, _) = sample.reserve("ada", "k1");
    store
        .commit(&batch, &mut |pause| {
            waited += pause;
            if waited >= std::time::Duration::from_secs(10) && !other.is_autocommit() {
                other.execute_batch("COMMIT").unwrap();
            }
        })
        .unwrap();
    assert!(waited >= std::time::Duration::from_secs(10));
    assert_eq!(sorted(store.load(&mut sleep).unwrap()), sorted(sample.lab.rows()));
}

#[test]
fn a_database_locked_for_ever_is_given_up_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    let other = rusqlite::Connection::open(dir.path().join("lab.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.commit(&sample.reserve("ada", "k1").0, &mut |_| {}).unwrap_err();
    assert!(matches!(error, CommitError::Refused(StoreError::Locked { .. })), "{error}");
    assert!(error.to_string().contains("fuser"), "{error}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    let before = sorted(sample.lab.rows());
    store.limit_pages(store.pages());
    let mut batch = sample.reserve("ada", "k1").0;
    // More than any page has room for.
    if let pitstop_core::record::Change::Queued { ask, .. } = &mut batch.records[0].change {
        ask.reason = Some("x".repeat(100_000));
    }
    let error = store.commit(&batch, &mut sleep).unwrap_err();
    assert!(matches!(error, CommitError::Refused(StoreError::Full { .. })), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(sorted(store.load(&mut sleep).unwrap()), before);
    store.limit_pages(1_000_000);
    commit(&mut store, &batch);
    assert_eq!(sorted(store.load(&mut sleep).unwrap()), sorted(sample.lab.rows()));
}

#[test]
fn readers_do_not_wait_for_a_commit_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    let before = sorted(sample.lab.rows());
    let history = store.history();
    let other = rusqlite::Connection::open(dir.path().join("lab.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut seen = None;
    let (batch, _) = sample.reserve("ada", "k1");
    store
        .commit(&batch, &mut |_| {
            seen.get_or_insert_with(|| {
                let rows = history.rows().unwrap();
                other.execute_batch("COMMIT").unwrap();
                rows
            });
        })
        .unwrap();
    assert_eq!(sorted(seen.unwrap()), before);
}

#[test]
fn what_a_failed_commit_left_is_settled_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut sample) = opened(dir.path());
    store.doubt();
    commit(&mut store, &sample.reserve("ada", "k1").0);
    let log = dir.path().join("lab.db-wal");
    store.doubt();
    store.load(&mut sleep).unwrap();
    assert_eq!(std::fs::metadata(log).unwrap().len(), 0, "the log was copied into the database");
    assert_eq!(sorted(store.load(&mut sleep).unwrap()), sorted(sample.lab.rows()));
}

#[test]
fn whoever_only_reads_makes_nothing_and_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    assert!(SqliteStore::read_only(dir.path()).is_err(), "there is nothing to read");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a database was made");
    let (mut store, mut sample) = (SqliteStore::open(dir.path()).unwrap(), Sample::new());
    commit(&mut store, &sample.start(2));
    let history = SqliteStore::read_only(dir.path()).unwrap();
    assert_eq!(history.store_id(), store.history().store_id());
    commit(&mut store, &sample.reserve("ada", "k1").0);
    assert_eq!(sorted(history.rows().unwrap()), sorted(sample.lab.rows()));
    let newest = history.records(&RecordQuery::newest(1)).unwrap();
    assert_eq!(newest.last().map(|r| r.number), Some(sample.lab.meta().records));
}
