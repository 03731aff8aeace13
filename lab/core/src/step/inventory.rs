//! The start of a daemon, and what a changed inventory means.

use super::Step;
use crate::effect::{Boot, Effect};
use crate::id::Epoch;
use crate::inventory::model::Inventory;
use crate::machine::{Failure, FailureClass, Health, Machine, Phase, Stage, Switch};
use crate::record::{Change, Part, Parts};
use pitstop_wire::{ApiError, Code, MachineName, Selector};
use serde_json::{Value, json};
use std::sync::Arc;

impl Step<'_> {
    /// A daemon takes the lab: a new epoch, the inventory as it is now, and
    /// every machine on a turn goes on from what is observed. Machines in
    /// use are left alone.
    pub(crate) fn start(&mut self, inventory: Arc<Inventory>, enrol: bool) {
        let epoch = Epoch(self.epoch().0 + 1);
        let now = self.now();
        let away = now - self.lab.meta.now;
        self.change(Change::Opened { epoch });
        self.nobody_was_there(away);
        for machine in self.names() {
            if self.machine(&machine).is_some_and(|m| !m.settled()) {
                self.change(Change::LandingMoved { machine, ms: away, all: true });
            }
        }
        self.lab.beats.clear();
        self.lab.checks.clear();
        let checked = self.lab.machines.values().filter(|m| m.wiring.is_some()).map(|m| m.name.clone());
        for name in checked.collect::<Vec<_>>() {
            self.retime(&name);
        }
        let sessions: Vec<_> = self.lab.reservations.keys().copied().collect();
        for id in sessions {
            self.lab.derive(&crate::lab::RowKey::Reservation(id));
        }
        debug_assert!(self.lab.beats.values().all(|at| *at >= now));
        self.declare(inventory, enrol);
        for name in self.names() {
            self.take_up(&name);
        }
    }

    /// What the last daemon left of this machine.
    fn take_up(&mut self, name: &MachineName) {
        let starting = self.machine(name).is_some_and(|m| is_starting(&m));
        self.abandon_all(name, super::RESTARTED);
        self.programs_after_start(name);
        let Some(machine) = self.machine(name) else { return };
        if machine.agent.as_ref().is_some_and(|a| a.lost.is_none()) {
            self.change(Change::AgentLost { machine: name.clone() });
        }
        let Some(turn) = machine.turn() else {
            if !self.is_known(name) {
                // What its name means now was never his to switch.
            } else if matches!(machine.stage, Stage::InUse { cycling: true, .. }) {
                // Its off may never have left. Where it is off already,
                // nothing is sent.
                self.switch_all(name, Switch::Off, Boot::AsIs);
            } else if !machine.settled() {
                self.observe_all(name);
            } else if machine.stage == Stage::Free && self.lab.asks_again(name).is_none() {
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
            // It may have been run, or half of it: once more.
            Phase::Hook { .. } => self.enter(name, turn.phase.clone()),
            // Off, until nothing of the last programmer can act any more.
            Phase::Flash { .. } => self.start_over(name),
            // Nothing was given out, so nothing of it can come back.
            Phase::BootAgent if !given => self.start_over(name),
            // The power-on may never have left. To read off then and call it
            // a failure would blame the machine for our death.
            Phase::BootAgent | Phase::Evidence if starting && !attached => self.start_over(name),
            // Nobody watched meanwhile, and what was said will not be said again.
            Phase::Evidence if self.is_watched_for(name) => self.start_over(name),
            Phase::BootAgent | Phase::Evidence | Phase::Settle if !attached => self.observe_all(name),
            Phase::Settle | Phase::AfterHooks => self.observe_all(name),
            // The agent resumes with its key and is told its step again.
            Phase::BootAgent
            | Phase::Evidence
            | Phase::Start { .. }
            | Phase::Disk { .. }
            | Phase::Seed
            | Phase::Serve
            | Phase::Check => {}
        }
    }

    /// Takes a new inventory: machines come, change and go.
    pub(crate) fn declare(&mut self, inventory: Arc<Inventory>, enrol: bool) {
        self.lab.is_about(&inventory);
        for name in inventory.machines.keys() {
            // One that left and is back, whatever with, is not forgotten.
            if self.machine(name).is_some_and(|m| m.health == Health::Retired) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::New });
            }
            let known = self.machine(name);
            match known {
                Some(_) if !self.changed_parts(name) => self.retime(name),
                Some(machine) => self.parts_changed(name, &machine),
                None => self.declare_new(name),
            }
            self.hangs_on(name);
        }
        for name in self.names() {
            let new = self.machine(&name).is_some_and(|m| m.health == Health::New);
            if enrol && new && self.under_another_name(&name).is_none() {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
            }
            if !inventory.machines.contains_key(&name) {
                self.change(Change::HealthSet { machine: name.clone(), health: Health::Retired });
                self.came_to_rest(&name);
            }
        }
        self.lab.queue_dirty = true;
    }

    /// Where a machine hangs, and whether its power is still cut by a spare
    /// leg: as the inventory says it now.
    fn hangs_on(&mut self, name: &MachineName) {
        let Some((machine, spec)) = self.machine(name).zip(self.spec(name)) else { return };
        let (circuit, spare) = (spec.circuit.clone(), spec.spare_leg().is_some());
        if machine.circuit != circuit {
            self.change(Change::CircuitSet { machine: name.clone(), circuit });
        }
        if machine.cut.is_some() && !spare {
            let reason = "its legs are switched together from now on".to_owned();
            self.change(Change::CutOver { machine: name.clone(), reason });
        }
    }

    /// Other legs or disks under a known name. Nobody has accepted that these
    /// are switched and erased, so whatever was under way ends here, without
    /// a command. A tenant keeps his machine, and a drain its word, until
    /// that is over.
    fn parts_changed(&mut self, name: &MachineName, machine: &Machine) {
        let failure = || Failure {
            class: FailureClass::Power,
            phase: "reload".into(),
            evidence: "its legs or disks are others in the inventory now: it must be enrolled again".into(),
        };
        match &machine.stage {
            Stage::Free => {
                self.came_to_rest(name);
                self.retime(name); // it is not to be had any more
            }
            Stage::InUse { .. } => {}
            Stage::Turn(_) | Stage::Ready { .. } => {
                if let Some(id) = machine.reservation() {
                    self.member_failed(id, name, &failure(), false);
                }
                self.leave_alone(name);
            }
        }
    }

    /// Nobody's any more, and not to be touched: what the inventory now means
    /// by its name is not what is known of it.
    pub(crate) fn leave_alone(&mut self, name: &MachineName) {
        self.dismiss(name, "its legs or disks are others in the inventory now");
        self.stop_program(name, "its legs or disks are others in the inventory now");
        self.change(Change::Freed { machine: name.clone(), good: false });
        if self.machine(name).is_some_and(|m| matches!(m.health, Health::Good | Health::Quarantined { .. })) {
            self.change(Change::HealthSet { machine: name.clone(), health: Health::New });
        }
        self.came_to_rest(name);
    }

    /// What the inventory said while somebody had the machine counts now: it
    /// goes if it left, and is new if its parts are others.
    pub(crate) fn came_to_rest(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        if machine.stage != Stage::Free {
            return;
        }
        if machine.health == Health::Retired && machine.settled() {
            self.lab.retries.remove(name);
            let heirs = self.heirs(&machine);
            self.change(Change::MachineForgotten { machine: name.clone() });
            return heirs.iter().for_each(|heir| self.observe_all(heir));
        }
        let drained = matches!(machine.health, Health::Drained { .. });
        if !drained && machine.settled() && self.changed_parts(name) {
            self.declare_new(name);
        }
    }

    /// The machine with the parts that the inventory gives it, observed only
    /// until somebody enrols it.
    pub(crate) fn declare_new(&mut self, name: &MachineName) {
        let Some(Parts { legs, disks }) = self.lab.parts.get(name).cloned() else { return };
        let change = Change::MachineDeclared { machine: name.clone(), legs, disks, health: Health::New };
        self.change(change);
        // Others on its circuit may wait for what it is.
        self.observe_all(name);
    }

    pub(crate) fn changed_parts(&self, name: &MachineName) -> bool {
        self.lab.machines.get(name).is_some_and(|m| self.lab.changed_parts(m))
    }

    /// Whether what is known of the machine is still what its name means.
    pub(crate) fn is_known(&self, name: &MachineName) -> bool {
        self.lab.machines.get(name).is_some_and(|m| self.lab.is_known(m))
    }

    pub(crate) fn enrol(&mut self, selector: &Selector, listed: &[MachineName]) -> Result<Value, ApiError> {
        let new: Vec<MachineName> = (self.lab.machines.values())
            .filter(|m| self.lab.acceptable(m))
            .filter(|m| self.spec(&m.name).is_some_and(|s| selector.matches(&self.lab.facts(m, s))))
            .map(|m| m.name.clone())
            .collect();
        if new.is_empty() {
            let text = format!("no new machine matches `{selector}`, and none that is not what it was");
            return Err(ApiError::new(Code::NotFound, text).hint("pitstop ls state=new"));
        }
        if let Some(other) = new.iter().find(|n| !listed.contains(n)) {
            let text = format!("{other} is new since the list was made: nobody has seen its disks listed");
            return Err(ApiError::new(Code::Conflict, text).hint("look at the list again"));
        }
        for name in &new {
            if let Some(old) = self.under_another_name(name) {
                let text = format!("{name} is what {} was called, which is not at rest yet", old.name);
                return Err(ApiError::new(Code::Conflict, text).hint(format!("pitstop why {}", old.name)));
            }
        }
        for name in &new {
            self.accept(name);
        }
        Ok(json!({ "enrolled": new }))
    }

    /// Machines of the inventory that have the legs of one that left it.
    fn heirs(&self, left: &Machine) -> Vec<MachineName> {
        let shares = |m: &Machine| m.legs.iter().any(|l| left.legs.iter().any(|o| o.identity == l.identity));
        let listed = self.lab.machines.values().filter(|m| self.spec(&m.name).is_some());
        listed.filter(|m| shares(m)).map(|m| m.name.clone()).collect()
    }

    /// The machine that has one of this one's legs under a name that left the
    /// inventory: somebody may hold it, or a command to it may still land. A
    /// leg that several machines of the inventory seem to share tells none
    /// of them apart.
    pub(crate) fn under_another_name(&self, name: &MachineName) -> Option<Arc<Machine>> {
        if self.lab.machines.len() <= self.lab.inventory.machines.len() {
            return None; // nearly always: none has left it
        }
        let has = |m: &Machine, leg: &str| m.legs.iter().any(|l| l.identity == leg);
        let listed = |m: &Machine| self.lab.inventory.machines.contains_key(&m.name);
        let machine = self.lab.machines.get(name)?;
        let telling =
            |leg: &str| !self.lab.machines.values().any(|m| m.name != *name && listed(m) && has(m, leg));
        let legs: Vec<&str> =
            machine.legs.iter().map(|l| l.identity.as_str()).filter(|leg| telling(leg)).collect();
        self.lab.machines.values().find(|m| !listed(m) && legs.iter().any(|leg| has(m, leg))).cloned()
    }
}

impl crate::Lab {
    /// Whether the inventory gives a machine other legs or disks than it was
    /// enrolled with: nobody has accepted that those are switched and erased.
    pub(crate) fn changed_parts(&self, machine: &Machine) -> bool {
        self.parts.get(&machine.name).is_some_and(|parts| !same_parts(machine, parts))
    }
}

/// Whether somebody was at work on a power-on.
fn is_starting(machine: &Machine) -> bool {
    machine.legs.iter().flat_map(|leg| &leg.unsettled).any(|intent| intent.open && intent.want == Switch::On)
}

/// Whether the machine still has the legs and disks it was enrolled with.
fn same_parts(machine: &Machine, Parts { legs, disks }: &Parts) -> bool {
    let is = |name: &str, identity: &str, part: &Part| name == part.name && identity == part.identity;
    machine.legs.len() == legs.len()
        && machine.disks.len() == disks.len()
        && machine.legs.iter().zip(legs).all(|(l, part)| is(&l.name, &l.identity, part))
        && machine.disks.iter().zip(disks).all(|(d, part)| is(&d.name, &d.identity, part))
}
