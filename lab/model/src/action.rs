//! What may happen next, and its doing.

use crate::fault::Fault;
use crate::world::{At, Link, Told, World};
use pitstop_core::effect::Boot;
use pitstop_core::event::PowerAction;
use pitstop_core::machine::{Health, Stage};
use pitstop_core::reservation::Status;

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub what: Move,
    /// Whether the daemon dies of the event that this is to it.
    pub death: Death,
}

/// When in a step the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It does not.
    None,
    /// After it decided, before it committed.
    BeforeCommit,
    /// After the commit, before its answer and effects left.
    AfterCommit,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// A client asks for its reservation, again if it heard nothing.
    Reserve(usize),
    /// A client comes for its machine.
    Claim(usize),
    /// A client gives up what it has, or its place in the queue.
    Release(usize),
    /// A holder switches power.
    Switch(usize, PowerAction),
    /// A holder has the machine written again.
    Reimage(usize),
    /// The admin has a quarantined machine proven.
    Prove,
    /// The lane sends a power command.
    Send(usize, Sending),
    /// A power command lands.
    Land(usize, Boots),
    /// A runner reads back and reports.
    ReadBack(usize, Arrival),
    /// A reading that was asked for is taken.
    Look(usize, Look),
    /// The agent says hello.
    Hello(Arrival),
    /// The agent finishes its work and says so.
    Finish(Finish),
    /// The agent says again what was not acknowledged.
    Repeat,
    /// A message that was on its way for long arrives.
    Stray(usize),
    /// A power command takes its time.
    SlowOrder(usize),
    /// The agent takes its time.
    SlowAgent,
    /// The agent's connection breaks.
    Cut,
    /// The machine reboots by itself.
    Reboot,
    /// Another disk is put in the place of its own.
    Swap,
    /// The daemon dies between two events.
    Crash,
    /// The daemon is stopped, and another one will take its place.
    Stop,
    /// A daemon starts.
    Restart,
    /// A daemon starts after an hour.
    LateRestart,
    /// A stopped daemon wakes.
    Wake,
    /// The daemon judges what is due.
    Tick,
    /// Nothing happens until something is due.
    Wait,
}

/// What becomes of a power command as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// It is accepted and will land.
    Accepted,
    /// It is accepted and does nothing.
    Lost,
    /// It is answered with an error and does nothing.
    Refused,
    /// It is answered with an error and will land.
    RefusedAndLands,
}

/// What comes up when power does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    /// What the power command said.
    AsTold,
    /// The machine's own disk.
    ItsDisk,
}

/// How a message arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// At once.
    Prompt,
    /// At any later time.
    Late,
    /// At once, and once more at any later time.
    Twice,
}

/// What a look at power shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// What is, and it arrives so.
    Seen(Arrival),
    /// Nothing.
    Unknown,
}

/// How work ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It is done, and the report arrives so.
    Done(Arrival),
    /// It is done, and the connection breaks under the report.
    Unheard,
    /// The disk cannot be written.
    Broken,
}

impl World {
    /// Everything that may happen next.
    pub fn actions(&self, out: &mut Vec<Action>) {
        self.client_moves(out);
        self.power_moves(out);
        self.agent_moves(out);
        self.daemon_moves(out);
        self.time_moves(out);
    }

    /// An event reaches the daemon, which may die of it.
    fn event(&self, out: &mut Vec<Action>, what: Move, costs: Option<Fault>) {
        out.push(Action { what: what.clone(), death: Death::None });
        let may_die = self.up
            && match costs {
                None => self.faults.may(Fault::Crash),
                Some(fault) => self.faults.may_both(fault, Fault::Crash),
            };
        if may_die {
            out.push(Action { what: what.clone(), death: Death::BeforeCommit });
            out.push(Action { what, death: Death::AfterCommit });
        }
    }

