//! `pitstop events`

use super::out::Format;
use super::pick::{Thing, thing};
use super::times::clock_seconds;
use super::{Context, Result};
use pitstop_client::EventQuery;
use pitstop_wire::api::{Event, Update};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only about this machine or reservation.
    #[arg(value_name = "MACHINE|R-…")]
    what: Option<String>,
    /// Go on with what happens.
    #[arg(short, long)]
    follow: bool,
    /// From then on: 2h, '2h ago', yesterday, 2026-11-22, a record's number, or RFC 3339.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// At most so many, the newest.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "100")]
    last: usize,
    /// Details too: power readings, steps of agents.
    #[arg(short, long)]
    all: bool,
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let mut query = EventQuery { last: Some(args.last), story: !args.all, ..EventQuery::default() };
    if let Some(since) = &args.since {
        query.since = Some(super::times::since(since)?);
    }
    match args.what.as_deref().map(thing).transpose()? {
        Some(Thing::Machine(name)) => query.machine = Some(name.to_string()),
        Some(Thing::Reservation(id)) => query.reservation = Some(id),
        None => {}
    }
    if args.follow { follow(cx, args, query).await } else { once(cx, query).await }
}

async fn once(cx: &Context, query: EventQuery) -> Result {
    let history = cx.client.history(&query).await?;
    if history.events.is_empty() {
        exists(cx, &query).await?;
    }
    if cx.out.format == Format::Json {
        return cx.out.json(&history);
    }
    title(cx)?;
    history.events.iter().try_for_each(|e| print(cx, e))
}

fn title(cx: &Context) -> Result {
    if cx.out.format == Format::Csv { cx.out.line(&(CSV.join(",") + "\r")) } else { Ok(()) }
}

const CSV: [&str; 8] = ["number", "time", "actor", "kind", "machine", "reservation", "detail", "text"];

/// One event as a line of a CSV (RFC 4180).
fn csv(event: &Event) -> String {
    let machine = event.machine.as_ref().map(|m| m.to_string()).unwrap_or_default();
    let cells = [
        event.number.to_string(),
        event.time.to_string(),
        event.actor.clone(),
        event.kind.clone(),
        machine,
        event.reservation.clone().unwrap_or_default(),
        event.detail.to_string(),
        event.text.clone(),
    ];
    super::table::csv_line(cells.into_iter()) + "\r"
}

/// Nothing is known of it: because nothing happened, or because there is no
/// such thing?
async fn exists(cx: &Context, query: &EventQuery) -> Result {
    if let Some(name) = &query.machine {
        cx.client.machine(name).await?;
    }
    if let Some(id) = &query.reservation {
        cx.client.reservation(id).await?;
    }
    Ok(())
}

/// The newest first as asked, then what happens, for as long as anybody
/// listens: a daemon that restarts is waited for.
async fn follow(cx: &Context, args: &Args, query: EventQuery) -> Result {
    let client = cx.client.clone().with_patience(Duration::from_secs(3_600));
    let unbounded = EventQuery { since: None, last: None, ..query.clone() };
    let mut stream = client.events(unbounded).await?;
    // The stream has begun once its snapshot is there. Asked for after that,
    // the history ends where the stream begins, or later: nothing is missed.
    stream.next().await?;
    let history = cx.client.history(&query).await?;
    let mut seen = 0;
    title(cx)?;
    for event in &history.events {
        seen = event.number;
        if wanted(args, event) {
            print(cx, event)?;
        }
    }
    loop {
        match stream.next().await?.update {
            Update::Record(event) if event.number > seen && wanted(args, &event) => print(cx, &event)?,
            Update::Reset => {
                cx.out.say("(the daemon does not know what we have: some events may be missing here)")
            }
            _ => {}
        }
    }
}

fn wanted(args: &Args, event: &Event) -> bool {
    args.all || !event.detail
}

fn print(cx: &Context, event: &Event) -> Result {
    match cx.out.format {
        Format::Json | Format::Jsonl => cx.out.json(event),
        Format::Csv => cx.out.line(&csv(event)),
        Format::Name => cx.out.line(&event.number.to_string()),
        Format::Table | Format::Wide | Format::Raw => cx.out.line(&line(event)),
    }
}

fn line(event: &Event) -> String {
    let about = match (&event.machine, &event.reservation) {
        (Some(machine), Some(id)) => format!("{machine} {id}"),
        (Some(machine), None) => machine.to_string(),
        (None, Some(id)) => id.clone(),
        (None, None) => "lab".to_owned(),
    };
    format!("{} {about:<16} {} ({})", clock_seconds(event.time), event.text, event.actor)
}
