//! Records: the history of the lab, and the only way it changes.
//!
//! A [`Change`] is one thing that became true. The lab's rows are the fold
//! of all changes (`Lab::apply` is the only code that touches a
//! row), so history and state cannot disagree; the simulator checks it.

mod about;

use crate::facts::Baseline;
use crate::id::{AttemptNo, Epoch, IntentId, RecordNo, ReservationId, SecretHash};
use crate::inventory::Point;
use crate::inventory::model::{DiskSpec, LegSpec, MachineSpec};
use crate::machine::{
    Agent, Certificate, CommandProof, DiskPlan, Failure, FailureClass, Goal, Health, ImageRef, Intent, Job,
    Phase, Purpose, Reading,
};
use crate::reservation::{Ask, End};
use crate::saying::Saying;
use crate::time::{LabTime, WallMs};
use pitstop_wire::agent::{AgentKind, Hardware};
use pitstop_wire::{MachineName, UserName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One change with when, who and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub number: RecordNo,
    /// Lab time.
    pub at: LabTime,
    /// Wall time.
    pub wall: WallMs,
    /// The daemon that decided it.
    pub epoch: Epoch,
    /// Who caused it.
    pub actor: Actor,
    /// What became true.
    pub change: Change,
}

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "by", content = "name", rename_all = "lowercase")]
pub enum Actor {
    /// A person or CI, by name.
    User(UserName),
    /// A machine's agent or boot request.
    Machine(MachineName),
    /// A driver's fact.
    Driver,
    /// A deadline.
    Time,
    /// The daemon starting, or the queue.
    Lab,
}

/// A leg or disk as the inventory declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPart")]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What it is behind that name: [`crate::machine::Leg::identity`].
    pub identity: String,
}

/// A part as records have it: the oldest ones know no more than its name.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredPart {
    Name(String),
    Whole { name: String, identity: String },
}

/// What a machine consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    pub legs: Vec<Part>,
    pub disks: Vec<Part>,
}

impl Parts {
    /// As the inventory says it.
    pub fn of(spec: &MachineSpec) -> Self {
        let leg = |l: &LegSpec| Part { name: l.name.clone(), identity: l.driver.identity() };
        let disk = |d: &DiskSpec| Part { name: d.name.clone(), identity: d.matching.identity() };
        Self { legs: spec.legs.iter().map(leg).collect(), disks: spec.disks.iter().map(disk).collect() }
    }
}

impl From<StoredPart> for Part {
    fn from(stored: StoredPart) -> Self {
        match stored {
            StoredPart::Name(name) => Self { name, identity: String::new() },
            StoredPart::Whole { name, identity } => Self { name, identity },
        }
    }
}

