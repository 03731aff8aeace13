//! Boards as they are, whatever the lab believes: legs, disks, what boots.

use super::dice::{Chance, Pick, Who};
use super::labs::Kind;
use super::{Happening, Sim};
use crate::effect::Boot;
use crate::event::{Answer, BootAnswer, Event, Fact};
use crate::id::{Epoch, ReservationId};
use crate::machine::{Stage, Switch};
use crate::saying::Saying;
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentParams;
use std::collections::BTreeSet;

/// Size of every simulated disk in bytes.
pub(super) const DISK: u64 = 1 << 20;

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

/// What is plugged in: serial numbers of the machine and of its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    pub machine: String,
    pub disks: Vec<String>,
}

impl DiskTruth {
    /// Whether there is a system on it that comes up.
    pub fn boots(&self) -> bool {
        !self.partial && matches!(self.base, Some(Some(_)))
    }
}

/// A power leg as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct LegTruth {
    pub on: bool,
    /// It obeys nobody until then.
    pub stuck_until: u64,
    /// Nor does it answer, until then.
    pub dead_until: u64,
}

/// What is true of a board.
#[derive(Debug)]
pub(super) struct Board {
    pub kind: Kind,
    /// Who waits for its first word, and what is then reported.
    pub witness: Option<(Epoch, Fact)>,
    pub legs: Vec<LegTruth>,
    /// Programs of the lab's that run for it.
    pub runs: Vec<super::programs::Run>,
    /// A hook had its disk's own system run since anybody read the disk.
    pub behind: bool,
    /// Commands under way.
    pub inflight: Vec<super::power::Flight>,
    /// Number of its boot.
    pub boot: u64,
    /// It changed power by itself, and was not commanded since.
    pub flaked: bool,
    /// When it came on by a command.
    pub started: Option<u64>,
    pub disks: Vec<DiskTruth>,
    /// The serial numbers of the machine and of its disks.
    pub numbers: Numbers,
    /// What was there before somebody swapped it.
    pub before: Option<(Numbers, Vec<DiskTruth>, Option<AgentParams>)>,
    /// Things that were ever plugged in here.
    things: u64,
    /// The host agent's parameters on the disk that boots.
    pub seed: Option<AgentParams>,
    pub rejoin: Option<String>,
    /// Its agents that live.
    pub agents: Vec<usize>,
    /// What it was told to boot last.
    last: (Boot, Option<AgentParams>),
    /// Whose hands the lab last put it in.
    pub holder: Option<(MachineName, ReservationId)>,
    /// Whose system runs on it.
    pub tenant: Option<ReservationId>,
}

impl Board {
    pub fn new(kind: Kind, number: usize) -> Self {
        let legs = match kind {
            Kind::TwoLegs | Kind::Spare => 2,
            Kind::Legless => 0,
            _ => 1,
        };
        let disks = match kind {
            Kind::TwoDisks => 2,
            Kind::Legless => 0,
            _ => 1,
        };
        let mut legs = vec![LegTruth::default(); legs];
        if kind == Kind::Spare {
            legs[1].on = true; // the plug in front of it
        }
        Self {
            kind,
            witness: None,
            legs,
            runs: Vec::new(),
            behind: false,
            inflight: Vec::new(),
            boot: 0,
            flaked: false,
            started: None,
            disks: vec![DiskTruth::default(); disks],
            numbers: Numbers {
                machine: format!("S{number}"),
                disks: (0..disks).map(|n| format!("S{number}-{n}")).collect(),
            },
            before: None,
            things: 0,
            seed: None,
            rejoin: None,
            agents: Vec::new(),
            last: (Boot::AsIs, None),
            holder: None,
            tenant: None,
        }
    }

    pub fn on(&self) -> bool {
        self.legs.iter().all(|l| l.on)
    }

    /// Somebody plugs in another disk in the place of disk `n`, or with `None`
    /// another machine with its own disks.
    fn swap(&mut self, disk: Option<usize>) {
        self.before.get_or_insert((self.numbers.clone(), self.disks.clone(), self.seed.clone()));
        self.things += 1;
        let things = self.things;
        let others = |n: usize| disk.is_none_or(|only| only == n);
        for n in (0..self.disks.len()).filter(|n| others(*n)) {
            self.numbers.disks[n] = format!("X{things}-{n}");
            self.disks[n] = DiskTruth::default();
            if n == 0 {
                (self.seed, self.rejoin) = (None, None);
            }
        }
        if disk.is_none() {
            self.numbers.machine = format!("X{things}");
        }
    }

