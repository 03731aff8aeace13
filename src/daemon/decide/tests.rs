//! The loop against stores that fail, hang and lie.

use super::batch::Waiting;
use super::*;
use crate::daemon::desk::{Condition, Item, Tell};
use crate::store::fault::{Fault, FaultyStore, Script};
use crate::store::memory::MemoryStore;
use crate::store::sample::{caller, inventory, reserve};
use crate::store::{Batch, History, Pause, RecordQuery, SqliteStore};
use pitstop_core::event::{Answer, Fact, Report, Request};
use pitstop_core::id::ReservationId;
use pitstop_core::lab::Rows;
use pitstop_core::machine::{Reading, Switch};
use pitstop_core::record::{Change, Record};
use pitstop_core::reservation::{End, Hold};
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::Value;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Records told, and effects released before.
type Told = (Option<usize>, usize);

/// Hands that note what they are told, and whether a power command was
/// stored when they were.
#[derive(Clone)]
struct FakeHands {
    released: Arc<Mutex<Vec<(Effect, bool)>>>,
    /// Machines of each inventory they were given, and how many effects had
    /// been released before it.
    followed: Arc<Mutex<Vec<(usize, usize)>>>,
    /// How many records they were told of each commit, if not to look at all,
    /// and how many effects had been released before it.
    known: Arc<Mutex<Vec<Told>>>,
    history: Arc<dyn History>,
}

impl Hands for FakeHands {
    fn release(&self, effects: Vec<Effect>, _: Epoch) {
        let records = self.history.records(&RecordQuery::default()).unwrap();
        for effect in effects {
            let stored = match &effect {
                Effect::Power { machine, intent, .. } => records.iter().any(|r| {
                    matches!(&r.change, Change::PowerIntended { machine: m, intent: i, .. }
                        if m == machine && i.id == *intent)
                }),
                _ => true,
            };
            self.released.lock().unwrap().push((effect, stored));
        }
    }

    fn follow(&self, inventory: &Arc<Inventory>) {
        let released = self.released.lock().unwrap().len();
        self.followed.lock().unwrap().push((inventory.machines.len(), released));
    }

    fn know(&self, _: &Lab, records: Option<&[Record]>) {
        let released = self.released.lock().unwrap().len();
        self.known.lock().unwrap().push((records.map(<[Record]>::len), released));
    }
}

/// A loop with a scripted store.
struct Bench {
    desk: Desk,
    script: Script,
    hands: FakeHands,
    idle: Option<Opened>,
    running: Option<Running>,
}

impl Bench {
    fn opened(store: impl Store + 'static, machines: usize) -> Self {
        let script = Script::default();
        let history = store.history();
        let store = FaultyStore { inner: store, script: script.clone() };
        let opened = open(Box::new(store), inventory(machines), true).unwrap();
        let (released, followed, known) = <(Arc<_>, Arc<_>, Arc<_>)>::default();
        let hands = FakeHands { released, followed, known, history };
        Self { desk: opened.desk(), script, hands, idle: Some(opened), running: None }
    }

    fn run(mut self) -> Self {
        let opened = self.idle.take().unwrap();
        self.running = Some(opened.run(Box::new(self.hands.clone())).unwrap());
        self
    }

    fn on_memory(machines: usize) -> Self {
        Self::opened(MemoryStore::default(), machines).run()
    }

    async fn reserve(&self, key: &str) -> Result<Value, ApiError> {
        self.desk.ask(caller("ada", Some(key)), reserve(Hold::Time)).await
    }

    /// A reservation asked for from another task.
    fn reserve_aside(&self, key: &str) -> tokio::task::JoinHandle<Result<Value, ApiError>> {
        let (desk, key) = (self.desk.clone(), key.to_owned());
        tokio::spawn(async move { desk.ask(caller("ada", Some(&key)), reserve(Hold::Time)).await })
    }

    fn records(&self) -> Vec<Record> {
        self.hands.history.records(&RecordQuery::default()).unwrap()
    }

    fn count(&self, fits: impl Fn(&Change) -> bool) -> usize {
        self.records().iter().filter(|r| fits(&r.change)).count()
    }

    fn queued(&self) -> usize {
        self.count(|c| matches!(c, Change::Queued { .. }))
    }

