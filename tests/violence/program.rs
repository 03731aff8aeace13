//! Violence on the real thing: a daemon with simulated machines, each a
//! process of its own, is used and harmed; everything that clients were told
//! is held against it after each round. Run by `tests/violence/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arena;
mod book;
#[allow(dead_code, unused_imports, reason = "the journeys use the rest")]
#[path = "../harness/mod.rs"]
mod harness;
mod interview;
mod judge;
mod kinds;
mod load;

use arena::Arena;
use clap::Parser;
use kinds::{KINDS, Kind};
use serde_json::{Map, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Rounds on one lab, so that its history does not grow for ever.
const ROUNDS_PER_LAB: usize = 150;

/// Harms a lab that works, and holds it to everything it answered.
#[derive(Debug, Parser)]
#[command(name = "tests/violence/run")]
struct Args {
    /// Which kinds; all unless said.
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// How many rounds of `kill`.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many rounds of each other kind.
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// What the choices are drawn from; the clock's unless said.
    #[arg(long)]
    seed: Option<u64>,
    /// Where a summary goes.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was done, and what came of it.
#[derive(Default)]
struct Tally {
    rounds: Map<String, serde_json::Value>,
    answers: usize,
    commands: u64,
    records: u64,
    phase_failures: u64,
    wrong: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = Arc::new(runtime.unwrap());
    let began = Instant::now();
    let mut tally = Tally::default();
    for kind in KINDS.iter().filter(|k| args.kinds.is_empty() || args.kinds.iter().any(|n| n == k.name)) {
        let rounds = if kind.name == "kill" { args.rounds } else { args.each };
        run(&runtime, kind, rounds, seed, &mut tally);
        if !tally.wrong.is_empty() {
            break;
        }
    }
    finish(&args, seed, began, &tally)
}

fn run(runtime: &Arc<tokio::runtime::Runtime>, kind: &Kind, rounds: usize, seed: u64, tally: &mut Tally) {
    let mut arena = None;
    for round in 0..rounds {
        let lab = (round / ROUNDS_PER_LAB) as u64;
        let now = arena.get_or_insert_with(|| Arena::open(runtime, seed.wrapping_add(lab), |_| {}));
        let done = (kind.harm)(now);
        let began = Instant::now();
        let mut wrong = now.reckon();
        let words = done.unwrap_or_else(|e| {
            wrong.push(e.clone());
            e
        });
        let took = began.elapsed().as_millis();
        println!("{} {round}: {words}; {} answers, {} records; {took} ms {:?}", kind.name, now.checked, now.judge.newest(), now.costs);
        let last = (round + 1) % ROUNDS_PER_LAB == 0 || round + 1 == rounds;
        tally.note(kind.name, wrong);
        if (last || !tally.wrong.is_empty())
            && let Some(arena) = arena.take()
        {
            tally.close(arena);
        }
        if !tally.wrong.is_empty() {
            println!("seed {seed}, {} {round}:", kind.name);
            return;
        }
    }
}

impl Tally {
    fn note(&mut self, kind: &str, wrong: Vec<String>) {
        let rounds = self.rounds.get(kind).and_then(serde_json::Value::as_u64).unwrap_or(0);
        self.rounds.insert(kind.to_owned(), json!(rounds + 1));
        self.wrong.extend(wrong);
    }

    fn close(&mut self, arena: Arena) {
        self.commands += arena.commands();
        self.records += arena.judge.newest();
        self.phase_failures += arena.judge.phase_failures;
        let before = arena.book.clone();
        self.wrong.extend(arena.close());
        self.answers += before.acks_from(0).len();
    }
}

fn finish(args: &Args, seed: u64, began: Instant, tally: &Tally) -> ExitCode {
    let seconds = began.elapsed().as_secs();
    let summary = json!({
        "kill_rounds": tally.rounds.get("kill").cloned().unwrap_or(json!(0)),
        "rounds_by_kind": tally.rounds,
        "acknowledged_answers_checked": tally.answers,
        "commands_run_through": tally.commands,
        "records": tally.records,
        "phase_failures": tally.phase_failures,
        "violations": tally.wrong.len(),
        "seed": seed,
        "seconds": seconds,
    });
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{summary:#}\n")).unwrap();
    }
    tally.wrong.iter().for_each(|words| println!("VIOLATION {words}"));
    println!("{summary}");
    if tally.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
