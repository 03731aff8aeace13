//! The admin: takes machines out and puts them back, and changes the
//! inventory while people use it.

use super::clients::admin;
use super::dice::{Chance, Pick, Who};
use super::labs::{self, IMAGES, Kind};
use super::{Happening, Sim};
use crate::event::{Event, PowerAction, Request};
use crate::id::ReservationId;
use crate::machine::{FailureClass, Health};
use pitstop_wire::{MachineName, Selector};
use std::sync::Arc;

/// Those that nobody has enrolled.
fn new() -> Selector {
    "health=new".parse().unwrap_or_default()
}

impl Sim {
    /// The admin's round: each thing that may be done about a machine is
    /// thought about.
    pub(super) fn admin_round(&mut self) {
        let who = Who::ADMIN;
        let pause = self.dice.between(who, Pick::Pause, 60_000, 600_000);
        self.at(pause, Happening::Admin);
        let Some(lab) = &self.daemon.lab else { return };
        let machines: Vec<(MachineName, Health)> =
            lab.machines().map(|m| (m.name.clone(), m.health.clone())).collect();
        let holding: Option<ReservationId> =
            lab.reservations().find(|r| !r.members.is_empty() && !r.ended()).map(|r| r.id);
        for (machine, health) in machines {
            if self.sees_to_drift(&machine) || self.checks_wires(&machine) {
                continue;
            }
            let request = match health {
                Health::Quarantined { .. } if self.happens(who, Chance::Proves) => Request::Prove(machine),
                Health::Drained { .. } if self.happens(who, Chance::Undrains) => Request::Undrain(machine),
                Health::Drained { .. } | Health::New if self.happens(who, Chance::Repairs) => {
                    let action = self.dice.one(who, Pick::Kind, &[PowerAction::On, PowerAction::Off]);
                    Request::Power { machine, action, force: Some("to look at it".into()) }
                }
                Health::Good if self.happens(who, Chance::ProvesGood) => Request::Prove(machine),
                Health::Good | Health::Quarantined { .. } if self.happens(who, Chance::Drains) => {
                    Request::Drain { machine, reason: "fan noise".into() }
                }
                _ => continue,
            };
            self.ask_as_admin(request);
        }
        if self.happens(who, Chance::Enrols) {
            self.enrol_new();
        }
        if let Some(reservation) = holding
            && self.happens(who, Chance::Forces)
        {
            self.ask_as_admin(Request::Release { reservation, force: Some("I need it".into()) });
        }
        if self.happens(who, Chance::ForgetsImage) {
            let name = self.dice.one(who, Pick::Which, &IMAGES).to_owned();
            self.ask_as_admin(Request::ForgetImage(name));
        }
        if self.happens(who, Chance::Trusts) {
            let name = self.dice.one(who, Pick::Which, &IMAGES).to_owned();
            self.ask_as_admin(Request::TrustImage(name));
        }
        if self.happens(who, Chance::RestoresImages) {
            self.add_missing_images();
        }
        if self.happens(who, Chance::Reloads) {
            self.edit_inventory();
            self.ask_as_admin(Request::Reload(self.file.clone()));
        }
    }

    fn ask_as_admin(&mut self, request: Request) {
        self.route(Event::Request(admin(), request));
    }

    fn add_missing_images(&mut self) {
        let there = self.daemon.lab.as_ref().map_or(IMAGES.len(), |l| l.images().len());
        if there < IMAGES.len() {
            self.add_images();
        }
    }

    fn enrol_new(&mut self) {
        let Some(lab) = &self.daemon.lab else { return };
        let listed: Vec<MachineName> =
            lab.machines().filter(|m| m.health == Health::New).map(|m| m.name.clone()).collect();
        if !listed.is_empty() {
            self.ask_as_admin(Request::Enrol { select: new(), listed });
        }
    }

    /// A machine is not what it was: what was swapped is put back, or it is
    /// accepted as it is. Whether he went to it.
    fn sees_to_drift(&mut self, machine: &MachineName) -> bool {
        let Some(lab) = &self.daemon.lab else { return false };
        let differs = |lab: &crate::Lab| lab.machine(machine).is_some_and(|m| !lab.differences(m).is_empty());
        if !differs(lab) {
            return false;
        }
        let Some(board) = self.board_of(machine) else { return false };
        if !self.boards[board].on() && self.happens(Who::ADMIN, Chance::PutsRight) {
            self.boards[board].put_right();
            return true;
        }
        let accepts = self.happens(Who::ADMIN, Chance::Accepts);
        if accepts {
            self.accept(machine);
        }
        accepts
    }

    /// What is there now stays there.
    fn accept(&mut self, machine: &MachineName) {
        if let Some(board) = self.board_of(machine) {
            self.boards[board].before = None;
        }
        let enrol = Request::Enrol { select: Selector::name(machine), listed: vec![machine.clone()] };
        self.ask_as_admin(enrol);
    }

