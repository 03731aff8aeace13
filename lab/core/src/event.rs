//! Events: everything that may change the lab.

use crate::id::{Entropy, Epoch, IntentId, ReservationId};
use crate::inventory::model::Inventory;
use crate::machine::{ImageRef, Reading, Switch};
use crate::record::Actor;
use crate::reservation::Ask;
use crate::saying::Saying;
use crate::time::{LabTime, WallMs};
use pitstop_wire::agent::{AgentParams, Hello, Outcome, Welcome};
use pitstop_wire::{ApiError, MachineName, Selector, UserName};
use std::sync::Arc;

/// An event and the circumstances it arrived in: all the outside world that
/// a step may see.
#[derive(Debug, Clone)]
pub struct Moment {
    /// Lab time.
    pub now: LabTime,
    /// Wall time, to label records.
    pub wall: WallMs,
    /// Fresh randomness.
    pub entropy: Entropy,
}

/// Everything that may change the lab.
#[derive(Debug, Clone)]
pub enum Event {
    /// A daemon takes the lab: first event after loading.
    Start {
        /// The inventory it found.
        inventory: Arc<Inventory>,
        /// Whether `new` machines need no person (simulated labs).
        enrol: bool,
    },
    /// The same, by rows that are known to be of the past: a backup was put
    /// in the place of the database. Nobody knows who has had which machine
    /// since, so nobody has any, and nothing is believed of them.
    StartRestored {
        /// The inventory it found.
        inventory: Arc<Inventory>,
        /// Whether `new` machines need no person (simulated labs).
        enrol: bool,
        /// How far the lab had come.
        floor: Floor,
    },
    /// This daemon is about to end: nothing is granted any more. What waits is
    /// served by the next one.
    Drain,
    /// Judge what is due.
    Tick,
    /// The loop did not run for so many milliseconds: beat and effect
    /// deadlines move by as much, since nobody could have been heard.
    Gap(u64),
    /// Somebody asks for something.
    Request(Caller, Request),
    /// A hand reports.
    Fact {
        /// The daemon that sent the effect.
        epoch: Epoch,
        /// What is the case.
        fact: Fact,
    },
    /// An agent says hello.
    Hello(Hello),
    /// The agent of an attempt reports.
    Agent {
        /// The machine.
        machine: MachineName,
        /// The nonce its session was accepted under.
        nonce: String,
        /// The boot it was accepted from.
        boot_id: String,
        /// What it reports.
        report: Report,
    },
    /// A machine's firmware (or the lane that boots it) asks what to boot.
    BootRequest {
        /// The machine.
        machine: MachineName,
        /// Whether the daemon's own lane asks, right before a power-on.
        lane: bool,
    },
}

/// How far a lab had come, as far as that is known beside its database: what
/// goes on from an older one starts above it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floor {
    /// No daemon of a greater epoch ever led.
    pub epoch: Epoch,
    /// No reservation ever had a greater number.
    pub reservations: u64,
}

/// Who asks, and with which idempotency key.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The principal.
    pub user: UserName,
    /// May override others, with a reason.
    pub admin: bool,
    /// Idempotency key and the hash of the request's body.
    pub key: Option<(String, crate::id::SecretHash)>,
}

impl Caller {
    /// The actor of what follows.
    pub fn actor(&self) -> Actor {
        Actor::User(self.user.clone())
    }
}

/// What may be asked for.
#[derive(Debug, Clone)]
pub enum Request {
    /// Machines. `image` names are resolved by the core.
    Reserve {
        /// What for.
        ask: Box<Ask>,
        /// The image by name, if not the default.
        image: Option<String>,
    },
    /// The holder is there.
    Claim(ReservationId),
    /// The session lives. Not stored, not answered with a record.
    Beat(ReservationId),
    /// More time: the end moves to `now + for`.
    Extend {
        /// The reservation.
        reservation: ReservationId,
        /// Milliseconds from now; `None`: as long as the policy gives one
        /// that does not say.
        more: Option<u64>,
    },
    /// Give it back, or leave the queue.
    Release {
        /// The reservation.
        reservation: ReservationId,
        /// Override the holder, with this reason.
        force: Option<String>,
    },
    /// The holder switches power, or an admin that of a machine out of use.
    Power {
        /// The machine.
        machine: MachineName,
        /// What to do.
        action: PowerAction,
        /// Override the holder, with this reason.
        force: Option<String>,
    },
    /// Flip a switch of a machine, or press a button, as who may switch its power.
    Fixture {
        /// The machine.
        machine: MachineName,
        /// What to do.
        act: Act,
        /// Override the holder, with this reason.
        force: Option<String>,
    },
    /// Start a command: only the permission and the record are decided here.
    Run {
        /// The machine.
        machine: MachineName,
        /// The command in one line, for the audit.
        command: String,
    },
    /// Reimage a machine that one holds: a turn back to the same holder.
    Reimage {
        /// The machine.
        machine: MachineName,
        /// The image by name; `None`: the one it has.
        image: Option<String>,
    },
    /// Take machines out.
    Drain {
        /// The machine.
        machine: MachineName,
        /// Why.
        reason: String,
    },
    /// Put a drained machine back.
    Undrain(MachineName),
    /// Accept new machines.
    Enrol {
        /// Which.
        select: Selector,
        /// The machines whose disks somebody saw listed: no others are
        /// accepted, although more may match by now.
        listed: Vec<MachineName>,
    },
    /// Send a quarantined machine through a proving turn.
    Prove(MachineName),
    /// An admin is about to check a machine's wires.
    WiringBegin(MachineName),
    /// The check lives. Not stored, not answered with a record.
    WiringBeat(MachineName),
    /// Have our agent boot and report, within a check.
    WiringLook(MachineName),
    /// The check is over.
    WiringEnd(MachineName),
    /// An image was added to the image store.
    NameImage {
        /// The image.
        image: ImageRef,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A suspected image is good after all, says a person.
    TrustImage(String),
    /// An image is to be removed.
    ForgetImage(String),
    /// A new inventory.
    Reload(Arc<Inventory>),
}

/// What a holder may do with power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// On.
    On,
    /// Off.
    Off,
    /// Off, read back, on.
    Cycle,
}

