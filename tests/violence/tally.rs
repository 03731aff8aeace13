//! What was done, and what came of it.

use crate::arena::Arena;
use crate::scenarios::Shown;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The sum of all rounds.
pub struct Tally {
    /// What the choices were drawn from.
    pub seed: u64,
    began: Instant,
    rounds: Map<String, Value>,
    answers: usize,
    commands: u64,
    records: u64,
    phase_failures: u64,
    most_grants: u64,
    scenarios: Map<String, Value>,
    wrong: Vec<String>,
}

impl Tally {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            rounds: Map::new(),
            answers: 0,
            commands: 0,
            records: 0,
            phase_failures: 0,
            most_grants: 0,
            scenarios: Map::new(),
            wrong: Vec::new(),
        }
    }

    /// Whether anything was wrong.
    pub fn objects(&self) -> bool {
        !self.wrong.is_empty()
    }

    /// A round is over.
    pub fn round(&mut self, kind: &str, wrong: Vec<String>) {
        let rounds = self.rounds.get(kind).and_then(Value::as_u64).unwrap_or(0);
        self.rounds.insert(kind.to_owned(), json!(rounds + 1));
        self.wrong.extend(wrong);
    }

    /// A lab is over: the whole of it is judged once more.
    pub fn close(&mut self, arena: Arena) {
        self.commands += arena.commands();
        self.records += arena.judge.newest();
        self.phase_failures += arena.judge.phase_failures;
        self.most_grants = self.most_grants.max(arena.judge.most_grants());
        let book = arena.book.clone();
        self.wrong.extend(arena.close());
        self.answers += book.acks_from(0).len();
    }

    /// A scenario is over.
    pub fn show(&mut self, name: &str, shown: Result<Shown, String>) {
        let shown = shown.unwrap_or_else(|e| Shown { wrong: vec![e], ..Shown::default() });
        println!("{name}: {}", json!(shown.figures));
        let answers = shown.figures.get("acknowledged_answers_checked").and_then(Value::as_u64).unwrap_or(0);
        self.answers += usize::try_from(answers).unwrap_or(0);
        self.scenarios.insert(name.to_owned(), json!(shown.figures));
        self.wrong.extend(shown.wrong);
    }

    /// Says it all, and writes it down.
    pub fn finish(self, file: Option<&Path>) -> ExitCode {
        let summary = json!({
            "kill_rounds": self.rounds.get("kill").cloned().unwrap_or(json!(0)),
            "rounds_by_kind": self.rounds,
            "acknowledged_answers_checked": self.answers,
            "commands_run_through": self.commands,
            "records": self.records,
            "phase_failures": self.phase_failures,
            "most_reservations_of_one_machine": self.most_grants,
            "violations": self.wrong.len(),
            "scenarios": self.scenarios,
            "seed": self.seed,
            "seconds": self.began.elapsed().as_secs(),
        });
        self.wrong.iter().take(50).for_each(|words| println!("VIOLATION {words}"));
        println!("{summary}");
        if let Some(file) = file
            && let Err(e) = std::fs::write(file, format!("{summary:#}\n"))
        {
            println!("{}: {e}", file.display());
            return ExitCode::FAILURE;
        }
        if self.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