    fn client_moves(&self, out: &mut Vec<Action>) {
        if !self.up {
            return;
        }
        for (client, row) in self.clients.iter().enumerate() {
            match row.told {
                Told::Nothing => self.event(out, Move::Reserve(client), None),
                Told::Accepted(id) => {
                    let status = self.lab.reservation(id).map(|r| &r.status);
                    if matches!(status, Some(Status::Ready { .. })) {
                        self.event(out, Move::Claim(client), None);
                        // To act on it is to come for it.
                        self.holder_moves(out, client);
                    }
                    if !matches!(status, Some(Status::Ended { .. })) {
                        self.event(out, Move::Release(client), None);
                    }
                }
                Told::Claimed(id) => {
                    if self.holder() == Some(id) {
                        self.holder_moves(out, client);
                    }
                    if self.lab.reservation(id).is_some_and(|r| !r.ended()) {
                        self.event(out, Move::Release(client), None);
                    }
                }
                Told::Released(_) => {}
            }
        }
        let quarantined = |m: &pitstop_core::machine::Machine| {
            m.stage == Stage::Free && matches!(m.health, Health::Quarantined { .. })
        };
        if self.proofs > 0 && self.row().is_some_and(|m| quarantined(m)) {
            self.event(out, Move::Prove, None);
        }
    }

    fn holder_moves(&self, out: &mut Vec<Action>, client: usize) {
        if self.clients[client].switches > 0 {
            for action in [PowerAction::On, PowerAction::Off, PowerAction::Cycle] {
                self.event(out, Move::Switch(client, action), None);
            }
        }
        if self.clients[client].reimages > 0 {
            self.event(out, Move::Reimage(client), None);
        }
    }

    fn power_moves(&self, out: &mut Vec<Action>) {
        for (index, order) in self.orders.iter().enumerate() {
            match order.at {
                At::Lane => {
                    self.event(out, Move::Send(index, Sending::Accepted), None);
                    if self.faults.may(Fault::PowerLost) {
                        self.event(out, Move::Send(index, Sending::Lost), Some(Fault::PowerLost));
                    }
                    if self.faults.may(Fault::PowerRefused) {
                        for sending in [Sending::Refused, Sending::RefusedAndLands] {
                            self.event(out, Move::Send(index, sending), Some(Fault::PowerRefused));
                        }
                    }
                }
                At::Sent { flying, watched } => {
                    if flying {
                        out.push(Action { what: Move::Land(index, Boots::AsTold), death: Death::None });
                        if order.boot == Boot::Agent
                            && self.board.disk.boots()
                            && self.faults.may(Fault::WrongBoot)
                        {
                            out.push(Action { what: Move::Land(index, Boots::ItsDisk), death: Death::None });
                        }
                    }
                    if watched && self.may_read_back(order) {
                        self.event(out, Move::ReadBack(index, Arrival::Prompt), None);
                        if self.faults.may(Fault::Stray) {
                            let what = Move::ReadBack(index, Arrival::Late);
                            out.push(Action { what, death: Death::None });
                        }
                    }
                }
            }
            if !order.slow && order.may_land() && self.faults.may(Fault::PowerLate) {
                out.push(Action { what: Move::SlowOrder(index), death: Death::None });
            }
        }
        for index in 0..self.questions.len() {
            self.event(out, Move::Look(index, Look::Seen(Arrival::Prompt)), None);
            if self.faults.may(Fault::Stray) {
                let what = Move::Look(index, Look::Seen(Arrival::Late));
                out.push(Action { what, death: Death::None });
            }
            if self.faults.may(Fault::Unread) {
                self.event(out, Move::Look(index, Look::Unknown), Some(Fault::Unread));
            }
        }
    }

