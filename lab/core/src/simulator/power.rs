//! Power commands on their way: lanes, controllers, wires that lie.
//!
//! What is assumed of hardware, and no more: a command acts at most one power
//! limit after its runner gave up (the limit says how long that is); one that
//! was obeyed is not obeyed again after it was read back; and no leg does by
//! itself, while a command waits to act on it, just what the command wants:
//! nobody could tell the two apart.

use super::dice::{Chance, Pick, Who};
use super::labs::Kind;
use super::{Happening, Sim};
use crate::effect::{Boot, Effect};
use crate::event::{Act, Answer, BootAnswer, Event, Fact};
use crate::fence::Fence;
use crate::id::{Epoch, IntentId};
use crate::machine::{Reading, Switch};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::AgentParams;

/// Boards that hang on one controller.
const BOARDS_PER_CONTROLLER: usize = 3;

/// A power command on its way.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub machine: MachineName,
    pub board: usize,
    pub leg: usize,
    pub intent: IntentId,
    pub want: Switch,
    pub boot: Boot,
    pub params: Option<AgentParams>,
    /// What it is to boot was fetched by a device of its own.
    pub fetched: bool,
    /// Who sent it: the daemon's epoch.
    pub epoch: Epoch,
    /// Until when the command may be sent.
    pub until: u64,
    /// The leg was seen to be otherwise before the command was sent.
    pub witnessed: bool,
}

/// A copy of a command that is going to act.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub at: u64,
    epoch: Epoch,
    intent: IntentId,
    /// Another copy of it has acted.
    again: bool,
}

/// What ails a controller, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    pub what: Chance,
    pub until: u64,
}

impl Sim {
    /// Effects that left a daemon.
    pub(super) fn perform(&mut self, effect: Effect, epoch: Epoch, lab_now: LabTime) {
        match effect {
            Effect::Power { machine, leg, intent, want, boot, until } => {
                let Some(board) = self.board_of(&machine) else { return };
                let until = self.now + (until - lab_now);
                let (params, fetched, witnessed) = (None, false, true);
                let order = Order {
                    machine,
                    board,
                    leg,
                    intent,
                    want,
                    boot,
                    params,
                    fetched,
                    epoch,
                    until,
                    witnessed,
                };
                // The lane switches one leg after the other.
                self.at(1 + 1_000 * leg as u64, Happening::Command(Box::new(order)));
            }
            Effect::Observe { machine, leg } => {
                let Some(board) = self.board_of(&machine) else { return };
                let reading = self.read(board, leg);
                let fact = Box::new(Fact::Read { machine, leg, asked: lab_now, reading });
                let delay = self.dice.between(Who::board(board), Pick::Network, 5, 200);
                self.at(delay, Happening::Fact(epoch, fact));
            }
            Effect::Tell { machine, nonce, message } => self.tell(&machine, nonce, message),
            Effect::Check { machine, nonce, .. } => self.check(machine, nonce, epoch),
            Effect::Witness { machine, turn, .. } => {
                let Some(board) = self.board_of(&machine) else { return };
                let fact = Fact::Witnessed { machine, turn, result: Ok("READY".into()) };
                self.boards[board].witness = Some((epoch, fact));
            }
            Effect::Hook { .. } | Effect::Program { .. } | Effect::Stop { .. } => {
                self.program(effect, epoch, lab_now);
            }
            Effect::Act { machine, intent, act, .. } => self.nudge(machine, intent, act, epoch),
            Effect::Dismiss { machine, .. } => {
                let Some(board) = self.board_of(&machine) else { return };
                for agent in &self.boards[board].agents {
                    self.agents[*agent].connected = false;
                }
            }
        }
    }

    /// The board starts again, now or much later; whoever nudged it hears that
    /// it did only in the first case.
    fn nudge(&mut self, machine: MachineName, intent: IntentId, act: Act, epoch: Epoch) {
        let Some(number) = self.board_of(&machine) else { return };
        let boot = self.boards[number].boot;
        let who = Who::board(number);
        let late = self.happens(who, Chance::PowerLate);
        let delay = self.dice.between(who, Pick::Delay, 100, if late { 40_000 } else { 900 });
        self.at(delay, Happening::Reboot { board: number, boot });
        let result = if late { Err("no answer".into()) } else { Ok(()) };
        let fact = Fact::Acted { machine, intent, act, begun: true, result };
        self.at(1_000, Happening::Fact(epoch, Box::new(fact)));
    }

    /// Whether a command is obeyed late. One that nobody recorded is dangerous
    /// only then: without intents it is made likely, so that the lack is found soon.
    fn is_late(&mut self, who: Who) -> bool {
        let late = Chance::PowerLate;
        match self.daemon.fences.stands(Fence::IntentFirst) {
            true => self.happens(who, late),
            false => self.dice.happens_at(who, late, 4),
        }
    }

