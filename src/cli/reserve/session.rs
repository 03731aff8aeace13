//! A session: machines held by heartbeats while a command runs here.

use super::super::fail::{Fail, INTERRUPTED};
use super::super::status::names;
use super::super::{Context, Result};
use super::marker::Marked;
use super::wait;
use pitstop_client::{Client, EventQuery};
use pitstop_wire::api::{Release, Reservation, ReservationState, Update};
use pitstop_wire::{ApiError, Code};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// How long a command may take to end once its machines are gone.
const GRACE: Duration = Duration::from_secs(10);

/// Waits, runs, releases.
pub async fn run(cx: &Context, reservation: &Reservation, command: &[String], silence: Duration) -> Result {
    let beats = Beats::start(cx.client.clone(), reservation.id.clone(), silence);
    let result = hold(cx, reservation, command).await;
    let released = cx.client.release(&reservation.id, &Release::default(), None).await;
    drop(beats);
    // What the command ended with matters more than how the release went;
    // a session that cannot be released ends by its silence.
    if let Err(error) = released {
        cx.out.say(&format!(
            "pitstop: {} was not released: {error}; it ends by itself in {}s",
            reservation.id,
            silence.as_secs()
        ));
    }
    result
}

async fn hold(cx: &Context, reservation: &Reservation, command: &[String]) -> Result {
    let ready = tokio::select! {
        ready = wait::until_ready(cx, reservation) => ready?,
        signal = wait::interrupted() => {
            cx.out.say(&format!("\n{}: {} cancelled", signal?, reservation.id));
            return Err(Fail::Exit(INTERRUPTED));
        }
    };
    let held = cx.client.claim(&ready.id).await?;
    cx.out.say(&format!("{} {} ready", held.id, names(&held)));
    let marker = Marked::new()?;
    let child = spawn(&held, command, cx.client.socket(), &marker)?;
    supervise(cx, &held.id, child, &marker).await
}

/// The shell's codes for a command that is not there, and for one that is no
/// program.
const NO_COMMAND: u8 = 127;
const NO_PROGRAM: u8 = 126;

/// Looks a command up before machines are asked for: a typing error must not
/// cost a boot.
pub fn find(cx: &Context, program: &str) -> Result {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => std::env::split_paths(&path).map(|dir| dir.join(program)).collect(),
    };
    let runs =
        |p: &&PathBuf| rustix::fs::access(p.as_path(), rustix::fs::Access::EXEC_OK).is_ok() && p.is_file();
    if places.iter().any(|p| runs(&p)) {
        return Ok(());
    }
    let there = places.iter().any(|p| p.exists());
    let (code, what) = if there { (NO_PROGRAM, "cannot be run") } else { (NO_COMMAND, "was not found") };
    let error = ApiError::new(Code::Usage, format!("`{program}` {what}; no machine was asked for"));
    cx.out.error(&error);
    Err(Fail::Exit(code))
}

fn spawn(held: &Reservation, command: &[String], socket: &std::path::Path, marker: &Marked) -> Result<Child> {
    let Some((program, args)) = command.split_first() else { return Err(Fail::usage("which command?")) };
    let mut child = Command::new(program);
    child.args(args);
    child
        .env("PITSTOP_RESERVATION", &held.id)
        .env("PITSTOP_MACHINES", names(held))
        .env("PITSTOP_SOCKET", socket)
        .env(super::marker::VARIABLE, marker.path());
    if let [only] = held.machines.as_slice() {
        child.env("PITSTOP_MACHINE", only.machine.as_str());
    }
    for member in &held.machines {
        let role: String = member
            .role
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        child.env(format!("PITSTOP_ROLE_{role}"), member.machine.as_str());
    }
    child.spawn().map_err(|e| Fail::usage(format!("`{program}` cannot be started: {e}")))
}

/// Until the command ends, or its machines are taken away.
async fn supervise(cx: &Context, id: &str, mut child: Child, marker: &Marked) -> Result {
    let failed = |e: std::io::Error| Fail::internal(format!("signals cannot be watched: {e}"));
    // A terminal sends ctrl-C to the command as well as to us: we only must
    // not die of it. What is sent to us alone is passed on.
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hup = signal(SignalKind::hangup()).map_err(failed)?;
    let lost = lost(cx.client.clone(), id.to_owned());
    tokio::pin!(lost);
    let mut held = true;
    loop {
        tokio::select! {
            status = child.wait() => return outcome(status?),
            _ = int.recv() => {}
            _ = term.recv() => kill(&child, rustix::process::Signal::TERM),
            _ = hup.recv() => kill(&child, rustix::process::Signal::HUP),
            error = &mut lost, if held => {
                if marker.left() {
                    // The command gave its machines back itself, and may go on.
                    held = false;
                    continue;
                }
                cx.out.say(&format!("pitstop: {error}; the command is ended"));
                kill(&child, rustix::process::Signal::TERM);
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    child.kill().await?;
                }
                return Err(Fail::Exit(error.code.exit()));
            }
        }
    }
}

fn kill(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is what we want.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn outcome(status: ExitStatus) -> Result {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Fail::Exit(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Err(Fail::Exit(u8::try_from(128 + signal.unwrap_or(0)).unwrap_or(255))),
    }
}

/// Resolves when the reservation has ended under us.
async fn lost(client: Client, id: String) -> ApiError {
    let query = EventQuery { reservation: Some(id.clone()), ..EventQuery::default() };
    // A daemon that is away for long does not end the command: the session
    // goes on when it is back.
    let patient = client.with_patience(Duration::from_secs(24 * 3_600));
    loop {
        match ended(&patient, &id, &query).await {
            Ok(error) => return error,
            Err(error) if error.code == Code::NotKnown => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => return error,
        }
    }
}

async fn ended(client: &Client, id: &str, query: &EventQuery) -> pitstop_client::Result<ApiError> {
    let error = |r: &Reservation| {
        let why = r.end.as_ref().map(|e| e.text.clone()).unwrap_or_default();
        ApiError::new(Code::MachineFailed, format!("{} ended while the command ran: {why}", r.id))
    };
    let mut stream = client.events(query.clone()).await?;
    loop {
        match stream.next().await?.update {
            Update::Reservation(r) if r.id == id && r.state == ReservationState::Ended => {
                return Ok(error(&r));
            }
            Update::Snapshot(s) if !s.reservations.iter().any(|r| r.id == id) => {
                let now = client.reservation(id).await.map_err(|e| wait::forgotten(e, id))?;
                return Ok(error(&now));
            }
            _ => {}
        }
    }
}

/// Beats from a task of their own, for as long as this lives.
struct Beats {
    task: JoinHandle<()>,
}

impl Beats {
    fn start(client: Client, id: String, silence: Duration) -> Self {
        let task = tokio::spawn(async move {
            let mut every = tokio::time::interval(silence / 3);
            // After a pause one beat is as good as five.
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                match client.beat(&id).await {
                    Err(error) if error.code != Code::NotKnown => return, // it has ended: `lost` says so
                    Ok(_) | Err(_) => {}
                }
            }
        });
        Self { task }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.task.abort();
    }
}
