//! Commands for the tenant: `pitstop run M -- CMD`, the machine's end of it.
//!
//! The [`Engine`] keeps what commands print until it was seen (see [`pitstop_wire::run`]) and hands it
//! out piece by piece when the connection has room. Commands do not depend on the connection: while there
//! is none they go on until their window is full.

mod heed;
mod input;
mod output;
pub(crate) mod processes;
pub(crate) mod spawner;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pitstop_wire::run::{Command, End, FromRun, Stream, ToRun};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use crate::sandbox::Place;
use crate::say::Say;
use crate::session::Event;
pub(crate) use heed::heed_signals;
use input::Input;
use output::{Kept, Room};
use spawner::Spawner;

/// Most commands an agent keeps, ended ones that nobody has seen included.
pub const MAX_COMMANDS: usize = 64;
/// Longest id of a command, in bytes.
const MAX_ID: usize = 128;
/// How long the pipes of a command that has ended may stay silent before they are given up. Something it
/// left in the background may hold them open for ever (as with `ssh host 'daemon &'`, which hangs).
const LINGER: Duration = Duration::from_millis(500);

/// A fact about a command.
#[derive(Debug)]
pub(crate) enum RunEvent {
    /// It runs.
    Spawned { key: u64 },
    /// It printed.
    Output { key: u64, stream: Stream, bytes: Vec<u8> },
    /// An output stream is over.
    Closed { key: u64, stream: Stream },
    /// Its input took so much; `closed`: and wants no more.
    Wrote { key: u64, bytes: u64, closed: bool },
    /// It ended, or never ran.
    Exited { key: u64, end: End },
}

impl RunEvent {
    fn key(&self) -> u64 {
        match self {
            Self::Spawned { key }
            | Self::Output { key, .. }
            | Self::Closed { key, .. }
            | Self::Wrote { key, .. }
            | Self::Exited { key, .. } => *key,
        }
    }
}

struct Running {
    /// The engine's own number: a caller may use an id again, a late event must not mix the two up.
    key: u64,
    spawned: bool,
    stdout: Kept,
    stderr: Kept,
    input: Option<Input>,
    end: Option<End>,
    /// Somebody on this connection asked for it.
    attached: bool,
    owes_started: bool,
    owes_taken: bool,
    owes_end: bool,
}

impl Running {
    fn stream(&mut self, stream: Stream) -> &mut Kept {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn attach(&mut self, stdout: u64, stderr: u64) {
        self.stdout.rewind(stdout);
        self.stderr.rewind(stderr);
        self.attached = true;
        self.owes_started = true;
        self.owes_end = true;
    }

    fn taken(&self) -> u64 {
        self.input.as_ref().map_or(0, Input::taken)
    }

    /// The next thing its caller is to hear.
    fn next(&mut self, id: &str) -> Option<(FromRun, Vec<u8>)> {
        let id = || id.to_owned();
        if !self.attached {
            return None;
        }
        if self.spawned {
            if std::mem::take(&mut self.owes_started) {
                return Some((FromRun::Started { id: id(), input: self.taken() }, Vec::new()));
            }
            if std::mem::take(&mut self.owes_taken) {
                return Some((FromRun::Taken { id: id(), input: self.taken() }, Vec::new()));
            }
            for stream in [Stream::Stderr, Stream::Stdout] {
                if let Some((offset, piece)) = self.stream(stream).next_piece() {
                    return Some((FromRun::Output { id: id(), stream, offset }, piece));
                }
            }
        }
        if self.owes_end && self.stdout.delivered() && self.stderr.delivered() {
            let end = self.end.clone()?;
            // The word that a short command started may come after the word that it ended.
            if !self.spawned && !matches!(end, End::Failed { .. }) {
                return None;
            }
            self.owes_end = false;
            return Some((FromRun::Ended { id: id(), end }, Vec::new()));
        }
        None
    }
}

/// All commands of one agent.
pub(crate) struct Engine {
    commands: BTreeMap<String, Running>,
    /// Answers that belong to no command that is kept.
    refusals: Vec<(String, String)>,
    /// The command that was served last: the next one goes first, so that a chatty one starves nobody.
    turn: String,
    keys: u64,
    open: bool,
    spawner: Spawner,
    events: UnboundedSender<Event>,
}

impl Engine {
    /// An engine whose commands run at `place`. It refuses commands until it is opened.
    pub(crate) fn new(place: Place, events: UnboundedSender<Event>, say: Say) -> std::io::Result<Self> {
        Ok(Self {
            commands: BTreeMap::new(),
            refusals: Vec::new(),
            turn: String::new(),
            keys: 0,
            open: false,
            spawner: Spawner::new(place, events.clone(), say)?,
            events,
        })
    }

