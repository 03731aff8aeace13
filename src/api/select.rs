//! Selectors of requests: read, and compared with what the lab has, so that
//! a typing error is an answer and not an endless wait.

use super::error::{Refusal, not_found, usage};
use pitstop_core::Lab;
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::Machine;
use pitstop_wire::Selector;
use pitstop_wire::selector::{Facts, Known, TagValue, Term};
use std::borrow::Cow;
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
    "checking",
];
/// The same states in the words that `ls` shows: for looking. What acts asks
/// for what is the case exactly.
const SHOWN: &[&str] = &[
    "free",
    "preparing",
    "booting",
    "imaging",
    "ready",
    "in-use",
    "held",
    "turnaround",
    "proving",
    "quarantined",
    "failed",
    "drained",
    "retired",
    "new",
    "checking",
];
const CLEAN: &[&str] = &["proven", "by-command", "used", "writing", "unknown"];
const HEALTH: &[&str] = &["good", "new", "quarantined", "drained", "retired"];

/// What selectors may name, worked out once per inventory.
#[derive(Default)]
pub struct KnownCache {
    last: Mutex<Option<(Arc<Inventory>, Arc<Names>)>>,
}

/// What may be named by those who look, and by those who act.
struct Names {
    look: Known,
    act: Known,
}

impl KnownCache {
    fn of(&self, inventory: &Arc<Inventory>) -> Arc<Names> {
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
        let mut look = known.clone();
        look.words("state", SHOWN);
        let known = Arc::new(Names { look, act: known });
        *last = Some((Arc::clone(inventory), Arc::clone(&known)));
        known
    }

    /// A selector for looking: a bare word may be a tag's value.
    pub fn look(&self, lab: &Lab, text: &str) -> Result<Selector, Refusal> {
        let (names, selector) = (self.of(lab.inventory()), parse(text)?);
        checked(&names.look, selector.clone()).or_else(|_| checked(&with_found(&names.look, lab), selector))
    }

    /// A selector for acting: a bare word is a machine's exact name.
    pub fn act(&self, lab: &Lab, text: &str) -> Result<Selector, Refusal> {
        let (names, selector) = (self.of(lab.inventory()), parse(text)?.acting());
        checked(&names.act, selector.clone()).or_else(|_| checked(&with_found(&names.act, lab), selector))
    }

    /// The same without a look at the rows, where what is typed in the
    /// inventory is all it names; else `None`.
    pub fn act_by(&self, inventory: &Arc<Inventory>, text: &str) -> Result<Option<Selector>, Refusal> {
        Ok(checked(&self.of(inventory).act, parse(text)?.acting()).ok())
    }
}

/// What may be named with what was found of machines. It changes with every
/// boot of our agent, and few selectors name it: worked out when one does.
fn with_found(known: &Known, lab: &Lab) -> Known {
    let mut known = known.clone();
    for machine in lab.machines() {
        let typed = lab.spec(&machine.name).map(|s| &s.tags);
        let found = machine.baseline.iter().flat_map(|b| &b.tags);
        let untyped = found.filter(|(key, _)| typed.is_some_and(|tags| !tags.contains_key(*key)));
        if typed.is_some() {
            known.add(&machine.name, untyped.map(|(k, v)| (k.as_str(), v)));
        }
    }
    known
}

fn checked(known: &Known, selector: Selector) -> Result<Selector, Refusal> {
    selector.check(known).map_err(|e| Refusal(not_found(e.to_string()).hint(e.underlined())))?;
    Ok(selector)
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
        Some(spec) => holds(selector, m, &lab.facts(m, spec)),
        // Gone from the inventory, still held: shown where nothing is asked.
        None => selector.is_empty(),
    })
}

/// Whether a machine matches, its state being that of the core and as well
/// that which `ls` shows.
fn holds(selector: &Selector, machine: &Machine, facts: &dyn Facts) -> bool {
    let shown = Shown { facts, state: super::view::machine::shown(machine).word().to_lowercase() };
    selector.terms().iter().all(|term| match term {
        Term::NotIn { .. } => term.holds(facts) && term.holds(&shown),
        _ => term.holds(facts) || term.holds(&shown),
    })
}

/// Facts with the state in the word that people see.
struct Shown<'a> {
    facts: &'a dyn Facts,
    state: String,
}

impl Facts for Shown<'_> {
    fn tag(&self, key: &str) -> Option<&TagValue> {
        self.facts.tag(key)
    }

    fn name(&self) -> &str {
        self.facts.name()
    }

    fn special(&self, key: &str) -> Option<Cow<'_, str>> {
        if key == "state" { Some(Cow::Borrowed(&self.state)) } else { self.facts.special(key) }
    }

    fn any_tag_value(&self, word: &str) -> bool {
        self.facts.any_tag_value(word)
    }
}
