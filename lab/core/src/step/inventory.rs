//! The start of a daemon, and what a changed inventory means.

use super::Step;
use crate::effect::Effect;
use crate::id::Epoch;
use crate::inventory::model::{Inventory, MachineSpec};
use crate::machine::{Health, Machine, Phase, Stage, Switch};
use crate::record::Change;
use pitstop_wire::{ApiError, Code, MachineName, Selector};
use serde_json::{Value, json};
use std::sync::Arc;

impl Step<'_> {
    /// A daemon takes the lab: a new epoch, the inventory as it is now, and
    /// every machine on a turn goes on from what is observed. Machines in
    /// use are left alone.
    pub(crate) fn start(&mut self, inventory: Arc<Inventory>, enrol: bool) {
        let epoch = Epoch(self.epoch().0 + 1);
        self.change(Change::Opened { epoch });
        let now = self.now();
        self.lab.beats.clear();
        let sessions: Vec<_> = self.lab.reservations.keys().copied().collect();
        for id in sessions {
            self.lab.derive(&crate::lab::RowKey::Reservation(id));
        }
        debug_assert!(self.lab.beats.values().all(|at| *at >= now));
        self.declare(inventory, enrol);
        let names: Vec<MachineName> = self.lab.machines.keys().cloned().collect();
        for name in names {
            self.take_up(&name);
        }
    }

    /// What the last daemon left of this machine.
    fn take_up(&mut self, name: &MachineName) {
        let starting = self.machine(name).is_some_and(|m| is_starting(&m));
        self.abandon_all(name, "the daemon restarted");
        let Some(machine) = self.machine(name) else { return };
        if machine.agent.as_ref().is_some_and(|a| a.lost.is_none()) {
            self.change(Change::AgentLost { machine: name.clone() });
        }
        let Some(turn) = machine.turn() else {
            if matches!(machine.stage, Stage::InUse { cycling: true, .. }) || !machine.settled() {
                self.observe_all(name);
            } else if machine.stage == Stage::Free {
                for leg in 0..machine.legs.len() {
                    self.effect(Effect::Observe { machine: name.clone(), leg });
                }
            }
            return;
        };
        let given = turn.attempt.as_ref().is_some_and(|a| a.given);
        let attached = machine.agent.is_some();
        match turn.phase {
            // The commands may never have left: said again, as new intents.
            Phase::Off | Phase::HandOff | Phase::Rest => self.enter(name, turn.phase.clone()),
            // Nothing was given out, so nothing of it can come back.
            Phase::BootAgent if !given => self.start_over(name),
            // The power-on may never have left. To read off then and call it
            // a failure would blame the machine for our death.
            Phase::BootAgent | Phase::Evidence if starting && !attached => self.start_over(name),
            Phase::BootAgent | Phase::Evidence | Phase::Settle if !attached => self.observe_all(name),
            Phase::Settle => self.observe_all(name),
            // The agent resumes with its key and is told its step again.
            Phase::BootAgent | Phase::Evidence | Phase::Disk { .. } | Phase::Seed | Phase::Serve => {}
        }
    }

    /// Takes a new inventory: machines come, change and go.
    pub(crate) fn declare(&mut self, inventory: Arc<Inventory>, enrol: bool) {
        self.lab.inventory = inventory.clone();
        for name in inventory.machines.keys() {
            let known = self.machine(name);
            if known.is_some() && !self.changed_parts(name) {
                if known.is_some_and(|m| m.health == Health::Retired) {
                    self.change(Change::HealthSet { machine: name.clone(), health: Health::New });
                }
                self.retime(name);
                continue;
            }
            // Parts that changed under a tenant, or while a person has the
            // machine out, are seen when that is over.
            match known {
                Some(_) => self.came_to_rest(name),
                None => self.declare_new(name),
            }
        }
        let names: Vec<MachineName> = self.lab.machines.keys().cloned().collect();
        for name in names {
            if enrol && self.machine(&name).is_some_and(|m| m.health == Health::New) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
            }
            if !inventory.machines.contains_key(&name) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Retired });
                self.came_to_rest(&name);
            }
        }
        self.lab.queue_dirty = true;
    }

    /// What the inventory said while somebody had the machine counts now: it
    /// goes if it left, and is new if its parts are others.
    pub(crate) fn came_to_rest(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        if machine.stage != Stage::Free {
            return;
        }
        if machine.health == Health::Retired {
            self.lab.retries.remove(name);
            return self.change(Change::MachineForgotten { machine: name.clone() });
        }
        let drained = matches!(machine.health, Health::Drained { .. });
        if !drained && machine.settled() && self.changed_parts(name) {
            self.declare_new(name);
        }
    }

    /// The machine with the parts that the inventory gives it, observed only
    /// until somebody enrols it.
    pub(crate) fn declare_new(&mut self, name: &MachineName) {
        let Some(spec) = self.spec(name) else { return };
        let change = Change::MachineDeclared {
            machine: name.clone(),
            legs: spec.legs.iter().map(|l| l.name.clone()).collect(),
            disks: spec.disks.iter().map(|d| d.name.clone()).collect(),
            health: Health::New,
        };
        self.change(change);
    }

    /// Whether the inventory gives a machine other legs or disks than it was
    /// enrolled with.
    pub(crate) fn changed_parts(&self, name: &MachineName) -> bool {
        let machine = self.lab.machines.get(name);
        machine.is_some_and(|m| self.spec(name).is_some_and(|s| !same_parts(m, s)))
    }

    pub(crate) fn enrol(&mut self, selector: &Selector) -> Result<Value, ApiError> {
        let new: Vec<MachineName> = (self.lab.machines.values())
            .filter(|m| m.health == Health::New)
            .filter(|m| self.spec(&m.name).is_some_and(|s| selector.matches(&self.lab.facts(m, s))))
            .map(|m| m.name.clone())
            .collect();
        if new.is_empty() {
            return Err(ApiError::new(Code::NotFound, format!("no new machine matches `{selector}`"))
                .hint("pitstop ls state=new"));
        }
        for name in &new {
            self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
        }
        Ok(json!({ "enrolled": new }))
    }
}

/// Whether somebody was at work on a power-on.
fn is_starting(machine: &Machine) -> bool {
    machine.legs.iter().flat_map(|leg| &leg.unsettled).any(|intent| intent.open && intent.want == Switch::On)
}

/// Whether the machine still has the legs and disks it was enrolled with.
fn same_parts(machine: &Machine, spec: &MachineSpec) -> bool {
    machine.legs.iter().map(|l| &l.name).eq(spec.legs.iter().map(|l| &l.name))
        && machine.disks.iter().map(|d| &d.name).eq(spec.disks.iter().map(|d| &d.name))
}
