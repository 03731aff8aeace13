//! Searches through a configuration with stateright, breadth first, so that
//! the first violation found is one of the shortest.

use crate::action::Action;
use crate::configuration::Configuration;
use crate::oracle::{ALWAYS, SOMETIMES};
use crate::world::World;
use pitstop_core::fence::Fences;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A configuration as the checker wants it.
struct Search {
    start: World,
    /// The one property to be broken; `None`: whichever is first.
    only: Option<&'static str>,
    /// A violation was found: the first one is a shortest one.
    found: AtomicBool,
}

/// What a search found. Without a violation it saw every state there is
/// within the bounds.
#[derive(Debug)]
pub struct Found {
    /// States that differ by their key.
    pub unique_states: usize,
    /// Transitions that were taken.
    pub transitions: usize,
    /// Actions on the longest of the shortest ways to a state.
    pub max_depth: usize,
    /// The first violation.
    pub violation: Option<Violation>,
    /// The goals that were reached.
    pub reached: BTreeSet<&'static str>,
    /// How long it took.
    pub took: Duration,
}

/// A property that does not hold, and how to come there.
#[derive(Debug)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// Why it does not hold.
    pub text: String,
    /// The way there, a line for each action.
    pub path: Vec<String>,
}

impl Model for Search {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        state.after(action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = [
            holds::<0>, holds::<1>, holds::<2>, holds::<3>, holds::<4>, holds::<5>, holds::<6>, holds::<7>,
            holds::<8>, holds::<9>,
        ];
        let sometimes = [is::<0>, is::<1>, is::<2>, is::<3>];
        let always = ALWAYS.iter().zip(always).map(|((name, _), f)| Property::always(name, f));
        let sometimes = SOMETIMES.iter().zip(sometimes).map(|((name, _), f)| Property::sometimes(name, f));
        always.chain(sometimes).collect()
    }
}

fn holds<const N: usize>(search: &Search, state: &World) -> bool {
    let (name, condition) = ALWAYS[N];
    let asked = search.only.is_none_or(|only| only == name);
    !asked || condition(state).is_ok() || search.found.swap(true, Ordering::Relaxed)
}

fn is<const N: usize>(_: &Search, state: &World) -> bool {
    (SOMETIMES[N].1)(state)
}

/// Searches until a violation is found (of `only`, if that is given) or
/// everything was seen.
pub fn check(configuration: &Configuration, fences: Fences, only: Option<&'static str>) -> Found {
    let began = Instant::now();
    let search = Search { start: configuration.world(fences), only, found: AtomicBool::new(false) };
    let checker = search.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let violation = ALWAYS.iter().find_map(|(name, condition)| {
        let path = discoveries.remove(name)?.into_vec();
        let text = path.last().and_then(|(world, _)| condition(world).err()).unwrap_or_default();
        Some(Violation { property: name, text, path: crate::tell::path(&path) })
    });
    Found {
        unique_states: checker.unique_state_count(),
        transitions: checker.state_count(),
        max_depth: checker.max_depth() - 1,
        violation,
        reached: discoveries.into_keys().collect(),
        took: began.elapsed(),
    }
}
