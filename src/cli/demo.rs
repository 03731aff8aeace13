//! `pitstop demo`: a lab in a temporary directory, with the same daemon,
//! agents and clients as any other; only the hardware is simulated.

mod build;
mod check;
mod lab;
mod scan;
mod story;
mod tell;
mod world;

pub use build::intercept;

use super::fail::{Fail, INTERRUPTED};
use super::{Context, Result};
use lab::Lab;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the lab running until ctrl-C, to try commands on.
    #[arg(long)]
    stay: bool,
}

pub async fn run(cx: &Context, args: &Args) -> Result {
    // Watched before anything is made: a ctrl-C at any time leaves nothing.
    let mut signals = Signals::watch()?;
    let lab = Lab::start().await?;
    let mut played = tokio::select! {
        played = story::play(cx, &lab) => played,
        name = signals.next() => Err(stopped(cx, name)),
    };
    if args.stay && matches!(played, Ok(()) | Err(Fail::Exit(1))) {
        let invited = lab.invite(cx);
        signals.next().await;
        played = played.and(invited);
    }
    let ended = lab.stop().await;
    played.and(ended)
}

fn stopped(cx: &Context, signal: &str) -> Fail {
    cx.out.say(&format!("\n{signal}: machines and daemon are stopped, their files removed"));
    Fail::Exit(INTERRUPTED)
}

/// Whoever wants us to stop.
struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
}

impl Signals {
    fn watch() -> Result<Self> {
        let watch =
            |kind| signal(kind).map_err(|e| Fail::internal(format!("signals cannot be watched: {e}")));
        Ok(Self {
            int: watch(SignalKind::interrupt())?,
            term: watch(SignalKind::terminate())?,
            hup: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "interrupted",
            _ = self.term.recv() => "terminated",
            _ = self.hup.recv() => "terminal gone",
        }
    }
}
