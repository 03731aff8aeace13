//! 500 agents come back after two minutes without a daemon. They come spread
//! over seconds, all of them are taken back, and none was rebooted for it.

use super::Shown;
use super::fleet::{Fleet, troubles};
use pitstop_core::record::{Change, Record};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const AGENTS: usize = 500;
const AWAY: Duration = Duration::from_secs(120);
/// The longest pause of an agent is 5 s; a busy computer needs its time.
const BACK: Duration = Duration::from_secs(60);
/// A tenth of a second in milliseconds, and no more than this share of them
/// in it: five times what the agents' pauses give when they are even.
const SLOT: u64 = 100;
const MOST_SHARE: f64 = 0.2;

/// Runs it.
pub fn run(runtime: &Arc<Runtime>, agents: Option<usize>) -> Result<Shown, String> {
    let agents = agents.unwrap_or(AGENTS);
    let mut fleet = Fleet::open(runtime, agents, 0)?;
    let commands = fleet.commands();
    fleet.lab.kill9();
    let from = fleet.newest()?;
    std::thread::sleep(AWAY);
    let began = Instant::now();
    fleet.lab.start();
    let served = began.elapsed();
    let records = all_back(&fleet, from, agents)?;
    let mut shown = Shown::default();
    shown.figure("agents", agents);
    shown.figure("away_s", AWAY.as_secs());
    shown.figure("served_after_ms", u64::try_from(served.as_millis()).unwrap_or(u64::MAX));
    came_back(&mut shown, &records, agents);
    shown.wrong.extend(troubles(&records));
    let (active, all) = (fleet.active(runtime)?, fleet.reservations.len());
    shown.figure("adopted", active);
    shown.demand(active == all, || format!("{active} of {all} machines are still in use"));
    let switched = fleet.commands() - commands;
    shown.figure("power_commands", switched);
    shown.demand(switched == 0, || format!("{switched} power commands reached machines in use"));
    fleet.close();
    Ok(shown)
}

fn all_back(fleet: &Fleet, from: u64, agents: usize) -> Result<Vec<Record>, String> {
    let until = Instant::now() + BACK;
    loop {
        let records = fleet.records(from)?;
        let back = resumed(&records).map(|(machine, _)| machine).collect::<BTreeSet<_>>().len();
        if back == agents {
            return Ok(records);
        }
        if Instant::now() > until {
            return Err(format!("{back} of {agents} agents are back after {} s", BACK.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Which agents came back, and when by the wall.
fn resumed(records: &[Record]) -> impl Iterator<Item = (String, i64)> {
    records.iter().filter_map(|r| match &r.change {
        Change::AgentResumed { machine, .. } => Some((machine.to_string(), r.wall)),
        _ => None,
    })
}

fn came_back(shown: &mut Shown, records: &[Record], agents: usize) {
    let opened = records.iter().find(|r| matches!(r.change, Change::Opened { .. })).map_or(0, |r| r.wall);
    let mut first: BTreeMap<String, u64> = BTreeMap::new();
    for (machine, wall) in resumed(records) {
        first.entry(machine).or_insert(u64::try_from(wall - opened).unwrap_or(0));
    }
    let count = resumed(records).count();
    shown.figure("resumes", count);
    shown.demand(count < agents * 2, || format!("{count} resumes of {agents} agents: they come and go"));
    let mut slots: BTreeMap<u64, usize> = BTreeMap::new();
    for at in first.values() {
        *slots.entry(at / SLOT).or_default() += 1;
    }
    let most = slots.values().copied().max().unwrap_or(0);
    let last = first.values().copied().max().unwrap_or(0);
    let earliest = first.values().copied().min().unwrap_or(0);
    shown.figure("first_back_after_ms", earliest);
    shown.figure("all_back_after_ms", last);
    shown.figure("most_in_100_ms", most);
    let mut seconds: BTreeMap<String, usize> = BTreeMap::new();
    for at in first.values() {
        *seconds.entry(format!("{:02}", at / 500)).or_default() += 1;
    }
    shown.figure("back_by_half_seconds", json!(seconds));
    let bound = (agents as f64 * MOST_SHARE) as usize;
    shown.demand(most <= bound, || format!("{most} agents came back within {SLOT} ms: a herd"));
}
