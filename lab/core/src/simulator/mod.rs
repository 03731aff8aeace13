//! The simulator: the real [`step`](crate::Lab::step) against a world that
//! lies, stalls, dies and comes back, in virtual time.
//!
//! One seed is one run, to the byte. The world knows what is true (is the
//! board on, whose bytes are on the disk); the lab knows only what it is told.
//! After every step the invariants are checked against both; at the end
//! faults stop, clients leave, and everything must come to rest.

mod admin;
mod agents;
mod board;
mod clients;
mod daemon;
mod dice;
pub(crate) mod labs;
mod oracle;
mod pairs;
mod power;
mod probe;
mod programs;
mod restored;
mod shrink;
mod trace;

pub use dice::Decision;
pub use labs::plain as plain_machine;
pub use pairs::Pairs;
pub use shrink::shrink;
pub use trace::{Entry, Header};

use crate::effect::Boot;
use crate::event::{Event, Fact};
use crate::fence::{Fence, Fences};
use crate::id::{Epoch, ReservationId};
use crate::inventory::model::{Circuit, Inventory, Policy};
use crate::lab::{Outcome, RowKey};
use crate::machine::Stage;
use board::Board;
use clients::Client;
use daemon::Daemon;
use dice::{Chance, Dice, Pick, Who};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentParams, ToAgent, Work};
use power::{Order, Trouble};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Keep an entry per event.
    pub trace: bool,
    /// Whether every event is put to every state that the run comes to, on a copy.
    pub probe: bool,
    /// What would happen by chance, and is not to.
    pub left_out: Vec<Decision>,
}

const HOUR: u64 = 3_600_000;

impl Config {
    /// A small lab for two hours: most bugs are small.
    pub fn short(seed: u64) -> Self {
        let machines = 2 + (seed % 3) as usize;
        let (without, trace, probe, left_out) = (None, false, false, Vec::new());
        Self { seed, machines, clients: machines + 1, span: 2 * HOUR, without, trace, probe, left_out }
    }

    /// A lab of 20 machines for a day.
    pub fn long(seed: u64) -> Self {
        Self { machines: 20, clients: 24, span: 24 * HOUR, ..Self::short(seed) }
    }
}

/// What a run did and found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps of the core.
    pub steps: u64,
    /// Checks of invariants.
    pub checks: u64,
    /// Checks that something came to its end in time.
    pub liveness_checks: u64,
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
    /// Which events met which states.
    pub pairs: Pairs,
    /// Which did on copies, see [`Config::probe`].
    pub probed: Pairs,
    /// The first thing that was wrong.
    pub violation: Option<String>,
    /// An entry per event, where asked for.
    pub trace: Vec<Entry>,
    /// What happened by chance, where a trace was asked for.
    pub happened: Vec<Decision>,
}

impl Report {
    /// Adds another run's figures.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.checks += other.checks;
        self.liveness_checks += other.liveness_checks;
        self.records += other.records;
        self.kills += other.kills;
        self.handovers += other.handovers;
        self.simulated += other.simulated;
        self.pairs.add(&other.pairs);
        self.probed.add(&other.probed);
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
    }
}

/// Runs one simulation.
pub fn run(config: &Config) -> Report {
    let mut sim = Sim::new(config);
    sim.run_until(config.span);
    sim.calm_down();
    // Long enough for every deadline, retry and limit there is, twice over,
    // with an admin who brings back what is out of use.
    for hour in 1..=12 {
        sim.put_all_back();
        sim.run_until(config.span + hour * HOUR);
    }
    sim.check_end();
    sim.report.simulated = sim.now;
    sim.report.faults = sim.dice.faults();
    sim.report.happened = sim.dice.happened.take().unwrap_or_default();
    sim.report
}

