//! Machines as outsiders see them.

use super::Clock;
use super::words::{agent_kind, purpose};
use pitstop_core::Lab;
use pitstop_core::facts::{Difference, meant_by};
use pitstop_core::inventory::model::DiskSpec;
use pitstop_core::inventory::{DriverSpec, MachineSpec};
use pitstop_core::machine::{self as core, Content, Health, Phase, Purpose, Reading, Stage, Switch};
use pitstop_core::queue::clean_of;
use pitstop_core::reservation::Reservation;
use pitstop_wire::agent::{Hardware, SeenDisk};
use pitstop_wire::api::{
    AgentState, Clean, CutState, Differs, DiskState, Found, FoundDisk, HealthState, Holder, LegState,
    Machine, Machines, PauseState, Schema, Shown, State, TurnState,
};
use pitstop_wire::selector::TagValue;

/// One machine.
pub fn machine(lab: &Lab, m: &core::Machine) -> Machine {
    let clock = Clock::of(lab);
    let spec = lab.spec(&m.name);
    Machine {
        schema: Schema::new("pitstop.machine/1"),
        name: m.name.clone(),
        state: state(m),
        shown: shown(m),
        since: clock.wall(m.since),
        health: health(&m.health, clock),
        clean: clean(m, spec),
        tags: spec.map(|s| s.tags.iter().map(|(k, v)| (k.clone(), tag(v))).collect()).unwrap_or_default(),
        found_tags: m.baseline.iter().flat_map(|b| &b.tags).map(|(k, v)| (k.clone(), tag(v))).collect(),
        found: m.hardware.as_ref().map(|h| found(h, spec)),
        differences: lab.differences(m).into_iter().map(differs).collect(),
        checked_by: m.wiring.as_ref().map(|w| w.by.clone()),
        class: spec.and_then(|s| s.class.clone()),
        location: spec.and_then(|s| s.location.clone()),
        note: spec.and_then(|s| s.note.clone()),
        holder: m.reservation().and_then(|id| lab.reservation(id)).map(|r| holder(r, clock)),
        turn: m.turn().map(|t| turn(m, t, clock)),
        image: image(m).or_else(|| spec.and_then(|s| s.image.clone())),
        legs: m.legs.iter().enumerate().map(|(n, l)| leg(l, !lab.rules(m, n), clock)).collect(),
        cut: m.cut.as_ref().map(|c| CutState { since: clock.wall(c.since), reason: c.reason.clone() }),
        circuit: m.circuit.clone(),
        disks: m.disks.iter().map(disk).collect(),
        consoles: spec.map(|s| s.consoles.keys().cloned().collect()).unwrap_or_default(),
        switches: spec.map(|s| s.switches.iter().map(positions).collect()).unwrap_or_default(),
        buttons: spec.map(|s| s.buttons.keys().cloned().collect()).unwrap_or_default(),
        boot: spec.map(|s| s.boot.driver.clone()),
        agent: m.agent.as_ref().map(|a| agent(a, clock)),
        pause: m.pause.map(|p| PauseState { cause: p.cause.name().to_owned(), until: clock.wall(p.until) }),
        turns: m.turns,
        failures: m.failures,
    }
}

/// Several machines.
pub fn machines(list: Vec<Machine>) -> Machines {
    Machines { schema: Schema::new("pitstop.machines/1"), machines: list }
}

/// Where a machine is.
pub fn state(m: &core::Machine) -> State {
    match (&m.stage, &m.health) {
        (Stage::InUse { .. }, _) => State::InUse,
        (Stage::Ready { .. }, _) => State::Ready,
        (Stage::Turn(t), _) => match t.purpose {
            Purpose::Prepare => State::Preparing,
            Purpose::Turnaround => State::Turnaround,
            Purpose::Prove | Purpose::Look => State::Proving,
        },
        (Stage::Free, Health::Good) if m.wiring.is_some() => State::Checking,
        (Stage::Free, Health::Good) => State::Free,
        (Stage::Free, Health::New) => State::New,
        (Stage::Free, Health::Quarantined { .. }) => State::Quarantined,
        (Stage::Free, Health::Drained { .. }) => State::Drained,
        (Stage::Free, Health::Retired) => State::Retired,
    }
}

/// The same in the word people see.
pub fn shown(m: &core::Machine) -> Shown {
    match state(m) {
        State::Free => Shown::Free,
        State::Ready => Shown::Ready,
        State::InUse => Shown::Held,
        State::Proving => Shown::Proving,
        State::Quarantined => Shown::Failed,
        State::Drained => Shown::Drained,
        State::Retired => Shown::Retired,
        State::New => Shown::New,
        State::Checking => Shown::Checking,
        State::Turnaround => Shown::Imaging,
        State::Preparing => match m.turn().map(|t| &t.phase) {
            Some(Phase::Disk { .. } | Phase::Flash { .. }) => Shown::Imaging,
            _ => Shown::Booting,
        },
    }
}

fn clean(m: &core::Machine, spec: Option<&MachineSpec>) -> Clean {
    match spec.map_or_else(|| m.clean(), |spec| clean_of(m, spec)) {
        "proven" => Clean::Proven,
        "by-command" => Clean::ByCommand,
        "used" => Clean::Used,
        "writing" => Clean::Writing,
        _ => Clean::Unknown,
    }
}

fn tag(value: &TagValue) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or(serde_json::Value::Null)
}

