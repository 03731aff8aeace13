//! The session with the daemon: dial, say who we are, work, and come back after every loss.
//!
//! Everything that talks runs on one thread of its own with a runtime of its own, so that neither a disk
//! that blocks nor the program around it can stall the heartbeat.

mod dial;
mod hello;
mod link;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pitstop_wire::agent::{AgentKind, AgentParams, Hello, Secret, Welcome};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use crate::params::{self, ParamsError};
use crate::platform::Platform;
use crate::run::{Engine, RunEvent, heed_signals};
use crate::say::Say;
use crate::work::{Desk, WorkEvent};
use dial::Connection;
use hello::Identity;
use link::Over;

/// Shortest and longest pause between two tries to reach the daemon.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long work on a disk may take to notice that it is cancelled.
const CANCEL: Duration = Duration::from_secs(10);

/// Something happened on this machine.
#[derive(Debug)]
pub(crate) enum Event {
    Run(RunEvent),
    Work(WorkEvent),
}

/// Keeps a host agent's token for the next boot; the error is said on the console.
pub type KeepRejoin = Box<dyn FnMut(&Secret) -> Result<(), String> + Send>;

/// What an agent is started with.
pub struct Options {
    /// Which agent this is.
    pub kind: AgentKind,
    /// What it was told at boot.
    pub params: AgentParams,
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Where lines for people go.
    pub say: Say,
    /// Where a host agent keeps its token for the tenant's reboots.
    pub keep_rejoin: Option<KeepRejoin>,
}

/// Why an agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Farewell {
    /// The daemon said that the session is over.
    Bye {
        /// Why.
        reason: String,
    },
    /// The daemon does not want this agent.
    Refused {
        /// Why.
        reason: String,
    },
    /// [`Agent::stop`] was called.
    Stopped,
}

/// Why an agent could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The parameters are malformed.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// There is no randomness for a key.
    #[error("no randomness for a session key: {0}")]
    Random(getrandom::Error),
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A thread or the runtime could not be started.
    #[error("the agent cannot start a thread or its runtime: {0}")]
    Io(#[from] std::io::Error),
}

/// A running agent.
pub struct Agent {
    thread: JoinHandle<Farewell>,
    stop: watch::Sender<bool>,
}

impl Agent {
    /// Starts an agent on a thread of its own.
    ///
    /// # Errors
    /// It cannot begin; whether the daemon can be reached shows later.
    pub fn start(options: Options) -> Result<Self, StartError> {
        params::check(&options.params)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let session = Session::new(options, stopped)?;
        let live = move || runtime.block_on(session.live());
        let thread = std::thread::Builder::new().name("agent-session".into()).spawn(live)?;
        Ok(Self { thread, stop })
    }

    /// Tells the agent to end: its commands are ended, its work is cancelled.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end.
    pub fn wait(self) -> Farewell {
        let lost = || Farewell::Refused { reason: "the agent's own thread failed".into() };
        self.thread.join().unwrap_or_else(|_| lost())
    }
}

/// Everything the session thread owns.
struct Session {
    identity: Identity,
    connector: dial::Dialer,
    events: UnboundedReceiver<Event>,
    engine: Engine,
    desk: Desk,
    say: Say,
    keep_rejoin: Option<KeepRejoin>,
    stopped: watch::Receiver<bool>,
    last_trouble: String,
}

impl Session {
    fn new(options: Options, stopped: watch::Receiver<bool>) -> Result<Self, StartError> {
        let Options { kind, params, platform, say, keep_rejoin } = options;
        let pin = params::fingerprint(&params.ca)
            .ok_or(ParamsError::Bad { name: "ca", expected: "a SHA-256 in 64 hexadecimal digits" })?;
        let connector = dial::Dialer::new(params.server.clone(), pin)?;
        let (sender, events) = unbounded_channel();
        let mut engine = Engine::new(platform.place(), sender.clone(), say.clone())?;
        if kind == AgentKind::Host {
            engine.open();
        }
        let boot_id = platform.boot_id();
        let desk = Desk::new(kind, platform, sender)?;
        let identity = Identity::new(kind, params, boot_id).map_err(StartError::Random)?;
        let last_trouble = String::new();
        Ok(Self { identity, connector, events, engine, desk, say, keep_rejoin, stopped, last_trouble })
    }

