//! Records as outsiders see them: one line each, and their data without
//! secrets.

use super::machine::reading;
use super::words::{actor, agent_kind, goal, purpose, switch};
use pitstop_core::machine::{FailureClass, Health, Phase};
use pitstop_core::record::{Change, Record};
use pitstop_wire::agent::Hardware;
use pitstop_wire::api::{Event, Schema, Time};
use pitstop_wire::text::one_line;
use serde_json::Value;

/// A record as an event; `None` for records about keys and tokens, which
/// concern nobody but the daemon.
pub fn event(record: &Record) -> Option<Event> {
    let said = say(&record.change)?;
    let mut data = serde_json::to_value(&record.change).unwrap_or(Value::Null);
    let kind = data.get("change").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    without_secrets(&mut data);
    Some(Event {
        schema: Schema::new("pitstop.event/1"),
        number: record.number,
        time: Time(record.wall),
        actor: actor(&record.actor),
        kind,
        machine: record.change.machine().cloned(),
        reservation: record.change.reservation().map(|id| id.to_string()),
        // It may quote machines, and ends up in terminals and logs.
        text: one_line(&said.text),
        detail: said.detail,
        data,
    })
}

/// Fields that fence or open something. Hashes too: nobody outside needs
/// them, and what is not sent cannot be attacked.
const SECRET: [&str; 8] = ["token", "spent", "key", "rejoin", "nonce", "answer", "request", "expect"];

fn without_secrets(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !SECRET.contains(&key.as_str()));
            map.values_mut().for_each(without_secrets);
        }
        Value::Array(list) => list.iter_mut().for_each(without_secrets),
        _ => {}
    }
}

struct Said {
    text: String,
    detail: bool,
}

fn story(text: impl Into<String>) -> Option<Said> {
    Some(Said { text: text.into(), detail: false })
}

fn detail(text: impl Into<String>) -> Option<Said> {
    Some(Said { text: text.into(), detail: true })
}

fn say(change: &Change) -> Option<Said> {
    say_of_lab(change)
        .or_else(|| say_of_reservation(change))
        .or_else(|| say_of_turn(change))
        .or_else(|| say_of_hands(change))
}

fn say_of_lab(change: &Change) -> Option<Said> {
    match change {
        Change::Opened { epoch } => story(format!("daemon started, epoch {}", epoch.0)),
        Change::Restored { .. } => {
            story("▲ restored from a backup: nothing that it says of machines is believed")
        }
        Change::MachineDoubted { .. } => {
            detail("nothing is known of its power and disks, and nobody holds it")
        }
        Change::MachineDeclared { health, .. } => {
            story(format!("declared in the inventory, {}", health_text(health)))
        }
        Change::CircuitSet { circuit: Some(circuit), .. } => detail(format!("hangs on circuit {circuit}")),
        Change::CircuitSet { circuit: None, .. } => detail("hangs on no circuit"),
        Change::MachineForgotten { .. } => story("left the inventory"),
        Change::HealthSet { health, .. } => story(health_text(health)),
        Change::ImageNamed { image, bytes } => story(format!("image {} added, {bytes} bytes", image.name)),
        Change::ImageForgotten { name } => story(format!("image {name} removed")),
        Change::ImageFailed { image, failure, .. } => {
            story(format!("▲ image {image} failed in {}: {}", failure.phase, failure.evidence))
        }
        Change::ImageWorked { image, class } => story(format!("image {image} works{}", on_class(class))),
        Change::ImageSuspected { image, class, .. } => {
            story(format!("✗ image {image} is suspected{}: not handed out", on_class(class)))
        }
        Change::ImageOnTrial { image, class } => {
            story(format!("one machine may try image {image}{}", on_class(class)))
        }
        Change::ImageTried { image, .. } => detail(format!("image {image} is tried")),
        Change::ImageTrusted { image } => story(format!("image {image} is trusted again")),
        Change::ImageReplaced { image, .. } => story(format!("takes the new image {}", image.name)),
        Change::ClassPaused { machines, cause: FailureClass::Lab, .. } => {
            let names: Vec<&str> = machines.iter().map(|m| m.as_str()).collect();
            story(format!("▲ {} rests: the lab could not do its part", names.join(", ")))
        }
        Change::ClassPaused { class, cause, .. } => {
            story(format!("✗ class {class} is paused: too much of it failed at {}", cause.name()))
        }
        Change::ClassResumed { class, .. } => story(format!("class {class} goes on")),
        _ => None,
    }
}

