//! Waiting for a reservation, and saying how it gets on.

use super::super::fail::Fail;
use super::super::out::Out;
use super::super::times::ago;
use super::super::{Context, Result};
use pitstop_client::EventQuery;
use pitstop_wire::api::{EndKind, Machine, Reservation, ReservationState, Time, Update};
use pitstop_wire::{ApiError, Code};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often a redrawn line counts on.
const REDRAW: Duration = Duration::from_secs(1);

/// Follows the reservation until it is ready (or taken).
pub async fn until_ready(cx: &Context, r: &Reservation) -> Result<Reservation> {
    let mut told = Progress::new(&cx.out);
    if let Some(done) = judge(r, &mut told)? {
        return Ok(done);
    }
    let query = EventQuery { reservation: Some(r.id.clone()), ..EventQuery::default() };
    let mut stream = cx.client.events(query).await?;
    loop {
        // On a terminal the line counts on while nothing happens.
        let item = match cx.out.live {
            true => tokio::time::timeout(REDRAW, stream.next()).await,
            false => Ok(stream.next().await),
        };
        let Ok(item) = item else {
            told.tick();
            continue;
        };
        match item?.update {
            Update::Snapshot(snapshot) => {
                for machine in &snapshot.machines {
                    told.machine(machine, &r.id);
                }
                match snapshot.reservations.iter().find(|x| x.id == r.id) {
                    Some(r) => {
                        if let Some(done) = judge(r, &mut told)? {
                            return Ok(done);
                        }
                    }
                    // Ended ones are in no snapshot.
                    None => return ended(&cx.client.reservation(&r.id).await?),
                }
            }
            Update::Reservation(now) if now.id == r.id => {
                if let Some(done) = judge(&now, &mut told)? {
                    return Ok(done);
                }
            }
            Update::Machine(machine) => told.machine(&machine, &r.id),
            _ => {}
        }
    }
}

fn judge(r: &Reservation, told: &mut Progress<'_>) -> Result<Option<Reservation>> {
    match r.state {
        ReservationState::Ready | ReservationState::Active => {
            told.end();
            Ok(Some(r.clone()))
        }
        ReservationState::Ended => {
            told.end();
            ended(r).map(Some)
        }
        ReservationState::Waiting => {
            let place = r.position.map_or_else(String::new, |p| format!(", place {p} in the queue"));
            told.say(&r.id, format!("{} waiting{place}", r.id), r.created);
            Ok(None)
        }
        ReservationState::Preparing => Ok(None),
    }
}

/// The failure that an ended reservation is.
pub fn ended(r: &Reservation) -> Result<Reservation> {
    let Some(end) = &r.end else {
        return Err(Fail::internal(format!("{} is {}", r.id, r.state.word())));
    };
    let code = match end.kind {
        EndKind::TimedOut => Code::TimedOut,
        EndKind::Failed => Code::MachineFailed,
        EndKind::Released | EndKind::Expired | EndKind::Lost | EndKind::Unclaimed => Code::Conflict,
    };
    let hint = match r.failed_on.first() {
        Some(machine) => format!("pitstop why {machine}"),
        None => format!("pitstop why {}", r.id),
    };
    Err(ApiError::new(code, format!("{} ended: {}", r.id, end.text)).hint(hint).into())
}

/// Resolves when somebody wants us to stop, with the signal's name.
pub async fn interrupted() -> Result<&'static str> {
    let failed = |e: std::io::Error| Fail::internal(format!("signals cannot be watched: {e}"));
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    tokio::select! {
        _ = int.recv() => Ok("interrupted"),
        _ = term.recv() => Ok("terminated"),
        _ = hup.recv() => Ok("terminal gone"),
    }
}

/// One line per phase; on a terminal one line that is redrawn.
pub struct Progress<'a> {
    out: &'a Out,
    /// Per machine (or reservation), what was said last and since when.
    said: BTreeMap<String, (String, Time)>,
    drawn: bool,
}

impl<'a> Progress<'a> {
    pub fn new(out: &'a Out) -> Self {
        Self { out, said: BTreeMap::new(), drawn: false }
    }

    /// A machine as it is now; ones of other reservations do not matter.
    pub fn machine(&mut self, machine: &Machine, id: &str) {
        if machine.holder.as_ref().is_some_and(|h| h.reservation == id) {
            self.said.remove(id);
            let what = match &machine.turn {
                Some(turn) => {
                    let work = match (&turn.disk, turn.writing) {
                        (Some(disk), true) => format!("disk {disk}: writing"),
                        (Some(disk), false) => format!("disk {disk}: proving"),
                        _ => turn.phase.clone(),
                    };
                    let again =
                        if turn.failed > 0 { format!(" (try {})", turn.failed + 1) } else { String::new() };
                    (format!("{}  {work}{again}", machine.name), turn.phase_since)
                }
                None => (format!("{}  {}", machine.name, machine.shown.word()), machine.since),
            };
            self.say(&machine.name, what.0, what.1);
        } else if self.said.remove(machine.name.as_str()).is_some() {
            self.line(&format!("{}  given back", machine.name));
        }
    }

    pub fn say(&mut self, about: &str, text: String, since: Time) {
        if self.said.get(about).is_some_and(|(old, _)| *old == text) {
            return;
        }
        if !self.out.live {
            self.line(&text);
        }
        self.said.insert(about.to_owned(), (text, since));
        self.tick();
    }

    /// Draws the line again with the time that has passed.
    pub fn tick(&mut self) {
        if !self.out.live || !self.out.human() {
            return;
        }
        let parts: Vec<String> =
            self.said.values().map(|(text, since)| format!("{text} {}", ago(*since))).collect();
        let mut line = parts.join(" · ");
        let width = self.out.width.map_or(79, |w| usize::from(w).saturating_sub(1));
        if line.chars().count() > width {
            line = line.chars().take(width.saturating_sub(1)).chain(['…']).collect();
        }
        self.out.redraw(&line);
        self.drawn = true;
    }

    fn line(&mut self, text: &str) {
        if !self.out.human() {
            return;
        }
        if self.drawn {
            self.out.redraw("");
            self.drawn = false;
        }
        self.out.say(text);
    }

    /// Leaves the last line as it is.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.out.redraw("");
        }
    }
}
