//! A store that fails as a script says, to test those who use one.

use super::{Batch, CommitError, History, Past, Pause, Store, StoreError};
use pitstop_core::lab::Rows;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails, surely without having written.
    Refused,
    /// It fails without having written, but that is not known.
    LostBefore,
    /// It is written, and then it fails.
    LostAfter,
    /// It pauses until [`Script::open`] is called, then succeeds.
    Shut,
}

#[derive(Default)]
struct State {
    faults: VecDeque<Fault>,
    failing_loads: u32,
    open: bool,
    commits: Vec<usize>,
}

/// What is to happen, and what has.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<State>>);

impl Script {
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap().faults.extend(faults);
    }

    pub fn fail_loads(&self, times: u32) {
        self.0.lock().unwrap().failing_loads = times;
    }

    /// Ends a [`Fault::Shut`].
    pub fn open(&self) {
        self.0.lock().unwrap().open = true;
    }

    /// How many records each successful commit had.
    pub fn commits(&self) -> Vec<usize> {
        self.0.lock().unwrap().commits.clone()
    }

    /// Whether all that was to happen has happened.
    pub fn played(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.faults.is_empty() && state.failing_loads == 0
    }
}

pub struct FaultyStore<S> {
    pub inner: S,
    pub script: Script,
}

impl<S: Store> Store for FaultyStore<S> {
    fn load(&mut self, pause: Pause<'_>) -> Result<Rows, StoreError> {
        {
            let mut state = self.script.0.lock().unwrap();
            if state.failing_loads > 0 {
                state.failing_loads -= 1;
                return Err(broken());
            }
        }
        self.inner.load(pause)
    }

    fn commit(&mut self, batch: &Batch, pause: Pause<'_>) -> Result<(), CommitError> {
        let fault = self.script.0.lock().unwrap().faults.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Refused => return Err(CommitError::Refused(broken())),
            Fault::LostBefore => return Err(CommitError::Unknown(broken())),
            Fault::Shut => {
                while !std::mem::take(&mut self.script.0.lock().unwrap().open) {
                    pause(Duration::from_millis(1));
                }
            }
            Fault::None | Fault::LostAfter => {}
        }
        self.inner.commit(batch, pause)?;
        self.script.0.lock().unwrap().commits.push(batch.records.len());
        if fault == Fault::LostAfter { Err(CommitError::Unknown(broken())) } else { Ok(()) }
    }

    fn history(&self) -> Arc<dyn History> {
        self.inner.history()
    }

    fn past(&self) -> Option<Past> {
        self.inner.past()
    }
}

fn broken() -> StoreError {
    let source = std::io::Error::other("as the script says");
    StoreError::File { what: "write to", path: PathBuf::from("lab.db"), source }
}
