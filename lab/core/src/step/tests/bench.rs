//! A lab on a bench: one daemon, its rows and records, and hardware that
//! obeys exactly when a test says so.

use super::spec;
use crate::effect::{Boot, Effect};
use crate::event::{Answer, BootAnswer, Caller, Event, Fact, Moment, Report, Request};
use crate::id::{Entropy, Epoch, IntentId, ReservationId, SecretHash};
use crate::inventory::model::{Inventory, MachineSpec};
use crate::machine::{ImageRef, Machine, Phase, Reading, Stage, Switch};
use crate::record::{Change, Record};
use crate::reservation::{Ask, CleanLevel, End, Hold, Reservation, Role, Status, Want};
use crate::simulator::labs::IMAGES;
use crate::time::LabTime;
use crate::{Lab, invariant};
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, Hardware, Hello, ImageMode, ImageWork, Outcome, Secret, SeenDisk,
    ToAgent, Welcome, Work,
};
use pitstop_wire::{ApiError, Code, MachineName, UserName};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Size of every disk in bytes.
pub(crate) const DISK: u64 = 1 << 20;

pub(crate) type Reply = Result<Value, ApiError>;

/// A machine as it is on the bench.
pub(crate) struct Board {
    pub legs: Vec<bool>,
    pub boots: u64,
    /// What the boot agent was given, the seed, and the host's rejoin token.
    pub params: Option<AgentParams>,
    pub seed: Option<AgentParams>,
    pub rejoin: Option<Secret>,
    /// What each disk holds: `Some(None)` is all zero.
    pub disks: Vec<Option<Option<String>>>,
    /// It never boots.
    pub dead: bool,
    /// Commands to switch it on vanish, and nobody reports.
    pub mute: bool,
}

/// Faults a test may ask for; by default there are none.
#[derive(Default)]
pub(crate) struct Quirks {
    /// Changes every proof before it is sent.
    pub spoil: Option<fn(&mut DiskProof)>,
    /// What `look` finds instead of the declared disks.
    pub hardware: Option<Hardware>,
    /// Answers image work with this instead.
    pub image: Option<fn(&ImageWork) -> Outcome>,
}

pub(crate) struct Bench {
    pub lab: Lab,
    pub now: u64,
    pub inventory: Arc<Inventory>,
    pub records: Vec<Record>,
    /// Effects that left and that nobody has obeyed yet.
    pub effects: VecDeque<(Epoch, Effect)>,
    pub boards: BTreeMap<MachineName, Board>,
    pub quirks: Quirks,
    draws: u64,
}

pub(crate) fn name(text: &str) -> MachineName {
    MachineName::new(text).unwrap()
}

pub(crate) fn caller(user: &str) -> Caller {
    Caller { user: UserName::new(user).unwrap(), admin: user == "admin", key: None }
}

pub(crate) fn image(name: &str) -> ImageRef {
    ImageRef { name: name.into(), digest: format!("b3:{name}"), seed: Some((0, 4096)) }
}

/// What a person asks for who says little: one machine, for an hour.
pub(crate) fn ask(select: &str, want: Want) -> Ask {
    Ask {
        roles: vec![role("machine", select, 1)],
        image: None,
        want,
        hold: Hold::Time,
        limit: Some(3_600_000),
        clean: CleanLevel::Proven,
        priority: 0,
        reason: None,
        patience: None,
        agent_lost: None,
    }
}

pub(crate) fn role(name: &str, select: &str, count: u32) -> Role {
    Role { name: name.into(), select: select.parse().unwrap(), count }
}

impl Bench {
    /// A lab of plain machines with these names, enrolled, at rest.
    pub fn new(machines: &[&str]) -> Self {
        Self::of(machines.iter().map(|m| spec(m)))
    }

    /// A lab of these machines, enrolled, at rest.
    pub fn of(machines: impl IntoIterator<Item = MachineSpec>) -> Self {
        let mut inventory = Inventory::default();
        inventory.machines.extend(machines.into_iter().map(|s| (s.name.clone(), s)));
        Self::with(inventory)
    }

    /// The lab of this inventory.
    pub fn with(inventory: Inventory) -> Self {
        let inventory = Arc::new(inventory);
        let mut bench = Self {
            lab: Lab::default(),
            now: 1_000,
            inventory: inventory.clone(),
            records: Vec::new(),
            effects: VecDeque::new(),
            boards: BTreeMap::new(),
            quirks: Quirks::default(),
            draws: 0,
        };
        bench.wire_up();
        bench.event(Event::Start { inventory, enrol: true });
        for name in IMAGES {
            bench.ok("admin", Request::NameImage { image: image(name), bytes: DISK });
        }
        bench.obey();
        bench
    }

