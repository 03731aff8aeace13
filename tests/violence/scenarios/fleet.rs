//! Hundreds of machines in one process. Their agents are the real ones, each
//! with a connection of its own; only the hardware under them is missing, and
//! the daemon cannot tell: power is switched by a program of the site's own
//! that keeps a file, and firmware fetches what it is to boot.

use crate::harness::{Lab, wire};
use pitstop::store::SqliteStore;
use pitstop_agent::sandbox::Place;
use pitstop_agent::{Agent, Options, Platform, PlatformError, Say};
use pitstop_client::api::{CleanLevel, Enrol, ReservationState, Reserve, Want};
use pitstop_client::{ApiError, Client};
use pitstop_core::record::{Change, Record};
use pitstop_wire::agent::{AgentKind, AgentParams, Hardware};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How long all of them may take to come up.
const UP: Duration = Duration::from_secs(240);
/// A machine in use whose agent is silent for so long (seconds) is given up,
/// as CI's are.
const AGENT_LOST: u64 = 15;
/// Asked at the same time.
const AT_ONCE: usize = 25;

/// Switches an outlet that is a file, and writes every command down.
const OUTLET: &str = r#"#!/bin/sh
case $1 in
    status) read -r state <"$0.$2" 2>/dev/null && [ "$state" = on ] ;;
    *) echo "$1" >"$0.$2"; echo "$1 $2" >>"$0.commands" ;;
esac
"#;

/// The machines, in use, agents connected.
pub struct Fleet {
    pub lab: Lab,
    pub client: Client,
    pub reservations: Vec<String>,
    agents: Vec<Agent>,
}

/// A machine without disks.
struct Bare {
    boot_id: String,
}

impl Platform for Bare {
    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn hardware(&self) -> Result<Hardware, PlatformError> {
        Ok(Hardware { memory: 1 << 30, cpus: 1, ..Hardware::default() })
    }

    fn place(&self) -> Place {
        Place::Here { home: None }
    }
}

