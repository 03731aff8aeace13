//! Machines: what they are doing, why, and what their holders do with them.

use super::error::{Answer, Refusal, not_found};
use super::extract::{Asked, Name, Params};
use super::peer::Peer;
use super::select::matching;
use super::{Shared, view};
use crate::daemon::consoles::Viewer;
use axum::Json;
use axum::extract::{Path, State};
use pitstop_core::Lab;
use pitstop_core::event::{Act, Caller, Nudge, PowerAction, Request};
use pitstop_core::id::ReservationId;
use pitstop_core::why::{Reason, Why as CoreWhy};
use pitstop_wire::api::{
    Done, FlipRequest, Machine, Machines, PowerDo, PowerRequest, PressRequest, Reimage, Schema, Status,
    WhoAmI, Why, WhyLine,
};
use pitstop_wire::{ApiError, Code, MachineName};
use serde::Deserialize;

/// Who the daemon takes you for.
pub async fn whoami(peer: Peer) -> Json<WhoAmI> {
    Json(WhoAmI { schema: Schema::new("pitstop.whoami/1"), user: peer.user, admin: peer.admin })
}

/// The lab in one screen.
pub async fn status(State(app): State<Shared>, peer: Peer) -> Answer<Status> {
    let lab = app.desk.snapshot().await?;
    let mut status = view::status::status(&lab, &peer.user);
    if let Some((consoles, why)) = app.consoles.unstored() {
        status.alerts.insert(0, view::status::unstored(consoles, &why));
    }
    if let crate::daemon::Condition::ReadOnly { reason, .. } = &*app.desk.condition().borrow() {
        status.alerts.insert(0, view::status::read_only(reason));
    }
    Ok(Json(status))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    #[serde(default)]
    select: String,
}

/// Machines that match.
pub async fn list(State(app): State<Shared>, _: Peer, Params(query): Params<ListQuery>) -> Answer<Machines> {
    let lab = app.desk.snapshot().await?;
    let selector = app.known.look(&lab, &query.select)?;
    let machines = matching(&lab, &selector).map(|m| view::machine::machine(&lab, m)).collect();
    Ok(Json(view::machine::machines(machines)))
}

/// One machine.
pub async fn one(State(app): State<Shared>, _: Peer, Name(name): Name) -> Answer<Machine> {
    let lab = app.desk.snapshot().await?;
    let machine = lab.machine(&name).ok_or_else(|| no_machine(&lab, &name))?;
    Ok(Json(view::machine::machine(&lab, machine)))
}

/// There is no such machine; perhaps another one is meant.
pub fn no_machine(lab: &Lab, name: &MachineName) -> ApiError {
    let error = not_found(format!("there is no machine `{name}`"));
    match pitstop_wire::nearest(name, lab.machines().map(|m| m.name.as_str())) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("pitstop ls"),
    }
}

/// Lines of a failing machine's console that belong to the answer.
const CONSOLE_LINES: usize = 3;

/// Why a machine or reservation is where it is.
pub async fn why(State(app): State<Shared>, peer: Peer, Path(about): Path<String>) -> Answer<Why> {
    let lab = app.desk.snapshot().await?;
    if let Ok(id) = about.parse::<ReservationId>() {
        let missing = || super::reservations::no_reservation(id);
        let mut why = lab.why_reservation(id, app.desk.now()).ok_or_else(missing)?;
        let row = lab.reservation(id).ok_or_else(missing)?;
        why.reasons.splice(0..0, super::past::story(&app, &lab, row).await?);
        return Ok(Json(why_view(id.to_string(), why)));
    }
    let name = MachineName::new(&about).map_err(|e| super::error::usage(e.to_string()))?;
    let machine = lab.machine(&name).ok_or_else(|| no_machine(&lab, &name))?;
    let mut why = lab.why_machine(&name, app.desk.now()).ok_or_else(|| no_machine(&lab, &name))?;
    if machine.failures > 0 || machine.turn().is_some_and(|turn| turn.failed > 0) {
        let viewer = Viewer::new(&peer.user, peer.admin);
        let said = app.consoles.last_lines(&name, CONSOLE_LINES, &viewer).into_iter();
        why.reasons.extend(said.map(|line| Reason { text: format!("console: {line}"), next: None }));
    }
    Ok(Json(why_view(about, why)))
}

