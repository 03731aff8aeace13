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
    what: Option<String>,
    /// Go on with what happens.
    #[arg(short, long)]
    follow: bool,
    /// From then on: 2h ago, a record's number, or RFC 3339.
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// At most so many, the newest.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "100")]
    last: usize,
    /// Details too: power readings, steps of agents.
    #[arg(short, long)]
    all: bool,
}

/// Records per one that is part of the story, generously.
const DETAILS: usize = 5;

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    // Most records are details, which are not shown: ask for more.
    let asked = if args.all { args.last } else { args.last.saturating_mul(DETAILS) };
    let mut query = EventQuery { last: Some(asked), ..EventQuery::default() };
    if let Some(since) = &args.since {
        query.since = Some(super::times::since(since)?);
    }
    match args.what.as_deref().map(thing).transpose()? {
        Some(Thing::Machine(name)) => query.machine = Some(name.to_string()),
        Some(Thing::Reservation(id)) => query.reservation = Some(id),
        None => {}
    }
    if args.follow { follow(cx, args, query).await } else { once(cx, args, query).await }
}

async fn once(cx: &Context, args: &Args, query: EventQuery) -> Result {
    let mut history = cx.client.history(&query).await?;
    if history.events.is_empty() {
        exists(cx, &query).await?;
    }
    history.events.retain(|e| wanted(args, e));
    history.events.drain(..history.events.len().saturating_sub(args.last));
    if cx.out.format == Format::Json {
        return cx.out.json(&history);
    }
    history.events.iter().try_for_each(|e| print(cx, e))
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
        Format::Json | Format::Jsonl | Format::Csv => cx.out.json(event),
        Format::Name => cx.out.line(&event.number.to_string()),
        Format::Table | Format::Wide => cx.out.line(&line(event)),
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
