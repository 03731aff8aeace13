//! Agents: who may attach, who may come back, and what their results mean.

use super::Step;
use crate::effect::Effect;
use crate::event::{Answer, Report};
use crate::fence::Fence;
use crate::id::{AttemptNo, ReservationId, SecretHash};
use crate::inventory::model::DiskMatch;
use crate::lab::Calls;
use crate::machine::{Agent, Attempt, Certificate, Content, Disk, FailureClass, Machine, Phase, Stage, Turn};
use crate::record::{Actor, Change};
use crate::reservation::CleanLevel;
use crate::step::turn::target;
use pitstop_wire::MachineName;
use pitstop_wire::agent::{
    AgentKind, DiskProof, HEARTBEAT_MS, Hello, Outcome, PROTOCOL, Secret, ToAgent, Welcome,
};

/// What an attach claims.
struct Claim {
    protocol: (u32, u32),
    version: String,
    kind: AgentKind,
    nonce: String,
    boot_id: String,
    token: Secret,
    key_hash: String,
}

/// Most calls in the name of one machine that leave a record, per minute: by
/// agents that are let in, and by others. An agent that reconnects as fast as
/// it may calls less often.
const CALLS_PER_MINUTE: u32 = 60;

/// Why an agent is not let in.
enum No {
    /// It never will be.
    Ever(String),
    /// It may call again.
    Now(String),
}

impl From<&str> for No {
    fn from(reason: &str) -> Self {
        Self::Ever(reason.to_owned())
    }
}

impl From<String> for No {
    fn from(reason: String) -> Self {
        Self::Ever(reason)
    }
}

/// Longest text taken from an agent for a short field, in bytes.
const SHORT: usize = 128;

