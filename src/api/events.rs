//! The history, and the stream of what happens.
//!
//! A stream begins with a snapshot, or with the records since the id that
//! the reader has. After each commit it gets the new records, then every row
//! they touched as it is now. A reader who takes nothing for [`STALLED`] is
//! cut; he comes back with his last id and misses nothing.

use super::error::{Refusal, usage};
use super::extract::Params;
use super::peer::Peer;
use super::{App, Shared, view};
use crate::store::RecordQuery;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use pitstop_core::Lab;
use pitstop_core::id::{RecordNo, ReservationId};
use pitstop_core::record::{Change, Record};
use pitstop_wire::api::{Event, Events, Schema, Time, Update};
use pitstop_wire::{ApiError, MachineName};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// How often a stream says that it lives.
const BEAT: Duration = Duration::from_secs(15);
/// How long a reader may take nothing.
const STALLED: Duration = Duration::from_secs(20);
/// Messages a reader may be behind before he counts as taking nothing.
const BEHIND: usize = 256;
/// Records replayed for a reader who comes back; a snapshot is shorter than
/// more of them.
const REPLAY: u64 = 5_000;
/// Records read at once where only some of them are wanted.
const STORY_PAGE: usize = 500;
/// Longest queue whose places are told again when it moves.
const PLACES: usize = 100;

/// `GET /events`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Query {
    since: Option<String>,
    machine: Option<MachineName>,
    reservation: Option<String>,
    last: Option<usize>,
    /// Only what belongs to the story, without its details.
    story: bool,
    follow: bool,
    /// For readers that cannot set the header.
    last_event_id: Option<String>,
}

