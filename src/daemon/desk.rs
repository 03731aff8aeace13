//! The desk: where everybody else meets the decision loop.

use super::clock::Clock;
use super::decide::Arrival;
use crate::store::{History, RecordQuery, StoreError};
use pitstop_core::Lab;
use pitstop_core::event::{Answer, BootAnswer, Caller, Event, Fact, Report, Request};
use pitstop_core::id::Epoch;
use pitstop_core::inventory::model::Inventory;
use pitstop_core::record::Record;
use pitstop_core::time::{LabTime, WallMs};
use pitstop_wire::agent::{Hello, Welcome};
use pitstop_wire::{ApiError, Code, MachineName};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

/// Requests that may wait for the loop; more wait outside.
const ROOM: usize = 1024;
/// Batches of records that a slow subscriber may be behind before it is told
/// that it missed some, and reads them from the history.
const BEHIND: usize = 1024;

/// A handle to the decision loop, for any number of tasks.
#[derive(Clone)]
pub struct Desk {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Item>,
    room: Semaphore,
    clock: Clock,
    epoch: Epoch,
    history: Arc<dyn History>,
    records: broadcast::Sender<Arc<[Record]>>,
    condition: watch::Receiver<Condition>,
    inventory: watch::Receiver<Arc<Inventory>>,
}

/// How the loop gets on with its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Well.
    Well,
    /// Commits fail. Nothing is decided and nothing expires until they
    /// succeed again; consoles, running commands and reads go on.
    ReadOnly {
        /// Lab time of the first failure.
        since: LabTime,
        /// What the store says.
        reason: String,
    },
}

/// What is put on the loop's queue.
#[allow(clippy::large_enum_variant, reason = "nearly all are events")]
pub(super) enum Item {
    Event(Event, Reply, Arrival),
    Snapshot(oneshot::Sender<Snapshot>),
    Stop,
}

/// What a reader gets.
pub(super) type Snapshot = Result<Arc<Lab>, ApiError>;

/// Takes an answer, with the lab as it is committed with it. It runs on the
/// loop.
pub(super) type Tell = Box<dyn FnOnce(Result<(Answer, &Lab), ApiError>) + Send>;

/// Where an answer goes; nobody may be waiting.
pub(super) type Reply = Option<Tell>;

/// The loop's ends of what the desk holds.
pub(super) struct Counter {
    pub queue: mpsc::Receiver<Item>,
    pub records: broadcast::Sender<Arc<[Record]>>,
    pub condition: watch::Sender<Condition>,
    pub inventory: watch::Sender<Arc<Inventory>>,
}

pub(super) fn set_up(
    clock: Clock,
    epoch: Epoch,
    history: Arc<dyn History>,
    inventory: Arc<Inventory>,
) -> (Desk, Counter) {
    let (sender, queue) = mpsc::channel();
    let (condition, watched) = watch::channel(Condition::Well);
    let (inventory, declared) = watch::channel(inventory);
    let records = broadcast::Sender::new(BEHIND);
    let shared = Shared {
        queue: sender,
        room: Semaphore::new(ROOM),
        clock,
        epoch,
        history,
        records: records.clone(),
        condition: watched,
        inventory: declared,
    };
    (Desk { shared: Arc::new(shared) }, Counter { queue, records, condition, inventory })
}

impl Desk {
    /// Asks for something; the answer is committed when it is given.
    ///
    /// # Errors
    /// What the core refuses, and [`Code::NotKnown`] when the outcome is not
    /// known: the same request with the same key may be sent again.
    pub async fn ask(&self, caller: Caller, request: Request) -> Result<Value, ApiError> {
        self.ask_and_look(caller, request, |answer, _| Ok(answer)).await
    }