impl Step<'_> {
    pub(crate) fn hello(&mut self, hello: Hello) -> Answer {
        let name = hello.machine().clone();
        self.actor = Actor::Machine(name.clone());
        let verdict = match hello {
            Hello::Attach { protocol, version, kind, nonce, boot_id, token, key_hash, .. } => {
                let claim = Claim { protocol, version, kind, nonce, boot_id, token, key_hash };
                self.attach(&name, &claim)
            }
            Hello::Resume { protocol, nonce, boot_id, key, .. } => {
                self.resume(&name, protocol, &nonce, &boot_id, &key)
            }
        };
        Answer::Welcome(match verdict {
            Ok(rejoin) => Welcome::Accepted {
                protocol: PROTOCOL,
                heartbeat_ms: HEARTBEAT_MS,
                rejoin: rejoin.map(Secret),
            },
            Err(No::Now(reason)) => Welcome::Refused { reason, retry: true },
            Err(No::Ever(reason)) => {
                // Whoever knows a machine's name can call: he must fill
                // neither the history nor the place of its own agent.
                if self.lab.machines.contains_key(&name)
                    && self.counted(&name, |calls| &mut calls.refused) <= CALLS_PER_MINUTE
                {
                    self.heard_of(&name);
                    self.change(Change::AgentRefused { machine: name, reason: reason.clone() });
                }
                Welcome::Refused { reason, retry: false }
            }
        })
    }

    /// Counts one more call; how many there were in this minute.
    fn counted(&mut self, name: &MachineName, kind: fn(&mut Calls) -> &mut u32) -> u32 {
        let now = self.now();
        let calls = self.lab.calls.entry(name.clone()).or_default();
        if calls.since + 60_000 <= now {
            *calls = Calls { since: now, ..Calls::default() };
        }
        let count = kind(calls);
        *count = count.saturating_add(1);
        *count
    }

    /// An agent that has shown what it had to is let in, unless it comes all
    /// the time: its tenant may be root there.
    fn not_too_often(&mut self, name: &MachineName) -> Result<(), No> {
        if self.counted(name, |calls| &mut calls.let_in) > CALLS_PER_MINUTE {
            return Err(No::Now(format!("more than {CALLS_PER_MINUTE} calls in a minute")));
        }
        Ok(())
    }

    /// Takes a first contact, or says why not.
    fn attach(&mut self, name: &MachineName, claim: &Claim) -> Result<Option<String>, No> {
        speaks(claim.protocol, &claim.version)?;
        let machine = self.machine(name).ok_or("there is no such machine")?;
        let key = SecretHash::from_hex(&claim.key_hash).ok_or("the session key's hash is no SHA-256")?;
        if claim.boot_id.is_empty() || claim.boot_id.len() > SHORT || claim.version.len() > SHORT {
            return Err("boot id or version is missing or too long".into());
        }
        if let Some(agent) = &machine.agent
            && agent.kind == AgentKind::Host
            && runs_image(&machine.stage)
        {
            return self.rejoin(name, agent, claim, key);
        }
        let attempt = machine.turn().and_then(|t| t.attempt.as_ref());
        let attempt = attempt.ok_or("the machine waits for no agent")?.clone();
        self.check_claim(name, &machine, &attempt, claim)?;
        self.not_too_often(name)?;
        let host = claim.kind == AgentKind::Host;
        let rejoin = host.then(|| self.token());
        let agent = Agent {
            kind: claim.kind,
            version: claim.version.clone(),
            nonce: claim.nonce.clone(),
            boot_id: claim.boot_id.clone(),
            key,
            rejoin: rejoin.iter().map(|t| SecretHash::of(t)).collect(),
            lost: None,
            excused: false,
        };
        let spent = Some(SecretHash::of(&claim.token.0));
        self.change(Change::AgentAttached { machine: name.clone(), agent, spent });
        if host {
            self.phase_done(name);
        } else {
            self.tell_step(name, pitstop_wire::agent::Work::Look, "look");
        }
        Ok(rejoin)
    }

    fn check_claim(
        &mut self,
        name: &MachineName,
        machine: &Machine,
        attempt: &Attempt,
        claim: &Claim,
    ) -> Result<(), String> {
        let hash = SecretHash::of(&claim.token.0);
        let elsewhere = || {
            let expects = |m: &Machine| {
                m.turn().and_then(|t| t.attempt.as_ref()).is_some_and(|a| {
                    a.expect.as_ref().is_some_and(|e| e.token == hash) || a.spent.contains(&hash)
                })
            };
            self.lab.machines.values().any(|m| m.name != *name && expects(m))
        };
        if elsewhere() {
            return Err("the token belongs to another machine".into());
        }
        if attempt.nonce != claim.nonce && self.fence(Fence::Nonce) {
            return Err("the nonce is not this attempt's: an agent of an earlier boot".into());
        }
        if attempt.spent.contains(&hash) {
            // The right token a second time: either it was overheard, or the
            // machine rebooted in the middle. Both end this attempt.
            let rebooted = machine.agent.as_ref().is_some_and(|a| a.boot_id != claim.boot_id);
            if rebooted && claim.kind == AgentKind::Boot {
                self.fail_phase(
                    name,
                    FailureClass::Agent,
                    "the machine booted again in the middle of its attempt",
                );
            }
            return Err("the token was already used".into());
        }
        let fits = |e: &crate::machine::Expect| e.kind == claim.kind && e.token.matches(&claim.token.0);
        if !attempt.expect.as_ref().is_some_and(fits) && self.fence(Fence::Nonce) {
            return Err("the token does not open this attempt".into());
        }
        if !machine.turn().is_some_and(|t| t.phase.awaits_attach()) {
            return Err("the machine waits for no agent now".into());
        }
        Ok(())
    }

    /// The tenant booted the machine: still his, still the same image.
    fn rejoin(
        &mut self,
        name: &MachineName,
        agent: &Agent,
        claim: &Claim,
        key: SecretHash,
    ) -> Result<Option<String>, No> {
        if claim.kind != AgentKind::Host || agent.nonce != claim.nonce {
            return Err("the nonce is not this hand-over's".into());
        }
        if !agent.rejoin.iter().any(|r| r.matches(&claim.token.0)) {
            return Err("the token was already used, or is not this hand-over's".into());
        }
        if agent.boot_id == claim.boot_id {
            return Err("this boot has attached already".into());
        }
        self.not_too_often(name)?;
        let agent = Agent {
            boot_id: claim.boot_id.clone(),
            version: claim.version.clone(),
            key,
            lost: None,
            excused: false,
            ..agent.clone()
        };
        self.change(Change::AgentAttached { machine: name.clone(), agent, spent: None });
        if self.turn(name).is_some_and(|t| t.phase == Phase::Check) {
            self.fail_phase(name, FailureClass::Health, "the machine booted again during its health check");
        }
        Ok(None)
    }

    fn resume(
        &mut self,
        name: &MachineName,
        protocol: (u32, u32),
        nonce: &str,
        boot_id: &str,
        key: &Secret,
    ) -> Result<Option<String>, No> {
        speaks(protocol, "")?;
        let machine = self.machine(name).ok_or("there is no such machine")?;
        let agent = machine.agent.as_ref().ok_or("there is no session: it is over, or was never opened")?;
        if agent.nonce != nonce {
            return Err("the nonce is not this session's: an agent of an earlier boot".into());
        }
        if agent.boot_id != boot_id {
            return Err("the session was opened by another boot".into());
        }
        if !agent.key.matches(&key.0) {
            return Err("the key does not open this session".into());
        }
        self.not_too_often(name)?;
        // The welcome that carried the last rejoin token may have been lost.
        let token = (agent.kind == AgentKind::Host).then(|| self.token());
        let rejoin = token.as_deref().map(SecretHash::of);
        self.change(Change::AgentResumed { machine: name.clone(), rejoin });
        self.resume_work(name, &machine);
        Ok(token)
    }

    /// What the agent was told last may never have reached it.
    fn resume_work(&mut self, name: &MachineName, machine: &Machine) {
        let Some(turn) = machine.turn() else { return };
        if turn.phase == Phase::Check {
            return self.begin_check(name);
        }
        let Some(attempt) = &turn.attempt else { return };
        if attempt.done >= attempt.step {
            return;
        }
        match self.open_work(name) {
            Some(work) => {
                let message = ToAgent::Do { step: attempt.step, work };
                self.effect(Effect::Tell { machine: name.clone(), nonce: attempt.nonce.clone(), message });
            }
            // The seed's token left with the first telling; a new one is
            // drawn, and the old one opens nothing any more.
            // No new deadline: a link that flaps must not hold the machine.
            None if turn.phase == Phase::Seed => self.begin_seed(name),
            None => {}
        }
    }

    pub(crate) fn report(&mut self, name: &MachineName, nonce: &str, boot_id: &str, report: Report) {
        let Some(machine) = self.machine(name) else { return };
        let Some(agent) = &machine.agent else { return };
        let own = agent.nonce == nonce && agent.boot_id == boot_id;
        if !own && self.fence(Fence::Nonce) {
            return;
        }
        match report {
            Report::Lost if own && agent.lost.is_none() => {
                self.change(Change::AgentLost { machine: name.clone() });
                // Perhaps its power went: whoever asks why is told, and a
                // failure is put down to it. Nothing is switched for that.
                for leg in 0..machine.legs.len() {
                    self.effect(Effect::Observe { machine: name.clone(), leg });
                }
            }
            Report::Lost => {}
            Report::Done { step, outcome } => self.step_done(name, &machine, step, outcome),
        }
    }

    fn step_done(&mut self, name: &MachineName, machine: &Machine, step: u64, outcome: Outcome) {
        let Some(turn) = machine.turn() else { return };
        let Some(attempt) = turn.attempt.as_ref().filter(|a| step <= a.step) else { return };
        let ack = Effect::Tell {
            machine: name.clone(),
            nonce: attempt.nonce.clone(),
            message: ToAgent::Ack { step },
        };
        self.effect(ack);
        if step <= attempt.done || step < attempt.step {
            return; // a repeat: it was obeyed once
        }
        self.change(Change::StepDone { machine: name.clone(), step });
        match (&turn.phase, outcome) {
            (Phase::BootAgent, Outcome::Seen(report)) => self.looked(name, machine, *report),
            // It lives in the memory of the boot that proved the disks.
            (Phase::AfterHooks, Outcome::Seen(_)) => self.phase_done(name),
            (Phase::Disk { disk, .. }, Outcome::Proven(proof)) => {
                self.disk_proven(name, machine, turn, *disk, proof);
            }
            (Phase::Disk { disk, writing: false }, Outcome::Differs { .. }) => {
                self.enter(name, Phase::Disk { disk: *disk, writing: true });
            }
            (Phase::Seed, Outcome::Seeded) | (Phase::Serve, Outcome::Serving) => self.phase_done(name),
            (phase, Outcome::Failed { reason, image }) => {
                let class = match phase {
                    _ if image => FailureClass::Image,
                    Phase::Disk { .. } | Phase::Seed => FailureClass::Disk,
                    _ => FailureClass::Agent,
                };
                self.fail_phase(name, class, &cut(&reason));
            }
            (_, other) => {
                let text = format!("the agent answered step {step} with {}", outcome_name(&other));
                self.fail_phase(name, FailureClass::Agent, &text);
            }
        }
    }

    pub(super) fn wants_clean(&self, id: ReservationId) -> bool {
        self.lab.reservations.get(&id).is_some_and(|r| r.ask.clean > CleanLevel::Any)
    }

    fn disk_proven(
        &mut self,
        name: &MachineName,
        machine: &Machine,
        turn: &Turn,
        disk: usize,
        proof: DiskProof,
    ) {
        let Some(attempt) = &turn.attempt else { return };
        let Some(spec) = self.disk_spec(name, disk) else {
            return self.fail_phase(name, FailureClass::Disk, "the disk is not in the inventory any more");
        };
        let wanted = target(turn, spec.content);
        let complete = complete(&proof, wanted.as_deref())
            .and_then(|()| right_device(&proof, &spec.matching, machine, attempt.number, disk))
            .and_then(|()| self.is_enrolled(name, disk, &proof));
        if let Err(missing) = complete {
            return self.fail_phase(name, FailureClass::Disk, &format!("the proof is incomplete: {missing}"));
        }
        debug_assert!(
            !self.fence(Fence::DiskBeforeEffect)
                || !matches!(machine.disks.get(disk).map(|d| &d.content), Some(Content::Used { .. })),
            "a used disk was proven without being marked for writing"
        );
        let certificate = Box::new(Certificate {
            digest: wanted,
            attempt: attempt.number,
            nonce: attempt.nonce.clone(),
            boot: self.spec(name).map(|s| s.boot.driver.clone()).unwrap_or_default(),
            at: self.now(),
            wall: self.moment.wall,
            proof,
        });
        let holds_image = certificate.digest.is_some();
        self.change(Change::DiskProven { machine: name.clone(), disk, certificate });
        if holds_image {
            self.image_worked(name, false);
        }
        self.phase_done(name);
    }
}

