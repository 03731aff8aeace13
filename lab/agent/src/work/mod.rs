//! The daemon's work: a desk where steps and results are kept, and a worker on a thread of its own.

mod disk;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use pitstop_wire::agent::{AgentKind, FromAgent, Outcome, ToAgent, Work};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::platform::Platform;
use crate::session::Event;
use source::{Answer, Mailbox, Wanted};

/// Most steps remembered; an attempt has a handful.
const MAX_STEPS: usize = 256;

/// A fact from the worker.
#[derive(Debug)]
pub(crate) enum WorkEvent {
    /// It wants a block map or a chunk.
    Want(Wanted),
    /// It is so far.
    Progress { step: u64, phase: &'static str, done: u64, total: u64 },
    /// It is done.
    Done { step: u64, outcome: Outcome },
}

#[derive(Debug)]
enum Step {
    Doing,
    Done { outcome: Outcome, acknowledged: bool },
}

/// The session's side: which steps there were, which results wait for their acknowledgement, which requests
/// for their answer.
pub(crate) struct Desk {
    kind: AgentKind,
    steps: BTreeMap<u64, Step>,
    wanted: BTreeSet<Wanted>,
    mailbox: Arc<Mailbox>,
    jobs: Option<Sender<(u64, Work)>>,
    finished: Option<oneshot::Receiver<()>>,
    /// Messages that arose from events; given out by [`Desk::news`].
    news: Vec<FromAgent>,
}

impl Desk {
    pub(crate) fn new(
        kind: AgentKind,
        platform: Arc<dyn Platform>,
        events: UnboundedSender<Event>,
    ) -> std::io::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let (jobs, todo) = channel();
        let (end, finished) = oneshot::channel();
        let worker = Worker { platform, mailbox: Arc::clone(&mailbox), events };
        let work = move || {
            worker.work(&todo);
            // Nobody waits for the end but the one who cancelled.
            let _ = end.send(());
        };
        std::thread::Builder::new().name("agent-work".into()).spawn(work)?;
        Ok(Self {
            kind,
            steps: BTreeMap::new(),
            wanted: BTreeSet::new(),
            mailbox,
            jobs: Some(jobs),
            finished: Some(finished),
            news: Vec::new(),
        })
    }

    /// What a new connection must hear: every result that was not acknowledged, every request that was not
    /// answered.
    pub(crate) fn catch_up(&mut self) -> Vec<FromAgent> {
        self.news.clear();
        let results = self.steps.iter().filter_map(|(&step, state)| match state {
            Step::Done { outcome, acknowledged: false } => {
                Some(FromAgent::Done { step, outcome: outcome.clone() })
            }
            _ => None,
        });
        results.chain(self.wanted.iter().map(Wanted::message)).collect()
    }

    /// What events gave rise to since it was last asked for.
    pub(crate) fn news(&mut self) -> Vec<FromAgent> {
        std::mem::take(&mut self.news)
    }

    /// A message of the daemon's; the answer, if there is one at once.
    pub(crate) fn handle(&mut self, message: ToAgent, body: Vec<u8>) -> Option<FromAgent> {
        match message {
            ToAgent::Do { step, work } => return self.begin(step, work),
            ToAgent::Ack { step } => {
                if let Some(Step::Done { acknowledged, .. }) = self.steps.get_mut(&step) {
                    *acknowledged = true;
                }
            }
            ToAgent::Map { digest } => self.answer(&Wanted::Map { digest }, Ok(body)),
            ToAgent::Chunk { digest, index } => self.answer(&Wanted::Chunk { digest, index }, Ok(body)),
            ToAgent::NoChunk { digest, index, reason } => {
                let wanted = match index {
                    Some(index) => Wanted::Chunk { digest, index },
                    None => Wanted::Map { digest },
                };
                self.answer(&wanted, Err(reason));
            }
            ToAgent::Run(_) | ToAgent::Bye { .. } => {}
        }
        None
    }

    /// Only what was asked for is taken in, so that no more waits here than the worker asked for.
    fn answer(&mut self, wanted: &Wanted, answer: Answer) {
        if self.wanted.remove(wanted) {
            self.mailbox.put(wanted.clone(), answer);
        }
    }