    /// The lane's turn has come for this command.
    pub(super) fn command(&mut self, mut order: Box<Order>) {
        if self.is_asleep(order.epoch) {
            self.daemon.asleep.push(*order); // its daemon is stopped, and so is its lane
            return;
        }
        if self.now > order.until {
            return self.report_power(&order, Err("too late to send it".into()));
        }
        if order.boot == Boot::Agent && order.want == Switch::On && order.params.is_none() {
            match self.boot_params(&order) {
                Ok(Some(params)) => order.params = Some(params),
                Ok(None) => {}
                Err(Some(refusal)) => return self.report_power(&order, Err(refusal)),
                Err(None) if self.is_running(order.epoch) => {
                    return self.at(1_000, Happening::Command(order));
                }
                Err(None) => return, // its daemon is gone: nothing leaves
            }
        }
        let fetch = self.fetch_limit(&order.machine);
        if order.params.is_some() && !order.fetched && fetch > 0 {
            order.fetched = true;
            let delay = self.dice.between(Who::board(order.board), Pick::Delay, 1, fetch);
            return self.at(delay, Happening::Command(order));
        }
        if order.fetched && !self.is_wanted(&order) {
            return; // its lane was overtaken, or has died, while that was fetched
        }
        if let Some(trouble) = self.controller_trouble(order.board) {
            return match trouble {
                Chance::ControllerBusy => self.at(3_000, Happening::Command(order)),
                _ => self.report_power(&order, Err("the controller answered: try later".into())),
            };
        }
        if self.is_dead_leg(order.board, order.leg) {
            return self.report_power(&order, Err("no answer".into()));
        }
        // Already so: nothing is sent that could act later. A command that
        // changes nothing seen cannot be seen to have landed either.
        let reading = self.read(order.board, order.leg);
        if reading.shows(order.want) {
            return self.report_power(&order, Ok(reading));
        }
        order.witnessed = reading != Reading::Unknown;
        self.send_command(order);
    }

    fn boot_params(&mut self, order: &Order) -> Result<Option<AgentParams>, Option<String>> {
        if self.boards[order.board].kind == Kind::NetBoot {
            return Ok(None); // its firmware will ask
        }
        let request = Event::BootRequest { machine: order.machine.clone(), lane: true };
        match self.ask_daemon(order.epoch, request) {
            Some(Answer::Boot(BootAnswer::Agent(params))) => Ok(Some(params)),
            None | Some(Answer::Boot(BootAnswer::NotKnown(_))) => Err(None),
            Some(other) => Err(Some(super::trace::shown(&other))),
        }
    }

    /// What ails the board's controller now.
    fn controller_trouble(&mut self, board: usize) -> Option<Chance> {
        let number = board / BOARDS_PER_CONTROLLER;
        let who = Who::controller(number);
        if let Some(trouble) = self.controllers.get(&number).filter(|t| t.until > self.now) {
            return Some(trouble.what);
        }
        let kinds = [Chance::ControllerBusy, Chance::ControllerRefuses, Chance::ControllerFull];
        let what = kinds.into_iter().find(|kind| self.happens(who, *kind))?;
        let until = self.now + self.dice.between(who, Pick::Duration, 10_000, 600_000);
        self.controllers.insert(number, Trouble { what, until });
        Some(what)
    }

    fn send_command(&mut self, order: Box<Order>) {
        let who = Who::board(order.board);
        let blind = self.is_blind(order.board);
        let within = order.until - self.now;
        if self.happens(who, Chance::PowerRefused) {
            if self.dice.below(who, Pick::Kind, 2) == 0 {
                let delay = self.dice.between(who, Pick::Delay, 1, within.max(2));
                self.fly(delay, &order);
            }
            return self.report_power(&order, Err("the device answered an error".into()));
        }
        if self.boards[order.board].kind == Kind::Spare
            && order.leg == 0
            && self.happens(who, Chance::LegDead)
        {
            let until = self.now + self.dice.between(who, Pick::Duration, 60_000, 3_600_000);
            self.boards[order.board].legs[0].dead_until = until;
            return self.report_power(&order, Err("no answer".into()));
        }
        // What is lost on a leg that nobody can read is never noticed: such
        // legs are for those who can rely on theirs.
        if !blind && self.happens(who, Chance::LegStuck) {
            let until = self.now + self.dice.between(who, Pick::Duration, 60_000, 3_600_000);
            if let Some(leg) = self.boards[order.board].legs.get_mut(order.leg) {
                leg.stuck_until = until;
            }
        }
        let twice = self.happens(who, Chance::PowerTwice);
        if !blind && self.happens(who, Chance::PowerLost) {
            // Accepted, without effect.
        } else if self.is_late(who) {
            // As late as a controller may be by what the limit says of it.
            let linger = self.power_limit(&order.machine);
            for _ in 0..if twice { 2 } else { 1 } {
                let delay = within + self.dice.between(who, Pick::Delay, 1, linger);
                self.fly(delay, &order);
            }
        } else {
            let delay = self.dice.between(who, Pick::Delay, 20, 800);
            self.fly(delay, &order);
            if twice {
                self.fly(delay + 100, &order);
            }
        }
        if blind {
            let assumed = Reading::Assumed(order.want);
            return self.report_power(&order, Ok(assumed));
        }
        if self.config.without == Some(Fence::ReadBack) {
            let reading = if order.want == Switch::On { Reading::On } else { Reading::Off };
            return self.report_power(&order, Ok(reading));
        }
        self.at(1_000, Happening::Judge(order));
        if self.happens(who, Chance::LegFlaps) {
            self.flap_later(who);
        }
    }

