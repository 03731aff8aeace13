//! What the inventory says, as plain data: every reference resolved, every default filled in, every class and range
//! already merged into its machines.

use crate::reservation::Hold;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use pitstop_wire::MachineName;
use pitstop_wire::selector::TagValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use super::hook::{Hook, Hooks, Point};
pub use super::policy::{AfterBuild, AtEnd, Extend, Idle, Lease, OnAgentLost, OnFailure, Policy};
pub use super::words::{Place, Said, Sources, Words};

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Inventory {
    /// The lab itself.
    pub lab: LabInfo,
    /// Bench hosts by name: how to reach the computers USB things are plugged into.
    pub hosts: BTreeMap<String, DriverSpec>,
    /// Controllers by name (PDU, hub, …): one queue and one session each.
    pub controllers: BTreeMap<String, DriverSpec>,
    /// Circuits by name.
    pub circuits: BTreeMap<String, Circuit>,
    /// Countable things a reservation can ask for besides machines.
    pub resources: BTreeMap<String, Resource>,
    /// Policies by the role they are for (`ci`, `person`), or by the name a machine refers to.
    pub policies: BTreeMap<String, Policy>,
    /// Groups of users by name.
    pub groups: BTreeMap<String, Group>,
    /// Every machine.
    pub machines: BTreeMap<MachineName, MachineSpec>,
    /// What the files say outside of classes and machines, in their words.
    #[serde(skip)]
    pub words: Words,
}

/// `[lab]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabInfo {
    /// Shown in the header of every view.
    pub name: String,
    /// IANA time zone for times people type; everything stored is UTC.
    pub zone: String,
    /// Bytes of disk that all console journals may take; `None`: the daemon's default.
    pub console_quota: Option<u64>,
    /// Who may watch the consoles of a machine that is held, where no group of its holder says it.
    pub watch_consoles: WatchConsoles,
}

/// `watch_consoles = "all" | "group" | "holder"`: who may watch the consoles of a machine that is held, besides its
/// holder and admins. Later ones admit fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchConsoles {
    /// Everybody.
    #[default]
    All,
    /// Who is in a group with the holder.
    Group,
    /// Nobody.
    Holder,
}

impl Default for LabInfo {
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            zone: "UTC".to_owned(),
            console_quota: None,
            watch_consoles: WatchConsoles::default(),
        }
    }
}

/// `[circuit.NAME]`: what a fuse bears. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Circuit {
    /// Machines that may be switched on at the same time (inrush current).
    pub max_starting: Option<u32>,
    /// Machines that may be on at the same time (breaker).
    pub max_on: Option<u32>,
    /// Where the first is set.
    #[serde(skip)]
    pub said_starting: Said,
    /// Where the second is set.
    #[serde(skip)]
    pub said_on: Said,
}

/// `[resource.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// How many there are; at least 1.
    pub count: u32,
    /// For people.
    pub note: Option<String>,
}

/// `[group.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// User names.
    pub members: Vec<String>,
    /// What members may reserve: a selector in its canonical form; `None` = everything.
    pub select: Option<String>,
    /// Machines held at once.
    pub machines: Option<u32>,
    /// Priority in the queue.
    pub priority: Option<i64>,
    /// Who may watch the consoles of machines that its members hold; `None`: as the lab says.
    pub watch_consoles: Option<WatchConsoles>,
}

