//! The world that is checked: one lab, one machine, and what is true of it.

use crate::action::Action;
use crate::fault::Faults;
use crate::key;
use pitstop_core::Lab;
use pitstop_core::effect::Boot;
use pitstop_core::event::Event;
use pitstop_core::fence::Fences;
use pitstop_core::id::{Epoch, IntentId, ReservationId, SecretHash};
use pitstop_core::inventory::Inventory;
use pitstop_core::machine::{Machine, Stage, Switch};
use pitstop_core::reservation::Ask;
use pitstop_core::time::LabTime;
use pitstop_wire::agent::{AgentKind, AgentParams, Outcome, Secret, Work};
use pitstop_wire::{MachineName, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What is the same in every state of a check.
#[derive(Debug)]
pub struct Setting {
    /// The fences that stand.
    pub fences: Fences,
    /// The lab's inventory: one machine.
    pub inventory: Arc<Inventory>,
    /// That machine.
    pub machine: MachineName,
    /// Longest time a power command takes, in milliseconds.
    pub power_ms: u64,
    /// Who asks for what, one reservation each.
    pub asks: Vec<Asks>,
}

/// What one client does with the lab.
#[derive(Debug, Clone)]
pub struct Asks {
    /// Who.
    pub user: UserName,
    /// What for.
    pub ask: Ask,
    /// With which image; `None`: the machine's own.
    pub image: Option<String>,
    /// How often its holder switches power.
    pub switches: u8,
    /// How often its holder has it written again.
    pub reimages: u8,
}

/// One state. What equal futures do not depend on is not compared: see [`key`].
#[derive(Debug, Clone)]
pub struct World {
    /// What never changes.
    pub setting: Arc<Setting>,
    /// Lab time.
    pub now: LabTime,
    /// Draws of randomness so far.
    pub draws: u64,
    /// The daemon's lab; while it is down, what its store holds.
    pub lab: Lab,
    /// Whether the daemon runs.
    pub up: bool,
    /// A daemon that was stopped and believes that it leads.
    pub stopped: Option<Box<Lab>>,
    /// The machine as it is.
    pub board: Board,
    /// The agent that runs on it.
    pub agent: Option<Agent>,
    /// Power commands that are not over.
    pub orders: Vec<Order>,
    /// Readings that were asked for.
    pub questions: Vec<Question>,
    /// Messages that may arrive at any later time.
    pub strays: Vec<Event>,
    /// Who uses the lab.
    pub clients: Vec<Client>,
    /// How often the admin will still have a quarantined machine proven.
    pub proofs: u8,
    /// What may still go wrong.
    pub faults: Faults,
    /// What no single state shows: a step that was wrong.
    pub wrong: Option<Wrong>,
}

/// A step that was wrong: which property it broke, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The property's name.
    pub property: &'static str,
    /// What happened.
    pub text: String,
}

/// What is true of the machine.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// Whether its power is on.
    pub on: bool,
    /// Boots so far.
    pub boots: u64,
    /// Its disk.
    pub disk: DiskTruth,
    /// Whether that is another one than it was built with.
    pub swapped: bool,
    /// The host agent's parameters on the disk.
    pub seed: Option<Credentials>,
    /// The token that the host agent keeps for its next boot.
    pub rejoin: Option<Token>,
    /// What it boots when it boots again.
    pub last: Option<(Boot, Option<Credentials>)>,
    /// Whose system runs while it is on.
    pub tenant: Option<ReservationId>,
}

/// What is true of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskTruth {
    /// Digest of the image that was last written whole.
    pub base: Option<String>,
    /// A write was begun and not finished.
    pub partial: bool,
    /// Something wrote to it since.
    pub touched: bool,
    /// Whose bytes are on it.
    pub tenants: BTreeSet<ReservationId>,
}

/// A secret with its hash, so that it is computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The secret.
    pub secret: Secret,
    /// Its hash.
    pub hash: SecretHash,
}

