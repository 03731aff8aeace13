//! `pitstop serve`: the daemon, in the foreground.

use super::fail::Fail;
use super::{Context, Result, paths};
use crate::daemon::serve::{Options, Ready, ServeError, serve};
use pitstop_core::inventory::Inventory;
use pitstop_wire::{ApiError, Code};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the daemon keeps its things; PITSTOP_DATA unless said.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What exists in the lab.
    #[arg(long, value_name = "FILE", default_value = "inventory.toml")]
    inventory: PathBuf,
    /// Allow simulated machines.
    #[arg(long)]
    simulated: bool,
    /// Address that machines reach this daemon by.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port for machines; a free one, kept from start to start, unless said.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port for boot files, over plain HTTP; likewise.
    #[arg(long, value_name = "PORT")]
    boot_port: Option<u16>,
}

pub async fn run(cx: &mut Context, args: Args) -> Result {
    log();
    open_many_files();
    let program = std::env::current_exe()
        .map_err(|e| Fail::internal(format!("this program does not know where it is: {e}")))?;
    let options = Options {
        data: absolute(&args.data.unwrap_or_else(paths::data))?,
        inventory: args.inventory,
        socket: cx.client.socket().to_owned(),
        simulated: args.simulated,
        address: args.address,
        port: args.port,
        boot_port: args.boot_port,
        program,
    };
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let (ready, told) = oneshot::channel();
    let out = cx.out.clone();
    let socket = options.socket.clone();
    tokio::spawn(async move {
        if let Ok(Ready { lab, machines, listens }) = told.await {
            out.say(&format!(
                "lab {lab}: {machines} machines; socket {}, machines at {listens}",
                socket.display()
            ));
        }
    });
    serve(options, stop, ready).await.map_err(failed)
}

/// Every machine and every client is a descriptor or two. The usual limit of
/// 1,024 is there for programs that use select(2); up to the hard one anybody
/// may go.
fn open_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files cannot be raised");
    }
}

/// Paths go to processes with other working directories.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Fail::usage(format!("{}: {e}", path.display())))
}

/// A daemon's failure in the terms of every other one.
pub fn failed(error: ServeError) -> Fail {
    match error {
        ServeError::Inventory(errors) => {
            ApiError::new(Code::Usage, "the inventory has errors").hint(errors.to_string()).into()
        }
        ServeError::Lock(_) | ServeError::Listen(_) => {
            ApiError::new(Code::Conflict, error.to_string()).into()
        }
        ServeError::Simulated(_) => Fail::usage(error.to_string()),
        other => Fail::internal(other.to_string()),
    }
}

/// The first signal has the daemon end in order, a second one at once. That
/// is safe: whatever was answered is on disk.
fn stop_on_signals(stop: &CancellationToken) -> Result {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut arrived =
            signal(kind).map_err(|e| Fail::internal(format!("signals cannot be watched: {e}")))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            while arrived.recv().await.is_some() {
                if stop.is_cancelled() {
                    tracing::warn!("asked to stop a second time: it ends here");
                    std::process::exit(128 + kind.as_raw_value());
                }
                stop.cancel();
            }
        });
    }
    Ok(())
}

/// The daemon's log on stderr; PITSTOP_LOG says how much.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PITSTOP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(terminal).with_writer(std::io::stderr);
    // A second call in one process (tests) changes nothing.
    let _ = log.try_init();
}

/// Reads an inventory, or says all that is wrong with it.
pub fn inventory(path: &Path) -> Result<Inventory> {
    Inventory::load(path, pitstop_drivers::factories())
        .map_err(|e| Fail::from(ApiError::new(Code::Usage, "the inventory has errors").hint(e.to_string())))
}