    /// Begins a check of wires.
    fn checks_wires(&mut self, machine: &MachineName) -> bool {
        if !self.happens(Who::ADMIN, Chance::ChecksWires) {
            return false;
        }
        self.ask_as_admin(Request::WiringBegin(machine.clone()));
        self.at(1_000, Happening::Check(machine.clone(), 6));
        true
    }

    /// Beats and does something, until it is done, or killed.
    pub(super) fn check_goes_on(&mut self, machine: MachineName, left: u32) {
        let who = Who::ADMIN;
        if self.happens(who, Chance::CheckDies) {
            return;
        }
        self.ask_as_admin(Request::WiringBeat(machine.clone()));
        if left == 0 {
            return self.ask_as_admin(Request::WiringEnd(machine));
        }
        let power = |action| {
            let force = Some("wiring check".to_owned());
            Request::Power { machine: machine.clone(), action, force }
        };
        match self.dice.below(who, Pick::Kind, 5) {
            0 => self.ask_as_admin(power(PowerAction::On)),
            1 => self.ask_as_admin(power(PowerAction::Off)),
            2 | 3 => self.ask_as_admin(Request::WiringLook(machine.clone())),
            _ => {}
        }
        let pause = self.dice.between(who, Pick::Pause, 1_000, 20_000);
        self.at(pause, Happening::Check(machine, left - 1));
    }

    /// Some line of the inventory is changed.
    fn edit_inventory(&mut self) {
        let who = Who::ADMIN;
        let number = self.dice.below(who, Pick::Which, self.plans.len() as u64) as usize;
        let edit = self.dice.below(who, Pick::Kind, 6);
        // One that has another name, and another outlet or disk, at once, is
        // another machine to whoever reads the inventory.
        let plain = self.is_plain(number);
        let plan = &mut self.plans[number];
        let what = match edit {
            _ if !plan.listed => {
                plan.listed = true;
                "put back"
            }
            0 | 1 => {
                plan.listed = false;
                "removed"
            }
            // Of one without legs nothing shows that it is the same.
            2 if plan.kind != Kind::Legless && plain => {
                plan.names += 1;
                let name = format!("m{number}{}", ["", "-new", "-newer"][plan.names as usize % 3]);
                if let Ok(name) = MachineName::new(&name) {
                    plan.name = name;
                }
                "renamed"
            }
            3 if plain => {
                plan.legs += 1;
                "given another outlet"
            }
            4 => {
                plan.disks += 1;
                "given another disk"
            }
            _ => "left as it is",
        };
        let name = plan.name.clone();
        self.note(|| format!("board {number}, {name}, is {what} in the inventory"));
        self.names.insert(name, number);
        self.file = Arc::new(labs::inventory(&self.plans, &self.policies, &self.circuits));
    }

    /// Whether the lab has the board under this name alone, and as the
    /// inventory describes it.
    fn is_plain(&self, number: usize) -> bool {
        let Some(lab) = &self.daemon.lab else { return false };
        let current = &self.plans[number].name;
        let old = |(name, board): (&MachineName, &usize)| {
            *board == number && name != current && lab.machine(name).is_some()
        };
        let same = match (lab.machine(current), self.file.machines.get(current)) {
            (Some(row), Some(spec)) => {
                row.legs.iter().zip(&spec.legs).all(|(l, s)| l.identity == s.driver.identity())
                    && row.disks.iter().zip(&spec.disks).all(|(d, s)| d.identity == s.matching.identity())
            }
            _ => true,
        };
        same && !self.names.iter().any(old)
    }

    /// Nothing is left out of use: what the admin took out comes back.
    pub(super) fn put_all_back(&mut self) {
        if self.plans.iter().any(|p| !p.listed) {
            self.plans.iter_mut().for_each(|p| p.listed = true);
            self.file = Arc::new(labs::inventory(&self.plans, &self.policies, &self.circuits));
        }
        if self.daemon.lab.as_ref().is_some_and(|l| !Arc::ptr_eq(l.inventory(), &self.file)) {
            self.ask_as_admin(Request::Reload(self.file.clone()));
        }
        self.add_missing_images();
        let Some(lab) = &self.daemon.lab else { return };
        let machines: Vec<(MachineName, Health)> =
            lab.machines().map(|m| (m.name.clone(), m.health.clone())).collect();
        for (machine, health) in machines {
            match health {
                Health::Quarantined { failure, .. } if failure.class == FailureClass::Drift => {
                    self.accept(&machine);
                }
                Health::Quarantined { .. } => self.ask_as_admin(Request::Prove(machine)),
                Health::Drained { .. } => self.ask_as_admin(Request::Undrain(machine)),
                _ => {}
            }
        }
        self.enrol_new();
    }
}
