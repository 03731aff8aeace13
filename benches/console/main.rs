//! A lab's serial lines, all busy: pitstop beside conserver, ser2net and the
//! least that a server could do.
//!
//! Started by `benches/console/run`.

#[path = "../common/mod.rs"]
mod common;
mod records;
mod report;
mod servers;
mod usage;
mod watch;

use anyhow::{Context, Result, ensure};
use common::{Figure, Place, place};
use servers::{Kind, Program, Server};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use watch::{Book, Seen, look};

/// Time without a byte after which nothing more is expected.
const SILENCE_NS: u64 = 1_500_000_000;
/// The longest that is waited for what was said to arrive.
const DRAIN: Duration = Duration::from_secs(25);

/// What the lines say.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub name: &'static str,
    pub consoles: usize,
    /// Bytes per second and console.
    pub rate: u32,
    pub seconds: u32,
    /// Watchers of the first console that never read.
    pub hung: usize,
}

/// At 8n1 a byte takes ten bits.
const LOADS: [Load; 3] = [
    Load { name: "256 × 115200 baud", consoles: 256, rate: 11_520, seconds: 8, hung: 0 },
    Load { name: "64 × 921600 baud", consoles: 64, rate: 92_160, seconds: 8, hung: 0 },
    Load { name: "1 × 1 MB/s, 1 of 2 watchers hung", consoles: 1, rate: 1_000_000, seconds: 15, hung: 1 },
];

/// What came of a load with a server.
#[derive(Debug, Default)]
pub struct Found {
    /// Megabytes that the lines said.
    pub megabytes: f64,
    /// Records the lines had to drop, since nobody read them in time.
    pub overrun: u64,
    pub cpu_per_mb: Figure,
    /// MiB resident, before and after, and with what is shared in shares.
    pub resident_before: Figure,
    pub resident: Figure,
    pub shares: Figure,
    pub processes: usize,
    pub byte_p50: Figure,
    pub byte_p99: Figure,
    pub key_p50: Figure,
    pub keys_lost: u32,
    /// Bytes that did not reach the watchers, and the log.
    pub lost: u64,
    pub lost_log: Option<u64>,
    /// Records of another console, or twice.
    pub wrong: u64,
}

/// `CLOCK_MONOTONIC` in ns, as the records have it.
pub fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Watchers stay on this thread: it is one core's worth of them.
    tokio::task::LocalSet::new().run_until(run()).await
}

async fn run() -> Result<()> {
    let scratch = common::scratch()?;
    let place = Place::of(&scratch)?;
    let before = place::load()?;
    let rounds = if common::quick() { 1 } else { 3 };
    println!("{place}; load {before}");
    let mut tables = Vec::new();
    for load in LOADS {
        let mut rows: Vec<(Kind, Found)> = Kind::ALL.map(|kind| (kind, Found::default())).into();
        // By turns, so that a busy minute hits all of them.
        for round in 1..=rounds {
            for (kind, found) in &mut rows {
                eprintln!("{}, round {round}: {}", load.name, kind.name());
                let measured = measure(&scratch, *kind, load, found).await;
                measured.with_context(|| format!("{} with {}", load.name, kind.name()))?;
            }
        }
        tables.push((load, rows));
    }
    let report = report::Report { place, loads: (before, place::load()?), rounds, tables };
    println!("\n{report}");
    report.write(&PathBuf::from(std::env::var_os("PITSTOP_BENCH_RESULTS").unwrap_or_default()))?;
    report.judge()
}

/// One server under one load.
async fn measure(scratch: &Path, kind: Kind, mut load: Load, found: &mut Found) -> Result<()> {
    if common::quick() {
        load.seconds = 3;
        load.consoles = load.consoles.min(16);
    }
    // Paths of ports go into files of peers, and the shorter the better.
    let ports = tempfile::Builder::new().prefix("ports").tempdir()?;
    let args = ["source".into(), ports.path().display().to_string(), load.consoles.to_string()];
    let args = [&args[..], &[load.rate.to_string(), load.seconds.to_string()]].concat();
    let mut source = Program::start(&args).await?;
    let server = Server::start(kind, scratch, ports.path(), load.consoles).await?;
    let under_load = under_load(&server, &mut source, load, found).await;
    drop(source);
    server.stop().await?;
    under_load
}

async fn under_load(server: &Server, source: &mut Program, load: Load, found: &mut Found) -> Result<()> {
    let book = Book::new(Seen::of(load.consoles).into());
    let (keys, typed) = mpsc::channel(1);
    let mut tasks = Watching::default();
    let mut typed = Some(typed);
    for console in 0..load.consoles {
        let link = server.place.attach(console, console == 0).await?;
        tasks.0.push(tokio::task::spawn_local(watch::follow(console, link, book.clone(), typed.take())));
    }
    let mut hung = Vec::new();
    for _ in 0..load.hung {
        hung.push(server.place.attach(0, false).await?);
    }
    tokio::time::sleep(Duration::from_millis(700)).await; // what the attaching stirred up settles

    let processes = server.processes()?;
    found.resident_before.add(usage::memory(&processes).0);
    let cpu = usage::processor(&processes);
    source.go().await?;
    let probing = tokio::spawn(watch::probe(keys, book.clone()));
    let report = source.line().await?;
    probing.abort();
    arrive(&book).await;
    let cpu = usage::processor(&processes) - cpu;
    let (resident, shares) = usage::memory(&processes);
    drop(tasks);

    let mut words = report.split(' ').skip(1);
    found.overrun += words.next().context("no overrun")?.parse::<u64>()?;
    let sent: Vec<u32> = words.map(str::parse).collect::<std::result::Result<_, _>>()?;
    ensure!(sent.len() == load.consoles, "{report}");
    found.megabytes = sent.iter().map(|n| f64::from(*n)).sum::<f64>() * records::LEN as f64 / 1e6;
    found.cpu_per_mb.add(cpu / found.megabytes);
    found.resident.add(resident);
    found.shares.add(shares);
    found.processes = processes.len();
    look(&book, |seen| note(seen, &sent, found));
    for (console, sent) in sent.iter().enumerate() {
        if let Some(logged) = server.logged(console).await? {
            *found.lost_log.get_or_insert(0) += logged.lost(*sent);
            found.wrong += logged.wrong;
        }
    }
    Ok(())
}

fn note(seen: &Seen, sent: &[u32], found: &mut Found) {
    found.byte_p50.add(common::quantile(&seen.byte_ms, 0.5));
    found.byte_p99.add(common::quantile(&seen.byte_ms, 0.99));
    found.key_p50.add(common::quantile(&seen.key_ms, 0.5));
    found.keys_lost += seen.keys_lost;
    for (arrived, sent) in seen.consoles.iter().zip(sent) {
        found.lost += arrived.lost(*sent);
        found.wrong += arrived.wrong;
    }
}

/// Waits until nothing more arrives.
async fn arrive(book: &Book) {
    let deadline = tokio::time::Instant::now() + DRAIN;
    while tokio::time::Instant::now() < deadline && now() - look(book, |seen| seen.last) < SILENCE_NS {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The watchers' tasks, which end with this.
#[derive(Default)]
struct Watching(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
