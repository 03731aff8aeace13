//! `pitstop run`: a command on a machine, as if it ran here.

use super::fail::Fail;
use super::{Context, Result};
use pitstop_client::{Feed, Input};
use pitstop_wire::run::{Command, End};
use std::io::{IsTerminal, Read};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The machine; yours if there is only one.
    machine: Option<String>,
    /// Forward standard input even from a terminal.
    #[arg(short, long)]
    interactive: bool,
    /// Set in the command's environment.
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Directory to run in.
    #[arg(short = 'C', long, value_name = "DIR")]
    cwd: Option<String>,
    /// The command and its arguments; no shell looks at them.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

pub async fn run(cx: &mut Context, args: Args) -> Result {
    let machine = super::pick::machine(cx, args.machine.as_deref()).await?;
    // A terminal that is not asked for would swallow what the user types for
    // his shell; a pipe or file is meant for the command.
    let stdin = args.interactive || !std::io::stdin().is_terminal();
    let (send, input) = mpsc::channel(4);
    let feed = Feed { input, signals: forward_signals()? };
    if stdin {
        forward_stdin(send);
    }
    let command = Command { argv: args.command, env: args.env, cwd: args.cwd, stdin };
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let end = cx.client.run(&machine, command, feed, &mut stdout, &mut stderr).await?;
    match end {
        End::Exit { code: 0 } => Ok(()),
        // A code that does not fit eight bits must not look like success.
        End::Exit { code } => {
            Err(Fail::Exit(u8::try_from(code & 0xff).ok().filter(|c| *c != 0).unwrap_or(1)))
        }
        End::Signal { signal } => Err(Fail::Exit(u8::try_from(128 + signal).unwrap_or(255))),
        End::Failed { reason } => {
            let next =
                format!("pitstop why {machine}; a fresh start (erases the disks): pitstop reimage {machine}");
            Err(Fail::internal(format!("{machine}: {reason}")).hint(next))
        }
    }
}

/// Interrupts after which we stop waiting for a command that ignores them.
const PATIENCE: u32 = 3;

fn forward_signals() -> Result<mpsc::Receiver<i32>> {
    let (send, signals) = mpsc::channel(16);
    for (kind, number) in
        [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)]
    {
        let mut arrived =
            signal(kind).map_err(|e| Fail::internal(format!("signals cannot be watched: {e}")))?;
        let send = send.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while arrived.recv().await.is_some() {
                count += 1;
                if count == PATIENCE {
                    eprintln!("pitstop: interrupted {PATIENCE} times; the command may still be running");
                    std::process::exit(i32::from(super::fail::INTERRUPTED));
                }
                // A full queue holds interrupts enough.
                let _ = send.try_send(number);
            }
        });
    }
    Ok(signals)
}

/// Reads in a thread of its own: a read of a terminal cannot be cancelled,
/// and must not keep the command's end from being told.
fn forward_stdin(send: mpsc::Sender<Input>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let input = match stdin.read(&mut buffer) {
                Ok(0) => Input::Eof,
                Ok(n) => Input::Bytes(buffer[..n].to_vec()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => Input::Eof,
            };
            let over = input == Input::Eof;
            if send.blocking_send(input).is_err() || over {
                return;
            }
        }
    });
}
