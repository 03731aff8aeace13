//! The queue: priority, then age, all or nothing.
//!
//! Reservations are served in order. One that cannot be served in full keeps
//! its claim on the free machines it found (as a matching that later claims
//! may rearrange, never shrink), so that nobody behind it can starve it, and
//! nobody behind it waits for a machine it could do without.

use crate::id::ReservationId;
use crate::inventory::model::{AfterBuild, MachineSpec};
use crate::lab::Lab;
use crate::machine::{DiskPlan, Goal, Health, Machine, Purpose, Stage};
use crate::record::Change;
use crate::reservation::{Ask, CleanLevel, Reservation, Role, Status, Want};
use crate::step::Step;
use pitstop_wire::MachineName;
use pitstop_wire::selector::{Facts, TagValue};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A machine as selectors see it.
pub struct MachineFacts<'a> {
    machine: &'a Machine,
    spec: &'a MachineSpec,
    holder: Option<String>,
}

impl Facts for MachineFacts<'_> {
    fn tag(&self, key: &str) -> Option<&TagValue> {
        self.spec.tags.get(key)
    }

    fn name(&self) -> &str {
        self.machine.name.as_str()
    }

    fn special(&self, key: &str) -> Option<Cow<'_, str>> {
        match key {
            "name" => Some(self.machine.name.as_str().into()),
            "state" => Some(self.machine.state().into()),
            "clean" => Some(self.machine.clean().into()),
            "health" => Some(health_word(&self.machine.health).into()),
            "holder" => self.holder.clone().map(Cow::from),
            _ => None,
        }
    }

    fn any_tag_value(&self, word: &str) -> bool {
        self.spec.tags.values().any(|v| v.is(word))
    }
}

/// Health in one word.
pub fn health_word(health: &Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::New => "new",
        Health::Quarantined { .. } => "quarantined",
        Health::Drained { .. } => "drained",
        Health::Retired => "retired",
    }
}

/// A place of a reservation that wants a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    reservation: ReservationId,
    role: usize,
    number: u32,
}

/// Which slot claims which free machine.
#[derive(Default)]
struct Claims {
    by_machine: BTreeMap<MachineName, Slot>,
}

impl Lab {
    /// The facts selectors look at.
    pub fn facts<'a>(&self, machine: &'a Machine, spec: &'a MachineSpec) -> MachineFacts<'a> {
        let holder =
            machine.reservation().and_then(|id| self.reservations.get(&id)).map(|r| r.owner.to_string());
        MachineFacts { machine, spec, holder }
    }

    /// Free machines that may serve a role now. One that failed this very
    /// reservation was quarantined for it; if it is free again it was proven.
    fn candidates<'a>(&'a self, row: &'a Reservation, role: usize) -> impl Iterator<Item = &'a MachineName> {
        self.free.iter().filter(move |name| {
            self.machines.get(*name).is_some_and(|m| self.suits(m, &row.ask.roles[role], &row.ask, false))
        })
    }

    /// Finds a machine for a slot, moving earlier claims aside where they
    /// have another choice (Kuhn's augmenting path).
    fn augment(&self, claims: &mut Claims, slot: Slot, visited: &mut Vec<MachineName>) -> bool {
        let Some(row) = self.reservations.get(&slot.reservation) else { return false };
        if let Some(name) = self.candidates(row, slot.role).find(|n| !claims.by_machine.contains_key(*n)) {
            claims.by_machine.insert(name.clone(), slot);
            return true;
        }
        let taken: Vec<MachineName> = self.candidates(row, slot.role).cloned().collect();
        for name in taken {
            if visited.contains(&name) {
                continue;
            }
            visited.push(name.clone());
            let Some(other) = claims.by_machine.get(&name).copied() else { continue };
            if self.augment(claims, other, visited) {
                claims.by_machine.insert(name, slot);
                return true;
            }
        }
        false
    }

    /// For `why`: the free machines this reservation's elders keep.
    pub fn kept_for_elders(&self, id: ReservationId) -> BTreeMap<MachineName, ReservationId> {
        let mut claims = Claims::default();
        for (_, elder) in self.waiting.iter().take_while(|(_, r)| *r != id) {
            self.claim_slots(&mut claims, *elder);
        }
        claims.by_machine.into_iter().map(|(m, s)| (m, s.reservation)).collect()
    }

