//! Boards and their agents: hardware that mostly does as it is told.

use super::Sim;
use super::labs::IMAGES;
use crate::effect::{Boot, Effect};
use crate::event::{Answer, BootAnswer, Event, Fact, Request};
use crate::fence::Fence;
use crate::id::{Epoch, IntentId, ReservationId};
use crate::inventory::model::MachineSpec;
use crate::machine::{ImageRef, Reading, Stage, Switch};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{AgentParams, Work};
use std::collections::BTreeSet;

/// Size of every simulated disk in bytes.
pub(super) const DISK: u64 = 1 << 20;

/// Something that is going to happen.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// The daemon starts.
    Restart,
    /// A stopped daemon goes on.
    ZombieWakes,
    /// A client acts.
    Client(usize),
    /// The lane is about to command a leg.
    Command(Order),
    /// The hardware acts on a command.
    Land(Order),
    /// The runner reads a leg back.
    Judge(Order),
    /// A power runner is done.
    Fact(Epoch, Box<Fact>),
    /// The board finished its firmware.
    Booted { machine: MachineName, boot: u64, what: Boot, params: Option<AgentParams> },
    /// The board loses power and gets it back, or its system reboots.
    Reboot { machine: MachineName, boot: u64 },
    /// An agent dials.
    Hello(usize),
    /// A second agent with the same parameters.
    Twin(usize),
    /// An agent finished a piece of work.
    Worked { agent: usize, step: u64, work: Work },
    /// An agent sends what is not acknowledged.
    Send(usize),
    /// A message that was on its way for long.
    Late(Box<Event>),
}

/// A power command on its way.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub machine: MachineName,
    pub leg: usize,
    pub intent: IntentId,
    pub want: Switch,
    pub boot: Boot,
    pub params: Option<AgentParams>,
    pub epoch: Epoch,
    pub until: LabTime,
    /// The leg was seen to be otherwise before the command was sent.
    pub witnessed: bool,
}

/// What is true of a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct DiskTruth {
    /// What was last written whole: `Some(None)` is all zero.
    pub base: Option<Option<String>>,
    /// A write was begun and not finished.
    pub partial: bool,
    /// Somebody wrote to it since.
    pub touched: bool,
    /// Whose bytes are on it.
    pub tenants: BTreeSet<ReservationId>,
}

/// What is true of a board.
#[derive(Debug)]
pub(super) struct Board {
    pub legs: Vec<bool>,
    /// Legs whose state can be read.
    readable: Vec<bool>,
    /// When commands under way will land.
    pub inflight: Vec<LabTime>,
    pub boot: u64,
    /// It changed power by itself since the last command.
    pub flaked: bool,
    pub disks: Vec<DiskTruth>,
    pub seed: Option<AgentParams>,
    pub rejoin: Option<String>,
    last: Option<(Boot, Option<AgentParams>)>,
    /// Who was told that it is his.
    pub tenant: Option<ReservationId>,
}

impl Board {
    pub fn new(spec: &MachineSpec) -> Self {
        Self {
            legs: vec![false; spec.legs.len()],
            readable: spec.legs.iter().map(|l| l.readback).collect(),
            inflight: Vec::new(),
            boot: 0,
            flaked: false,
            disks: vec![DiskTruth::default(); spec.disks.len()],
            seed: None,
            rejoin: None,
            last: None,
            tenant: None,
        }
    }

    pub fn on(&self) -> bool {
        self.legs.iter().all(|l| *l)
    }

    /// The tenant's system runs and writes.
    pub fn tenant_writes(&mut self) {
        let Some(id) = self.tenant else { return };
        if self.on() {
            for disk in &mut self.disks {
                disk.tenants.insert(id);
                disk.touched = true;
            }
        }
    }
}

