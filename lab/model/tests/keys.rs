//! A key leaves out what the future does not depend on, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pitstop_core::fence::Fences;
use pitstop_model::configuration;
use pitstop_model::key;
use pitstop_model::world::World;
use std::collections::{BTreeSet, HashMap, VecDeque};

fn successors(world: &World) -> impl Iterator<Item = World> {
    let mut actions = Vec::new();
    world.actions(&mut actions);
    actions.into_iter().filter_map(|action| world.after(action))
}

/// Everything that may come next, by key.
fn futures(world: &World) -> BTreeSet<Vec<u64>> {
    successors(world).map(|next| key::of(&next)).collect()
}

/// States that were reached on two ways and are taken for one must have the
/// same futures. Compares so many pairs, of all that are met one in `every`.
fn compare(name: &str, pairs: usize, every: usize) {
    let configuration = configuration::usual().into_iter().find(|c| c.name == name).unwrap();
    let start = configuration.world(Fences::default());
    let mut first = HashMap::from([(key::of(&start), start.clone())]);
    let mut next = VecDeque::from([start]);
    let (mut met, mut compared) = (0, 0);
    while compared < pairs {
        let world = next.pop_front().unwrap_or_else(|| panic!("{name}: only {met} pairs were met"));
        for successor in successors(&world) {
            let key = key::of(&successor);
            let Some(known) = first.get(&key) else {
                first.insert(key, successor.clone());
                next.push_back(successor);
                continue;
            };
            met += 1;
            if met % every == 0 {
                assert!(
                    futures(known) == futures(&successor),
                    "{name}: one key, two futures\n{known:#?}\n{successor:#?}"
                );
                compared += 1;
            }
        }
    }
}

#[test]
fn one_key_has_two_futures_from_the_first_turn_on() {
    compare("one-fault", 400, 23);
}

#[test]
fn one_key_has_two_futures_in_a_holders_hands() {
    compare("holder", 400, 23);
}

#[test]
fn one_key_has_two_futures_after_two_faults() {
    compare("two-faults", 400, 23);
}

#[test]
fn a_state_does_not_follow_from_its_action() {
    let world = configuration::usual()[0].world(Fences::default());
    assert_eq!(futures(&world), futures(&world.clone()));
    assert!(futures(&world).len() > 1);
}
