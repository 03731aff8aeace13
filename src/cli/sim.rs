//! `pitstop sim`: the deciding core against a world that lies, stalls and
//! dies, in virtual time. What a run finds is replayed by its seed.

use super::fail::Fail;
use super::{Context, Result};
use pitstop_core::fence::Fence;
use pitstop_core::simulator::{Config, Report, run as simulate};
use pitstop_wire::{ApiError, Code};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The first seed.
    #[arg(long, default_value = "1")]
    seed: u64,
    /// How many seeds; with --seconds at most so many.
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Go on for so many seconds of processor time.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Machines of the lab; 1 to 4 in turn unless said.
    #[arg(long, value_name = "N")]
    machines: Option<usize>,
    /// Clients; twice as many as machines unless said.
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Take a fence away: a violation must be found then.
    #[arg(long, value_name = "FENCE", value_parser = fence)]
    without: Option<Fence>,
    /// Print every event (of one seed).
    #[arg(long)]
    trace: bool,
}

fn fence(text: &str) -> std::result::Result<Fence, String> {
    let names = || Fence::ALL.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
    Fence::ALL
        .into_iter()
        .find(|f| f.name() == text)
        .ok_or_else(|| format!("`{text}` is no fence; there are {}", names()))
}

/// Seeds tried where nothing says how many.
const DEFAULT_RUNS: u64 = 20;

pub fn run(cx: &Context, args: &Args) -> Result {
    let began = processor_time();
    let limit = args.seconds.map(Duration::from_secs);
    let runs = args.runs.unwrap_or(if args.trace {
        1
    } else if limit.is_some() {
        u64::MAX
    } else {
        DEFAULT_RUNS
    });
    let mut total = Report::default();
    let mut done = 0;
    while done < runs && limit.is_none_or(|limit| processor_time().saturating_sub(began) < limit) {
        let seed = args.seed.wrapping_add(done);
        let report = simulate(&config(args, seed));
        for line in &report.trace {
            cx.out.line(line)?;
        }
        total.add(&report);
        done += 1;
        if let Some(violation) = report.violation {
            return violated(cx, args, seed, &violation, &total, done);
        }
    }
    let summary = summary(&total, done);
    cx.out.object(
        &json!({ "schema": "pitstop.sim/1", "first_seed": args.seed, "seeds": done, "steps": total.steps,
        "checks": total.checks, "records": total.records, "kills": total.kills, "handovers": total.handovers,
        "faults": total.faults, "simulated_seconds": total.simulated / 1_000, "violation": null }),
        "",
        |out| out.line(&summary),
    )?;
    match args.without {
        Some(fence) => Err(Fail::internal(format!(
            "without the fence {} nothing was found in {done} seeds",
            fence.name()
        ))),
        None => Ok(()),
    }
}

fn config(args: &Args, seed: u64) -> Config {
    let mut config = Config::short(seed);
    config.machines = args.machines.unwrap_or(1 + usize::try_from(seed % 4).unwrap_or(0));
    config.clients = args.clients.unwrap_or(2 * config.machines);
    config.without = args.without;
    config.trace = args.trace;
    config
}

fn violated(cx: &Context, args: &Args, seed: u64, violation: &str, total: &Report, done: u64) -> Result {
    let mut again = format!("pitstop sim --trace --seed {seed}");
    if let Some(n) = args.machines {
        again.push_str(&format!(" --machines {n}"));
    }
    if let Some(n) = args.clients {
        again.push_str(&format!(" --clients {n}"));
    }
    if let Some(fence) = args.without {
        again.push_str(&format!(" --without {}", fence.name()));
        // That is what was to be shown.
        cx.out.line(&format!("without {}: found at seed {seed}: {violation}", fence.name()))?;
        cx.out.say(&format!("→ {again}"));
        return Ok(());
    }
    cx.out.say(&summary(total, done));
    Err(ApiError::new(Code::Internal, format!("seed {seed}: {violation}")).hint(again).into())
}

fn summary(total: &Report, seeds: u64) -> String {
    let faults: u64 = total.faults.values().sum();
    format!(
        "{seeds} seeds, {} steps, {} checks, {} records, {} hand-overs, {faults} faults of {} kinds, {} kills, {} simulated hours",
        total.steps,
        total.checks,
        total.records,
        total.handovers,
        total.faults.len(),
        total.kills,
        total.simulated / 3_600_000
    )
}

/// What this process has used so far: on a busy computer wall time says
/// little.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