impl Sim {
    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Restart => self.restart(),
            Happening::ZombieWakes => self.zombie_wakes(),
            Happening::Client(client) => self.client_acts(client),
            Happening::Command(order) => self.command(order),
            Happening::Land(order) => self.land(&order),
            Happening::Judge(order) => self.judge(order),
            Happening::Fact(epoch, fact) => drop(self.deliver(Event::Fact { epoch, fact: *fact })),
            Happening::Booted { machine, boot, what, params } => self.booted(&machine, boot, what, params),
            Happening::Reboot { machine, boot } => self.reboot(&machine, boot),
            Happening::Hello(agent) => self.hello(agent),
            Happening::Twin(agent) => self.twin(agent),
            Happening::Worked { agent, step, work } => self.worked(agent, step, &work),
            Happening::Send(agent) => self.send(agent),
            Happening::Late(event) => drop(self.deliver(*event)),
        }
    }

    /// Effects that left the daemon.
    pub(super) fn perform(&mut self, effect: Effect, epoch: Epoch) {
        match effect {
            Effect::Power { machine, leg, intent, want, boot, until } => {
                let order =
                    Order { machine, leg, intent, want, boot, params: None, epoch, until, witnessed: true };
                // The lane switches one leg after the other.
                self.at(1 + 1_000 * leg as u64, Happening::Command(order));
            }
            Effect::Observe { machine, leg } => {
                let reading = self.read(&machine, leg);
                let fact = Box::new(Fact::Read { machine, leg, asked: self.now, reading });
                let delay = self.rng.u64(5..200);
                self.at(delay, Happening::Fact(epoch, fact));
            }
            Effect::Tell { machine, nonce, message } => self.tell(&machine, &nonce, message),
            Effect::Dismiss { machine, .. } => {
                for agent in self.agents.iter_mut().filter(|a| a.machine == machine) {
                    agent.connected = false;
                }
            }
        }
    }

    // ── power ──

    fn command(&mut self, mut order: Order) {
        if order.boot == Boot::Agent && order.want == Switch::On {
            let request = Event::BootRequest { machine: order.machine.clone(), lane: true };
            match self.deliver(request) {
                Some(Answer::Boot(BootAnswer::Agent(params))) => order.params = Some(params),
                Some(Answer::Boot(other)) => return self.report_power(&order, Err(format!("{other:?}"))),
                _ => return, // the daemon died: nothing leaves
            }
        }
        // Already so: nothing is sent that could act later. A command that
        // changes nothing seen cannot be seen to have landed either.
        let reading = self.read(&order.machine, order.leg);
        if reading.shows(order.want) {
            return self.report_power(&order, Ok(reading));
        }
        order.witnessed = reading != Reading::Unknown;
        let blind = !self.readable(&order.machine, order.leg);
        let within = order.until - self.now;
        // A command that nobody recorded is dangerous where it lands late:
        // without intents that is made likely, so that the lack is found soon.
        let lateness = if self.daemon_fence(Fence::IntentFirst) { 60 } else { 4 };
        if self.fault("power refused", 60) {
            if self.rng.bool() {
                let delay = self.rng.u64(1..within.max(2));
                self.fly(delay, order.clone());
            }
            return self.report_power(&order, Err("the device answered an error".into()));
        }
        // What is lost on a leg that nobody can read is never noticed: such
        // legs are for those who can rely on theirs.
        if !blind && self.fault("power lost", 60) {
            // Accepted, without effect.
        } else if self.fault("power late", lateness) {
            // As late as a controller may be by what the limit says of it.
            let linger = self.inventory.machines.get(&order.machine).map_or(2, |m| m.limits.power_ms);
            let delay = within + self.rng.u64(1..linger);
            self.fly(delay, order.clone());
        } else {
            let delay = self.rng.u64(20..800);
            self.fly(delay, order.clone());
        }
        if blind {
            let assumed = Reading::Assumed(order.want);
            return self.report_power(&order, Ok(assumed));
        }
        if !self.daemon_fence(Fence::ReadBack) {
            let reading = if order.want == Switch::On { Reading::On } else { Reading::Off };
            return self.report_power(&order, Ok(reading));
        }
        self.at(1_000, Happening::Judge(order));
    }

    fn daemon_fence(&self, fence: Fence) -> bool {
        self.config.without != Some(fence)
    }

    fn fly(&mut self, delay: u64, order: Order) {
        let at = self.now + delay;
        if let Some(board) = self.boards.get_mut(&order.machine) {
            board.inflight.push(at);
        }
        self.at(delay, Happening::Land(order));
    }

    fn judge(&mut self, order: Order) {
        let reading = self.read(&order.machine, order.leg);
        if reading.shows(order.want) || self.now >= order.until {
            return self.report_power(&order, Ok(reading));
        }
        self.at(1_000, Happening::Judge(order));
    }

    fn readable(&self, machine: &MachineName, leg: usize) -> bool {
        self.boards.get(machine).is_none_or(|b| b.readable.get(leg).copied().unwrap_or(true))
    }

    fn read(&mut self, machine: &MachineName, leg: usize) -> Reading {
        if !self.readable(machine, leg) || self.fault("power unreadable", 80) {
            return Reading::Unknown;
        }
        match self.boards.get(machine).and_then(|b| b.legs.get(leg)) {
            Some(true) => Reading::On,
            Some(false) => Reading::Off,
            None => Reading::Unknown,
        }
    }

    fn report_power(&mut self, order: &Order, result: Result<Reading, String>) {
        let fact = Box::new(Fact::Power {
            machine: order.machine.clone(),
            leg: order.leg,
            intent: order.intent,
            want: order.want,
            result,
            witnessed: order.witnessed,
        });
        self.at(2, Happening::Fact(order.epoch, fact));
    }

    fn land(&mut self, order: &Order) {
        self.settle_tenants();
        let now = self.now;
        let Some(board) = self.boards.get_mut(&order.machine) else { return };
        board.inflight.retain(|at| *at > now);
        board.flaked = false;
        let was = board.on();
        if let Some(leg) = board.legs.get_mut(order.leg) {
            *leg = order.want == Switch::On;
        }
        let on = board.on();
        if !on {
            board.tenant_writes_before_off(was);
        }
        if was && !on {
            self.stop_agents(&order.machine);
        }
        if !was && on {
            let (what, params) = match order.boot {
                Boot::AsIs => (Boot::Disk, None),
                what => (what, order.params.clone()),
            };
            self.power_up(&order.machine, what, params);
        }
    }

    fn power_up(&mut self, machine: &MachineName, what: Boot, params: Option<AgentParams>) {
        let Some(board) = self.boards.get_mut(machine) else { return };
        board.boot += 1;
        board.last = Some((what, params.clone()));
        if what == Boot::Agent {
            board.tenant = None; // his system does not run: ours does
        }
        board.tenant_writes();
        let boot = board.boot;
        if self.fault("never boots", 40) {
            return;
        }
        let delay = self.rng.u64(1_000..9_000);
        self.at(delay, Happening::Booted { machine: machine.clone(), boot, what, params });
        if self.fault("reboots by itself", 40) {
            let delay = self.rng.u64(1_000..120_000);
            self.at(delay, Happening::Reboot { machine: machine.clone(), boot });
        }
    }

    fn reboot(&mut self, machine: &MachineName, boot: u64) {
        let Some(board) = self.boards.get_mut(machine) else { return };
        if board.boot != boot || !board.on() {
            return;
        }
        let Some((what, params)) = board.last.clone() else { return };
        self.stop_agents(machine);
        self.power_up(machine, what, params);
    }

    fn stop_agents(&mut self, machine: &MachineName) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].machine == *machine && self.agents[agent].alive {
                self.agents[agent].alive = false;
                self.disconnect(agent);
            }
        }
    }

    pub(super) fn add_images(&mut self) {
        for name in IMAGES {
            let image = ImageRef { name: name.into(), digest: format!("b3:{name}"), seed: Some((0, 4096)) };
            let caller = super::clients::admin();
            self.deliver(Event::Request(caller, Request::NameImage { image, bytes: DISK }));
        }
    }

    /// Faults end; the daemon runs; what is broken stays broken.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.note(|| "calm".into());
        if self.daemon.lab.is_none() {
            self.restart();
        }
    }

    /// The tenant of a machine, as the world has it.
    pub(super) fn settle_tenants(&mut self) {
        let Some(lab) = &self.daemon.lab else { return };
        for (name, board) in &mut self.boards {
            let stage = lab.machine(name).map(|m| &m.stage);
            let holder = match stage {
                Some(Stage::InUse { reservation, .. }) => Some(*reservation),
                _ => None,
            };
            if holder.is_some() {
                board.tenant = holder;
            }
            board.tenant_writes();
            if !board.on() && holder.is_none() {
                board.tenant = None;
            }
        }
    }
}

impl Board {
    /// What ran until now could write until now.
    fn tenant_writes_before_off(&mut self, was_on: bool) {
        if let (Some(id), true) = (self.tenant, was_on) {
            for disk in &mut self.disks {
                disk.tenants.insert(id);
                disk.touched = true;
            }
        }
        self.tenant = None;
    }
}
