//! The spare leg: what cuts power in front of a leg that does not obey.
//!
//! ```text
//!   told off twice in vain        reads off, and was for `min_off`       to be switched on
//!   ──────────────────────▶ cut ─────────────────────────────────▶ off ──────────────────▶ spare on, then the first leg
//! ```
//!
//! From the cut until the spare leg is on again nothing is believed of the
//! first one: it has no power itself, or is a device that does what it likes.

use super::Step;
use crate::effect::Boot;
use crate::machine::{Machine, Phase, Reading, Stage, Switch};
use crate::record::Change;
use crate::time::LabTime;
use pitstop_wire::MachineName;

/// How often a leg is told off in vain before another way is taken.
const IN_VAIN: u32 = 2;

impl Step<'_> {
    /// The legs to command, in this order. That another leg is used than
    /// before is recorded.
    pub(super) fn legs_to_switch(&mut self, name: &MachineName, want: Switch) -> Vec<usize> {
        let Some(machine) = self.machine(name) else { return Vec::new() };
        let spare = self.spec(name).and_then(|s| s.spare_leg()).filter(|leg| *leg < machine.legs.len());
        let Some(spare) = spare else { return (0..machine.legs.len()).collect() };
        let others = (0..machine.legs.len()).filter(|leg| *leg != spare).collect();
        match want {
            Switch::Off if machine.cut.is_none() && !self.wants_cut(name) => others,
            Switch::Off if machine.cut.is_some() && machine.legs[spare].in_vain >= IN_VAIN => {
                let reason = format!("{} does not obey either", self.of_leg(name, &machine, spare));
                self.change(Change::CutOver { machine: name.clone(), reason });
                others
            }
            Switch::Off => {
                if machine.cut.is_none() {
                    self.cut(name, &machine, spare);
                }
                vec![spare]
            }
            // What hangs on it comes on when it has power: `spare_is_on`.
            Switch::On if machine.cut.is_some() || reads_off(&machine, spare) => vec![spare],
            Switch::On => others,
        }
    }

    /// Whether the first leg was told off in vain often enough.
    pub(super) fn wants_cut(&self, name: &MachineName) -> bool {
        let Some(machine) = self.lab.machines.get(name).filter(|m| m.cut.is_none()) else { return false };
        let spare = self.spec(name).and_then(|s| s.spare_leg());
        let vain = |(leg, row): (usize, &crate::machine::Leg)| Some(leg) != spare && row.in_vain >= IN_VAIN;
        spare.is_some() && machine.legs.iter().enumerate().any(vain)
    }

    fn cut(&mut self, name: &MachineName, machine: &Machine, spare: usize) {
        let vain = machine.legs.iter().position(|leg| leg.in_vain >= IN_VAIN).unwrap_or_default();
        let said = machine.legs[vain].answer.as_deref().unwrap_or("nothing");
        let leg = self.of_leg(name, machine, vain);
        let times = machine.legs[vain].in_vain;
        let reason =
            format!("{leg} was told off {times} times in vain; it said: {}", super::agent::cut(said));
        self.change(Change::PowerCut { machine: name.clone(), leg: spare, reason });
        let Some(turn) = self.turn(name).filter(|t| t.phase.wants_off()) else { return };
        // Once more as long as a phase has that switches off, and its time off.
        let min_off = self.spec(name).and_then(|s| s.legs.get(spare)).map_or(0, |l| l.min_off_ms);
        let deadline = turn.phase_since + 12 * self.limits(name).power_ms + min_off;
        if deadline > turn.deadline {
            self.change(Change::DeadlineMoved { machine: name.clone(), deadline });
        }
    }

    /// A leg with its driver, in words.
    fn of_leg(&self, name: &MachineName, machine: &Machine, leg: usize) -> String {
        let called = machine.legs.get(leg).map(|l| l.name.as_str()).unwrap_or_default();
        let driver = self.spec(name).and_then(|s| s.legs.get(leg)).map(|l| l.driver.driver.as_str());
        format!("{called} ({})", driver.unwrap_or("no driver"))
    }

    /// The spare leg was switched on, and reads so: what hangs on it has power
    /// again, and is switched on as was wanted.
    pub(super) fn spare_is_on(&mut self, name: &MachineName, leg: usize, want: Switch) {
        let spare = self.spec(name).and_then(|s| s.spare_leg());
        if want != Switch::On || spare != Some(leg) {
            return;
        }
        let Some(machine) = self.machine(name) else { return };
        let boot = match &machine.stage {
            Stage::Turn(turn) if turn.phase == Phase::BootAgent => Boot::Agent,
            Stage::Turn(turn) if matches!(turn.phase, Phase::Evidence | Phase::Flash { .. }) => Boot::Disk,
            Stage::Turn(_) => return,
            _ => Boot::AsIs,
        };
        if machine.cut.is_some() {
            let reason = format!("{} is on again", self.of_leg(name, &machine, leg));
            self.change(Change::CutOver { machine: name.clone(), reason });
        }
        let others: Vec<usize> = (0..machine.legs.len()).filter(|other| *other != leg).collect();
        self.switch_legs(name, &others, Switch::On, boot);
    }

    /// Whether a reading says nothing, being of a leg whose power is cut. That
    /// it is on all the same is believed, once it had time to go off.
    pub(super) fn is_unbelieved(
        &self,
        machine: &Machine,
        leg: usize,
        asked: LabTime,
        reading: Reading,
    ) -> bool {
        if machine.cut.is_none() || self.lab.rules(machine, leg) {
            return false;
        }
        let dark = self.lab.cut_since(machine).is_some_and(|at| at < asked);
        !(dark && reading == Reading::On)
    }

    /// The spare leg reads off, whoever switched it: commands to what hangs on
    /// it, whose time was over by then, are over. That leg itself may never
    /// answer again.
    pub(super) fn settle_behind(&mut self, name: &MachineName, leg: usize, asked: LabTime, reading: Reading) {
        let Some(machine) = self.machine(name) else { return };
        // As any reading: of what the inventory means by its name by now.
        let called = machine.legs.get(leg).map(|l| l.name.as_str());
        let is_spare = self.spec(name).is_some_and(|s| {
            s.spare_leg() == Some(leg) && s.legs.get(leg).map(|l| l.name.as_str()) == called
        });
        let dark = reading == Reading::Off || (machine.cut.is_some() && reading.shows(Switch::Off));
        if !is_spare || !dark {
            return;
        }
        for (behind, row) in machine.legs.iter().enumerate().filter(|(other, _)| *other != leg) {
            for intent in row.unsettled.iter().filter(|i| !i.open && i.may_land_until <= asked) {
                self.change(Change::PowerSettled { machine: name.clone(), leg: behind, intent: intent.id });
            }
        }
    }

    /// The spare leg reads on, no command to it may land any more, and nobody
    /// gives it another: power was not cut after all, and what hangs on it is
    /// believed again.
    pub(super) fn cut_in_vain(&mut self, name: &MachineName, leg: usize, reading: Reading) {
        let Some(machine) = self.machine(name) else { return };
        let rests = machine.turn().is_none() && machine.cut.is_some() && self.lab.rules(&machine, leg);
        if rests && reading == Reading::On && machine.legs[leg].unsettled.is_empty() {
            let reason = format!("{} is on all the same", self.of_leg(name, &machine, leg));
            self.change(Change::CutOver { machine: name.clone(), reason });
        }
    }

    /// Whether power is cut and reads so, and all there is to do is to wait
    /// until that was long enough.
    pub(super) fn waits_without_power(&mut self, name: &MachineName, machine: &Machine) -> bool {
        let Some(at) = self.lab.cut_since(machine).filter(|at| *at > self.now()) else { return false };
        self.ask_later(name, at - self.now());
        true
    }
}

fn reads_off(machine: &Machine, leg: usize) -> bool {
    machine.legs.get(leg).and_then(|l| l.seen).is_some_and(|s| s.reading == Reading::Off)
}
