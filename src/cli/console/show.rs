//! What is shown of a console, and what is typed into it.

use super::escape::{Act, Escape};
use super::filter::Filter;
use super::hex::Hex;
use super::stamp::Stamps;
use crate::cli::fail::Fail;
use crate::cli::times::clock_seconds;
use crate::cli::{Context, Result};
use pitstop_client::ConsoleLink;
use pitstop_wire::MachineName;
use pitstop_wire::api::Time;
use pitstop_wire::console::{FromConsole, ToConsole};
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::mpsc;

/// Who sits at a console, and why its line is not open.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seats {
    writer: Option<String>,
    you: bool,
    names: Vec<String>,
    down: Option<String>,
}

impl Seats {
    fn writes(&self) -> String {
        match (self.you, &self.writer) {
            (true, _) => "you write".to_owned(),
            (false, Some(writer)) => format!("{writer} writes"),
            (false, None) => "nobody writes".to_owned(),
        }
    }

    fn line(&self) -> String {
        self.down.as_ref().map(|why| format!(" · line down: {why}")).unwrap_or_default()
    }
}

/// What is shown, and where.
pub struct Show<'a> {
    cx: &'a Context,
    machine: &'a MachineName,
    /// The terminal is ours: line ends need a carriage return, and an escape
    /// is listened for.
    raw: bool,
    escape: Escape,
    painted: Painted,
    seats: Option<Seats>,
}

/// How bytes are shown.
pub enum Painted {
    /// As they are.
    Raw,
    /// As far as they may act on a terminal.
    Filtered(Filter),
    /// As lines of words, with times in front.
    Stamped(Filter, Stamps),
    /// As numbers, perhaps with times in front.
    Hex(Hex, Option<Stamps>),
}

/// A row of numbers that is not full is shown when nothing comes for so long.
const IDLE: Duration = Duration::from_millis(200);

impl Painted {
    fn pass(&mut self, position: u64, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Raw => bytes.to_vec(),
            Self::Filtered(filter) => filter.pass(bytes),
            Self::Stamped(filter, stamps) => stamps.pass(&filter.pass(bytes)),
            Self::Hex(hex, stamps) => {
                let before = stamps.as_ref().map(Stamps::prefix).unwrap_or_default();
                hex.take(position, bytes, &before).into_bytes()
            }
        }
    }

    fn now(&mut self, at: Time) {
        match self {
            Self::Stamped(_, stamps) | Self::Hex(_, Some(stamps)) => stamps.now(at),
            Self::Raw | Self::Filtered(_) | Self::Hex(_, None) => {}
        }
    }

    /// What is left, with the terminal put back to where it writes words.
    fn sane(&mut self) -> Vec<u8> {
        match self {
            Self::Raw => Vec::new(),
            Self::Filtered(filter) | Self::Stamped(filter, _) => filter.sane(),
            Self::Hex(hex, _) => hex.flush().into_bytes(),
        }
    }

    /// Nothing has come for [`IDLE`], though something waits to be shown;
    /// else this waits for ever.
    async fn idle(&self) {
        match self {
            Self::Hex(hex, _) if hex.waits() => tokio::time::sleep(IDLE).await,
            _ => std::future::pending().await,
        }
    }
}

impl<'a> Show<'a> {
    pub fn new(
        cx: &'a Context,
        machine: &'a MachineName,
        raw: bool,
        escape: Option<u8>,
        painted: Painted,
    ) -> Self {
        Self { cx, machine, raw, escape: Escape::new(escape), painted, seats: None }
    }

    /// Until the console, the user or a signal ends it.
    pub async fn follow(
        mut self,
        link: ConsoleLink,
        keys: Option<mpsc::Receiver<Vec<u8>>>,
        signals: Option<mpsc::Receiver<u8>>,
    ) -> Result {
        let ended = self.until_the_end(link, keys, signals).await;
        // Whatever it was that ended, the terminal is for others now.
        self.sane().and(ended)
    }

    async fn until_the_end(
        &mut self,
        mut link: ConsoleLink,
        mut keys: Option<mpsc::Receiver<Vec<u8>>>,
        mut signals: Option<mpsc::Receiver<u8>>,
    ) -> Result {
        loop {
            tokio::select! {
                frame = link.next() => match frame? {
                    Some(frame) => self.show(&frame.message, &frame.body)?,
                    None => return Ok(()),
                },
                typed = recv(&mut keys) => {
                    let Some(typed) = typed else {
                        // The end of a file that was typed in.
                        keys = None;
                        link.finish();
                        continue;
                    };
                    if self.typed(&link, typed).await {
                        self.note("left");
                        return Ok(());
                    }
                }
                () = self.painted.idle() => self.sane()?,
                Some(number) = recv(&mut signals) => return Err(Fail::Exit(128 + number)),
            }
        }
    }

    /// Types keys and does what is for us; whether the user left.
    async fn typed(&mut self, link: &ConsoleLink, typed: Vec<u8>) -> bool {
        let (out, act) = if self.raw { self.escape.take(&typed) } else { (typed, None) };
        if !out.is_empty() {
            link.say(ToConsole::Input, out).await;
        }
        match act {
            Some(Act::Quit) => return true,
            Some(Act::Break) => link.say(ToConsole::Break, Vec::new()).await,
            Some(Act::Write) => link.say(ToConsole::Write { steal: false }, Vec::new()).await,
            Some(Act::Watch) => link.say(ToConsole::Watch, Vec::new()).await,
            Some(Act::Who) => self.note(&self.who()),
            Some(Act::Help) => self.note(&self.escape.help()),
            None => {}
        }
        false
    }

    fn who(&self) -> String {
        match &self.seats {
            Some(seats) => {
                format!("{} · watching: {}{}", seats.writes(), seats.names.join(", "), seats.line())
            }
            None => "nobody knows yet".to_owned(),
        }
    }

    fn show(&mut self, message: &FromConsole, body: &[u8]) -> Result {
        match message {
            FromConsole::Output { position } => write(&self.painted.pass(*position, body))?,
            FromConsole::Time { at, .. } => self.painted.now(*at),
            FromConsole::Attached { console, .. } => {
                let keys = if self.raw { "; ~? for keys" } else { "" };
                self.note(&format!("{} console {console}{keys}", self.machine));
            }
            FromConsole::Mark { at, text, .. } => self.note(&format!("{} {text}", clock_seconds(*at))),
            FromConsole::Skipped { bytes, .. } => self.note(&format!("{bytes} bytes are missing here")),
            FromConsole::Refused { reason } => self.note(&format!("refused: {reason}")),
            FromConsole::Closed { reason } => self.note(&format!("closed: {reason}")),
            // Of the past only the words stay: what it painted is over.
            FromConsole::Replayed => self.sane()?,
            FromConsole::Seats { writer, you, names, down, .. } => {
                let (writer, names, down) = (writer.clone(), names.clone(), down.clone());
                let now = Seats { writer, you: *you, names, down };
                // Only what others do is news.
                if self.seats.replace(now.clone()).as_ref() != Some(&now) {
                    self.note(&format!("{} · {} watch{}", now.writes(), now.names.len(), now.line()));
                }
            }
        }
        Ok(())
    }

    fn sane(&mut self) -> Result {
        write(&self.painted.sane())
    }

    /// Our own words, between those of the machine.
    fn note(&self, text: &str) {
        let end = if self.raw { "\r" } else { "" };
        self.cx.out.say(&format!("{end}-- {text} --{end}"));
    }
}

fn write(bytes: &[u8]) -> Result {
    if bytes.is_empty() {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

async fn recv<T>(from: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}
