//! Simulates labs from seeds and says what it found.

use pitstop_core::fence::Fence;
use pitstop_core::simulator::{Config, Header, Pairs, Report, run, shrink};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const USAGE: &str = "\
usage: pitstop-simulate [--seconds N | --runs N] [--seed N] [--jobs N] [--long] [--without FENCE]
                        [--machines N] [--clients N] [--hours N] [--json FILE] [--pairs] [--probe]
       pitstop-simulate --seed N [--shrink] --trace | --json-trace FILE

Runs the lab's core against a simulated world, one run per seed, and checks
every invariant after every step. A run is small (2 to 4 machines, 2 hours),
or with --long a day of 20 machines; all have twelve calm hours after it, for
everything to come to its end. --seconds bounds the whole, in seconds of
processor time (10): a busy machine gets as much done. The first violation ends
it (exit code 1).

  --jobs N           threads; the seeds are shared out
  --json FILE        a summary for programs
  --keep-going       goes on after a violation, and tells all
  --pairs            which pairs of state and event were never tried
  --probe            puts every event to every state that a run comes to, on a copy
  --trace            one seed, event by event
  --json-trace FILE  the same for `pitstop replay FILE`
  --shrink           leaves out of a run that goes wrong whatever can be left out

Fences: epoch nonce intent-first read-back may-land-until disk-before-effect baseline";

struct Options {
    config: Config,
    long: bool,
    machines: Option<usize>,
    clients: Option<usize>,
    span: Option<u64>,
    budget: Duration,
    runs: u64,
    jobs: usize,
    json: Option<PathBuf>,
    json_trace: Option<PathBuf>,
    shrink: bool,
    pairs: bool,
    keep_going: bool,
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "-h" || arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(std::env::args().skip(1)) {
        Err(text) => {
            eprintln!("{text}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(options) => match simulate(&options) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            // Whoever read along has seen enough; that all was well is not known.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("cannot write what was found: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Answers with whether nothing was wrong.
fn simulate(options: &Options) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    if options.config.trace || options.json_trace.is_some() || options.shrink {
        one(options, &mut out)
    } else {
        many(options, &mut out)
    }
}

/// Processor time of this program so far.
fn spent() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        config: Config::short(0),
        long: false,
        machines: None,
        clients: None,
        span: None,
        budget: Duration::from_secs(10),
        runs: u64::MAX,
        jobs: 1,
        json: None,
        json_trace: None,
        shrink: false,
        pairs: false,
        keep_going: false,
    };
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--trace" => options.config.trace = true,
            "--long" => options.long = true,
            "--shrink" => options.shrink = true,
            "--pairs" => options.pairs = true,
            "--probe" => options.config.probe = true,
            "--keep-going" => options.keep_going = true,
            _ => {
                let value = args.next().ok_or_else(|| format!("{flag} wants a value, or is none of mine"))?;
                valued(&mut options, &flag, &value)?;
            }
        }
    }
    Ok(options)
}

fn valued(options: &mut Options, flag: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{flag} wants a number, not `{value}`"));
    match flag {
        "--seconds" => options.budget = Duration::from_secs(number()?),
        "--runs" => (options.runs, options.budget) = (number()?, Duration::MAX),
        "--seed" => options.config.seed = number()?,
        "--jobs" => options.jobs = number()?.clamp(1, 256) as usize,
        "--machines" => options.machines = Some(number()?.clamp(1, 300) as usize),
        "--clients" => options.clients = Some(number()?.clamp(1, 1_000) as usize),
        "--hours" => options.span = Some(number()? * 3_600_000),
        "--json" => options.json = Some(value.into()),
        "--json-trace" => options.json_trace = Some(value.into()),
        "--without" => {
            let fence = Fence::ALL.into_iter().find(|f| f.name() == value);
            options.config.without = Some(fence.ok_or_else(|| format!("there is no fence `{value}`"))?);
        }
        _ => return Err(format!("unknown option {flag}")),
    }
    Ok(())
}

impl Options {
    /// What is run for a seed.
    fn config(&self, seed: u64) -> Config {
        let usual = if self.long { Config::long(seed) } else { Config::short(seed) };
        Config {
            machines: self.machines.unwrap_or(usual.machines),
            clients: self.clients.unwrap_or(usual.clients),
            span: self.span.unwrap_or(usual.span),
            without: self.config.without,
            probe: self.config.probe,
            ..usual
        }
    }

    /// How to run this seed again.
    fn again(&self, seed: u64) -> String {
        let mut words = format!("pitstop-simulate --seed {seed}");
        if self.long {
            words += " --long";
        }
        if self.config.probe {
            words += " --probe";
        }
        let spans = self.span.map(|ms| (ms / 3_600_000) as usize);
        for (flag, value) in [("machines", self.machines), ("clients", self.clients), ("hours", spans)] {
            words += &value.map(|n| format!(" --{flag} {n}")).unwrap_or_default();
        }
        words + &self.config.without.map(|f| format!(" --without {}", f.name())).unwrap_or_default()
    }
}

// ── one seed ──

