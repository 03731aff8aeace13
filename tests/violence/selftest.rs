//! A made-up history of a lab, and what must be objected to in it.

use crate::book::{Ack, Book, Call, MARK, foreign_marks};
use crate::judge::Judge;
use pitstop::store::{History, RecordQuery, StoreError};
use pitstop_client::api::{Extend, PowerDo, PowerRequest, Reserve};
use pitstop_core::Lab;
use pitstop_core::event::{Caller, Event, Moment, Request};
use pitstop_core::id::{Entropy, ReservationId, SecretHash};
use pitstop_core::inventory::model::{Inventory, MachineSpec};
use pitstop_core::lab::{Row, Rows};
use pitstop_core::machine::{Failure, FailureClass, Health, Intent, Switch};
use pitstop_core::record::{Actor, Change, Record};
use pitstop_core::reservation::{Ask, CleanLevel, Hold, Role, Want};
use pitstop_core::simulator::plain_machine;
use pitstop_core::time::LabTime;
use pitstop_wire::{MachineName, Selector, UserName};
use std::sync::Arc;

/// A lab of one machine that is reserved, claimed, extended and given back.
#[derive(Clone)]
struct Story {
    lab: Lab,
    records: Vec<Record>,
    rows: Option<Rows>,
    now: u64,
}

impl History for Story {
    fn store_id(&self) -> &str {
        "story"
    }

    fn records(&self, query: &RecordQuery) -> Result<Vec<Record>, StoreError> {
        let after = query.after.unwrap_or(0);
        Ok(self.records.iter().filter(|r| r.number > after).cloned().collect())
    }

    fn rows(&self) -> Result<Rows, StoreError> {
        Ok(self.rows.clone().unwrap_or_else(|| self.lab.rows()))
    }

    fn backup(&self, _: &std::path::Path) -> Result<(), StoreError> {
        panic!("nobody backs up a story")
    }
}

fn machine() -> MachineName {
    MachineName::new("m1").unwrap()
}

const ID: ReservationId = ReservationId(1);

impl Story {
    /// Until the machine is in use.
    fn in_use() -> Self {
        let mut story = Self { lab: Lab::default(), records: Vec::new(), rows: None, now: 0 };
        let spec =
            MachineSpec { legs: Vec::new(), disks: Vec::new(), image: None, ..plain_machine(machine()) };
        let inventory = Inventory { machines: [(machine(), spec)].into(), ..Inventory::default() };
        story.step(Event::Start { inventory: Arc::new(inventory), enrol: true });
        let role = Role { name: "machine".into(), select: Selector::default(), count: 1 };
        let ask = Ask {
            roles: vec![role],
            image: None,
            want: Want::Bare,
            hold: Hold::Time,
            limit: Some(3_600_000),
            clean: CleanLevel::Any,
            priority: 0,
            reason: None,
            patience: None,
            agent_lost: None,
        };
        story.asks("k1", Request::Reserve { ask: Box::new(ask), image: None });
        story.step(Event::Tick);
        story.asks("k2", Request::Claim(ID));
        story
    }

    fn given_back() -> Self {
        let mut story = Self::in_use();
        story.asks("k3", Request::Extend { reservation: ID, more: Some(7_200_000) });
        story.asks("k4", Request::Release { reservation: ID, force: None });
        story
    }

    fn asks(&mut self, key: &str, request: Request) {
        let caller = Caller {
            user: UserName::new("ada").unwrap(),
            admin: true,
            key: Some((key.to_owned(), SecretHash::of(key))),
        };
        self.step(Event::Request(caller, request));
    }

    fn step(&mut self, event: Event) {
        self.now += 10;
        let moment = Moment { now: LabTime(self.now), wall: 0, entropy: Entropy([7; 32]) };
        self.records.extend(self.lab.step(&moment, event).records);
    }

    /// What no lab would do.
    fn forge(&mut self, actor: Actor, change: Change) {
        let number = self.lab.meta().records + 1;
        let epoch = self.lab.meta().epoch;
        let record = Record { number, at: LabTime(self.now), wall: 0, epoch, actor, change };
        self.lab.follow(&record);
        self.records.push(record);
    }

    fn objections(&self, acks: &[Ack]) -> Vec<String> {
        self.objections_by(acks, &Book::default())
    }

    fn objections_by(&self, acks: &[Ack], book: &Book) -> Vec<String> {
        let mut judge = Judge::default();
        judge.read(self).unwrap();
        judge.check(self, acks, book)
    }
}

fn ack(key: &str, id: &str, call: Call) -> Ack {
    Ack { key: Some(key.to_owned()), id: id.to_owned(), call }
}

fn objects(found: &[String], word: &str) {
    assert!(found.iter().any(|f| f.contains(word)), "nobody says `{word}`: {found:?}");
}