/// What an agent attaches with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The attempt's nonce.
    pub nonce: String,
    /// The single-use token.
    pub token: Token,
}

/// An agent process.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Which of the two.
    pub kind: AgentKind,
    /// What it was given.
    pub credentials: Credentials,
    /// The boot it lives in.
    pub boot_id: String,
    /// Its session key.
    pub key: Token,
    /// Whether it believes that it attached.
    pub attached: bool,
    /// Its connection.
    pub link: Link,
    /// What it is at.
    pub doing: Option<(u64, Work)>,
    /// Results that were not acknowledged.
    pub results: BTreeMap<u64, Outcome>,
    /// It takes its time, perhaps for ever.
    pub slow: bool,
}

/// An agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// It is about to say hello.
    Dialling,
    /// It is connected.
    Up,
    /// It was dismissed or refused for good, and says no more.
    Over,
}

/// A power command that left the core.
#[derive(Debug, Clone)]
pub struct Order {
    /// The stored intent.
    pub intent: IntentId,
    /// On or off.
    pub want: Switch,
    /// What an on boots.
    pub boot: Boot,
    /// The parameters that an on carries.
    pub credentials: Option<Credentials>,
    /// The daemon that gave it.
    pub epoch: Epoch,
    /// Until when it may be sent and is watched.
    pub until: LabTime,
    /// Who held the machine when it was given.
    pub holder: Option<ReservationId>,
    /// How far it is.
    pub at: At,
    /// It takes its time.
    pub slow: bool,
}

/// How far a power command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum At {
    /// With its lane, not sent.
    Lane,
    /// Sent. It may or may not be under way still, and its runner may or may
    /// not be watching for it.
    Sent {
        /// It will land.
        flying: bool,
        /// Its runner reads back and reports.
        watched: bool,
    },
}

/// A reading that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// When.
    pub asked: LabTime,
    /// By which daemon.
    pub epoch: Epoch,
}

/// Where a client is.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it was told.
    pub told: Told,
    /// How often it will still switch power.
    pub switches: u8,
    /// How often it will still ask for a fresh image.
    pub reimages: u8,
}

/// What a client was told: acknowledged, so that it must stay true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Told {
    /// It has not asked, or was not answered.
    Nothing,
    /// Its reservation was accepted.
    Accepted(ReservationId),
    /// The machine is its own.
    Claimed(ReservationId),
    /// Its reservation is over.
    Released(ReservationId),
}

impl World {
    /// The machine's row.
    pub fn row(&self) -> Option<&Arc<Machine>> {
        self.lab.machine(&self.setting.machine)
    }

    /// Who has the machine in use, by the store.
    pub fn holder(&self) -> Option<ReservationId> {
        match self.row().map(|m| &m.stage) {
            Some(Stage::InUse { reservation, .. }) => Some(*reservation),
            _ => None,
        }
    }

    /// A number that was not drawn before.
    pub fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.draws
    }

    /// The state after an action; `None` if that action changes nothing.
    pub fn after(&self, action: Action) -> Option<Self> {
        let mut next = self.clone();
        next.act(action).then_some(next)
    }
}

impl Token {
    /// A secret with its hash.
    pub fn new(text: String) -> Self {
        Self { hash: SecretHash::of(&text), secret: Secret(text) }
    }
}

impl From<AgentParams> for Credentials {
    fn from(params: AgentParams) -> Self {
        Self { nonce: params.nonce, token: Token::new(params.token.0) }
    }
}

impl DiskTruth {
    /// Whether an image can be booted from it.
    pub fn boots(&self) -> bool {
        self.base.is_some() && !self.partial
    }
}

impl Order {
    /// Whether it may still change power.
    pub fn may_land(&self) -> bool {
        matches!(self.at, At::Lane | At::Sent { flying: true, .. })
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        key::of(self).hash(hasher);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        key::of(self) == key::of(other)
    }
}
