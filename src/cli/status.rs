//! `pitstop status`

use super::out::{Out, Tone};
use super::times::{ago, clock, left};
use super::{Context, Result};
use pitstop_wire::api::{CircuitState, Counts, Hold, Reservation, ReservationState, Status};

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(cx: &mut Context, _: &Args) -> Result {
    let status = cx.client.status().await?;
    cx.out.object(&status, &status.lab, |out| lines(&status, out).iter().try_for_each(|l| out.line(l)))
}

fn lines(status: &Status, out: &Out) -> Vec<String> {
    let mut lines = vec![counts(&status.counts)];
    for r in &status.mine {
        lines.push(format!("yours: {}", mine(r)));
    }
    for alert in &status.alerts {
        let mark = out.paint(Tone::Bad, if out.ascii { "!" } else { "▲" });
        lines.push(format!("{mark} {}{}", alert.text, arrow(alert.next.as_deref())));
    }
    lines.extend(status.circuits.iter().filter_map(circuit));
    if !status.queue.is_empty() {
        lines.push(format!("queue: {}", status.queue.len()));
    }
    for r in &status.queue {
        lines.push(format!(
            "  {}  {}  {}  waits {}  → pitstop why {}",
            r.id,
            r.owner,
            wants(r),
            ago(r.created),
            r.id
        ));
    }
    lines
}

/// A circuit that bears no more.
fn circuit(c: &CircuitState) -> Option<String> {
    let full = c.max_on.filter(|max| c.on >= *max as usize);
    let on = full.map(|max| format!("{} of {max} count as on", c.on));
    let starts = (c.waiting > 0).then(|| {
        let most = c.max_starting.unwrap_or_default();
        format!("{} of {most} are starting, {} wait to start", c.starting, c.waiting)
    });
    let said: Vec<String> = on.into_iter().chain(starts).collect();
    (!said.is_empty()).then(|| format!("circuit {}: {}", c.name, said.join("; ")))
}

fn counts(c: &Counts) -> String {
    let all = [
        (c.free, "free"),
        (c.held, "held"),
        (c.busy, "busy"),
        (c.failed, "failed"),
        (c.drained, "drained"),
        (c.new, "new"),
    ];
    let said: Vec<String> =
        all.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let machines = if c.machines == 1 { "machine" } else { "machines" };
    match said.is_empty() {
        true => format!("{} {machines}", c.machines),
        false => format!("{} {machines}: {}", c.machines, said.join(", ")),
    }
}

fn mine(r: &Reservation) -> String {
    let names = names(r);
    match r.state {
        ReservationState::Waiting => format!("{} waits for {}  → pitstop why {}", r.id, wants(r), r.id),
        ReservationState::Preparing => format!("{} prepares {names}  → pitstop why {}", r.id, r.id),
        _ => {
            let till = r.ends.map(|at| format!(" till {} ({} left)", clock(at), left(at)));
            format!("{} {names}{}{}", r.id, till.unwrap_or_default(), more_time(r))
        }
    }
}

/// Whether there is an end that `extend` could move: a session ends with its
/// command.
pub fn extendable(r: &Reservation) -> bool {
    r.ends.is_some() && r.hold == Hold::Time
}

/// How to get more time, where that can be had.
pub fn more_time(r: &Reservation) -> String {
    if extendable(r) { format!("  → pitstop extend {}", r.id) } else { String::new() }
}

/// Its machines' names.
pub fn names(r: &Reservation) -> String {
    r.machines.iter().map(|m| m.machine.as_str()).collect::<Vec<_>>().join(" ")
}

/// What it asks for.
pub fn wants(r: &Reservation) -> String {
    let roles: Vec<String> = (r.roles.iter())
        .map(|role| {
            let select =
                if role.select.is_empty() { "any machine".to_owned() } else { role.select.to_string() };
            if role.count == 1 { select } else { format!("{}× {select}", role.count) }
        })
        .collect();
    roles.join(" + ")
}

/// The command to go on with.
pub fn arrow(next: Option<&str>) -> String {
    next.map(|n| format!("  → {n}")).unwrap_or_default()
}
