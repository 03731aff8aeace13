//! Waiting for a reservation, and saying how it gets on.

use super::super::fail::Fail;
use super::super::out::Out;
use super::super::status::arrow;
use super::super::times::ago;
use super::super::{Context, Result};
use pitstop_client::EventQuery;
use pitstop_wire::api::{EndKind, Event, Machine, Reservation, ReservationState, Time, Update, Why, WhyLine};
use pitstop_wire::text::one_line;
use pitstop_wire::{ApiError, Code};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How often a redrawn line counts on.
const REDRAW: Duration = Duration::from_secs(1);
/// How often it is asked why a reservation still waits.
const ASK_WHY: Duration = Duration::from_secs(5);

/// Follows the reservation until it is ready (or taken).
pub async fn until_ready(cx: &Context, r: &Reservation) -> Result<Reservation> {
    let mut told = Progress::new(&cx.out);
    if let Some(done) = judge(r, &mut told)? {
        return Ok(done);
    }
    let query = EventQuery { reservation: Some(r.id.clone()), ..EventQuery::default() };
    let mut stream = cx.client.events(query).await?;
    let mut asked = Instant::now();
    if r.state == ReservationState::Waiting {
        told.waits(&r.id, reason(cx, &r.id).await);
    }
    loop {
        // On a terminal the line counts on while nothing happens.
        let pause = if cx.out.live { REDRAW } else { ASK_WHY };
        let item = tokio::time::timeout(pause, stream.next()).await;
        let mut moved = false;
        match item {
            Ok(item) => {
                let update = item?.update;
                moved = matches!(&update, Update::Reservation(now) if now.id == r.id);
                if let Some(done) = take(cx, r, &mut told, update).await? {
                    return Ok(done);
                }
            }
            Err(_) => told.tick(),
        }
        // Nobody tells a reservation what its machines' holders do.
        if told.waiting && (moved || asked.elapsed() >= ASK_WHY) {
            asked = Instant::now();
            told.waits(&r.id, reason(cx, &r.id).await);
        }
    }
}

