//! `pitstop ls`

use super::out::{Format, Out, Tone};
use super::table::{Column, Table};
use super::times::{ago, left};
use super::{Context, Result};
use pitstop_wire::Selector;
use pitstop_wire::api::{HealthState, Machine, Shown};
use pitstop_wire::selector::Term;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machines: a name, a tag's value, key=value; all of them must hold.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

/// What `ls --help` says of a FILTER.
pub const HELP: &str = "Keys besides tags: name, state, clean, health, holder.
  state   as shown: free ready held booting imaging proving failed drained retired new;
          or exactly: preparing in-use turnaround quarantined
  clean   proven by-command used writing unknown
  health  good new quarantined drained retired

Examples
  pitstop ls soc=imx8 state=free
  pitstop ls name=board01,board02 -o csv";

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let filter = super::pick::filter(&args.filter)?;
    let machines = cx.client.machines(&filter.to_string()).await?;
    if machines.machines.is_empty() && !filter.is_empty() && cx.out.human() {
        cx.out.say(&nothing(&filter));
    }
    cx.out.list(&machines, &machines.machines, &MACHINES)
}

/// Several words must all hold; mostly several machines are meant.
pub fn nothing(filter: &Selector) -> String {
    let words: Vec<&str> = (filter.terms().iter())
        .filter_map(|t| if let Term::Word(word) = t { Some(word.as_str()) } else { None })
        .collect();
    match words.len() {
        0 | 1 => format!("nothing matches `{filter}`"),
        _ => format!("nothing matches; several names: name={}", words.join(",")),
    }
}

pub static MACHINES: Table<Machine> = Table {
    name: |m| m.name.to_string(),
    csv: &[
        ("machine", |m| m.name.to_string()),
        ("state", |m| m.state.word().to_owned()),
        ("shown", |m| m.shown.word().to_lowercase()),
        ("since", |m| m.since.to_string()),
        ("holder", |m| m.holder.as_ref().map(|h| h.user.to_string()).unwrap_or_default()),
        ("reservation", |m| m.holder.as_ref().map(|h| h.reservation.clone()).unwrap_or_default()),
        ("reason", |m| m.holder.as_ref().and_then(|h| h.reason.clone()).unwrap_or_default()),
        ("ends", |m| m.holder.as_ref().and_then(|h| h.ends).map(|t| t.to_string()).unwrap_or_default()),
        ("phase", |m| m.turn.as_ref().map(|t| t.phase.clone()).unwrap_or_default()),
        ("phase_since", |m| m.turn.as_ref().map(|t| t.phase_since.to_string()).unwrap_or_default()),
        ("tries_failed", |m| m.turn.as_ref().map(|t| t.failed.to_string()).unwrap_or_default()),
        ("health", |m| health(m).0.to_owned()),
        ("health_note", |m| health(m).1),
        ("clean", |m| m.clean.word().to_owned()),
        ("power", power),
        ("image", |m| m.image.clone().unwrap_or_default()),
        ("class", |m| m.class.clone().unwrap_or_default()),
        ("tags", tags),
    ],
    columns: &[
        Column { title: "MACHINE", wide: false, cell: |m, _| (m.name.to_string(), Tone::Plain) },
        Column { title: "STATE", wide: false, cell: |m, out| (state(m.shown, out), tone(m.shown)) },
        Column { title: "HOLDER", wide: false, cell: |m, _| (holder(m), Tone::Plain) },
        Column { title: "HELD", wide: false, cell: |m, _| (held(m), Tone::Plain) },
        Column { title: "LEFT", wide: false, cell: |m, _| (left_of(m), Tone::Plain) },
        Column { title: "PHASE", wide: false, cell: |m, out| (phase(m, out), Tone::Plain) },
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
        Shown::Booting | Shown::Imaging | Shown::Proving | Shown::Checking => Tone::Busy,
        Shown::Failed => Tone::Bad,
        Shown::Drained | Shown::Retired | Shown::New => Tone::Dim,
    }
}

fn holder(m: &Machine) -> String {
    m.holder.as_ref().map_or_else(dash, |holder| holder.user.to_string())
}

/// Health in a word, and what was said about it.
fn health(m: &Machine) -> (&'static str, String) {
    match &m.health {
        HealthState::Good => ("good", String::new()),
        HealthState::New => ("new", String::new()),
        HealthState::Quarantined { class, evidence, .. } => ("quarantined", format!("{class}: {evidence}")),
        HealthState::Drained { by, reason, .. } => ("drained", format!("{by}: {reason}")),
        HealthState::Retired => ("retired", String::new()),
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

/// Longest text of a failure in the table, in characters; `why` has all of it.
const FAILURE: usize = 60;

/// What it is doing, or why it is not doing anything, to fit a table.
fn phase(m: &Machine, out: &Out) -> String {
    let text = doing(m);
    match out.format {
        Format::Table if text.chars().count() > FAILURE => {
            text.chars().take(FAILURE - 1).chain(['…']).collect()
        }
        _ => text,
    }
}

/// The same in full.
pub fn doing(m: &Machine) -> String {
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
        (HealthState::Drained { by, reason, .. }, _) => format!("drained by {by}: \"{reason}\""),
        (HealthState::New, _) => "not enrolled: observed only".to_owned(),
        (_, None) if m.checked_by.is_some() => "its wires are checked".to_owned(),
        (_, None) if m.pause.is_some() => "paused: much of its class failed".to_owned(),
        (_, Some(holder)) => match &holder.reason {
            Some(reason) => reason.clone(),
            None => agent_words(m).to_owned(),
        },
        _ => format!("idle {}", ago(m.since)),
    }
}

/// What a held machine runs, for a holder who gave no reason.
fn agent_words(m: &Machine) -> &'static str {
    match &m.agent {
        Some(agent) if !agent.connected => "agent not connected",
        Some(agent) if agent.kind == "boot" => "agent in RAM",
        Some(_) => "image runs",
        None if !m.legs.is_empty() && m.legs.iter().all(|l| l.aside || l.reading == "off") => "off",
        None => "in use",
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
