//! What happened so far, as the event stream and the builds tell it.

use super::build::{Build, FromBuild, MARK};
use super::tell::{Teller, mib};
use crate::cli::Result;
use crate::cli::out::Tone;
use pitstop_wire::api::{Event, Machine, Reservation, ReservationState, Time, Update};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::ExitStatus;

/// A build and what became of it.
#[derive(Default)]
pub struct Course {
    /// Its name.
    pub name: String,
    /// What it asks for.
    pub select: String,
    /// Its process.
    pub process: Option<Build>,
    /// Its reservation, `R-1`.
    pub id: Option<String>,
    /// Whether its reservation had to wait in the queue.
    pub waited: bool,
    /// Machines it was given, the newest last.
    pub given: Vec<String>,
    /// The machine that it dirtied.
    pub dirtied: Option<String>,
    /// When its session was lost.
    pub lost: Option<Time>,
    /// How its process ended.
    pub exit: Option<ExitStatus>,
    /// Comes to its end as soon as its work is done.
    pub brief: bool,
    /// What it complained about last.
    pub complaint: String,
}

/// What a machine went through.
#[derive(Default)]
pub struct History {
    /// Builds that had it in their hands.
    pub served: Vec<String>,
    /// When the last of them was done with it.
    pub left: Option<Time>,
    /// What else happened.
    pub notes: Vec<String>,
    /// Marks of a build that were seen on its disk while the build ran.
    pub marks: usize,
    /// What it said before it was quarantined.
    pub console: Vec<String>,
}

/// Everything.
#[derive(Default)]
pub struct World {
    /// By name.
    pub machines: BTreeMap<String, Machine>,
    /// In the order of their start.
    pub builds: Vec<Course>,
    /// By machine.
    pub history: BTreeMap<String, History>,
    /// Machines that were quarantined and not yet looked at.
    pub failed: Vec<String>,
}

impl World {
    /// The build with this reservation.
    fn of_reservation(&mut self, id: Option<&str>) -> Option<&mut Course> {
        self.builds.iter_mut().find(|b| b.id.is_some() && b.id.as_deref() == id)
    }

    /// Whether it is a build, by its reservation's reason.
    fn named(&mut self, name: Option<&str>) -> Option<&mut Course> {
        self.builds.iter_mut().find(|b| Some(b.name.as_str()) == name)
    }

    fn history(&mut self, machine: &str) -> &mut History {
        self.history.entry(machine.to_owned()).or_default()
    }

    /// Takes a message of the stream in, and tells it if it is part of the
    /// story.
    pub fn update(&mut self, update: Update, tell: &Teller) -> Result {
        match update {
            Update::Snapshot(lab) => {
                self.machines = lab.machines.into_iter().map(|m| (m.name.to_string(), m)).collect();
                Ok(())
            }
            Update::Machine(m) => {
                self.machines.insert(m.name.to_string(), *m);
                Ok(())
            }
            Update::Reservation(r) => self.reservation(&r, tell),
            Update::Record(event) => match event.machine.as_ref().map(ToString::to_string) {
                Some(machine) if event.reservation.is_none() => self.of_machine(&machine, &event, tell),
                machine => self.of_build(machine.as_deref(), &event, tell),
            },
            Update::Reset | Update::Gone(_) | Update::Progress(_) => Ok(()),
        }
    }

    fn reservation(&mut self, r: &Reservation, tell: &Teller) -> Result {
        let Some(build) = self.of_reservation(Some(&r.id)) else { return Ok(()) };
        if r.state == ReservationState::Waiting && !build.waited && build.given.is_empty() {
            build.waited = true;
            let text = format!("{} for {}: both are taken, so it waits", r.id, build.select);
            return tell.line(r.created, &build.name, Tone::Used, "asks", &text);
        }
        Ok(())
    }

    /// Records about reservations.
    fn of_build(&mut self, machine: Option<&str>, event: &Event, tell: &Teller) -> Result {
        let at = event.time;
        if event.kind == "queued" {
            let reason = text(&event.data, "/ask/reason").map(str::to_owned);
            if let Some(build) = self.named(reason.as_deref()) {
                build.id.clone_from(&event.reservation);
            }
            return Ok(());
        }
        let Some(build) = self.of_reservation(event.reservation.as_deref()) else { return Ok(()) };
        let (name, id) = (build.name.clone(), build.id.clone().unwrap_or_default());
        match (event.kind.as_str(), machine) {
            ("granted", Some(machine)) => {
                let failed = build.given.last().cloned();
                let (what, text) = match (&failed, build.waited) {
                    (Some(failed), _) => ("gets", format!("{id}: {machine} instead of {failed}")),
                    (None, true) => ("gets", format!("{id}: {machine}, the first that is clean again")),
                    (None, false) => ("asks", format!("{id} for {}: gets {machine}", build.select)),
                };
                build.given.push(machine.to_owned());
                let note = failed.map(|failed| format!("in place of {failed}"));
                self.history(machine).notes.extend(note);
                tell.line(at, &name, Tone::Used, what, &text)
            }
            ("member-dropped", Some(machine)) => {
                self.history(machine).notes.push(format!("did not boot for {name}"));
                Ok(())
            }
            ("ended", _) => {
                let lost = text(&event.data, "/why/end") == Some("lost");
                build.lost = lost.then_some(at);
                if let Some(machine) = build.given.last().cloned() {
                    let history = self.history(&machine);
                    history.left = Some(at);
                    if lost {
                        history.notes.push(format!("{name} killed, session lost"));
                    }
                }
                if !lost {
                    return Ok(());
                }
                tell.line(
                    at,
                    &name,
                    Tone::Bad,
                    "lost",
                    &format!("{id}: its session stopped beating, so its machine is taken back"),
                )
            }
            _ => Ok(()),
        }
    }

