//! A check of wires: an admin has a machine for himself, switches it and has
//! our agent report from it. It is put back when he is done, and as well when
//! nothing is heard of him any more.

use super::Step;
use super::circuit::Room;
use crate::effect::Boot;
use crate::event::Caller;
use crate::machine::{Health, Machine, Phase, Purpose, Stage, Switch};
use crate::record::{Actor, Change};
use crate::wiring::SILENCE;
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::{Value, json};
use std::sync::Arc;

impl Step<'_> {
    /// From now on nobody gets the machine, until the check is over.
    pub(crate) fn begin_wiring(&mut self, caller: &Caller, name: &MachineName) -> Result<Value, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        if let Some(wiring) = &machine.wiring {
            let mut error =
                ApiError::new(Code::Conflict, format!("{} checks the wires of {name} already", wiring.by))
                    .hint("a check that was cut off ends by itself within seconds");
            error.retry_after = Some(SILENCE / 1_000);
            return Err(error);
        }
        let idle = matches!(machine.health, Health::Good | Health::New | Health::Drained { .. });
        if machine.stage != Stage::Free || !idle {
            let text = format!("the wires of {name} cannot be checked now: it is {}", machine.state());
            return Err(ApiError::new(Code::Conflict, text)
                .hint("only machines that are free, new or drained are switched"));
        }
        if !self.is_known(name) || machine.legs.is_empty() {
            let text = format!("{name} has no legs that the inventory knows");
            return Err(ApiError::new(Code::Conflict, text).hint(format!("pitstop why {name}")));
        }
        if self.room_for(&machine) != Room::Now {
            return Err(self.no_room(&machine, "switched on to check its wires"));
        }
        self.change(Change::WiringBegun { machine: name.clone(), by: caller.user.clone() });
        Ok(json!({ "machine": name, "silence_ms": SILENCE, "agent": self.boots_agent(name) }))
    }

    /// His check, if it is still going on.
    fn his_wiring(&self, caller: &Caller, name: &MachineName) -> Result<Arc<Machine>, ApiError> {
        let machine = self.machine(name).ok_or_else(|| self.no_machine(name))?;
        match &machine.wiring {
            Some(wiring) if wiring.by == caller.user => Ok(machine),
            Some(wiring) => {
                Err(ApiError::new(Code::Held, format!("{} checks the wires of {name}", wiring.by))
                    .holder(wiring.by.to_string()))
            }
            None => Err(ApiError::new(
                Code::Conflict,
                format!("the wires of {name} are not being checked any more"),
            )
            .hint(format!("pitstop events {name}"))),
        }
    }

    /// The check lives. Not stored.
    pub(crate) fn beat_wiring(&mut self, caller: &Caller, name: &MachineName) -> Result<Value, ApiError> {
        self.his_wiring(caller, name)?;
        let due = self.now() + SILENCE;
        self.lab.checks.insert(name.clone(), due);
        self.retime(name);
        Ok(json!({ "machine": name }))
    }

    /// Has our agent boot and report.
    pub(crate) fn look_wiring(&mut self, caller: &Caller, name: &MachineName) -> Result<Value, ApiError> {
        let machine = self.his_wiring(caller, name)?;
        if machine.stage != Stage::Free {
            return Err(ApiError::new(Code::Conflict, format!("{name} is {} already", machine.state())));
        }
        if !self.boots_agent(name) {
            return Err(ApiError::new(Code::Conflict, format!("{name} runs no agent that could report")));
        }
        self.begin_look(name);
        let turn = self.turn(name).map(|t| t.number);
        Ok(json!({ "machine": name, "turn": turn }))
    }

    /// He is done.
    pub(crate) fn end_wiring_by(&mut self, caller: &Caller, name: &MachineName) -> Result<Value, ApiError> {
        // Ended twice is ended: the answer may have been lost.
        if self.machine(name).is_some_and(|m| m.wiring.is_none()) {
            return Ok(json!({ "machine": name }));
        }
        self.his_wiring(caller, name)?;
        self.end_wiring(name, "done");
        Ok(json!({ "machine": name }))
    }

    /// Nothing was heard of him for too long.
    pub(crate) fn wiring_is_due(&mut self, name: &MachineName) {
        let due = self.lab.checks.get(name).is_some_and(|at| *at <= self.now());
        if due && self.machine(name).is_some_and(|m| m.wiring.is_some()) {
            self.actor = Actor::Time;
            self.end_wiring(name, "nothing was heard of it any more");
        }
    }

    /// Puts the machine back: off, and whoever waits for it may have it. What
    /// was proven of it is not any more where it was switched on.
    fn end_wiring(&mut self, name: &MachineName, why: &str) {
        self.change(Change::WiringEnded { machine: name.clone(), why: why.to_owned() });
        let Some(machine) = self.machine(name) else { return };
        match &machine.stage {
            Stage::Turn(turn)
                if turn.purpose == Purpose::Look && !matches!(turn.phase, Phase::Rest | Phase::Settle) =>
            {
                self.enter(name, Phase::Rest);
            }
            Stage::Free
                if self.is_known(name) && !(self.lab.is_off(&machine, self.now()) && machine.settled()) =>
            {
                self.switch_all(name, Switch::Off, Boot::AsIs);
            }
            _ => {}
        }
        self.came_to_rest(name);
    }
}
