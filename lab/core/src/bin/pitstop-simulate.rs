//! Simulates labs from seeds and says what it found.

use pitstop_core::fence::Fence;
use pitstop_core::simulator::{Config, Report, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: pitstop-simulate [--seconds N | --runs N] [--seed N] [--machines N] [--clients N] [--hours N]
                        [--without FENCE] [--trace]

Runs the lab's core against a simulated world, one run per seed, and checks
every invariant after every step. --seconds bounds the whole. With --trace
one seed is run and printed event by event.
Fences: epoch nonce intent-first read-back may-land-until disk-before-effect";

struct Options {
    config: Config,
    budget: Duration,
    runs: u64,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Err(text) => {
            eprintln!("{text}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(options) if options.config.trace => trace(&options.config),
        Ok(options) => many(&options),
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { config: Config::short(0), budget: Duration::from_secs(10), runs: u64::MAX };
    while let Some(flag) = args.next() {
        if flag == "--trace" {
            options.config.trace = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} wants a number, not `{value}`"));
        match flag.as_str() {
            "--seconds" => options.budget = Duration::from_secs(number()?),
            "--runs" => (options.runs, options.budget) = (number()?, Duration::MAX),
            "--seed" => options.config.seed = number()?,
            "--machines" => options.config.machines = number()? as usize,
            "--clients" => options.config.clients = number()? as usize,
            "--hours" => options.config.span = number()? * 3_600_000,
            "--without" => {
                let fence = Fence::ALL.into_iter().find(|f| f.name() == value);
                options.config.without = Some(fence.ok_or_else(|| format!("there is no fence `{value}`"))?);
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(options)
}

fn trace(config: &Config) -> ExitCode {
    let report = run(config);
    for line in &report.trace {
        println!("{line}");
    }
    match report.violation {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}

fn many(options: &Options) -> ExitCode {
    let began = Instant::now();
    let mut total = Report::default();
    let mut seed = options.config.seed;
    let mut runs = 0;
    while runs < options.runs && began.elapsed() < options.budget {
        let config = Config { seed, ..options.config.clone() };
        let report = run(&config);
        total.add(&report);
        runs += 1;
        if let Some(violation) = report.violation {
            let (m, c, h) = (config.machines, config.clients, config.span / 3_600_000);
            let without = config.without.map(|f| format!(" --without {}", f.name())).unwrap_or_default();
            println!("seed {seed}: {violation}");
            println!(
                "replay: pitstop-simulate --seed {seed} --machines {m} --clients {c} --hours {h}{without} --trace"
            );
            summary(&total, runs, began.elapsed());
            return ExitCode::FAILURE;
        }
        seed += 1;
    }
    summary(&total, runs, began.elapsed());
    ExitCode::SUCCESS
}

fn summary(total: &Report, runs: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{runs} seeds, {} steps, {} checks, {} records, {} hand-overs, {} kills, {:.0} simulated hours in {seconds:.1} s ({:.1} seeds/s)",
        total.steps,
        total.checks,
        total.records,
        total.handovers,
        total.kills,
        total.simulated as f64 / 3_600_000.0,
        runs as f64 / seconds,
    );
    let faults: Vec<String> = total.faults.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    println!("faults: {}", faults.join(", "));
}