fn one(options: &Options, out: &mut impl Write) -> io::Result<bool> {
    let config = Config { trace: true, ..options.config(options.config.seed) };
    let (config, report) = match options.shrink {
        false => (config.clone(), run(&config)),
        true => match shrink(&config, |runs, left| eprint!("\r{runs} runs, {left} things left ")) {
            Some(found) => {
                eprintln!();
                found
            }
            None => {
                writeln!(out, "seed {}: no violation, nothing to shrink", config.seed)?;
                return Ok(true);
            }
        },
    };
    if let Some(file) = &options.json_trace {
        write_trace(file, &config, &report)?;
        writeln!(out, "{} happenings: pitstop replay {}", report.trace.len(), file.display())?;
    } else {
        for entry in &report.trace {
            writeln!(out, "{entry}")?;
        }
    }
    if options.shrink {
        writeln!(out, "all that had to happen by chance:")?;
        for decision in &report.happened {
            writeln!(out, "  {decision}")?;
        }
    }
    if let Some(violation) = &report.violation {
        writeln!(out, "seed {}: {violation}", config.seed)?;
    }
    Ok(report.violation.is_none())
}

fn write_trace(file: &Path, config: &Config, report: &Report) -> io::Result<()> {
    let mut to = io::BufWriter::new(std::fs::File::create(file)?);
    serde_json::to_writer(&mut to, &Header::of(config))?;
    for entry in &report.trace {
        to.write_all(b"\n")?;
        serde_json::to_writer(&mut to, entry)?;
    }
    to.write_all(b"\n")?;
    to.flush()
}

// ── many seeds ──

/// What all threads found together.
#[derive(Default)]
struct Found {
    total: Report,
    runs: u64,
    /// Violations by seed.
    wrong: BTreeMap<u64, String>,
}

fn many(options: &Options, out: &mut impl Write) -> io::Result<bool> {
    let next = AtomicU64::new(0);
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| work(options, &next, &found));
        }
    });
    // A thread that panicked has ended the program's run already.
    let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (seed, violation) in &found.wrong {
        writeln!(out, "seed {seed}: {violation}")?;
        writeln!(out, "replay: {} --trace", options.again(*seed))?;
    }
    summary(&found, out)?;
    if options.pairs {
        pairs(&found.total, out)?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, json(&found))?;
    }
    Ok(found.wrong.is_empty())
}

/// One thread: takes seed after seed until enough is done or something is wrong.
fn work(options: &Options, next: &AtomicU64, found: &Mutex<Found>) {
    let mut mine = Found::default();
    while spent() < options.budget {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.runs {
            break;
        }
        let seed = options.config.seed + number;
        let report = run(&options.config(seed));
        mine.total.add(&report);
        mine.runs += 1;
        if let Some(violation) = report.violation {
            mine.wrong.insert(seed, violation);
            if !options.keep_going {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                break;
            }
        }
    }
    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.total.add(&mine.total);
    found.runs += mine.runs;
    found.wrong.extend(mine.wrong);
}

fn summary(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let Found { total, runs, .. } = found;
    let seconds = spent().as_secs_f64();
    writeln!(
        out,
        "{runs} seeds, {} steps, {} checks, {} liveness checks, {} records, {} hand-overs, {} kills, {:.0} simulated hours in {seconds:.1} CPU-s ({:.1} seeds/s)",
        total.steps,
        total.checks,
        total.liveness_checks,
        total.records,
        total.handovers,
        total.kills,
        total.simulated as f64 / 3_600_000.0,
        *runs as f64 / seconds,
    )?;
    let faults: Vec<String> = total.faults.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    writeln!(out, "faults: {}", faults.join(", "))
}

fn pairs(total: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut all = total.pairs.clone();
    all.add(&total.probed);
    let (met, never): (Vec<_>, Vec<_>) = all.all().partition(|(_, _, count)| *count > 0);
    writeln!(out, "{} pairs of state and event were tried, {} never:", met.len(), never.len())?;
    let mut state = String::new();
    for (of, event, _) in never {
        if of != state {
            write!(out, "{}  {of}: {event}", if state.is_empty() { "" } else { "\n" })?;
            state = of;
        } else {
            write!(out, ", {event}")?;
        }
    }
    writeln!(out)
}

fn json(found: &Found) -> String {
    let Found { total, runs, wrong } = found;
    let seconds = spent().as_secs_f64();
    let named = |pairs: &Pairs| -> serde_json::Map<String, serde_json::Value> {
        pairs.all().map(|(state, event, n)| (format!("{state} × {event}"), n.into())).collect()
    };
    let summary = serde_json::json!({
        "runs": runs,
        "steps": total.steps,
        "records": total.records,
        "checks": total.checks,
        "liveness_checks": total.liveness_checks,
        "handovers": total.handovers,
        "kills": total.kills,
        "simulated_hours": total.simulated as f64 / 3_600_000.0,
        "cpu_seconds": seconds,
        "runs_per_cpu_second": *runs as f64 / seconds,
        "faults": total.faults,
        "violations": wrong.len(),
        "pairs": named(&total.pairs),
        "probed": named(&total.probed),
    });
    format!("{summary:#}\n")
}