    /// From now on commands are served.
    pub(crate) fn open(&mut self) {
        self.open = true;
    }

    /// The connection is gone: nobody is attached, nothing that was sent counts as seen.
    pub(crate) fn detach_all(&mut self) {
        self.refusals.clear();
        for running in self.commands.values_mut() {
            running.attached = false;
        }
    }

    /// A message from the caller.
    pub(crate) fn handle(&mut self, message: ToRun, body: &[u8]) {
        match message {
            ToRun::Start { id, command, stdout, stderr } => self.start(id, command, stdout, stderr),
            ToRun::Input { id, offset, eof } => {
                let Some(running) = self.commands.get_mut(&id) else { return };
                let Some(input) = &mut running.input else { return };
                running.owes_taken |= !input.arrive(offset, body, eof);
            }
            ToRun::Signal { id, signal } => {
                if let Some(running) = self.commands.get(&id).filter(|r| r.end.is_none()) {
                    self.spawner.signal(running.key, signal);
                }
            }
            ToRun::Seen { id, stdout, stderr, end } => {
                let Some(running) = self.commands.get_mut(&id) else { return };
                running.stdout.seen(stdout);
                running.stderr.seen(stderr);
                if end && running.end.is_some() {
                    self.commands.remove(&id);
                }
            }
        }
    }

    fn start(&mut self, id: String, command: Command, stdout: u64, stderr: u64) {
        if let Some(running) = self.commands.get_mut(&id) {
            running.attach(stdout, stderr);
            return;
        }
        match self.launch(&id, command) {
            Ok(mut running) => {
                running.attach(0, 0);
                self.commands.insert(id, running);
            }
            Err(reason) => self.refusals.push((id, reason)),
        }
    }

