//! Agents of the simulated boards: they attach, work, say so, and get lost.

use super::board::{DISK, DiskTruth};
use super::dice::{Chance, Pick, Who};
use super::labs::IMAGES;
use super::{Happening, Sim};
use crate::event::{Answer, Event, Fact, Report};
use crate::id::{Epoch, SecretHash};
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, Hardware, Hello, ImageMode, ImageWork, Outcome, Secret, SeenDisk,
    ToAgent, Welcome, Work,
};
use std::collections::BTreeMap;

/// An agent process on a board.
#[derive(Debug)]
pub(super) struct SimAgent {
    board: usize,
    kind: AgentKind,
    params: AgentParams,
    boot_id: String,
    key: String,
    pub alive: bool,
    attached: bool,
    pub connected: bool,
    doing: Option<u64>,
    /// Results, and whether they were acknowledged: a repeated step is not done twice.
    results: BTreeMap<u64, (Outcome, bool)>,
    sending: bool,
    checking: bool,
    /// Number of its connection.
    session: u32,
}

impl Sim {
    pub(super) fn agent_starts(&mut self, board: usize, kind: AgentKind, params: AgentParams) {
        let who = Who::board(board);
        if self.happens(who, Chance::AgentSilent) {
            return;
        }
        let id = self.agents.len();
        let boot_id = format!("boot-{board}-{}", self.boards[board].boot);
        let key = format!("key-{id}");
        self.agents.push(SimAgent {
            board,
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
            checking: false,
            session: 0,
        });
        self.boards[board].agents.push(id);
        let late = self.happens(who, Chance::AgentLate);
        let (low, high) = if late { (20_000, 900_000) } else { (10, 500) };
        let delay = self.dice.between(who, Pick::Delay, low, high);
        self.at(delay, Happening::Hello(id));
        if self.happens(who, Chance::AgentTwice) {
            let delay = delay + self.dice.below(who, Pick::Delay, 5_000);
            self.at(delay, Happening::Twin(id));
        }
        if self.happens(who, Chance::AgentDies) {
            let delay = self.dice.between(who, Pick::Delay, 1_000, 600_000);
            self.at(delay, Happening::AgentDies(id));
        }
    }

    fn who(&self, id: usize) -> Who {
        Who::board(self.agents[id].board)
    }