/// The history, or with `follow` the stream.
pub async fn events(
    State(app): State<Shared>,
    _: Peer,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Response, Refusal> {
    let filter = Filter::new(&query)?;
    if query.follow {
        let header = headers.get("last-event-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        return Ok(stream(app, filter, query.last_event_id.or(header)));
    }
    let events = history(&app, record_query(&query, &filter)?, query.story).await?;
    Ok(Json(Events { schema: Schema::new("pitstop.events/1"), events }).into_response())
}

/// The events that are wanted. Most records are details: where only the
/// story is, so many are read that the number asked for is there, if it ever
/// happened.
async fn history(app: &App, mut records: RecordQuery, story: bool) -> Result<Vec<Event>, ApiError> {
    let wanted = records.limit;
    if story {
        records.limit = wanted.map(|n| n.saturating_mul(5).clamp(STORY_PAGE, RecordQuery::MOST));
    }
    let mut events: Vec<Event> = Vec::new();
    loop {
        let page = app.desk.records(records.clone()).await?;
        let told = page.iter().filter_map(view::event::event).filter(|e| !story || !e.detail);
        // Pages go backwards, what is in them forwards.
        events.splice(0..0, told);
        let enough = wanted.is_none_or(|n| events.len() >= n);
        let Some(oldest) = page.first().filter(|_| story && !enough) else { break };
        records.before = Some(oldest.number);
    }
    events.drain(..events.len().saturating_sub(wanted.unwrap_or(usize::MAX)));
    Ok(events)
}

fn record_query(query: &Query, filter: &Filter) -> Result<RecordQuery, Refusal> {
    let mut records = RecordQuery {
        machine: filter.machine.clone(),
        reservation: filter.reservation,
        ..RecordQuery::default()
    };
    if let Some(n) = query.last {
        records.limit = Some(n);
        records.newest = true;
    }
    match query.since.as_deref().map(|s| (s, s.parse::<u64>(), s.parse::<Time>())) {
        None => {}
        Some((_, Ok(number), _)) => records.after = Some(number.saturating_sub(1)),
        Some((_, _, Ok(time))) => records.since = Some(time.0),
        Some((text, ..)) => {
            return Err(usage(format!("`since={text}` is neither a record's number nor RFC 3339")));
        }
    }
    Ok(records)
}

/// What a reader wants to hear of.
#[derive(Debug, Clone)]
struct Filter {
    machine: Option<MachineName>,
    reservation: Option<ReservationId>,
}

impl Filter {
    fn new(query: &Query) -> Result<Self, Refusal> {
        let reservation = query.reservation.as_deref().map(str::parse).transpose().map_err(usage)?;
        Ok(Self { machine: query.machine.clone(), reservation })
    }

    fn all(&self) -> bool {
        self.machine.is_none() && self.reservation.is_none()
    }
}

fn stream(app: Shared, filter: Filter, last_id: Option<String>) -> Response {
    let (out, body) = mpsc::channel(BEHIND);
    tokio::spawn(async move {
        let (gone, closing) = (out.clone(), app.closing.clone());
        let reader = Reader { app, filter, seen: 0, near: BTreeSet::new(), out };
        tokio::select! {
            // The reader is cut, or the daemon stops: he comes back.
            _ = reader.run(last_id) => {}
            () = closing.cancelled() => {}
            () = gone.closed() => {}
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(ReceiverStream::new(body))).into_response()
}

/// One reader of the stream.
struct Reader {
    app: Arc<App>,
    filter: Filter,
    /// Newest record told.
    seen: RecordNo,
    /// Machines that this reader was told of because of his reservation.
    near: BTreeSet<MachineName>,
    out: mpsc::Sender<Result<Bytes, Infallible>>,
}

/// The reader is gone, or too slow, or the daemon stops.
struct Cut;

impl From<ApiError> for Cut {
    fn from(_: ApiError) -> Self {
        Self
    }
}

impl Reader {
    async fn run(mut self, last_id: Option<String>) -> Result<(), Cut> {
        let mut news = self.app.desk.subscribe();
        let mut progress = self.app.progress.subscribe();
        let lab = self.app.desk.snapshot().await?;
        self.begin(&lab, last_id.as_deref()).await?;
        drop(lab);
        loop {
            tokio::select! {
                batch = news.recv() => {
                    let records = self.more(batch, &mut news).await?;
                    self.tell(&records).await?;
                }
                step = progress.recv() => {
                    if let Ok(step) = step && self.wants_machine(&step.machine) {
                        self.send(None, &Update::Progress(step)).await?;
                    }
                }
                () = tokio::time::sleep(BEAT) => self.put(Bytes::from_static(b": beat\n\n")).await?,
            }
        }
    }

    /// The records since the reader's id, or a snapshot.
    async fn begin(&mut self, lab: &Lab, last_id: Option<&str>) -> Result<(), Cut> {
        let newest = lab.meta().records;
        match last_id.map(|id| self.known(id, newest)) {
            Some(Some(number)) => {
                self.seen = number;
                self.near = self.members(lab);
                if number < newest {
                    let missed = self.app.desk.records(RecordQuery::after(number)).await?;
                    self.tell(&missed).await?;
                }
                return Ok(());
            }
            Some(None) => self.send(None, &Update::Reset).await?,
            None => {}
        }
        self.seen = newest;
        self.near = self.members(lab);
        let mut snapshot = view::status::snapshot(lab);
        if !self.filter.all() {
            snapshot.machines.retain(|m| self.wants_machine(&m.name));
            snapshot.reservations.retain(|r| match (self.filter.reservation, &self.filter.machine) {
                (Some(id), _) => r.id == id.to_string(),
                (None, Some(machine)) => r.machines.iter().any(|m| m.machine == *machine),
                (None, None) => true,
            });
        }
        let id = self.id(newest);
        self.send(Some(id), &Update::Snapshot(Box::new(snapshot))).await
    }

    /// The record behind an id, if it is ours and not too long ago.
    fn known(&self, id: &str, newest: RecordNo) -> Option<RecordNo> {
        let (store, number) = id.rsplit_once('-')?;
        let number: RecordNo = number.parse().ok()?;
        let ours = store == self.app.desk.store_id() && number <= newest && newest - number <= REPLAY;
        ours.then_some(number)
    }

    fn id(&self, number: RecordNo) -> String {
        format!("{}-{number}", self.app.desk.store_id())
    }

    /// All that is new: what arrived, what arrived meanwhile, and what was
    /// dropped because we were slow.
    async fn more(
        &self,
        first: Result<Arc<[Record]>, RecvError>,
        news: &mut broadcast::Receiver<Arc<[Record]>>,
    ) -> Result<Vec<Record>, Cut> {
        let mut records = match first {
            Ok(batch) => batch.to_vec(),
            Err(RecvError::Lagged(_)) => self.app.desk.records(RecordQuery::after(self.seen)).await?,
            Err(RecvError::Closed) => return Err(Cut),
        };
        while records.len() < RecordQuery::MOST
            && let Ok(batch) = news.try_recv()
        {
            records.extend_from_slice(&batch);
        }
        Ok(records)
    }

    async fn tell(&mut self, records: &[Record]) -> Result<(), Cut> {
        let mut touched = Touched::default();
        let mut news: Vec<&Record> = Vec::new();
        for record in records.iter().filter(|r| r.number > self.seen) {
            touched.add(&record.change);
            news.push(record);
        }
        let Some(last) = news.last().map(|r| r.number) else { return Ok(()) };
        let lab = self.app.desk.snapshot().await?;
        self.near.extend(self.members(&lab));
        for record in news {
            if self.wants_record(record)
                && let Some(event) = view::event::event(record)
            {
                let id = self.id(record.number);
                self.send(Some(id), &Update::Record(Box::new(event))).await?;
            }
        }
        self.seen = last;
        self.rows(&lab, touched).await
    }

    async fn rows(&mut self, lab: &Lab, mut touched: Touched) -> Result<(), Cut> {
        if touched.queue && (self.filter.reservation.is_some() || lab.queue().count() <= PLACES) {
            touched.reservations.extend(lab.queue().map(|r| r.id));
        }
        for id in &touched.reservations {
            let row = lab.reservation(*id);
            // A machine's row shows its holder: it changed with the holder's.
            touched.machines.extend(row.iter().flat_map(|r| r.members.iter().map(|m| m.machine.clone())));
            if !self.wants_reservation(
                *id,
                row.map(|r| r.members.iter().any(|m| Some(&m.machine) == self.filter.machine.as_ref())),
            ) {
                continue;
            }
            let update = match row {
                Some(row) => Update::Reservation(Box::new(view::reservation::reservation(lab, row))),
                None => Update::Gone(id.to_string()),
            };
            self.send(None, &update).await?;
        }
        for name in touched.machines.iter().filter(|name| self.wants_machine(name)) {
            let update = match lab.machine(name) {
                Some(row) => Update::Machine(Box::new(view::machine::machine(lab, row))),
                None => Update::Gone(name.to_string()),
            };
            self.send(None, &update).await?;
        }
        self.near = self.members(lab);
        Ok(())
    }

    fn members(&self, lab: &Lab) -> BTreeSet<MachineName> {
        let row = self.filter.reservation.and_then(|id| lab.reservation(id));
        row.map(|r| r.members.iter().map(|m| m.machine.clone()).collect()).unwrap_or_default()
    }

    fn wants_machine(&self, name: &str) -> bool {
        self.filter.all() || self.filter.machine.as_deref() == Some(name) || self.near.contains(name)
    }

    fn wants_reservation(&self, id: ReservationId, on_machine: Option<bool>) -> bool {
        self.filter.all() || self.filter.reservation == Some(id) || on_machine == Some(true)
    }

    fn wants_record(&self, record: &Record) -> bool {
        let change = &record.change;
        self.filter.all()
            || (self.filter.reservation.is_some() && change.reservation() == self.filter.reservation)
            || change.machine().is_some_and(|m| self.wants_machine(m))
    }

    async fn send(&self, id: Option<String>, update: &Update) -> Result<(), Cut> {
        let Ok(data) = update.data() else { return Err(Cut) };
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.put(Bytes::from(format!("{id}event: {}\ndata: {data}\n\n", update.name()))).await
    }

    async fn put(&self, bytes: Bytes) -> Result<(), Cut> {
        match tokio::time::timeout(STALLED, self.out.send(Ok(bytes))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Cut),
        }
    }
}

/// Rows that records touched.
#[derive(Default)]
struct Touched {
    machines: BTreeSet<MachineName>,
    reservations: BTreeSet<ReservationId>,
    queue: bool,
}

impl Touched {
    fn add(&mut self, change: &Change) {
        self.machines.extend(change.machine().cloned());
        self.reservations.extend(change.reservation());
        self.queue |= matches!(
            change,
            Change::Queued { .. } | Change::Granted { .. } | Change::Requeued { .. } | Change::Ended { .. }
        );
    }
}