/// Where an image is in doubt.
fn on_class(class: &str) -> String {
    if class.is_empty() { String::new() } else { format!(" on class {class}") }
}

fn say_of_reservation(change: &Change) -> Option<Said> {
    match change {
        Change::Queued { owner, ask, .. } => {
            let roles: Vec<String> =
                (ask.roles.iter())
                    .map(|r| {
                        if r.count == 1 {
                            r.select.to_string()
                        } else {
                            format!("{} × {}", r.count, r.select)
                        }
                    })
                    .collect();
            story(format!(
                "{owner} asks for {}",
                if roles.concat().is_empty() { "any machine".to_owned() } else { roles.join(" + ") }
            ))
        }
        Change::Granted { machine, .. } => story(format!("gets {machine}")),
        Change::MemberDropped { machine, failed: true, .. } => {
            story(format!("gives {machine} up: it failed"))
        }
        Change::MemberDropped { machine, failed: false, .. } => story(format!("gives {machine} back")),
        Change::Requeued { .. } => story("back to its place in the queue"),
        Change::MemberReady { machine, .. } => detail(format!("{machine} is prepared")),
        Change::ReservationReady { .. } => story("ready"),
        Change::ClaimMoved { .. } => detail("kept longer for its holder"),
        Change::Claimed { .. } => story("in use"),
        Change::Extended { .. } => story("extended"),
        Change::Ended { why, .. } => story(format!("ended: {}", why.words())),
        Change::ReservationForgotten { .. } => detail("left the rows; its records stay"),
        Change::WarmTaken { reservation, .. } => story(format!("warm, given to {reservation}")),
        Change::RunStarted { command, .. } => story(format!("runs: {command}")),
        _ => None,
    }
}

fn say_of_turn(change: &Change) -> Option<Said> {
    match change {
        Change::TurnStarted { purpose: p, goal: g, image, .. } => {
            let image = image.as_ref().map(|i| format!(", image {}", i.name)).unwrap_or_default();
            story(format!("{} begins, goal {}{image}", purpose(*p), goal(*g)))
        }
        Change::PhaseEntered { phase, .. } => story(phase_text(phase)),
        Change::DeadlineMoved { .. } => detail("the phase may last longer"),
        Change::PhaseFailed { failure, .. } => {
            story(format!("✗ {} failed ({}): {}", failure.phase, failure.class.name(), failure.evidence))
        }
        Change::AttemptStarted { attempt, .. } => detail(format!("attempt {attempt}")),
        Change::AttemptBurned { .. } => story("✗ boot parameters were asked for twice: attempt burned"),
        Change::MachineReady { until: Some(_), .. } => story("warm"),
        Change::MachineReady { until: None, .. } => story("prepared"),
        Change::InUse { .. } => story("in its holder's hands"),
        Change::Freed { good: true, .. } => story("free"),
        Change::ProofPassed { .. } => story("came through its proving turn"),
        Change::QuarantineExcused { .. } => story("its failure is put down to the image; it is proven now"),
        Change::ProofInVain { .. } => story("its proving turn failed, as its whole class does"),
        Change::Freed { good: false, .. } => story("at rest, not proven"),
        Change::DiskWriting { disk, .. } => detail(format!("disk {disk} may be written from now on")),
        Change::DiskProven { certificate, .. } => {
            let proof = &certificate.proof;
            story(format!("proven: {} bytes read back, {} written", proof.read_bytes, proof.written_bytes))
        }
        Change::DiskByCommand { proof, .. } => story(format!(
            "by command: {} read back {} bytes, of which {} are the image; no proof of ours",
            proof.by, proof.read_bytes, proof.image_bytes
        )),
        Change::HooksDone { point, .. } => detail(format!("hooks {point} are done")),
        Change::NotMeddled { .. } => detail("no hook has booted it since its disks were proven"),
        Change::DiskUsed { disk, .. } => detail(format!("disk {disk} counts as used")),
        _ => None,
    }
}

