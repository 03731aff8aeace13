//! Care for the lab. Who may is decided by the core, together with the rest.

use super::Shared;
use super::error::{Answer, Refusal, not_found, usage};
use super::extract::{Asked, Name};
use super::machines::done;
use super::select::matching;
use axum::Json;
use axum::extract::State;
use pitstop_core::Lab;
use pitstop_core::event::Request;
use pitstop_core::inventory::model::{DiskMatch, DiskSpec};
use pitstop_core::inventory::{Change, KeyChange, diff, diff_lab};
use pitstop_wire::api::{Beat, Done, Drain, Enrol, Enrolled, NewMachine, Reload, Reloaded, Schema};
use pitstop_wire::text::one_line;
use pitstop_wire::{ApiError, Code, MachineName, Selector};
use std::sync::Arc;

/// Take a machine out.
pub async fn drain(State(app): State<Shared>, Name(machine): Name, asked: Asked<Drain>) -> Answer<Done> {
    let reason = one_line(asked.body.reason.trim());
    if reason.is_empty() || reason.len() > 500 {
        return Err(usage("a `reason` of 1 to 500 bytes is needed: others will read it"));
    }
    let answer = app.desk.ask(asked.caller, Request::Drain { machine: machine.clone(), reason }).await?;
    let text = match answer.get("in_use").and_then(serde_json::Value::as_bool) {
        Some(true) => format!("{machine} is drained; its holder keeps it until he is done"),
        _ => format!("{machine} is drained"),
    };
    Ok(done(text, answer))
}

/// Put a drained machine back.
pub async fn undrain(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::Undrain(machine.clone())).await?;
    Ok(done(format!("{machine} is back"), answer))
}

/// Send a quarantined machine through a proving turn.
pub async fn prove(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::Prove(machine.clone())).await?;
    if let Some(waits) = answer.get("waits").and_then(serde_json::Value::as_str) {
        let text = format!("{machine} is proven as soon as there is a place: {waits}");
        return Ok(done(text, answer));
    }
    Ok(done(format!("{machine} is proving; follow it with `pitstop events -f {machine}`"), answer))
}

/// An admin is about to check a machine's wires.
pub async fn wiring_begin(
    State(app): State<Shared>,
    Name(machine): Name,
    asked: Asked<Beat>,
) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::WiringBegin(machine.clone())).await?;
    Ok(done(format!("the wires of {machine} are checked; nobody gets it meanwhile"), answer))
}

/// The check lives.
pub async fn wiring_beat(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::WiringBeat(machine.clone())).await?;
    Ok(done(format!("the check of {machine} lives"), answer))
}

/// Have the boot agent report, within a check.
pub async fn wiring_look(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::WiringLook(machine.clone())).await?;
    Ok(done(format!("{machine} boots our agent, which reports"), answer))
}

/// The check is over.
pub async fn wiring_end(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::WiringEnd(machine.clone())).await?;
    Ok(done(format!("the check of {machine} is over"), answer))
}

/// Accept new machines, or say which that would be.
pub async fn enrol(State(app): State<Shared>, asked: Asked<Enrol>) -> Answer<Enrolled> {
    let lab = app.desk.snapshot().await?;
    let selector = app.known.act(&lab, &asked.body.select)?;
    let machines: Vec<NewMachine> =
        matching(&lab, &selector).filter(|m| lab.acceptable(m)).map(|m| new_machine(&lab, &m.name)).collect();
    let mut enrolled = Enrolled { schema: Schema::new("pitstop.enrolled/1"), machines, done: false };
    let Some(count) = asked.body.count else { return Ok(Json(enrolled)) };
    // A key that was answered before must find the answer again, although
    // the machines are not new any more.
    let found = enrolled.machines.len();
    if (found == 0 && asked.caller.key.is_none()) || (found != 0 && found != count) {
        return Err(Refusal(miscounted(&lab, &selector, found, count)));
    }
    let listed = enrolled.machines.iter().map(|m| m.name.clone()).collect();
    let answer = app.desk.ask(asked.caller, Request::Enrol { select: selector, listed }).await?;
    if let Some(names) = answer.get("enrolled").and_then(|v| serde_json::from_value::<Vec<_>>(v.clone()).ok())
    {
        enrolled.machines = names.iter().map(|name| new_machine(&lab, name)).collect();
    }
    enrolled.done = true;
    Ok(Json(enrolled))
}

