//! `pitstop console`: watch a machine's serial line, or type on it.

mod escape;

use super::fail::Fail;
use super::times::clock_seconds;
use super::{Context, Result};
use escape::{Act, Escape};
use pitstop_client::ConsoleLink;
use pitstop_wire::api::ConsoleRequest;
use pitstop_wire::console::{FromConsole, ToConsole};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Write};
use tokio::sync::mpsc;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine, `M:NAME` for another console than its first; yours if
    /// there is only one.
    #[arg(value_name = "MACHINE[:CONSOLE]")]
    machine: Option<String>,
    /// Take the keyboard; one at a time, holders only.
    #[arg(short, long, conflicts_with = "no_follow")]
    write: bool,
    /// Take it from whoever has it.
    #[arg(long, requires = "write")]
    steal: bool,
    /// Replay from then on: `boot` (the last power-on, the default), or so many bytes back.
    #[arg(long, value_name = "boot|BYTES", value_parser = since)]
    since: Option<Since>,
    /// End after the replay.
    #[arg(long)]
    no_follow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Boot,
    Bytes(u64),
}

fn since(text: &str) -> std::result::Result<Since, String> {
    match text {
        "boot" => Ok(Since::Boot),
        other => other
            .parse()
            .map(Since::Bytes)
            .map_err(|_| format!("`{text}` is neither `boot` nor a number of bytes")),
    }
}

pub async fn run(cx: &mut Context, args: &Args) -> Result {
    let (machine, console) =
        match args.machine.as_deref().map(|m| m.split_once(':').map_or((m, None), |(m, c)| (m, Some(c)))) {
            Some((machine, console)) => (Some(machine), console),
            None => (None, None),
        };
    let machine = super::pick::machine(cx, machine).await?;
    let ask = ConsoleRequest {
        console: console.map(str::to_owned),
        write: args.write,
        steal: args.steal,
        last: match args.since {
            Some(Since::Bytes(bytes)) => Some(bytes),
            _ => None,
        },
        since_boot: !matches!(args.since, Some(Since::Bytes(_))),
        no_follow: args.no_follow,
        from: None,
    };
    let link = cx.client.console(&machine, ask).await?;
    let terminal = args.write && std::io::stdin().is_terminal();
    let raw = if terminal { Some(Raw::on()?) } else { None };
    let show = Show { cx, machine: &machine, raw: raw.is_some(), last: None };
    show.follow(link, args.write.then(keys)).await
}

/// What is shown, and where.
struct Show<'a> {
    cx: &'a Context,
    machine: &'a str,
    /// Line ends need a carriage return.
    raw: bool,
    last: Option<(Option<String>, usize, Option<String>)>,
}

impl Show<'_> {
    async fn follow(mut self, mut link: ConsoleLink, keys: Option<mpsc::Receiver<Vec<u8>>>) -> Result {
        let mut keys = keys;
        let mut escape = Escape::default();
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
                    let (out, act) = if self.raw { escape.take(&typed) } else { (typed, None) };
                    if !out.is_empty() {
                        link.say(ToConsole::Input, out).await;
                    }
                    match act {
                        Some(Act::Quit) => {
                            self.note("left");
                            return Ok(());
                        }
                        Some(Act::Break) => link.say(ToConsole::Break, Vec::new()).await,
                        Some(Act::Write) => link.say(ToConsole::Write { steal: false }, Vec::new()).await,
                        Some(Act::Watch) => link.say(ToConsole::Watch, Vec::new()).await,
                        Some(Act::Help) => self.note("~. leave  ~b break  ~w take the keyboard  ~r give it back  ~~ a tilde"),
                        None => {}
                    }
                }
            }
        }
    }

    fn show(&mut self, message: &FromConsole, body: &[u8]) -> Result {
        match message {
            FromConsole::Output { .. } => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(body)?;
                stdout.flush()?;
            }
            FromConsole::Attached { console, .. } => {
                self.note(&format!("{} console {console}; ~? for keys", self.machine));
            }
            FromConsole::Mark { at, text, .. } => self.note(&format!("{} {text}", clock_seconds(*at))),
            FromConsole::Skipped { bytes, .. } => self.note(&format!("{bytes} bytes are missing here")),
            FromConsole::Refused { reason } => self.note(&format!("refused: {reason}")),
            FromConsole::Closed { reason } => self.note(&format!("closed: {reason}")),
            FromConsole::Replayed => {}
            FromConsole::Seats { writer, you, watchers, down } => {
                // Only what others do is news.
                let now = (writer.clone(), *watchers, down.clone());
                if self.last.replace(now.clone()) != Some(now) {
                    let writes = match (you, writer) {
                        (true, _) => "you write".to_owned(),
                        (false, Some(writer)) => format!("{writer} writes"),
                        (false, None) => "nobody writes".to_owned(),
                    };
                    let down = down.as_ref().map(|why| format!(" · line down: {why}")).unwrap_or_default();
                    self.note(&format!("{writes} · {watchers} watch{down}"));
                }
            }
        }
        Ok(())
    }

    /// Our own words, between those of the machine.
    fn note(&self, text: &str) {
        let end = if self.raw { "\r" } else { "" };
        self.cx.out.say(&format!("{end}-- {text} --{end}"));
    }
}

async fn recv(keys: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match keys {
        Some(keys) => keys.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads keys in a thread of its own: a read of a terminal cannot be
/// cancelled.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (send, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stdin.read(&mut buffer) {
            if send.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}

/// The terminal passes every key on, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn on() -> Result<Self> {
        let failed = |e: rustix::io::Errno| Fail::internal(format!("the terminal cannot be set: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_at_boot_or_some_bytes_back() {
        assert_eq!(since("boot"), Ok(Since::Boot));
        assert_eq!(since("4096"), Ok(Since::Bytes(4096)));
        assert!(since("yesterday").is_err());
    }
}
