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
        for (name, spec) in &inventory.machines {
            let known = self.machine(name);
            if known.as_deref().is_some_and(|m| same_parts(m, spec)) {
                if known.is_some_and(|m| m.health == Health::Retired) {
                    self.change(Change::HealthSet { machine: name.clone(), health: Health::New });
                }
                self.retime(name);
                continue;
            }
            if known.as_deref().is_some_and(|m| m.stage != Stage::Free || !m.settled()) {
                // Its parts changed under a tenant: seen again when it rests.
                continue;
            }
            self.change(Change::MachineDeclared {
                machine: name.clone(),
                legs: spec.legs.iter().map(|l| l.name.clone()).collect(),
                disks: spec.disks.iter().map(|d| d.name.clone()).collect(),
                health: Health::New,
            });
        }
        let names: Vec<MachineName> = self.lab.machines.keys().cloned().collect();
        for name in names {
            if enrol && self.machine(&name).is_some_and(|m| m.health == Health::New) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
            }
            if !inventory.machines.contains_key(&name) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Retired });
                self.forget_if_retired(&name);
            }
        }
        self.lab.queue_dirty = true;
    }

    /// A machine that left the inventory goes when nobody has it any more.
    pub(crate) fn forget_if_retired(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        if machine.health == Health::Retired && machine.stage == Stage::Free {
            self.lab.retries.remove(name);
            self.change(Change::MachineForgotten { machine: name.clone() });
        }
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
