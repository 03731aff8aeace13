//! Hardware that obeys, and agents that speak for it.

use super::{Bench, Board, DISK, hex_of, name};
use crate::effect::{Boot, Effect};
use crate::event::{Answer, BootAnswer, Event, Fact, ProgramTrouble, ReadBack, Report};
use crate::id::{Epoch, IntentId};
use crate::inventory::model::MachineSpec;
use crate::machine::{Phase, Reading, Switch};
use crate::record::Change;
use crate::time::LabTime;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, AgentParams, DiskProof, Hardware, Hello, ImageMode, ImageWork, Outcome, Secret, SeenDisk,
    ToAgent, Welcome, Work,
};

/// A power command that left.
pub(crate) struct Command {
    pub machine: MachineName,
    pub leg: usize,
    pub intent: IntentId,
    pub want: Switch,
    pub boot: Boot,
}

impl Command {
    /// What its runner reports.
    pub fn done(&self, result: Result<Reading, String>, witnessed: bool) -> Fact {
        let (machine, leg, intent, want) = (self.machine.clone(), self.leg, self.intent, self.want);
        Fact::Power { machine, leg, intent, want, result, witnessed }
    }
}

impl Bench {
    /// Obeys until nothing is left to be done.
    pub fn obey(&mut self) {
        for _ in 0..1_000 {
            if !self.obey_next() {
                return;
            }
        }
        let last: Vec<&Change> = self.changes().collect::<Vec<_>>().into_iter().rev().take(12).collect();
        panic!("it goes on for ever without time passing; the newest first: {last:#?}");
    }

    /// Obeys until a machine is in a phase, with what it asks for still to
    /// be done.
    pub fn obey_until(&mut self, machine: &str, phase: impl Fn(&Phase) -> bool) {
        for _ in 0..1_000 {
            if self.machine(machine).turn().is_some_and(|t| phase(&t.phase)) {
                return;
            }
            if !self.obey_next() {
                self.pass_to_deadline();
            }
        }
        panic!("{machine} never came to that phase: {:?}", self.machine(machine).stage);
    }

    fn pass_to_deadline(&mut self) {
        let next = self.lab.next_deadline().expect("nothing is due, nothing can happen");
        self.pass(next.0.saturating_sub(self.now));
    }

    /// Obeys the oldest effect; whether there was one.
    pub fn obey_next(&mut self) -> bool {
        let Some((epoch, effect)) = self.effects.pop_front() else { return false };
        match effect {
            Effect::Power { machine, leg, intent, want, boot, .. } => {
                self.obey_power(epoch, &Command { machine, leg, intent, want, boot });
            }
            Effect::Observe { machine, leg } => {
                let reading = self.reading(&machine, leg);
                self.fact(epoch, Fact::Read { machine, leg, asked: LabTime(self.now), reading });
            }
            Effect::Tell { machine, message: ToAgent::Do { step, work }, .. } => {
                let outcome = self.work(&machine, &work);
                self.report(machine.as_str(), Report::Done { step, outcome });
            }
            Effect::Check { machine, nonce, .. } => {
                let result = self.quirks.sick.map_or(Ok(()), |said| Err(said.to_owned()));
                self.fact(epoch, Fact::Checked { machine, nonce, result });
            }
            Effect::Witness { machine, turn, .. } => {
                self.fact(epoch, Fact::Witnessed { machine, turn, result: Ok("READY".into()) });
            }
            Effect::Act { machine, intent, act, .. } => {
                self.fact(epoch, Fact::Acted { machine, intent, act, begun: true, result: Ok(()) });
            }
            Effect::Hook { machine, intent, nonce, point, hook, fill, .. } => {
                self.hooks.push((point, hook.clone(), fill));
                let said = self.quirks.hooks.iter().find(|(bad, _)| *bad == hook).map(|(_, said)| *said);
                let no =
                    |said: &str| ProgramTrouble { lab: said.starts_with("lab: "), text: said.to_owned() };
                let result = said.map_or(Ok(()), |said| Err(no(said)));
                self.fact(epoch, Fact::Hooked { machine, intent, nonce, over: true, result });
            }
            Effect::Program { machine, intent, nonce, image, write, .. } => {
                let result = self.program(&machine, &image, write);
                self.fact(epoch, Fact::Programmed { machine, intent, nonce, over: true, result });
            }
            Effect::Stop { machine, intent } => self.fact(epoch, Fact::Gone { machine, intent }),
            Effect::Tell { .. } | Effect::Dismiss { .. } => {}
        }
        true
    }