    fn begin(&mut self, step: u64, work: Work) -> Option<FromAgent> {
        match self.steps.get_mut(&step) {
            Some(Step::Doing) => return None,
            Some(Step::Done { outcome, acknowledged }) => {
                // Whoever asks again has not got it.
                *acknowledged = false;
                return Some(FromAgent::Done { step, outcome: outcome.clone() });
            }
            None => {}
        }
        let outcome = match (self.kind, &work) {
            (AgentKind::Host, Work::Image(_) | Work::Seed { .. } | Work::Serve) => Some(failed(
                "this is the host agent inside the tenant's system: it writes no disk and proves nothing",
            )),
            _ if self.steps.len() >= MAX_STEPS && !self.forget_one() => {
                Some(failed("too many steps wait for their acknowledgement"))
            }
            _ => None,
        };
        if let Some(outcome) = outcome {
            let done = FromAgent::Done { step, outcome: outcome.clone() };
            self.steps.insert(step, Step::Done { outcome, acknowledged: false });
            return Some(done);
        }
        self.steps.insert(step, Step::Doing);
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send((step, work)).is_ok());
        if sent { None } else { self.done(step, failed("the worker of this agent has ended")) }
    }

    fn forget_one(&mut self) -> bool {
        let old = self.steps.iter().find_map(|(&step, state)| {
            matches!(state, Step::Done { acknowledged: true, .. }).then_some(step)
        });
        old.is_some_and(|step| self.steps.remove(&step).is_some())
    }

    fn done(&mut self, step: u64, outcome: Outcome) -> Option<FromAgent> {
        self.steps.insert(step, Step::Done { outcome: outcome.clone(), acknowledged: false });
        Some(FromAgent::Done { step, outcome })
    }

    /// Takes in a fact. Says whether commands are served from now on.
    pub(crate) fn event(&mut self, event: WorkEvent) -> bool {
        let mut serving = false;
        match event {
            WorkEvent::Want(wanted) => {
                self.news.push(wanted.message());
                self.wanted.insert(wanted);
            }
            WorkEvent::Progress { step, phase, done, total } => {
                // Only the latest counts, and without a connection they would pile up.
                self.news.retain(|message| !matches!(message, FromAgent::Progress { .. }));
                self.news.push(FromAgent::Progress { step, phase: phase.into(), done, total });
            }
            WorkEvent::Done { step, outcome } => {
                serving = outcome == Outcome::Serving;
                // What the worker asked for and no longer waits for.
                self.wanted.clear();
                let done = self.done(step, outcome);
                self.news.extend(done);
            }
        }
        serving
    }

    /// Cancels all work; says whether it ended in time.
    pub(crate) async fn cancel(&mut self, limit: Duration) -> bool {
        self.jobs = None;
        self.mailbox.close();
        match self.finished.take() {
            Some(finished) => tokio::time::timeout(limit, finished).await.is_ok(),
            None => true,
        }
    }
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.into(), image: false }
}

/// Does one step at a time; may block on a disk for as long as the disk likes.
struct Worker {
    platform: Arc<dyn Platform>,
    mailbox: Arc<Mailbox>,
    events: UnboundedSender<Event>,
}

impl Worker {
    fn work(&self, todo: &Receiver<(u64, Work)>) {
        while let Ok((step, work)) = todo.recv() {
            if self.mailbox.is_closed() {
                return;
            }
            let outcome = match work {
                Work::Look => match self.platform.hardware() {
                    Ok(hardware) => Outcome::Seen(Box::new(hardware)),
                    Err(e) => failed(&e.to_string()),
                },
                Work::Image(image) => disk::image(self, step, &image),
                Work::Seed { find, offset, len, params } => disk::seed(self, &find, offset, len, &params),
                Work::Serve => Outcome::Serving,
            };
            self.tell(WorkEvent::Done { step, outcome });
        }
    }

    fn tell(&self, event: WorkEvent) {
        // Nobody listens only when the agent itself ends.
        let _ = self.events.send(Event::Work(event));
    }
}
