//! Inventories to simulate: small machines with short limits, no two alike.

use super::dice::{Dice, Pick, Who};
use crate::inventory::Point;
use crate::inventory::model::{
    AfterBuild, Circuit, DiskContent, DiskMatch, DiskSpec, DriverSpec, Extend, HealthCheck, Hook, Idle,
    Inventory, Lease, LegSpec, Limits, MachineSpec, OnAgentLost, OtherDisks, Policy, Sources, Verify,
};
use pitstop_wire::MachineName;
use pitstop_wire::selector::TagValue;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The images there are; the first is every machine's default.
pub(crate) const IMAGES: [&str; 2] = ["debian", "yocto"];

/// What kind of machine a board is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    TwoLegs,
    TwoDisks,
    PowerOff,
    Warm,
    /// It shows that it is well now and then.
    Checked,
    /// Its second leg cuts power where the first does not obey.
    Spare,
    /// Its leg cannot be read back.
    Blind,
    /// Its firmware asks what to boot.
    NetBoot,
    /// Shared, kept as it is.
    Keep,
    /// No leg, no disk: nothing but a name to hold.
    Legless,
    /// It runs no agent; that power reads on is all it shows.
    ByPower,
    /// Runs no agent; what it says on its console shows that it is up.
    ByWord,
    /// Like that, and a programmer writes its flash and reads it back.
    Flashed,
    /// It has hooks at every point.
    Hooked,
}

const KINDS: [Kind; 18] = [
    Kind::Plain,
    Kind::Plain,
    Kind::TwoLegs,
    Kind::TwoLegs,
    Kind::TwoDisks,
    Kind::TwoDisks,
    Kind::PowerOff,
    Kind::Warm,
    Kind::Warm,
    Kind::Checked,
    Kind::Spare,
    Kind::Spare,
    Kind::Blind,
    Kind::NetBoot,
    Kind::Keep,
    Kind::Legless,
    Kind::ByPower,
    Kind::ByWord,
];

/// What the inventory is to say of a board.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub name: MachineName,
    pub kind: Kind,
    /// Whether the inventory has it at all.
    pub listed: bool,
    /// How often its legs and disks were given another meaning, and its name changed.
    pub legs: u64,
    pub disks: u64,
    pub names: u64,
    /// The circuit it hangs on.
    pub circuit: Option<String>,
}

impl Plan {
    /// The plan of board `number`.
    pub fn new(number: usize, dice: &mut Dice) -> Option<Self> {
        let name = MachineName::new(&format!("m{number}")).ok()?;
        let kind = dice.one(Who::board(number), Pick::Kind, &KINDS);
        // Drawn apart, so that the kinds above are what they were.
        let kind = match (kind, dice.below(Who::board(number), Pick::Ask, 2)) {
            (Kind::Plain, 0) => Kind::Hooked,
            (Kind::ByPower | Kind::ByWord, 0) => Kind::Flashed,
            (kind, _) => kind,
        };
        Some(Self { name, kind, listed: true, legs: 0, disks: 0, names: 0, circuit: None })
    }
}

/// What the policies say in this run: nothing, or something for each role.
pub(super) fn policies(dice: &mut Dice) -> BTreeMap<String, Policy> {
    let who = Who::WORLD;
    let mut policies = BTreeMap::new();
    for role in ["ci", "person"] {
        if dice.below(who, Pick::Kind, 2) == 0 {
            continue;
        }
        let lease = Lease {
            default_ms: 1_200_000,
            max_ms: 3_600_000,
            extend: dice.one(who, Pick::Kind, &[Extend::Always, Extend::WhileNobodyWaits, Extend::Never]),
        };
        let builds = [None, Some(AfterBuild::Reimage), Some(AfterBuild::PowerOff)];
        let silences = [None, Some(OnAgentLost::Ignore), Some(OnAgentLost::FailAfter { ms: 15_000 })];
        let policy = Policy {
            after_build: dice.one(who, Pick::Kind, &builds),
            idle: dice.one(who, Pick::Kind, &[None, None, Some(Idle::Warm { max_age_ms: 1_800_000 })]),
            on_agent_lost: dice.one(who, Pick::Kind, &silences),
            lease: (dice.below(who, Pick::Kind, 2) == 0).then_some(lease),
            ..Policy::default()
        };
        policies.insert(role.to_owned(), policy);
    }
    policies
}