impl Fleet {
    /// So many machines in use, and besides them some that are only leased.
    pub fn open(runtime: &Arc<Runtime>, machines: usize, leased: usize) -> Result<Self, String> {
        let mut lab = Lab::new("");
        let outlet = lab.path("outlet");
        let failed = |e: std::io::Error| format!("{}: {e}", outlet.display());
        std::fs::write(&outlet, OUTLET).map_err(failed)?;
        std::fs::set_permissions(&outlet, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        let inventory = inventory(&outlet.display().to_string(), machines, leased);
        std::fs::write(lab.path("inventory.toml"), inventory).map_err(failed)?;
        for n in 1..=machines {
            std::fs::write(lab.path(&format!("outlet.{}", name(n))), "off\n").map_err(failed)?;
        }
        lab.set("PITSTOP_LOG", "warn");
        lab.start();
        let client = Client::new(lab.path("sock")).with_patience(Duration::from_secs(60));
        let mut fleet = Self { lab, client, reservations: Vec::new(), agents: Vec::new() };
        runtime.block_on(fleet.reserve(machines, leased)).map_err(|e| format!("the fleet: {e}"))?;
        fleet.boot(machines)?;
        runtime.block_on(fleet.claim())?;
        Ok(fleet)
    }

    async fn reserve(&mut self, machines: usize, leased: usize) -> Result<(), ApiError> {
        for (kind, count) in [("fleet", machines), ("lease", leased)] {
            if count > 0 {
                let all = Enrol { select: format!("kind={kind}"), count: Some(count) };
                self.client.enrol(&all, None).await?;
            }
        }
        let numbers: Vec<usize> = (1..=machines).collect();
        for some in numbers.chunks(AT_ONCE) {
            let mut asked = JoinSet::new();
            for n in some {
                let (client, select) = (self.client.clone(), format!("name={}", name(*n)));
                let ask = Reserve {
                    select: Some(select),
                    want: Some(Want::Agent),
                    clean: Some(CleanLevel::Any),
                    agent_lost: Some(AGENT_LOST),
                    ..Reserve::default()
                };
                asked.spawn(async move { client.reserve(&ask, None).await });
            }
            for row in asked.join_all().await {
                self.reservations.push(row?.id);
            }
        }
        Ok(())
    }

    /// What firmware does: asks until it is told what to boot.
    fn boot(&mut self, machines: usize) -> Result<(), String> {
        let until = Instant::now() + UP;
        let mut off: Vec<usize> = (1..=machines).collect();
        while !off.is_empty() {
            let mut still = Vec::new();
            for n in off {
                match self.is_on(n).then(|| wire::boot_script(&self.lab, &name(n))) {
                    Some((200, script)) if script.contains("pitstop.token=") => {
                        self.agents.push(start(wire::parameters(&script), n)?);
                    }
                    _ => still.push(n),
                }
            }
            off = still;
            if Instant::now() > until {
                return Err(format!("{} machines do not boot: {}", off.len(), self.lab.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_on(&self, n: usize) -> bool {
        let state = std::fs::read_to_string(self.lab.path(&format!("outlet.{}", name(n))));
        state.is_ok_and(|s| s.trim() == "on")
    }

    async fn claim(&self) -> Result<(), String> {
        let until = Instant::now() + UP;
        loop {
            let list = self.client.reservations(false).await.map_err(|e| e.to_string())?.reservations;
            let ready = |r: &pitstop_client::api::Reservation| {
                matches!(r.state, ReservationState::Ready | ReservationState::Active)
            };
            if list.len() == self.reservations.len() && list.iter().all(ready) {
                break;
            }
            if Instant::now() > until {
                let waits = list.iter().find(|r| !ready(r));
                return Err(format!("not all are ready: {waits:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for id in &self.reservations {
            self.client.claim(id).await.map_err(|e| format!("{id}: {e}"))?;
        }
        Ok(())
    }

    /// Power commands that reached an outlet.
    pub fn commands(&self) -> usize {
        let file = std::fs::read_to_string(self.lab.path("outlet.commands")).unwrap_or_default();
        file.lines().count()
    }

    /// The records after this one.
    pub fn records(&self, after: u64) -> Result<Vec<Record>, String> {
        let history = SqliteStore::read_only(&self.lab.data()).map_err(|e| e.to_string())?;
        let mut all: Vec<Record> = Vec::new();
        loop {
            let from = all.last().map_or(after, |r| r.number);
            let query = pitstop::store::RecordQuery::after(from);
            let more = history.records(&query).map_err(|e| e.to_string())?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// The newest record.
    pub fn newest(&self) -> Result<u64, String> {
        let history = SqliteStore::read_only(&self.lab.data()).map_err(|e| e.to_string())?;
        Ok(history.rows().map_err(|e| e.to_string())?.meta.records)
    }

    /// How many are still in their holders' hands.
    pub fn active(&self, runtime: &Arc<Runtime>) -> Result<usize, String> {
        let list = runtime.block_on(self.client.reservations(false)).map_err(|e| e.to_string())?;
        let mine = list.reservations.iter().filter(|r| self.reservations.contains(&r.id));
        Ok(mine.filter(|r| r.state == ReservationState::Active).count())
    }

    /// Ends the agents.
    pub fn close(mut self) {
        self.agents.iter().for_each(Agent::stop);
        for agent in self.agents.drain(..) {
            agent.wait();
        }
        self.lab.stop();
    }
}

/// What must not be on record of machines in use.
pub fn troubles(records: &[Record]) -> Vec<String> {
    let bad = records.iter().filter(|r| {
        matches!(
            r.change,
            Change::PowerIntended { .. }
                | Change::Ended { .. }
                | Change::TurnStarted { .. }
                | Change::PhaseFailed { .. }
                | Change::HealthSet { .. }
        )
    });
    bad.map(|r| format!("{:?}", r.change)).collect()
}

fn name(n: usize) -> String {
    format!("f{n:03}")
}

fn start(params: AgentParams, n: usize) -> Result<Agent, String> {
    let platform = Arc::new(Bare { boot_id: format!("boot-of-{n}") });
    let say = Say::new(|_| {});
    let options = Options { kind: AgentKind::Boot, params, platform, say, keep_rejoin: None };
    Agent::start(options).map_err(|e| format!("agent {n}: {e}"))
}

fn inventory(outlet: &str, machines: usize, leased: usize) -> String {
    let lease = if leased == 0 {
        String::new()
    } else {
        format!("[machine.\"l[001-{leased:03}]\"]\nclass = \"lease\"\n")
    };
    format!(
        r#"format = 1
[lab]
name = "fleet"
[class.fleet]
tags          = {{ kind = "fleet" }}
shared        = true
after_build   = "keep"
power.command = {{ on = ["{outlet}", "on", "{{name}}"], off = ["{outlet}", "off", "{{name}}"], status = ["{outlet}", "status", "{{name}}"] }}
console       = {{}}
boot.http     = {{}}
ready.agent   = {{}}
timeout       = {{ power = "60s", firmware = "240s", attach = "240s" }}
[class.lease]
tags        = {{ kind = "lease" }}
shared      = true
after_build = "keep"
power.none  = {{}}
console     = {{}}
boot.power  = {{}}
ready.agent = {{}}
[machine."f[001-{machines:03}]"]
class = "fleet"
{lease}"#
    )
}
