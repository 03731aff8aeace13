//! Kills the daemon while clients are at work, starts it again, and compares
//! what it has with what it had acknowledged.

use crate::common::Daemon;
use crate::common::load::ask;
use anyhow::{Context, Result, anyhow, bail, ensure};
use pitstop_client::Client;
use pitstop_client::api::{Release, Reservation, ReservationState};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Clients that work when it is killed.
const CLIENTS: usize = 8;
/// Cycles before that. Fewer than ended reservations are remembered, so that
/// each can be looked at.
const CYCLES: u64 = 600;

/// What was found.
pub struct Proof {
    acknowledged: usize,
    ended: usize,
    in_flight: usize,
    in_flight_done: usize,
}

impl Proof {
    /// For machines.
    pub fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged, "acknowledged_ended": self.ended,
            "in_flight": self.in_flight, "in_flight_done": self.in_flight_done, "lost": 0,
        })
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, ended, in_flight, in_flight_done } = self;
        write!(
            f,
            "kill -9 under load: all {acknowledged} acknowledged reservations are there, the {ended} released \
             ones ended; of {in_flight} requests in flight {in_flight_done} were done, and none twice"
        )
    }
}

/// What one client knows when the connection breaks.
#[derive(Default)]
struct Knows {
    /// Every reservation it was told of, and whether its release was
    /// acknowledged.
    told: Vec<(Reservation, bool)>,
    /// Key of the reservation it asked for and heard nothing of.
    asked: Option<String>,
}

/// Works, kills, starts, compares.
///
/// # Errors
/// Anything acknowledged is missing, or anything is there that is not owed to
/// a request.
pub async fn crash(daemon: &mut Daemon, machines: usize) -> Result<Proof> {
    let before = daemon.client().reservations(true).await?.reservations;
    let before: BTreeSet<String> = before.into_iter().map(|r| r.id).collect();
    let all = work_until_killed(daemon).await?;
    daemon.start()?;
    let client = daemon.client();
    let rows = client.reservations(true).await?.reservations;
    let rows: BTreeMap<String, Reservation> = rows.into_iter().map(|r| (r.id.clone(), r)).collect();
    let (mut told, mut in_flight, mut in_flight_done) = (BTreeMap::new(), 0, 0);
    for knows in &all {
        in_flight += 1; // each was stopped by a request that was not answered
        for (reservation, released) in &knows.told {
            in_flight_done += usize::from(check_told(&rows, reservation, *released)?);
            ensure!(
                told.insert(reservation.id.clone(), *released).is_none(),
                "{} was told twice",
                reservation.id
            );
        }
    }
    let unasked: Vec<&String> =
        rows.keys().filter(|id| !told.contains_key(*id) && !before.contains(*id)).collect();
    in_flight_done += unasked.len();
    check_machines(&client, &rows, machines).await?;
    check_keys(&client, &all, &unasked).await?;
    let ended = told.values().filter(|released| **released).count();
    Ok(Proof { acknowledged: told.len(), ended, in_flight, in_flight_done })
}

async fn work_until_killed(daemon: &mut Daemon) -> Result<Vec<Knows>> {
    let local = tokio::task::LocalSet::new();
    let enough = Rc::new(tokio::sync::Notify::new());
    let cycles = Rc::new(Cell::new(0));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            // No second try: what happens to each request is to be known.
            let client = daemon.client().with_patience(Duration::ZERO);
            local.spawn_local(work(client, Rc::clone(&cycles), Rc::clone(&enough)))
        })
        .collect();
    local.run_until(enough.notified()).await;
    // From another thread, so that requests go on until it happens.
    let pid = daemon.pid()?;
    let killer = std::thread::spawn(move || kill_soon(pid));
    let mut all = Vec::new();
    for task in tasks {
        all.push(local.run_until(task).await??);
    }
    killer.join().map_err(|_| anyhow!("the killer died"))??;
    daemon.kill9()?; // it is dead; this waits for it
    Ok(all)
}

fn kill_soon(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such process id")?;
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_micros();
    std::thread::sleep(Duration::from_micros(1_000 + u64::from(micros % 10_000)));
    Ok(kill_process(pid, Signal::KILL)?)
}

async fn work(client: Client, cycles: Rc<Cell<u64>>, enough: Rc<tokio::sync::Notify>) -> Result<Knows> {
    let (ask, release) = (ask("kind=bench"), Release::default());
    let mut knows = Knows::default();
    loop {
        let key = pitstop_client::new_key()?;
        let Ok(got) = client.reserve(&ask, Some(key.clone())).await else {
            knows.asked = Some(key);
            return Ok(knows);
        };
        let id = got.id.clone();
        knows.told.push((got, false));
        if client.release(&id, &release, None).await.is_err() {
            return Ok(knows);
        }
        knows.told.last_mut().into_iter().for_each(|told| told.1 = true);
        cycles.set(cycles.get() + 1);
        if cycles.get() >= CYCLES {
            enough.notify_one();
        }
    }
}

/// Answers whether a release that was not acknowledged was done.
fn check_told(rows: &BTreeMap<String, Reservation>, told: &Reservation, released: bool) -> Result<bool> {
    let Some(row) = rows.get(&told.id) else { bail!("{} was acknowledged and is lost", told.id) };
    ensure!(row.machines == told.machines, "{} has other machines than it was told", told.id);
    match (row.state, released) {
        (ReservationState::Ended, _) => Ok(!released),
        (ReservationState::Ready, false) => Ok(false),
        (state, _) => bail!("{} is {} (its release acknowledged: {released})", told.id, state.word()),
    }
}

/// Machines are held by reservations that are there, and by nothing else.
async fn check_machines(
    client: &Client,
    rows: &BTreeMap<String, Reservation>,
    machines: usize,
) -> Result<()> {
    let live: Vec<&Reservation> = rows.values().filter(|r| r.state != ReservationState::Ended).collect();
    let held: BTreeSet<_> = live.iter().flat_map(|r| r.machines.iter().map(|m| m.machine.clone())).collect();
    ensure!(held.len() == live.len(), "a machine is held twice");
    let list = client.machines("").await?.machines;
    ensure!(list.len() == machines, "{} machines of {machines}", list.len());
    for machine in list {
        let holder = machine.holder.as_ref().map(|h| &h.reservation);
        let owed = live.iter().find(|r| r.machines.iter().any(|m| m.machine == machine.name)).map(|r| &r.id);
        ensure!(holder == owed, "{} is held by {holder:?} and owed to {owed:?}", machine.name);
    }
    Ok(())
}

/// A reservation nobody was told of is found again with its key, and asking
/// again makes no second one of it.
async fn check_keys(client: &Client, all: &[Knows], unasked: &[&String]) -> Result<()> {
    let mut found = BTreeSet::new();
    for key in all.iter().filter_map(|knows| knows.asked.clone()) {
        found.insert(client.reserve(&ask("kind=bench"), Some(key)).await?.id);
    }
    for id in unasked {
        ensure!(found.contains(*id), "{id} is there, and nobody asked for it");
    }
    for row in client.reservations(false).await?.reservations {
        client.release(&row.id, &Release::default(), None).await?;
    }
    let left = client.status().await?.counts;
    ensure!(left.free == left.machines, "{} of {} machines are free in the end", left.free, left.machines);
    Ok(())
}
