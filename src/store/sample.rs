//! A real lab, driven by hand, for the tests of whatever keeps one.

use super::Batch;
use pitstop_core::Lab;
use pitstop_core::event::{Answer, Caller, Event, Floor, Moment, Request};
use pitstop_core::id::{Entropy, ReservationId, SecretHash};
use pitstop_core::inventory::model::{Inventory, Limits, MachineSpec};
use pitstop_core::lab::RowKey;
use pitstop_core::reservation::{Ask, CleanLevel, Hold, Role, Want};
use pitstop_core::simulator::plain_machine;
use pitstop_core::time::LabTime;
use pitstop_wire::{MachineName, Selector, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Machines `m0`, `m1`, … with one leg and no disk.
pub fn inventory(machines: usize) -> Arc<Inventory> {
    let spec = |n| machine(MachineName::new(&format!("m{n}")).unwrap());
    let machines = (0..machines).map(spec).map(|m| (m.name.clone(), m)).collect();
    Arc::new(Inventory { machines, ..Inventory::default() })
}

fn machine(name: MachineName) -> MachineSpec {
    let limits = Limits::default();
    MachineSpec { image: None, disks: Vec::new(), limits, ..plain_machine(name) }
}

pub fn caller(user: &str, key: Option<&str>) -> Caller {
    let key = key.map(|key| (key.to_owned(), SecretHash::of("the same request")));
    Caller { user: UserName::new(user).unwrap(), admin: true, key }
}

/// One bare machine, held as `hold` says.
pub fn reserve(hold: Hold) -> Request {
    let role = Role { name: "machine".into(), select: Selector::default(), count: 1 };
    let ask = Ask {
        roles: vec![role],
        image: None,
        want: Want::Bare,
        hold,
        limit: None,
        clean: CleanLevel::Any,
        priority: 0,
        reason: None,
        patience: None,
        agent_lost: None,
    };
    Request::Reserve { ask: Box::new(ask), image: None }
}

/// A lab and the batches that its events make.
pub struct Sample {
    pub lab: Lab,
    now: u64,
}

impl Sample {
    pub fn new() -> Self {
        Self::on(Lab::default())
    }

    pub fn on(lab: Lab) -> Self {
        let now = lab.meta().now.0;
        Self { lab, now }
    }

    pub fn start(&mut self, machines: usize) -> Batch {
        self.step(Event::Start { inventory: inventory(machines), enrol: true }).0
    }

    pub fn start_restored(&mut self, machines: usize, floor: Floor) -> Batch {
        self.step(Event::StartRestored { inventory: inventory(machines), enrol: true, floor }).0
    }

    pub fn reserve(&mut self, user: &str, key: &str) -> (Batch, ReservationId) {
        let before = self.lab.meta().reservations;
        let (batch, answer) = self.step(Event::Request(caller(user, Some(key)), reserve(Hold::Time)));
        assert!(matches!(answer, Answer::Api(Ok(_))), "{answer:?}");
        (batch, ReservationId(before + 1))
    }

    pub fn release(&mut self, user: &str, reservation: ReservationId) -> Batch {
        let request = Request::Release { reservation, force: None };
        let (batch, answer) = self.step(Event::Request(caller(user, None), request));
        assert!(matches!(answer, Answer::Api(Ok(_))), "{answer:?}");
        batch
    }

    pub fn step(&mut self, event: Event) -> (Batch, Answer) {
        self.now += 10;
        let wall = 1_700_000_000_000 + i64::try_from(self.now).unwrap();
        let moment = Moment { now: LabTime(self.now), wall, entropy: Entropy([self.now as u8; 32]) };
        let outcome = self.lab.step(&moment, event);
        (batch(&self.lab, outcome.records, &outcome.touched), outcome.answer)
    }
}

fn batch(lab: &Lab, records: Vec<pitstop_core::record::Record>, touched: &BTreeSet<RowKey>) -> Batch {
    let (there, gone): (Vec<_>, Vec<_>) = touched.iter().cloned().partition(|key| lab.row(key).is_some());
    let upserts = there.iter().filter_map(|key| lab.row(key)).collect();
    Batch { meta: lab.meta().clone(), records, upserts, removes: gone }
}
