//! Durable reservations and releases per second over the wire, beside
//! labgrid's acquire and release, by turns in one run; and whether a daemon
//! that is killed in the middle of it keeps what it acknowledged.
//!
//! Started by `benches/allocation/run`.

#[path = "../common/mod.rs"]
mod common;
mod peer;
mod proof;
mod report;

use anyhow::Result;
use common::daemon::cpu_seconds;
use common::load::{Round, cycles};
use common::{Daemon, Figure, Place, place};
use peer::Peer;
use pitstop::store::sync_rate;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Machines, and labgrid's places.
const MACHINES: usize = 1_000;
/// Resources of each of labgrid's places: a console, power, a network service.
const RESOURCES: usize = 3;
/// Clients at the same time; the first is what the target is about.
const CLIENTS: [usize; 3] = [8, 1, 64];
/// Ended reservations and idempotency keys are remembered up to a number:
/// after so many cycles a daemon also forgets old ones at every commit.
const WARM_UP: u64 = 10_500;

/// What one number of clients reached.
pub struct Reached {
    /// How many.
    pub clients: usize,
    /// Ours.
    pub pitstop: Side,
    /// Theirs.
    pub labgrid: Side,
    /// The disk's synced writes per second, before every pair of rounds and
    /// after the last.
    pub disk: Figure,
}

/// Rounds of one of the two.
#[derive(Default)]
pub struct Side {
    /// Cycles per second.
    pub rate: Figure,
    /// From asking to being granted, in ms: the median of each round.
    pub reserve_ms: Figure,
    /// From giving back to the answer, in ms: the median of each round.
    pub release_ms: Figure,
    /// Processor time of the daemon or coordinator per cycle, in ms.
    pub cpu_ms: Figure,
}

impl Side {
    fn add(&mut self, round: &Round, cpu_seconds: f64) {
        self.rate.add(round.rate());
        self.reserve_ms.add(common::quantile(&round.reserve_ms, 0.5));
        self.release_ms.add(common::quantile(&round.release_ms, 0.5));
        self.cpu_ms.add(cpu_seconds * 1e3 / round.cycles.max(1) as f64);
    }
}

/// How long, and how often.
struct Plan {
    rounds: usize,
    round: Duration,
    warm_up: u64,
}

impl Plan {
    fn new() -> Self {
        if common::quick() {
            Self { rounds: 2, round: Duration::from_millis(500), warm_up: 500 }
        } else {
            Self { rounds: 5, round: Duration::from_secs(2), warm_up: WARM_UP }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let scratch = common::scratch()?;
    let place = Place::of(&scratch)?;
    let load_before = place::load()?;
    let plan = Plan::new();
    println!("{place}; load {load_before}");
    let mut daemon = Daemon::new(&scratch, MACHINES)?;
    let started = daemon.start()?;
    daemon.enrol(MACHINES).await?;
    println!("pitstop serves {MACHINES} machines {:.2} s after its start", started.as_secs_f64());
    let mut labgrid = Peer::start(&scratch, MACHINES, RESOURCES)?;
    println!("labgrid serves {MACHINES} places with {RESOURCES} resources each");
    warm_up(&daemon, plan.warm_up).await?;
    let mut all = Vec::new();
    for clients in CLIENTS {
        all.push(compare(&daemon, &mut labgrid, &scratch, clients, &plan).await?);
    }
    let claimed = with_claim(&daemon, &plan).await?;
    drop(labgrid);
    let proof = proof::crash(&mut daemon, MACHINES).await?;
    println!("{proof}");
    let loads = (load_before, place::load()?);
    let found = report::Found { place, loads, all, claimed, proof };
    println!("\n{found}");
    found.write(&PathBuf::from(std::env::var_os("PITSTOP_BENCH_RESULTS").unwrap_or_default()))
}

async fn warm_up(daemon: &Daemon, wanted: u64) -> Result<()> {
    let mut done = 0;
    while done < wanted {
        done += cycles(&daemon.socket(), 64, Duration::from_millis(500), false).await?.cycles;
    }
    println!("warmed up with {done} cycles");
    Ok(())
}

async fn compare(
    daemon: &Daemon,
    labgrid: &mut Peer,
    scratch: &Path,
    clients: usize,
    plan: &Plan,
) -> Result<Reached> {
    let mut reached =
        Reached { clients, pitstop: Side::default(), labgrid: Side::default(), disk: Figure::default() };
    let pid = daemon.pid()?;
    for number in 1..=plan.rounds {
        reached.disk.add(sync_rate(scratch)?);
        let before = cpu_seconds(pid)?;
        let ours = cycles(&daemon.socket(), clients, plan.round, false).await?;
        reached.pitstop.add(&ours, cpu_seconds(pid)? - before);
        let (theirs, cpu) = labgrid.cycles(clients, plan.round)?;
        reached.labgrid.add(&theirs, cpu);
        println!(
            "{clients:>2} clients, round {number}: pitstop {:.0}/s, labgrid {:.0}/s, disk {:.0} syncs/s",
            ours.rate(),
            theirs.rate(),
            reached.disk.values.last().copied().unwrap_or(f64::NAN),
        );
    }
    reached.disk.add(sync_rate(scratch)?);
    Ok(reached)
}

/// Reserve, claim, release: one more commit per cycle.
async fn with_claim(daemon: &Daemon, plan: &Plan) -> Result<Figure> {
    let mut rates = Figure::default();
    for _ in 0..plan.rounds {
        rates.add(cycles(&daemon.socket(), CLIENTS[0], plan.round, true).await?.rate());
    }
    Ok(rates)
}
