//! What our agent boots from may have to be fetched before power on, by a
//! device of the machine's own.

use super::bench::{Bench, ask, name};
use super::spec_with;
use crate::effect::{Boot, Effect};
use crate::inventory::model::DriverSpec;
use crate::machine::{Phase, Switch};
use crate::reservation::Want;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How long it may take, and the bench's limit for power (ms).
const FETCH: u64 = 300_000;
const POWER: u64 = 10_000;

fn bench() -> Bench {
    Bench::of([spec_with("m0", |s| {
        let fields = Map::from_iter([("fetch".to_owned(), Value::from(FETCH))]);
        s.boot = DriverSpec { fields: Arc::new(fields), ..DriverSpec::named("virtual-media") };
    })])
}

/// Until when the power commands that wait may be sent, from now on (ms).
fn windows(b: &Bench) -> Vec<(Switch, Boot, u64)> {
    let window = |effect: &Effect| match effect {
        Effect::Power { want, boot, until, .. } => Some((*want, *boot, until.0 - b.now)),
        _ => None,
    };
    b.effects.iter().filter_map(|(_, effect)| window(effect)).collect()
}

#[test]
fn a_slow_fetch_is_cut_short_by_the_limit_of_power() {
    let mut b = bench();
    let id = b.reserve("ada", ask("", Want::Image));
    assert_eq!(windows(&b), [(Switch::Off, Boot::Disk, POWER)], "off waits for no fetch");
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    assert_eq!(windows(&b), [(Switch::On, Boot::Agent, POWER + FETCH)]);
    let on = b.take_power();
    b.pass(FETCH + POWER - 1);
    assert!(b.failures("m0").is_empty(), "{:?}", b.failures("m0"));
    let epoch = b.lab.meta().epoch;
    b.obey_power(epoch, &on);
    b.obey_until("m0", |p| *p == Phase::Evidence);
    assert_eq!(
        windows(&b),
        [(Switch::On, Boot::Disk, POWER)],
        "the image is on its disk: nothing is fetched"
    );
    b.live(600_000);
    assert_eq!(b.status(id), "ready");
}

#[test]
fn a_fetch_that_never_ends_has_no_limit() {
    let mut b = bench();
    b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.take_power();
    let why = b.lab.why_machine(&name("m0"), crate::time::LabTime(b.now)).expect("there is nothing to say");
    let limit = why.reasons.iter().find(|l| l.text.contains("timeout.attach"));
    let limit = limit.map(|l| l.text.as_str()).unwrap_or_default();
    assert!(limit.contains("5m of it are `fetch` of boot.virtual-media"), "{limit}");
    b.pass(FETCH + 2 * POWER + b.inventory.machines[&name("m0")].limits.firmware_ms + 60_000);
    assert_eq!(b.failures("m0").len(), 1);
}

#[test]
fn who_gives_up_while_it_is_fetched_leaves_a_machine_that_may_still_come_on() {
    let mut b = bench();
    let id = b.reserve("ada", ask("", Want::Agent));
    b.obey_until("m0", |p| *p == Phase::BootAgent);
    b.take_power();
    b.release("ada", id);
    b.obey();
    // Off was read, but the command may still be sent and land.
    assert_eq!(b.phase("m0"), Phase::Off);
    b.pass(FETCH);
    b.obey();
    assert_eq!(b.phase("m0"), Phase::Off, "handed on while its power-on may still land");
    assert!(!b.machine("m0").settled());
    b.live(20 * POWER);
    assert_eq!(b.state("m0"), "free");
    assert!(b.failures("m0").is_empty(), "off had no time to wait that out: {:?}", b.failures("m0"));
}