    /// A board for each machine of the inventory that has none yet.
    fn wire_up(&mut self) {
        for (name, spec) in &self.inventory.machines {
            self.boards.entry(name.clone()).or_insert_with(|| Board {
                legs: vec![false; spec.legs.len()],
                boots: 0,
                params: None,
                seed: None,
                rejoin: None,
                disks: vec![None; spec.disks.len()],
                dead: false,
                mute: false,
            });
        }
    }

    // ── steps ──

    /// One step; afterwards every invariant holds and the rows are the fold
    /// of all records.
    pub fn event(&mut self, event: Event) -> Answer {
        self.draws += 1;
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&self.draws.to_le_bytes());
        let moment = Moment { now: LabTime(self.now), wall: self.now as i64, entropy: Entropy(entropy) };
        let told = format!("{event:?}");
        let out = self.lab.step(&moment, event);
        self.records.extend(out.records);
        if let Err(text) = invariant::check(&self.lab) {
            panic!("after {told}: {text}");
        }
        let fold = Lab::from_records(&self.records);
        assert_eq!(self.lab.rows(), fold.rows(), "rows are not the fold of the records after {told}");
        let epoch = self.lab.meta().epoch;
        self.effects.extend(out.effects.into_iter().map(|e| (epoch, e)));
        out.answer
    }

    /// Time passes; what falls due is judged when it does, and nobody obeys.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        for _ in 0..10_000 {
            match self.lab.next_deadline() {
                Some(at) if at.0 <= end => {
                    self.now = self.now.max(at.0);
                    self.event(Event::Tick);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the daemon spins without time passing");
    }

    /// Time passes with hardware that obeys at once.
    pub fn live(&mut self, ms: u64) {
        let end = self.now + ms;
        self.obey();
        while self.now < end {
            let next = self.lab.next_deadline().map_or(end, |at| at.0.clamp(self.now, end));
            self.pass(next - self.now);
            self.obey();
        }
    }

    /// The daemon dies with what it had not sent, and another one starts.
    /// Agents lose their connection.
    pub fn restart(&mut self) {
        self.effects.clear();
        self.lab = Lab::from_rows(self.lab.rows());
        let inventory = self.inventory.clone();
        self.event(Event::Start { inventory, enrol: false });
    }

    /// The admin changes the inventory.
    pub fn reload(&mut self, change: impl FnOnce(&mut Inventory)) {
        let mut inventory = (*self.inventory).clone();
        change(&mut inventory);
        self.inventory = Arc::new(inventory);
        self.wire_up();
        let inventory = self.inventory.clone();
        self.ok("admin", Request::Reload(inventory));
    }

    // ── people ──

    pub fn request(&mut self, user: &str, request: Request) -> Reply {
        self.request_by(caller(user), request)
    }

    pub fn request_by(&mut self, caller: Caller, request: Request) -> Reply {
        match self.event(Event::Request(caller, request)) {
            Answer::Api(reply) => reply,
            other => panic!("a request was answered with {other:?}"),
        }
    }

    pub fn ok(&mut self, user: &str, request: Request) -> Value {
        self.request(user, request).unwrap()
    }

    pub fn refused(&mut self, user: &str, request: Request) -> Code {
        self.request(user, request).unwrap_err().code
    }

    pub fn reserve(&mut self, user: &str, ask: Ask) -> ReservationId {
        self.reserve_image(user, ask, None)
    }

    pub fn reserve_image(&mut self, user: &str, ask: Ask, image: Option<&str>) -> ReservationId {
        let request = Request::Reserve { ask: Box::new(ask), image: image.map(str::to_owned) };
        let reply = self.ok(user, request);
        reply["reservation"].as_str().unwrap().parse().unwrap()
    }

    /// Reserves, has the hardware obey, and comes for the machines.
    pub fn hold(&mut self, user: &str, ask: Ask) -> ReservationId {
        let id = self.reserve(user, ask);
        self.obey();
        self.ok(user, Request::Claim(id));
        id
    }

    pub fn release(&mut self, user: &str, id: ReservationId) -> Value {
        self.ok(user, Request::Release { reservation: id, force: None })
    }

    // ── hardware ──

    /// Obeys until nothing is left to be done.
    pub fn obey(&mut self) {
        while self.obey_next() {}
    }

    /// Obeys until a machine is in a phase, with what it asks for still to
    /// be done.
    pub fn obey_until(&mut self, machine: &str, phase: impl Fn(&Phase) -> bool) {
        for _ in 0..1_000 {
            if self.machine(machine).turn().is_some_and(|t| phase(&t.phase)) {
                return;
            }
            if !self.obey_next() {
                self.pass_to_deadline();
            }
        }
        panic!("{machine} never came to that phase: {:?}", self.machine(machine).stage);
    }

    fn pass_to_deadline(&mut self) {
        let next = self.lab.next_deadline().expect("nothing is due, nothing can happen");
        self.pass(next.0.saturating_sub(self.now));
    }

    /// Obeys the oldest effect; whether there was one.
    pub fn obey_next(&mut self) -> bool {
        let Some((epoch, effect)) = self.effects.pop_front() else { return false };
        match effect {
            Effect::Power { machine, leg, intent, want, boot, .. } => {
                self.obey_power(epoch, &machine, leg, intent, want, boot);
            }
            Effect::Observe { machine, leg } => {
                let reading = self.reading(&machine, leg);
                self.fact(epoch, Fact::Read { machine, leg, asked: LabTime(self.now), reading });
            }
            Effect::Tell { machine, message: ToAgent::Do { step, work }, .. } => {
                let outcome = self.work(&machine, &work);
                self.report(machine.as_str(), Report::Done { step, outcome });
            }
            Effect::Tell { .. } | Effect::Dismiss { .. } => {}
        }
        true
    }

    /// Takes the oldest power command away, for a test that answers itself.
    pub fn take_power(&mut self) -> (MachineName, usize, IntentId, Switch, Boot) {
        loop {
            let (_, effect) = self.effects.pop_front().expect("no power command is waiting");
            if let Effect::Power { machine, leg, intent, want, boot, .. } = effect {
                return (machine, leg, intent, want, boot);
            }
        }
    }

    /// Power commands that wait to be obeyed.
    pub fn power_waiting(&self) -> Vec<Switch> {
        let power = |e: &Effect| match e {
            Effect::Power { want, .. } => Some(*want),
            _ => None,
        };
        self.effects.iter().filter_map(|(_, e)| power(e)).collect()
    }

    fn obey_power(
        &mut self,
        epoch: Epoch,
        machine: &MachineName,
        leg: usize,
        intent: IntentId,
        want: Switch,
        boot: Boot,
    ) {
        if want == Switch::On && self.board(machine).mute {
            return;
        }
        if boot == Boot::Agent && want == Switch::On {
            match self.boot_request(machine.as_str(), true) {
                BootAnswer::Agent(params) => self.board(machine).params = Some(params),
                other => {
                    let result = Err(format!("{other:?}"));
                    return self.power_fact(epoch, machine, leg, intent, want, result, false);
                }
            }
        }
        let was = self.board(machine).legs.iter().all(|on| *on);
        self.board(machine).legs[leg] = want == Switch::On;
        let is = self.board(machine).legs.iter().all(|on| *on);
        let reading = self.reading(machine, leg);
        if was && !is {
            self.lost(machine.as_str());
        }
        self.power_fact(epoch, machine, leg, intent, want, Ok(reading), true);
        if is && !was {
            self.boot(machine, boot);
        }
    }

    fn power_fact(
        &mut self,
        epoch: Epoch,
        machine: &MachineName,
        leg: usize,
        intent: IntentId,
        want: Switch,
        result: Result<Reading, String>,
        witnessed: bool,
    ) {
        let machine = machine.clone();
        self.fact(epoch, Fact::Power { machine, leg, intent, want, result, witnessed });
    }

    /// Answers a power command taken with [`Self::take_power`].
    pub fn answer_power(
        &mut self,
        taken: &(MachineName, usize, IntentId, Switch, Boot),
        result: Result<Reading, &str>,
        witnessed: bool,
    ) {
        let (machine, leg, intent, want, _) = taken;
        let epoch = self.lab.meta().epoch;
        self.power_fact(epoch, machine, *leg, *intent, *want, result.map_err(str::to_owned), witnessed);
    }

    pub fn fact(&mut self, epoch: Epoch, fact: Fact) {
        self.event(Event::Fact { epoch, fact });
    }

    /// Power is read, and the answer arrives at once.
    pub fn read(&mut self, machine: &str, leg: usize, reading: Reading) {
        let fact = Fact::Read { machine: name(machine), leg, asked: LabTime(self.now), reading };
        self.fact(self.lab.meta().epoch, fact);
    }

    fn reading(&self, machine: &MachineName, leg: usize) -> Reading {
        if self.boards[machine].legs[leg] { Reading::On } else { Reading::Off }
    }

    pub fn board(&mut self, machine: &MachineName) -> &mut Board {
        self.boards.get_mut(machine).unwrap()
    }

    /// What the machine does when it comes on: its agent attaches.
    fn boot(&mut self, machine: &MachineName, boot: Boot) {
        let board = self.board(machine);
        board.boots += 1;
        if board.dead {
            return;
        }
        match boot {
            Boot::Agent => {
                let params = self.board(machine).params.clone().unwrap();
                let welcome = self.attach(AgentKind::Boot, &params);
                assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
            }
            Boot::Disk | Boot::AsIs => self.boot_disk(machine),
        }
    }

    /// The disk's own system comes up with the seed, or with the rejoin
    /// token it was given before.
    fn boot_disk(&mut self, machine: &MachineName) {
        let Some(mut params) = self.board(machine).seed.clone() else { return };
        if let Some(token) = self.board(machine).rejoin.clone() {
            params.token = token;
        }
        if let Welcome::Accepted { rejoin: Some(token), .. } = self.attach(AgentKind::Host, &params) {
            self.board(machine).rejoin = Some(token);
        }
    }

    /// The tenant reboots his machine.
    pub fn tenant_reboots(&mut self, machine: &str) {
        self.lost(machine);
        self.board(&name(machine)).boots += 1;
        self.boot_disk(&name(machine));
    }

    // ── agents ──

    pub fn boot_id(&self, machine: &str) -> String {
        format!("{machine}-{}", self.boards[&name(machine)].boots)
    }

    /// The session key of the machine's present boot.
    pub fn key(&self, machine: &str) -> Secret {
        Secret(format!("key of {}", self.boot_id(machine)))
    }

    pub fn hello_of(&self, kind: AgentKind, params: &AgentParams) -> Hello {
        let machine = params.machine.clone();
        Hello::Attach {
            protocol: (1, 1),
            version: "bench".into(),
            kind,
            boot_id: self.boot_id(machine.as_str()),
            key_hash: hex_of(&self.key(machine.as_str()).0),
            nonce: params.nonce.clone(),
            token: params.token.clone(),
            machine,
        }
    }

    pub fn attach(&mut self, kind: AgentKind, params: &AgentParams) -> Welcome {
        let hello = self.hello_of(kind, params);
        self.hello(hello)
    }

    pub fn hello(&mut self, hello: Hello) -> Welcome {
        match self.event(Event::Hello(hello)) {
            Answer::Welcome(welcome) => welcome,
            other => panic!("a hello was answered with {other:?}"),
        }
    }

    /// The agent of the machine comes back after a lost connection.
    pub fn resume(&mut self, machine: &str) -> Welcome {
        let hello = self.resume_of(machine);
        self.hello(hello)
    }

    pub fn resume_of(&self, machine: &str) -> Hello {
        Hello::Resume {
            protocol: (1, 1),
            version: "bench".into(),
            machine: name(machine),
            nonce: self.machine(machine).agent.as_ref().map(|a| a.nonce.clone()).unwrap_or_default(),
            boot_id: self.boot_id(machine),
            key: self.key(machine),
        }
    }

    /// What a refused agent is told; it is in the history, too.
    pub fn refusal(&mut self, hello: Hello) -> String {
        let welcome = self.hello(hello);
        let Welcome::Refused { reason, retry: false } = welcome else { panic!("{welcome:?}") };
        let recorded =
            self.changes().any(|c| matches!(c, Change::AgentRefused { reason: r, .. } if *r == reason));
        assert!(recorded, "nobody wrote down that an agent was refused: {reason}");
        reason
    }

    pub fn report(&mut self, machine: &str, report: Report) {
        let Some(agent) = self.machine(machine).agent.clone() else { return };
        let (nonce, boot_id) = (agent.nonce, agent.boot_id);
        self.event(Event::Agent { machine: name(machine), nonce, boot_id, report });
    }

    /// The agent's connection breaks.
    pub fn lost(&mut self, machine: &str) {
        self.report(machine, Report::Lost);
    }

    pub fn boot_request(&mut self, machine: &str, lane: bool) -> BootAnswer {
        match self.event(Event::BootRequest { machine: name(machine), lane }) {
            Answer::Boot(answer) => answer,
            other => panic!("a boot request was answered with {other:?}"),
        }
    }

    fn work(&mut self, machine: &MachineName, work: &Work) -> Outcome {
        match work {
            Work::Look => {
                Outcome::Seen(self.quirks.hardware.clone().unwrap_or_else(|| self.hardware(machine)))
            }
            Work::Image(image) => self.image_work(machine, image),
            Work::Seed { params, .. } => {
                let board = self.board(machine);
                (board.seed, board.rejoin) = (Some(params.clone()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        }
    }

    pub fn hardware(&self, machine: &MachineName) -> Hardware {
        let disks = &self.inventory.machines.get(machine).map_or(0, |s| s.disks.len());
        let disk = |n| SeenDisk { path: format!("/dev/{n}"), bytes: DISK, serial: None, bus: "sim".into() };
        Hardware { disks: (0..*disks).map(disk).collect(), ..Hardware::default() }
    }

    fn image_work(&mut self, machine: &MachineName, work: &ImageWork) -> Outcome {
        if let Some(answer) = self.quirks.image {
            return answer(work);
        }
        let Some(spec) = self.inventory.machines.get(machine) else {
            return Outcome::Failed { reason: "the machine is not in the inventory".into(), image: false };
        };
        let index = spec.disks.iter().position(|d| d.name == work.disk).expect("a disk that is not declared");
        let held = &mut self.boards.get_mut(machine).unwrap().disks[index];
        if work.mode == ImageMode::Verify && *held != Some(work.digest.clone()) {
            return Outcome::Differs { at: "byte 0".into() };
        }
        *held = Some(work.digest.clone());
        let mut proof = proof(index, work);
        if let Some(spoil) = self.quirks.spoil {
            spoil(&mut proof);
        }
        Outcome::Proven(proof)
    }

    // ── looking ──

    pub fn machine(&self, machine: &str) -> Arc<Machine> {
        self.lab.machine(&name(machine)).expect("the machine is gone").clone()
    }

    pub fn state(&self, machine: &str) -> &'static str {
        self.machine(machine).state()
    }

    pub fn phase(&self, machine: &str) -> Phase {
        self.machine(machine).turn().expect("no turn is under way").phase.clone()
    }

    pub fn row(&self, id: ReservationId) -> Arc<Reservation> {
        self.lab.reservation(id).expect("the reservation is gone").clone()
    }

    pub fn status(&self, id: ReservationId) -> &'static str {
        self.row(id).state()
    }

    /// Why it ended.
    pub fn end(&self, id: ReservationId) -> End {
        match &self.row(id).status {
            Status::Ended { why, .. } => why.clone(),
            other => panic!("{id} has not ended: {other:?}"),
        }
    }

    /// The machines a reservation has.
    pub fn members(&self, id: ReservationId) -> Vec<String> {
        let mut names: Vec<String> = self.row(id).members.iter().map(|m| m.machine.to_string()).collect();
        names.sort();
        names
    }

    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.records.iter().map(|r| &r.change)
    }

    pub fn count(&self, wanted: impl Fn(&Change) -> bool) -> usize {
        self.changes().filter(|c| wanted(c)).count()
    }

    /// Phases that the machine went through, in order.
    pub fn phases(&self, machine: &str) -> Vec<&'static str> {
        let of = |c: &Change| match c {
            Change::TurnStarted { machine: m, .. } if m.as_str() == machine => Some("off"),
            Change::PhaseEntered { machine: m, phase, .. } if m.as_str() == machine => Some(phase.name()),
            _ => None,
        };
        self.changes().filter_map(of).collect()
    }

    /// Failures of phases so far, as `class: evidence`.
    pub fn failures(&self, machine: &str) -> Vec<String> {
        let of = |c: &Change| match c {
            Change::PhaseFailed { machine: m, failure } if m.as_str() == machine => {
                Some(format!("{}: {}", failure.class.name(), failure.evidence))
            }
            _ => None,
        };
        self.changes().filter_map(of).collect()
    }

    pub fn in_use_by(&self, machine: &str) -> Option<ReservationId> {
        match self.machine(machine).stage {
            Stage::InUse { reservation, .. } => Some(reservation),
            _ => None,
        }
    }
}

/// A proof with nothing missing.
fn proof(disk: usize, work: &ImageWork) -> DiskProof {
    let image_bytes = if work.digest.is_some() { DISK / 2 } else { 0 };
    DiskProof {
        path: format!("/dev/{disk}"),
        serial: None,
        device_bytes: DISK,
        digest: work.digest.clone(),
        read_bytes: DISK,
        image_bytes,
        zero_bytes: DISK - image_bytes,
        written_bytes: if work.mode == ImageMode::Write { DISK } else { 0 },
        erase: "write".into(),
        took_ms: 1,
    }
}

pub(crate) fn hex_of(key: &str) -> String {
    serde_json::to_value(SecretHash::of(key)).unwrap().as_str().unwrap().to_owned()
}