async fn take(
    cx: &Context,
    r: &Reservation,
    told: &mut Progress<'_>,
    update: Update,
) -> Result<Option<Reservation>> {
    match update {
        Update::Snapshot(snapshot) => {
            let now = snapshot.reservations.iter().find(|x| x.id == r.id);
            // Ended ones are in no snapshot.
            let now = match now {
                Some(now) => now.clone(),
                None => cx.client.reservation(&r.id).await.map_err(|e| forgotten(e, &r.id))?,
            };
            missed(cx, &now, told).await?;
            for machine in &snapshot.machines {
                told.machine(machine, &r.id);
            }
            judge(&now, told)
        }
        Update::Reservation(now) if now.id == r.id => judge(&now, told),
        Update::Machine(machine) => {
            told.machine(&machine, &r.id);
            Ok(None)
        }
        Update::Record(event) => {
            told.event(&event);
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// What failed before anybody listened.
async fn missed(cx: &Context, r: &Reservation, told: &mut Progress<'_>) -> Result {
    let machines = r.machines.iter().map(|m| &m.machine).chain(&r.failed_on);
    for machine in machines {
        let query = EventQuery {
            machine: Some(machine.to_string()),
            since: Some(r.created.to_string()),
            story: true,
            ..EventQuery::default()
        };
        for event in cx.client.history(&query).await?.events {
            told.event(&event);
        }
    }
    Ok(())
}

/// Why it waits, in a line. A daemon that is away just now says it later.
async fn reason(cx: &Context, id: &str) -> Option<WhyLine> {
    let why = cx.client.why(id).await.ok()?;
    // It may have been served or ended since; then others tell.
    why.summary.contains(" waits ").then(|| most_telling(&why)).flatten()
}

/// The reason that somebody can do something about, else the last one: its
/// place in the queue.
pub fn most_telling(why: &Why) -> Option<WhyLine> {
    why.lines.iter().find(|l| l.next.is_some()).or(why.lines.last()).cloned()
}

fn judge(r: &Reservation, told: &mut Progress<'_>) -> Result<Option<Reservation>> {
    told.waiting = r.state == ReservationState::Waiting;
    match r.state {
        ReservationState::Ready | ReservationState::Active => {
            told.end();
            Ok(Some(r.clone()))
        }
        ReservationState::Ended => {
            told.end();
            ended(r, told.reason.as_deref().or(told.failed.as_deref())).map(Some)
        }
        ReservationState::Waiting => {
            let place = r.position.map_or_else(String::new, |p| format!(", place {p} in the queue"));
            told.say(&r.id, format!("{} waiting{place}", r.id), r.created);
            Ok(None)
        }
        ReservationState::Preparing => {
            (told.reason, told.cause) = (None, None);
            Ok(None)
        }
    }
}

/// A reservation that there was, and that a lab does not know any more, since
/// its database was restored from a backup: no mistake of whoever asks.
pub fn forgotten(error: ApiError, id: &str) -> ApiError {
    if error.code != Code::NotFound {
        return error;
    }
    let text = format!("the lab does not know {id} any more; most likely it was restored from a backup");
    ApiError::new(Code::MachineFailed, text).hint("ask again")
}

/// The failure that an ended reservation is; `reason`: what it waited for.
pub fn ended(r: &Reservation, reason: Option<&str>) -> Result<Reservation> {
    let Some(end) = &r.end else {
        return Err(Fail::internal(format!("{} is {}", r.id, r.state.word())));
    };
    let code = match end.kind {
        EndKind::TimedOut => Code::TimedOut,
        // Nobody's build is at fault: CI tries again, as with a machine's failure.
        EndKind::Failed | EndKind::Restored => Code::MachineFailed,
        EndKind::Released | EndKind::Expired | EndKind::Lost | EndKind::Unclaimed => Code::Conflict,
    };
    let hint = match r.failed_on.first() {
        Some(machine) => format!("pitstop why {machine}"),
        None => format!("pitstop why {}", r.id),
    };
    let mut text = format!("{} ended: {}", r.id, end.text);
    if let Some(reason) = reason.filter(|_| end.kind == EndKind::TimedOut) {
        text.push_str(&format!("; {reason}"));
    }
    Err(ApiError::new(code, text).hint(hint).into())
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

/// A failure as it happens: `vm-1  ✗ power: there is no …/vmlinuz`.
fn failure(machine: &str, event: &Event) -> (String, String) {
    let said = |field: &str| event.data.pointer(&format!("/failure/{field}")).and_then(|v| v.as_str());
    match (said("class"), said("evidence")) {
        (Some(class), Some(evidence)) => {
            // What an error says to do stands at its end, in backquotes.
            let next = evidence.rsplit_once("`pitstop ").and_then(|(_, rest)| rest.split_once('`'));
            let next = match next {
                Some((command, _)) => format!("pitstop {command}"),
                None => format!("pitstop why {machine}"),
            };
            (format!("{machine}  ✗ {class}: {}", one_line(evidence)), next)
        }
        _ => (format!("{machine}  {}", one_line(&event.text)), format!("pitstop why {machine}")),
    }
}

/// A reason without times, and without what a phase adds to it.
fn cause(text: &str) -> String {
    let time = |word: &&str| {
        let word = word.trim_end_matches([',', ')', ':']);
        !(word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['s', 'm', 'h', 'd']))
    };
    let text = text.split_once(": ").map_or(text, |(before, _)| before);
    text.split_whitespace().filter(time).collect::<Vec<_>>().join(" ")
}

/// One line per phase; on a terminal one line that is redrawn.
pub struct Progress<'a> {
    out: &'a Out,
    /// Per machine (or reservation), what was said last and since when.
    said: BTreeMap<String, (String, Time)>,
    drawn: bool,
    /// Whether it is in the queue.
    waiting: bool,
    /// What it waits for, as it was said last.
    reason: Option<String>,
    /// The same without what time alone changes.
    cause: Option<String>,
    /// The newest record that was told.
    newest: u64,
    /// Failures told, by machine, and the last of them.
    failures: BTreeMap<String, u32>,
    failed: Option<String>,
}

impl<'a> Progress<'a> {
    pub fn new(out: &'a Out) -> Self {
        Self {
            out,
            said: BTreeMap::new(),
            drawn: false,
            waiting: false,
            reason: None,
            cause: None,
            newest: 0,
            failures: BTreeMap::new(),
            failed: None,
        }
    }

    /// A phase that failed, with what helps; once.
    pub fn event(&mut self, event: &Event) {
        let failed = event.kind == "phase-failed" && event.number > self.newest;
        if let (true, Some(machine)) = (failed, &event.machine) {
            self.newest = event.number;
            *self.failures.entry(machine.to_string()).or_default() += 1;
            let (text, next) = failure(machine, event);
            self.line(&format!("{text}{}", arrow(Some(&next))));
            self.failed = Some(text);
        }
    }

    /// Why it waits, where that is another cause than before.
    pub fn waits(&mut self, id: &str, why: Option<WhyLine>) {
        let Some(why) = why else { return };
        let cause = cause(&why.text);
        self.reason = Some(why.text.clone());
        if self.cause.replace(cause.clone()) != Some(cause) {
            self.line(&format!("{id} waits: {}{}", why.text, arrow(why.next.as_deref())));
            self.tick();
        }
    }

    /// A machine as it is now; ones of other reservations do not matter.
    pub fn machine(&mut self, machine: &Machine, id: &str) {
        if machine.holder.as_ref().is_some_and(|h| h.reservation == id) {
            self.said.remove(id);
            // Rows are newer than the records told before them: first why,
            // then what it goes on with.
            let told = self.failures.get(machine.name.as_str()).copied().unwrap_or_default();
            if machine.turn.as_ref().is_some_and(|turn| turn.failed > told) {
                return;
            }
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

#[cfg(test)]
mod tests {
    use super::super::super::tests::event;
    use super::*;
    use pitstop_wire::api::Schema;
    use serde_json::json;

    fn failed(number: u64, evidence: &str) -> Event {
        let failure = json!({ "class": "power", "phase": "boot agent", "evidence": evidence });
        let data = json!({ "failure": failure });
        Event { number, detail: false, data, ..event("phase-failed", "✗ boot agent failed") }
    }

    #[test]
    fn a_failure_is_told_with_its_evidence_and_what_helps() {
        let evidence = "there is no /d/agent/vmlinuz (make it with `pitstop image agent`)";
        let (text, next) = failure("vm-1", &failed(1, evidence));
        assert!(text.starts_with("vm-1  ✗ power: there is no /d/agent/vmlinuz"), "{text}");
        assert_eq!(next, "pitstop image agent");
        let (text, next) = failure("vm-1", &failed(1, "no agent\u{1b}[2J in 2 s"));
        assert!(next == "pitstop why vm-1" && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn time_alone_is_no_news_and_another_cause_is() {
        let same = [
            ("b1 is held by anna (R-1, 59m left)", "b1 is held by anna (R-1, 3s left)"),
            (
                "b1 is being cleaned: off for 3s, limit in 7s",
                "b1 is being cleaned: disk for 0s, limit in 59m",
            ),
        ];
        for (a, b) in same {
            assert_eq!(cause(a), cause(b));
        }
        assert_ne!(cause("b1 is held by anna (R-1, 59m left)"), cause("b1 is held by bob (R-2, 59m left)"));
        assert_ne!(cause("b1 is quarantined: boot in x"), cause("b1 is held by bob (R-2)"));
    }

    #[test]
    fn the_reason_told_is_one_that_somebody_can_do_something_about() {
        let line = |text: &str, next: Option<&str>| WhyLine {
            text: text.into(),
            next: next.map(str::to_owned),
            at: None,
        };
        let lines = vec![
            line("2 of 3 match", None),
            line("b1 is held", Some("pitstop show R-1")),
            line("place 1", None),
        ];
        let mut why =
            Why { schema: Schema::new("pitstop.why/1"), about: "R-2".into(), summary: String::new(), lines };
        assert_eq!(most_telling(&why).unwrap().text, "b1 is held");
        why.lines.remove(1);
        assert_eq!(most_telling(&why).unwrap().text, "place 1");
    }
}
