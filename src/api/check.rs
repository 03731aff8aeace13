//! A look at the parts of a machine: what an admin who wires a lab wants.

use super::Shared;
use super::error::{Answer, Refusal};
use super::extract::{Asked, Name};
use super::machines::no_machine;
use crate::daemon::hands::Seen;
use axum::Json;
use axum::extract::State;
use pitstop_wire::api::{Beat, Checked, CheckedPart, Schema};
use pitstop_wire::{ApiError, Code};

/// `POST /machines/{name}/check`: reads each power leg, and says how each
/// console and the boot path are. Hardware is asked, so it is for admins.
pub async fn check(State(app): State<Shared>, Name(machine): Name, asked: Asked<Beat>) -> Answer<Checked> {
    if !asked.caller.admin {
        let text = format!("only admins may have hardware asked; you are {}", asked.caller.user);
        return Err(Refusal(ApiError::new(Code::NotAllowed, text)));
    }
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
