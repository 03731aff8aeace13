//! The store against a model: whatever is committed, refused, lost, killed,
//! put back and read in between, it holds what a list in memory would.
//!
//! The model is the lab itself, with a list of its records. Each operation is
//! drawn with its outcome, which is what the store must say.

use super::fault::{Fault, FaultyStore, Script};
use super::memory::MemoryStore;
use super::sample::Sample;
use super::{Batch, CommitError, FILE, History, RecordQuery, SqliteStore, Store, StoreError, mark, sleep};
use pitstop_core::Lab;
use pitstop_core::event::Floor;
use pitstop_core::id::{Epoch, ReservationId};
use pitstop_core::lab::{Row, RowKey};
use pitstop_core::record::Record;
use pitstop_wire::MachineName;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::path::Path;
use std::sync::Arc;

/// What a daemon's step may decide.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A start, with so many machines in the inventory: some may be gone.
    Start(usize),
    Reserve,
    /// Of the oldest reservation that is not over.
    Release,
}

#[derive(Debug, Clone)]
enum Op {
    Commit(Step, Fault),
    /// Several steps in one transaction.
    Batch(Vec<Step>),
    /// A batch that does not follow what is stored.
    OutOfStep,
    /// A daemon of an earlier epoch wakes up.
    Late,
    /// The daemon ends in order, and another one opens the store.
    Reopen,
    /// It is killed: what is on disk at this moment is all that is left.
    Kill,
    Backup,
    /// The newest backup is put back, and a daemon takes the lab.
    Restore,
    Read(Query),
}

/// A query, with parts of what is there.
#[derive(Debug, Clone)]
struct Query {
    after: Option<u8>,
    before: Option<u8>,
    machine: Option<u8>,
    reservation: Option<u8>,
    limit: Option<u8>,
    newest: bool,
}

impl Query {
    fn of(&self, records: u64) -> RecordQuery {
        // Percent of what is there, and a little more.
        let number = |part: Option<u8>| part.map(|p| records * u64::from(p) / 200);
        RecordQuery {
            after: number(self.after),
            before: number(self.before),
            since: None,
            machine: self.machine.and_then(|m| MachineName::new(&format!("m{}", m % 4)).ok()),
            reservation: self.reservation.map(|r| ReservationId(u64::from(r % 6))),
            limit: self.limit.map(usize::from),
            newest: self.newest,
        }
    }
}

/// What must be stored.
#[derive(Debug, Clone, Default)]
struct Model {
    lab: Lab,
    records: Vec<Record>,
    backup: Option<(Lab, Vec<Record>)>,
    /// The lab had come so far.
    floor: Floor,
    /// The batch of the operation that was applied last.
    last: Batch,
}

impl Model {
    fn decide(lab: Lab, step: Step) -> (Lab, Batch) {
        let mut sample = Sample::on(lab);
        let oldest = sample.lab.reservations().find(|r| !r.ended()).map(|r| r.id);
        let batch = match step {
            Step::Start(machines) => sample.start(machines),
            Step::Reserve => {
                let key = format!("k{}", sample.lab.meta().records);
                sample.reserve("ada", &key).0
            }
            Step::Release => match oldest {
                Some(id) => sample.release("ada", id),
                None => sample.start(2),
            },
        };
        (sample.lab, batch)
    }

    fn commit(&mut self, (lab, batch): (Lab, Batch)) {
        self.records.extend(batch.records.iter().cloned());
        self.lab = lab;
        self.floor.epoch = self.floor.epoch.max(self.lab.meta().epoch);
        self.floor.reservations = self.floor.reservations.max(self.lab.meta().reservations);
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_usize).prop_map(Step::Start),
        Just(Step::Reserve),
        Just(Step::Reserve),
        Just(Step::Release)
    ]
}