    /// What was there before is there again.
    pub fn put_right(&mut self) {
        if let Some((numbers, disks, seed)) = self.before.take() {
            (self.numbers, self.disks, self.seed, self.rejoin) = (numbers, disks, seed, None);
        }
    }

    /// Somebody's system runs and writes.
    pub fn tenant_writes(&mut self) {
        let Some(id) = self.tenant.filter(|_| self.on()) else { return };
        for disk in &mut self.disks {
            disk.tenants.insert(id);
            disk.touched = true;
        }
    }

    /// The lab says in whose hands it is under this name.
    pub fn held_by(&mut self, name: &MachineName, holder: Option<ReservationId>) {
        match holder {
            Some(id) => {
                self.holder = Some((name.clone(), id));
                if self.on() {
                    self.tenant = holder;
                    self.tenant_writes();
                }
            }
            None if self.holder.as_ref().is_some_and(|(n, _)| n == name) => self.holder = None,
            None => {}
        }
    }

    /// What is on the disk that boots runs, and writes where it likes.
    fn disk_runs(&mut self) -> bool {
        let Some(first) = self.disks.first() else { return false };
        if !first.boots() {
            return false;
        }
        let ghosts = first.tenants.clone();
        for disk in &mut self.disks {
            disk.touched = true;
            disk.tenants.extend(ghosts.iter().copied());
        }
        true
    }
}

impl Sim {
    /// The board that a name means now, or meant when it was last listed.
    pub(super) fn board_of(&self, name: &MachineName) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// A leg's power becomes this.
    pub(super) fn set_leg(
        &mut self,
        number: usize,
        leg: usize,
        want: Switch,
        boot: Boot,
        params: Option<AgentParams>,
    ) {
        let board = &mut self.boards[number];
        let was = board.on();
        board.tenant_writes();
        if let Some(leg) = board.legs.get_mut(leg) {
            leg.on = want == Switch::On;
        }
        if board.kind == Kind::Spare && leg == 1 {
            // What hangs on it loses its state. Half of all troubles end with that.
            board.legs[0].on = false;
            if board.legs[0].dead_until.is_multiple_of(2) {
                board.legs[0].dead_until = 0;
            }
        }
        let on = board.on();
        if was && !on {
            board.tenant = None;
            self.stop_agents(number);
            self.while_off(number);
        }
        if !was && on {
            let what = if boot == Boot::AsIs { Boot::Disk } else { boot };
            self.power_up(number, what, params);
        }
    }

    /// Somebody is at the bench, and it is off.
    fn while_off(&mut self, number: usize) {
        let who = Who::board(number);
        let disks = self.boards[number].disks.len() as u64;
        // Nothing reads a number of a flash that a programmer writes: another
        // one in its place is never found out.
        let flash =
            |name: &MachineName| self.file.machines.get(name).is_some_and(|spec| spec.programmer().is_some());
        // What was shown of a machine is believed until it is claimed, and then
        // by its holder: another disk since is found at the next boot.
        let promised = |name: &MachineName| {
            let row = self.daemon.store.machine(name);
            row.is_some_and(|m| matches!(m.stage, Stage::Ready { reservation: Some(_), .. }))
        };
        let mut names = self.names.iter().filter(|(_, board)| **board == number).map(|(name, _)| name);
        if disks == 0 || names.any(|name| flash(name) || promised(name)) {
            return;
        }
        if self.happens(who, Chance::DiskSwapped) {
            let which = self.dice.below(who, Pick::Which, disks) as usize;
            self.boards[number].swap(Some(which));
        } else if self.happens(who, Chance::MachineSwapped) {
            self.boards[number].swap(None);
        }
    }

