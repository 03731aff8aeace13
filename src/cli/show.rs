//! `pitstop show`

use super::ls::{doing, state, tone};
use super::out::Out;
use super::pick::{Thing, thing};
use super::status::{names, wants};
use super::times::{ago, clock, left};
use super::{Context, Result};
use pitstop_wire::api::{DiskState, HealthState, Hold, LegState, Machine, Reservation};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A machine or R-…; yours if there is only one.
    #[arg(value_name = "MACHINE|R-…")]
    what: Option<String>,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let what = match &args.what {
        Some(what) => thing(what)?,
        None => Thing::Machine(super::pick::machine(cx, None).await?),
    };
    match what {
        Thing::Machine(name) => {
            let m = cx.client.machine(&name).await?;
            cx.out.object(&m, &m.name, |out| machine(&m, out))
        }
        Thing::Reservation(id) => {
            let r = cx.client.reservation(&id).await?;
            cx.out.object(&r, &r.id, |out| reservation(&r, out))
        }
    }
}

fn row(out: &Out, key: &str, value: &str) -> Result {
    if value.is_empty() { Ok(()) } else { out.line(&format!("  {key:<10}{value}")) }
}

fn machine(m: &Machine, out: &Out) -> Result {
    out.line(&format!(
        "{}   {} since {} ({})",
        m.name,
        out.paint(tone(m.shown), &state(m.shown, out)),
        clock(m.since),
        ago(m.since)
    ))?;
    row(out, "doing", &doing(m))?;
    if let Some(h) = &m.holder {
        let reason = h.reason.as_ref().map(|r| format!(" \"{r}\"")).unwrap_or_default();
        let till = h.ends.map(|at| format!(" till {} ({} left)", clock(at), left(at))).unwrap_or_default();
        row(out, "holder", &format!("{} ({}{reason}){till}", h.user, h.reservation))?;
    }
    if let Some(t) = &m.turn {
        let limit = format!(
            "{} {}, in this phase for {}, limit in {}",
            t.purpose,
            t.phase,
            ago(t.phase_since),
            left(t.deadline)
        );
        row(out, "turn", &format!("{limit}; began {} ago, {} tries failed", ago(t.started), t.failed))?;
    }
    if let HealthState::Quarantined { class, phase, evidence, at, again } = &m.health {
        row(out, "failed", &format!("{} ago in {phase} ({class}): {evidence}", ago(*at)))?;
        if let Some(again) = again.filter(|_| m.turn.is_none()) {
            row(out, "proven", &format!("by itself at {} (in {})", clock(again), left(again)))?;
        }
    }
    if let Some(pause) = &m.pause {
        row(
            out,
            "paused",
            &format!("for {}: much of its class failed at {}", left(pause.until), pause.cause),
        )?;
    }
    if let HealthState::Drained { by, reason, at } = &m.health {
        row(out, "drained", &format!("{} ago by {by}: \"{reason}\"", ago(*at)))?;
    }
    let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    row(out, "tags", &m.tags.iter().map(|(k, v)| format!("{k}={}", text(v))).collect::<Vec<_>>().join(" "))?;
    let found = m.found_tags.iter().filter(|(key, _)| !m.tags.contains_key(*key));
    row(out, "found", &found.map(|(k, v)| format!("{k}={}", text(v))).collect::<Vec<_>>().join(" "))?;
    for differs in &m.differences {
        row(out, if differs.grave { "DRIFT" } else { "differs" }, &differs.text)?;
    }
    if let Some(by) = &m.checked_by {
        row(out, "checked", &format!("by {by}, who checks its wires: nobody gets it meanwhile"))?;
    }
    row(out, "location", m.location.as_deref().unwrap_or_default())?;
    row(out, "note", m.note.as_deref().unwrap_or_default())?;
    row(out, "image", m.image.as_deref().unwrap_or_default())?;
    row(out, "boot", m.boot.as_deref().unwrap_or_default())?;
    for l in &m.legs {
        row(out, "power", &leg(l))?;
    }
    if let Some(cut) = &m.cut {
        row(out, "cut", &format!("off by its spare leg for {}: {}", ago(cut.since), cut.reason))?;
    }
    row(out, "circuit", m.circuit.as_deref().unwrap_or_default())?;
    row(out, "consoles", &m.consoles.join(", "))?;
    let switch = |(name, positions): (&String, &Vec<String>)| format!("{name} ({})", positions.join(" | "));
    row(out, "switches", &m.switches.iter().map(switch).collect::<Vec<_>>().join(", "))?;
    row(out, "buttons", &m.buttons.join(", "))?;
    if let Some(a) = &m.agent {
        let link =
            a.lost.map_or_else(|| "connected".to_owned(), |at| format!("not connected for {}", ago(at)));
        row(out, "agent", &format!("{} {}, {link}, boot {}", a.kind, a.version, a.boot_id))?;
    }
    row(out, "clean", m.clean.word())?;
    for d in &m.disks {
        row(out, "disk", &disk(d))?;
    }
    row(out, "turns", &format!("{} so far, {} failed since the last good one", m.turns, m.failures))
}

fn leg(l: &LegState) -> String {
    let when = l.at.map(|at| format!(", read {} ago", ago(at))).unwrap_or_default();
    let open =
        if l.unsettled > 0 { format!(", {} command(s) may still act", l.unsettled) } else { String::new() };
    let aside = if l.aside { ", says nothing now" } else { "" };
    format!("{} {}{when}{aside}{open}", l.name, l.reading)
}

fn disk(d: &DiskState) -> String {
    let mut text = format!("{} {}", d.name, d.content);
    if let (Some(at), Some(read), Some(size)) = (d.proven, d.read_bytes, d.device_bytes) {
        let what = d.digest.as_deref().unwrap_or("all zero");
        text.push_str(&format!(" {} ago: {what}, {read} of {size} bytes read back", ago(at)));
    }
    if let (Some(at), Some(read), Some(by)) = (d.by_command, d.read_bytes, &d.by) {
        let what = d.digest.as_deref().unwrap_or_default();
        text.push_str(&format!(" {} ago: {what}, {read} bytes read back by {by}", ago(at)));
    }
    if let Some(by) = &d.used_by {
        text.push_str(&format!(" by {by}"));
    }
    text
}

fn reservation(r: &Reservation, out: &Out) -> Result {
    out.line(&format!("{}   {}; {} asked for it {} ago", r.id, r.state.word(), r.owner, ago(r.created)))?;
    row(out, "wants", &format!("{} as {}", wants(r), r.want.word()))?;
    row(out, "machines", &names(r))?;
    row(out, "image", r.image.as_deref().unwrap_or_default())?;
    row(out, "reason", r.reason.as_deref().unwrap_or_default())?;
    match r.hold {
        Hold::Session { silence } => row(out, "hold", &format!("session, lost after {silence}s of silence"))?,
        Hold::Time => row(out, "hold", "time")?,
    }
    if let Some(at) = r.ends.filter(|_| r.end.is_none()) {
        row(out, "ends", &format!("{} ({} left)", clock(at), left(at)))?;
    }
    if let Some(position) = r.position {
        row(out, "queue", &format!("place {position}, priority {}", r.priority))?;
    }
    if let Some(end) = &r.end {
        row(out, "ended", &format!("{} ago: {}", ago(end.at), end.text))?;
    }
    row(out, "failed on", &r.failed_on.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", "))
}