fn found(hardware: &Hardware, spec: Option<&MachineSpec>) -> Found {
    let name = |disk: &SeenDisk| {
        let meant = |s: &&DiskSpec| meant_by(&s.matching, hardware).is_some_and(|d| d.path == disk.path);
        spec.into_iter().flat_map(|s| &s.disks).find(meant).map(|s| s.name.clone())
    };
    let disk = |disk: &SeenDisk| FoundDisk {
        name: name(disk),
        path: disk.path.clone(),
        bytes: disk.bytes,
        bus: disk.bus.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        model: disk.model.clone(),
        firmware: disk.firmware.clone(),
    };
    Found {
        serial: hardware.serial.clone(),
        uuid: hardware.uuid.clone(),
        model: hardware.model.clone(),
        arch: hardware.arch.clone(),
        cores: hardware.cores,
        cpus: hardware.cpus,
        memory: hardware.memory,
        macs: hardware.macs.clone(),
        firmware: hardware.firmware.clone(),
        disks: hardware.disks.iter().map(disk).collect(),
    }
}

fn differs(difference: Difference) -> Differs {
    Differs { text: difference.text, grave: difference.grave }
}

fn image(m: &core::Machine) -> Option<String> {
    let image = match &m.stage {
        Stage::Free => None,
        Stage::Turn(turn) => turn.image.as_ref(),
        Stage::Ready { image, .. } | Stage::InUse { image, .. } => image.as_ref(),
    };
    image.map(|i| i.name.clone())
}

fn health(health: &Health, clock: Clock) -> HealthState {
    match health {
        Health::Good => HealthState::Good,
        Health::New => HealthState::New,
        Health::Quarantined { failure, at, again } => HealthState::Quarantined {
            class: failure.class.name().to_owned(),
            phase: failure.phase.clone(),
            evidence: failure.evidence.clone(),
            at: clock.wall(*at),
            again: Some(clock.wall(*again)),
        },
        Health::Drained { by, reason, at } => {
            HealthState::Drained { by: by.clone(), reason: reason.clone(), at: clock.wall(*at) }
        }
        Health::Retired => HealthState::Retired,
    }
}

fn holder(r: &Reservation, clock: Clock) -> Holder {
    Holder {
        user: r.owner.clone(),
        reservation: r.id.to_string(),
        reason: r.ask.reason.clone(),
        ends: r.ends.map(|at| clock.wall(at)),
    }
}

fn turn(m: &core::Machine, t: &core::Turn, clock: Clock) -> TurnState {
    let (disk, writing) = match t.phase {
        Phase::Disk { disk, writing } => (m.disks.get(disk).map(|d| d.name.clone()), writing),
        Phase::Flash { writing } => (m.disks.first().map(|d| d.name.clone()), writing),
        _ => (None, false),
    };
    TurnState {
        number: t.number,
        purpose: purpose(t.purpose).to_owned(),
        phase: t.phase.name().to_owned(),
        disk,
        writing,
        phase_since: clock.wall(t.phase_since),
        deadline: clock.wall(t.deadline),
        started: clock.wall(t.started),
        attempt: t.attempt.as_ref().map(|a| a.number),
        failed: t.failed,
    }
}

fn leg(leg: &core::Leg, aside: bool, clock: Clock) -> LegState {
    LegState {
        name: leg.name.clone(),
        reading: reading(leg.seen.map(|s| s.reading)).to_owned(),
        at: leg.seen.map(|s| clock.wall(s.at)),
        unsettled: leg.unsettled.len(),
        aside,
    }
}

/// A reading in a word. Unknown is not off.
pub fn reading(reading: Option<Reading>) -> &'static str {
    match reading {
        Some(Reading::On) => "on",
        Some(Reading::Off) => "off",
        Some(Reading::Assumed(Switch::On)) => "assumed-on",
        Some(Reading::Assumed(Switch::Off)) => "assumed-off",
        Some(Reading::Unknown) | None => "unknown",
    }
}

fn disk(disk: &core::Disk) -> DiskState {
    let mut state = DiskState {
        name: disk.name.clone(),
        content: "unknown".to_owned(),
        digest: None,
        proven: None,
        boot: None,
        read_bytes: None,
        written_bytes: None,
        device_bytes: None,
        by_command: None,
        by: None,
        image_bytes: None,
        used_by: None,
    };
    match &disk.content {
        Content::Unknown => {}
        Content::Writing { .. } => state.content = "writing".to_owned(),
        Content::Used { by } => {
            state.content = "used".to_owned();
            state.used_by = by.map(|id| id.to_string());
        }
        Content::Proven(c) => {
            state.content = "proven".to_owned();
            state.digest.clone_from(&c.digest);
            state.proven = Some(pitstop_wire::api::Time(c.wall));
            state.boot = Some(c.boot.clone());
            state.read_bytes = Some(c.proof.read_bytes);
            state.written_bytes = Some(c.proof.written_bytes);
            state.device_bytes = Some(c.proof.device_bytes);
        }
        Content::ByCommand(c) => {
            state.content = "by-command".to_owned();
            state.digest = Some(c.digest.clone());
            state.by_command = Some(pitstop_wire::api::Time(c.wall));
            state.by = Some(c.by.clone());
            state.read_bytes = Some(c.read_bytes);
            state.image_bytes = Some(c.image_bytes);
        }
    }
    state
}

fn agent(a: &core::Agent, clock: Clock) -> AgentState {
    AgentState {
        kind: agent_kind(a.kind).to_owned(),
        version: a.version.clone(),
        boot_id: a.boot_id.clone(),
        connected: a.lost.is_none(),
        lost: a.lost.map(|at| clock.wall(at)),
    }
}

fn positions((name, switch): (&String, &DriverSpec)) -> (String, Vec<String>) {
    let positions = switch.list("positions").unwrap_or_default();
    (name.clone(), positions.into_iter().map(str::to_owned).collect())
}