    /// The programmer of a board writes its flash, and reads it back.
    fn program(
        &mut self,
        machine: &MachineName,
        image: &str,
        write: bool,
    ) -> Result<Option<ReadBack>, ProgramTrouble> {
        if let Some((lab, text)) = self.quirks.programmer {
            return Err(ProgramTrouble { lab, text: text.to_owned() });
        }
        if write {
            self.board(machine).disks[0] = Some(Some(image.to_owned()));
        }
        if self.board(machine).disks[0] != Some(Some(image.to_owned())) {
            return Err(ProgramTrouble { lab: false, text: "differs at byte 0".to_owned() });
        }
        let reads = self.inventory.machines.get(machine).is_some_and(MachineSpec::reads_back);
        Ok(reads.then(|| ReadBack { by: "read on bench1".into(), image_bytes: DISK, read_bytes: DISK + 4 }))
    }

    /// Takes the oldest power command away, for a test that answers itself.
    pub fn take_power(&mut self) -> Command {
        loop {
            let (_, effect) = self.effects.pop_front().expect("no power command is waiting");
            if let Effect::Power { machine, leg, intent, want, boot, .. } = effect {
                return Command { machine, leg, intent, want, boot };
            }
        }
    }

    /// Power commands that wait to be obeyed.
    pub fn power_waiting(&self) -> Vec<Switch> {
        let power = |e: &Effect| match e {
            Effect::Power { want, .. } => Some(*want),
            _ => None,
        };
        self.effects.iter().filter_map(|(_, e)| power(e)).collect()
    }

    /// The machine does what it was told, and its runner says so.
    pub fn obey_power(&mut self, epoch: Epoch, command: &Command) {
        let Command { machine, leg, want, boot, .. } = command;
        if *want == Switch::On && self.board(machine).mute {
            return;
        }
        if *boot == Boot::Agent && *want == Switch::On {
            match self.boot_request(machine.as_str(), true) {
                BootAnswer::Agent(params) => self.board(machine).params = Some(params),
                other => return self.fact(epoch, command.done(Err(format!("{other:?}")), false)),
            }
        }
        let was = self.board(machine).legs.iter().all(|on| *on);
        self.board(machine).legs[*leg] = *want == Switch::On;
        let is = self.board(machine).legs.iter().all(|on| *on);
        let blind = !self.readable(machine, *leg);
        let reading = if blind { Reading::Assumed(*want) } else { self.reading(machine, *leg) };
        if was && !is {
            self.lost(machine.as_str());
        }
        self.fact(epoch, command.done(Ok(reading), !blind));
        if is && !was {
            self.boot(machine, *boot);
        }
    }

    /// Answers a power command taken with [`Self::take_power`].
    pub fn answer_power(&mut self, taken: &Command, result: Result<Reading, &str>, witnessed: bool) {
        let epoch = self.lab.meta().epoch;
        self.fact(epoch, taken.done(result.map_err(str::to_owned), witnessed));
    }

    pub fn fact(&mut self, epoch: Epoch, fact: Fact) {
        self.event(Event::Fact { epoch, fact });
    }

    /// Power is read, and the answer arrives at once.
    pub fn read(&mut self, machine: &str, leg: usize, reading: Reading) {
        let fact = Fact::Read { machine: name(machine), leg, asked: LabTime(self.now), reading };
        self.fact(self.lab.meta().epoch, fact);
    }

