//! 200 agents beat, 50 clients reserve and release, and somebody else has the
//! database locked for ten seconds: nothing is lost, no agent is declared
//! dead, and soon after nobody notices any more.

use super::Shown;
use super::fleet::{Fleet, troubles};
use crate::book::{Ack, Book, Call};
use crate::interview;
use crate::judge::Judge;
use crate::load::say;
use pitstop::store::SqliteStore;
use pitstop_client::Client;
use pitstop_client::api::{CleanLevel, Reserve};
use pitstop_core::record::{Actor, Change};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const AGENTS: usize = 200;
const CLIENTS: usize = 50;
const BEFORE: Duration = Duration::from_secs(6);
const LOCKED: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(6);
/// Within so long all must be as it was.
const SOON: Duration = Duration::from_secs(2);
/// Latencies are compared by windows of this length.
const WINDOW: Duration = Duration::from_millis(250);

/// When a request began, and how long it took.
type Sample = (Instant, Duration);

/// Runs it.
pub fn run(runtime: &Arc<Runtime>, agents: Option<usize>) -> Result<Shown, String> {
    let agents = agents.unwrap_or(AGENTS);
    let mut fleet = Fleet::open(runtime, agents, CLIENTS)?;
    let from = fleet.newest()?;
    let (book, over) = (Arc::new(Book::default()), Arc::new(AtomicBool::new(false)));
    let samples = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| runtime.spawn(cycle(fleet.lab.path("sock"), n, book.clone(), over.clone(), samples.clone())))
        .collect();
    std::thread::sleep(BEFORE);
    let (locked, unlocked) = lock(&fleet)?;
    std::thread::sleep(AFTER);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        runtime.block_on(client).map_err(|e| format!("a client died: {e}"))?;
    }
    let mut shown = Shown::default();
    latencies(&mut shown, &samples.lock().unwrap_or_else(PoisonError::into_inner), locked, unlocked);
    machines(&mut shown, &fleet, from, runtime)?;
    shown.figure("agents", agents);
    shown.figure("clients", CLIENTS);
    answers(&mut shown, &mut fleet, &book, runtime);
    fleet.close();
    Ok(shown)
}

/// Another process's write lock, for as long as is promised to be borne.
fn lock(fleet: &Fleet) -> Result<(Instant, Instant), String> {
    let failed = |e: rusqlite::Error| format!("the database cannot be locked: {e}");
    let other = rusqlite::Connection::open(fleet.lab.data().join("lab.db")).map_err(failed)?;
    other.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    other.execute_batch("BEGIN EXCLUSIVE").map_err(failed)?;
    let locked = Instant::now();
    std::thread::sleep(LOCKED);
    other.execute_batch("COMMIT").map_err(failed)?;
    Ok((locked, Instant::now()))
}

async fn cycle(
    socket: std::path::PathBuf,
    n: usize,
    book: Arc<Book>,
    over: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
) {
    let client = Client::new(socket).with_patience(Duration::from_secs(60));
    let ask =
        Reserve { select: Some("kind=lease".to_owned()), clean: Some(CleanLevel::Any), ..Reserve::default() };
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        said += 1;
        let mut id = String::new();
        for (call, verb) in [(Call::Reserve(ask.clone()), "r"), (Call::Release, "e")] {
            let key = format!("l{n}-{said}{verb}");
            let began = Instant::now();
            book.asks(&key);
            match say(&client, &call, &id, Some(key.clone())).await {
                Ok(row) => id = row.map_or(id, |r| r.id),
                Err(e) => return book.violation(format!("{key}: {e}")),
            }
            book.acknowledged(Ack { key: Some(key), id: id.clone(), call });
            samples.lock().unwrap_or_else(PoisonError::into_inner).push((began, began.elapsed()));
        }
        // As busy as people are, and not as fast as it can be.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn latencies(shown: &mut Shown, samples: &[Sample], locked: Instant, unlocked: Instant) {
    let taken = |from: Instant, to: Instant| {
        let inside = samples.iter().filter(|(began, _)| *began >= from && *began < to);
        let mut ms: Vec<f64> = inside.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        ms
    };
    let at = |ms: &[f64], q: f64| ms.get((ms.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN);
    let round = |x: f64| (x * 10.0).round() / 10.0;
    let before = taken(locked - BEFORE + Duration::from_secs(1), locked - Duration::from_millis(500));
    shown.figure("before_ms_median", round(at(&before, 0.5)));
    shown.figure("before_ms_p99", round(at(&before, 0.99)));
    let during = taken(locked, unlocked);
    shown.figure("during_ms_max", round(during.last().copied().unwrap_or(f64::NAN)));
    let usual = at(&before, 0.5) * 2.0 + 5.0;
    let mut from = unlocked;
    while from < unlocked + AFTER {
        let window = taken(from, from + WINDOW);
        if window.len() >= 5 && at(&window, 0.5) <= usual {
            break;
        }
        from += WINDOW;
    }
    let normal = from.duration_since(unlocked);
    let after = taken(unlocked + SOON, unlocked + AFTER);
    shown.figure("after_2_s_ms_median", round(at(&after, 0.5)));
    shown.figure("after_2_s_ms_p99", round(at(&after, 0.99)));
    shown.figure("normal_again_after_ms", u64::try_from(normal.as_millis()).unwrap_or(u64::MAX));
    shown.demand(normal <= SOON, || format!("latency is normal again only after {normal:?}"));
    shown.demand(!before.is_empty() && !after.is_empty(), || "nobody was answered at all".to_owned());
}

fn machines(shown: &mut Shown, fleet: &Fleet, from: u64, runtime: &Arc<Runtime>) -> Result<(), String> {
    let records = fleet.records(from)?;
    let mine =
        |r: &pitstop_core::record::Record| r.change.machine().is_some_and(|m| m.as_str().starts_with('f'));
    let lost =
        records.iter().filter(|r| matches!(r.change, Change::AgentLost { .. }) && r.actor != Actor::Lab);
    let lost = lost.count();
    shown.figure("agents_declared_dead", lost);
    shown.demand(lost == 0, || format!("{lost} agents were declared dead"));
    let own: Vec<_> = records.into_iter().filter(mine).collect();
    shown.wrong.extend(troubles(&own));
    let (active, all) = (fleet.active(runtime)?, fleet.reservations.len());
    shown.demand(active == all, || format!("{active} of {all} machines are still in use"));
    Ok(())
}

/// Nothing is lost: by the dead database, and by the next daemon.
fn answers(shown: &mut Shown, fleet: &mut Fleet, book: &Book, runtime: &Arc<Runtime>) {
    let acks = book.acks_from(0);
    shown.figure("acknowledged_answers_checked", acks.len());
    fleet.lab.kill9();
    match SqliteStore::read_only(&fleet.lab.data()) {
        Err(e) => shown.wrong.push(e.to_string()),
        Ok(history) => {
            let mut judge = Judge::default();
            shown.wrong.extend(judge.read(&*history).err());
            shown.wrong.extend(judge.check(&*history, &acks, book));
        }
    }
    fleet.lab.start();
    shown.wrong.extend(runtime.block_on(interview::ask(&fleet.client, interview::newest(&acks, 400))));
    shown.wrong.extend(book.take_violations());
}
