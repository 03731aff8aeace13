//! A lab on a bench: one daemon, its rows and records, and hardware that
//! obeys exactly when a test says so.

mod hardware;

pub(crate) use hardware::Command;

use super::spec;
use crate::effect::{Effect, Fill};
use crate::event::{Answer, Caller, Event, Floor, Moment, Request};
use crate::id::{Entropy, Epoch, ReservationId, SecretHash};
use crate::inventory::Point;
use crate::inventory::model::{Inventory, MachineSpec};
use crate::lab::Rows;
use crate::machine::{ImageRef, Machine, Phase, Stage};
use crate::record::{Change, Record};
use crate::reservation::{Ask, CleanLevel, End, Hold, Reservation, Role, Status, Want};
use crate::simulator::labs::IMAGES;
use crate::time::LabTime;
use crate::{Lab, invariant};
use pitstop_wire::agent::{AgentParams, DiskProof, Hardware, ImageWork, Outcome, Secret};
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
    /// An image with this digest never comes up.
    pub no_boot: Option<&'static str>,
    /// What health checks say.
    pub sick: Option<&'static str>,
    /// Hooks that fail, and what they say.
    pub hooks: Vec<(&'static str, &'static str)>,
    /// The programmer fails: whether that is the lab's own trouble, and how.
    pub programmer: Option<(bool, &'static str)>,
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
    /// Hooks that were run, in order, with what they were told.
    pub hooks: Vec<(Point, String, Fill)>,
    /// Rows are compared with the fold only when a test says so, since a very
    /// long story would take the square of its length.
    pub sparing: bool,
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
            hooks: Vec::new(),
            sparing: false,
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
        if !self.sparing {
            self.compare_with_fold(&told);
        }
        let epoch = self.lab.meta().epoch;
        self.effects.extend(out.effects.into_iter().map(|e| (epoch, e)));
        out.answer
    }

    /// The rows are what all records make of nothing.
    pub fn compare_with_fold(&self, after: &str) {
        let fold = Lab::from_records(&self.records);
        assert_eq!(self.lab.rows(), fold.rows(), "rows are not the fold of the records after {after}");
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
        self.start_again(false);
    }

    /// The same in a lab of simulated machines, where new ones need no person.
    pub fn restart_enrolling(&mut self) {
        self.start_again(true);
    }

    fn start_again(&mut self, enrol: bool) {
        self.effects.clear();
        self.lab = Lab::from_rows(self.lab.rows());
        let inventory = self.inventory.clone();
        self.event(Event::Start { inventory, enrol });
    }

    /// What a backup taken now would hold.
    pub fn backup(&self) -> (Rows, Vec<Record>) {
        (self.lab.rows(), self.records.clone())
    }

    /// The daemon dies with what it had not sent, a backup is put in the
    /// place of its database, and another one starts. The world stays as it is.
    pub fn restore(&mut self, (rows, records): (Rows, Vec<Record>)) {
        let newest = self.lab.meta();
        let floor = Floor { epoch: newest.epoch, reservations: newest.reservations };
        self.effects.clear();
        (self.lab, self.records) = (Lab::from_rows(rows), records);
        let inventory = self.inventory.clone();
        self.event(Event::StartRestored { inventory, enrol: false, floor });
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

    pub fn refused_ask(&mut self, ask: Ask) -> Code {
        self.refused("ada", Request::Reserve { ask: Box::new(ask), image: None })
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

pub(crate) fn hex_of(key: &str) -> String {
    serde_json::to_value(SecretHash::of(key)).unwrap().as_str().unwrap().to_owned()
}
