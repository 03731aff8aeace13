//! The agent on the machine: it attaches, works, says so, and gets lost.

use crate::action::{Arrival, Death, Finish};
use crate::daemon::Heard;
use crate::fault::Fault;
use crate::oracle::ENROLLED;
use crate::world::{Agent, Board, Credentials, DiskTruth, Link, Token, World};
use pitstop_core::effect::Boot;
use pitstop_core::event::{Answer, Event, Report};
use pitstop_wire::agent::{
    AgentKind, DiskProof, Hardware, Hello, ImageMode, ImageWork, Outcome, SeenDisk, Welcome, Work,
};
use std::collections::BTreeMap;

/// Size of the disk in bytes.
pub(crate) const DISK: u64 = 1 << 20;

impl World {
    /// A system comes up: our agent, or what is on the disk.
    pub(crate) fn boot(&mut self, boot: Boot, credentials: Option<Credentials>) {
        let (kind, credentials) = match boot {
            Boot::Agent => (AgentKind::Boot, credentials),
            Boot::Disk | Boot::AsIs => (AgentKind::Host, self.board.boot_disk()),
        };
        let number = self.board.boots;
        self.agent = credentials.map(|credentials| Agent {
            kind,
            credentials,
            boot_id: format!("boot-{number}"),
            key: Token::new(format!("key-{number}")),
            attached: false,
            link: Link::Dialling,
            doing: None,
            results: BTreeMap::new(),
            slow: false,
        });
    }

    /// The agent's process ends with its machine's power, or its boot.
    pub(crate) fn stop_agent(&mut self) {
        if let Some(agent) = self.agent.take().filter(|a| a.link == Link::Up) {
            self.lost(&agent);
        }
    }

    /// Its connection is gone, and the daemon notices at once. To die of that
    /// is to die later: nothing leaves.
    fn lost(&mut self, agent: &Agent) {
        let event = self.from(agent, Report::Lost);
        self.report(event, Death::None);
    }

    fn from(&self, agent: &Agent, report: Report) -> Event {
        Event::Agent {
            machine: self.setting.machine.clone(),
            nonce: agent.credentials.nonce.clone(),
            boot_id: agent.boot_id.clone(),
            report,
        }
    }

    /// Whether the agent has something to do now.
    pub(crate) fn agent_acts(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| {
            let says = match agent.link {
                Link::Dialling => self.up,
                Link::Up => self.up && !agent.results.is_empty(),
                Link::Over => false,
            };
            says || agent.doing.is_some()
        })
    }

    pub(crate) fn slow_agent(&mut self) -> bool {
        if let Some(agent) = &mut self.agent {
            agent.slow = true;
        }
        self.faults.spend(Fault::Slow)
    }

    pub(crate) fn hello(&mut self, arrival: Arrival, death: Death) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        agent.slow = false;
        // Its place is ready before it asks: what the answer's own step says
        // to it finds it.
        agent.link = Link::Up;
        let (hello, resumes) = (agent.hello(self.setting.machine.clone()), agent.attached);
        if arrival != Arrival::Prompt {
            if !self.faults.spend(Fault::Stray) {
                return false;
            }
            self.strays.push(Event::Hello(hello.clone()));
        }
        let heard = self.deliver(Event::Hello(hello), death);
        let Some(agent) = &mut self.agent else { return false };
        match heard {
            Heard::Same => return false,
            Heard::Answer(Answer::Welcome(Welcome::Accepted { rejoin, .. })) => {
                agent.attached = true;
                if let Some(token) = rejoin {
                    self.board.rejoin = Some(Token::new(token.0));
                }
            }
            Heard::Answer(_) => agent.link = Link::Over,
            // No answer: was it committed? It tries both, in turn.
            Heard::Nothing => agent.attached = !resumes,
        }
        true
    }

    /// Told to do something, it begins.
    pub(crate) fn begin(&mut self, step: u64, work: Work) {
        if let Work::Image(image) = &work
            && image.mode == ImageMode::Write
            && self.board.is_meant(image)
        {
            self.board.disk.partial = true;
            self.is_enrolled();
        }
        if let Some(agent) = &mut self.agent {
            agent.doing = Some((step, work));
        }
    }

    pub(crate) fn finish(&mut self, finish: Finish, death: Death) -> bool {
        let Some((step, work)) = self.agent.as_mut().and_then(|a| a.doing.take()) else { return false };
        let paid = match finish {
            Finish::Done(_) => true, // `arrive` takes its own
            Finish::Unheard => self.faults.spend(Fault::Cut),
            Finish::Broken => matches!(work, Work::Image(_)) && self.faults.spend(Fault::DiskError),
        };
        let outcome = match finish {
            Finish::Broken => Outcome::Failed { reason: "input/output error".into(), image: false },
            _ => self.board.work(work),
        };
        let Some(agent) = self.agent.as_mut().filter(|_| paid) else { return false };
        agent.slow = false;
        agent.results.insert(step, outcome.clone());
        let agent = agent.clone();
        let report = self.from(&agent, Report::Done { step, outcome });
        if agent.link != Link::Up || !self.up {
            return death == Death::None;
        }
        match finish {
            Finish::Unheard => self.break_link(),
            Finish::Done(arrival) => self.arrive(report, arrival, death),
            Finish::Broken => self.report(report, death),
        }
    }

    pub(crate) fn repeat(&mut self, death: Death) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        agent.slow = false;
        let Some((step, outcome)) = agent.results.first_key_value().map(|(s, o)| (*s, o.clone())) else {
            return false;
        };
        let agent = agent.clone();
        self.report(self.from(&agent, Report::Done { step, outcome }), death)
    }

    pub(crate) fn stray(&mut self, index: usize, death: Death) -> bool {
        let event = self.strays.remove(index);
        self.report(event, death)
    }

    pub(crate) fn cut(&mut self) -> bool {
        self.faults.spend(Fault::Cut) && self.break_link()
    }

    fn break_link(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        agent.link = Link::Dialling;
        let agent = agent.clone();
        self.lost(&agent);
        true
    }

    pub(crate) fn reboot(&mut self) -> bool {
        let Some((boot, credentials)) = self.board.last.clone() else { return false };
        self.stop_agent();
        self.power_up(boot, credentials);
        self.faults.spend(Fault::Reboot)
    }

    /// Somebody at the bench, who told nobody.
    pub(crate) fn swap(&mut self) -> bool {
        self.board.disk = DiskTruth::default();
        (self.board.seed, self.board.rejoin, self.board.swapped) = (None, None, true);
        self.faults.spend(Fault::Swap)
    }

    /// The disk that is being written must be the one that was enrolled.
    fn is_enrolled(&mut self) {
        let baseline = self.row().and_then(|m| m.baseline.clone());
        let enrolled =
            baseline.as_ref().and_then(|b| b.facts.disks.first()).and_then(|d| d.serial.as_deref());
        let there = self.board.serial();
        if let Some(enrolled) = enrolled.filter(|serial| *serial != there) {
            let text = format!("disk {there} is written, and {enrolled} was enrolled");
            self.is_wrong(ENROLLED, text);
        }
    }

    /// The world has it that whoever holds the machine runs his system on it,
    /// from then on until it is off or our agent is booted.
    pub(crate) fn settle_tenants(&mut self) {
        if let Some(id) = self.holder() {
            self.board.tenant = Some(id);
        } else if !self.board.on {
            self.board.tenant = None;
        }
        self.board.tenant_writes();
    }
}