    /// Power commands that left, and whether each had been stored before.
    fn power(&self) -> Vec<bool> {
        let released = self.hands.released.lock().unwrap();
        released
            .iter()
            .filter(|(e, _)| matches!(e, Effect::Power { .. }))
            .map(|(_, stored)| *stored)
            .collect()
    }

    async fn end(mut self) -> Result<(), Halt> {
        self.desk.stop();
        self.running.take().unwrap().ended().await
    }
}

async fn until(what: &str, mut fits: impl FnMut() -> bool) {
    let start = Instant::now();
    while !fits() {
        assert!(start.elapsed() < Duration::from_secs(30), "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn not_known<T: std::fmt::Debug>(answer: Result<T, ApiError>) {
    let error = answer.unwrap_err();
    assert_eq!(error.code, Code::NotKnown, "{error:?}");
    assert!(error.hint.unwrap().contains("same key"));
    assert_eq!(error.retry_after, Some(1));
}

#[tokio::test]
async fn no_effect_leaves_before_its_intent_is_stored() {
    let bench = Bench::on_memory(2);
    bench.reserve("k1").await.unwrap();
    bench.reserve("k2").await.unwrap();
    until("two power commands", || bench.power().len() >= 2).await;
    assert!(bench.power().iter().all(|stored| *stored));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_waits_for_its_commit() {
    let bench = Bench::on_memory(1);
    bench.script.next([Fault::Shut]);
    let asked = bench.reserve_aside("k1");
    // Reads are served while the disk is waited for, of what is committed.
    until("the commit waits", || bench.script.played()).await;
    let snapshot = bench.desk.snapshot().await.unwrap();
    assert_eq!(snapshot.reservations().len(), 0);
    assert!(!asked.is_finished());
    assert!(bench.power().is_empty());
    bench.script.open();
    asked.await.unwrap().unwrap();
    assert_eq!(bench.desk.snapshot().await.unwrap().reservations().len(), 1);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_refused_commit_is_not_known_and_a_retry_succeeds_once() {
    let bench = Bench::on_memory(2);
    bench.script.next([Fault::Refused]);
    not_known(bench.reserve("k1").await);
    assert!(bench.power().is_empty(), "nothing leaves of a dropped batch");
    assert_eq!(bench.queued(), 0);
    let first = bench.reserve("k1").await.unwrap();
    assert_eq!(bench.reserve("k1").await.unwrap(), first);
    assert_eq!(bench.queued(), 1);
    until("its effect", || !bench.power().is_empty()).await;
    assert_eq!(bench.power(), [true]);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_commit_lost_before_it_was_written_is_as_if_never_asked() {
    let bench = Bench::on_memory(2);
    bench.script.next([Fault::LostBefore]);
    not_known(bench.reserve("k1").await);
    assert!(bench.power().is_empty());
    bench.reserve("k1").await.unwrap();
    assert_eq!(bench.queued(), 1);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_was_written_after_all_is_found_out_and_answered() {
    let bench = Bench::on_memory(2);
    bench.script.next([Fault::LostAfter]);
    let first = bench.reserve("k1").await.unwrap();
    until("its effect", || !bench.power().is_empty()).await;
    assert_eq!(bench.reserve("k1").await.unwrap(), first);
    assert_eq!((bench.queued(), bench.power()), (1, vec![true]));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_retry_finds_the_first_answer_when_nobody_could_tell_at_first() {
    let bench = Bench::on_memory(2);
    bench.script.next([Fault::LostAfter]);
    bench.script.fail_loads(2);
    not_known(bench.reserve("k1").await);
    let mut answer = bench.reserve("k1").await;
    until("the store can be read", || bench.script.played()).await;
    while answer.is_err() {
        not_known(answer);
        answer = bench.reserve("k1").await;
    }
    assert_eq!(answer.unwrap()["reservation"], "R-1");
    assert_eq!(bench.queued(), 1);
    // What was committed is also done, once.
    until("its effect", || !bench.power().is_empty()).await;
    assert_eq!(bench.power(), [true]);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_fact_of_a_dropped_batch_is_not_lost() {
    let bench = Bench::on_memory(1);
    bench.reserve("k1").await.unwrap();
    until("a power command", || !bench.power().is_empty()).await;
    let seen = |c: &Change| matches!(c, Change::PowerSeen { .. });
    assert_eq!(bench.count(seen), 0);
    bench.script.next([Fault::Refused, Fault::LostBefore]);
    let fact = Fact::Power {
        machine: MachineName::new("m0").unwrap(),
        leg: 0,
        intent: 1,
        want: Switch::Off,
        witnessed: false,
        result: Ok(Reading::Off),
    };
    bench.desk.fact(bench.desk.epoch(), fact);
    until("the reading is stored", || bench.count(seen) == 1).await;
    assert!(bench.script.played());
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_crowd_shares_commits() {
    let bench = Bench::on_memory(64);
    bench.script.next([Fault::Shut]);
    let mut asked = vec![bench.reserve_aside("k0")];
    until("the first commit waits", || bench.script.played()).await;
    asked.extend((1..64).map(|n| bench.reserve_aside(&format!("k{n}"))));
    // A reader's answer shows that what was put on the queue before it has
    // been taken off.
    tokio::task::yield_now().await;
    bench.desk.snapshot().await.unwrap();
    bench.script.open();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    let commits = bench.script.commits().len() - 1;
    assert!(commits <= 4, "{commits} commits for 64 reservations");
    assert_eq!(bench.queued(), 64);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn again_and_again_means_read_only_until_it_works_again() {
    let bench = Bench::on_memory(2);
    bench.reserve("k0").await.unwrap();
    let mut condition = bench.desk.condition();
    assert_eq!(*condition.borrow(), Condition::Well);
    bench.script.next([Fault::Refused; 5]);
    for key in ["k1", "k2", "k3"] {
        not_known(bench.reserve(key).await);
    }
    condition.wait_for(|c| matches!(c, Condition::ReadOnly { .. })).await.unwrap();
    // Reads go on.
    assert_eq!(bench.desk.snapshot().await.unwrap().reservations().len(), 1);
    condition.wait_for(|c| *c == Condition::Well).await.unwrap();
    assert!(bench.script.played());
    // The time in between does not count: m0's turn got it back.
    let moved = bench.count(|c| matches!(c, Change::DeadlineMoved { .. }));
    assert!(moved >= 1, "{:?}", bench.records());
    bench.reserve("k1").await.unwrap();
    assert_eq!(bench.queued(), 2);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_superseded_daemon_stops_and_lets_nothing_go() {
    let store = MemoryStore::default();
    let mut bench = Bench::opened(store.clone(), 1).run();
    let other = open(Box::new(store), inventory(1), true).unwrap();
    assert!(other.lab().meta().epoch > bench.desk.epoch());
    not_known(bench.reserve("k1").await);
    let end = bench.running.take().unwrap().ended().await;
    assert!(matches!(end, Err(Halt::Superseded { .. })), "{end:?}");
    assert!(bench.power().is_empty());
    not_known(bench.reserve("k1").await);
    not_known(bench.desk.snapshot().await.map(drop));
}

#[tokio::test]
async fn the_epoch_is_stored_before_anybody_is_served() {
    let store = MemoryStore::default();
    let first = open(Box::new(store.clone()), inventory(1), true).unwrap();
    assert_eq!(store.rows().unwrap().meta.epoch, first.desk().epoch());
    let second = open(Box::new(store.clone()), inventory(1), true).unwrap();
    assert_eq!(second.desk().epoch().0, first.desk().epoch().0 + 1);
    let error = open(Box::new(refusing(store)), inventory(1), true).err().unwrap();
    assert!(matches!(error, StartError::Commit(CommitError::Refused(_))), "{error}");
}

/// A store that somebody else wrote to, so many times, since it was loaded.
struct Raced(MemoryStore, u32);

impl Store for Raced {
    fn load(&mut self, pause: Pause<'_>) -> Result<Rows, StoreError> {
        self.0.load(pause)
    }
    fn commit(&mut self, batch: &Batch, pause: Pause<'_>) -> Result<(), CommitError> {
        if self.1 == 0 {
            return self.0.commit(batch, pause);
        }
        self.1 -= 1;
        let path = "memory".into();
        Err(CommitError::Refused(StoreError::OutOfStep { path, expected: 1, found: 2 }))
    }
    fn history(&self) -> Arc<dyn History> {
        self.0.history()
    }
}

#[tokio::test]
async fn a_lab_that_another_daemon_goes_on_writing_to_is_loaded_until_it_is_taken_over() {
    let store = MemoryStore::default();
    let opened = open(Box::new(Raced(store.clone(), 5)), inventory(1), true).unwrap();
    assert_eq!(store.rows().unwrap().meta.epoch, opened.desk().epoch());
    let error = open(Box::new(Raced(store, u32::MAX)), inventory(1), true).err().unwrap();
    assert!(
        matches!(error, StartError::Commit(CommitError::Refused(StoreError::OutOfStep { .. }))),
        "{error}"
    );
}

fn refusing(store: MemoryStore) -> FaultyStore<MemoryStore> {
    let script = Script::default();
    script.next([Fault::Refused]);
    FaultyStore { inner: store, script }
}

/// A session that lasts a second, whose deadline is over while the loop does
/// not run yet; with `beats` there is one on the queue.
async fn overdue_session(beats: bool) -> Bench {
    let store = MemoryStore::default();
    let bench = Bench::opened(store.clone(), 1).run();
    bench.desk.ask(caller("ada", None), reserve(Hold::Session { silence: 1_000 })).await.unwrap();
    bench.end().await.unwrap();
    let bench = Bench::opened(store, 1);
    let due = bench.idle.as_ref().unwrap().lab().beat_due(ReservationId(1)).unwrap();
    if beats {
        let (desk, beat) = (bench.desk.clone(), Request::Beat(ReservationId(1)));
        tokio::spawn(async move { desk.ask(caller("ada", None), beat).await.unwrap() });
    }
    until("the deadline", || bench.desk.now() > due).await;
    bench.run()
}

#[tokio::test]
async fn a_beat_on_the_queue_is_taken_before_the_deadline_is_judged() {
    let bench = overdue_session(true).await;
    let snapshot = bench.desk.snapshot().await.unwrap();
    assert!(!snapshot.reservation(ReservationId(1)).unwrap().ended());
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_session_without_a_beat_ends_at_its_deadline() {
    let bench = overdue_session(false).await;
    until("the end", || bench.count(|c| matches!(c, Change::Ended { why: End::Lost, .. })) == 1).await;
    bench.end().await.unwrap();
}

#[tokio::test]
async fn subscribers_hear_what_is_committed_and_nothing_else() {
    let bench = Bench::on_memory(1);
    let mut records = bench.desk.subscribe();
    let known = bench.desk.snapshot().await.unwrap().meta().records;
    bench.script.next([Fault::Refused]);
    not_known(bench.reserve("k1").await);
    bench.reserve("k1").await.unwrap();
    let heard = records.recv().await.unwrap();
    assert_eq!(heard[0].number, known + 1);
    let stored = bench.desk.records(RecordQuery::after(known)).await.unwrap();
    assert_eq!(heard.to_vec(), stored[..heard.len()]);
    bench.end().await.unwrap();
}

struct Clumsy;
impl Hands for Clumsy {
    fn release(&self, _: Vec<Effect>, _: Epoch) {
        panic!("a bug in the hands");
    }
    fn follow(&self, _: &Arc<Inventory>) {}
    fn know(&self, _: &Lab, _: Option<&[Record]>) {}
}

#[tokio::test]
async fn a_loop_that_dies_is_noticed_and_its_askers_are_told() {
    let opened = open(Box::new(MemoryStore::default()), inventory(1), true).unwrap();
    let desk = opened.desk();
    let running = opened.run(Box::new(Clumsy)).unwrap();
    let asked = desk.ask(caller("ada", Some("k1")), reserve(Hold::Time)).await;
    // The reservation may be answered before its effects are let go.
    if asked.is_err() {
        not_known(asked);
    }
    assert!(matches!(running.ended().await, Err(Halt::Died)));
    not_known(desk.ask(caller("ada", Some("k1")), reserve(Hold::Time)).await);
}

#[tokio::test]
async fn another_process_that_locks_the_database_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::opened(SqliteStore::open(dir.path()).unwrap(), 8).run();
    let other = rusqlite::Connection::open(dir.path().join("lab.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked: Vec<_> = (0..8).map(|n| bench.reserve_aside(&format!("k{n}"))).collect();
    let start = Instant::now();
    until("three seconds with the lock held", || start.elapsed() > Duration::from_secs(3)).await;
    assert_eq!(bench.desk.snapshot().await.unwrap().reservations().len(), 0, "reads go on");
    assert!(asked.iter().all(|a| !a.is_finished()));
    other.execute_batch("COMMIT").unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(bench.queued(), 8);
    until("their effects", || bench.power().len() >= 8).await;
    // Nobody could be heard meanwhile, so that time does not count for those
    // whose turns had begun: all that were in the first batch.
    until("deadlines moved", || bench.count(|c| matches!(c, Change::DeadlineMoved { .. })) >= 1).await;
    assert!(bench.power().iter().all(|stored| *stored));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn after_a_restart_the_first_answer_is_still_given() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::opened(SqliteStore::open(dir.path()).unwrap(), 2).run();
    let first = bench.reserve("k1").await.unwrap();
    bench.end().await.unwrap();
    let bench = Bench::opened(SqliteStore::open(dir.path()).unwrap(), 2).run();
    assert_eq!(bench.reserve("k1").await.unwrap(), first);
    assert_eq!(bench.queued(), 1);
    bench.end().await.unwrap();
}

fn item(event: Event) -> (Item, oneshot::Receiver<Result<Answer, ApiError>>) {
    let (sender, receiver) = oneshot::channel();
    let tell: Tell = Box::new(move |told| drop(sender.send(told.map(|(answer, _)| answer))));
    (Item::Event(event, Some(tell), Arrival::now()), receiver)
}

#[test]
fn beats_overtake_whatever_is_queued() {
    let mut waiting = Waiting::default();
    let beat = Event::Request(caller("ada", None), Request::Beat(ReservationId(1)));
    waiting.take(item(Event::Request(caller("ada", None), reserve(Hold::Time))).0);
    waiting.take(item(beat).0);
    let first = waiting.drain().next().unwrap();
    assert!(matches!(first.event, Event::Request(_, Request::Beat(_))));
}

#[test]
fn who_is_turned_away_hears_so_and_facts_stay_but_repeated_results_do_not_pile_up() {
    let mut waiting = Waiting::default();
    let machine = MachineName::new("m0").unwrap();
    let read = Fact::Read { machine: machine.clone(), leg: 0, asked: LabTime(1), reading: Reading::Off };
    let fact = Event::Fact { epoch: Epoch(1), fact: read };
    let report =
        |report| Event::Agent { machine: machine.clone(), nonce: "n".into(), boot_id: "b".into(), report };
    let done = Report::Done { step: 1, outcome: pitstop_wire::agent::Outcome::Serving };
    for event in [report(done), fact, report(Report::Lost)] {
        waiting.take(Item::Event(event, None, Arrival::now()));
    }
    let (request, mut answer) = item(Event::Request(caller("ada", None), reserve(Hold::Time)));
    waiting.take(request);
    waiting.turn_away("the disk is full");
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(error.message.contains("the disk is full"), "{error}");
    let left: Vec<Event> = waiting.drain().map(|asked| asked.event).collect();
    assert!(matches!(left[..], [Event::Fact { .. }, Event::Agent { report: Report::Lost, .. }]), "{left:?}");
}

#[test]
fn no_two_throws_are_alike() {
    let (mut a, mut b) = (Dice::throw().unwrap(), Dice::throw().unwrap());
    let all: std::collections::BTreeSet<_> = (0..100).flat_map(|_| [a.next().0, b.next().0]).collect();
    assert_eq!(all.len(), 200);
}

impl Bench {
    async fn reload(&self, key: Option<&str>, inventory: Arc<Inventory>) -> Result<Value, ApiError> {
        self.desk.ask(caller("ada", key), Request::Reload(inventory)).await
    }

    /// Machines of each inventory the hands were given.
    fn followed(&self) -> Vec<usize> {
        self.hands.followed.lock().unwrap().iter().map(|(machines, _)| *machines).collect()
    }

    async fn machines(&self) -> usize {
        self.desk.snapshot().await.unwrap().inventory().machines.len()
    }
}

#[tokio::test]
async fn a_reload_that_is_not_committed_swaps_no_drivers() {
    let bench = Bench::on_memory(1);
    bench.script.next([Fault::Refused]);
    not_known(bench.reload(Some("k1"), inventory(2)).await);
    assert_eq!((bench.followed(), bench.machines().await), (vec![], 1));
    bench.reload(Some("k1"), inventory(2)).await.unwrap();
    assert_eq!((bench.followed(), bench.machines().await), (vec![2], 2));
    // Answered before: the newer file is not what this key asked for.
    bench.reload(Some("k1"), inventory(3)).await.unwrap();
    assert_eq!((bench.followed(), bench.machines().await), (vec![2], 2));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_reload_that_was_written_although_its_commit_failed_swaps_the_drivers() {
    let bench = Bench::on_memory(1);
    bench.script.next([Fault::LostAfter]);
    let answer = bench.reload(Some("k1"), inventory(2)).await;
    until("the drivers follow", || bench.followed() == [2]).await;
    assert_eq!(bench.machines().await, 2, "{answer:?}");
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_reload_without_a_record_is_not_lost_with_the_batch_behind_its_answer() {
    let bench = Bench::on_memory(1);
    // Nothing of this is in a row: no record tells of it.
    let mut other = Arc::unwrap_or_clone(inventory(1));
    other.machines.values_mut().for_each(|m| m.limits.power_ms += 1);
    let power = async || {
        let lab = bench.desk.snapshot().await.unwrap();
        lab.inventory().machines.values().next().unwrap().limits.power_ms
    };
    let before = power().await;
    bench.script.next([Fault::Refused]);
    not_known(bench.reload(None, Arc::new(other.clone())).await);
    assert_eq!((bench.followed(), power().await), (vec![], before));
    bench.reload(None, Arc::new(other)).await.unwrap();
    assert_eq!((bench.followed(), power().await), (vec![1], before + 1));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn effects_of_a_new_inventory_find_its_drivers() {
    let bench = Bench::opened(MemoryStore::default(), 1);
    // Both are on the queue before the loop runs: one batch.
    let desk = bench.desk.clone();
    let asked = tokio::spawn(async move {
        let reload = Request::Reload(inventory(2));
        let reserve = reserve(Hold::Time);
        tokio::join!(
            desk.ask(caller("ada", Some("k1")), reload),
            desk.ask(caller("ada", Some("k2")), reserve)
        )
    });
    tokio::task::yield_now().await;
    let bench = bench.run();
    let (reloaded, reserved) = asked.await.unwrap();
    reloaded.unwrap();
    reserved.unwrap();
    until("power leaves", || !bench.power().is_empty()).await;
    let first =
        bench.hands.released.lock().unwrap().iter().position(|(e, _)| matches!(e, Effect::Power { .. }));
    let followed = bench.hands.followed.lock().unwrap().clone();
    assert!(matches!(followed[..], [(2, before)] if before <= first.unwrap()), "{followed:?}, {first:?}");
    // What it means is known before anything of it leaves, and may be about any row.
    let known = bench.hands.known.lock().unwrap().clone();
    assert!(matches!(known[..], [(None, before), ..] if before <= first.unwrap()), "{known:?}, {first:?}");
    bench.end().await.unwrap();
}

#[tokio::test]
async fn an_agents_report_is_waited_for_until_it_is_decided_or_turned_away() {
    let bench = Bench::on_memory(1);
    let machine = MachineName::new("m0").unwrap();
    let done = || {
        let outcome = pitstop_wire::agent::Outcome::Serving;
        bench.desk.agent(machine.clone(), "n".into(), "b".into(), Report::Done { step: 1, outcome })
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, done()).await.expect("decided");
    bench.script.next([Fault::Shut]);
    let slow = bench.reserve_aside("k1");
    until("the commit waits", || bench.script.played()).await;
    let waits = done();
    tokio::pin!(waits);
    assert!(at_once(waits.as_mut()).await.is_none(), "decided while the loop waits for the disk");
    bench.script.open();
    tokio::time::timeout(patience, waits).await.expect("decided");
    slow.await.unwrap().unwrap();
    bench.desk.stop();
    tokio::time::timeout(patience, done()).await.expect("a loop that stops leaves nobody waiting");
    bench.end().await.unwrap();
}

/// What a future says at once.
async fn at_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
