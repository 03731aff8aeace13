//! What the boot agent finds, before anything is written: whether this is
//! still the machine that was enrolled.

use super::Step;
use crate::facts::{Baseline, Difference, cleaned, differences, filled, meant_by};
use crate::fence::Fence;
use crate::inventory::model::{DiskMatch, OtherDisks};
use crate::machine::{DiskPlan, FailureClass, Goal, Health, Machine, Purpose, Stage};
use crate::record::Change;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{DiskProof, Hardware, SeenDisk};
use std::sync::Arc;

/// Most differences that one record tells of.
const TOLD: usize = 16;

impl Step<'_> {
    /// The boot agent reports. What it says is compared with what was
    /// enrolled, and only then anything is written.
    pub(super) fn looked(&mut self, name: &MachineName, machine: &Machine, report: Hardware) {
        let report = match cleaned(report) {
            Ok(report) => report,
            Err(what) => {
                return self.fail_phase(name, FailureClass::Agent, &format!("its report is none: {what}"));
            }
        };
        // Those of the row: only they are proven in this turn.
        let extra = report.disks.len().saturating_sub(machine.disks.len());
        let tolerated = self.spec(name).is_some_and(|s| s.other_disks == OtherDisks::Unproven)
            && !machine.reservation().is_some_and(|id| self.wants_clean(id));
        let before = self.lab.differences(machine);
        if machine.hardware.as_ref() != Some(&report) {
            let hardware = Box::new(report.clone());
            self.change(Change::HardwareSeen { machine: name.clone(), hardware });
        }
        if self.drifted(name, &before) {
            return;
        }
        self.fill_baseline(name, machine, &report);
        let proves = machine.turn().is_some_and(|t| t.disks != DiskPlan::Leave);
        if proves && extra > 0 && !tolerated {
            let text =
                format!("{extra} disk(s) that the inventory does not declare: no proof can cover them");
            return self.fail_phase(name, FailureClass::Disk, &text);
        }
        self.phase_done(name);
    }

    /// Whether this is another machine, or has another disk: then the turn
    /// ends here. What else differs is told, once.
    fn drifted(&mut self, name: &MachineName, before: &[Difference]) -> bool {
        let Some(machine) = self.machine(name) else { return false };
        let now = self.lab.differences(&machine);
        let grave: Vec<&str> = now.iter().filter(|d| d.grave).map(|d| d.text.as_str()).collect();
        if !grave.is_empty() && self.fence(Fence::Baseline) {
            let text = sentence(&grave);
            self.fail_phase(name, FailureClass::Drift, &text);
            return true;
        }
        let told = |list: &[Difference]| -> Vec<String> {
            list.iter().filter(|d| !d.grave).take(TOLD).map(|d| d.text.clone()).collect()
        };
        let differences = told(&now);
        if !differences.is_empty() && differences != told(before) {
            self.change(Change::FactsDiffer { machine: name.clone(), differences });
        }
        false
    }

    /// The first report is the baseline; what a later one adds to it, and did
    /// not contradict, is from then on known as well.
    fn fill_baseline(&mut self, name: &MachineName, machine: &Machine, report: &Hardware) {
        let facts = match &machine.baseline {
            Some(known) => filled(&known.facts, report),
            None => report.clone(),
        };
        if machine.baseline.as_ref().is_none_or(|known| known.facts != facts) {
            let baseline = Arc::new(Baseline::of(facts));
            self.change(Change::BaselineSet { machine: name.clone(), baseline, forget: false });
        }
    }

    /// Somebody accepts what a machine is now: one that is new, and one that
    /// is not what was enrolled. What was seen of it last is what he saw.
    pub(super) fn accept(&mut self, name: &MachineName) {
        let Some(machine) = self.machine(name) else { return };
        let at_rest = machine.stage == Stage::Free;
        let forget = at_rest && self.lab.differences(&machine).iter().any(|d| d.grave);
        if let Some(seen) = &machine.hardware {
            let baseline = Arc::new(Baseline::of(seen.clone()));
            if machine.baseline.as_ref() != Some(&baseline) || forget {
                self.change(Change::BaselineSet { machine: name.clone(), baseline, forget });
            }
        }
        let drifted = matches!(&machine.health,
            Health::Quarantined { failure, .. } if failure.class == FailureClass::Drift);
        if machine.health == Health::New || drifted {
            self.change(Change::HealthSet { machine: name.clone(), health: Health::Good });
        }
    }

    /// Whether our agent boots on the machine, and pitstop can have it do so.
    pub(super) fn boots_agent(&self, name: &MachineName) -> bool {
        let switched = self.lab.machines.get(name).is_some_and(|m| !m.legs.is_empty());
        let boots = self.spec(name).is_some_and(|s| s.boot.driver != "power");
        switched && boots && self.is_known(name) && !self.runs_no_agent(name)
    }

    pub(super) fn begin_look(&mut self, name: &MachineName) {
        self.begin_turn(name, Purpose::Look, Goal::Off, None, None, DiskPlan::Leave);
    }

    /// The disk that a disk of the row was when the machine was enrolled.
    fn enrolled(&self, name: &MachineName, disk: usize) -> Option<&SeenDisk> {
        let baseline = self.lab.machines.get(name)?.baseline.as_ref()?;
        let found = meant_by(&self.disk_spec(name, disk)?.matching, &baseline.facts);
        found.filter(|_| self.fence(Fence::Baseline))
    }

    /// How the agent finds a disk: by what the inventory says, and by the
    /// serial number that it was enrolled with. So another one that was put
    /// in its place meanwhile is not written either.
    pub(super) fn find(&self, name: &MachineName, disk: usize) -> Option<pitstop_wire::agent::DiskMatch> {
        let DiskMatch { path, serial, bus, min, max, by: _ } = self.disk_spec(name, disk)?.matching.clone();
        let enrolled = self.enrolled(name, disk).and_then(|d| crate::facts::whole(d.serial.as_ref()?));
        Some(pitstop_wire::agent::DiskMatch {
            path,
            serial: serial.or(enrolled),
            bus,
            min_bytes: min,
            max_bytes: max,
        })
    }

    /// A proof must be about the disk that was enrolled.
    pub(super) fn is_enrolled(
        &self,
        name: &MachineName,
        disk: usize,
        proof: &DiskProof,
    ) -> Result<(), String> {
        let number = self.enrolled(name, disk).and_then(|d| crate::facts::whole(d.serial.as_ref()?));
        match number {
            Some(number) if proof.serial.as_ref() != Some(&number) => {
                Err(format!("{} does not have the serial number that was enrolled", proof.path))
            }
            _ => Ok(()),
        }
    }
}

/// Differences in one text, as evidence.
fn sentence(list: &[&str]) -> String {
    let more = list.len().saturating_sub(TOLD);
    let mut text = list.iter().take(TOLD).copied().collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

impl crate::Lab {
    /// How a machine, as it was seen last, differs from what was enrolled.
    pub fn differences(&self, machine: &Machine) -> Vec<Difference> {
        let (Some(baseline), Some(seen)) = (&machine.baseline, &machine.hardware) else { return Vec::new() };
        let disks = self.spec(&machine.name).map(|s| s.disks.as_slice()).unwrap_or_default();
        differences(disks, &baseline.facts, seen)
    }

    /// Whether somebody may accept the machine as it is: it is new, or at rest
    /// and not what was enrolled.
    pub fn acceptable(&self, machine: &Machine) -> bool {
        machine.health == Health::New
            || (machine.stage == Stage::Free && !self.differences(machine).is_empty())
    }
}