/// What somebody must see before he accepts that it is switched and erased.
fn new_machine(lab: &Lab, name: &MachineName) -> NewMachine {
    let spec = lab.spec(name);
    let disks = lab.machine(name).map(|m| m.disks.iter().map(|d| d.name.clone()).collect());
    NewMachine {
        name: name.clone(),
        disks: disks.unwrap_or_default(),
        erased: spec.iter().flat_map(|s| &s.disks).map(disk_text).collect(),
        power: spec
            .iter()
            .flat_map(|s| &s.legs)
            .map(|l| format!("{}: {}", l.name, l.driver.driver))
            .collect(),
        differences: lab
            .machine(name)
            .map(|m| lab.differences(m).into_iter().map(|d| d.text).collect())
            .unwrap_or_default(),
    }
}

fn disk_text(disk: &DiskSpec) -> String {
    let DiskMatch { path, serial, bus, min, max, by } = &disk.matching;
    let said = [("path", path), ("serial", serial), ("bus", bus)];
    let mut words: Vec<String> =
        said.into_iter().filter_map(|(what, v)| Some(format!("{what} {}", v.as_ref()?))).collect();
    words.extend(by.as_ref().map(|_| "what its programmer writes".to_owned()));
    match (min, max) {
        (Some(min), Some(max)) => words.push(format!("{} to {}", size(*min), size(*max))),
        (Some(min), None) => words.push(format!("at least {}", size(*min))),
        (None, Some(max)) => words.push(format!("at most {}", size(*max))),
        (None, None) => {}
    }
    let words = if words.is_empty() { "the machine's only disk".to_owned() } else { words.join(", ") };
    format!("{}: {words}", disk.name)
}

/// Bytes as people say them; exact, or they stay bytes.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1_000_000_000_000, "TB"), (1 << 30, "GiB"), (1_000_000_000, "GB")];
    let small = [(1 << 20, "MiB"), (1_000_000, "MB")];
    let unit = units.into_iter().chain(small).find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, word)| format!("{} {word}", bytes / unit))
}

/// No machine is enrolled that nobody has counted.
fn miscounted(lab: &Lab, selector: &Selector, found: usize, count: usize) -> ApiError {
    if found == 0 {
        let error =
            not_found(format!("no new machine matches `{selector}`, and none that is not what it was"));
        let first = matching(lab, selector).next();
        return match first {
            Some(m) => error.hint(format!("{} is {}", m.name, m.state())),
            None => error.hint("pitstop ls state=new"),
        };
    }
    let machines = match found {
        1 => "1 machine that is new, or not what it was, matches".to_owned(),
        n => format!("{n} machines that are new, or not what they were, match"),
    };
    let error = ApiError::new(Code::Conflict, format!("{machines} `{selector}`, not {count}"));
    let state = selector.terms().iter().any(|t| t.key() == "state");
    error.hint(format!("pitstop ls {selector}{}", if state { "" } else { " state=new" }))
}

/// Keys that say something else, in the words of the file.
fn said(keys: &[KeyChange]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Read the inventory again.
pub async fn reload(State(app): State<Shared>, asked: Asked<Reload>) -> Answer<Reloaded> {
    let source = Arc::clone(&app.inventory);
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    let failed =
        |e: tokio::task::JoinError| ApiError::new(Code::Internal, format!("the inventory was not read: {e}"));
    let new = read.map_err(failed)?.map_err(|text| {
        ApiError::new(Code::Usage, "the inventory has errors; nothing was changed").hint(text)
    })?;
    let lab = app.desk.snapshot().await?;
    let changes = diff(lab.inventory(), &new);
    let named = |kind: Change| changes.iter().filter(move |c| c.change == kind);
    let reloaded = Reloaded {
        schema: Schema::new("pitstop.reloaded/1"),
        added: named(Change::Added).map(|c| c.name.to_string()).collect(),
        removed: named(Change::Removed).map(|c| c.name.to_string()).collect(),
        changed: named(Change::Changed)
            .map(|c| {
                let again = if c.is_new() { " (must be enrolled again)" } else { "" };
                format!("{}: {}{again}", c.name, said(&c.keys))
            })
            .chain(diff_lab(lab.inventory(), &new).iter().map(ToString::to_string))
            .collect(),
        done: !asked.body.dry_run,
    };
    if asked.body.dry_run {
        return Ok(Json(reloaded));
    }
    // Drivers follow the commit, not this answer: whether there was one is
    // sometimes not known here.
    let new = Arc::new(new);
    app.desk.ask(asked.caller, Request::Reload(Arc::clone(&new))).await?;
    let now = app.desk.inventory();
    if !Arc::ptr_eq(&now, &new) && *now != *new {
        // Its key was answered before, and the file is another one now.
        let text = "this reload was done before, or another came right behind it; the inventory file says \
                    something else than the lab's inventory now";
        return Err(Refusal(ApiError::new(Code::Conflict, text).hint("reload again, with a new key")));
    }
    Ok(Json(reloaded))
}
