//! Whether machines can be found for everything at once, whoever has them now.

use crate::lab::Lab;
use crate::machine::Machine;
use crate::reservation::{Ask, Role};

impl Lab {
    /// Whether all that is asked for could be had at once, were all `usable`
    /// machines free, and `stuck` machines of a circuit on for ever; `None`:
    /// it bears all of them.
    pub(crate) fn could_serve(
        &self,
        ask: &Ask,
        usable: impl Fn(&Machine) -> bool,
        stuck: impl Fn(&str) -> Option<usize>,
    ) -> bool {
        let machines: Vec<&Machine> = self.machines.values().map(|m| &**m).filter(|m| usable(m)).collect();
        let fits = |role: &Role| -> Vec<usize> {
            (0..machines.len()).filter(|m| self.suits(machines[*m], role, ask, true)).collect()
        };
        let slots: Vec<Vec<usize>> =
            ask.roles.iter().flat_map(|r| std::iter::repeat_n(fits(r), r.count as usize)).collect();
        let limited: Vec<(&str, usize)> = (self.inventory.circuits.iter())
            .filter_map(|(name, c)| Some((name.as_str(), (c.max_on? as usize).saturating_sub(stuck(name)?))))
            .collect();
        let group = |m: &Machine| {
            let circuit = self.limited(m)?;
            limited.iter().position(|(name, _)| *name == circuit)
        };
        let mut fit = Fit {
            slots: &slots,
            group: machines.iter().map(|m| group(m)).collect(),
            taken: vec![None; machines.len()],
            left: limited.iter().map(|(_, places)| *places).collect(),
        };
        (0..slots.len()).all(|slot| fit.place(slot, &mut Seen::of(&fit)))
    }
}

/// Machines for slots, where circuits bear only so many of them.
struct Fit<'s> {
    /// Which machines would do for each slot.
    slots: &'s [Vec<usize>],
    /// The limited circuit of each machine.
    group: Vec<Option<usize>>,
    /// Whose each machine is.
    taken: Vec<Option<usize>>,
    /// What each circuit still bears.
    left: Vec<usize>,
}

/// What was tried on the way to a machine.
struct Seen {
    machines: Vec<bool>,
    groups: Vec<bool>,
}

impl Seen {
    fn of(fit: &Fit<'_>) -> Self {
        Self { machines: vec![false; fit.taken.len()], groups: vec![false; fit.left.len()] }
    }
}

impl Fit<'_> {
    /// Finds a machine for a slot, moving others aside (Kuhn's augmenting path).
    fn place(&mut self, slot: usize, seen: &mut Seen) -> bool {
        let slots = self.slots;
        for machine in &slots[slot] {
            if std::mem::replace(&mut seen.machines[*machine], true) {
                continue;
            }
            let movable = match self.taken[*machine] {
                Some(other) => self.place(other, seen),
                None => self.take_place(*machine, seen),
            };
            if movable {
                self.taken[*machine] = Some(slot);
                return true;
            }
        }
        false
    }

    /// A place for one machine more on its circuit, where need be by moving
    /// another machine's slot to elsewhere.
    fn take_place(&mut self, machine: usize, seen: &mut Seen) -> bool {
        let Some(group) = self.group[machine] else { return true };
        if self.left[group] > 0 {
            self.left[group] -= 1;
            return true;
        }
        if std::mem::replace(&mut seen.groups[group], true) {
            return false;
        }
        for other in 0..self.taken.len() {
            let Some(slot) = self.taken[other].filter(|_| self.group[other] == Some(group)) else { continue };
            if !std::mem::replace(&mut seen.machines[other], true) && self.place(slot, seen) {
                self.taken[other] = None;
                return true;
            }
        }
        false
    }
}
