//! The first process inside the namespaces: it furnishes them, starts and signals commands as it is told,
//! reaps what they leave behind, and ends (and with it everything inside) when the agent is gone.

use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::stdio::stdin;

use super::mounts;
use super::protocol::{FromInit, Setup, ToInit, read_command, receive, send};
use crate::run::processes::{Processes, Surroundings};
use crate::run::spawner::GRACE;

pub(super) fn main() -> ExitCode {
    match furnish().and_then(|env| serve(&env)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = send(stdin(), &FromInit::Refused { reason }, &[]);
            ExitCode::FAILURE
        }
    }
}

fn furnish() -> Result<Surroundings, String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("prctl(PDEATHSIG): {e}"))?;
    let setup = match receive::<ToInit>(stdin()) {
        Ok(Some((ToInit::Setup(setup), _))) => setup,
        Ok(_) => return Err("the sandbox was told nothing".into()),
        Err(e) => return Err(format!("the sandbox did not understand its setup: {e}")),
    };
    mounts::furnish(setup.disk.as_deref())?;
    rustix::system::sethostname(setup.hostname.as_bytes())
        .map_err(|e| format!("this host refuses a host name in the sandbox (sethostname: {e})"))?;
    crate::netlink::loopback_up().map_err(|e| format!("the sandbox's loopback did not come up: {e}"))?;
    Ok(Surroundings { env: Some(environment(&setup)), home: Some("/tmp".into()) })
}

/// Nothing is inherited: the environment of the process that simulates the machine is not the tenant's.
fn environment(setup: &Setup) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PITSTOP_MACHINE", setup.hostname.as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if setup.disk.is_some() {
        env.push(("PITSTOP_DISK".into(), mounts::DISK.into()));
    }
    env
}

fn serve(around: &Surroundings) -> Result<(), String> {
    let processes = Arc::new(Processes::default());
    let reaped = Arc::clone(&processes);
    let reap = move || {
        loop {
            reaped.wait_for_one();
            reaped.reap_all(|key, end| report(&FromInit::Ended { key, end }));
        }
    };
    std::thread::Builder::new()
        .name("reap".into())
        .spawn(reap)
        .map_err(|e| format!("no thread in the sandbox: {e}"))?;
    report(&FromInit::Ready);
    loop {
        match receive::<ToInit>(stdin()) {
            Ok(Some((ToInit::Spawn { key }, fds))) => spawn(&processes, around, key, fds),
            Ok(Some((ToInit::Signal { key, signal }, _))) => {
                if let Err(reason) = processes.signal(key, signal) {
                    report(&FromInit::Said { line: reason });
                }
            }
            Ok(Some((ToInit::End, _))) => {
                processes.end_all(GRACE);
                return Ok(());
            }
            Ok(Some((ToInit::Setup(_), _))) => {}
            // The agent is gone, or talks nonsense: everything inside ends with us.
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

fn spawn(processes: &Processes, around: &Surroundings, key: u64, fds: Vec<std::os::fd::OwnedFd>) {
    let spawned = read_command(fds)
        .map_err(|e| format!("the sandbox did not understand the command: {e}"))
        .and_then(|(command, stdio)| processes.spawn(key, &command, around, stdio));
    match spawned {
        Ok(_) => report(&FromInit::Spawned { key }),
        Err(reason) => {
            report(&FromInit::Ended { key, end: pitstop_wire::run::End::Failed { reason } });
        }
    }
}

fn report(message: &FromInit) {
    // A refused report means that the agent is gone; the next receive says so and ends us.
    let _ = send(stdin(), message, &[]);
}
