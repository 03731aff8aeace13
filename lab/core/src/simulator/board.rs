//! Boards and their agents: hardware that mostly does as it is told.

use super::Sim;
use super::labs::IMAGES;
use crate::effect::{Boot, Effect};
use crate::event::{Answer, BootAnswer, Event, Fact, Report, Request};
use crate::fence::Fence;
use crate::id::{Epoch, IntentId, ReservationId, SecretHash};
use crate::inventory::model::MachineSpec;
use crate::machine::{ImageRef, Reading, Stage, Switch};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, Hardware, Hello, ImageMode, Outcome, Secret, SeenDisk, ToAgent,
    Welcome, Work,
};
use std::collections::{BTreeMap, BTreeSet};

/// Size of every simulated disk in bytes.
const DISK: u64 = 1 << 20;

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
    legs: Vec<bool>,
    /// When commands under way will land.
    pub inflight: Vec<LabTime>,
    boot: u64,
    /// It changed power by itself since the last command.
    pub flaked: bool,
    pub disks: Vec<DiskTruth>,
    seed: Option<AgentParams>,
    rejoin: Option<String>,
    last: Option<(Boot, Option<AgentParams>)>,
    /// Who was told that it is his.
    pub tenant: Option<ReservationId>,
}

impl Board {
    pub fn new(spec: &MachineSpec) -> Self {
        Self {
            legs: vec![false; spec.legs.len()],
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

/// An agent process on a board.
#[derive(Debug)]
pub(super) struct SimAgent {
    machine: MachineName,
    kind: AgentKind,
    params: AgentParams,
    boot_id: String,
    key: String,
    pub alive: bool,
    attached: bool,
    pub connected: bool,
    doing: Option<u64>,
    results: BTreeMap<u64, Outcome>,
    sending: bool,
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
            Effect::Power { machine, leg, intent, want, boot, within } => {
                let until = self.now + within;
                let order =
                    Order { machine, leg, intent, want, boot, params: None, epoch, until, witnessed: true };
                self.at(1, Happening::Command(order));
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
        let within = order.until - self.now;
        if self.fault("power refused", 60) {
            if self.rng.bool() {
                let delay = self.rng.u64(1..within.max(2));
                self.fly(delay, order.clone());
            }
            return self.report_power(&order, Err("the device answered an error".into()));
        }
        if self.fault("power lost", 60) {
            // Accepted, without effect.
        } else if self.fault("power late", 60) {
            let delay = within + self.rng.u64(1..within.max(2));
            self.fly(delay, order.clone());
        } else {
            let delay = self.rng.u64(20..800);
            self.fly(delay, order.clone());
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

    fn read(&mut self, machine: &MachineName, leg: usize) -> Reading {
        if self.fault("power unreadable", 80) {
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

    // ── boot and agents ──

    fn booted(&mut self, machine: &MachineName, boot: u64, what: Boot, params: Option<AgentParams>) {
        let Some(board) = self.boards.get_mut(machine) else { return };
        if board.boot != boot || !board.on() {
            return;
        }
        let (kind, params) = match what {
            Boot::Agent => (AgentKind::Boot, params),
            Boot::Disk | Boot::AsIs => {
                let whole =
                    board.disks.first().is_some_and(|d| !d.partial && matches!(d.base, Some(Some(_))));
                if let Some(disk) = board.disks.first_mut() {
                    disk.touched |= whole;
                }
                let seed = board.seed.clone().filter(|_| whole).map(|mut seed| {
                    if let Some(rejoin) = &board.rejoin {
                        seed.token = Secret(rejoin.clone());
                    }
                    seed
                });
                (AgentKind::Host, seed)
            }
        };
        let Some(params) = params else { return };
        if self.fault("agent silent", 40) {
            return;
        }
        let boot_id = format!("{machine}-{boot}");
        let key = format!("key-{boot_id}-{}", self.rng.u64(..));
        self.agents.push(SimAgent {
            machine: machine.clone(),
            kind,
            params,
            boot_id,
            key,
            alive: true,
            attached: false,
            connected: false,
            doing: None,
            results: BTreeMap::new(),
            sending: false,
        });
        let agent = self.agents.len() - 1;
        let delay =
            if self.fault("agent late", 40) { self.rng.u64(20_000..900_000) } else { self.rng.u64(10..500) };
        self.at(delay, Happening::Hello(agent));
        if self.fault("agent twice", 40) {
            let delay = delay + self.rng.u64(0..5_000);
            self.at(delay, Happening::Twin(agent));
        }
    }

    fn hello(&mut self, id: usize) {
        let agent = &self.agents[id];
        if !agent.alive || agent.connected {
            return;
        }
        let (machine, nonce) = (agent.machine.clone(), agent.params.nonce.clone());
        let (boot_id, version) = (agent.boot_id.clone(), "sim".to_owned());
        let resume = agent.attached;
        let hello = if resume {
            let key = Secret(agent.key.clone());
            Hello::Resume { protocol: (1, 1), version, machine, nonce, boot_id, key }
        } else {
            self.attach_of(id)
        };
        // The hub opens the session's queue before it asks, so that what the
        // answer's own step says to the agent finds it.
        self.agents[id].connected = true;
        match self.deliver(Event::Hello(hello)) {
            Some(Answer::Welcome(Welcome::Accepted { rejoin, .. })) => {
                let agent = &mut self.agents[id];
                agent.attached = true;
                let machine = agent.machine.clone();
                if let (Some(token), Some(board)) = (rejoin, self.boards.get_mut(&machine)) {
                    board.rejoin = Some(token.0);
                }
                self.send(id);
            }
            Some(_) => {
                self.agents[id].alive = false;
                self.agents[id].connected = false;
            }
            None => {
                // No answer: was it committed? It tries both, in turn.
                self.agents[id].attached = !resume;
                self.agents[id].connected = false;
                let retry = self.rng.u64(500..5_000);
                self.at(retry, Happening::Hello(id));
            }
        }
    }

    fn attach_of(&self, id: usize) -> Hello {
        let agent = &self.agents[id];
        Hello::Attach {
            protocol: (1, 1),
            version: "sim".into(),
            kind: agent.kind,
            machine: agent.machine.clone(),
            nonce: agent.params.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            token: agent.params.token.clone(),
            key_hash: hash_hex(&agent.key),
        }
    }

    /// The same parameters again, from elsewhere.
    fn twin(&mut self, id: usize) {
        let Hello::Attach { protocol, version, kind, machine, nonce, token, .. } = self.attach_of(id) else {
            return;
        };
        let (boot_id, key_hash) = (format!("twin-{id}"), hash_hex("twin"));
        let hello = Hello::Attach { protocol, version, kind, machine, nonce, boot_id, token, key_hash };
        self.deliver(Event::Hello(hello));
    }

    fn disconnect(&mut self, id: usize) {
        if !std::mem::take(&mut self.agents[id].connected) {
            return;
        }
        let event = self.agent_event(id, Report::Lost);
        self.deliver(event);
        if self.agents[id].alive {
            let retry = self.rng.u64(100..5_000);
            self.at(retry, Happening::Hello(id));
        }
    }

    fn agent_event(&self, id: usize, report: Report) -> Event {
        let agent = &self.agents[id];
        Event::Agent {
            machine: agent.machine.clone(),
            nonce: agent.params.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            report,
        }
    }

    fn tell(&mut self, machine: &MachineName, nonce: &str, message: ToAgent) {
        let found = self
            .agents
            .iter()
            .rposition(|a| a.alive && a.connected && a.machine == *machine && a.params.nonce == nonce);
        let Some(id) = found else { return };
        if self.fault("link cut", 80) {
            return self.disconnect(id);
        }
        let agent = &mut self.agents[id];
        match message {
            ToAgent::Do { step, work } => {
                if agent.doing == Some(step) {
                    return;
                }
                if agent.results.contains_key(&step) {
                    return self.send(id);
                }
                agent.doing = Some(step);
                let ms = match &work {
                    Work::Image(_) => {
                        self.image_begins(id, &work);
                        self.rng.u64(2_000..60_000)
                    }
                    _ => self.rng.u64(5..500),
                };
                self.at(ms, Happening::Worked { agent: id, step, work });
            }
            ToAgent::Ack { step } => drop(agent.results.remove(&step)),
            _ => {}
        }
    }

    fn image_begins(&mut self, id: usize, work: &Work) {
        let Work::Image(image) = work else { return };
        if image.mode == ImageMode::Write
            && let Some(disk) = self.disk_of(id, &image.disk)
        {
            disk.partial = true;
        }
    }

    fn disk_of(&mut self, id: usize, name: &str) -> Option<&mut DiskTruth> {
        let machine = &self.agents[id].machine;
        let index = self.inventory.machines.get(machine)?.disks.iter().position(|d| d.name == name)?;
        self.boards.get_mut(machine)?.disks.get_mut(index)
    }

    fn disk_path(&self, id: usize, name: &str) -> String {
        let spec = self.inventory.machines.get(&self.agents[id].machine);
        let index = spec.and_then(|s| s.disks.iter().position(|d| d.name == name));
        format!("/sim/{}", index.unwrap_or_default())
    }

    fn worked(&mut self, id: usize, step: u64, work: &Work) {
        if !self.agents[id].alive {
            return;
        }
        let outcome = match work {
            Work::Look => {
                let disks = self.boards.get(&self.agents[id].machine).map_or(0, |b| b.disks.len());
                let disk =
                    |n| SeenDisk { path: format!("/sim/{n}"), bytes: DISK, serial: None, bus: "sim".into() };
                Outcome::Seen(Hardware { disks: (0..disks).map(disk).collect(), ..Hardware::default() })
            }
            Work::Image(image) => {
                let broken = self.fault("disk error", 60);
                let path = self.disk_path(id, &image.disk);
                let Some(disk) = self.disk_of(id, &image.disk) else { return };
                match image.mode {
                    _ if broken => Outcome::Failed { reason: "input/output error".into(), image: false },
                    ImageMode::Write => {
                        *disk = DiskTruth { base: Some(image.digest.clone()), ..DiskTruth::default() };
                        Outcome::Proven(proof(path, image.digest.clone()))
                    }
                    ImageMode::Verify => {
                        let same = disk.base == Some(image.digest.clone()) && !disk.partial && !disk.touched;
                        match same {
                            true => Outcome::Proven(proof(path, image.digest.clone())),
                            false => Outcome::Differs { at: "somewhere".into() },
                        }
                    }
                }
            }
            Work::Seed { params, .. } => {
                let machine = self.agents[id].machine.clone();
                let Some(board) = self.boards.get_mut(&machine) else { return };
                (board.seed, board.rejoin) = (Some(params.clone()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        };
        let agent = &mut self.agents[id];
        agent.doing = None;
        agent.results.insert(step, outcome.clone());
        if self.rng.u64(0..8) == 0 && !self.calm {
            // A copy that wanders through the network for a while.
            let late = self.rng.u64(1_000..180_000);
            let event = self.agent_event(id, Report::Done { step, outcome });
            self.at(late, Happening::Late(Box::new(event)));
        }
        self.send(id);
    }

    /// Sends all results that are not acknowledged, and again later.
    fn send(&mut self, id: usize) {
        self.agents[id].sending = false;
        let agent = &self.agents[id];
        if !agent.alive || !agent.connected || agent.results.is_empty() {
            return;
        }
        let results: Vec<(u64, Outcome)> = agent.results.iter().map(|(s, o)| (*s, o.clone())).collect();
        for (step, outcome) in results {
            let event = self.agent_event(id, Report::Done { step, outcome });
            self.deliver(event);
        }
        let agent = &mut self.agents[id];
        if !agent.results.is_empty() && !agent.sending {
            agent.sending = true;
            self.at(5_000, Happening::Send(id));
        }
    }

    // ── the rest ──

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

fn hash_hex(key: &str) -> String {
    serde_json::to_value(SecretHash::of(key))
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn proof(path: String, digest: Option<String>) -> DiskProof {
    let image_bytes = if digest.is_some() { DISK / 2 } else { 0 };
    DiskProof {
        path,
        serial: None,
        device_bytes: DISK,
        digest,
        read_bytes: DISK,
        image_bytes,
        zero_bytes: DISK - image_bytes,
        written_bytes: DISK,
        erase: "write".into(),
        took_ms: 1,
    }
}
