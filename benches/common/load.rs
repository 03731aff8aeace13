//! Clients that reserve and release as fast as they are answered.

use anyhow::{Result, bail};
use pitstop_client::Client;
use pitstop_client::api::{CleanLevel, HoldKind, Release, ReservationState, Reserve, Want};
use pitstop_wire::MachineName;
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What all clients ask for: any machine, as it is, off.
pub fn ask(select: &str) -> Reserve {
    Reserve {
        select: Some(select.to_owned()),
        want: Some(Want::Bare),
        clean: Some(CleanLevel::Any),
        ..Reserve::default()
    }
}

/// The same, alive only while somebody beats.
pub fn session(select: &str, silence: u64) -> Reserve {
    Reserve { hold: Some(HoldKind::Session), silence: Some(silence), ..ask(select) }
}

/// Machines that clients have right now, to see that none is had twice.
#[derive(Clone, Default)]
pub struct Held {
    machines: Arc<Mutex<HashSet<MachineName>>>,
}

impl Held {
    fn take(&self, machine: &MachineName) -> Result<()> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        if !machines.insert(machine.clone()) {
            bail!("{machine} was given to two clients at once");
        }
        Ok(())
    }

    fn give(&self, machine: &MachineName) {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).remove(machine);
    }
}

/// What clients did in one round.
#[derive(Debug, Default)]
pub struct Round {
    /// Reservations that were granted and released.
    pub cycles: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// From asking to being granted, in ms.
    pub reserve_ms: Vec<f64>,
    /// From giving back to the answer, in ms.
    pub release_ms: Vec<f64>,
}

impl Round {
    /// Cycles per second.
    pub fn rate(&self) -> f64 {
        self.cycles as f64 / self.seconds
    }
}

/// Lets `clients` cycle for `time`, each on its own connection.
///
/// # Errors
/// A client was refused, or got a machine that another had.
pub async fn cycles(socket: &Path, clients: usize, time: Duration, claim: bool) -> Result<Round> {
    let held = Held::default();
    let ready: Vec<Client> = (0..clients).map(|_| Client::new(socket)).collect();
    for client in &ready {
        // Connected before the clock runs.
        client.whoami().await?;
    }
    let began = Instant::now();
    let until = began + time;
    let tasks: Vec<_> =
        ready.into_iter().map(|client| tokio::spawn(cycle(client, until, held.clone(), claim))).collect();
    let mut round = Round::default();
    for task in tasks {
        let one = task.await??;
        round.cycles += one.cycles;
        round.reserve_ms.extend(one.reserve_ms);
        round.release_ms.extend(one.release_ms);
    }
    round.seconds = began.elapsed().as_secs_f64();
    Ok(round)
}

async fn cycle(client: Client, until: Instant, held: Held, claim: bool) -> Result<Round> {
    let (ask, release) = (ask("kind=bench"), Release::default());
    let mut round = Round::default();
    while Instant::now() < until {
        let asked = Instant::now();
        let got = client.reserve(&ask, None).await?;
        round.reserve_ms.push(millis(asked));
        let [member] = &got.machines[..] else { bail!("{} has {} machines", got.id, got.machines.len()) };
        if got.state != ReservationState::Ready {
            bail!("{} is {}", got.id, got.state.word());
        }
        held.take(&member.machine)?;
        if claim {
            client.claim(&got.id).await?;
        }
        held.give(&member.machine);
        let given = Instant::now();
        let over = client.release(&got.id, &release, None).await?;
        round.release_ms.push(millis(given));
        if over.state != ReservationState::Ended {
            bail!("{} was released and is {}", over.id, over.state.word());
        }
        round.cycles += 1;
    }
    Ok(round)
}

/// Milliseconds since then.
pub fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
