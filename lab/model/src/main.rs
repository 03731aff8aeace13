//! Searches through every configuration, then through the same world with
//! each fence taken away, and says what it found.

use pitstop_core::fence::{Fence, Fences};
use pitstop_model::check::{Found, check};
use pitstop_model::configuration::{Configuration, deep, shows_lack_of, usual};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

const USAGE: &str = "\
usage: pitstop-model [--deep] [--only NAME] [--without FENCE] [--json FILE] [--list]

Tries every order of events and faults within the bounds of each configuration
on the core's own step, and checks what must hold in every state. Then takes
each fence away and demands that a violation is found.
  --deep           larger bounds: some gigabytes of memory, and many minutes
  --only NAME      this configuration alone, with all fences
  --without FENCE  this fence alone is taken away
  --json FILE      writes what was found
  --list           the configurations with their bounds";

#[derive(Default)]
struct Options {
    deep: bool,
    list: bool,
    only: Option<String>,
    without: Option<Fence>,
    json: Option<PathBuf>,
}

/// One search.
struct Job {
    configuration: Configuration,
    without: Option<Fence>,
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "-h" || arg == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read along has seen enough; that all was well is not known.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("pitstop-model: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--deep" => options.deep = true,
            "--list" => options.list = true,
            "--only" => options.only = Some(value()?),
            "--json" => options.json = Some(value()?.into()),
            "--without" => {
                let name = value()?;
                let fence = Fence::ALL.into_iter().find(|f| f.name() == name);
                options.without = Some(fence.ok_or_else(|| format!("there is no fence `{name}`"))?);
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> io::Result<bool> {
    let configurations = if options.deep { deep() } else { usual() };
    let mut out = io::stdout().lock();
    if options.list {
        for c in &configurations {
            writeln!(out, "{}: {}\n    {}", c.name, c.about, c.bounds())?;
        }
        return Ok(true);
    }
    let jobs = jobs(options, configurations);
    if jobs.is_empty() {
        writeln!(out, "there is no such configuration; --list names them")?;
        return Ok(false);
    }
    let (mut good, mut searched, mut fences) = (true, Vec::new(), serde_json::Map::new());
    let mut open = jobs.len();
    for (job, found) in search(jobs) {
        open -= 1;
        good &= match job.without {
            None => tell(&job, &found, &mut out)?,
            Some(fence) => tell_fence(&job, fence, &found, &mut out)?,
        };
        match job.without {
            None => searched.push(summary(&job, &found)),
            Some(fence) => drop(fences.insert(fence.name().into(), fence_summary(&job, &found))),
        }
    }
    if open > 0 {
        // A search that panicked has said so on its own.
        writeln!(out, "VIOLATION: {open} searches came to no end")?;
        good = false;
    }
    let seconds = spent().as_secs_f64();
    writeln!(out, "{seconds:.1} CPU-s")?;
    if let Some(file) = &options.json {
        searched.sort_by_key(|c| c["name"].to_string());
        let all = json!({ "configurations": searched, "fences": fences, "cpu_seconds": seconds });
        std::fs::write(file, format!("{all:#}\n"))
            .map_err(|e| io::Error::new(e.kind(), format!("write {}: {e}", file.display())))?;
    }
    Ok(good)
}

/// The largest first, so that nobody waits for them alone at the end.
fn jobs(options: &Options, configurations: Vec<Configuration>) -> VecDeque<Job> {
    let asked = |c: &Configuration| options.only.as_ref().is_none_or(|name| name == c.name);
    let whole =
        configurations.into_iter().filter(asked).map(|configuration| Job { configuration, without: None });
    let broken = Fence::ALL.into_iter().filter(|f| options.without.is_none_or(|only| only == *f));
    let broken = broken.map(|f| Job { configuration: shows_lack_of(f).0, without: Some(f) });
    match (&options.only, options.without) {
        (_, Some(_)) => broken.collect(),
        (Some(_), None) => whole.collect(),
        (None, None) => whole.chain(broken).collect(),
    }
}

/// Searches on every processor; what is found comes as it is found.
fn search(jobs: VecDeque<Job>) -> impl Iterator<Item = (Job, Found)> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let jobs = std::sync::Arc::new(Mutex::new(jobs));
    let (send, receive) = mpsc::channel();
    for _ in 0..workers {
        let (jobs, send) = (jobs.clone(), send.clone());
        std::thread::spawn(move || {
            loop {
                let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(job) = next else { return };
                let (fences, only) = match job.without {
                    None => (Fences::default(), None),
                    Some(fence) => (Fences::without(fence), Some(shows_lack_of(fence).1)),
                };
                let found = check(&job.configuration, fences, only);
                if send.send((job, found)).is_err() {
                    return;
                }
            }
        });
    }
    receive.into_iter()
}

/// Processor time of this program so far.
fn spent() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// What ought to be possible in this world, and never happened.
fn unreached(job: &Job, found: &Found) -> Vec<&'static str> {
    job.configuration.goals().into_iter().filter(|g| !found.reached.contains(g)).collect()
}

fn tell(job: &Job, found: &Found, out: &mut impl Write) -> io::Result<bool> {
    let Configuration { name, .. } = &job.configuration;
    let (states, depth, seconds) = (found.unique_states, found.max_depth, found.took.as_secs_f64());
    let unreached = unreached(job, found);
    let verdict = match (&found.violation, unreached.first()) {
        (Some(violation), _) => format!("VIOLATION of `{}`: {}", violation.property, violation.text),
        (None, Some(goal)) => format!("VIOLATION: never in this world: {goal}"),
        (None, None) => "no violation".to_owned(),
    };
    writeln!(
        out,
        "{name}: {states} states, depth {depth}, exhaustive within its bounds, in {seconds:.1} s: {verdict}"
    )?;
    writeln!(out, "    {}", job.configuration.bounds())?;
    for line in found.violation.iter().flat_map(|v| &v.path) {
        writeln!(out, "    {line}")?;
    }
    out.flush()?;
    Ok(found.violation.is_none() && unreached.is_empty())
}

fn tell_fence(job: &Job, fence: Fence, found: &Found, out: &mut impl Write) -> io::Result<bool> {
    let (fence, name) = (fence.name(), job.configuration.name);
    let Some(violation) = &found.violation else {
        let states = found.unique_states;
        writeln!(out, "without {fence}: NOT CAUGHT in all {states} states of {name}")?;
        return Ok(false);
    };
    writeln!(
        out,
        "without {fence}: caught after {} actions in {name}: {}",
        violation.path.len(),
        violation.text
    )?;
    for line in &violation.path {
        writeln!(out, "    {line}")?;
    }
    out.flush()?;
    Ok(true)
}

fn summary(job: &Job, found: &Found) -> Value {
    json!({
        "name": job.configuration.name,
        "bounds": job.configuration.bounds(),
        "unique_states": found.unique_states,
        "transitions": found.transitions,
        "max_depth": found.max_depth,
        "exhaustive": found.violation.is_none(),
        "violations": usize::from(found.violation.is_some() || !unreached(job, found).is_empty()),
    })
}

fn fence_summary(job: &Job, found: &Found) -> Value {
    let violation = found.violation.as_ref();
    json!({
        "caught": violation.is_some(),
        "path_length": violation.map(|v| v.path.len()),
        "configuration": job.configuration.name,
        "violation": violation.map(|v| &v.text),
    })
}
