//! A leg that follows a script, for tests of whatever drives power.

use super::{Power, PowerLimits, PowerOn};
use crate::error::{DriverError, Task};
use pitstop_core::machine::{Reading, Switch};
use pitstop_wire::agent::Secret;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How the next command goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Accepted, and it happens.
    Obey,
    /// Accepted, and nothing happens.
    Ignore,
    /// Accepted, and it happens so much later.
    Late(Duration),
    /// Refused with these words, and nothing happens.
    Refuse(String),
    /// Refused with these words, but it happens.
    RefuseYetObey(String),
    /// Never answered.
    Hang,
}

#[derive(Debug)]
struct State {
    on: bool,
    lands: Option<(tokio::time::Instant, bool)>,
    turns: VecDeque<Turn>,
    unreadable: bool,
    flickers: bool,
    log: Vec<(Switch, PowerOn)>,
    reads: usize,
    insertions: VecDeque<Turn>,
    drive: Vec<String>,
}

/// A scripted leg. Without a script it obeys.
#[derive(Debug)]
pub struct Fake {
    limits: PowerLimits,
    state: Mutex<State>,
}

impl Fake {
    /// A leg that is off, in the queue `queue`.
    pub fn new(queue: &str) -> Self {
        Self {
            limits: PowerLimits { queue: queue.into(), at_once: 1 },
            state: Mutex::new(State {
                on: false,
                lands: None,
                turns: VecDeque::new(),
                unreadable: false,
                flickers: false,
                log: Vec::new(),
                reads: 0,
                insertions: VecDeque::new(),
                drive: Vec::new(),
            }),
        }
    }

    /// How the next commands go.
    pub fn script(&self, turns: impl IntoIterator<Item = Turn>) {
        self.lock().turns.extend(turns);
    }

    /// Whether reading works.
    pub fn unreadable(&self, yes: bool) {
        self.lock().unreadable = yes;
    }

    /// Whether every second reading is wrong.
    pub fn flickers(&self, yes: bool) {
        self.lock().flickers = yes;
    }

    /// Somebody else switches it.
    pub fn force(&self, on: bool) {
        self.lock().on = on;
    }

    /// The commands so far.
    pub fn log(&self) -> Vec<(Switch, PowerOn)> {
        self.lock().log.clone()
    }

    /// How often it was read.
    pub fn reads(&self) -> usize {
        self.lock().reads
    }

    /// How the next insertions go; whatever is not refused and answered, is in.
    pub fn script_insertions(&self, turns: impl IntoIterator<Item = Turn>) {
        self.lock().insertions.extend(turns);
    }

    /// What was done with its drive: `in ADDRESS`, `out`.
    pub fn drive(&self) -> Vec<String> {
        self.lock().drive.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, want: Switch, on: &PowerOn) -> Turn {
        let mut state = self.lock();
        state.log.push((want, on.clone()));
        let turn = state.turns.pop_front().unwrap_or(Turn::Obey);
        match &turn {
            Turn::Obey | Turn::RefuseYetObey(_) => state.on = want == Switch::On,
            Turn::Late(by) => state.lands = Some((tokio::time::Instant::now() + *by, want == Switch::On)),
            Turn::Ignore | Turn::Refuse(_) | Turn::Hang => {}
        }
        turn
    }
}

impl Power for Fake {
    fn set<'a>(&'a self, want: Switch, on: &'a PowerOn) -> Task<'a, ()> {
        Box::pin(async move {
            match self.command(want, on) {
                Turn::Refuse(words) | Turn::RefuseYetObey(words) => {
                    Err(DriverError::new("power.fake", format!("switch {want:?}"), words))
                }
                Turn::Hang => std::future::pending().await,
                Turn::Obey | Turn::Ignore | Turn::Late(_) => Ok(()),
            }
        })
    }

    fn read(&self) -> Task<'_, Reading> {
        Box::pin(async move {
            let mut state = self.lock();
            state.reads += 1;
            if let Some((when, on)) = state.lands
                && when <= tokio::time::Instant::now()
            {
                state.on = on;
                state.lands = None;
            }
            let wrong = state.flickers && state.reads.is_multiple_of(2);
            match (state.unreadable, state.on != wrong) {
                (true, _) => Err(DriverError::new("power.fake", "read the state", "no answer")),
                (false, true) => Ok(Reading::On),
                (false, false) => Ok(Reading::Off),
            }
        })
    }

    fn insert<'a>(&'a self, url: &'a Secret) -> Task<'a, ()> {
        Box::pin(async move {
            let turn = {
                let mut state = self.lock();
                state.drive.push(format!("in {}", url.0));
                state.insertions.pop_front().unwrap_or(Turn::Obey)
            };
            match turn {
                Turn::Refuse(words) | Turn::RefuseYetObey(words) => {
                    Err(DriverError::new("power.fake", "insert the medium", words))
                }
                Turn::Hang => std::future::pending().await,
                Turn::Late(by) => {
                    tokio::time::sleep(by).await;
                    Ok(())
                }
                Turn::Obey | Turn::Ignore => Ok(()),
            }
        })
    }

    fn eject(&self) -> Task<'_, ()> {
        self.lock().drive.push("out".to_owned());
        Box::pin(std::future::ready(Ok(())))
    }

    fn limits(&self) -> &PowerLimits {
        &self.limits
    }
}
