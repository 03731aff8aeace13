//! A key leaves out what the future does not depend on, and nothing else.

use pitstop_core::fence::Fences;
use pitstop_model::configuration::{self, Configuration};
use pitstop_model::key;
use pitstop_model::world::World;
use std::collections::{BTreeSet, HashMap, VecDeque};

fn configuration(name: &str) -> Configuration {
    configuration::usual().into_iter().find(|c| c.name == name).unwrap()
}

/// Everything that may come next, by key.
fn futures(world: &World) -> BTreeSet<Vec<u64>> {
    successors(world).map(|next| key::of(&next)).collect()
}

fn successors(world: &World) -> impl Iterator<Item = World> {
    let mut actions = Vec::new();
    world.actions(&mut actions);
    actions.into_iter().filter_map(|action| world.after(action))
}

/// States that were reached on two ways and are taken for one must have the
/// same futures. Searches until so many pairs were compared.
fn equal_keys_have_equal_futures(name: &str, pairs: usize, every: usize) {
    let start = configuration(name).world(Fences::default());
    let mut first = HashMap::from([(key::of(&start), start.clone())]);
    let mut next = VecDeque::from([start]);
    let (mut met, mut compared) = (0, 0);
    while let Some(world) = next.pop_front() {
        for successor in successors(&world) {
            let key = key::of(&successor);
            let Some(known) = first.get(&key) else {
                first.insert(key, successor.clone());
                next.push_back(successor);
                continue;
            };
            met += 1;
            if met % every != 0 {
                continue;
            }
            if futures(known) != futures(&successor) {
                panic!("{name}: one key, two futures\n{known:#?}\n{successor:#?}");
            }
            compared += 1;
            if compared == pairs {
                return;
            }
        }
    }
    assert!(compared > pairs / 2, "{name}: only {compared} pairs of states met");
}

#[test]
fn equal_keys_have_equal_futures_after_a_fault() {
    equal_keys_have_equal_futures("one-fault", PAIRS(), EVERY());
}

#[allow(non_snake_case)]
fn PAIRS() -> usize { std::env::var("PAIRS").map_or(1000, |p| p.parse().unwrap()) }
#[allow(non_snake_case)]
fn EVERY() -> usize { std::env::var("EVERY").map_or(7, |p| p.parse().unwrap()) }

#[test]
fn equal_keys_have_equal_futures_in_a_holders_hands() {
    equal_keys_have_equal_futures("holder", PAIRS(), EVERY());
}
#[test]
fn equal_keys_have_equal_futures_two() {
    equal_keys_have_equal_futures("two-held", PAIRS(), EVERY());
}
#[test]
fn equal_keys_have_equal_futures_agent() {
    equal_keys_have_equal_futures("agent", PAIRS(), EVERY());
}