    fn agent_moves(&self, out: &mut Vec<Action>) {
        for index in 0..self.strays.len() {
            if self.up {
                self.event(out, Move::Stray(index), None);
            }
        }
        if self.board.on && self.faults.may(Fault::Reboot) {
            out.push(Action { what: Move::Reboot, death: Death::None });
        }
        if !self.board.on && !self.board.swapped && self.faults.may(Fault::Swap) {
            out.push(Action { what: Move::Swap, death: Death::None });
        }
        let Some(agent) = &self.agent else { return };
        let stray = self.faults.may(Fault::Stray);
        match agent.link {
            Link::Dialling if self.up => {
                self.event(out, Move::Hello(Arrival::Prompt), None);
                if stray {
                    self.event(out, Move::Hello(Arrival::Twice), Some(Fault::Stray));
                }
            }
            Link::Up if agent.doing.is_none() && !agent.results.is_empty() && self.up => {
                self.event(out, Move::Repeat, None);
            }
            _ => {}
        }
        if agent.doing.is_some() {
            self.work_moves(out, agent.link == Link::Up && self.up, stray);
        }
        if agent.link == Link::Up && self.up && self.faults.may(Fault::Cut) {
            out.push(Action { what: Move::Cut, death: Death::None });
        }
        if !agent.slow && self.agent_acts() && self.faults.may(Fault::Slow) {
            out.push(Action { what: Move::SlowAgent, death: Death::None });
        }
    }

    fn work_moves(&self, out: &mut Vec<Action>, heard: bool, stray: bool) {
        self.event(out, Move::Finish(Finish::Done(Arrival::Prompt)), None);
        if heard && stray {
            out.push(Action { what: Move::Finish(Finish::Done(Arrival::Late)), death: Death::None });
            self.event(out, Move::Finish(Finish::Done(Arrival::Twice)), Some(Fault::Stray));
        }
        if heard && self.faults.may(Fault::Cut) {
            out.push(Action { what: Move::Finish(Finish::Unheard), death: Death::None });
        }
        if self.faults.may(Fault::DiskError) {
            self.event(out, Move::Finish(Finish::Broken), Some(Fault::DiskError));
        }
    }

    fn daemon_moves(&self, out: &mut Vec<Action>) {
        let mut push = |what| out.push(Action { what, death: Death::None });
        if self.up {
            if self.faults.may(Fault::Crash) {
                push(Move::Crash);
            }
            if self.stopped.is_none() && self.faults.may(Fault::Stop) {
                push(Move::Stop);
            }
            if self.stopped.is_some() {
                push(Move::Wake);
            }
        } else {
            push(Move::Restart);
            if self.faults.may(Fault::LongDown) && !self.orders.iter().any(|o| o.may_land()) {
                push(Move::LateRestart);
            }
        }
    }

    fn time_moves(&self, out: &mut Vec<Action>) {
        if self.is_due() {
            return self.event(out, Move::Tick, None);
        }
        if self.up && self.waits() && self.next_moment().is_some() {
            out.push(Action { what: Move::Wait, death: Death::None });
        }
    }

    /// Does it. `false`: nothing changed.
    pub(crate) fn act(&mut self, action: Action) -> bool {
        let death = action.death;
        if death != Death::None && !self.faults.spend(Fault::Crash) {
            return false;
        }
        let done = match action.what {
            Move::Reserve(client) => self.reserve(client, death),
            Move::Claim(client) => self.claim(client, death),
            Move::Release(client) => self.release(client, death),
            Move::Switch(client, action) => self.switch(client, action, death),
            Move::Reimage(client) => self.reimage(client, death),
            Move::Prove => self.prove(death),
            Move::Send(order, sending) => self.send(order, sending, death),
            Move::Land(order, boots) => self.land(order, boots),
            Move::ReadBack(order, arrival) => self.read_back(order, arrival, death),
            Move::Look(question, look) => self.look(question, look, death),
            Move::Hello(arrival) => self.hello(arrival, death),
            Move::Finish(finish) => self.finish(finish, death),
            Move::Repeat => self.repeat(death),
            Move::Stray(stray) => self.stray(stray, death),
            Move::SlowOrder(order) => self.slow_order(order),
            Move::SlowAgent => self.slow_agent(),
            Move::Cut => self.cut(),
            Move::Reboot => self.reboot(),
            Move::Swap => self.swap(),
            Move::Crash => self.faults.spend(Fault::Crash) && self.die(),
            Move::Stop => self.stop(),
            Move::Restart => self.restart(),
            Move::LateRestart => self.late_restart(),
            Move::Wake => self.wake(),
            Move::Tick => self.tick(death),
            Move::Wait => self.wait(),
        };
        self.settle_tenants();
        done
    }
}