#[test]
fn to_what_happened_nobody_objects() {
    let acks = [
        ack("k1", "R-1", Call::Reserve(Reserve::default())),
        Ack { key: None, id: "R-1".into(), call: Call::Claim },
        ack("k3", "R-1", Call::Extend(Extend::default())),
        ack("k4", "R-1", Call::Release),
    ];
    assert_eq!(Story::given_back().objections(&acks), Vec::<String>::new());
}

#[test]
fn an_answer_that_was_acknowledged_and_never_happened_is_objected_to() {
    let story = Story::in_use();
    let never = [
        ack("k9", "R-9", Call::Reserve(Reserve::default())),
        ack("k1", "R-9", Call::Reserve(Reserve::default())),
        Ack { key: None, id: "R-9".into(), call: Call::Claim },
        ack("k3", "R-1", Call::Extend(Extend::default())),
        ack("k4", "R-1", Call::Release),
        ack("k5", "R-1", Call::Power(machine(), PowerRequest { action: PowerDo::On, force: None })),
    ];
    for ack in never {
        let found = story.objections(std::slice::from_ref(&ack));
        assert_eq!(found.len(), 1, "{ack:?}: {found:?}");
    }
}

#[test]
fn a_key_that_means_two_things_is_objected_to() {
    let book = Book::default();
    book.acknowledged(ack("k1", "R-1", Call::Reserve(Reserve::default())));
    book.acknowledged(ack("k1", "R-1", Call::Reserve(Reserve::default())));
    assert_eq!(book.take_violations(), Vec::<String>::new());
    book.acknowledged(ack("k1", "R-2", Call::Reserve(Reserve::default())));
    objects(&book.take_violations(), "key k1");
}

#[test]
fn a_machine_of_two_holders_is_objected_to() {
    let book = Book::default();
    book.got("R-1", &machine());
    book.gives_back("R-1");
    book.got("R-2", &machine());
    assert_eq!(book.take_violations(), Vec::<String>::new());
    book.got("R-3", &machine());
    objects(&book.take_violations(), "while R-2 has it");

    let mut story = Story::in_use();
    story.forge(Actor::Lab, Change::Granted { reservation: ReservationId(2), machine: machine(), role: 0 });
    objects(&story.objections(&[]), "while R-1 had it");
}

#[test]
fn a_missing_record_and_a_row_that_nothing_led_to_are_objected_to() {
    let mut story = Story::given_back();
    story.records.remove(3);
    objects(&story.objections(&[]), "record 4 is missing");
    let mut story = Story::given_back();
    let mut rows = story.lab.rows();
    rows.rows.retain(|row| !matches!(row, Row::Reservation(_)));
    story.rows = Some(rows);
    objects(&story.objections(&[]), "not the fold");
}

#[test]
fn who_switches_a_machine_in_use_or_blames_it_is_objected_to() {
    let intent = Intent { id: 1, want: Switch::Off, may_land_until: LabTime(1), open: true, twin: false };
    let switched = Change::PowerIntended { machine: machine(), leg: 0, intent };
    let by = |actor: Actor| {
        let mut story = Story::in_use();
        story.forge(actor, switched.clone());
        story.objections(&[])
    };
    assert_eq!(by(Actor::User(UserName::new("ada").unwrap())), Vec::<String>::new());
    objects(&by(Actor::Lab), "was switched");
    objects(&by(Actor::Time), "was switched");
    let mut story = Story::given_back();
    let failure = Failure { class: FailureClass::Agent, phase: "disk".into(), evidence: "silent".into() };
    let health = Health::Quarantined { failure, at: LabTime(1), again: LabTime(2) };
    story.forge(Actor::Time, Change::HealthSet { machine: machine(), health });
    objects(&story.objections(&[]), "was blamed");
}

#[test]
fn a_session_that_beats_and_is_lost_is_objected_to() {
    let mut story = Story::in_use();
    story.forge(Actor::Time, Change::Ended { reservation: ID, why: pitstop_core::reservation::End::Lost });
    let book = Book::default();
    assert!(!story.objections_by(&[], &book).iter().any(|w| w.contains("stopped beating")));
    book.beats("R-1");
    objects(&story.objections_by(&[], &book), "stopped beating");
    book.excuse("R-1");
    assert!(!story.objections_by(&[], &book).iter().any(|w| w.contains("stopped beating")));
}

#[test]
fn another_tenants_mark_is_found_wherever_it_is() {
    let mut disk = vec![0; 10_000];
    let mark = format!("{MARK}00000000deadbeef");
    for at in [0, 4_095, 10_000 - mark.len()] {
        disk[at..at + mark.len()].copy_from_slice(mark.as_bytes());
    }
    assert_eq!(foreign_marks(&disk, "00000000deadbeef"), Vec::<String>::new());
    assert_eq!(foreign_marks(&disk, "00000000deadbee0").len(), 3);
}
