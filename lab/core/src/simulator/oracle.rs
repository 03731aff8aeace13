//! What must hold, judged by someone who sees both the lab and the world.

use super::Sim;
use crate::id::ReservationId;
use crate::lab::{Lab, Outcome};
use crate::machine::{Stage, Switch};
use crate::record::{Actor, Change};
use crate::reservation::{CleanLevel, Want};
use crate::{invariant, machine};
use pitstop_wire::MachineName;

impl Sim {
    /// After every step.
    pub(super) fn check_step(&mut self, out: &Outcome) {
        let Some(lab) = &self.daemon.lab else { return };
        self.report.checks += 1;
        if let Err(text) = invariant::check(lab) {
            return self.violation(text);
        }
        if !lab.free.is_empty()
            && let Some((id, name, _)) = lab.servable().first()
        {
            return self.violation(format!("{id} waits, and could have {name}"));
        }
        let mut wrong = None;
        for record in &out.records {
            let found = match &record.change {
                Change::MachineReady { machine, until: None } => self.handed_over(lab, machine),
                Change::WarmTaken { machine, .. } => self.handed_over(lab, machine),
                Change::PowerIntended { machine, intent, .. } => {
                    power_on_held(lab, machine, intent.want, &record.actor)
                }
                _ => Ok(()),
            };
            wrong = wrong.or(found.err());
        }
        let handed = out.records.iter().filter(|r| matches!(r.change, Change::InUse { .. })).count();
        self.report.handovers += handed as u64;
        if let Some(text) = wrong {
            self.violation(text);
        }
    }

    /// The machine as the world knows it, at the moment it is promised.
    fn handed_over(&self, lab: &Lab, name: &MachineName) -> Result<(), String> {
        let (Some(row), Some(board)) = (lab.machine(name), self.boards.get(name)) else { return Ok(()) };
        let Some(id) = row.reservation() else { return Ok(()) };
        let Some(reservation) = lab.reservation(id) else { return Ok(()) };
        if board.inflight.iter().any(|at| *at > self.now) {
            return Err(format!("{name} is handed to {id} while a power command is still under way"));
        }
        if reservation.ask.want == Want::Bare && board.on() && !board.flaked {
            return Err(format!("{name} is handed to {id} as off, and it is on"));
        }
        if reservation.ask.clean == CleanLevel::Any {
            return Ok(());
        }
        for disk in &board.disks {
            if let Some(other) = disk.tenants.iter().find(|t| **t != id) {
                return Err(format!("{name} is handed to {id} with the bytes of {other} on it"));
            }
            if disk.partial {
                return Err(format!("{name} is handed to {id} with a half written disk"));
            }
        }
        if let Stage::Ready { image: Some(image), .. } | Stage::InUse { image: Some(image), .. } = &row.stage
        {
            let base = board.disks.first().and_then(|d| d.base.clone());
            if base != Some(Some(image.digest.clone())) {
                return Err(format!("{name} is handed to {id} with {base:?} instead of {}", image.name));
            }
        }
        Ok(())
    }

    /// Somebody was told that he has these machines.
    pub(super) fn told_ready(&mut self, id: ReservationId) {
        let Some(lab) = &self.daemon.lab else { return };
        let Some(row) = lab.reservation(id).cloned() else {
            return self.violation(format!("{id} was claimed and does not exist"));
        };
        for member in &row.members {
            let before = self.holders.insert(member.machine.clone(), id);
            let lab = self.daemon.lab.as_ref();
            let still = before.filter(|b| *b != id).and_then(|b| lab?.reservation(b).cloned());
            if still.is_some_and(|b| !b.ended() && b.has(&member.machine)) {
                return self.violation(format!("{} has two holders", member.machine));
            }
        }
    }

    /// Rows and history must agree.
    pub(super) fn check_fold(&mut self) {
        let stored = self.daemon.stored();
        let shadow = self.daemon.shadow.rows();
        self.report.checks += 1;
        if stored == shadow {
            return;
        }
        let differs = stored.rows.iter().zip(&shadow.rows).find(|(a, b)| a != b);
        self.violation(format!("rows are not the fold of the records: {differs:?}"));
    }

    /// When everybody has left and the hardware obeys.
    pub(super) fn check_end(&mut self) {
        if self.report.violation.is_some() {
            return;
        }
        self.check_fold();
        self.report.checks += 1;
        match &self.daemon.lab {
            None => self.violation("the daemon is not running at the end".into()),
            Some(lab) => {
                if let Err(text) = invariant::check_at_rest(lab) {
                    self.violation(format!("not at rest 12 h after the last fault: {text}"));
                }
            }
        }
    }
}

/// While somebody holds a machine, its power is his.
fn power_on_held(lab: &Lab, name: &MachineName, want: Switch, actor: &Actor) -> Result<(), String> {
    let Some(machine::Stage::InUse { reservation, cycling, .. }) = lab.machine(name).map(|m| &m.stage) else {
        return Ok(());
    };
    let second_half = want == Switch::On && *actor == Actor::Driver;
    // A daemon that finds a cycle half done gives its off again.
    let taken_up = *cycling && want == Switch::Off && *actor == Actor::Lab;
    if matches!(actor, Actor::User(_)) || second_half || taken_up {
        return Ok(());
    }
    Err(format!("{name} was switched {want:?} by {actor:?} while {reservation} holds it"))
}