    /// Whether the lane of this command still works on it.
    fn is_wanted(&self, order: &Order) -> bool {
        let row = self.daemon.store.shadow.machine(&order.machine);
        let leg = row.and_then(|m| m.legs.get(order.leg));
        let open = leg.is_some_and(|l| l.unsettled.iter().any(|i| i.id == order.intent && i.open));
        self.is_running(order.epoch) && open
    }

    fn fetch_limit(&self, machine: &MachineName) -> u64 {
        self.file.machines.get(machine).map_or(0, |m| m.fetch_ms())
    }

    fn power_limit(&self, machine: &MachineName) -> u64 {
        self.file.machines.get(machine).map_or(10_000, |m| m.limits.power_ms)
    }

    fn fly(&mut self, delay: u64, order: &Order) {
        let flight = Flight { at: self.now + delay, epoch: order.epoch, intent: order.intent, again: false };
        self.boards[order.board].inflight.push(flight);
        self.at(delay, Happening::Land(Box::new(order.clone())));
    }

    /// The hardware acts on a command.
    pub(super) fn land(&mut self, order: &Order) {
        let now = self.now;
        let board = &mut self.boards[order.board];
        let is_this = |f: &Flight| f.epoch == order.epoch && f.intent == order.intent;
        let Some(this) = board.inflight.iter().position(|f| f.at <= now && is_this(f)) else {
            return; // it was read back that it had been obeyed
        };
        board.inflight.remove(this);
        board.inflight.iter_mut().filter(|f| is_this(f)).for_each(|f| f.again = true);
        if board.legs.get(order.leg).is_none_or(|l| l.stuck_until > now) {
            return;
        }
        if self.is_dead_leg(order.board, order.leg) {
            return; // a command that waits in a device without power is lost
        }
        let was = self.boards[order.board].on();
        self.boards[order.board].flaked = false;
        self.set_leg(order.board, order.leg, order.want, order.boot, order.params.clone());
        if !was && self.boards[order.board].on() {
            self.boards[order.board].started = Some(now);
            self.fuse_holds(order.board);
        }
    }

    /// Whether a leg cannot answer: its device is dead, or has no power itself.
    fn is_dead_leg(&self, board: usize, leg: usize) -> bool {
        let board = &self.boards[board];
        let behind = board.kind == Kind::Spare && leg == 0;
        behind && (board.legs[0].dead_until > self.now || !board.legs[1].on)
    }

    /// The runner looks whether it happened.
    pub(super) fn judge(&mut self, order: Box<Order>) {
        if self.is_asleep(order.epoch) {
            return self.at(1_000, Happening::Judge(order));
        }
        let reading = self.read(order.board, order.leg);
        if reading.shows(order.want) {
            let obeyed = |f: &Flight| f.again && f.epoch == order.epoch && f.intent == order.intent;
            self.boards[order.board].inflight.retain(|f| !obeyed(f));
            return self.report_power(&order, Ok(reading));
        }
        if self.now >= order.until {
            return self.report_power(&order, Ok(reading));
        }
        self.at(1_000, Happening::Judge(order));
    }

    pub(super) fn is_blind(&self, board: usize) -> bool {
        self.boards[board].kind == Kind::Blind
    }

    fn read(&mut self, board: usize, leg: usize) -> Reading {
        let full = self.controllers.get(&(board / BOARDS_PER_CONTROLLER));
        let full = full.is_some_and(|t| t.until > self.now && t.what == Chance::ControllerFull);
        let full = full || self.is_dead_leg(board, leg);
        if full || self.is_blind(board) || self.happens(Who::board(board), Chance::PowerUnreadable) {
            return Reading::Unknown;
        }
        match self.boards[board].legs.get(leg) {
            Some(leg) if leg.on => Reading::On,
            Some(_) => Reading::Off,
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

    fn flap_later(&mut self, who: Who) {
        let board = who.board_number();
        let begin = self.dice.between(who, Pick::Delay, 1_000, 300_000);
        let times = self.dice.between(who, Pick::Kind, 2, 8) as u32;
        self.at(begin, Happening::Flap { board, times });
    }

    /// A leg changes by itself.
    pub(super) fn flap(&mut self, board: usize, times: u32) {
        let who = Who::board(board);
        let legs = self.boards[board].legs.len() as u64;
        if !self.boards[board].inflight.is_empty() {
            return self.at(5_000, Happening::Flap { board, times });
        }
        let leg = self.dice.below(who, Pick::Which, legs) as usize;
        let want = if self.boards[board].legs[leg].on { Switch::Off } else { Switch::On };
        self.boards[board].flaked = true;
        self.note(|| format!("board {board} leg {leg} goes {want:?} by itself"));
        self.set_leg(board, leg, want, Boot::Disk, None);
        if times > 1 && !self.dice.calm {
            let pause = self.dice.between(who, Pick::Delay, 500, 30_000);
            self.at(pause, Happening::Flap { board, times: times - 1 });
        }
    }
}