/// One machine, complete.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineSpec {
    /// Its name.
    pub name: MachineName,
    /// `{n}`: its number in its range, or else the number its name ends with.
    pub n: Option<u32>,
    /// The class it was made from.
    pub class: Option<String>,
    /// What selectors see.
    pub tags: BTreeMap<String, TagValue>,
    /// Where it stands, for people.
    pub location: Option<String>,
    /// Anything else, for people.
    pub note: Option<String>,
    /// The circuit it hangs on; a key of [`Inventory::circuits`].
    pub circuit: Option<String>,
    /// The image it is reimaged with when no reservation asks for another.
    pub image: Option<String>,
    /// Where it reaches the daemon, if not at the address machines in general do: behind an address translation, or in
    /// the network of a virtual machine.
    pub server: Option<IpAddr>,
    /// The ways to switch it, the one named `power` first, then `mains`. Never empty.
    pub legs: Vec<LegSpec>,
    /// Serial lines by name; empty only where the inventory says `console = {}`.
    pub consoles: BTreeMap<String, DriverSpec>,
    /// How pitstop chooses what boots.
    pub boot: DriverSpec,
    /// Disks that are written and proven.
    pub disks: Vec<DiskSpec>,
    /// What a disk that is not declared means.
    pub other_disks: OtherDisks,
    /// What shows that it is ready.
    pub ready: DriverSpec,
    /// Who writes the disks; the boot agent (driver `agent`) unless the inventory says otherwise.
    pub reimage: DriverSpec,
    /// How `pitstop shell` gets in, where it can.
    pub shell: Option<DriverSpec>,
    /// Switches (SD-mux, …) by name.
    pub switches: BTreeMap<String, DriverSpec>,
    /// Buttons (recovery, …) by name.
    pub buttons: BTreeMap<String, DriverSpec>,
    /// Programs that run at points of its turns.
    pub hooks: Hooks,
    /// Takes `after_build = "keep"` and reservations that accept a used disk.
    pub shared: bool,
    /// The policy it follows whoever holds it; a key of [`Inventory::policies`].
    pub policy: Option<String>,
    /// Its own rule, before any policy.
    pub after_build: Option<AfterBuild>,
    /// Its own rule, before any policy.
    pub idle: Option<Idle>,
    /// Its own rule, before any policy.
    pub on_agent_lost: Option<OnAgentLost>,
    /// How long each phase may take.
    pub limits: Limits,
    /// How often it shows that it is well while nobody needs it.
    pub health: Option<HealthCheck>,
    /// Bytes of disk that its console journals may take; `None`: the daemon's default.
    pub console_quota: Option<u64>,
    /// Where each of its keys was set; shared between the machines of one range.
    #[serde(skip)]
    pub sources: Arc<Sources>,
}

impl MachineSpec {
    /// How long a device of its own may take to fetch what our agent boots from, before power on and besides
    /// `timeout.power`; milliseconds, 0 where its boot path says nothing of it.
    #[must_use]
    pub fn fetch_ms(&self) -> u64 {
        self.boot.ms("fetch").unwrap_or(0)
    }
}

/// One way to switch a machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LegSpec {
    /// `power`, or `mains` for the plug in front of it.
    pub name: String,
    /// What switches it.
    pub driver: DriverSpec,
    /// Shortest time off before it may be on again, milliseconds.
    pub min_off_ms: u64,
    /// Whether its state can be read back; else off is *assumed*, and shown so.
    pub readback: bool,
    /// When it is to be used: of `mains`, one of [`LegSpec::USES`]; else a note for people.
    pub usage: Option<String>,
}

impl LegSpec {
    /// The words for `use` of `mains`, and whether it is then only switched where the first leg does not obey.
    pub const USES: [(&'static str, bool); 3] =
        [("together", false), ("spare", true), ("when the BMC is dead", true)];

    /// Whether it is left on, and cuts power only where the first leg does not obey.
    #[must_use]
    pub fn is_spare(&self) -> bool {
        let used = |(word, spare): &(&str, bool)| *spare && self.usage.as_deref() == Some(*word);
        self.name == "mains" && Self::USES.iter().any(used)
    }
}

impl MachineSpec {
    /// Index of the leg that cuts power where the first one does not obey, if there is one.
    #[must_use]
    pub fn spare_leg(&self) -> Option<usize> {
        self.legs.iter().position(LegSpec::is_spare).filter(|leg| *leg > 0)
    }
}

/// A driver and what the inventory tells it. Which drivers exist is the catalogue's business, not the core's.
///
/// The values of `fields` have the shape their [`FieldKind`](super::catalogue::FieldKind) says: durations are whole
/// milliseconds, sizes whole bytes, secrets `{"env": …}` or `{"file": …}`, argument lists arrays of text; `{name}` and
/// `{n}` are filled in. So a driver reads them with `serde` into a struct of its own.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DriverSpec {
    /// Its name in the catalogue.
    pub driver: String,
    /// Checked against the driver's schema. Equal fields are one value in memory, however many machines have them.
    pub fields: Arc<serde_json::Map<String, Value>>,
    /// The bench host it works through; a key of [`Inventory::hosts`].
    pub host: Option<String>,
    /// The controller it works through; a key of [`Inventory::controllers`].
    pub controller: Option<String>,
}

impl DriverSpec {
    /// A driver without fields.
    #[must_use]
    pub fn named(driver: &str) -> Self {
        Self { driver: driver.to_owned(), ..Self::default() }
    }

    /// A text field.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(Value::as_str)
    }

    /// A whole number.
    #[must_use]
    pub fn int(&self, field: &str) -> Option<i64> {
        self.fields.get(field).and_then(Value::as_i64)
    }

