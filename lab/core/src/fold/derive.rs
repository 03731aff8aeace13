//! What follows from the rows: who is free, who waits, what is due when. Never stored.

use crate::id::ReservationId;
use crate::inventory::model::{MachineSpec, OnAgentLost};
use crate::lab::{Lab, RowKey, Timer};
use crate::machine::{Content, FailureClass, Health, Machine, Phase, Stage};
use crate::reservation::{Hold, Status};
use crate::step::AGENT_LOST_IN_TURN;
use crate::time::LabTime;
use pitstop_wire::MachineName;
use std::collections::BTreeSet;

impl Lab {
    /// Derives everything from the rows, after loading.
    pub(crate) fn derive_all(&mut self) {
        let keys: Vec<RowKey> = (self.machines.keys().cloned().map(RowKey::Machine))
            .chain(self.reservations.keys().copied().map(RowKey::Reservation))
            .chain(self.images.keys().cloned().map(RowKey::Image))
            .collect();
        for key in keys {
            self.derive(&key);
        }
        self.queue_dirty = true;
        // Who waits to start is looked at in the first step.
        for circuit in self.on_circuit.keys().cloned().collect::<Vec<_>>() {
            self.set_timer(Timer::Circuit(circuit), Some(self.meta.now));
        }
    }

    /// Brings the indexes of one row up to date.
    pub(crate) fn derive(&mut self, key: &RowKey) {
        match key {
            RowKey::Machine(name) => self.derive_machine(name),
            RowKey::Reservation(id) => self.derive_reservation(*id),
            RowKey::Image(name) => {
                self.queue_dirty = true;
                let trials = self.images.get(name).into_iter().flat_map(|i| i.trouble.values());
                let due = trials.filter_map(|t| t.suspect).filter(|s| !s.trial).map(|s| s.again).min();
                self.set_timer(Timer::Image(name.clone()), due);
            }
            RowKey::Key(_) => {}
        }
    }

    fn derive_machine(&mut self, name: &MachineName) {
        let machine = self.machines.get(name);
        let free = machine.is_some_and(|m| {
            m.health == Health::Good
                && m.pause.is_none()
                && m.wiring.is_none()
                && !m.proof_asked
                && (matches!(m.stage, Stage::Free)
                    || matches!(m.stage, Stage::Ready { reservation: None, .. }))
                && self.inventory.machines.contains_key(name)
                // Last: it costs most.
                && !self.changed_parts(m)
        });
        if free {
            self.queue_dirty |= self.free.insert(name.clone());
        } else {
            self.free.remove(name);
        }
        if free && machine.is_some_and(|m| matches!(m.stage, Stage::Ready { .. })) {
            self.warm.insert(name.clone());
        } else {
            self.warm.remove(name);
        }
        if machine.is_some_and(|m| m.wiring.is_some()) {
            // A check that this daemon has not heard of yet counts as just heard.
            let heard = self.meta.now + crate::wiring::SILENCE;
            self.checks.entry(name.clone()).or_insert(heard);
        } else {
            self.checks.remove(name);
        }
        let due = self.machines.get(name).and_then(|m| self.machine_due(m));
        self.derive_circuit(name);
        self.set_timer(Timer::Machine(name.clone()), due);
    }

    /// Where the machine hangs; and what changes about one at rest may be a
    /// place for who waits.
    fn derive_circuit(&mut self, name: &MachineName) {
        let machine = self.machines.get(name);
        let circuit = machine.and_then(|m| m.circuit.as_deref());
        if !self.on_circuit.is_empty() {
            let elsewhere = |(c, all): (&String, &BTreeSet<MachineName>)| {
                (Some(c.as_str()) != circuit && all.contains(name)).then(|| c.clone())
            };
            for old in self.on_circuit.iter().filter_map(elsewhere).collect::<Vec<_>>() {
                self.queue_dirty = true;
                if let Some(all) = self.on_circuit.get_mut(&old) {
                    all.remove(name);
                    if all.is_empty() {
                        self.on_circuit.remove(&old);
                    }
                }
            }
        }
        if let Some(circuit) = circuit {
            match self.on_circuit.get_mut(circuit) {
                Some(all) => drop(all.insert(name.clone())),
                None => drop(self.on_circuit.insert(circuit.to_owned(), BTreeSet::from([name.clone()]))),
            }
        }
        let waits = |m: &Machine| match &m.stage {
            Stage::Turn(turn) => matches!(turn.phase, Phase::Start { .. }),
            Stage::InUse { cycling, .. } => *cycling,
            _ => false,
        };
        if machine.is_some_and(|m| m.circuit.is_some() && waits(m)) {
            self.starters.insert(name.clone());
        } else {
            self.starters.remove(name);
        }
        if machine.is_some_and(|m| m.proof_asked) {
            self.queue_dirty |= self.asked.insert(name.clone());
        } else {
            self.asked.remove(name);
        }
        let rests =
            machine.filter(|m| matches!(m.stage, Stage::Free | Stage::Ready { reservation: None, .. }));
        self.queue_dirty |= rests.is_some_and(|m| self.limited(m).is_some());
    }