/// What a device can do to a machine without switching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nudge {
    /// Its system is asked to shut down.
    Soft,
    /// It starts again, with power on all the time.
    Reset,
    /// A non-maskable interrupt: most systems panic, and write down why.
    Nmi,
}

impl Nudge {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Reset => "reset",
            Self::Nmi => "nmi",
        }
    }
}

/// What is done to something beside a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A switch is put into a position.
    Flip {
        /// Which.
        switch: String,
        /// Where to.
        position: String,
    },
    /// A button is pressed and let go.
    Press {
        /// Which.
        button: String,
    },
    /// What switches the machine does this to it.
    Nudge(Nudge),
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flip { switch, position } => write!(f, "switch {switch} to {position}"),
            Self::Press { button } => write!(f, "press {button}"),
            Self::Nudge(nudge) => write!(f, "power {}", nudge.word()),
        }
    }
}

/// What a hand found.
#[derive(Debug, Clone)]
pub enum Fact {
    /// A power command's runner is done with it.
    Power {
        /// The machine.
        machine: MachineName,
        /// Index of the leg.
        leg: usize,
        /// The intent.
        intent: IntentId,
        /// What was wanted.
        want: Switch,
        /// Two equal readings, or why there are none.
        result: Result<Reading, String>,
        /// Whether the command is known to be over: nothing was sent because
        /// it was so already, or the leg was seen to change after it. A
        /// reading that was right all along (or unknown before) does not
        /// show that a command has landed: it may still.
        witnessed: bool,
    },
    /// A health check ended.
    Checked {
        /// The machine.
        machine: MachineName,
        /// The attempt's nonce.
        nonce: String,
        /// Well, or what it said.
        result: Result<(), String>,
    },
    /// A switch was flipped or a button pressed, or not.
    Acted {
        /// The machine.
        machine: MachineName,
        /// The intent.
        intent: IntentId,
        /// What.
        act: Act,
        /// Whether anything was begun that is not known to be over: nothing else can act later.
        begun: bool,
        /// Done, or why not.
        result: Result<(), String>,
    },
    /// A hook ended, or its time did.
    Hooked {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
        /// The nonce of this run.
        nonce: String,
        /// Whether it is known to be over: what is not may act later.
        over: bool,
        /// Well, or what came back.
        result: Result<(), ProgramTrouble>,
    },
    /// A board's programmer ended, or its time did.
    Programmed {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
        /// The nonce of this run.
        nonce: String,
        /// Whether it is known to be over: what is not may act later.
        over: bool,
        /// What was read back; `None`: nothing reads it back.
        result: Result<Option<ReadBack>, ProgramTrouble>,
    },
    /// A program that was stopped is known to be gone.
    Gone {
        /// The machine.
        machine: MachineName,
        /// Its intent.
        intent: IntentId,
    },
    /// A machine that runs no agent of ours showed that it is up, or cannot.
    Witnessed {
        /// The machine.
        machine: MachineName,
        /// The turn's number, and which of its tries: what was seen of another
        /// boot is no evidence of this one.
        turn: (u64, u32),
        /// What was seen, or why nothing ever can be.
        result: Result<String, String>,
    },
    /// A machine said something on its console that means something.
    Said {
        /// The machine.
        machine: MachineName,
        /// Nonce of the attempt that its boot belongs to, as far as whoever
        /// listens knew when it was said.
        nonce: Option<String>,
        /// What it means.
        saying: Saying,
        /// The line.
        line: String,
    },
    /// A leg was read.
    Read {
        /// The machine.
        machine: MachineName,
        /// Index of the leg.
        leg: usize,
        /// When the reading was asked for: it shows nothing of later commands.
        asked: LabTime,
        /// What it showed.
        reading: Reading,
    },
}

/// What was read back of a board's flash, and was equal to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// The program that read it, and on which bench host.
    pub by: String,
    /// Length of the image in bytes; as many were equal.
    pub image_bytes: u64,
    /// Bytes that were read; those behind the image were all 0x00 or 0xff.
    pub read_bytes: u64,
}

/// Why a hook did not do what it is for, or a board was not written as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramTrouble {
    /// Whether it is the lab's own trouble (its disk, a bench host), and not the machine's.
    pub lab: bool,
    /// What was attempted and what came back.
    pub text: String,
}

/// What an agent reports in its session.
#[derive(Debug, Clone)]
pub enum Report {
    /// A step ended.
    Done {
        /// The step.
        step: u64,
        /// How.
        outcome: Outcome,
    },
    /// Its connection is gone.
    Lost,
}

/// What the asker is told, after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nobody asked.
    None,
    /// A request's answer.
    Api(Result<serde_json::Value, ApiError>),
    /// To an agent's hello.
    Welcome(Welcome),
    /// To a boot request.
    Boot(BootAnswer),
}

/// What a machine is to boot.
#[derive(Debug, Clone, PartialEq)]
pub enum BootAnswer {
    /// Our agent, with these (server and CA are filled in by the daemon).
    Agent(AgentParams),
    /// Its own disk.
    Disk,
    /// Nothing: this request makes no sense now.
    Refused(String),
    /// Nothing yet: what was decided could not be stored, for this reason.
    /// The lab's trouble is not the machine's; ask again.
    NotKnown(String),
}