    fn readable(&self, machine: &MachineName, leg: usize) -> bool {
        self.inventory.machines.get(machine).is_none_or(|m| m.legs[leg].readback)
    }

    fn reading(&self, machine: &MachineName, leg: usize) -> Reading {
        if !self.readable(machine, leg) {
            return Reading::Unknown;
        }
        if self.boards[machine].legs[leg] { Reading::On } else { Reading::Off }
    }

    pub fn board(&mut self, machine: &MachineName) -> &mut Board {
        self.boards.get_mut(machine).unwrap()
    }

    /// What the machine does when it comes on: its agent attaches.
    fn boot(&mut self, machine: &MachineName, boot: Boot) {
        let board = self.board(machine);
        board.boots += 1;
        if board.dead {
            return;
        }
        match boot {
            Boot::Agent => {
                let params = self.board(machine).params.clone().unwrap();
                let welcome = self.attach(AgentKind::Boot, &params);
                assert!(matches!(welcome, Welcome::Accepted { .. }), "{welcome:?}");
            }
            Boot::Disk | Boot::AsIs => self.boot_disk(machine),
        }
    }

    /// The disk's own system comes up with the seed, or with the rejoin
    /// token it was given before.
    fn boot_disk(&mut self, machine: &MachineName) {
        let Some(mut params) = self.board(machine).seed.clone() else { return };
        let holds = self.board(machine).disks.first().cloned().flatten().flatten();
        if self.quirks.no_boot.is_some() && self.quirks.no_boot == holds.as_deref() {
            return;
        }
        if let Some(token) = self.board(machine).rejoin.clone() {
            params.token = token;
        }
        if let Welcome::Accepted { rejoin: Some(token), .. } = self.attach(AgentKind::Host, &params) {
            self.board(machine).rejoin = Some(token);
        }
    }

    /// The tenant reboots his machine.
    pub fn tenant_reboots(&mut self, machine: &str) {
        self.lost(machine);
        self.board(&name(machine)).boots += 1;
        self.boot_disk(&name(machine));
    }

    pub fn boot_id(&self, machine: &str) -> String {
        format!("{machine}-{}", self.boards[&name(machine)].boots)
    }

    /// The session key of the machine's present boot.
    pub fn key(&self, machine: &str) -> Secret {
        Secret(format!("key of {}", self.boot_id(machine)))
    }

    pub fn hello_of(&self, kind: AgentKind, params: &AgentParams) -> Hello {
        let machine = params.machine.clone();
        Hello::Attach {
            protocol: (1, 1),
            version: "bench".into(),
            kind,
            boot_id: self.boot_id(machine.as_str()),
            key_hash: hex_of(&self.key(machine.as_str()).0),
            nonce: params.nonce.clone(),
            token: params.token.clone(),
            machine,
        }
    }

    pub fn attach(&mut self, kind: AgentKind, params: &AgentParams) -> Welcome {
        let hello = self.hello_of(kind, params);
        self.hello(hello)
    }

    pub fn hello(&mut self, hello: Hello) -> Welcome {
        match self.event(Event::Hello(hello)) {
            Answer::Welcome(welcome) => welcome,
            other => panic!("a hello was answered with {other:?}"),
        }
    }

    /// The agent of the machine comes back after a lost connection.
    pub fn resume(&mut self, machine: &str) -> Welcome {
        let hello = self.resume_of(machine);
        self.hello(hello)
    }

    pub fn resume_of(&self, machine: &str) -> Hello {
        Hello::Resume {
            protocol: (1, 1),
            version: "bench".into(),
            machine: name(machine),
            nonce: self.machine(machine).agent.as_ref().map(|a| a.nonce.clone()).unwrap_or_default(),
            boot_id: self.boot_id(machine),
            key: self.key(machine),
        }
    }