    fn machine_due(&self, machine: &Machine) -> Option<LabTime> {
        let retry = self.retries.get(&machine.name).copied();
        // A command that nobody works on is looked at when its time is over,
        // and then as often as `retries` says, not at every tick.
        let landing = (machine.legs.iter())
            .flat_map(|leg| &leg.unsettled)
            .map(|i| i.may_land_until)
            .min()
            .map(|at| retry.map_or(at, |r| at.max(r)));
        let pause = machine.pause.map(|p| p.until);
        let lost = machine.agent.as_ref().and_then(|a| a.lost);
        let stage = match &machine.stage {
            Stage::Free => {
                // Where its power is cut: when that was long enough.
                let dark = retry.filter(|_| machine.cut.is_some());
                [self.proof_due(machine), dark].into_iter().flatten().min()
            }
            Stage::Turn(turn) => {
                let lost = lost.map(|at| at + AGENT_LOST_IN_TURN);
                let waits = !turn.phase.awaits_attach() && !turn.phase.wants_off();
                [Some(turn.deadline), retry, lost.filter(|_| waits)].into_iter().flatten().min()
            }
            Stage::Ready { until, .. } => *until,
            Stage::InUse { reservation, cycling, .. } => {
                let patience =
                    lost.and_then(|at| self.agent_patience(*reservation, machine).map(|ms| at + ms));
                // A cycle goes on when its off was read, or was long enough.
                [patience, retry.filter(|_| *cycling)].into_iter().flatten().min()
            }
        };
        let check = self.checks.get(&machine.name).copied();
        [landing, pause, stage, check].into_iter().flatten().min()
    }

    /// When a machine at rest is to be proven by itself.
    pub(crate) fn proof_due(&self, machine: &Machine) -> Option<LabTime> {
        let spec = self.inventory.machines.get(&machine.name)?;
        if machine.proof_asked {
            return None; // as soon as there is a place
        }
        let due = match &machine.health {
            _ if machine.wiring.is_some() => return None,
            // Whatever hangs on its outlet now is not ours to switch again and again.
            Health::Quarantined { failure, .. } if failure.class == FailureClass::Drift => return None,
            // A proof erases. What is kept for the next holder, only a person may give up.
            Health::Quarantined { .. } | Health::Good if self.keeps_disks(machine, spec) => return None,
            Health::Quarantined { again, .. } => *again,
            Health::Good => {
                let due = machine.checked.unwrap_or(machine.since) + spec.health.as_ref()?.every_ms;
                machine.pause.map_or(due, |pause| due.max(pause.until))
            }
            Health::New | Health::Drained { .. } | Health::Retired => return None,
        };
        Some(self.retries.get(&machine.name).map_or(due, |retry| due.max(*retry)))
    }

    /// Whether a holder's bytes are on the machine's disks, by a policy that keeps them there.
    pub(crate) fn keeps_disks(&self, machine: &Machine, spec: &MachineSpec) -> bool {
        let used = machine.disks.iter().any(|d| matches!(d.content, Content::Used { .. }));
        used && self.inventory.may_keep(spec)
    }

    /// After how long a silence in use the reservation fails, if it does.
    pub(crate) fn agent_patience(&self, id: ReservationId, machine: &Machine) -> Option<u64> {
        let reservation = self.reservations.get(&id)?;
        if machine.agent.as_ref().is_some_and(|a| a.excused) {
            return None;
        }
        if let Some(ms) = reservation.ask.agent_lost {
            return Some(ms);
        }
        let role = reservation.ask.hold.role();
        match self.inventory.on_agent_lost(self.inventory.machines.get(&machine.name)?, role) {
            OnAgentLost::Ignore => None,
            OnAgentLost::FailAfter { ms } => Some(ms),
        }
    }

    fn derive_reservation(&mut self, id: ReservationId) {
        // One that is forgotten had ended, and was taken off all lists then.
        let Some(row) = self.reservations.get(&id).cloned() else { return };
        let place = (std::cmp::Reverse(row.ask.priority), id);
        if row.status == Status::Waiting {
            self.queue_dirty |= self.waiting.insert(place);
        } else {
            // An elder that leaves sets free what it kept from the younger.
            self.queue_dirty |= self.waiting.remove(&place);
        }
        if let Status::Ended { at, .. } = row.status {
            self.ended.insert((at, id));
            self.beats.remove(&id);
            self.set_timer(Timer::Reservation(id), None);
            return;
        }
        if let Hold::Session { silence } = row.ask.hold {
            // A session that this daemon has not heard of yet counts as just heard.
            let heard = self.meta.now + silence;
            self.beats.entry(id).or_insert(heard);
        }
        let patience = match row.status {
            Status::Waiting | Status::Preparing => row.ask.patience.map(|ms| row.created + ms),
            Status::Ready { unclaimed_until } => Some(unclaimed_until),
            _ => None,
        };
        let due = [self.beats.get(&id).copied(), row.ends, patience].into_iter().flatten().min();
        self.set_timer(Timer::Reservation(id), due);
    }

    pub(crate) fn set_timer(&mut self, timer: Timer, due: Option<LabTime>) {
        let before = match due {
            Some(at) => self.due.insert(timer.clone(), at),
            None => self.due.remove(&timer),
        };
        if before == due {
            return;
        }
        if let Some(at) = before {
            self.timers.remove(&(at, timer.clone()));
        }
        if let Some(at) = due {
            self.timers.insert((at, timer));
        }
    }
}
