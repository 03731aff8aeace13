//! A process that is killed loses nothing it acknowledged, and nothing half.

use super::sample::Sample;
use super::{RecordQuery, SqliteStore, Store, sleep};
use pitstop_core::Lab;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DIR: &str = "PITSTOP_DURABILITY_TEST_DIR";
const KILLS: u64 = 12;

#[test]
fn kill_9_loses_no_acknowledged_commit_and_tears_none() {
    // This test starts itself again as the process that gets killed.
    if let Some(dir) = std::env::var_os(DIR) {
        return commit_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut rng = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..KILLS {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = start_again(dir.path());
        let acknowledged = kill_after(&mut child, 3 + rng % 5, Duration::from_micros((rng >> 32) % 4_000));
        check(dir.path(), acknowledged, round);
    }
}

fn start_again(dir: &Path) -> Child {
    let name = "store::durability::kill_9_loses_no_acknowledged_commit_and_tears_none";
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The child: batches of several rows and records, each acknowledged by its
/// newest record's number. It ends by itself only if nobody kills it.
fn commit_for_ever(dir: &Path) {
    let mut store = SqliteStore::open(dir).unwrap();
    let mut sample = Sample::on(Lab::from_rows(store.load(&mut sleep).unwrap()));
    let mut out = std::io::stdout();
    let first = sample.start(4);
    store.commit(&first, &mut sleep).unwrap();
    for _ in 0..10_000 {
        let key = sample.lab.meta().records.to_string();
        let (batch, id) = sample.reserve("ada", &key);
        store.commit(&batch, &mut sleep).unwrap();
        writeln!(out, "ack {}", batch.meta.records).unwrap();
        let batch = sample.release("ada", id);
        store.commit(&batch, &mut sleep).unwrap();
        writeln!(out, "ack {}", batch.meta.records).unwrap();
    }
}

/// Kills the child a little after so many acknowledgements; answers with the
/// last one it managed to give.
fn kill_after(child: &mut Child, acks: u64, then: Duration) -> u64 {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        || lines.find_map(|line| line.unwrap().strip_prefix("ack ").map(|n| n.parse::<u64>().unwrap()));
    let mut last = 0;
    for _ in 0..acks {
        last = next().expect("the child commits");
    }
    let moment = Instant::now() + then;
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said before it died counts too.
    while let Some(ack) = next() {
        last = ack;
    }
    last
}

fn check(dir: &Path, acknowledged: u64, round: u64) {
    let mut store = SqliteStore::open(dir).unwrap();
    let rows = store.load(&mut sleep).unwrap();
    assert!(rows.meta.records >= acknowledged, "round {round}: {} of {acknowledged}", rows.meta.records);
    // Rows are the fold of the records, so a torn batch would differ.
    let mut records = Vec::new();
    loop {
        let after = records.len() as u64;
        let more = store.history().records(&RecordQuery::after(after)).unwrap();
        if more.is_empty() {
            break;
        }
        records.extend(more);
    }
    assert_eq!(records.last().map(|r| r.number), Some(rows.meta.records), "round {round}");
    assert_eq!(records.len() as u64, rows.meta.records, "round {round}: no gap");
    let folded = Lab::from_records(&records).rows();
    assert_eq!(folded, Lab::from_rows(rows).rows(), "round {round}");
}