    fn launch(&mut self, id: &str, command: Command) -> Result<Running, String> {
        if !self.open {
            return Err("this machine does not serve commands yet: its boot agent prepares it".into());
        }
        if self.commands.len() >= MAX_COMMANDS {
            return Err(format!("{MAX_COMMANDS} commands are kept on this machine already"));
        }
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
            return Err("a command's id has 1 to 128 printable bytes".into());
        }
        if let Some(bad) = command.argv.iter().chain(command.cwd.as_ref()).find(|text| text.contains('\0')) {
            return Err(format!("{bad:?} holds a NUL byte; no program can be given that"));
        }
        if let Some((bad, _)) =
            command.env.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(format!("{bad:?} is no name of an environment variable, or its value holds NUL"));
        }
        self.keys += 1;
        let key = self.keys;
        let (stdout, stderr) = (Kept::default(), Kept::default());
        let rooms = [stdout.room(), stderr.room()];
        let input =
            self.wire_up(key, command, rooms).map_err(|e| format!("no pipes for the command: {e}"))?;
        Ok(Running {
            key,
            spawned: false,
            stdout,
            stderr,
            input,
            end: None,
            attached: false,
            owes_started: false,
            owes_taken: false,
            owes_end: false,
        })
    }

    /// Makes the pipes, hands the command's ends to the spawner and ours to tasks.
    fn wire_up(&self, key: u64, command: Command, rooms: [Arc<Room>; 2]) -> std::io::Result<Option<Input>> {
        let (out, their_out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err, their_err) = pipe_with(PipeFlags::CLOEXEC)?;
        let out = pipe::Receiver::from_owned_fd(out)?;
        let err = pipe::Receiver::from_owned_fd(err)?;
        let (their_in, input) = if command.stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            let ours = pipe::Sender::from_owned_fd(ours)?;
            let (input, bytes) = Input::new();
            tokio::spawn(feed(key, ours, bytes, self.events.clone()));
            (theirs, Some(input))
        } else {
            (OwnedFd::from(std::fs::File::open("/dev/null")?), None)
        };
        let gone = self.spawner.spawn(key, command, [their_in, their_out, their_err]);
        let [out_room, err_room] = rooms;
        tokio::spawn(drain(key, Stream::Stdout, out, out_room, gone.clone(), self.events.clone()));
        tokio::spawn(drain(key, Stream::Stderr, err, err_room, gone, self.events.clone()));
        Ok(input)
    }

    /// Takes in a fact.
    pub(crate) fn event(&mut self, event: RunEvent) {
        let key = event.key();
        let Some(running) = self.commands.values_mut().find(|r| r.key == key) else { return };
        match event {
            RunEvent::Spawned { .. } => running.spawned = true,
            RunEvent::Output { stream, bytes, .. } => running.stream(stream).push(&bytes),
            RunEvent::Closed { stream, .. } => running.stream(stream).finish(),
            RunEvent::Wrote { bytes, closed, .. } => {
                if let Some(input) = &mut running.input {
                    input.wrote(bytes, closed);
                    running.owes_taken = true;
                }
            }
            RunEvent::Exited { end, .. } => running.end = Some(end),
        }
    }

    /// The next message for the daemon, taking turns between commands.
    pub(crate) fn next(&mut self) -> Option<(FromRun, Vec<u8>)> {
        if let Some((id, reason)) = self.refusals.pop() {
            return Some((FromRun::Ended { id, end: End::Failed { reason } }, Vec::new()));
        }
        let after = (std::ops::Bound::Excluded(self.turn.clone()), std::ops::Bound::Unbounded);
        let ids: Vec<String> = self
            .commands
            .range::<String, _>(after)
            .chain(self.commands.range::<String, _>(..=self.turn.clone()))
            .filter(|(_, running)| running.attached)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let message = self.commands.get_mut(&id).and_then(|running| running.next(&id));
            if message.is_some() {
                self.turn = id;
                return message;
            }
        }
        None
    }

    /// Ends every command and forgets them.
    pub(crate) async fn end_all(&mut self) {
        self.open = false;
        self.spawner.end_all().await;
        self.commands.clear();
    }
}

/// Reads one output pipe as long as there is room.
async fn drain(
    key: u64,
    stream: Stream,
    mut pipe: pipe::Receiver,
    room: Arc<Room>,
    mut gone: watch::Receiver<bool>,
    events: UnboundedSender<Event>,
) {
    loop {
        let mut buffer = vec![0; room.wait().await];
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => read,
            () = given_up(&mut gone) => break,
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                buffer.truncate(n);
                room.take(n);
                if events.send(Event::Run(RunEvent::Output { key, stream, bytes: buffer })).is_err() {
                    return;
                }
            }
        }
    }
    // Nobody listens only when the agent itself ends.
    let _ = events.send(Event::Run(RunEvent::Closed { key, stream }));
}

async fn given_up(gone: &mut watch::Receiver<bool>) {
    // An error means that the sender went away, which is as good as gone.
    let _ = gone.wait_for(|gone| *gone).await;
    tokio::time::sleep(LINGER).await;
}

/// Writes what arrives into the command's standard input.
async fn feed(
    key: u64,
    mut pipe: pipe::Sender,
    mut bytes: UnboundedReceiver<Vec<u8>>,
    events: UnboundedSender<Event>,
) {
    while let Some(part) = bytes.recv().await {
        let closed = pipe.write_all(&part).await.is_err();
        let wrote = RunEvent::Wrote { key, bytes: part.len() as u64, closed };
        if events.send(Event::Run(wrote)).is_err() || closed {
            return;
        }
    }
}
