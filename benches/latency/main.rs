//! How long people and builds wait for pitstop itself: the command line,
//! grants, hand-overs between holders, lost sessions. And what a daemon costs
//! while nothing happens.
//!
//! Started by `benches/latency/run`.

#[path = "../common/mod.rs"]
mod common;
mod grants;
mod lost;
mod report;
mod rest;

use anyhow::{Result, ensure};
use common::load::millis;
use common::{Daemon, Place, place};
use report::Line;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How much is measured.
pub struct Plan {
    /// Times a command is run.
    pub commands: usize,
    /// Reservations, and hand-overs.
    pub grants: usize,
    /// Sessions that are lost.
    pub sessions: usize,
    /// How long a daemon at rest is watched.
    pub rest: Duration,
}

impl Plan {
    fn new() -> Self {
        if common::quick() {
            Self { commands: 5, grants: 50, sessions: 3, rest: Duration::from_secs(2) }
        } else {
            Self { commands: 20, grants: 1_000, sessions: 50, rest: Duration::from_secs(30) }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let scratch = common::scratch()?;
    let place = Place::of(&scratch)?;
    let before = place::load()?;
    let plan = Plan::new();
    println!("{place}; load {before}");
    let mut lines = Vec::new();
    for machines in [12, 1_000, 10_000] {
        lines.extend(with(&scratch, machines, &plan).await?);
    }
    let found = report::Found { place, loads: (before, place::load()?), lines };
    println!("\n{found}");
    found.write(&PathBuf::from(std::env::var_os("PITSTOP_BENCH_RESULTS").unwrap_or_default()))
}

/// Everything that is of interest with so many machines.
async fn with(scratch: &Path, machines: usize, plan: &Plan) -> Result<Vec<Line>> {
    let mut daemon = Daemon::new(scratch, machines)?;
    let started = daemon.start()?;
    println!("{machines} machines: {:.2} s to the first start", started.as_secs_f64());
    daemon.enrol(machines).await?;
    let mut lines = Vec::new();
    if machines >= 1_000 {
        lines.push(rest::memory_now(&daemon, format!("memory after the first start, {machines} machines"))?);
        daemon.kill9()?;
        let again = daemon.start()?;
        println!("{machines} machines: {:.2} s to the second", again.as_secs_f64());
        lines.extend(rest::at_rest(&daemon, machines, plan.rest)?);
    }
    lines.push(status(&daemon, machines, plan.commands)?);
    if machines == 1_000 {
        lines.push(grants::reserve(&daemon, plan.grants).await?);
        lines.push(grants::hand_over(&daemon, plan.grants).await?);
        lines.push(lost::sessions(&daemon, plan.sessions).await?);
    }
    Ok(lines)
}

/// The whole process, from its start to its end.
fn status(daemon: &Daemon, machines: usize, times: usize) -> Result<Line> {
    let run = || -> Result<f64> {
        let began = Instant::now();
        let ended = daemon.command(&["status"]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        ensure!(ended.success(), "pitstop status: {ended}");
        Ok(millis(began))
    };
    run()?; // reads the program from the disk
    let samples = (0..times).map(|_| run()).collect::<Result<Vec<f64>>>()?;
    let limit = if machines > 1_000 { 50.0 } else { 20.0 };
    Ok(Line::median(format!("pitstop status, {machines} machines"), samples, limit))
}
