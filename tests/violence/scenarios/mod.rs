//! Crowds of agents: what is promised of a lab of hundreds of machines, with
//! figures.

mod fleet;
mod locked;
mod returning;

use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// What a scenario showed.
#[derive(Debug, Default)]
pub struct Shown {
    pub figures: Map<String, Value>,
    pub wrong: Vec<String>,
}

impl Shown {
    fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    fn demand(&mut self, truth: bool, words: impl FnOnce() -> String) {
        if !truth {
            self.wrong.push(words());
        }
    }
}

/// One scenario.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// Runs it with so many agents; `None`: as many as are promised.
    pub run: fn(&Arc<Runtime>, Option<usize>) -> Result<Shown, String>,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "agents-locked", run: locked::run },
    Scenario { name: "agents-return", run: returning::run },
];