    /// The same, and a look at the lab as it is committed with the answer.
    /// `look` runs on the loop, where everybody waits for it: one row, not a
    /// list. A snapshot in its place would wait for the next commit, and the
    /// loop would have to copy the lab's indexes as long as it is kept.
    ///
    /// # Errors
    /// As [`Desk::ask`], and what `look` finds wrong.
    pub async fn ask_and_look<T: Send + 'static>(
        &self,
        caller: Caller,
        request: Request,
        look: impl FnOnce(Value, &Lab) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Beats do not queue up behind requests: they are what keeps a
        // session alive just when there is a crowd.
        let _room = match &request {
            Request::Beat(_) | Request::WiringBeat(_) => None,
            _ => Some(self.shared.room.acquire().await.map_err(|_| stopping())?),
        };
        let look = move |answer, lab: &Lab| match answer {
            Answer::Api(answer) => look(answer?, lab),
            _ => Err(mixed_up()),
        };
        self.put(Event::Request(caller, request), look).await?
    }

    /// An agent says hello.
    pub async fn hello(&self, hello: Hello) -> Welcome {
        match self.put(Event::Hello(hello), |answer, _| answer).await {
            Ok(Answer::Welcome(welcome)) => welcome,
            Ok(_) => Welcome::Refused { reason: mixed_up().message, retry: true },
            Err(e) => Welcome::Refused { reason: e.message, retry: true },
        }
    }

    /// A machine's firmware, or with `lane` the lane that boots it, asks what
    /// to boot.
    pub async fn boot(&self, machine: MachineName, lane: bool) -> BootAnswer {
        match self.put(Event::BootRequest { machine, lane }, |answer, _| answer).await {
            Ok(Answer::Boot(answer)) => answer,
            Ok(_) => BootAnswer::Refused(mixed_up().message),
            Err(e) => BootAnswer::NotKnown(e.message),
        }
    }

    /// A hand reports. `epoch` is that of the effect it reports about.
    /// Nothing is lost: a fact is decided about again if a commit fails.
    pub fn fact(&self, epoch: Epoch, fact: Fact) {
        self.post(Event::Fact { epoch, fact }, None);
    }

    /// An agent reports in its session; the result waits until that has been
    /// decided about, or was turned away, and need not be waited for.
    pub fn agent(
        &self,
        machine: MachineName,
        nonce: String,
        boot_id: String,
        report: Report,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (sender, decided) = oneshot::channel();
        // Told by being dropped, whatever becomes of it.
        let tell: Tell = Box::new(move |_| drop(sender));
        self.post(Event::Agent { machine, nonce, boot_id, report }, Some(tell));
        async move {
            let _: Result<(), _> = decided.await;
        }
    }

    /// The lab as it is committed.
    ///
    /// # Errors
    /// The daemon is stopping, or its store can neither be written nor read.
    pub async fn snapshot(&self) -> Result<Arc<Lab>, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.queue.send(Item::Snapshot(sender)).map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    }

    /// Records from now on, as they are committed. To miss none: subscribe,
    /// then take a snapshot; go on with numbers above its `meta().records`.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[Record]>> {
        self.shared.records.subscribe()
    }

    /// Committed records that fit, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn records(&self, query: RecordQuery) -> Result<Vec<Record>, ApiError> {
        let history = Arc::clone(&self.shared.history);
        let read = tokio::task::spawn_blocking(move || history.records(&query)).await;
        let failed = |e: &dyn std::error::Error| ApiError::new(Code::Internal, e.to_string());
        match read {
            Ok(records) => records.map_err(|e: StoreError| failed(&e)),
            Err(e) => Err(failed(&e)),
        }
    }

    /// The inventory as it is committed.
    pub fn inventory(&self) -> Arc<Inventory> {
        Arc::clone(&self.shared.inventory.borrow())
    }

    /// Name of the database that record numbers belong to.
    pub fn store_id(&self) -> &str {
        self.shared.history.store_id()
    }

    /// Our epoch.
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The lab's clock.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Lab time.
    pub fn now(&self) -> LabTime {
        self.shared.clock.now()
    }

    /// Wall time.
    pub fn wall(&self) -> WallMs {
        self.shared.clock.wall()
    }

    /// Whether commits succeed, and a way to be woken when that changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.shared.condition.clone()
    }

    /// From now on nothing is granted any more.
    pub fn drain(&self) {
        self.post(Event::Drain, None);
    }

    /// Has the loop end once it has decided about what was queued before.
    pub fn stop(&self) {
        // A loop that is gone has stopped.
        drop(self.shared.queue.send(Item::Stop));
    }

    /// A copy of all that is committed, in an empty file or one that is not
    /// there; whoever decides or reads goes on meanwhile.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn backup(&self, to: &Path) -> Result<(), ApiError> {
        let (history, to) = (Arc::clone(&self.shared.history), to.to_owned());
        let failed = |e: &dyn std::error::Error| ApiError::new(Code::Internal, e.to_string());
        match tokio::task::spawn_blocking(move || history.backup(&to)).await {
            Ok(done) => done.map_err(|e: StoreError| failed(&e)),
            Err(e) => Err(failed(&e)),
        }
    }

    async fn put<T: Send + 'static>(
        &self,
        event: Event,
        look: impl FnOnce(Answer, &Lab) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let tell: Tell = Box::new(move |told| {
            // An asker that has gone asks again with its key.
            drop(sender.send(told.map(|(answer, lab)| look(answer, lab))));
        });
        self.shared.queue.send(Item::Event(event, Some(tell), Arrival::now())).map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    }

    fn post(&self, event: Event, reply: Reply) {
        if self.shared.queue.send(Item::Event(event, reply, Arrival::now())).is_err() {
            // The next daemon asks the hardware and the agents again.
            tracing::debug!("a report came after the loop had ended");
        }
    }
}

fn stopping() -> ApiError {
    not_known("the daemon is stopping")
}

/// The outcome is not known.
pub(super) fn not_known(why: &str) -> ApiError {
    let mut error = ApiError::new(Code::NotKnown, format!("whether this was done is not known: {why}"))
        .hint("retry with the same key: it will not be done twice");
    error.retry_after = Some(1);
    error
}

fn mixed_up() -> ApiError {
    ApiError::new(Code::Internal, "the answer does not fit the question; please report this as a bug")
}