    async fn live(mut self) -> Farewell {
        if let Err(e) = heed_signals() {
            self.say.line(&format!("commands may ignore signals as this program does: {e}"));
        }
        let farewell = self.connect_for_ever().await;
        match &farewell {
            Farewell::Bye { reason } => self.say.line(&format!("the session is over: {reason}")),
            Farewell::Refused { reason } => {
                self.say.line(&format!("refused by the daemon, doing nothing more: {reason}"));
            }
            Farewell::Stopped => self.say.line("stopped"),
        }
        self.engine.end_all().await;
        if !self.desk.cancel(CANCEL).await {
            self.say.line("work on the disk does not end: the device does not answer");
        }
        farewell
    }

    async fn connect_for_ever(&mut self) -> Farewell {
        let mut pause = BACK_OFF.0;
        loop {
            let began = Instant::now();
            match self.once().await {
                Over::Bye(reason) => return Farewell::Bye { reason },
                Over::Refused(reason) => return Farewell::Refused { reason },
                Over::Stopped => return Farewell::Stopped,
                Over::Lost(why) => self.trouble(&why),
            }
            self.engine.detach_all();
            // A session that lasted shows that the daemon was well; one that is cut at once does not.
            if began.elapsed() > BACK_OFF.1 {
                pause = BACK_OFF.0;
            }
            if self.rest(jittered(pause)).await {
                return Farewell::Stopped;
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// One connection, from dialling to its loss.
    async fn once(&mut self) -> Over {
        let mut stopped = self.stopped.clone();
        let dialled = tokio::select! {
            dialled = self.connector.dial() => dialled,
            () = absorb(&mut self.events, &mut self.engine, &mut self.desk) => return Over::Stopped,
            _ = stopped.wait_for(|stop| *stop) => return Over::Stopped,
        };
        let mut connection = match dialled {
            Ok(connection) => connection,
            Err(why) => return Over::Lost(why),
        };
        let hello = self.identity.hello();
        let welcome = tokio::select! {
            welcome = connection.greet(&hello) => welcome,
            _ = stopped.wait_for(|stop| *stop) => return Over::Stopped,
        };
        match welcome {
            Err(why) => Over::Lost(why),
            Ok(Welcome::Refused { reason, retry }) => {
                if self.identity.refused(&hello, retry) {
                    Over::Lost(format!("refused for now: {reason}"))
                } else {
                    Over::Refused(reason)
                }
            }
            Ok(Welcome::Accepted { heartbeat_ms, rejoin, .. }) => {
                self.accepted(&hello, rejoin.as_ref());
                self.serve(connection, heartbeat_ms).await
            }
        }
    }

    fn accepted(&mut self, hello: &Hello, rejoin: Option<&Secret>) {
        self.identity.accepted();
        self.last_trouble.clear();
        let how = if matches!(hello, Hello::Attach { .. }) { "attached" } else { "resumed" };
        let kind = if self.identity.kind() == AgentKind::Boot { "boot" } else { "host" };
        self.say.line(&format!("{how} as {kind} agent of {}", self.identity.machine()));
        if let (Some(token), Some(keep)) = (rejoin, &mut self.keep_rejoin)
            && let Err(reason) = keep(token)
        {
            self.say.line(&format!("a reboot of this machine will not find back: {reason}"));
        }
    }

    async fn serve(&mut self, connection: Connection, heartbeat_ms: u64) -> Over {
        let beat = Duration::from_millis(heartbeat_ms.clamp(100, 60_000));
        let link = link::Link { engine: &mut self.engine, desk: &mut self.desk, events: &mut self.events };
        link.serve(connection, beat, self.stopped.clone()).await
    }

    /// Waits, taking in what happens meanwhile. Says whether to stop.
    async fn rest(&mut self, pause: Duration) -> bool {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = absorb(&mut self.events, &mut self.engine, &mut self.desk) => true,
            _ = stopped.wait_for(|stop| *stop) => true,
        }
    }

    /// Says what is wrong, once: the console is evidence, and a daemon that is down for an hour would fill it.
    fn trouble(&mut self, why: &str) {
        if self.last_trouble != why {
            self.say.line(&format!("no connection to the daemon: {why}; trying again"));
            why.clone_into(&mut self.last_trouble);
        }
    }
}

/// Takes in events while there is no connection, so that they do not pile up.
async fn absorb(events: &mut UnboundedReceiver<Event>, engine: &mut Engine, desk: &mut Desk) {
    while let Some(event) = events.recv().await {
        take(event, engine, desk);
    }
}

fn take(event: Event, engine: &mut Engine, desk: &mut Desk) {
    match event {
        Event::Run(event) => engine.event(event),
        Event::Work(event) => {
            if desk.event(event) {
                engine.open();
            }
        }
    }
}

/// Between half of `pause` and all of it: a hundred agents that lost one daemon must not come back as one.
fn jittered(pause: Duration) -> Duration {
    let share = getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + share / 2.0)
}