    /// A duration in milliseconds.
    #[must_use]
    pub fn ms(&self, field: &str) -> Option<u64> {
        self.fields.get(field).and_then(Value::as_u64)
    }

    /// A size in bytes.
    #[must_use]
    pub fn bytes(&self, field: &str) -> Option<u64> {
        self.fields.get(field).and_then(Value::as_u64)
    }

    /// A truth value.
    #[must_use]
    pub fn flag(&self, field: &str) -> Option<bool> {
        self.fields.get(field).and_then(Value::as_bool)
    }

    /// A list of texts (an argument list).
    #[must_use]
    pub fn list(&self, field: &str) -> Option<Vec<&str>> {
        self.fields
            .get(field)
            .and_then(Value::as_array)
            .map(|items| items.iter().filter_map(Value::as_str).collect())
    }

    /// What this driver switches or speaks to, as a short digest. Every field counts: which of them say
    /// *which* outlet is meant, and which only how, is known to the driver alone.
    #[must_use]
    pub fn identity(&self) -> String {
        let fields: BTreeMap<&String, &Value> = self.fields.iter().collect();
        digest(&(&self.driver, &self.host, &self.controller, fields))
    }

    /// A reference to a secret.
    #[must_use]
    pub fn secret(&self, field: &str) -> Option<SecretRef> {
        let table = self.fields.get(field)?.as_object()?;
        let text = |key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
        text("env").map(SecretRef::Env).or_else(|| text("file").map(SecretRef::File))
    }
}

/// Sixteen digits of the SHA-256 of a value's JSON. Not against forgers: the inventory is the admin's.
fn digest(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).unwrap_or_default();
    hex::encode(&Sha256::digest(json)[..8])
}

impl fmt::Debug for DriverSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.driver)?;
        let mut shown = f.debug_map();
        shown.entries(self.fields.iter());
        shown.entries(self.host.iter().map(|host| ("host", host)));
        shown.entries(self.controller.iter().map(|controller| ("controller", controller)));
        shown.finish()
    }
}

/// Where a secret is found; the inventory never holds one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretRef {
    /// A variable of the daemon's environment.
    Env(String),
    /// A file only the daemon can read.
    File(String),
}

/// A disk that is written and proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskSpec {
    /// `disk.NAME`.
    pub name: String,
    /// How the agent finds it. All that is said must hold, for exactly one disk.
    #[serde(rename = "match")]
    pub matching: DiskMatch,
    /// What it holds after a reimage.
    pub content: DiskContent,
    /// How much of it is read back.
    pub verify: Verify,
}

/// Which disk is meant. All `None` = the machine's only disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskMatch {
    /// Device path on the machine.
    pub path: Option<String>,
    /// The disk's own serial number.
    pub serial: Option<String>,
    /// `nvme`, `sata`, `mmc`, `usb`, `virtio`, …
    pub bus: Option<String>,
    /// Smallest size, bytes.
    pub min: Option<u64>,
    /// Largest size, bytes.
    pub max: Option<u64>,
    /// The programmer that writes it, as a digest: it is the flash of a board, and no agent finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl DiskMatch {
    /// Which disk is meant, as a short digest.
    #[must_use]
    pub fn identity(&self) -> String {
        digest(self)
    }
}

/// What a disk holds after a reimage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskContent {
    /// The image, zeroes where it has none.
    #[default]
    Image,
    /// Zeroes.
    Zero,
}

/// How much of a disk is read back after writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Every block.
    #[default]
    Full,
}

/// What a disk means that the inventory does not declare. It is never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherDisks {
    /// The machine is quarantined: nobody can say what is on it.
    #[default]
    Quarantine,
    /// The machine is offered, but never as proven.
    Unproven,
}

/// `health = { every = "24h", run = ["stress-ng", …], within = "10m" }`: a proving turn now and then, and a command in
/// the machine's own image that must end with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Time between two checks, milliseconds.
    pub every_ms: u64,
    /// Program and arguments; empty: the proving turn is all.
    pub run: Vec<String>,
    /// How long the command may take, milliseconds.
    pub within_ms: u64,
}

impl HealthCheck {
    /// How often where the inventory does not say: once a day.
    pub const EVERY_MS: u64 = 24 * 3_600_000;
    /// The shortest time between two checks.
    pub const LEAST_MS: u64 = 10 * 60_000;
    /// How long the command may take where the inventory does not say: 10 minutes.
    pub const WITHIN_MS: u64 = 10 * 60_000;
}

