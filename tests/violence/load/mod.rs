//! Clients that use the lab all the while, whatever happens to it, and write
//! down what they were told.

mod churn;
mod session;
mod tenant;
mod watch;

pub use session::SILENCE;

use crate::book::{Ack, Book, Call};
use fastrand::Rng;
use pitstop_client::api::{Member, Release, Reservation, ReservationState};
use pitstop_client::{ApiError, Client, Code};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long a client goes on asking before the lab counts as gone for good.
const PATIENCE: Duration = Duration::from_secs(180);
/// Of so many answered requests one is sent once more under its key.
const REPEATS: u32 = 8;

/// How many clients of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub churners: usize,
    pub sessions: usize,
    pub tenants: usize,
    pub switchers: usize,
}

/// The clients.
pub struct Load {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

/// What the clients share.
pub struct Shared {
    client: Client,
    data: PathBuf,
    pub book: Arc<Book>,
    stop: AtomicBool,
    commands: AtomicU64,
}

impl Load {
    /// Lets them begin. Which keys and choices they take is `seed`'s.
    pub fn start(socket: &Path, data: &Path, book: Arc<Book>, crowd: Crowd, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            client: Client::new(socket),
            data: data.to_owned(),
            book,
            stop: AtomicBool::new(false),
            commands: AtomicU64::new(0),
        });
        let mut load = Self { tasks: JoinSet::new(), shared };
        let mut rng = Rng::with_seed(seed);
        for n in 0..crowd.churners {
            let voice = load.voice(&mut rng, format!("c{n}"));
            load.tasks.spawn(churn::leases(voice));
        }
        for n in 0..crowd.sessions {
            let voice = load.voice(&mut rng, format!("s{n}"));
            load.tasks.spawn(session::sessions(voice));
        }
        for n in 0..crowd.tenants {
            let voice = load.voice(&mut rng, format!("t{n}"));
            load.tasks.spawn(tenant::tenancies(voice));
        }
        for n in 0..crowd.switchers {
            let voice = load.voice(&mut rng, format!("p{n}"));
            load.tasks.spawn(churn::power(voice));
        }
        load.tasks.spawn(watch::follow(load.shared.clone()));
        load.tasks.spawn(watch::look(load.shared.clone()));
        load
    }

    fn voice(&self, rng: &mut Rng, name: String) -> Voice {
        let run = rng.u32(..);
        Voice { shared: self.shared.clone(), rng: rng.fork(), name: format!("{name}-{run:08x}"), said: 0 }
    }

    /// Commands that ran to their end on machines, output complete.
    pub fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::Relaxed)
    }

    /// Has them give everything back, and waits for that.
    pub async fn end(mut self) -> Result<(), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.map_err(|e| format!("a client died: {e}"))?;
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, all).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("the clients do not come to an end within {} s", PATIENCE.as_secs())),
        }
    }
}

impl Shared {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One client.
struct Voice {
    shared: Arc<Shared>,
    rng: Rng,
    name: String,
    said: u64,
}

impl Voice {
    fn over(&self) -> bool {
        self.shared.over()
    }

    fn book(&self) -> &Book {
        &self.shared.book
    }

    async fn pause(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    /// Asks until the answer is known; the answer is written down.
    async fn ask(&mut self, call: Call, id: &str) -> Result<Option<Reservation>, ApiError> {
        self.said += 1;
        let key = format!("{}-{}", self.name, self.said);
        let keyed = (!matches!(call, Call::Claim)).then(|| key.clone());
        let answer = self.answered(&call, id, keyed.clone()).await?;
        // As a client does whose answer was lost on its way.
        if keyed.is_some() && self.rng.u32(..REPEATS) == 0 {
            let again = self.answered(&call, id, keyed).await?;
            let (first, again) = (answer.as_ref().map(|r| &r.id), again.as_ref().map(|r| &r.id));
            if first != again {
                self.book().violation(format!("key {key} is {first:?}, and then {again:?}"));
            }
        }
        Ok(answer)
    }

    async fn answered(
        &self,
        call: &Call,
        id: &str,
        key: Option<String>,
    ) -> Result<Option<Reservation>, ApiError> {
        key.iter().for_each(|key| self.book().asks(key));
        let began = Instant::now();
        loop {
            match say(&self.shared.client, call, id, key.clone()).await {
                Ok(answer) => {
                    let id = answer.as_ref().map_or(id, |r| &r.id).to_owned();
                    self.book().acknowledged(Ack { key, id, call: call.clone() });
                    return Ok(answer);
                }
                Err(e) if e.code == Code::NotKnown && began.elapsed() < PATIENCE => {}
                Err(e) => {
                    if e.code == Code::NotKnown || e.code == Code::Internal {
                        self.book().violation(format!("{call:?} {id}: {e}"));
                    }
                    key.iter().for_each(|key| self.book().refused(key));
                    return Err(e);
                }
            }
        }
    }

    /// Waits for the reservation to be ready, or gives up after so many
    /// looks. Its machines are then its holder's.
    async fn until_ready(&mut self, first: Reservation, looks: usize) -> Option<Vec<Member>> {
        let mut row = first;
        for _ in 0..looks {
            match row.state {
                ReservationState::Ready | ReservationState::Active => {
                    row.machines.iter().for_each(|m| self.book().got(&row.id, &m.machine));
                    return Some(row.machines);
                }
                ReservationState::Ended => {
                    self.book().violation(format!("{} ended by itself: {:?}", row.id, row.end));
                    return None;
                }
                ReservationState::Waiting | ReservationState::Preparing => {}
            }
            self.pause(15..60).await;
            match self.shared.client.reservation(&row.id).await {
                Ok(newer) => row = newer,
                Err(e) if e.code == Code::NotKnown => {}
                Err(e) => {
                    self.book().violation(format!("{} was acknowledged and is gone: {e}", row.id));
                    return None;
                }
            }
        }
        None
    }

    async fn give_back(&mut self, id: &str) {
        self.book().gives_back(id);
        if let Err(e) = self.ask(Call::Release, id).await {
            self.book().violation(format!("{id} cannot be given back: {e}"));
        }
    }
}

/// One request, as it was or once more.
pub async fn say(
    client: &Client,
    call: &Call,
    id: &str,
    key: Option<String>,
) -> Result<Option<Reservation>, ApiError> {
    match call {
        Call::Reserve(ask) => client.reserve(ask, key).await.map(Some),
        Call::Claim => client.claim(id).await.map(Some),
        Call::Extend(until) => client.extend(id, until, key).await.map(Some),
        Call::Release => client.release(id, &Release::default(), key).await.map(Some),
        Call::Power(machine, what) => client.power(machine.as_str(), what, key).await.map(|_| None),
    }
}