    /// Claims what a waiting reservation needs; whether it got all.
    fn claim_slots(&self, claims: &mut Claims, id: ReservationId) -> bool {
        let Some(row) = self.reservations.get(&id) else { return false };
        let slots = row
            .ask
            .roles
            .iter()
            .enumerate()
            .flat_map(|(role, r)| (0..r.count).map(move |number| Slot { reservation: id, role, number }));
        let mut all = true;
        for slot in slots {
            all &= self.augment(claims, slot, &mut Vec::new());
        }
        all
    }

    /// A hint for a role that nothing matches: which single term stands in
    /// the way.
    pub(crate) fn nearly(&self, role: &Role, _ask: &Ask) -> Option<String> {
        let facts: Vec<MachineFacts<'_>> = (self.machines.values())
            .filter_map(|m| Some(self.facts(m, self.inventory.machines.get(&m.name)?)))
            .collect();
        let misses = role.select.near_misses(facts.iter().map(|f| f as &dyn Facts));
        let first = misses.relaxed.first()?;
        let machine = first.machines.first()?;
        Some(format!("without {}: {machine} would do", first.term))
    }
}

impl Step<'_> {
    /// Serves what can be served, in order.
    pub(crate) fn look_at_queue(&mut self) {
        if !self.lab.queue_dirty {
            return;
        }
        self.lab.queue_dirty = false;
        if self.lab.waiting.is_empty() || self.lab.free.is_empty() {
            return;
        }
        let mut claims = Claims::default();
        let mut served = Vec::new();
        for (_, id) in self.lab.waiting.iter() {
            if self.lab.claim_slots(&mut claims, *id) {
                served.push(*id);
            }
            if claims.by_machine.len() >= self.lab.free.len() {
                break;
            }
        }
        for id in served {
            let granted: Vec<(MachineName, usize)> = (claims.by_machine.iter())
                .filter(|(_, slot)| slot.reservation == id)
                .map(|(name, slot)| (name.clone(), slot.role))
                .collect();
            for (name, role) in granted {
                self.grant(id, &name, role);
            }
        }
        self.lab.queue_dirty = false;
    }

    /// A failed member's place goes to a free machine, if there is one that
    /// no elder reservation keeps.
    pub(crate) fn replace_member(&mut self, id: ReservationId) -> bool {
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return false };
        if row.wanted() == 1 {
            return false; // a single one simply goes back to its place
        }
        let kept = self.lab.kept_for_elders(id);
        for (role, wanted) in row.ask.roles.iter().enumerate() {
            let has = row.members.iter().filter(|m| m.role == role).count();
            if has >= wanted.count as usize {
                continue;
            }
            let found = self.lab.candidates(&row, role).find(|n| !kept.contains_key(*n)).cloned();
            let Some(name) = found else { return false };
            self.grant(id, &name, role);
        }
        true
    }

    fn grant(&mut self, id: ReservationId, name: &MachineName, role: usize) {
        let Some(row) = self.lab.reservations.get(&id).cloned() else { return };
        let Some(machine) = self.machine(name) else { return };
        debug_assert!(matches!(row.status, Status::Waiting | Status::Preparing));
        self.change(Change::Granted { reservation: id, machine: name.clone(), role });
        let image = row.ask.image.clone().or_else(|| self.default_image(name));
        if let Stage::Ready { reservation: None, image: warm, .. } = &machine.stage
            && row.ask.want == Want::Image
            && warm.as_ref().map(|i| &i.digest) == image.as_ref().map(|i| &i.digest)
            && machine.agent.as_ref().is_some_and(|a| a.lost.is_none())
        {
            self.change(Change::WarmTaken { machine: name.clone(), reservation: id });
            return self.member_ready(id, name);
        }
        let goal = match row.ask.want {
            Want::Bare => Goal::Off,
            Want::Agent => Goal::Agent,
            Want::Image => Goal::Image,
        };
        let disks = self.prepare_plan(name, &machine, &row);
        self.begin_turn(name, Purpose::Prepare, goal, Some(id), image, disks);
    }

    /// What the hand-over needs of the disks: a proof, unless the machine is
    /// off and proven since, or the reservation takes it as it is.
    fn prepare_plan(&self, name: &MachineName, machine: &Arc<Machine>, row: &Reservation) -> DiskPlan {
        let role = row.ask.hold.role();
        let keep =
            self.spec(name).is_some_and(|s| self.lab.inventory.after_build(s, role) == AfterBuild::Keep);
        if keep && row.ask.clean == CleanLevel::Any {
            return DiskPlan::Leave;
        }
        if row.ask.want == Want::Bare && machine.all_proven() {
            return DiskPlan::Leave;
        }
        DiskPlan::Prove
    }
}

#[cfg(test)]
mod tests;