fn say_of_hands(change: &Change) -> Option<Said> {
    match change {
        Change::PowerIntended { intent, .. } => detail(format!("power {} decided", switch(intent.want))),
        Change::PowerUnsettled { answer, .. } => story(format!("▲ power command may still land: {answer}")),
        Change::PowerSettled { .. } => detail("power command settled"),
        Change::PowerSeen { reading: seen, .. } => detail(format!("power read: {}", reading(Some(*seen)))),
        Change::GaveWay { circuit, waits, .. } => {
            story(format!("is switched off: {waits} waits for its place on circuit {circuit}"))
        }
        Change::ProofAsked { .. } => story("is proven as soon as its circuit has a place"),
        Change::PowerCut { reason, .. } => story(format!("▲ its spare leg cuts the power: {reason}")),
        Change::CutOver { reason, .. } => story(format!("its first leg switches it again: {reason}")),
        Change::LandingMoved { .. } => detail("a power command under way may land later"),
        Change::CycleStopped { .. } => {
            story("✗ power cycle: it did not go off, and is not switched on again")
        }
        Change::PowerByHolder { action, .. } => story(format!("power {action} by the holder")),
        Change::PowerByAdmin { action, reason, .. } => {
            let why = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            story(format!("{action} by an admin, out of use{why}"))
        }
        Change::EvidenceSeen { what, .. } => story(format!("up: {what}")),
        Change::ActBegun { what, .. } => story(what.clone()),
        Change::ActDone { what, .. } => detail(format!("{what}: done")),
        Change::ActFailed { what, answer, .. } => story(format!("✗ {what}: {answer}")),
        Change::ProgramBegun { job, .. } => story(format!("{job} begins")),
        Change::ProgramEnded { job, trouble: None, .. } => story(format!("{job}: done")),
        Change::ProgramEnded { job, trouble: Some(said), warned: true, .. } => {
            story(format!("▲ {job}, which only warns: {said}"))
        }
        Change::ProgramEnded { job, trouble: Some(said), again: Some(_), .. } => {
            story(format!("▲ {job} is tried again, it is not the board's fault: {said}"))
        }
        Change::ProgramEnded { job, trouble: Some(said), .. } => story(format!("✗ {job}: {said}")),
        Change::ProgramGone { .. } => detail("a program that was stopped is gone"),
        Change::AgentAttached { agent, .. } => {
            story(format!("{} agent {} attached", agent_kind(agent.kind), agent.version))
        }
        Change::AgentResumed { .. } => detail("agent came back"),
        Change::AgentLost { .. } => detail("agent's connection lost"),
        Change::AgentRefused { reason, .. } => story(format!("▲ an agent was refused: {reason}")),
        Change::ConsoleSaid { saying, line, .. } if saying.is_trouble() && !line.is_empty() => {
            story(format!("▲ {} on the console: {line}", saying.words()))
        }
        Change::ConsoleSaid { saying, .. } => story(format!("{} on the console", saying.words())),
        Change::AgentDismissed { .. } => detail("agent dismissed"),
        Change::StepTold { step, what, .. } => detail(format!("step {step}: {what}")),
        Change::StepDone { step, .. } => detail(format!("step {step} done")),
        Change::HardwareSeen { hardware, .. } => {
            detail(format!("hardware: {} disks, {} bytes of memory", hardware.disks.len(), hardware.memory))
        }
        Change::BaselineSet { baseline, .. } => story(format!("enrolled as {}", found(&baseline.facts))),
        Change::FactsDiffer { differences, .. } => {
            story(format!("▲ since it was enrolled: {}", differences.join("; ")))
        }
        Change::WiringBegun { by, .. } => story(format!("{by} checks its wires")),
        Change::WiringEnded { why, .. } => story(format!("the check of its wires is over: {why}")),
        _ => None,
    }
}

