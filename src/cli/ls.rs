//! `pitstop ls`

use super::out::{Out, Tone};
use super::table::{Column, Table};
use super::times::{ago, left};
use super::{Context, Result};
use pitstop_wire::api::{HealthState, Machine, Shown};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machines: names and key=value.
    filter: Vec<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let machines = cx.client.machines(&super::pick::filter(&args.filter)?.to_string()).await?;
    cx.out.list(&machines, &machines.machines, &MACHINES)
}

pub static MACHINES: Table<Machine> = Table {
    name: |m| m.name.to_string(),
    columns: &[
        Column { title: "MACHINE", wide: false, cell: |m, _| (m.name.to_string(), Tone::Plain) },
        Column { title: "STATE", wide: false, cell: |m, out| (state(m.shown, out), tone(m.shown)) },
        Column { title: "HOLDER", wide: false, cell: |m, _| (holder(m), Tone::Plain) },
        Column { title: "HELD", wide: false, cell: |m, _| (held(m), Tone::Plain) },
        Column { title: "LEFT", wide: false, cell: |m, _| (left_of(m), Tone::Plain) },
        Column { title: "PHASE", wide: false, cell: |m, _| (phase(m), Tone::Plain) },
        Column { title: "CLEAN", wide: true, cell: |m, _| (m.clean.word().to_owned(), Tone::Plain) },
        Column { title: "POWER", wide: true, cell: |m, _| (power(m), Tone::Plain) },
        Column {
            title: "IMAGE",
            wide: true,
            cell: |m, _| (m.image.clone().unwrap_or_else(dash), Tone::Plain),
        },
        Column { title: "TAGS", wide: true, cell: |m, _| (tags(m), Tone::Plain) },
    ],
};

fn dash() -> String {
    "—".to_owned()
}

/// Mark and word, always both.
pub fn state(shown: Shown, out: &Out) -> String {
    let mark = if out.ascii { shown.ascii() } else { shown.glyph() };
    format!("{mark} {}", shown.word())
}

/// The colour of a state.
pub fn tone(shown: Shown) -> Tone {
    match shown {
        Shown::Free => Tone::Plain,
        Shown::Held | Shown::Ready => Tone::Used,
        Shown::Booting | Shown::Imaging | Shown::Proving => Tone::Busy,
        Shown::Failed => Tone::Bad,
        Shown::Drained | Shown::Retired | Shown::New => Tone::Dim,
    }
}

fn holder(m: &Machine) -> String {
    match (&m.holder, &m.health) {
        (Some(holder), _) => holder.user.to_string(),
        (None, HealthState::Drained { by, .. }) => by.clone(),
        _ => dash(),
    }
}

fn held(m: &Machine) -> String {
    match (&m.holder, &m.health) {
        (Some(_), _) => ago(m.since),
        (None, HealthState::Drained { at, .. } | HealthState::Quarantined { at, .. }) => ago(*at),
        _ => dash(),
    }
}

fn left_of(m: &Machine) -> String {
    m.holder.as_ref().and_then(|h| h.ends).map_or_else(dash, left)
}

/// What it is doing, or why it is not doing anything.
pub fn phase(m: &Machine) -> String {
    if let Some(turn) = &m.turn {
        let work = match (&turn.disk, turn.writing) {
            (Some(disk), true) => format!("{disk}: writing"),
            (Some(disk), false) => format!("{disk}: proving"),
            _ => turn.phase.clone(),
        };
        let again = if turn.failed > 0 { format!(", try {}", turn.failed + 1) } else { String::new() };
        return format!("{work} {}{again}", ago(turn.phase_since));
    }
    match (&m.health, &m.holder) {
        (HealthState::Quarantined { class, evidence, .. }, _) => format!("{class}: {evidence}"),
        (HealthState::Drained { reason, .. }, _) => format!("\"{reason}\""),
        (HealthState::New, _) => "not enrolled: observed only".to_owned(),
        (_, Some(holder)) => holder.reason.clone().unwrap_or_else(|| holder.reservation.clone()),
        _ => format!("idle {}", ago(m.since)),
    }
}

fn power(m: &Machine) -> String {
    let text = |l: &pitstop_wire::api::LegState| match m.legs.len() {
        1 => l.reading.clone(),
        _ => format!("{} {}", l.name, l.reading),
    };
    m.legs.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn tags(m: &Machine) -> String {
    let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    m.tags.iter().map(|(k, v)| format!("{k}={}", text(v))).collect::<Vec<_>>().join(" ")
}
