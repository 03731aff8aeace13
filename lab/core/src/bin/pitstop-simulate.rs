//! Simulates labs from seeds and says what it found.

use pitstop_core::fence::Fence;
use pitstop_core::simulator::{Config, Report, run};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
usage: pitstop-simulate [--seconds N | --runs N] [--seed N] [--machines N] [--clients N] [--hours N]
                        [--without FENCE] [--trace]

Runs the lab's core against a simulated world, one run per seed, and checks
every invariant after every step. --seconds bounds the whole, in seconds of
processor time: a busy machine gets as much done. With --trace one seed is
run and printed event by event.
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
        Ok(options) => match simulate(&options) {
            Ok(code) => code,
            // Whoever read along has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("stdout: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

fn simulate(options: &Options) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if options.config.trace { trace(&options.config, &mut out) } else { many(options, &mut out) }
}

/// Processor time of this program so far.
fn spent() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
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

fn trace(config: &Config, out: &mut impl Write) -> io::Result<ExitCode> {
    let report = run(config);
    for line in &report.trace {
        writeln!(out, "{line}")?;
    }
    Ok(match report.violation {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn many(options: &Options, out: &mut impl Write) -> io::Result<ExitCode> {
    let mut total = Report::default();
    let mut seed = options.config.seed;
    let mut runs = 0;
    while runs < options.runs && spent() < options.budget {
        let config = Config { seed, ..options.config.clone() };
        let report = run(&config);
        total.add(&report);
        runs += 1;
        if let Some(violation) = report.violation {
            let (m, c, h) = (config.machines, config.clients, config.span / 3_600_000);
            let without = config.without.map(|f| format!(" --without {}", f.name())).unwrap_or_default();
            writeln!(out, "seed {seed}: {violation}")?;
            writeln!(
                out,
                "replay: pitstop-simulate --seed {seed} --machines {m} --clients {c} --hours {h}{without} --trace"
            )?;
            summary(&total, runs, out)?;
            return Ok(ExitCode::FAILURE);
        }
        seed += 1;
    }
    summary(&total, runs, out)?;
    Ok(ExitCode::SUCCESS)
}

fn summary(total: &Report, runs: u64, out: &mut impl Write) -> io::Result<()> {
    let seconds = spent().as_secs_f64();
    writeln!(
        out,
        "{runs} seeds, {} steps, {} checks, {} records, {} hand-overs, {} kills, {:.0} simulated hours in {seconds:.1} CPU-s ({:.1} seeds/s)",
        total.steps,
        total.checks,
        total.records,
        total.handovers,
        total.kills,
        total.simulated as f64 / 3_600_000.0,
        runs as f64 / seconds,
    )?;
    let faults: Vec<String> = total.faults.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    writeln!(out, "faults: {}", faults.join(", "))
}
