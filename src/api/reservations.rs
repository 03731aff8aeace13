//! Reservations.

use super::error::{Answer, Refusal, not_found};
use super::extract::{Asked, Id, Params};
use super::peer::Peer;
use super::{App, Shared, ask, view};
use axum::Json;
use axum::extract::State;
use pitstop_core::Lab;
use pitstop_core::event::{Caller, Request};
use pitstop_core::id::ReservationId;
use pitstop_wire::api::{Beat, Done, Extend, Release, Reservation, Reservations, Reserve, Time};
use pitstop_wire::text::one_line;
use pitstop_wire::{ApiError, Code};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    #[serde(default)]
    ended: bool,
}

/// Reservations that are not over, or all that are remembered.
pub async fn list(
    State(app): State<Shared>,
    _: Peer,
    Params(query): Params<ListQuery>,
) -> Answer<Reservations> {
    let lab = app.desk.snapshot().await?;
    let shown = lab.reservations().filter(|r| query.ended || !r.ended());
    let list = shown.map(|r| view::reservation::reservation(&lab, r)).collect();
    Ok(Json(view::reservation::reservations(list)))
}

/// One reservation.
pub async fn one(State(app): State<Shared>, _: Peer, Id(id): Id) -> Answer<Reservation> {
    let lab = app.desk.snapshot().await?;
    Ok(Json(shown(&lab, id)?))
}

/// There is no such reservation.
pub fn no_reservation(id: ReservationId) -> ApiError {
    not_found(format!("there is no reservation {id}"))
        .hint("pitstop status; old ones are in `pitstop events`")
}

fn shown(lab: &Lab, id: ReservationId) -> Result<Reservation, ApiError> {
    let row = lab.reservation(id).ok_or_else(|| no_reservation(id))?;
    Ok(view::reservation::reservation(lab, row))
}

/// Asks, and shows the reservation as it is committed with the answer.
async fn asked_for(
    app: &App,
    caller: Caller,
    request: Request,
    which: impl FnOnce(&Value) -> Result<ReservationId, ApiError> + Send + 'static,
) -> Answer<Reservation> {
    let look = |answer: Value, lab: &Lab| shown(lab, which(&answer)?);
    Ok(Json(app.desk.ask_and_look(caller, request, look).await?))
}

/// The reservation that an answer is about.
fn number(answer: &Value) -> Result<ReservationId, ApiError> {
    let id = answer.get("reservation").and_then(Value::as_str).and_then(|id| id.parse().ok());
    id.ok_or_else(|| {
        ApiError::new(Code::Internal, "the reservation has no number; please report this as a bug")
    })
}

/// Ask for machines.
pub async fn reserve(State(app): State<Shared>, asked: Asked<Reserve>) -> Answer<Reservation> {
    let ask = ask::ask(&app, &asked.body, Time(app.desk.wall())).await?;
    let request = Request::Reserve { ask: Box::new(ask), image: asked.body.image };
    asked_for(&app, asked.caller, request, number).await
}

/// The holder is there.
pub async fn claim(State(app): State<Shared>, Id(id): Id, asked: Asked<Beat>) -> Answer<Reservation> {
    asked_for(&app, asked.caller, Request::Claim(id), move |_| Ok(id)).await
}

/// The session lives.
pub async fn beat(State(app): State<Shared>, Id(id): Id, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Request::Beat(id)).await?;
    Ok(super::machines::done(format!("{id} lives"), answer))
}

/// More time.
pub async fn extend(State(app): State<Shared>, Id(id): Id, asked: Asked<Extend>) -> Answer<Reservation> {
    let more = ask::length(asked.body, Time(app.desk.wall()))?;
    let request = Request::Extend { reservation: id, more };
    asked_for(&app, asked.caller, request, move |_| Ok(id)).await
}

/// Give it back.
pub async fn release(State(app): State<Shared>, Id(id): Id, asked: Asked<Release>) -> Answer<Reservation> {
    let force = asked.body.force.map(|why| one_line(&why));
    if force.as_ref().is_some_and(|why| why.trim().is_empty()) {
        return Err(Refusal(ApiError::new(Code::Usage, "`force` is the reason, in words")));
    }
    let request = Request::Release { reservation: id, force };
    asked_for(&app, asked.caller, request, move |_| Ok(id)).await
}
