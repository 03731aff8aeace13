//! Consoles: watching, and one keyboard for the holder.

use super::Shared;
use super::error::{Refusal, not_found};
use super::extract::{Asked, Name};
use super::run::{Io, accept, upgrade};
use crate::daemon::Desk;
use crate::daemon::consoles::{ConsoleError, Consoles, Keyboard, Piece, Replay, Viewer, Watcher};
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use pitstop_client::frames::{FrameReader, write_frame};
use pitstop_core::Lab;
use pitstop_core::event::Caller;
use pitstop_core::id::RecordNo;
use pitstop_wire::api::{ConsoleRequest, Time};
use pitstop_wire::console::{FromConsole, PIECE, ToConsole};
use pitstop_wire::{ApiError, Code, MachineName};
use std::io::Cursor;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, split};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

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
    let replay = replay(&body);
    let viewer = Viewer::new(&caller.user, caller.admin);
    let attached = app.consoles.attach(&machine, body.console.as_deref(), replay, &viewer);
    let (watcher, mut keyboard) = attached.map_err(refused)?;
    keyboard.because(body.reason.as_deref());
    let watcher = if body.times { watcher.with_times() } else { watcher };
    let seat = Seat { desk: app.desk.clone(), caller, machine };
    if body.write {
        seat.take(&keyboard, body.steal).await?;
    }
    let consoles = app.consoles.clone();
    Ok(accept(upgrade, app.closing.clone(), move |io| async move {
        let (mut io, mut watcher) = (io, watcher);
        if replayed(&mut io, &mut watcher).await && !body.no_follow {
            follow(&consoles, seat, io, watcher, keyboard).await;
        }
    }))
}

fn refused(error: ConsoleError) -> ApiError {
    let words = error.to_string();
    match error {
        ConsoleError::NoMachine(_) | ConsoleError::None(_) | ConsoleError::NoSuch { .. } => not_found(words),
        ConsoleError::Held { holder, .. } => ApiError::new(Code::Held, words)
            .holder(holder.to_string())
            .hint("`watch_consoles` in the inventory says who may, besides the holder and admins"),
        ConsoleError::Last { machine, .. } => {
            ApiError::new(Code::Held, words).hint(format!("pitstop why {machine}; admins may watch"))
        }
    }
}

fn replay(body: &ConsoleRequest) -> Replay {
    match body {
        ConsoleRequest { from: Some(position), .. } => Replay::From(*position),
        ConsoleRequest { all: true, .. } => Replay::All,
        ConsoleRequest { lines: Some(lines), .. } => {
            Replay::Lines(usize::try_from(*lines).unwrap_or(usize::MAX))
        }
        ConsoleRequest { since: Some(ms), .. } => Replay::Since(*ms),
        ConsoleRequest { since_reserve: true, .. } => Replay::SinceReserve,
        ConsoleRequest { since_boot: true, .. } => Replay::SinceBoot,
        ConsoleRequest { last, .. } => Replay::Last(last.unwrap_or(DEFAULT_REPLAY)),
    }
}

/// Sends what was there at the attach; whether the client took it.
async fn replayed(io: &mut Io, watcher: &mut Watcher) -> bool {
    let (console, position) = (watcher.console.clone(), watcher.position());
    let mut message = (FromConsole::Attached { console, position }, Vec::new());
    loop {
        if !sent(io, &message).await {
            return false;
        }
        match message.0 {
            FromConsole::Replayed => return true,
            FromConsole::Closed { .. } => return false,
            _ => {}
        }
        message =
            if watcher.replayed() { (FromConsole::Replayed, Vec::new()) } else { told(watcher.next().await) };
    }
}

/// Sends a frame; whether the client took it before it counts as dead.
async fn sent<W: AsyncWrite + Unpin>(to: &mut W, message: &(FromConsole, Vec<u8>)) -> bool {
    let mut sending = std::pin::pin!(write_frame(to, &message.0, &message.1));
    // Nearly always there is room, and no need of a timer.
    let at_once = std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    let sent = match at_once {
        Poll::Ready(sent) => sent,
        Poll::Pending => match tokio::time::timeout(Watcher::STALL, sending).await {
            Ok(sent) => sent,
            Err(_) => return false,
        },
    };
    sent.is_ok()
}

/// Follows the console live, where it is read: neither a byte on its way to
/// the client nor a key on its way to the machine then waits for two threads.
async fn follow(consoles: &Consoles, seat: Seat, io: Io, watcher: Watcher, keyboard: Keyboard) {
    match io.into_inner().downcast::<TokioIo<UnixStream>>() {
        Ok(parts) => {
            let early = Cursor::new(parts.read_buf);
            let socket = match parts.io.into_inner().into_std() {
                Ok(socket) => socket,
                Err(e) => return tracing::debug!("a connection cannot be followed: {e}"),
            };
            let live = async move {
                match UnixStream::from_std(socket) {
                    Ok(socket) => {
                        let (reader, writer) = socket.into_split();
                        seat.serve(early.chain(reader), writer, watcher, keyboard).await;
                    }
                    Err(e) => tracing::debug!("a connection cannot be followed: {e}"),
                }
            };
            // It ends with whoever waits here, when the daemon closes.
            let live = AbortOnDropHandle::new(consoles.spawn(live));
            if let Err(e) = live.await {
                tracing::warn!("a console's watcher ended: {e}");
            }
        }
        Err(other) => {
            let (reader, writer) = split(TokioIo::new(other));
            seat.serve(reader, writer, watcher, keyboard).await;
        }
    }
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
}

impl Seat {
    /// Reads, writes and watches side by side, so that a client who does not
    /// read cannot keep his own keys from arriving, nor the other way round.
    async fn serve(
        self,
        reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        mut watcher: Watcher,
        keyboard: Keyboard,
    ) {
        let mut reader = FrameReader::new(reader);
        let (refuse, mut refused) = mpsc::channel::<String>(4);
        let typing = async {
            // Dropped at the end of what is typed: nothing more is refused then.
            let refuse = refuse;
            while let Ok(Some(frame)) = reader.next::<ToConsole>().await {
                if let Err(reason) = self.obey(frame.message, &frame.body, &keyboard).await {
                    // A client who does not read hears it no more.
                    let _ = refuse.try_send(reason);
                }
            }
        };
        let showing = async {
            loop {
                let message = tokio::select! {
                    piece = watcher.next() => told(piece),
                    reason = refused.recv() => match reason {
                        Some(reason) => (FromConsole::Refused { reason }, Vec::new()),
                        // Whoever has hung up watches no more, and has heard what was refused.
                        None => return,
                    },
                };
                let over = matches!(message.0, FromConsole::Closed { .. });
                if !sent(&mut writer, &message).await || over {
                    return;
                }
            }
        };
        tokio::select! {
            () = async { typing.await; std::future::pending().await } => {}
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
        Piece::Time { position, wall } => (FromConsole::Time { position, at: Time(wall) }, Vec::new()),
        Piece::Skipped { position, bytes } => (FromConsole::Skipped { position, bytes }, Vec::new()),
        Piece::Seats(seats) => {
            let (writer, you, names) = (seats.writer, seats.you, seats.watchers);
            (
                FromConsole::Seats { writer, you, watchers: names.len(), names, down: seats.line.err() },
                Vec::new(),
            )
        }
        Piece::Closed(reason) => (FromConsole::Closed { reason }, Vec::new()),
    }
}