    pub(super) fn hello(&mut self, id: usize) {
        let agent = &self.agents[id];
        if !agent.alive || agent.connected {
            return;
        }
        let (machine, nonce) = (agent.params.machine.clone(), agent.params.nonce.clone());
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
        self.agents[id].session += 1;
        match self.route(Event::Hello(hello)) {
            Some(Answer::Welcome(Welcome::Accepted { rejoin, .. })) => {
                let agent = &mut self.agents[id];
                agent.attached = true;
                if let Some(token) = rejoin {
                    self.boards[agent.board].rejoin = Some(token.0);
                }
                self.send(id);
            }
            Some(Answer::Welcome(Welcome::Refused { retry: false, .. })) => {
                self.agents[id].connected = false;
                self.agent_dies(id);
            }
            answer => {
                // No answer: was it committed? It tries both, in turn.
                let agent = &mut self.agents[id];
                agent.connected = false;
                if answer.is_none() {
                    agent.attached = !resume;
                }
                let who = self.who(id);
                let retry = self.dice.between(who, Pick::Network, 500, 5_000);
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
            machine: agent.params.machine.clone(),
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
        self.route(Event::Hello(hello));
    }

    /// Its connection is gone; it calls again in a while.
    fn disconnect(&mut self, id: usize) {
        if !std::mem::take(&mut self.agents[id].connected) {
            return;
        }
        let event = self.agent_event(id, Report::Lost);
        self.at(1, Happening::Late(Box::new(event)));
        if self.agents[id].alive {
            let who = self.who(id);
            let long = self.dice.below(who, Pick::Kind, 6) == 0;
            let retry = self.dice.between(who, Pick::Network, 100, if long { 90_000 } else { 5_000 });
            self.at(retry, Happening::Hello(id));
        }
    }

    pub(super) fn agent_dies(&mut self, id: usize) {
        if std::mem::take(&mut self.agents[id].alive) {
            let board = self.agents[id].board;
            self.boards[board].agents.retain(|a| *a != id);
            self.disconnect(id);
        }
    }

    /// The board went off or fell over.
    pub(super) fn stop_agents(&mut self, board: usize) {
        while let Some(id) = self.boards[board].agents.last().copied() {
            self.agent_dies(id);
        }
    }

    /// The daemon that all agents spoke to is gone.
    pub(super) fn all_disconnected(&mut self) {
        let alive: Vec<usize> = self.boards.iter().flat_map(|b| b.agents.iter().copied()).collect();
        for id in alive {
            self.agents[id].connected = false;
            let who = self.who(id);
            let slow = self.happens(who, Chance::AgentSlowToReturn);
            let retry = self.dice.between(who, Pick::Network, 100, if slow { 120_000 } else { 5_000 });
            self.at(retry, Happening::Hello(id));
        }
    }

    fn agent_event(&self, id: usize, report: Report) -> Event {
        let agent = &self.agents[id];
        Event::Agent {
            machine: agent.params.machine.clone(),
            nonce: agent.params.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            report,
        }
    }

    /// The daemon says something to the agent of an attempt.
    pub(super) fn tell(&mut self, machine: &MachineName, nonce: String, message: ToAgent) {
        let Some(board) = self.board_of(machine) else { return };
        let is_it = |id: &&usize| {
            let agent = &self.agents[**id];
            agent.connected && agent.params.nonce == nonce
        };
        let Some(id) = self.boards[board].agents.iter().rev().find(is_it).copied() else { return };
        let who = Who::board(board);
        let slow = self.happens(who, Chance::MessageReordered);
        let delay = self.dice.between(who, Pick::Network, 1, if slow { 8_000 } else { 30 });
        let session = self.agents[id].session;
        self.at(delay, Happening::Told(id, session, Box::new(message)));
    }

    /// What was sent arrives, also when who sent it has died since; but not
    /// when the agent has called anew.
    pub(super) fn told(&mut self, id: usize, session: u32, message: ToAgent) {
        if !self.agents[id].alive || self.agents[id].session != session {
            return;
        }
        let who = self.who(id);
        if self.happens(who, Chance::LinkCut) {
            return self.disconnect(id);
        }
        let agent = &mut self.agents[id];
        match message {
            ToAgent::Do { step, work } => {
                if agent.doing == Some(step) {
                    return;
                }
                if let Some((_, acknowledged)) = agent.results.get_mut(&step) {
                    *acknowledged = false;
                    return self.send(id);
                }
                agent.doing = Some(step);
                let ms = self.work_begins(id, &work);
                self.at(ms, Happening::Worked { agent: id, step, work: Box::new(work) });
            }
            ToAgent::Ack { step } => {
                if let Some((_, acknowledged)) = agent.results.get_mut(&step) {
                    *acknowledged = true;
                }
            }
            _ => {}
        }
    }

    /// Runs a health check, if there is an agent to run it.
    pub(super) fn check(&mut self, machine: MachineName, nonce: String, epoch: Epoch) {
        let Some(board) = self.board_of(&machine) else { return };
        let runs = |id: &&usize| self.agents[**id].connected && self.agents[**id].params.nonce == nonce;
        let Some(id) = self.boards[board].agents.iter().find(runs).copied() else { return };
        if std::mem::replace(&mut self.agents[id].checking, true) {
            return; // asked for again while it runs: it is not begun twice
        }
        let who = Who::board(board);
        let fails = self.happens(who, Chance::CheckFails);
        let result = if fails { Err("exit 1".to_owned()) } else { Ok(()) };
        let ms = self.dice.between(who, Pick::Work, 100, 60_000);
        self.at(ms, Happening::Checked(id, epoch, Box::new(Fact::Checked { machine, nonce, result })));
    }

    /// A health check ended; its result goes out with the agent's connection.
    pub(super) fn checked(&mut self, id: usize, epoch: Epoch, fact: Fact) {
        self.agents[id].checking = false;
        if self.agents[id].connected {
            self.fact(epoch, fact);
        }
    }

    /// The first thing a write does is to spoil the disk. Answers with how
    /// long the work will take.
    fn work_begins(&mut self, id: usize, work: &Work) -> u64 {
        let who = self.who(id);
        let Work::Image(image) = work else { return self.dice.between(who, Pick::Work, 5, 500) };
        if image.mode == ImageMode::Write && self.is_meant(id, image) {
            self.written(id, &image.disk);
            if let Some(disk) = self.disk_of(id, &image.disk) {
                disk.partial = true;
            }
        }
        let slow = self.happens(who, Chance::DiskSlow);
        let (low, high) = if slow { (100_000, 500_000) } else { (2_000, 60_000) };
        self.dice.between(who, Pick::Work, low, high)
    }

    /// Whether the disk that is plugged in has the serial number it is to have.
    fn is_meant(&self, id: usize, image: &ImageWork) -> bool {
        let disks = &self.boards[self.agents[id].board].numbers.disks;
        let there = disks.get(self.disk_number(&image.disk));
        image.find.serial.is_none() || image.find.serial.as_ref() == there
    }

    /// A disk is about to be written: it must be the one that was enrolled.
    fn written(&mut self, id: usize, disk: &str) {
        let agent = &self.agents[id];
        let (name, number) = (agent.params.machine.clone(), self.disk_number(disk));
        let there = self.boards[agent.board].numbers.disks.get(number).cloned();
        let row = self.daemon.store.machine(&name);
        let Some(baseline) = row.and_then(|m| m.baseline.as_ref()) else { return };
        let enrolled = baseline.facts.disks.get(number).and_then(|d| d.serial.clone());
        self.report.checks += 1;
        if there.is_some() && enrolled != there {
            self.violation(format!("disk {there:?} of {name} is written, and {enrolled:?} was enrolled"));
        }
    }

    fn disk_number(&self, name: &str) -> usize {
        usize::from(name == "scratch")
    }

    fn disk_of(&mut self, id: usize, name: &str) -> Option<&mut DiskTruth> {
        let number = self.disk_number(name);
        self.boards[self.agents[id].board].disks.get_mut(number)
    }

    pub(super) fn worked(&mut self, id: usize, step: u64, work: &Work) {
        let agent = &self.agents[id];
        if !agent.alive {
            return;
        }
        let (who, board) = (self.who(id), agent.board);
        let mut outcome = match work {
            Work::Look => {
                let numbers = &self.boards[board].numbers;
                let disk = |(n, serial): (usize, &String)| SeenDisk {
                    path: format!("/sim/{n}"),
                    bytes: DISK,
                    serial: Some(serial.clone()),
                    bus: "sim".into(),
                    ..SeenDisk::default()
                };
                Outcome::Seen(Box::new(Hardware {
                    disks: numbers.disks.iter().enumerate().map(disk).collect(),
                    serial: Some(numbers.machine.clone()),
                    ..Hardware::default()
                }))
            }
            Work::Image(image) => self.imaged(id, image),
            Work::Seed { params, .. } => {
                let board = &mut self.boards[board];
                (board.seed, board.rejoin) = (Some(params.clone()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        };
        if self.happens(who, Chance::ResultMixedUp) {
            outcome = if outcome == Outcome::Serving { Outcome::Seeded } else { Outcome::Serving };
        }
        let agent = &mut self.agents[id];
        agent.doing = None;
        agent.results.insert(step, (outcome.clone(), false));
        self.rumours(id, step, outcome);
        self.send(id);
    }

    /// What else may be heard of a result: a copy that wandered through the
    /// network, a result of a step that nobody was told.
    fn rumours(&mut self, id: usize, step: u64, outcome: Outcome) {
        let who = self.who(id);
        if self.happens(who, Chance::StepFromFuture) {
            let proof = proof("/sim/0".into(), Some(format!("b3:{}", IMAGES[0])));
            let report = Report::Done { step: step + 1, outcome: Outcome::Proven(proof) };
            let event = self.agent_event(id, report);
            self.at(1, Happening::Late(Box::new(event)));
        }
        if self.happens(who, Chance::MessageStrays) {
            let late = self.dice.between(who, Pick::Network, 1_000, 180_000);
            let event = self.agent_event(id, Report::Done { step, outcome });
            self.at(late, Happening::Late(Box::new(event)));
        }
    }

    fn imaged(&mut self, id: usize, image: &ImageWork) -> Outcome {
        let who = self.who(id);
        if self.happens(who, Chance::DiskError) {
            return Outcome::Failed { reason: "input/output error".into(), image: false };
        }
        if !self.is_meant(id, image) {
            return Outcome::Failed { reason: "no disk has that serial number".into(), image: false };
        }
        if image.digest.is_some() && self.is_corrupt(who, image) {
            return Outcome::Failed { reason: "chunk 3 is not what its digest says".into(), image: true };
        }
        let number = self.disk_number(&image.disk);
        let path = format!("/sim/{number}");
        let incomplete = self.happens(who, Chance::ProofIncomplete);
        let board = &mut self.boards[self.agents[id].board];
        let serial = board.numbers.disks.get(number).cloned();
        let single = board.disks.len() == 1;
        let Some(disk) = board.disks.get_mut(number) else {
            return Outcome::Failed { reason: "no such disk".into(), image: false };
        };
        match image.mode {
            ImageMode::Write => {
                *disk = DiskTruth { base: Some(image.digest.clone()), ..DiskTruth::default() };
                if number == 0 {
                    (board.seed, board.rejoin) = (None, None);
                }
            }
            ImageMode::Verify => {
                if disk.base != Some(image.digest.clone()) || disk.partial || disk.touched {
                    return Outcome::Differs { at: "somewhere".into() };
                }
            }
        }
        board.behind &= !single;
        let mut proof = DiskProof { serial, ..proof(path, image.digest.clone()) };
        if incomplete {
            proof.read_bytes /= 2;
        }
        Outcome::Proven(proof)
    }

    /// Whether the image is corrupt just now: for a while, on all machines.
    fn is_corrupt(&mut self, who: Who, image: &ImageWork) -> bool {
        let digest = image.digest.clone().unwrap_or_default();
        if self.corrupt.get(&digest).is_some_and(|until| *until > self.now) {
            return !self.dice.calm;
        }
        let now = self.happens(who, Chance::ImageCorrupt);
        if now {
            let until = self.now + self.dice.between(who, Pick::Duration, 1_000, 1_200_000);
            self.corrupt.insert(digest, until);
        }
        now
    }

    /// Whether what is on the board's disk comes up nowhere just now.
    pub(super) fn is_dead(&mut self, board: usize) -> bool {
        let Some(digest) = self.boards[board].disks.first().and_then(|d| d.base.clone()).flatten() else {
            return false;
        };
        let key = format!("dead {digest}");
        if self.corrupt.get(&key).is_some_and(|until| *until > self.now) {
            return !self.dice.calm;
        }
        let who = Who::board(board);
        let now = self.happens(who, Chance::ImageDead);
        if now {
            let until = self.now + self.dice.between(who, Pick::Duration, 60_000, 3_600_000);
            self.corrupt.insert(key, until);
        }
        now
    }

    /// Sends all results that are not acknowledged, and again later.
    pub(super) fn send(&mut self, id: usize) {
        let agent = &self.agents[id];
        if !agent.alive || !agent.connected {
            return;
        }
        let open = agent.results.iter().filter(|(_, (_, acknowledged))| !acknowledged);
        let results: Vec<(u64, Outcome)> =
            open.map(|(step, (outcome, _))| (*step, outcome.clone())).collect();
        if results.is_empty() {
            return;
        }
        let who = self.who(id);
        for (step, outcome) in results {
            let event = self.agent_event(id, Report::Done { step, outcome });
            let slow = self.happens(who, Chance::MessageReordered);
            let delay = self.dice.between(who, Pick::Network, 1, if slow { 8_000 } else { 30 });
            self.at(delay, Happening::Late(Box::new(event)));
        }
        if !std::mem::replace(&mut self.agents[id].sending, true) {
            self.at(5_000, Happening::Send(id));
        }
    }

    /// Time to send again what is not acknowledged.
    pub(super) fn send_again(&mut self, id: usize) {
        self.agents[id].sending = false;
        self.send(id);
    }
}

pub(super) fn hash_hex(key: &str) -> String {
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
