//! The hidden commands that simulated machines are made of.

use super::line::Line;
use super::machine::Machine;
use super::{boot, control, people, reaper, step};
use pitstop_drivers::sim::Config;
use pitstop_drivers::sim::protocol::{CONFIG, SOCKET};
use rustix::fs::FlockOperation;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// File that the machine's process holds a lock on while it lives.
const LOCK: &str = "process.lock";

/// Arguments of `pitstop sim-machine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimArgs {
    /// The machine's directory.
    pub dir: PathBuf,
}

/// If this process was started to be a part of a simulated machine, is it
/// until it ends. `main` calls this before it starts any thread.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    match args.next()?.to_str()? {
        "sim-machine" => {
            let dir = args.skip_while(|a| a != "--dir").nth(1);
            Some(match dir {
                Some(dir) => run(&SimArgs { dir: dir.into() }),
                None => {
                    eprintln!("sim-machine needs --dir DIR; `pitstop serve` starts it");
                    ExitCode::from(2)
                }
            })
        }
        "sim-boot" => Some(boot::main()),
        "sim" => Some(people::main(args)),
        "sim-step" => Some(step::main(args)),
        "sim-sandbox" => Some(pitstop_agent::sandbox::main()),
        _ => None,
    }
}

fn run(args: &SimArgs) -> ExitCode {
    match live(&args.dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{}: {words}", args.dir.display());
            ExitCode::FAILURE
        }
    }
}

fn live(dir: &Path) -> Result<(), String> {
    // A session of its own: a Ctrl-C for the daemon is not for the hardware.
    // It fails for a session leader, which has one already.
    let _ = rustix::process::setsid();
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(dir.join(LOCK));
    let lock = lock.map_err(|e| format!("{LOCK}: {e}"))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return tell("taken");
    }
    let text = std::fs::read(dir.join(CONFIG)).map_err(|e| format!("{CONFIG}: {e}"))?;
    let config: Config = serde_json::from_slice(&text).map_err(|e| format!("{CONFIG}: {e}"))?;
    reaper::adopt_orphans().map_err(|e| format!("prctl: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let lived = runtime.block_on(machine(dir, config));
    drop(lock);
    lived
}

async fn machine(dir: &Path, config: Config) -> Result<(), String> {
    let (type_in, typed) = mpsc::channel(64);
    let mut lines = Vec::new();
    for console in &config.consoles {
        let line = Line::open(dir, console, type_in.clone());
        lines.push(line.map_err(|e| format!("console {console}: {e}"))?);
    }
    let machine = Machine::new(config, dir.to_owned(), lines)?;
    let path = dir.join(SOCKET);
    // Left behind by a process that was killed: the lock says that it is gone.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(format!("{SOCKET}: {e}")),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(|e| format!("{SOCKET}: {e}"))?;
    let (calls, called) = mpsc::channel(64);
    tokio::spawn(control::serve(listener, calls));
    tell("ready")?;
    machine.live(called, typed).await;
    // Removed first: whoever asks from now on is told that there is nobody.
    let _ = std::fs::remove_file(&path);
    Ok(())
}

/// Says one word to whoever started this, who then stops listening.
fn tell(word: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))
}