/// A world with a daemon in it.
pub(crate) struct Sim {
    config: Config,
    /// Milliseconds since the world began.
    now: u64,
    /// How far the wall clock was stepped, in milliseconds.
    wall_offset: i64,
    dice: Dice,
    draws: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    plans: Vec<labs::Plan>,
    policies: BTreeMap<String, Policy>,
    circuits: BTreeMap<String, Circuit>,
    /// The inventory as the admin wrote it last.
    file: Arc<Inventory>,
    /// The board behind every name there ever was.
    names: BTreeMap<MachineName, usize>,
    daemon: Daemon,
    /// Starts of daemons.
    starts: u64,
    boards: Vec<Board>,
    controllers: BTreeMap<usize, Trouble>,
    /// Images that cannot be read, and until when.
    corrupt: BTreeMap<String, u64>,
    agents: Vec<agents::SimAgent>,
    clients: Vec<Client>,
    /// Which client a reservation is.
    owners: BTreeMap<ReservationId, usize>,
    oracle: oracle::Oracle,
    /// Happenings since time last moved: a deadline whose judgement leads
    /// nowhere would be judged for ever.
    spins: u32,
    /// States that every event was put to, with an agent's session and without.
    probed: BTreeSet<(usize, bool)>,
    report: Report,
}

/// Something that is going to happen.
#[derive(Debug, Clone)]
enum Happening {
    /// The daemon starts.
    Restart,
    /// Its loop runs again, or its store takes commits.
    SilenceEnds(Epoch),
    /// A stopped daemon goes on.
    ZombieWakes,
    /// It is ended after all.
    ZombieEnds,
    /// A client acts, if this is the wake-up that counts.
    Client(usize, u64),
    /// The admin looks around.
    Admin,
    /// A check of wires goes on, for so many steps more.
    Check(MachineName, u32),
    /// The lane is about to command a leg.
    Command(Box<Order>),
    /// The hardware acts on a command.
    Land(Box<Order>),
    /// The runner reads a leg back.
    Judge(Box<Order>),
    /// A power runner is done.
    Fact(Epoch, Box<Fact>),
    /// A leg changes by itself, and so many times more.
    Flap { board: usize, times: u32 },
    /// The board's firmware asks what to boot.
    Firmware { board: usize, boot: u64, tries: u32 },
    /// The board finished its firmware.
    Booted { board: usize, boot: u64, what: Boot, params: Option<Box<AgentParams>> },
    /// The board's system falls over.
    Reboot { board: usize, boot: u64 },
    /// An agent dials.
    Hello(usize),
    /// A second agent with the same parameters.
    Twin(usize),
    /// An agent's process ends.
    AgentDies(usize),
    /// An agent hears something.
    Told(usize, u32, Box<ToAgent>),
    /// An agent finished a piece of work.
    Worked { agent: usize, step: u64, work: Box<Work> },
    /// An agent's health check ended.
    Checked(usize, Epoch, Box<Fact>),
    /// A hook boots its board.
    HookBoots { board: usize, run: u64 },
    /// A program comes to its end, or its time does.
    ProgramEnds { board: usize, run: u64 },
    /// One that was given up gets to its end after all.
    ProgramLands { board: usize, run: u64 },
    /// An agent sends what is not acknowledged.
    Send(usize),
    /// A message arrives.
    Late(Box<Event>),
}

impl Sim {
    fn new(config: &Config) -> Self {
        let mut dice = Dice::new(config.seed, &config.left_out, config.trace);
        let mut plans: Vec<labs::Plan> =
            (0..config.machines).filter_map(|n| labs::Plan::new(n, &mut dice)).collect();
        let policies = labs::policies(&mut dice);
        let circuits = labs::circuits(&mut plans, &mut dice);
        let file = Arc::new(labs::inventory(&plans, &policies, &circuits));
        let fences = config.without.map_or_else(Fences::default, Fences::without);
        let mut sim = Self {
            config: config.clone(),
            now: 0,
            wall_offset: 0,
            dice,
            draws: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            names: plans.iter().enumerate().map(|(n, p)| (p.name.clone(), n)).collect(),
            boards: plans.iter().enumerate().map(|(n, p)| Board::new(p.kind, n)).collect(),
            plans,
            policies,
            circuits,
            daemon: Daemon::new(fences, file.clone()),
            file,
            starts: 0,
            controllers: BTreeMap::new(),
            corrupt: BTreeMap::new(),
            agents: Vec::new(),
            clients: (0..config.clients).map(Client::new).collect(),
            owners: BTreeMap::new(),
            oracle: oracle::Oracle::default(),
            spins: 0,
            probed: BTreeSet::new(),
            report: Report::default(),
        };
        sim.at(0, Happening::Restart);
        sim.at(60_000, Happening::Admin);
        for client in 0..config.clients {
            let first = sim.dice.between(Who::client(client), Pick::Pause, 10, 60_000);
            sim.wake_client(client, first);
        }
        sim
    }