impl Agent {
    fn hello(&self, machine: pitstop_wire::MachineName) -> Hello {
        let (protocol, version) = ((1, 1), "model".to_owned());
        let (nonce, boot_id) = (self.credentials.nonce.clone(), self.boot_id.clone());
        if self.attached {
            let key = self.key.secret.clone();
            return Hello::Resume { protocol, version, machine, nonce, boot_id, key };
        }
        let (kind, token) = (self.kind, self.credentials.token.secret.clone());
        let key_hash = self.key.hex();
        Hello::Attach { protocol, version, kind, machine, nonce, boot_id, token, key_hash }
    }
}

impl Token {
    /// The hash as an agent sends it.
    fn hex(&self) -> String {
        let value = serde_json::to_value(self.hash).unwrap_or_default();
        value.as_str().map(str::to_owned).unwrap_or_default()
    }
}

impl Board {
    /// The tenant's system runs and writes.
    pub(crate) fn tenant_writes(&mut self) {
        if let Some(id) = self.tenant.filter(|_| self.on) {
            self.disk.tenants.insert(id);
            self.disk.touched = true;
        }
    }

    /// What is on the disk boots, writes to it, and may have a host agent.
    fn boot_disk(&mut self) -> Option<Credentials> {
        if !self.disk.boots() {
            return None;
        }
        self.disk.touched = true;
        let seed = self.seed.clone()?;
        Some(match &self.rejoin {
            Some(token) => Credentials { token: token.clone(), ..seed },
            None => seed,
        })
    }

    /// The serial number of its disk.
    pub(crate) fn serial(&self) -> &'static str {
        if self.swapped { "another" } else { "own" }
    }

    /// Whether that is the number which the disk is to have.
    fn is_meant(&self, work: &ImageWork) -> bool {
        work.find.serial.as_deref().is_none_or(|serial| serial == self.serial())
    }

    fn work(&mut self, work: Work) -> Outcome {
        match work {
            Work::Look => {
                let serial = Some(self.serial().to_owned());
                let (path, bus) = ("/disk".into(), "sim".into());
                let disk = SeenDisk { path, bytes: DISK, serial, bus, ..SeenDisk::default() };
                Outcome::Seen(Box::new(Hardware { disks: vec![disk], ..Hardware::default() }))
            }
            Work::Image(image) => self.image(&image),
            Work::Seed { params, .. } => {
                (self.seed, self.rejoin) = (Some(params.into()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        }
    }

    fn image(&mut self, work: &ImageWork) -> Outcome {
        if !self.is_meant(work) {
            return Outcome::Failed { reason: "no disk has that serial number".into(), image: false };
        }
        if work.mode == ImageMode::Write {
            self.disk = DiskTruth { base: work.digest.clone(), ..DiskTruth::default() };
            self.seed = None;
            self.rejoin = None;
        }
        let disk = &self.disk;
        if disk.base != work.digest || disk.partial || disk.touched {
            return Outcome::Differs { at: "somewhere".into() };
        }
        Outcome::Proven(proof(work.digest.clone(), self.serial()))
    }
}

fn proof(digest: Option<String>, serial: &str) -> DiskProof {
    DiskProof {
        path: "/disk".into(),
        serial: Some(serial.to_owned()),
        device_bytes: DISK,
        digest,
        read_bytes: DISK,
        image_bytes: DISK / 2,
        zero_bytes: DISK / 2,
        written_bytes: DISK,
        erase: "write".into(),
        took_ms: 1,
    }
}
