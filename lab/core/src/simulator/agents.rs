//! Agents of the simulated boards: they attach, work, say so, and get lost.

use super::Sim;
use super::board::{DISK, DiskTruth, Happening};
use crate::effect::Boot;
use crate::event::{Answer, Event, Fact, Report};
use crate::id::{Epoch, SecretHash};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, Hardware, Hello, ImageMode, Outcome, Secret, SeenDisk, ToAgent,
    Welcome, Work,
};
use std::collections::BTreeMap;

/// An agent process on a board.
#[derive(Debug)]
pub(super) struct SimAgent {
    pub machine: MachineName,
    kind: AgentKind,
    params: AgentParams,
    boot_id: String,
    key: String,
    pub alive: bool,
    attached: bool,
    pub connected: bool,
    doing: Option<u64>,
    results: BTreeMap<u64, Outcome>,
    sending: bool,
}

impl Sim {
    pub(super) fn booted(
        &mut self,
        machine: &MachineName,
        boot: u64,
        what: Boot,
        params: Option<AgentParams>,
    ) {
        let Some(board) = self.boards.get_mut(machine) else { return };
        if board.boot != boot || !board.on() {
            return;
        }
        let (kind, params) = match what {
            Boot::Agent => (AgentKind::Boot, params),
            Boot::Disk | Boot::AsIs => {
                let whole =
                    board.disks.first().is_some_and(|d| !d.partial && matches!(d.base, Some(Some(_))));
                if let Some(disk) = board.disks.first_mut() {
                    disk.touched |= whole;
                }
                let seed = board.seed.clone().filter(|_| whole).map(|mut seed| {
                    if let Some(rejoin) = &board.rejoin {
                        seed.token = Secret(rejoin.clone());
                    }
                    seed
                });
                (AgentKind::Host, seed)
            }
        };
        let Some(params) = params else { return };
        if self.fault("agent silent", 40) {
            return;
        }
        let boot_id = format!("{machine}-{boot}");
        let key = format!("key-{boot_id}-{}", self.rng.u64(..));
        self.agents.push(SimAgent {
            machine: machine.clone(),
            kind,
            params,
            boot_id,
            key,
            alive: true,
            attached: false,
            connected: false,
            doing: None,
            results: BTreeMap::new(),
            sending: false,
        });
        let agent = self.agents.len() - 1;
        let delay =
            if self.fault("agent late", 40) { self.rng.u64(20_000..900_000) } else { self.rng.u64(10..500) };
        self.at(delay, Happening::Hello(agent));
        if self.fault("agent twice", 40) {
            let delay = delay + self.rng.u64(0..5_000);
            self.at(delay, Happening::Twin(agent));
        }
    }

    pub(super) fn hello(&mut self, id: usize) {
        let agent = &self.agents[id];
        if !agent.alive || agent.connected {
            return;
        }
        let (machine, nonce) = (agent.machine.clone(), agent.params.nonce.clone());
        let (boot_id, version) = (agent.boot_id.clone(), "sim".to_owned());
        let resume = agent.attached;
        let hello = if resume {
            let key = Secret(agent.key.clone());
            Hello::Resume { protocol: (1, 1), version, machine, nonce, boot_id, key }
        } else {
            self.attach_of(id)
        };
        // The hub opens the session's queue before it asks, so that what the
        // answer's own step says to the agent finds it.
        self.agents[id].connected = true;
        match self.deliver(Event::Hello(hello)) {
            Some(Answer::Welcome(Welcome::Accepted { rejoin, .. })) => {
                let agent = &mut self.agents[id];
                agent.attached = true;
                let machine = agent.machine.clone();
                if let (Some(token), Some(board)) = (rejoin, self.boards.get_mut(&machine)) {
                    board.rejoin = Some(token.0);
                }
                self.send(id);
            }
            Some(_) => {
                self.agents[id].alive = false;
                self.agents[id].connected = false;
            }
            None => {
                // No answer: was it committed? It tries both, in turn.
                self.agents[id].attached = !resume;
                self.agents[id].connected = false;
                let retry = self.rng.u64(500..5_000);
                self.at(retry, Happening::Hello(id));
            }
        }
    }

    fn attach_of(&self, id: usize) -> Hello {
        let agent = &self.agents[id];
        Hello::Attach {
            protocol: (1, 1),
            version: "sim".into(),
            kind: agent.kind,
            machine: agent.machine.clone(),
            nonce: agent.params.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            token: agent.params.token.clone(),
            key_hash: hash_hex(&agent.key),
        }
    }

    /// The same parameters again, from elsewhere.
    pub(super) fn twin(&mut self, id: usize) {
        let Hello::Attach { protocol, version, kind, machine, nonce, token, .. } = self.attach_of(id) else {
            return;
        };
        let (boot_id, key_hash) = (format!("twin-{id}"), hash_hex("twin"));
        let hello = Hello::Attach { protocol, version, kind, machine, nonce, boot_id, token, key_hash };
        self.deliver(Event::Hello(hello));
    }

    pub(super) fn disconnect(&mut self, id: usize) {
        if !std::mem::take(&mut self.agents[id].connected) {
            return;
        }
        let event = self.agent_event(id, Report::Lost);
        self.deliver(event);
        if self.agents[id].alive {
            let retry = self.rng.u64(100..5_000);
            self.at(retry, Happening::Hello(id));
        }
    }

    fn agent_event(&self, id: usize, report: Report) -> Event {
        let agent = &self.agents[id];
        Event::Agent {
            machine: agent.machine.clone(),
            nonce: agent.params.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            report,
        }
    }

