//! The step: one event in, records, effects and an answer out.
//!
//! Each file here handles one kind of event; they share [`Step`], which
//! turns every decision into a record at once, so that later decisions of
//! the same step see it.

mod agent;
mod blame;
mod boot;
mod circuit;
mod due;
mod facts;
mod holder;
mod inventory;
mod power;
mod program;
mod request;
mod reservation;
mod restored;
mod spare;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
mod wiring;

use crate::effect::Effect;
use crate::event::{Answer, Event, Moment};
use crate::fence::Fence;
use crate::id::Epoch;
use crate::inventory::model::{DiskSpec, Limits, MachineSpec};
use crate::lab::{Lab, Outcome, RowKey};
use crate::machine::{Machine, Turn};
use crate::record::{Actor, Change, Record};
use crate::time::LabTime;
use pitstop_wire::MachineName;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long the agent of a turn may be away before the phase fails (ms).
pub(crate) const AGENT_LOST_IN_TURN: u64 = 60_000;
/// What is noted of a power command that a later one took the place of.
pub(crate) const SUPERSEDED: &str = "superseded";
/// What is noted of one whose daemon ended.
pub(crate) const RESTARTED: &str = "the daemon restarted";
/// Failed tries of a turn after which it is given up.
pub(crate) const TRIES: u32 = 2;
/// Machines that may fail one reservation before it is ended.
pub(crate) const MACHINES_PER_RESERVATION: usize = 3;
/// Ended reservations that stay among the rows; their records stay anyway.
pub(crate) const ENDED_KEPT: usize = 1_000;
/// Idempotency keys that are remembered.
pub(crate) const KEYS_KEPT: usize = 20_000;

/// A step under way.
pub(crate) struct Step<'a> {
    pub lab: &'a mut Lab,
    pub moment: &'a Moment,
    pub actor: Actor,
    records: Vec<Record>,
    touched: BTreeSet<RowKey>,
    pub effects: Vec<Effect>,
    draws: u32,
}

/// Decides about one event.
pub(crate) fn step(lab: &mut Lab, moment: &Moment, event: Event) -> Outcome {
    let mut step = Step {
        lab,
        moment,
        actor: Actor::Lab,
        records: Vec::new(),
        touched: BTreeSet::new(),
        effects: Vec::new(),
        draws: 0,
    };
    step.lab.clock = step.lab.clock.max(moment.now);
    let answer = step.event(event);
    step.look_at_queue();
    step.start_next();
    Outcome { records: step.records, touched: step.touched, effects: step.effects, answer }
}

impl Step<'_> {
    fn event(&mut self, event: Event) -> Answer {
        match event {
            Event::Start { inventory, enrol } => self.start(inventory, enrol),
            Event::StartRestored { inventory, enrol, floor } => {
                self.lab.is_about(&inventory);
                self.doubt_rows(floor);
                self.start(inventory, enrol);
            }
            Event::Drain => self.lab.draining = true,
            Event::Tick => self.tick(),
            Event::Gap(ms) => self.gap(ms),
            Event::Request(caller, request) => return self.request(&caller, request),
            Event::Fact { epoch, fact } => {
                self.actor = Actor::Driver;
                // Facts of an earlier daemon answer questions that this one
                // did not ask: its intents may have been superseded since.
                if epoch == self.lab.meta.epoch || !self.fence(Fence::Epoch) {
                    self.fact(fact);
                }
            }
            Event::Hello(hello) => return self.hello(hello),
            Event::Agent { machine, nonce, boot_id, report } => {
                self.actor = Actor::Machine(machine.clone());
                self.report(&machine, &nonce, &boot_id, report);
            }
            Event::BootRequest { machine, lane } => {
                self.actor = Actor::Machine(machine.clone());
                return self.boot_request(&machine, lane);
            }
        }
        Answer::None
    }

    /// Makes a change true.
    pub(crate) fn change(&mut self, change: Change) {
        let epoch = match &change {
            Change::Opened { epoch } | Change::Restored { epoch, .. } => *epoch,
            _ => self.lab.meta.epoch,
        };
        let record = Record {
            number: self.lab.meta.records + 1,
            at: self.moment.now,
            wall: self.moment.wall,
            epoch,
            actor: self.actor.clone(),
            change,
        };
        self.touched.extend(self.lab.apply(&record));
        self.records.push(record);
    }

    /// Has an effect leave after the commit.
    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn now(&self) -> LabTime {
        self.moment.now
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.lab.meta.epoch
    }

    pub(crate) fn fence(&self, fence: Fence) -> bool {
        self.lab.fences.stands(fence)
    }

    /// Every machine's name, to change them one after the other.
    pub(crate) fn names(&self) -> Vec<MachineName> {
        self.lab.machines.keys().cloned().collect()
    }

    pub(crate) fn machine(&self, name: &MachineName) -> Option<Arc<Machine>> {
        self.lab.machines.get(name).cloned()
    }

    pub(crate) fn turn(&self, name: &MachineName) -> Option<Turn> {
        self.lab.machines.get(name)?.turn().cloned()
    }

    pub(crate) fn spec(&self, name: &MachineName) -> Option<&MachineSpec> {
        self.lab.inventory.machines.get(name)
    }

    /// What the inventory says of a machine's disk. By name, since the
    /// inventory may have changed while somebody held the machine.
    pub(crate) fn disk_spec(&self, name: &MachineName, disk: usize) -> Option<&DiskSpec> {
        let row = self.lab.machines.get(name)?.disks.get(disk)?;
        self.spec(name)?.disks.iter().find(|d| d.name == row.name)
    }

    /// The machine's limits; defaults for one that left the inventory while
    /// somebody held it.
    pub(crate) fn limits(&self, name: &MachineName) -> Limits {
        self.spec(name).map(|s| s.limits.clone()).unwrap_or_default()
    }

    /// A fresh nonce.
    pub(crate) fn nonce(&mut self) -> String {
        self.draws += 1;
        self.moment.entropy.nonce(&format!("nonce {}", self.draws))
    }

    /// A fresh token.
    pub(crate) fn token(&mut self) -> String {
        self.draws += 1;
        self.moment.entropy.token(&format!("token {}", self.draws))
    }

    /// Has the timers of a machine computed anew after something that is
    /// not a row changed.
    pub(crate) fn retime(&mut self, name: &MachineName) {
        self.lab.derive(&RowKey::Machine(name.clone()));
    }
}