/// What the circuits bear in this run, if there are any; and which machine
/// hangs on which.
pub(super) fn circuits(plans: &mut [Plan], dice: &mut Dice) -> BTreeMap<String, Circuit> {
    let who = Who::WORLD;
    let mut circuits = BTreeMap::new();
    let count = dice.below(who, Pick::Wiring, 4) as usize % 3;
    for (number, plan) in plans.iter_mut().enumerate().filter(|_| count > 0) {
        // Now and then one hangs elsewhere.
        plan.circuit = (dice.below(who, Pick::Wiring, 6) > 0).then(|| format!("c{}", number % count));
    }
    for number in 0..count {
        let name = format!("c{number}");
        let members = plans.iter().filter(|p| p.circuit.as_ref() == Some(&name)).count() as u32;
        let half = members.div_ceil(2).max(1);
        let on = [Some(half), Some(half), Some(members.max(1)), Some(1 + members / 3), None];
        let max_on = dice.one(who, Pick::Wiring, &on);
        let starts = if max_on.is_some() { &[None, Some(1), Some(2)][..] } else { &[Some(1), Some(2)][..] };
        let max_starting = dice.one(who, Pick::Wiring, starts);
        circuits.insert(name, Circuit { max_starting, max_on, ..Circuit::default() });
    }
    circuits
}

/// The inventory of these plans.
pub(super) fn inventory(
    plans: &[Plan],
    policies: &BTreeMap<String, Policy>,
    circuits: &BTreeMap<String, Circuit>,
) -> Inventory {
    let mut inventory =
        Inventory { policies: policies.clone(), circuits: circuits.clone(), ..Inventory::default() };
    for (number, plan) in plans.iter().enumerate().filter(|(_, p)| p.listed) {
        inventory.machines.insert(plan.name.clone(), machine(number, plan));
    }
    inventory
}

/// How long some boards may take to fetch what they boot (ms): longer than they may take to come on.
const FETCH_MS: u64 = 45_000;

fn machine(number: usize, plan: &Plan) -> MachineSpec {
    let mut spec = plain(plan.name.clone());
    let half = if number.is_multiple_of(2) { "even" } else { "odd" };
    spec.tags.insert("half".to_owned(), TagValue::from(half));
    spec.circuit.clone_from(&plan.circuit);
    spec.class = Some(format!("class{}", number % 3));
    spec.boot = numbered("sim", "board", number as u64);
    if number % 4 == 1 {
        Arc::make_mut(&mut spec.boot.fields).insert("fetch".to_owned(), Value::from(FETCH_MS));
    }
    match plan.kind {
        Kind::Plain | Kind::NetBoot => {}
        Kind::TwoLegs => spec.legs.insert(0, leg("mains")),
        Kind::Spare => {
            spec.legs.push(leg("mains"));
            (spec.legs[1].usage, spec.legs[1].min_off_ms) = (Some("spare".to_owned()), 3_000);
        }
        Kind::TwoDisks => spec.disks.push(disk("scratch", DiskContent::Zero)),
        Kind::PowerOff => spec.after_build = Some(AfterBuild::PowerOff),
        Kind::Warm => spec.idle = Some(Idle::Warm { max_age_ms: 1_200_000 }),
        Kind::Checked => {
            let run = vec!["check".to_owned()];
            spec.health = Some(HealthCheck { every_ms: 900_000, run, within_ms: 120_000 });
        }
        Kind::Blind => spec.legs[0].readback = false,
        Kind::Keep => keep(&mut spec),
        Kind::Legless => {
            keep(&mut spec);
            spec.ready = DriverSpec::named("power");
            (spec.legs, spec.disks) = (Vec::new(), Vec::new());
        }
        Kind::ByPower => {
            keep(&mut spec);
            spec.ready = DriverSpec::named("power");
        }
        Kind::ByWord => {
            keep(&mut spec);
            spec.ready = DriverSpec::named("console");
        }
        Kind::Flashed => {
            spec.ready = DriverSpec::named("console");
            flash(&mut spec);
            let points = [Point::BeforePower, Point::AfterImage, Point::OnFailure];
            spec.hooks = points.into_iter().map(|point| (point, vec![hook("only", "warn")])).collect();
        }
        Kind::Hooked => {
            let both = || vec![hook("first", "quarantine"), hook("second", "warn")];
            spec.hooks = Point::ALL.into_iter().map(|point| (point, both())).collect();
        }
    }
    for (n, leg) in spec.legs.iter_mut().enumerate() {
        leg.driver = numbered("sim", "outlet", (plan.legs << 32) | ((number as u64) << 8) | n as u64);
    }
    for disk in &mut spec.disks {
        disk.matching.min = (plan.disks > 0).then_some(plan.disks);
    }
    spec
}

