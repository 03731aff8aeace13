//! The simulator: the real [`step`](crate::Lab::step) against a world that
//! lies, stalls, dies and comes back, in virtual time.
//!
//! One seed is one run. The world knows what is true (is the board on, whose
//! bytes are on the disk); the lab knows only what it is told. After every
//! step the invariants are checked against both; at the end faults stop,
//! clients leave, and everything must come to rest.

mod agents;
mod board;
mod clients;
mod daemon;
pub(crate) mod labs;
mod oracle;
mod restored;

pub use labs::plain as plain_machine;

use crate::fence::{Fence, Fences};
use crate::id::{Entropy, ReservationId};
use crate::inventory::model::Inventory;
use crate::time::LabTime;
use board::{Board, Happening};
use clients::Client;
use daemon::Daemon;
use pitstop_wire::MachineName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many machines.
    pub machines: usize,
    /// How many clients.
    pub clients: usize,
    /// How long clients come and faults happen, in simulated milliseconds.
    pub span: u64,
    /// A fence to take away.
    pub without: Option<Fence>,
    /// Keep a line per event.
    pub trace: bool,
}

impl Config {
    /// A small lab for two hours: most bugs are small.
    pub fn short(seed: u64) -> Self {
        Self { seed, machines: 2, clients: 3, span: 2 * 3_600_000, without: None, trace: false }
    }
}

/// What a run did and found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps of the core.
    pub steps: u64,
    /// Checks of invariants.
    pub checks: u64,
    /// Records committed.
    pub records: u64,
    /// Kills of the daemon.
    pub kills: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Machines handed over.
    pub handovers: u64,
    /// Simulated milliseconds.
    pub simulated: u64,
    /// The first thing that was wrong.
    pub violation: Option<String>,
    /// A line per event, where asked for.
    pub trace: Vec<String>,
}

impl Report {
    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.checks += other.checks;
        self.records += other.records;
        self.kills += other.kills;
        self.handovers += other.handovers;
        self.simulated += other.simulated;
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
    }
}

/// Runs one simulation.
pub fn run(config: &Config) -> Report {
    let mut sim = Sim::new(config);
    let end = LabTime(config.span);
    sim.run_until(end);
    sim.calm_down();
    // Long enough for every deadline, retry and limit there is, twice over,
    // with an admin who brings back what was quarantined.
    for hour in 1..=12 {
        sim.admin_acts();
        sim.run_until(end + hour * 3_600_000);
    }
    sim.check_end();
    sim.report.simulated = sim.now.0;
    sim.report
}

/// A world with a daemon in it.
pub(crate) struct Sim {
    config: Config,
    now: LabTime,
    rng: fastrand::Rng,
    queue: BTreeMap<(LabTime, u64), Happening>,
    sequence: u64,
    inventory: Arc<Inventory>,
    daemon: Daemon,
    boards: BTreeMap<MachineName, Board>,
    agents: Vec<agents::SimAgent>,
    clients: Vec<Client>,
    /// Who was told that he has a machine.
    holders: BTreeMap<MachineName, ReservationId>,
    /// No more faults.
    calm: bool,
    /// Happenings since time last moved: a deadline whose judgement leads
    /// nowhere would be judged for ever.
    spins: u32,
    report: Report,
}

impl Sim {
    fn new(config: &Config) -> Self {
        let inventory = Arc::new(labs::inventory(config.machines, config.seed));
        let fences = config.without.map_or_else(Fences::default, Fences::without);
        let boards = inventory.machines.values().map(|s| (s.name.clone(), Board::new(s))).collect();
        let mut sim = Self {
            config: config.clone(),
            now: LabTime(0),
            rng: fastrand::Rng::with_seed(config.seed),
            queue: BTreeMap::new(),
            sequence: 0,
            inventory,
            daemon: Daemon::new(fences),
            boards,
            agents: Vec::new(),
            clients: (0..config.clients).map(Client::new).collect(),
            holders: BTreeMap::new(),
            calm: false,
            spins: 0,
            report: Report::default(),
        };
        sim.at(0, Happening::Restart);
        for client in 0..config.clients {
            let first = sim.rng.u64(10..60_000);
            sim.at(first, Happening::Client(client));
        }
        sim
    }

    fn run_until(&mut self, end: LabTime) {
        while self.report.violation.is_none() {
            let event = self.queue.first_key_value().map(|(k, _)| k.0);
            let tick = self.daemon.lab.as_ref().and_then(|l| l.next_deadline());
            let next = match (event, tick) {
                (Some(e), Some(t)) => e.min(t),
                (Some(x), None) | (None, Some(x)) => x,
                (None, None) => break,
            };
            if next > end {
                self.now = end;
                return;
            }
            self.spins = if next > self.now { 0 } else { self.spins + 1 };
            if self.spins > 10_000 {
                let timers = self.daemon.lab.as_ref().map(|l| l.timers.first().cloned());
                return self.violation(format!("the daemon spins without time passing: {timers:?}"));
            }
            self.now = self.now.max(next);
            if event.is_some_and(|e| tick.is_none_or(|t| e <= t)) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
            } else {
                self.tick();
            }
        }
    }

    /// Schedules something in `ms`.
    fn at(&mut self, ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), happening);
    }

    /// Whether a fault of this kind happens now.
    fn fault(&mut self, kind: &'static str, one_in: u64) -> bool {
        let hit = !self.calm && self.rng.u64(0..one_in) == 0;
        if hit {
            *self.report.faults.entry(kind).or_default() += 1;
            self.note(|| format!("fault: {kind}"));
        }
        hit
    }

    fn entropy(&mut self) -> Entropy {
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        Entropy(bytes)
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.config.trace {
            let text = format!("{:>9}.{:03} {}", self.now.0 / 1_000, self.now.0 % 1_000, line());
            self.report.trace.push(text);
        }
    }

    fn violation(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        if self.report.violation.is_none() {
            self.report.violation = Some(format!("at {} ms: {text}", self.now.0));
        }
    }
}

#[cfg(test)]
mod tests;
