//! Selectors of requests: read, and compared with what the lab has, so that
//! a typing error is an answer and not an endless wait.

use super::error::{Refusal, not_found, usage};
use pitstop_core::Lab;
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::Machine;
use pitstop_wire::Selector;
use pitstop_wire::selector::Known;
use std::sync::{Arc, Mutex, PoisonError};

/// Words of the keys that are not tags; the core's states.
const STATES: &[&str] = &[
    "free",
    "preparing",
    "ready",
    "in-use",
    "turnaround",
    "proving",
    "quarantined",
    "drained",
    "retired",
    "new",
];
const CLEAN: &[&str] = &["proven", "used", "writing", "unknown"];
const HEALTH: &[&str] = &["good", "new", "quarantined", "drained", "retired"];

/// What selectors may name, worked out once per inventory.
#[derive(Default)]
pub struct KnownCache {
    last: Mutex<Option<(Arc<Inventory>, Arc<Known>)>>,
}

impl KnownCache {
    fn of(&self, inventory: &Arc<Inventory>) -> Arc<Known> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, known)) = &*last
            && Arc::ptr_eq(of, inventory)
        {
            return Arc::clone(known);
        }
        let mut known = Known::default();
        for (name, spec) in &inventory.machines {
            known.add(name, spec.tags.iter().map(|(k, v)| (k.as_str(), v)));
        }
        known.words("state", STATES);
        known.words("clean", CLEAN);
        known.words("health", HEALTH);
        let known = Arc::new(known);
        *last = Some((Arc::clone(inventory), Arc::clone(&known)));
        known
    }

    /// A selector for looking: a bare word may be a tag's value.
    pub fn look(&self, inventory: &Arc<Inventory>, text: &str) -> Result<Selector, Refusal> {
        self.checked(inventory, parse(text)?)
    }

    /// A selector for acting: a bare word is a machine's exact name.
    pub fn act(&self, inventory: &Arc<Inventory>, text: &str) -> Result<Selector, Refusal> {
        self.checked(inventory, parse(text)?.acting())
    }

    fn checked(&self, inventory: &Arc<Inventory>, selector: Selector) -> Result<Selector, Refusal> {
        selector
            .check(&self.of(inventory))
            .map_err(|e| Refusal(not_found(e.to_string()).hint(e.underlined())))?;
        Ok(selector)
    }
}

fn parse(text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text).map_err(|e| {
        let Refusal(error) = usage(e.to_string());
        Refusal(error.hint(e.underlined()))
    })
}

/// Machines that match, by name.
pub fn matching<'a>(lab: &'a Lab, selector: &'a Selector) -> impl Iterator<Item = &'a Machine> {
    lab.machines().map(|m| &**m).filter(move |m| match lab.spec(&m.name) {
        Some(spec) => selector.matches(&lab.facts(m, spec)),
        // Gone from the inventory, still held: shown where nothing is asked.
        None => selector.is_empty(),
    })
}