/// How long each phase may take, in milliseconds. `timeout = { power = "30s", … }`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Switch a leg and read the state back.
    pub power_ms: u64,
    /// From power-on until the boot path is asked for.
    pub firmware_ms: u64,
    /// From there until the agent is attached.
    pub attach_ms: u64,
    /// Write and read back all disks.
    pub reimage_ms: u64,
    /// From the proof until the image runs.
    pub handover_ms: u64,
    /// From there until the evidence of `ready` is there.
    pub evidence_ms: u64,
    /// A ready machine nobody claims goes back after this.
    pub claim_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const SECOND: u64 = 1_000;
        const MINUTE: u64 = 60 * SECOND;
        Self {
            power_ms: 60 * SECOND,
            firmware_ms: 10 * MINUTE,
            attach_ms: 5 * MINUTE,
            reimage_ms: 60 * MINUTE,
            handover_ms: 5 * MINUTE,
            evidence_ms: 5 * MINUTE,
            claim_ms: 10 * MINUTE,
        }
    }
}

impl Limits {
    /// The keys of `timeout`, as written in the inventory.
    pub const KEYS: [&'static str; 7] =
        ["power", "firmware", "attach", "reimage", "handover", "evidence", "claim"];

    /// The limit behind a key of `timeout`.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut u64> {
        Some(match key {
            "power" => &mut self.power_ms,
            "firmware" => &mut self.firmware_ms,
            "attach" => &mut self.attach_ms,
            "reimage" => &mut self.reimage_ms,
            "handover" => &mut self.handover_ms,
            "evidence" => &mut self.evidence_ms,
            "claim" => &mut self.claim_ms,
            _ => return None,
        })
    }
}

impl MachineSpec {
    /// Whether our agent boots on it. If not, another thing shows that it is up, and nobody proves its disks.
    #[must_use]
    pub fn runs_agent(&self) -> bool {
        self.ready.driver == "agent"
    }

    /// What writes its flash, where a program of the lab's does that.
    #[must_use]
    pub fn programmer(&self) -> Option<&DriverSpec> {
        Some(&self.reimage).filter(|reimage| reimage.driver == "command")
    }

    /// Whether what a program wrote is read back and compared: only then is the board clean *by command*.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        self.programmer().is_some_and(|programmer| programmer.list("read_back").is_some())
    }
}

impl Inventory {
    /// When the proof is made: the machine's own word, its policy's, that of the holder's role, else at once.
    /// `Keep` counts only on machines marked as shared.
    #[must_use]
    pub fn after_build(&self, machine: &MachineSpec, role: &str) -> AfterBuild {
        let said =
            machine.after_build.or_else(|| self.policy_says(machine, role, |policy| policy.after_build));
        match said.unwrap_or_default() {
            AfterBuild::Keep if !machine.shared => AfterBuild::Reimage,
            other => other,
        }
    }

    /// Whether any holder's policy leaves on the machine's disks what he wrote.
    #[must_use]
    pub fn may_keep(&self, machine: &MachineSpec) -> bool {
        let roles = self.policies.keys().map(String::as_str).chain(Hold::ROLES);
        roles.into_iter().any(|role| self.after_build(machine, role) == AfterBuild::Keep)
    }

    /// What the machine does while nobody has it; same order as [`Inventory::after_build`].
    #[must_use]
    pub fn idle(&self, machine: &MachineSpec, role: &str) -> Idle {
        machine.idle.or_else(|| self.policy_says(machine, role, |policy| policy.idle)).unwrap_or_default()
    }

    /// What silence of the host agent means; same order as [`Inventory::after_build`]. Unless said, it is ignored for
    /// people and fails a CI reservation after 15 s.
    #[must_use]
    pub fn on_agent_lost(&self, machine: &MachineSpec, role: &str) -> OnAgentLost {
        let default = if role == "ci" { OnAgentLost::FailAfter { ms: 15_000 } } else { OnAgentLost::Ignore };
        machine
            .on_agent_lost
            .or_else(|| self.policy_says(machine, role, |policy| policy.on_agent_lost))
            .unwrap_or(default)
    }

    fn policy_says<T>(
        &self,
        machine: &MachineSpec,
        role: &str,
        key: impl Fn(&Policy) -> Option<T>,
    ) -> Option<T> {
        let own = machine.policy.as_deref().and_then(|name| self.policies.get(name));
        own.and_then(&key).or_else(|| self.policies.get(role).and_then(&key))
    }
}