fn why_view(about: String, why: CoreWhy) -> Why {
    let lines = why.reasons.into_iter().map(|r| WhyLine { text: r.text, next: r.next, at: None });
    Why { schema: Schema::new("pitstop.why/1"), about, summary: why.summary, lines: lines.collect() }
}

/// Switch power.
pub async fn power(
    State(app): State<Shared>,
    Name(machine): Name,
    asked: Asked<PowerRequest>,
) -> Answer<Done> {
    let PowerRequest { action, force } = asked.body;
    let power = |action| Request::Power { machine: machine.clone(), action, force: force.clone() };
    let nudge =
        |nudge| Request::Fixture { machine: machine.clone(), act: Act::Nudge(nudge), force: force.clone() };
    let request = match action {
        PowerDo::On => power(PowerAction::On),
        PowerDo::Off => power(PowerAction::Off),
        PowerDo::Cycle => power(PowerAction::Cycle),
        PowerDo::Soft => nudge(Nudge::Soft),
        PowerDo::Reset => nudge(Nudge::Reset),
        PowerDo::Nmi => nudge(Nudge::Nmi),
    };
    let answer = app.desk.ask(asked.caller, request).await?;
    Ok(done(
        format!("{machine}: power {}; follow it with `pitstop power {machine} status`", action.word()),
        answer,
    ))
}

/// Flip a switch beside it.
pub async fn flip(State(app): State<Shared>, Name(machine): Name, asked: Asked<FlipRequest>) -> Answer<Done> {
    let FlipRequest { switch, position, force } = asked.body;
    let lab = app.desk.snapshot().await?;
    let known = lab.inventory().machines.get(&machine).and_then(|spec| spec.switches.get(&switch));
    let positions = known.and_then(|switch| switch.list("positions")).unwrap_or_default();
    if known.is_some() && !positions.contains(&position.as_str()) {
        let text = format!("switch {switch} of {machine} has no position `{position}`");
        return Err(Refusal(
            ApiError::new(Code::Usage, text).hint(format!("it has {}", positions.join(", "))),
        ));
    }
    act(&app, asked.caller, machine, Act::Flip { switch, position }, force).await
}

/// Press a button beside it.
pub async fn press(
    State(app): State<Shared>,
    Name(machine): Name,
    asked: Asked<PressRequest>,
) -> Answer<Done> {
    let PressRequest { button, force } = asked.body;
    act(&app, asked.caller, machine, Act::Press { button }, force).await
}

async fn act(
    app: &Shared,
    caller: Caller,
    machine: MachineName,
    act: Act,
    force: Option<String>,
) -> Answer<Done> {
    let text = format!("{machine}: {act}; follow it with `pitstop events -f {machine}`");
    let answer = app.desk.ask(caller, Request::Fixture { machine, act, force }).await?;
    Ok(done(text, answer))
}

/// Write its disks again, back to the same holder.
pub async fn reimage(State(app): State<Shared>, Name(machine): Name, asked: Asked<Reimage>) -> Answer<Done> {
    let request = Request::Reimage { machine: machine.clone(), image: asked.body.image };
    let answer = app.desk.ask(asked.caller, request).await?;
    Ok(done(format!("{machine}: reimaging; follow it with `pitstop events -f {machine}`"), answer))
}

/// A small answer.
pub fn done(text: String, answer: serde_json::Value) -> Json<Done> {
    Json(Done { schema: Schema::new("pitstop.done/1"), text, answer })
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        refusal.0
    }
}