    pub(super) fn tell(&mut self, machine: &MachineName, nonce: &str, message: ToAgent) {
        let found = self
            .agents
            .iter()
            .rposition(|a| a.alive && a.connected && a.machine == *machine && a.params.nonce == nonce);
        let Some(id) = found else { return };
        if self.fault("link cut", 80) {
            return self.disconnect(id);
        }
        let agent = &mut self.agents[id];
        match message {
            ToAgent::Do { step, work } => {
                if agent.doing == Some(step) {
                    return;
                }
                if agent.results.contains_key(&step) {
                    return self.send(id);
                }
                agent.doing = Some(step);
                let ms = match &work {
                    Work::Image(_) => {
                        self.image_begins(id, &work);
                        self.rng.u64(2_000..60_000)
                    }
                    _ => self.rng.u64(5..500),
                };
                self.at(ms, Happening::Worked { agent: id, step, work });
            }
            ToAgent::Ack { step } => drop(agent.results.remove(&step)),
            _ => {}
        }
    }

    fn image_begins(&mut self, id: usize, work: &Work) {
        let Work::Image(image) = work else { return };
        if image.mode == ImageMode::Write
            && let Some(disk) = self.disk_of(id, &image.disk)
        {
            disk.partial = true;
        }
    }

    fn disk_of(&mut self, id: usize, name: &str) -> Option<&mut DiskTruth> {
        let machine = &self.agents[id].machine;
        let index = self.inventory.machines.get(machine)?.disks.iter().position(|d| d.name == name)?;
        self.boards.get_mut(machine)?.disks.get_mut(index)
    }

    fn disk_path(&self, id: usize, name: &str) -> String {
        let spec = self.inventory.machines.get(&self.agents[id].machine);
        let index = spec.and_then(|s| s.disks.iter().position(|d| d.name == name));
        format!("/sim/{}", index.unwrap_or_default())
    }

    pub(super) fn worked(&mut self, id: usize, step: u64, work: &Work) {
        if !self.agents[id].alive {
            return;
        }
        let outcome = match work {
            Work::Look => {
                let disks = self.boards.get(&self.agents[id].machine).map_or(0, |b| b.disks.len());
                let disk =
                    |n| SeenDisk { path: format!("/sim/{n}"), bytes: DISK, serial: None, bus: "sim".into() };
                Outcome::Seen(Hardware { disks: (0..disks).map(disk).collect(), ..Hardware::default() })
            }
            Work::Image(image) => {
                let broken = self.fault("disk error", 60);
                let path = self.disk_path(id, &image.disk);
                let Some(disk) = self.disk_of(id, &image.disk) else { return };
                match image.mode {
                    _ if broken => Outcome::Failed { reason: "input/output error".into(), image: false },
                    ImageMode::Write => {
                        *disk = DiskTruth { base: Some(image.digest.clone()), ..DiskTruth::default() };
                        Outcome::Proven(proof(path, image.digest.clone()))
                    }
                    ImageMode::Verify => {
                        let same = disk.base == Some(image.digest.clone()) && !disk.partial && !disk.touched;
                        match same {
                            true => Outcome::Proven(proof(path, image.digest.clone())),
                            false => Outcome::Differs { at: "somewhere".into() },
                        }
                    }
                }
            }
            Work::Seed { params, .. } => {
                let machine = self.agents[id].machine.clone();
                let Some(board) = self.boards.get_mut(&machine) else { return };
                (board.seed, board.rejoin) = (Some(params.clone()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        };
        let agent = &mut self.agents[id];
        agent.doing = None;
        agent.results.insert(step, outcome.clone());
        if self.rng.u64(0..8) == 0 && !self.calm {
            // A copy that wanders through the network for a while.
            let late = self.rng.u64(1_000..180_000);
            let event = self.agent_event(id, Report::Done { step, outcome });
            self.at(late, Happening::Late(Box::new(event)));
        }
        self.send(id);
    }

    /// Runs a health check, if there is an agent to run it.
    pub(super) fn check(&mut self, machine: MachineName, nonce: String, epoch: Epoch) {
        let runs = |a: &SimAgent| a.alive && a.connected && a.machine == machine && a.params.nonce == nonce;
        if !self.agents.iter().any(runs) {
            return;
        }
        let result = if self.fault("health check fails", 20) { Err("exit 1".to_owned()) } else { Ok(()) };
        let ms = self.rng.u64(100..60_000);
        self.at(ms, Happening::Fact(epoch, Box::new(Fact::Checked { machine, nonce, result })));
    }

    /// Sends all results that are not acknowledged, and again later.
    pub(super) fn send(&mut self, id: usize) {
        self.agents[id].sending = false;
        let agent = &self.agents[id];
        if !agent.alive || !agent.connected || agent.results.is_empty() {
            return;
        }
        let results: Vec<(u64, Outcome)> = agent.results.iter().map(|(s, o)| (*s, o.clone())).collect();
        for (step, outcome) in results {
            let event = self.agent_event(id, Report::Done { step, outcome });
            self.deliver(event);
        }
        let agent = &mut self.agents[id];
        if !agent.results.is_empty() && !agent.sending {
            agent.sending = true;
            self.at(5_000, Happening::Send(id));
        }
    }
}

fn hash_hex(key: &str) -> String {
    serde_json::to_value(SecretHash::of(key))
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn proof(path: String, digest: Option<String>) -> DiskProof {
    let image_bytes = if digest.is_some() { DISK / 2 } else { 0 };
    DiskProof {
        path,
        serial: None,
        device_bytes: DISK,
        digest,
        read_bytes: DISK,
        image_bytes,
        zero_bytes: DISK - image_bytes,
        written_bytes: DISK,
        erase: "write".into(),
        took_ms: 1,
    }
}