    fn run_until(&mut self, end: u64) {
        while self.report.violation.is_none() {
            let event = self.queue.first_key_value().map(|(k, _)| k.0);
            let tick = self.next_tick();
            let next = match (event, tick) {
                (Some(e), Some(t)) => e.min(t),
                (Some(x), None) | (None, Some(x)) => x,
                (None, None) => break,
            };
            if next > end {
                self.now = self.now.max(end);
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

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Restart => self.restart(),
            Happening::SilenceEnds(epoch) => self.silence_ends(epoch),
            Happening::ZombieWakes => self.zombie_wakes(),
            Happening::ZombieEnds => self.zombie_ends(),
            Happening::Client(client, wake) => self.client_acts(client, wake),
            Happening::Admin => self.admin_round(),
            Happening::Check(machine, left) => self.check_goes_on(machine, left),
            Happening::Command(order) => self.command(order),
            Happening::Land(order) => self.land(&order),
            Happening::Judge(order) => self.judge(order),
            Happening::Fact(epoch, fact) => self.fact(epoch, *fact),
            Happening::Flap { board, times } => self.flap(board, times),
            Happening::Firmware { board, boot, tries } => self.firmware(board, boot, tries),
            Happening::Booted { board, boot, what, params } => {
                self.booted(board, boot, what, params.map(|p| *p))
            }
            Happening::Reboot { board, boot } => self.reboot(board, boot),
            Happening::Hello(agent) => self.hello(agent),
            Happening::Twin(agent) => self.twin(agent),
            Happening::AgentDies(agent) => self.agent_dies(agent),
            Happening::Told(agent, session, message) => self.told(agent, session, *message),
            Happening::Worked { agent, step, work } => self.worked(agent, step, &work),
            Happening::Checked(agent, epoch, fact) => self.checked(agent, epoch, *fact),
            Happening::HookBoots { board, run } => self.hook_boots(board, run),
            Happening::ProgramEnds { board, run } => self.program_ends(board, run),
            Happening::ProgramLands { board, run } => self.program_lands(board, run),
            Happening::Send(agent) => self.send_again(agent),
            Happening::Late(event) => drop(self.route(*event)),
        }
    }

    /// Schedules something in `ms`.
    fn at(&mut self, ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), happening);
    }

    /// Whether this happens now, by chance.
    fn happens(&mut self, who: Who, chance: Chance) -> bool {
        let happens = self.dice.happens_at(who, chance, chance.odds());
        if happens && chance.is_fault() {
            self.note(|| format!("fault: {} ({who})", chance.name()));
        }
        happens
    }

    /// Rows changed for good: who is concerned notices.
    fn look_at_rows(&mut self, out: &Outcome) {
        for key in &out.touched {
            match key {
                RowKey::Machine(name) => {
                    let holder = match self.daemon.store.machine(name).map(|m| &m.stage) {
                        Some(Stage::InUse { reservation, .. }) => Some(*reservation),
                        _ => None,
                    };
                    if let Some(board) = self.names.get(name).copied() {
                        self.boards[board].held_by(name, holder);
                        self.forgotten(board);
                    }
                }
                RowKey::Reservation(id) => {
                    if let Some(row) = self.daemon.store.reservation(*id).cloned() {
                        self.reservation_changed(&row);
                    }
                }
                RowKey::Image(_) | RowKey::Key(_) => {}
            }
        }
    }

    /// Faults end; the daemon runs; what is broken stays broken.
    fn calm_down(&mut self) {
        self.dice.calm = true;
        self.note(|| "calm".into());
        self.controllers.clear();
        for leg in self.boards.iter_mut().flat_map(|b| &mut b.legs) {
            (leg.stuck_until, leg.dead_until) = (0, 0);
        }
        if self.daemon.lab.is_none() {
            self.restart();
        }
        for client in 0..self.clients.len() {
            self.wake_client(client, 1_000);
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.config.trace {
            let entry = Entry { at: self.now, what: line(), ..Entry::default() };
            self.report.trace.push(entry);
        }
    }

    fn log(&mut self, entry: Entry) {
        self.report.trace.push(entry);
    }

    fn violation(&mut self, text: String) {
        self.note(|| format!("VIOLATION: {text}"));
        if self.report.violation.is_none() {
            self.report.violation = Some(format!("at {} ms: {text}", self.now));
        }
    }
}

#[cfg(test)]
mod tests;
