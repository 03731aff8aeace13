//! Who may watch a machine's consoles, and whose that is what it says.
//!
//! Where the inventory lets anybody watch anything (`watch_consoles = "all"`, unless said), nothing is kept from
//! anybody. Once the lab or one group says less, the lab is *private*: what a machine said belongs to who held it then,
//! and everybody else but an admin sees it from where it became his own, or nobody's.

use crate::id::ReservationId;
use crate::inventory::Point;
use crate::inventory::model::{Inventory, WatchConsoles};
use crate::lab::Lab;
use crate::machine::{Machine, Phase, Stage};
use pitstop_wire::{MachineName, UserName};
use std::collections::BTreeSet;

/// Whose what a machine says now is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A holder's.
    Held(Audience),
    /// Nobody's.
    Nobody,
    /// Nobody has it any more, and what it says may be the last holder's still: it was not seen off since.
    Last,
    /// It runs what an earlier holder left on it, once more, to be written: nobody's but the admins'.
    Left,
}

/// Who may watch what a holder's machine says, besides admins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience {
    /// The reservation that has the machine.
    pub reservation: ReservationId,
    /// Whose it is.
    pub holder: UserName,
    /// Who may watch, the holder too; `None`: everybody.
    pub only: Option<BTreeSet<String>>,
}

impl Audience {
    /// Whether this user may watch.
    #[must_use]
    pub fn admits(&self, user: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(user))
    }
}

impl Lab {
    /// Whose what the machine says now is.
    #[must_use]
    pub fn whose_console(&self, machine: &MachineName) -> Whose {
        let Some(row) = self.machine(machine) else { return Whose::Last };
        // Also of one that somebody is given: until it is off, it is not his.
        if !self.is_seen_off(row) {
            return Whose::Last;
        }
        if row.turn().is_some_and(|t| t.phase == Phase::Flash { writing: true }) {
            return Whose::Left;
        }
        if let Some(id) = row.reservation() {
            let Some(held) = self.reservation(id) else { return Whose::Last };
            let only = self.inventory().may_watch(&held.owner);
            return Whose::Held(Audience { reservation: held.id, holder: held.owner.clone(), only });
        }
        Whose::Nobody
    }

    /// Whether what the machine says now may be quoted to everybody.
    #[must_use]
    pub fn may_quote_console(&self, machine: &MachineName) -> bool {
        if !self.inventory().private_consoles() {
            return true;
        }
        match self.whose_console(machine) {
            Whose::Nobody => true,
            // Until it is handed over, what runs on it is ours.
            Whose::Held(_) => self.machine(machine).and_then(|m| m.turn()).is_some_and(|t| t.phase.runs()),
            Whose::Last | Whose::Left => false,
        }
    }

    /// Whether nothing of what its last holder had run on it runs any more.
    fn is_seen_off(&self, machine: &Machine) -> bool {
        match &machine.stage {
            Stage::Free => self.is_off(machine, self.clock),
            // The next phase begins when off was read; what is done before it
            // is switched off is done to what he left running.
            Stage::Turn(turn) => {
                !matches!(turn.phase, Phase::Off | Phase::Hook { point: Point::BeforeRelease, .. })
            }
            // Warm: booted by us.
            Stage::Ready { .. } | Stage::InUse { .. } => true,
        }
    }
}

impl Inventory {
    /// Whether anybody's console is kept from anybody.
    #[must_use]
    pub fn private_consoles(&self) -> bool {
        let groups = self.groups.values().filter_map(|group| group.watch_consoles);
        groups.chain([self.lab.watch_consoles]).any(|word| word != WatchConsoles::All)
    }

    /// Who may watch the consoles of this holder's machines, he too; `None`: everybody. Where his groups say different
    /// things, the one that admits the fewest counts; the lab's word counts where none of them says any.
    fn may_watch(&self, holder: &UserName) -> Option<BTreeSet<String>> {
        let name = holder.to_string();
        let his = || self.groups.values().filter(|group| group.members.contains(&name));
        let said = his().filter_map(|group| group.watch_consoles).max();
        let members = match said.unwrap_or(self.lab.watch_consoles) {
            WatchConsoles::All => return None,
            WatchConsoles::Holder => Vec::new(),
            WatchConsoles::Group => {
                his().filter(|group| group.watch_consoles == said).flat_map(|g| g.members.clone()).collect()
            }
        };
        Some(members.into_iter().chain([name]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::model::Group;

    fn group(members: &[&str], watch_consoles: Option<WatchConsoles>) -> Group {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        Group { members, select: None, machines: None, priority: None, watch_consoles }
    }

    fn lab(word: WatchConsoles, groups: &[(&str, Group)]) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.lab.watch_consoles = word;
        inventory.groups = groups.iter().map(|(name, group)| ((*name).to_owned(), group.clone())).collect();
        inventory
    }

    fn watch(inventory: &Inventory, holder: &str) -> Option<Vec<String>> {
        let may = inventory.may_watch(&UserName::new(holder).unwrap())?;
        Some(may.into_iter().collect())
    }

    fn names(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn everybody_watches_unless_the_inventory_says_otherwise() {
        let inventory = lab(WatchConsoles::All, &[("firmware", group(&["anna", "tom"], None))]);
        assert!(!inventory.private_consoles());
        assert_eq!(watch(&inventory, "anna"), None);
    }

    #[test]
    fn a_groups_word_is_about_its_members_and_the_labs_about_the_rest() {
        use WatchConsoles::{Group, Holder};
        let firmware = group(&["anna", "tom"], Some(Group));
        let inventory = lab(WatchConsoles::All, &[("firmware", firmware.clone())]);
        assert!(inventory.private_consoles());
        assert_eq!(watch(&inventory, "anna"), names(&["anna", "tom"]));
        assert_eq!(watch(&inventory, "bob"), None);
        let open = group(&["eve"], Some(WatchConsoles::All));
        let inventory = lab(Holder, &[("firmware", firmware), ("open", open)]);
        assert_eq!(watch(&inventory, "tom"), names(&["anna", "tom"]));
        assert_eq!(watch(&inventory, "bob"), names(&["bob"]));
        assert_eq!(watch(&inventory, "eve"), None);
    }

    #[test]
    fn of_several_groups_the_narrowest_counts_with_its_own_members() {
        use WatchConsoles::{All, Group, Holder};
        let groups = [
            ("everybody", group(&["anna", "bob", "tom"], Some(All))),
            ("firmware", group(&["anna", "tom"], Some(Group))),
            ("silent", group(&["anna", "eve"], None)),
            ("secret", group(&["tom"], Some(Holder))),
        ];
        let inventory = lab(All, &groups);
        assert_eq!(watch(&inventory, "anna"), names(&["anna", "tom"]));
        assert_eq!(watch(&inventory, "tom"), names(&["tom"]));
        // The lab's word makes no difference between groups.
        let inventory = lab(Group, &groups[2..3]);
        assert_eq!(watch(&inventory, "anna"), names(&["anna", "eve"]));
        assert_eq!(watch(&inventory, "kim"), names(&["kim"]), "he is in no group");
    }
}