    /// Records about machines.
    fn of_machine(&mut self, machine: &str, event: &Event, tell: &Teller) -> Result {
        let at = event.time;
        let busy = |what: &str, text: &str| tell.line(at, machine, Tone::Busy, what, text);
        match event.kind.as_str() {
            "agent-attached" if text(&event.data, "/agent/kind") == Some("boot") => {
                busy("boot agent", "off was read back, then our program booted into its RAM")
            }
            "agent-attached" => busy("hand-over", "off again, then demo-os booted from the disk"),
            "disk-proven" => {
                let bytes = |key: &str| {
                    let proof = event.data.pointer(&format!("/certificate/proof/{key}"));
                    mib(proof.and_then(Value::as_u64).unwrap_or(0))
                };
                let (written, read, size) =
                    (bytes("written_bytes"), bytes("read_bytes"), bytes("device_bytes"));
                let wrote = match written.as_str() {
                    "0" => "holds it already".to_owned(),
                    some => format!("{some} MiB written"),
                };
                busy("disk", &format!("{wrote}, {read} of {size} MiB read back: proven clean"))
            }
            "in-use" => {
                let has = |b: &&Course| {
                    b.exit.is_none() && b.lost.is_none() && b.given.last().is_some_and(|m| m == machine)
                };
                let name = self.builds.iter().rev().find(has).map(|b| b.name.clone());
                self.history(machine).served.extend(name);
                Ok(())
            }
            "freed" if event.data.get("good") == Some(&Value::Bool(true)) => {
                tell.line(at, machine, Tone::Plain, "free", "off again, for whoever comes next")
            }
            "phase-failed" => {
                let (phase, evidence) =
                    (text(&event.data, "/failure/phase"), text(&event.data, "/failure/evidence"));
                let words = format!("{}: {}", phase.unwrap_or_default(), evidence.unwrap_or_default());
                tell.line(at, machine, Tone::Bad, "FAILED", &words)
            }
            "health-set" if text(&event.data, "/health/health") == Some("quarantined") => {
                self.failed.push(machine.to_owned());
                let class = text(&event.data, "/health/failure/class").unwrap_or("?");
                tell.line(
                    at,
                    machine,
                    Tone::Bad,
                    "FAILED",
                    &format!("twice is enough: quarantined, class {class}. Its console:"),
                )
            }
            _ => Ok(()),
        }
    }

    /// Takes in what a build did.
    pub fn heard(&mut self, number: usize, what: FromBuild, tell: &Teller) -> Result {
        let Some(build) = self.builds.get_mut(number) else { return Ok(()) };
        match what {
            FromBuild::Said(line) => {
                build.dirtied = build.given.last().cloned();
                if build.brief
                    && let Some(process) = &mut build.process
                {
                    process.finish();
                }
                let machine = build.dirtied.clone().unwrap_or_default();
                tell.now(&build.name, Tone::Used, "runs", &format!("on {machine}: {line}"))
            }
            FromBuild::Complained(line) => {
                build.complaint = line;
                Ok(())
            }
            FromBuild::Ended(status) => {
                build.exit = Some(status);
                match status.code() {
                    Some(0) => tell.now(&build.name, Tone::Used, "done", "exit code 0, released"),
                    Some(code) => tell.now(
                        &build.name,
                        Tone::Bad,
                        "failed",
                        &format!("exit code {code}: {}", build.complaint),
                    ),
                    None => Ok(()),
                }
            }
        }
    }
}

fn text<'a>(data: &'a Value, pointer: &str) -> Option<&'a str> {
    data.pointer(pointer).and_then(Value::as_str)
}

/// What a build leaves on disks. The end is not to be guessed from the name.
pub fn mark(name: &str) -> Result<String> {
    let key = pitstop_client::new_key()?;
    Ok(format!("{MARK}{name}/{key}"))
}