/// Whether the image was seen to run: from here on its reboots are its own.
/// An image that boots twice on a new disk does so while power settles.
fn runs_image(stage: &Stage) -> bool {
    match stage {
        Stage::Ready { .. } | Stage::InUse { .. } => true,
        Stage::Turn(turn) => matches!(turn.phase, Phase::Check | Phase::Settle),
        Stage::Free => false,
    }
}

/// Whether both sides have a protocol in common.
fn speaks((oldest, newest): (u32, u32), version: &str) -> Result<(), String> {
    if oldest <= PROTOCOL && PROTOCOL <= newest {
        return Ok(());
    }
    let version: String = version.chars().take(SHORT).collect();
    Err(format!("agent {version} speaks protocol {oldest} to {newest}, this daemon speaks {PROTOCOL}"))
}

/// Every item of a proof must be there and agree with the others; which one
/// does not is the answer.
fn complete(proof: &DiskProof, wanted: Option<&str>) -> Result<(), String> {
    if proof.digest.as_deref() != wanted {
        return Err(format!(
            "read back {}, wanted {}",
            proof.digest.as_deref().unwrap_or("zeroes"),
            wanted.unwrap_or("zeroes")
        ));
    }
    if proof.device_bytes == 0 {
        return Err("the device's size".into());
    }
    if proof.read_bytes != proof.device_bytes {
        return Err(format!("{} of {} bytes were read back", proof.read_bytes, proof.device_bytes));
    }
    if proof.image_bytes.checked_add(proof.zero_bytes) != Some(proof.device_bytes) {
        return Err(format!(
            "{} bytes of image and {} zero do not make {}",
            proof.image_bytes, proof.zero_bytes, proof.device_bytes
        ));
    }
    if wanted.is_none() && proof.image_bytes != 0 {
        return Err("an empty disk was expected".into());
    }
    Ok(())
}

