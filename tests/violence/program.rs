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
mod scenarios;
mod tally;

use arena::Arena;
use clap::Parser;
use kinds::{KINDS, Kind, Needs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenarios::SCENARIOS;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tally::Tally;
use tokio::runtime::Runtime;

/// Rounds on one lab, so that its history does not grow for ever.
const ROUNDS_PER_LAB: u64 = 150;

/// Harms a lab that works, and holds it to everything it answered.
#[derive(Debug, Parser)]
#[command(name = "tests/violence/run")]
struct Args {
    /// Which kinds and scenarios; all unless said.
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// How many rounds of `kill`.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many rounds of each other kind.
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// How many agents the scenarios have; as many as are promised unless said.
    #[arg(long)]
    agents: Option<usize>,
    /// What the choices are drawn from; drawn itself unless said.
    #[arg(long)]
    seed: Option<u64>,
    /// Where a summary goes.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Names the kinds and scenarios.
    #[arg(long)]
    list: bool,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let names = || KINDS.iter().map(|k| k.name).chain(SCENARIOS.iter().map(|s| s.name));
    if args.list {
        names().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.kinds.iter().find(|kind| names().all(|name| name != *kind)) {
        eprintln!("`{unknown}` is no kind; there are {}", names().collect::<Vec<_>>().join(", "));
        return ExitCode::from(2);
    }
    open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let mut campaign = Campaign {
        runtime: Arc::new(runtime.unwrap()),
        tally: Tally::new(args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000))),
        arena: None,
        labs: 0,
    };
    println!("seed {}", campaign.tally.seed);
    campaign.run(&args);
    campaign.tally.finish(args.json.as_deref())
}

/// As many descriptors as can be had: idle connections take some.
fn open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// All that is done, on one lab after the other.
struct Campaign {
    runtime: Arc<Runtime>,
    tally: Tally,
    arena: Option<(Needs, Arena)>,
    labs: u64,
}

impl Campaign {
    /// Until all is done, or something was wrong.
    fn run(&mut self, args: &Args) {
        let wanted = |name: &str| args.kinds.is_empty() || args.kinds.iter().any(|n| n == name);
        for kind in KINDS.iter().filter(|k| wanted(k.name)) {
            let rounds = if kind.name == "kill" { args.rounds } else { args.each };
            for number in 0..rounds {
                self.round(kind, number);
                if self.tally.objects() {
                    return self.leave();
                }
            }
        }
        self.leave();
        for scenario in SCENARIOS.iter().filter(|s| wanted(s.name)) {
            if !self.tally.objects() {
                self.tally.show(scenario.name, (scenario.run)(&self.runtime, args.agents));
            }
        }
    }

    fn round(&mut self, kind: &Kind, number: usize) {
        let worn = |(needs, arena): &(Needs, Arena)| *needs != kind.needs || arena.rounds >= ROUNDS_PER_LAB;
        if self.arena.as_ref().is_some_and(worn) {
            self.leave();
        }
        let seed = self.tally.seed.wrapping_add(self.labs);
        let open = || (kind.needs, Arena::open(&self.runtime, seed, |lab| kind.needs.prepare(lab)));
        let (_, arena) = self.arena.get_or_insert_with(open);
        let harm = (kind.harm)(arena);
        let mut wrong = arena.reckon();
        wrong.extend(harm.clone().err());
        let words = harm.unwrap_or_else(|e| e);
        println!("{} {number}: {words}; {arena}", kind.name);
        if !wrong.is_empty() {
            println!("what it looks like is in {}", arena.keep(Path::new(env!("CARGO_TARGET_TMPDIR"))));
        }
        self.tally.round(kind.name, wrong);
    }

    fn leave(&mut self) {
        if let Some((_, arena)) = self.arena.take() {
            self.labs += 1;
            self.tally.close(arena);
        }
    }
}