fn query() -> impl Strategy<Value = Query> {
    use proptest::option::of;
    (of(0..220_u8), of(0..220_u8), of(any::<u8>()), of(any::<u8>()), of(0..40_u8), any::<bool>()).prop_map(
        |(after, before, machine, reservation, limit, newest)| Query {
            after,
            before,
            machine,
            reservation,
            limit,
            newest,
        },
    )
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Self> {
        // A daemon leads: nothing is committed before.
        Just({
            let mut model = Self::default();
            let decided = Self::decide(Lab::default(), Step::Start(2));
            model.last = decided.1.clone();
            model.commit(decided);
            model
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Op> {
        let fault = prop_oneof![
            6 => Just(Fault::None),
            1 => Just(Fault::Refused),
            1 => Just(Fault::LostBefore),
            1 => Just(Fault::LostAfter),
        ];
        prop_oneof![
            8 => (step(), fault).prop_map(|(step, fault)| Op::Commit(step, fault)),
            2 => proptest::collection::vec(step(), 2..5).prop_map(Op::Batch),
            1 => Just(Op::OutOfStep),
            1 => Just(Op::Late),
            2 => Just(Op::Reopen),
            2 => Just(Op::Kill),
            1 => Just(Op::Backup),
            1 => Just(Op::Restore),
            4 => query().prop_map(Op::Read),
        ]
        .boxed()
    }

    fn apply(mut model: Self, op: &Op) -> Self {
        match op {
            Op::Commit(step, fault) => {
                let decided = Self::decide(model.lab.clone(), *step);
                model.last = decided.1.clone();
                if matches!(fault, Fault::None | Fault::LostAfter) {
                    model.commit(decided);
                }
            }
            Op::Batch(steps) => {
                let mut whole = Batch::default();
                for step in steps {
                    let decided = Self::decide(model.lab.clone(), *step);
                    whole = joined(whole, decided.1.clone());
                    model.commit(decided);
                }
                model.last = whole;
            }
            // Two steps ahead: the first is missing.
            Op::OutOfStep => {
                let (lab, _) = Self::decide(model.lab.clone(), Step::Reserve);
                model.last = Self::decide(lab, Step::Reserve).1;
            }
            Op::Late => {
                let mut late = Self::decide(model.lab.clone(), Step::Reserve).1;
                late.meta.epoch = Epoch(late.meta.epoch.0 - 1);
                model.last = late;
            }
            Op::Backup => model.backup = Some((model.lab.clone(), model.records.clone())),
            Op::Restore => {
                if let Some((lab, records)) = model.backup.clone() {
                    model.records = records;
                    let mut sample = Sample::on(lab);
                    let batch = sample.start_restored(2, model.floor);
                    model.last = batch.clone();
                    model.commit((sample.lab, batch));
                }
            }
            Op::Reopen | Op::Kill | Op::Read(_) => {}
        }
        model
    }
}

/// One batch after the other, as one.
fn joined(mut first: Batch, second: Batch) -> Batch {
    let touched: Vec<RowKey> = second.upserts.iter().map(Row::key).chain(second.removes.clone()).collect();
    first.upserts.retain(|row| !touched.contains(&row.key()));
    first.removes.retain(|row| !touched.contains(row));
    first.upserts.extend(second.upserts);
    first.removes.extend(second.removes);
    first.records.extend(second.records);
    first.meta = second.meta;
    first
}

/// The store, in a directory of its own.
struct Stored {
    dir: tempfile::TempDir,
    backup: Option<tempfile::TempDir>,
    store: FaultyStore<SqliteStore>,
}

impl Stored {
    fn open(dir: tempfile::TempDir, backup: Option<tempfile::TempDir>) -> Self {
        let inner = SqliteStore::open(dir.path()).unwrap();
        Self { dir, backup, store: FaultyStore { inner, script: Script::default() } }
    }

    fn commit(&mut self, batch: &Batch, fault: Fault) {
        self.store.script.next([fault]);
        let done = self.store.commit(batch, &mut sleep);
        match (fault, done) {
            (Fault::None, Ok(()))
            | (Fault::Refused, Err(CommitError::Refused(_)))
            | (Fault::LostBefore | Fault::LostAfter, Err(CommitError::Unknown(_))) => {}
            (fault, done) => panic!("{fault:?}: {done:?}"),
        }
    }

    /// What a kill leaves: the files as they are now, without a word to the
    /// store that has them open.
    fn kill(self) -> Self {
        let left = tempfile::tempdir().unwrap();
        for name in [FILE.to_owned(), format!("{FILE}-wal"), mark::FILE.to_owned()] {
            let (from, to) = (self.dir.path().join(&name), left.path().join(&name));
            if from.exists() {
                std::fs::copy(from, to).unwrap();
            }
        }
        let backup = self.backup;
        drop(self.store);
        Self::open(left, backup)
    }

    fn restore(self, batch: &Batch, floor: Floor) -> Self {
        let Self { dir, backup, store } = self;
        let Some(backup) = backup else { return Self { dir, backup: None, store } };
        drop(store);
        super::restore(&backup.path().join(FILE), dir.path()).unwrap();
        let mut stored = Self::open(dir, Some(backup));
        assert_eq!(stored.store.past().map(|p| p.floor), Some(floor), "how far the lab had come");
        stored.commit(batch, Fault::None);
        stored
    }
}

fn all(history: &dyn History) -> Vec<Record> {
    history.records(&RecordQuery::default()).unwrap()
}

fn dir_of(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

impl StateMachineTest for Model {
    type SystemUnderTest = Stored;
    type Reference = Self;

    fn init_test(model: &Self) -> Stored {
        let mut stored = Stored::open(tempfile::tempdir().unwrap(), None);
        stored.commit(&model.last, Fault::None);
        stored
    }

    fn apply(mut stored: Stored, model: &Self, op: Op) -> Stored {
        let before = model.lab.meta().epoch;
        match op {
            Op::Commit(_, fault) => stored.commit(&model.last, fault),
            Op::Batch(_) => stored.commit(&model.last, Fault::None),
            Op::OutOfStep => {
                let refused = stored.store.commit(&model.last, &mut sleep);
                assert!(
                    matches!(refused, Err(CommitError::Refused(StoreError::OutOfStep { .. }))),
                    "{refused:?}"
                );
            }
            Op::Late => {
                let refused = stored.store.commit(&model.last, &mut sleep);
                assert!(
                    matches!(refused, Err(CommitError::Superseded { by, .. }) if by == before),
                    "{refused:?}"
                );
            }
            Op::Reopen => {
                let Stored { dir, backup, store } = stored;
                drop(store);
                stored = Stored::open(dir, backup);
            }
            Op::Kill => stored = stored.kill(),
            Op::Backup => {
                let place = tempfile::tempdir().unwrap();
                super::backup(&stored.dir.path().join(FILE), &place.path().join(FILE)).unwrap();
                stored.backup = Some(place);
            }
            Op::Restore => {
                // The floor without what the restored start itself took.
                let epoch = Epoch(model.floor.epoch.0 - u64::from(stored.backup.is_some()));
                let floor = Floor { epoch, ..model.floor };
                stored = stored.restore(&model.last, floor);
            }
            Op::Read(query) => {
                let query = query.of(model.records.len() as u64);
                let mut memory = MemoryStore::default();
                let batch = Batch {
                    meta: model.lab.meta().clone(),
                    records: model.records.clone(),
                    ..Batch::default()
                };
                memory.commit(&batch, &mut sleep).unwrap();
                let (is, must) = (stored.store.history().records(&query), memory.records(&query));
                assert_eq!(is.unwrap(), must.unwrap(), "{query:?}");
            }
        }
        stored
    }

    fn check_invariants(stored: &Stored, model: &Self) {
        let history: Arc<dyn History> = stored.store.history();
        let rows = Lab::from_rows(history.rows().unwrap()).rows();
        assert_eq!(rows, model.lab.rows());
        assert_eq!(all(&*history), model.records);
        assert_eq!(Lab::from_records(&model.records).rows(), rows, "rows are the fold of the records");
        let past = stored.store.past();
        assert!(past.is_none(), "the lab's own database is taken for one of the past: {past:?}");
        let stray = dir_of(stored.dir.path()).into_iter().find(|name| name.ends_with(".new"));
        assert_eq!(stray, None);
    }
}

prop_state_machine! {
    #![proptest_config(Config {
        cases: 32,
        // Sequences that found a bug, the store's or a planted one.
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    })]
    #[test]
    fn the_store_holds_what_a_list_in_memory_would(sequential 1..24 => Model);
}
