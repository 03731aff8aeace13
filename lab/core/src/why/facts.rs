//! Why, as far as a machine is not what it was, or its wires are checked.

use super::{Why, experience, words};
use crate::Lab;
use crate::machine::{FailureClass, Health, Machine};
use crate::time::LabTime;

impl Lab {
    /// Of one that is not what was enrolled: who may say that it is right.
    pub(super) fn why_drifted(&self, m: &Machine, why: &mut Why) {
        why.say("it is not proven by itself: what hangs on its power is not what was enrolled");
        why.tell(
            "where it is meant to be so, an admin accepts what was found",
            format!("pitstop admin enrol name={}", m.name),
        );
    }

    /// When one in quarantine is proven by itself, or why never.
    pub(super) fn why_not_proven(&self, m: &Machine, again: LabTime, now: LabTime, why: &mut Why) {
        match self.spec(&m.name).is_some_and(|spec| self.keeps_disks(m, spec)) {
            true => why.say("it is not proven by itself: that would erase what is kept on its disks"),
            false => experience::again(m, again, now, why),
        }
    }

    /// What is not as it was, and keeps nobody from using the machine.
    pub(super) fn why_different(&self, m: &Machine, why: &mut Why) {
        let differences = self.differences(m);
        // In quarantine they are its evidence.
        let told = matches!(&m.health,
            Health::Quarantined { failure, .. } if failure.class == FailureClass::Drift);
        let news = differences.iter().filter(|d| !(told && d.grave)).peekable();
        for difference in news {
            why.tell(
                format!("since it was enrolled: {}", difference.text),
                format!("pitstop admin enrol name={}", m.name),
            );
        }
    }

    /// Whose check of its wires keeps others from having it.
    pub(super) fn why_checked(&self, m: &Machine, now: LabTime, why: &mut Why) {
        let Some(wiring) = &m.wiring else { return };
        let left = self.checks.get(&m.name).map_or(0, |at| *at - now);
        why.say(format!(
            "{} checks the wires of {}: it is put back after that, or if nothing is heard of the check for {}",
            wiring.by,
            m.name,
            words(left)
        ));
    }
}
