//! The thread that starts and signals commands.
//!
//! One thread for three reasons: `exec` from a busy disk blocks, and must not stall the heartbeat; a start
//! and a signal that follows it stay in order; and a sandbox dies with the *thread* that started it
//! (PR_SET_PDEATHSIG), so that thread has to live as long as the commands may.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pitstop_wire::run::{Command, End};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::RunEvent;
use super::processes::{Processes, Surroundings};
use crate::sandbox::{Namespaces, Place, Sandboxed};
use crate::say::Say;

/// How long a command may take after SIGTERM before SIGKILL follows.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

enum Job {
    Spawn { key: u64, command: Command, stdio: [OwnedFd; 3] },
    Signal { key: u64, signal: i32 },
    EndAll { done: oneshot::Sender<()> },
}

/// Where facts about commands go: events for the engine, and for the tasks that read pipes the word that
/// the command itself is gone.
pub(crate) struct Facts {
    events: UnboundedSender<crate::session::Event>,
    running: Mutex<HashMap<u64, watch::Sender<bool>>>,
    say: Say,
}

impl Facts {
    fn tell(&self, event: RunEvent) {
        // Nobody listens only when the agent itself ends.
        let _ = self.events.send(crate::session::Event::Run(event));
    }

    pub(crate) fn started(&self, key: u64) {
        self.tell(RunEvent::Spawned { key });
    }

    pub(crate) fn ended(&self, key: u64, end: End) {
        let gone = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(gone) = gone {
            gone.send_replace(true);
            self.tell(RunEvent::Exited { key, end });
        }
    }

    /// All commands are gone with whatever held them.
    pub(crate) fn all_ended(&self, reason: &str) {
        let keys: Vec<u64> =
            self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for key in keys {
            self.ended(key, End::Failed { reason: reason.to_owned() });
        }
    }

    pub(crate) fn say(&self, line: &str) {
        self.say.line(line);
    }
}

/// Gives jobs to the thread.
pub(crate) struct Spawner {
    jobs: Sender<Job>,
    facts: Arc<Facts>,
}

impl Spawner {
    pub(crate) fn new(
        place: Place,
        events: UnboundedSender<crate::session::Event>,
        say: Say,
    ) -> std::io::Result<Self> {
        let facts = Arc::new(Facts { events, running: Mutex::default(), say });
        let (jobs, todo) = channel();
        let theirs = Arc::clone(&facts);
        std::thread::Builder::new().name("agent-spawn".into()).spawn(move || work(place, &todo, &theirs))?;
        Ok(Self { jobs, facts })
    }

    /// Starts a command; how that went arrives as an event. The receiver turns true when it has ended.
    pub(crate) fn spawn(&self, key: u64, command: Command, stdio: [OwnedFd; 3]) -> watch::Receiver<bool> {
        let (gone, watcher) = watch::channel(false);
        self.facts.running.lock().unwrap_or_else(PoisonError::into_inner).insert(key, gone);
        if self.jobs.send(Job::Spawn { key, command, stdio }).is_err() {
            self.facts.ended(key, End::Failed { reason: "the agent is ending".into() });
        }
        watcher
    }

    pub(crate) fn signal(&self, key: u64, signal: i32) {
        // A refused send means that everything has been ended already.
        let _ = self.jobs.send(Job::Signal { key, signal });
    }

    /// Ends all commands; returns when they are gone.
    pub(crate) async fn end_all(&self) {
        let (done, wait) = oneshot::channel();
        if self.jobs.send(Job::EndAll { done }).is_ok() {
            // An error says that the thread ended, which it does after the work.
            let _ = wait.await;
        }
    }
}

fn work(place: Place, todo: &Receiver<Job>, facts: &Arc<Facts>) {
    let mut backend = match place {
        Place::Here { home } => {
            Backend::Here { processes: Arc::default(), around: Surroundings { env: None, home } }
        }
        Place::Namespaces(setup) => {
            let steps = Box::new(Steps::new(setup.clone()));
            Backend::Inside { sandbox: Box::new(Sandboxed::new(setup)), steps }
        }
    };
    while let Ok(job) = todo.recv() {
        match job {
            Job::Spawn { key, command, stdio } => {
                if let Err(reason) = backend.spawn(key, &command, stdio, facts) {
                    facts.ended(key, End::Failed { reason });
                }
            }
            Job::Signal { key, signal } => {
                if let Err(reason) = backend.signal(key, signal) {
                    facts.say(&format!("a command was not signalled: {reason}"));
                }
            }
            Job::EndAll { done } => {
                backend.end_all();
                let _ = done.send(());
            }
        }
    }
    // The agent is gone without a word: so are its commands.
    backend.end_all();
}

#[allow(clippy::large_enum_variant, reason = "one per agent")]
enum Backend {
    Here { processes: Arc<Processes>, around: Surroundings },
    Inside { sandbox: Box<Sandboxed>, steps: Box<Steps> },
}

/// The built-in steps of a machine whose host refuses namespaces.
struct Steps {
    setup: Namespaces,
    processes: Arc<Processes>,
    around: Surroundings,
}

impl Steps {
    fn new(setup: Namespaces) -> Self {
        let disk = setup.disk.iter().map(|disk| ("PITSTOP_DISK".into(), disk.display().to_string()));
        let around = Surroundings { env: Some(disk.collect()), home: Some("/".into()) };
        Self { setup, processes: Arc::default(), around }
    }
}

/// Starts a child process; a thread waits for its end.
fn spawn_here(
    processes: &Arc<Processes>,
    key: u64,
    command: &Command,
    around: &Surroundings,
    stdio: [OwnedFd; 3],
    facts: &Arc<Facts>,
) -> Result<(), String> {
    let pid = processes.spawn(key, command, around, stdio)?;
    facts.started(key);
    let (processes, facts) = (Arc::clone(processes), Arc::clone(facts));
    let wait = move || facts.ended(key, processes.wait(key, pid));
    std::thread::Builder::new()
        .name("agent-wait".into())
        .stack_size(64 << 10)
        .spawn(wait)
        .map(|_| ())
        .map_err(|e| format!("the command runs, but nobody can wait for it: {e}"))
}

impl Backend {
    fn spawn(
        &mut self,
        key: u64,
        command: &Command,
        stdio: [OwnedFd; 3],
        facts: &Arc<Facts>,
    ) -> Result<(), String> {
        match self {
            Self::Here { processes, around } => spawn_here(processes, key, command, around, stdio, facts),
            Self::Inside { sandbox, steps } => match sandbox.spawn(key, command, &stdio, facts) {
                Ok(()) => Ok(()),
                Err(reason) => match steps.setup.step(command) {
                    Some(step) => spawn_here(&steps.processes, key, &step, &steps.around, stdio, facts),
                    None => Err(reason),
                },
            },
        }
    }

    fn signal(&mut self, key: u64, signal: i32) -> Result<(), String> {
        match self {
            Self::Here { processes, .. } => processes.signal(key, signal),
            Self::Inside { sandbox, steps } => {
                sandbox.signal(key, signal).and(steps.processes.signal(key, signal))
            }
        }
    }

    fn end_all(&mut self) {
        match self {
            Self::Here { processes, .. } => processes.end_all(GRACE),
            Self::Inside { sandbox, steps } => {
                sandbox.end(GRACE);
                steps.processes.end_all(GRACE);
            }
        }
    }
}
