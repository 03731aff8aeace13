//! Consoles: watching, and one keyboard for the holder.

use super::Shared;
use super::error::{Refusal, not_found};
use super::extract::{Asked, Name};
use super::run::{Io, accept, upgrade};
use crate::daemon::Desk;
use crate::daemon::consoles::{ConsoleError, Keyboard, Piece, Replay, Watcher};
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use pitstop_client::frames::{FrameReader, write_frame};
use pitstop_core::Lab;
use pitstop_core::event::Caller;
use pitstop_core::id::RecordNo;
use pitstop_wire::api::{ConsoleRequest, Time};
use pitstop_wire::console::{FromConsole, PIECE, ToConsole};
use pitstop_wire::{ApiError, Code, MachineName};
use tokio::io::split;
use tokio::sync::mpsc;

/// Bytes of the past that are shown unless said.
const DEFAULT_REPLAY: u64 = 16 << 10;

/// Attach to a console.
pub async fn console(
    State(app): State<Shared>,
    Name(machine): Name,
    request: Request,
) -> Result<Response, Refusal> {
    let (upgrade, request) = upgrade(request)?;
    let Asked { caller, body } = Asked::<ConsoleRequest>::from_request(request, &app).await?;
    let lab = app.desk.snapshot().await?;
    if lab.machine(&machine).is_none() {
        return Err(Refusal(super::machines::no_machine(&lab, &machine)));
    }
    if body.write {
        may_type(&lab, &caller, &machine)?;
    }
    let replay = match &body {
        ConsoleRequest { from: Some(position), .. } => Replay::From(*position),
        ConsoleRequest { since_boot: true, .. } => Replay::SinceBoot,
        ConsoleRequest { last, .. } => Replay::Last(last.unwrap_or(DEFAULT_REPLAY)),
    };
    let attached = app.consoles.attach(&machine, body.console.as_deref(), replay, &caller.user);
    let (watcher, keyboard) = attached.map_err(|e| match e {
        ConsoleError::NoMachine(_) | ConsoleError::None(_) | ConsoleError::NoSuch { .. } => {
            not_found(e.to_string())
        }
    })?;
    let seat = Seat { desk: app.desk.clone(), caller, machine, follow: !body.no_follow };
    if body.write {
        seat.take(&keyboard, body.steal).await?;
    }
    Ok(accept(upgrade, app.closing.clone(), move |io| seat.serve(io, watcher, keyboard)))
}

fn taken(machine: &MachineName, who: &str) -> ApiError {
    ApiError::new(Code::Held, format!("{who} has the keyboard of {machine}"))
        .hint("pitstop console --write --steal takes the keyboard")
}

/// Typing is for the holder; on a machine that nobody holds, for admins.
fn may_type(lab: &Lab, caller: &Caller, machine: &MachineName) -> Result<(), ApiError> {
    if lab.holds(&caller.user, machine) {
        return Ok(());
    }
    let holder = lab.machine(machine).and_then(|m| m.reservation()).and_then(|id| lab.reservation(id));
    match holder {
        Some(r) => Err(ApiError::new(Code::Held, format!("{machine} is held by {} ({})", r.owner, r.id))
            .holder(r.owner.to_string())
            .hint("without --write you may watch")),
        None if caller.admin => Ok(()),
        None => Err(ApiError::new(Code::Conflict, format!("{machine} is not held by you: nobody holds it"))
            .hint(format!("pitstop reserve {machine}"))),
    }
}

/// One attached client.
struct Seat {
    desk: Desk,
    caller: Caller,
    machine: MachineName,
    follow: bool,
}

impl Seat {
    /// Reads, writes and watches side by side, so that a client who does not
    /// read cannot keep his own keys from arriving, nor the other way round.
    async fn serve(self, io: Io, mut watcher: Watcher, keyboard: Keyboard) {
        let (reader, mut writer) = split(io);
        let mut reader = FrameReader::new(reader);
        let (refuse, mut refused) = mpsc::channel::<String>(4);
        let typing = async {
            while let Ok(Some(frame)) = reader.next::<ToConsole>().await {
                if let Err(reason) = self.obey(frame.message, &frame.body, &keyboard).await {
                    // A client who does not read hears it no more.
                    let _ = refuse.try_send(reason);
                }
            }
        };
        let showing = async {
            let attached =
                FromConsole::Attached { console: watcher.console.clone(), position: watcher.position() };
            let mut message = (attached, Vec::new());
            let mut replayed = false;
            loop {
                let over = matches!(message.0, FromConsole::Closed { .. });
                let sent =
                    tokio::time::timeout(Watcher::STALL, write_frame(&mut writer, &message.0, &message.1));
                if !matches!(sent.await, Ok(Ok(()))) || over {
                    return;
                }
                if !replayed && watcher.replayed() {
                    replayed = true;
                    message = (FromConsole::Replayed, Vec::new());
                    continue;
                }
                if replayed && !self.follow {
                    return;
                }
                message = tokio::select! {
                    piece = watcher.next() => told(piece),
                    Some(reason) = refused.recv() => (FromConsole::Refused { reason }, Vec::new()),
                };
            }
        };
        tokio::select! {
            () = typing => {}
            () = showing => {}
        }
    }

    async fn obey(&self, message: ToConsole, body: &[u8], keyboard: &Keyboard) -> Result<(), String> {
        match message {
            ToConsole::Input if body.len() > PIECE => Err(format!("at most {PIECE} bytes at a time")),
            ToConsole::Input => keyboard.type_in(body).await,
            ToConsole::Break => keyboard.send_break().await,
            ToConsole::Watch => {
                keyboard.leave();
                Ok(())
            }
            ToConsole::Write { steal } => {
                // Who holds it now, not who held it at the attach.
                self.take(keyboard, steal).await.map_err(|e| e.message)
            }
        }
    }

    /// Takes the keyboard, if the caller may type.
    async fn take(&self, keyboard: &Keyboard, steal: bool) -> Result<(), ApiError> {
        let taken = |who: String| taken(&self.machine, &who);
        keyboard.take(steal, self.may_type().await?).map_err(taken)?;
        // Keyboards are freed when the machine changes hands; had that been
        // before this one was taken, nobody would take it away again.
        match self.may_type().await {
            Ok(as_of) => keyboard.take(false, as_of).map_err(taken),
            Err(refused) => {
                keyboard.leave();
                Err(refused)
            }
        }
    }

    /// The record up to which it is known that the caller may type.
    async fn may_type(&self) -> Result<RecordNo, ApiError> {
        let lab = self.desk.snapshot().await?;
        may_type(&lab, &self.caller, &self.machine)?;
        Ok(lab.meta().records)
    }
}

fn told(piece: Piece) -> (FromConsole, Vec<u8>) {
    match piece {
        Piece::Bytes { position, bytes } => (FromConsole::Output { position }, bytes),
        Piece::Mark(mark) => (
            FromConsole::Mark { position: mark.position, at: Time(mark.stamp.wall), text: mark.text },
            Vec::new(),
        ),
        Piece::Skipped { position, bytes } => (FromConsole::Skipped { position, bytes }, Vec::new()),
        Piece::Seats(seats) => {
            let (writer, you, watchers) = (seats.writer, seats.you, seats.watchers);
            (FromConsole::Seats { writer, you, watchers, down: seats.line.err() }, Vec::new())
        }
        Piece::Closed(reason) => (FromConsole::Closed { reason }, Vec::new()),
    }
}
