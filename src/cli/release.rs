//! `pitstop release`

use super::fail::Fail;
use super::status::names;
use super::times::ago;
use super::{Context, Result};
use pitstop_wire::api::{Release, Reservation, ReservationState};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Machines you hold, or R-…; yours if there is only one.
    #[arg(value_name = "MACHINE|R-…")]
    what: Vec<String>,
    /// Override the holder (admins); needs --reason.
    #[arg(long, requires = "reason")]
    force: bool,
    /// Why; told to the holder and kept.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let mut ids: Vec<String> = Vec::new();
    if args.what.is_empty() {
        ids.push(super::pick::reservation(cx, None).await?);
    }
    for what in &args.what {
        let id = super::pick::reservation(cx, Some(what)).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.len() > 1 && cx.key.is_some() {
        return Err(Fail::usage("one --idempotency-key cannot stand for several reservations"));
    }
    let force = if args.force { args.reason.clone() } else { None };
    for id in ids {
        let before = cx.client.reservation(&id).await?;
        let told = super::reserve::Marker::leave(&id);
        let after = cx.client.release(&id, &Release { force: force.clone() }, cx.key.clone()).await;
        let after = after.inspect_err(|_| told.take_back())?;
        cx.out.object(&after, &after.id, |out| out.line(&said(&before)))?;
    }
    Ok(())
}

/// What a release made of a reservation that was like this before it.
pub fn said(before: &Reservation) -> String {
    let id = &before.id;
    if let Some(end) = &before.end {
        return format!("{id} had ended already: {}, {} ago", end.text, ago(end.at));
    }
    let machines = names(before);
    match (before.state, before.machines.len()) {
        (ReservationState::Waiting, _) | (_, 0) => format!("{id} cancelled"),
        (_, 1) => format!("{id} released; {machines} cleaned before anybody else gets it"),
        _ => format!("{id} released; {machines} cleaned before anybody else gets them"),
    }
}