/// One thing that became true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A daemon took the lab.
    Opened {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The rows are those of a backup: the lab goes on behind what they do not
    /// know of.
    Restored {
        /// Newest epoch that may have led.
        epoch: Epoch,
        /// Newest reservation that there may have been.
        reservations: u64,
    },
    /// Nothing is known of a machine but what it is: with the rows of a backup
    /// nobody can tell who has had it since.
    MachineDoubted {
        /// The machine.
        machine: MachineName,
        /// Until when a power command that nobody remembers may land.
        may_land_until: LabTime,
    },
    /// A machine came into the inventory, or its legs or disks changed.
    MachineDeclared {
        /// The machine.
        machine: MachineName,
        /// Its power legs.
        legs: Vec<Part>,
        /// Its disks.
        disks: Vec<Part>,
        /// Its health from now on.
        health: Health,
    },
    /// A machine hangs on another circuit, or on none.
    CircuitSet {
        /// The machine.
        machine: MachineName,
        /// The circuit.
        circuit: Option<String>,
    },
    /// A machine at rest is switched off, since somebody waits for its place
    /// on its circuit. Nothing changes but the history.
    GaveWay {
        /// The machine.
        machine: MachineName,
        /// The circuit.
        circuit: String,
        /// Who waits: a reservation, or a machine that is to be proven.
        waits: String,
    },
    /// A person wants a machine proven, and its circuit has no place now.
    ProofAsked {
        /// The machine.
        machine: MachineName,
    },
    /// The first leg did not obey: its spare leg cuts the machine's power.
    PowerCut {
        /// The machine.
        machine: MachineName,
        /// The spare leg.
        leg: usize,
        /// Why, in words.
        reason: String,
    },
    /// The spare leg is on again, or of no use: the first one rules.
    CutOver {
        /// The machine.
        machine: MachineName,
        /// Why, in words.
        reason: String,
    },
    /// A machine left the inventory and nobody holds it.
    MachineForgotten {
        /// The machine.
        machine: MachineName,
    },
    /// Health changed.
    HealthSet {
        /// The machine.
        machine: MachineName,
        /// From now on.
        health: Health,
    },
    /// An image may be asked for by this name.
    ImageNamed {
        /// The image.
        image: ImageRef,
        /// Its size in bytes.
        bytes: u64,
    },
    /// An image may no longer be asked for.
    ImageForgotten {
        /// Its name.
        name: String,
    },
    /// An image failed on a machine.
    ImageFailed {
        /// Its name.
        image: String,
        /// On which machine.
        machine: MachineName,
        /// The class of the machine; empty if it has none.
        class: String,
        /// How.
        failure: Failure,
    },
    /// An image that had failed on machines of this class came up on one.
    ImageWorked {
        /// Its name.
        image: String,
        /// The class; empty for machines without one.
        class: String,
    },
    /// An image failed on too many machines of a class: it is not handed out
    /// there.
    ImageSuspected {
        /// Its name.
        image: String,
        /// The class; empty for machines without one.
        class: String,
        /// When one machine may try it again.
        again: LabTime,
    },
    /// One machine may try a suspected image.
    ImageOnTrial {
        /// Its name.
        image: String,
        /// The class; empty for machines without one.
        class: String,
    },
    /// A machine tries a suspected image.
    ImageTried {
        /// Its name.
        image: String,
        /// The class; empty for machines without one.
        class: String,
        /// When the next one may, if this one fails, too.
        again: LabTime,
    },
    /// A person says that an image is good.
    ImageTrusted {
        /// Its name.
        image: String,
    },
    /// A reservation that waits for a suspected image takes the one that has
    /// its name now.
    ImageReplaced {
        /// The reservation.
        reservation: ReservationId,
        /// The image.
        image: ImageRef,
    },
    /// Too many machines of a class failed at the same thing: none of the
    /// class is given to anybody for a while.
    ClassPaused {
        /// The class.
        class: String,
        /// Its machines.
        machines: Vec<MachineName>,
        /// What they failed at.
        cause: FailureClass,
        /// Until when.
        until: LabTime,
    },
    /// A class goes on.
    ClassResumed {
        /// The class.
        class: String,
        /// Its machines.
        machines: Vec<MachineName>,
    },
    /// A reservation was accepted into the queue.
    Queued {
        /// The reservation.
        reservation: ReservationId,
        /// Whose.
        owner: UserName,
        /// What for.
        ask: Box<Ask>,
    },
    /// A reservation got a machine.
    Granted {
        /// The reservation.
        reservation: ReservationId,
        /// The machine.
        machine: MachineName,
        /// Index of the role.
        role: usize,
    },
    /// A reservation lost a machine that failed it, or gave it back.
    MemberDropped {
        /// The reservation.
        reservation: ReservationId,
        /// The machine.
        machine: MachineName,
        /// Whether the machine failed it.
        failed: bool,
    },
    /// A reservation goes back to its place in the queue.
    Requeued {
        /// The reservation.
        reservation: ReservationId,
    },
    /// A member is prepared.
    MemberReady {
        /// The reservation.
        reservation: ReservationId,
        /// The machine.
        machine: MachineName,
    },
    /// All members are prepared.
    ReservationReady {
        /// The reservation.
        reservation: ReservationId,
        /// Kept until then if nobody claims it.
        unclaimed_until: LabTime,
        /// When it ends.
        ends: Option<LabTime>,
    },
    /// It is kept longer for its holder, who could not claim it.
    ClaimMoved {
        /// The reservation.
        reservation: ReservationId,
        /// Until then.
        unclaimed_until: LabTime,
    },
    /// Its holder came for it.
    Claimed {
        /// The reservation.
        reservation: ReservationId,
    },
    /// Its end moved.
    Extended {
        /// The reservation.
        reservation: ReservationId,
        /// The new end.
        ends: LabTime,
    },
    /// A reservation is over.
    Ended {
        /// The reservation.
        reservation: ReservationId,
        /// Why.
        why: End,
    },
    /// An ended reservation left the rows; its records stay.
    ReservationForgotten {
        /// The reservation.
        reservation: ReservationId,
    },
    /// A turn began.
    TurnStarted {
        /// The machine.
        machine: MachineName,
        /// Why.
        purpose: Purpose,
        /// Its goal.
        goal: Goal,
        /// For whom.
        reservation: Option<ReservationId>,
        /// With which image.
        image: Option<ImageRef>,
        /// What about disks.
        disks: DiskPlan,
        /// Deadline of its first phase.
        deadline: LabTime,
    },
    /// A phase began.
    PhaseEntered {
        /// The machine.
        machine: MachineName,
        /// The phase.
        phase: Phase,
        /// Until when it may last.
        deadline: LabTime,
    },
    /// A phase may last longer.
    DeadlineMoved {
        /// The machine.
        machine: MachineName,
        /// Until when.
        deadline: LabTime,
    },
    /// A phase failed; the turn goes back to its beginning or is given up.
    PhaseFailed {
        /// The machine.
        machine: MachineName,
        /// What and how.
        failure: Failure,
    },
    /// A new attempt, fenced by its nonce.
    AttemptStarted {
        /// The machine.
        machine: MachineName,
        /// Its number.
        attempt: AttemptNo,
        /// Its nonce.
        nonce: String,
    },
    /// Boot parameters were given out: this token may attach, once.
    TokenIssued {
        /// The machine.
        machine: MachineName,
        /// Boot or host.
        kind: AgentKind,
        /// Hash of the token.
        token: SecretHash,
    },
    /// Somebody asked for boot parameters again: the attempt is burned.
    AttemptBurned {
        /// The machine.
        machine: MachineName,
    },
    /// A power command was decided.
    PowerIntended {
        /// The machine.
        machine: MachineName,
        /// The leg.
        leg: usize,
        /// The command.
        intent: Intent,
    },
    /// Nobody works on a power command any more, but it may still land.
    PowerUnsettled {
        /// The machine.
        machine: MachineName,
        /// The leg.
        leg: usize,
        /// The command.
        intent: IntentId,
        /// What the device last answered.
        answer: String,
    },
    /// A power command is over: seen to have landed, or its time passed and
    /// power was observed after it.
    PowerSettled {
        /// The machine.
        machine: MachineName,
        /// The leg.
        leg: usize,
        /// The command.
        intent: IntentId,
    },
    /// Power was read.
    PowerSeen {
        /// The machine.
        machine: MachineName,
        /// The leg.
        leg: usize,
        /// What was read.
        reading: Reading,
    },
    /// An agent attached (or rejoined after a reboot by its tenant).
    AgentAttached {
        /// The machine.
        machine: MachineName,
        /// The agent.
        agent: Agent,
        /// The token it spent, if it spent one.
        spent: Option<SecretHash>,
    },
    /// An agent came back with its key.
    AgentResumed {
        /// The machine.
        machine: MachineName,
        /// Hash of a further rejoin token it was given.
        rejoin: Option<SecretHash>,
    },
    /// An agent's connection was lost.
    AgentLost {
        /// The machine.
        machine: MachineName,
    },
    /// An agent was refused. Nothing changes but the history.
    AgentRefused {
        /// The machine it named.
        machine: MachineName,
        /// Why.
        reason: String,
    },
    /// The machine said something on its console. Nothing changes but the
    /// history.
    ConsoleSaid {
        /// The machine.
        machine: MachineName,
        /// What it means.
        saying: Saying,
        /// The line; empty where it is not everybody's to read.
        line: String,
    },
    /// The session is over; its key opens nothing any more.
    AgentDismissed {
        /// The machine.
        machine: MachineName,
    },
    /// The agent was told to do a step.
    StepTold {
        /// The machine.
        machine: MachineName,
        /// The step.
        step: u64,
        /// What it is, in a word or two.
        what: String,
    },
    /// A step's result is known.
    StepDone {
        /// The machine.
        machine: MachineName,
        /// The step.
        step: u64,
    },
    /// The boot agent reported the hardware.
    HardwareSeen {
        /// The machine.
        machine: MachineName,
        /// What it found.
        hardware: Box<Hardware>,
    },
    /// This is what the machine is: later reports are compared with it.
    BaselineSet {
        /// The machine.
        machine: MachineName,
        /// What it was found to be.
        baseline: Arc<Baseline>,
        /// Its disks may be others than those that anything is known of.
        #[serde(default)]
        forget: bool,
    },
    /// The machine is not quite what it was; nothing keeps it from being
    /// used. Nothing changes but the history.
    FactsDiffer {
        /// The machine.
        machine: MachineName,
        /// What differs, one sentence each.
        differences: Vec<String>,
    },
    /// An admin checks the machine's wires.
    WiringBegun {
        /// The machine.
        machine: MachineName,
        /// Who.
        by: UserName,
    },
    /// The check is over, and the machine is put back.
    WiringEnded {
        /// The machine.
        machine: MachineName,
        /// Why it ended.
        why: String,
    },
    /// From now on an attempt may write this disk.
    DiskWriting {
        /// The machine.
        machine: MachineName,
        /// Index of the disk.
        disk: usize,
        /// The attempt.
        attempt: AttemptNo,
    },
    /// The disk was proven.
    DiskProven {
        /// The machine.
        machine: MachineName,
        /// Index of the disk.
        disk: usize,
        /// The certificate.
        certificate: Box<Certificate>,
    },
    /// The disk is handed over: nothing is known of it any more.
    DiskUsed {
        /// The machine.
        machine: MachineName,
        /// Index of the disk.
        disk: usize,
        /// To whom.
        by: Option<ReservationId>,
    },
    /// The machine is prepared.
    MachineReady {
        /// The machine.
        machine: MachineName,
        /// Until when it stays warm; `None` for a reservation's.
        until: Option<LabTime>,
    },
    /// A warm machine was given to a reservation.
    WarmTaken {
        /// The machine.
        machine: MachineName,
        /// The reservation.
        reservation: ReservationId,
    },
    /// The machine is in its holder's hands.
    InUse {
        /// The machine.
        machine: MachineName,
    },
    /// The machine is at rest again.
    Freed {
        /// The machine.
        machine: MachineName,
        /// Whether its turn ended well (failures are forgotten).
        good: bool,
    },
    /// The machine came through a proving turn.
    ProofPassed {
        /// The machine.
        machine: MachineName,
    },
    /// What the machine was quarantined for is put down to the image: it is
    /// proven now, and nothing of it is remembered against the machine.
    QuarantineExcused {
        /// The machine.
        machine: MachineName,
    },
    /// A proving turn failed at what its whole class fails at. It counts as
    /// the machine's check: to begin it again at once would end the same way.
    ProofInVain {
        /// The machine.
        machine: MachineName,
    },
    /// The holder used power.
    PowerByHolder {
        /// The machine.
        machine: MachineName,
        /// In words.
        action: String,
    },
    /// An admin used power of a machine out of use.
    PowerByAdmin {
        /// The machine.
        machine: MachineName,
        /// In words.
        action: String,
        /// Why, where that was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// What shows that a machine without an agent is up.
    EvidenceSeen {
        /// The machine.
        machine: MachineName,
        /// The line, the program, … in words.
        what: String,
    },
    /// A switch is to be flipped, a button to be pressed or the machine to be
    /// nudged: until that is over the machine is not anybody else's.
    ActBegun {
        /// The machine.
        machine: MachineName,
        /// In words.
        what: String,
        /// Until when it may still act, as an intent of the first leg.
        intent: Intent,
    },
    /// It was done.
    ActDone {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
        /// In words.
        what: String,
    },
    /// It was not done, as far as anybody knows.
    ActFailed {
        /// The machine.
        machine: MachineName,
        /// Its intent, where nothing was begun: then it is over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        intent: Option<IntentId>,
        /// In words.
        what: String,
        /// What came back.
        answer: String,
    },
    /// A hook or a programmer is to be run: until that is over the machine is
    /// not anybody else's.
    ProgramBegun {
        /// The machine.
        machine: MachineName,
        /// What for.
        job: Job,
        /// What its report must carry.
        nonce: String,
        /// Until when it may still act, as an intent of the first leg.
        intent: Intent,
    },
    /// It ended, or nobody waits for it any more.
    ProgramEnded {
        /// The machine.
        machine: MachineName,
        /// What it was for.
        job: Job,
        /// Its intent.
        intent: IntentId,
        /// Whether it is known to be over.
        over: bool,
        /// What went wrong; `None`: nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
        /// The turn goes on all the same (`on_error = "warn"`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        warned: bool,
        /// When it is tried again, where the trouble is the lab's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<LabTime>,
    },
    /// A program that was stopped is known to be gone.
    ProgramGone {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
    },
    /// The hooks of a point have run.
    HooksDone {
        /// The machine.
        machine: MachineName,
        /// Which.
        point: Point,
    },
    /// Hooks ran since the disks were proven, and none of them has booted the
    /// machine: its agent is still the same.
    NotMeddled {
        /// The machine.
        machine: MachineName,
    },
    /// A board's flash was written by a command, and what it read back agreed.
    DiskByCommand {
        /// The machine.
        machine: MachineName,
        /// Index of the disk.
        disk: usize,
        /// What the command said.
        proof: Box<CommandProof>,
    },
    /// The loop did not run for so long, or no daemon did: commands may land
    /// later by as much.
    LandingMoved {
        /// The machine.
        machine: MachineName,
        /// By how many milliseconds.
        ms: u64,
        /// Also those that nobody works on: how long no daemon ran is known
        /// from the wall clock alone, and no clock that may have been set
        /// tells that a command's time is over.
        #[serde(default)]
        all: bool,
    },
    /// The holder's power cycle ended half-way: its off never happened.
    CycleStopped {
        /// The machine.
        machine: MachineName,
    },
    /// A command was started on the machine.
    RunStarted {
        /// The machine.
        machine: MachineName,
        /// The reservation it ran for.
        reservation: ReservationId,
        /// Program and arguments, cut to a line.
        command: String,
    },
    /// A request's answer is remembered under its idempotency key.
    KeyRemembered {
        /// Whose key.
        owner: UserName,
        /// The key.
        key: String,
        /// SHA-256 of the request.
        request: SecretHash,
        /// The answer that was given.
        answer: serde_json::Value,
    },
    /// A key was forgotten.
    KeyForgotten {
        /// Whose key.
        owner: UserName,
        /// The key.
        key: String,
    },
}