    /// What a refused agent is told; it is in the history, too.
    pub fn refusal(&mut self, hello: Hello) -> String {
        let welcome = self.hello(hello);
        let Welcome::Refused { reason, retry: false } = welcome else { panic!("{welcome:?}") };
        let recorded =
            self.changes().any(|c| matches!(c, Change::AgentRefused { reason: r, .. } if *r == reason));
        assert!(recorded, "nobody wrote down that an agent was refused: {reason}");
        reason
    }

    pub fn report(&mut self, machine: &str, report: Report) {
        let row = self.lab.machine(&name(machine)).cloned();
        let Some(agent) = row.and_then(|m| m.agent.clone()) else { return };
        let (nonce, boot_id) = (agent.nonce, agent.boot_id);
        self.event(Event::Agent { machine: name(machine), nonce, boot_id, report });
    }

    /// The agent's connection breaks.
    pub fn lost(&mut self, machine: &str) {
        self.report(machine, Report::Lost);
    }

    pub fn boot_request(&mut self, machine: &str, lane: bool) -> BootAnswer {
        match self.event(Event::BootRequest { machine: name(machine), lane }) {
            Answer::Boot(answer) => answer,
            other => panic!("a boot request was answered with {other:?}"),
        }
    }

    fn work(&mut self, machine: &MachineName, work: &Work) -> Outcome {
        match work {
            Work::Look => Outcome::Seen(Box::new(
                self.quirks.hardware.clone().unwrap_or_else(|| self.hardware(machine)),
            )),
            Work::Image(image) => self.image_work(machine, image),
            Work::Seed { params, .. } => {
                let board = self.board(machine);
                (board.seed, board.rejoin) = (Some(params.clone()), None);
                Outcome::Seeded
            }
            Work::Serve => Outcome::Serving,
        }
    }

    pub fn hardware(&self, machine: &MachineName) -> Hardware {
        let disks = &self.inventory.machines.get(machine).map_or(0, |s| s.disks.len());
        let disk = |n| SeenDisk {
            path: format!("/dev/{n}"),
            bytes: DISK,
            serial: None,
            bus: "sim".into(),
            ..SeenDisk::default()
        };
        Hardware { disks: (0..*disks).map(disk).collect(), ..Hardware::default() }
    }

    fn image_work(&mut self, machine: &MachineName, work: &ImageWork) -> Outcome {
        if let Some(answer) = self.quirks.image {
            return answer(work);
        }
        let Some(spec) = self.inventory.machines.get(machine) else {
            return Outcome::Failed { reason: "the machine is not in the inventory".into(), image: false };
        };
        let index = spec.disks.iter().position(|d| d.name == work.disk).expect("a disk that is not declared");
        // What is plugged in, where a test says so.
        let there = self.quirks.hardware.as_ref().and_then(|h| h.disks.get(index)?.serial.clone());
        if there.is_some() && work.find.serial.is_some() && work.find.serial != there {
            return Outcome::Failed { reason: "no disk fits".into(), image: false };
        }
        let held = &mut self.boards.get_mut(machine).unwrap().disks[index];
        if work.mode == ImageMode::Verify && *held != Some(work.digest.clone()) {
            return Outcome::Differs { at: "byte 0".into() };
        }
        *held = Some(work.digest.clone());
        let mut proof = DiskProof { serial: there, ..proof(index, work) };
        if let Some(spoil) = self.quirks.spoil {
            spoil(&mut proof);
        }
        Outcome::Proven(proof)
    }
}

/// A proof with nothing missing.
fn proof(disk: usize, work: &ImageWork) -> DiskProof {
    let image_bytes = if work.digest.is_some() { DISK / 2 } else { 0 };
    DiskProof {
        path: format!("/dev/{disk}"),
        serial: None,
        device_bytes: DISK,
        digest: work.digest.clone(),
        read_bytes: DISK,
        image_bytes,
        zero_bytes: DISK - image_bytes,
        written_bytes: if work.mode == ImageMode::Write { DISK } else { 0 },
        erase: "write".into(),
        took_ms: 1,
    }
}