/// The proof must be about the disk that was meant, and about no disk twice:
/// otherwise another one stays unproven.
fn right_device(
    proof: &DiskProof,
    meant: &DiskMatch,
    machine: &Machine,
    attempt: AttemptNo,
    disk: usize,
) -> Result<(), String> {
    let path = &proof.path;
    if path.is_empty() {
        return Err("the device's name".into());
    }
    if meant.serial.is_some() && meant.serial != proof.serial {
        return Err(format!("{path} does not have the serial number that the inventory gives"));
    }
    if meant.min.is_some_and(|min| proof.device_bytes < min)
        || meant.max.is_some_and(|max| proof.device_bytes > max)
    {
        return Err(format!("{path} is not as large as the inventory says"));
    }
    let seen = machine.hardware.iter().flat_map(|h| &h.disks).find(|d| d.path == *path);
    if seen.is_some_and(|d| d.bytes != proof.device_bytes) {
        return Err(format!("{path} is not as large as it was seen to be"));
    }
    let again = |(other, row): (usize, &Disk)| match &row.content {
        Content::Proven(c) => other != disk && c.attempt == attempt && c.proof.path == *path,
        _ => false,
    };
    match machine.disks.iter().enumerate().any(again) {
        true => Err(format!("{path} was proven as another disk already")),
        false => Ok(()),
    }
}

/// Words from a machine, cut to a length that does no harm.
pub(super) fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(2_000).collect()
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Seen(_) => "its hardware",
        Outcome::Proven(_) => "a proof",
        Outcome::Differs { .. } => "a difference",
        Outcome::Seeded => "a seed",
        Outcome::Serving => "serving",
        Outcome::Failed { .. } => "a failure",
    }
}
