//! A look at the parts of a machine: what an admin who wires a lab wants.

use super::Shared;
use super::error::{Answer, Refusal};
use super::extract::{Asked, Name};
use super::machines::{done, no_machine};
use crate::daemon::hands::Seen;
use axum::Json;
use axum::extract::State;
use pitstop_core::event::Caller;
use pitstop_core::machine::Stage;
use pitstop_wire::api::{Beat, Checked, CheckedPart, Done, Heard, IdentifyRequest, Schema, Sign, Signs};
use pitstop_wire::{ApiError, Code};

/// `POST /machines/{name}/check`: reads each power leg, and says how each
/// console and the boot path are. Hardware is asked, so it is for admins.
pub async fn check(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Checked> {
    only_admins(&asked.caller)?;
    let lab = app.desk.snapshot().await?;
    let seen = app.examiner.examine(&machine).await.ok_or_else(|| no_machine(&lab, &machine))?;
    let parts: Vec<CheckedPart> = seen.into_iter().map(part).collect();
    let ok = parts.iter().all(|part| part.ok);
    Ok(Json(Checked { schema: Schema::new("pitstop.checked/1"), machine, ok, parts }))
}

fn part(seen: Seen) -> CheckedPart {
    let Seen { part, driver, result, took } = seen;
    let ok = result.is_ok();
    let says = result.unwrap_or_else(|e| e);
    CheckedPart { part, driver, ok, says, ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
}

/// `POST /machines/{name}/identify`: a light that blinks. It is a command to
/// hardware all the same, so it is for admins and the holder.
pub async fn identify(
    State(app): State<Shared>,
    Name(machine): Name,
    asked: Asked<IdentifyRequest>,
) -> Answer<Done> {
    let lab = app.desk.snapshot().await?;
    let row = lab.machine(&machine).ok_or_else(|| no_machine(&lab, &machine))?;
    let holder = row.reservation().and_then(|id| lab.reservation(id)).map(|r| &r.owner);
    if holder != Some(&asked.caller.user) {
        only_admins(&asked.caller)?;
    }
    let told = app.examiner.identify(&machine, asked.body.on).await;
    match told.ok_or_else(|| no_machine(&lab, &machine))? {
        Ok(text) => Ok(done(format!("{machine}  {text}"), serde_json::json!({ "machine": machine }))),
        Err(text) => Err(Refusal(ApiError::new(Code::MachineFailed, text))),
    }
}

/// `POST /signs`: what machines show of themselves. Nothing is asked of the
/// hardware; but how much others' consoles say is an admin's to know.
pub async fn signs(State(app): State<Shared>, asked: Asked<Beat>) -> Answer<Signs> {
    only_admins(&asked.caller)?;
    let lab = app.desk.snapshot().await?;
    let machines = lab.machines().map(|machine| {
        let consoles = app.consoles.status(&machine.name).into_iter();
        let asks = lab.inventory().machines.get(&machine.name).is_some_and(|spec| spec.boot.driver == "http");
        Sign {
            machine: machine.name.clone(),
            at_rest: machine.stage == Stage::Free,
            asked: asks.then(|| app.boot_asks.of(&machine.name)),
            consoles: consoles.map(|c| Heard { console: c.console, bytes: c.position }).collect(),
        }
    });
    Ok(Json(Signs { schema: Schema::new("pitstop.signs/1"), machines: machines.collect() }))
}

fn only_admins(caller: &Caller) -> Result<(), Refusal> {
    if caller.admin {
        return Ok(());
    }
    let text = format!("only admins may have hardware looked at; you are {}", caller.user);
    Err(Refusal(ApiError::new(Code::NotAllowed, text)))
}
