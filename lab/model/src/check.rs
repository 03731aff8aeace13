//! Searches through a configuration with stateright, breadth first, so that
//! the first violation found is one of the shortest.

use crate::action::Action;
use crate::configuration::Configuration;
use crate::oracle::{ALWAYS, SOMETIMES};
use crate::world::World;
use pitstop_core::fence::Fences;
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A configuration as the checker wants it.
struct Search {
    start: World,
    /// A violation was found: the first one is a shortest one.
    found: AtomicBool,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// States that differ by their key.
    pub unique_states: usize,
    /// Transitions that were taken.
    pub transitions: usize,
    /// Actions on the longest of the shortest ways to a state.
    pub max_depth: usize,
    /// Every state within the bounds was seen.
    pub exhaustive: bool,
    /// The first violation.
    pub violation: Option<Violation>,
    /// What should be reachable and was not seen.
    pub unreached: Vec<&'static str>,
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
            holds::<8>,
        ];
        let sometimes = [is::<0>, is::<1>, is::<2>, is::<3>];
        let always = ALWAYS.iter().zip(always).map(|((name, _), f)| Property::always(name, f));
        let sometimes = SOMETIMES.iter().zip(sometimes).map(|((name, _), f)| Property::sometimes(name, f));
        always.chain(sometimes).collect()
    }
}

fn holds<const N: usize>(search: &Search, state: &World) -> bool {
    (ALWAYS[N].1)(state).is_ok() || search.found.swap(true, Ordering::Relaxed)
}

fn is<const N: usize>(_: &Search, state: &World) -> bool {
    (SOMETIMES[N].1)(state)
}

/// Searches until a violation is found, or everything was seen, or so many
/// states were.
pub fn check(configuration: &Configuration, fences: Fences, most_states: Option<usize>) -> Found {
    let began = Instant::now();
    let search = Search { start: configuration.world(fences), found: AtomicBool::new(false) };
    let mut options = search.checker().finish_when(HasDiscoveries::AnyFailures);
    if let Some(most) = most_states {
        options = options.target_state_count(most);
    }
    let checker = options.spawn_bfs().join();
    let mut discoveries = checker.discoveries();
    let violation = ALWAYS.iter().find_map(|(name, condition)| {
        let path = discoveries.remove(name)?.into_vec();
        let text = path.last().and_then(|(world, _)| condition(world).err()).unwrap_or_default();
        Some(Violation { property: name, text, path: crate::tell::path(&path) })
    });
    let reached = |name: &&'static str| discoveries.contains_key(*name);
    let unreached = SOMETIMES.iter().map(|(name, _)| *name).filter(|name| !reached(name)).collect();
    Found {
        unique_states: checker.unique_state_count(),
        transitions: checker.state_count(),
        max_depth: checker.max_depth() - 1,
        exhaustive: violation.is_none() && checker.is_done() && most_states.is_none(),
        violation,
        unreached,
        took: began.elapsed(),
    }
}