/// A machine in a few words.
fn found(facts: &Hardware) -> String {
    let mut words = vec![match &facts.serial {
        Some(serial) => format!("serial {serial}"),
        None => "a machine without a serial number".to_owned(),
    }];
    words.extend(facts.disks.iter().map(|disk| match &disk.serial {
        Some(serial) => format!("disk {serial}"),
        None => format!("disk {} without a serial number", disk.path),
    }));
    words.push(format!("{} MiB of memory", facts.memory >> 20));
    words.join(", ")
}

fn phase_text(phase: &Phase) -> String {
    match phase {
        Phase::Disk { writing: true, .. } => "disk: writing".to_owned(),
        Phase::Disk { writing: false, .. } => "disk: proving".to_owned(),
        Phase::Flash { writing: true } => "disk: written by reimage.command".to_owned(),
        Phase::Flash { writing: false } => "disk: read back once more".to_owned(),
        Phase::Hook { point, .. } => format!("hook {point}"),
        Phase::AfterHooks => "hook: looking behind it".to_owned(),
        other => other.name().to_owned(),
    }
}

fn health_text(health: &Health) -> String {
    match health {
        Health::Good => "good".to_owned(),
        Health::New => "new: observed only, until an admin enrols it".to_owned(),
        Health::Quarantined { failure, .. } => {
            format!("✗ quarantined ({}): {}", failure.class.name(), failure.evidence)
        }
        Health::Drained { by, reason, .. } => format!("drained by {by}: \"{reason}\""),
        Health::Retired => "retired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_core::id::{Epoch, SecretHash};
    use pitstop_core::machine::Agent;
    use pitstop_core::record::Actor;
    use pitstop_core::time::LabTime;
    use pitstop_wire::MachineName;
    use pitstop_wire::agent::AgentKind;

    fn record(change: Change) -> Record {
        Record { number: 1, at: LabTime(0), wall: 0, epoch: Epoch(1), actor: Actor::Lab, change }
    }

    #[test]
    fn an_attach_is_told_without_what_fences_it() {
        let agent = Agent {
            kind: AgentKind::Boot,
            version: "0.1".into(),
            nonce: "the-nonce".into(),
            boot_id: "boot-1".into(),
            key: SecretHash::of("k"),
            rejoin: vec![SecretHash::of("r")],
            lost: None,
            excused: false,
        };
        let machine = MachineName::new("m").unwrap();
        let said = event(&record(Change::AgentAttached { machine, agent, spent: Some(SecretHash::of("t")) }))
            .unwrap();
        let text = serde_json::to_string(&said).unwrap();
        for secret in ["k", "r", "t"] {
            assert!(!text.contains(&serde_json::to_string(&SecretHash::of(secret)).unwrap()), "{text}");
        }
        assert!(!text.contains("the-nonce"));
        assert_eq!(said.text, "boot agent 0.1 attached");
        assert_eq!(said.kind, "agent-attached");
    }

    #[test]
    fn tokens_and_keys_are_no_events() {
        let machine = MachineName::new("m").unwrap();
        let issued = Change::TokenIssued { machine, kind: AgentKind::Boot, token: SecretHash::of("t") };
        assert_eq!(event(&record(issued)), None);
    }

    #[test]
    fn evidence_from_a_machine_cannot_move_the_cursor() {
        let machine = MachineName::new("m").unwrap();
        let said = event(&record(Change::AgentRefused { machine, reason: "a\u{1b}[2Jb\nc".into() })).unwrap();
        assert!(!said.text.chars().any(char::is_control), "{:?}", said.text);
    }
}