    pub(super) fn power_up(&mut self, number: usize, what: Boot, params: Option<AgentParams>) {
        let who = Who::board(number);
        let board = &mut self.boards[number];
        board.boot += 1;
        board.last = (what, params.clone());
        if what != Boot::Agent {
            board.tenant = board.holder.as_ref().map(|(_, id)| *id);
            board.tenant_writes();
        }
        let boot = board.boot;
        if self.happens(who, Chance::NeverBoots) {
            return;
        }
        let slow = self.happens(who, Chance::BootsSlowly);
        let delay = if slow { (20_000, 200_000) } else { (1_000, 9_000) };
        let delay = self.dice.between(who, Pick::Delay, delay.0, delay.1);
        let happening = match board_asks(self.boards[number].kind) {
            true => Happening::Firmware { board: number, boot, tries: 0 },
            false => Happening::Booted { board: number, boot, what, params: params.map(Box::new) },
        };
        self.at(delay, happening);
        if self.happens(who, Chance::Reboots) {
            let delay = self.dice.between(who, Pick::Delay, 1_000, 120_000);
            self.at(delay, Happening::Reboot { board: number, boot });
        }
    }

    /// Firmware that asks what to boot. Where nobody answers it takes the disk.
    pub(super) fn firmware(&mut self, number: usize, boot: u64, tries: u32) {
        let board = &self.boards[number];
        if board.boot != boot || !board.on() {
            return;
        }
        let machine = self.plans[number].name.clone();
        let answer = self.route(Event::BootRequest { machine, lane: false });
        let (what, params) = match answer {
            Some(Answer::Boot(BootAnswer::Agent(params))) => (Boot::Agent, Some(params)),
            None | Some(Answer::Boot(BootAnswer::NotKnown(_))) if tries < 3 => {
                return self.at(4_000, Happening::Firmware { board: number, boot, tries: tries + 1 });
            }
            _ => (Boot::Disk, None),
        };
        let delay = self.dice.between(Who::board(number), Pick::Delay, 500, 5_000);
        self.at(delay, Happening::Booted { board: number, boot, what, params: params.map(Box::new) });
    }

    /// The system falls over and comes up again; power stays.
    pub(super) fn reboot(&mut self, number: usize, boot: u64) {
        let board = &mut self.boards[number];
        if board.boot != boot || !board.on() {
            return;
        }
        board.tenant_writes();
        let (what, params) = board.last.clone();
        self.stop_agents(number);
        self.power_up(number, what, params);
    }

    /// The firmware is done: something runs.
    pub(super) fn booted(&mut self, number: usize, boot: u64, what: Boot, params: Option<AgentParams>) {
        let who = Who::board(number);
        let board = &self.boards[number];
        if board.boot != boot || !board.on() {
            return;
        }
        let astray = what == Boot::Agent && self.happens(who, Chance::WrongDisk);
        if self.happens(who, Chance::Panics) {
            return self.panics(number);
        }
        if what == Boot::Agent && !astray {
            if let Some(params) = params {
                self.agent_starts(number, pitstop_wire::agent::AgentKind::Boot, params);
            }
            return;
        }
        if self.is_dead(number) {
            return;
        }
        let board = &mut self.boards[number];
        if let Some((epoch, fact)) = board.witness.take() {
            return self.at(10, Happening::Fact(epoch, Box::new(fact)));
        }
        if !board.disk_runs() || matches!(board.kind, Kind::ByPower | Kind::ByWord | Kind::Flashed) {
            return;
        }
        let Some(mut seed) = board.seed.clone() else { return };
        if let Some(rejoin) = &board.rejoin {
            seed.token = pitstop_wire::agent::Secret(rejoin.clone());
        }
        self.agent_starts(number, pitstop_wire::agent::AgentKind::Host, seed);
    }
}

impl Sim {
    /// The kernel says so, and whoever listens hears it: at once, or when the
    /// lab is elsewhere by now.
    fn panics(&mut self, number: usize) {
        let machine = self.plans[number].name.clone();
        let Some(lab) = self.daemon.lab.as_ref() else { return };
        let turn = lab.machine(&machine).and_then(|m| m.turn());
        let nonce = turn.and_then(|t| t.attempt.as_ref()).map(|a| a.nonce.clone());
        let epoch = lab.meta.epoch;
        let line = "Kernel panic - not syncing: simulated".to_owned();
        let fact = Fact::Said { machine, nonce, saying: Saying::KernelPanic, line };
        let delay = self.dice.between(Who::board(number), Pick::Network, 1, 60_000);
        self.at(delay, super::Happening::Fact(epoch, Box::new(fact)));
    }
}

fn board_asks(kind: Kind) -> bool {
    kind == Kind::NetBoot
}