/// A programmer that reads back.
pub(crate) fn flash(spec: &mut MachineSpec) {
    let fields = json!({ "run": ["write", "{image}"], "read_back": ["read"], "timeout": 20_000 });
    spec.reimage = command(fields);
    spec.disks = vec![disk("flash", DiskContent::Image)];
}

/// A hook.
pub(crate) fn hook(name: &str, on_error: &str) -> Hook {
    let fields = json!({ "run": ["hook", "{machine}"], "timeout": 20_000, "on_error": on_error });
    Hook { name: name.to_owned(), command: command(fields) }
}

fn command(fields: Value) -> DriverSpec {
    let fields = fields.as_object().cloned().unwrap_or_default();
    DriverSpec { fields: Arc::new(fields), ..DriverSpec::named("command") }
}

fn keep(spec: &mut MachineSpec) {
    (spec.shared, spec.after_build) = (true, Some(AfterBuild::Keep));
}

/// A driver with one number.
fn numbered(driver: &str, field: &str, number: u64) -> DriverSpec {
    let fields = Map::from_iter([(field.to_owned(), Value::from(number))]);
    DriverSpec { fields: Arc::new(fields), ..DriverSpec::named(driver) }
}

/// A power leg that can be read back.
pub(crate) fn leg(name: &str) -> LegSpec {
    LegSpec {
        name: name.into(),
        driver: DriverSpec::named("sim"),
        min_off_ms: 0,
        readback: true,
        usage: None,
    }
}

/// A disk that needs no telling apart.
pub(crate) fn disk(name: &str, content: DiskContent) -> DiskSpec {
    DiskSpec { name: name.into(), matching: DiskMatch::default(), content, verify: Verify::Full }
}

/// A machine with one leg, one disk, the agent's evidence and short limits.
pub fn plain(name: MachineName) -> MachineSpec {
    MachineSpec {
        name,
        n: None,
        class: None,
        tags: BTreeMap::new(),
        location: None,
        note: None,
        circuit: None,
        image: Some(IMAGES[0].to_owned()),
        server: None,
        legs: vec![leg("power")],
        consoles: BTreeMap::new(),
        boot: DriverSpec::named("sim"),
        disks: vec![disk("root", DiskContent::Image)],
        other_disks: OtherDisks::Quarantine,
        ready: DriverSpec::named("agent"),
        reimage: DriverSpec::named("agent"),
        shell: None,
        switches: BTreeMap::new(),
        buttons: BTreeMap::new(),
        hooks: BTreeMap::new(),
        shared: false,
        policy: None,
        after_build: None,
        idle: None,
        on_agent_lost: None,
        limits: Limits {
            power_ms: 10_000,
            firmware_ms: 60_000,
            attach_ms: 30_000,
            reimage_ms: 300_000,
            handover_ms: 60_000,
            evidence_ms: 30_000,
            claim_ms: 60_000,
        },
        health: None,
        console_quota: None,
        sources: Arc::new(Sources::nowhere()),
    }
}
