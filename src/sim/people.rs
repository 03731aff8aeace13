//! `pitstop sim`: what one does to simulated hardware by hand, as one would
//! pull a plug. It goes past the daemon on purpose.

use pitstop_drivers::DriverError;
use pitstop_drivers::sim::{self, Request, Status};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
Hardware of simulated machines, past the daemon

Usage: pitstop sim VERB MACHINE [FAULT]

MACHINE is its directory, or its name below $PITSTOP_DATA/machines.

  status   What it does
  fault    Break it: power-lost[:MS], power-ignored, power-late:MS, never-boots, panic, agent-silent,
           agent-late:MS, agent-twice, image-corrupt, console-mute, unreadable, disk-swapped,
           machine-swapped, memory-lost; *N behind one: N times
  heal     Nothing goes wrong any more
  reboot   What its tenant's own reboot does
  stop     Take it away: it switches off and its process ends";

/// Runs the verb.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let request = match words.as_slice() {
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["status", _] => Request::Status,
        ["fault", _, fault] => Request::Fault { fault: (*fault).to_owned() },
        ["heal", _] => Request::Heal,
        ["reboot", _] => Request::Reboot,
        ["stop", _] => Request::Stop,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match ask(&directory(words[1]), &request) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(words) => {
            eprintln!("pitstop sim: {words}");
            ExitCode::FAILURE
        }
    }
}

fn directory(machine: &str) -> PathBuf {
    let data = std::env::var_os("PITSTOP_DATA").map(PathBuf::from);
    match data {
        Some(data) if !machine.contains('/') => data.join("machines").join(machine),
        _ => machine.into(),
    }
}

fn ask(dir: &Path, request: &Request) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        let words = |e: DriverError| e.to_string();
        if *request == Request::Stop {
            return sim::stop(dir).await.map(|()| "gone".to_owned()).map_err(words);
        }
        let none = || format!("there is no simulated machine in {}", dir.display());
        let reply = sim::request(dir, request).await.map_err(words)?.ok_or_else(none)?;
        match reply.error {
            Some(error) => Err(error),
            None => Ok(reply.status.map_or_else(|| "done".to_owned(), |status| shown(&status))),
        }
    })
}

fn shown(status: &Status) -> String {
    let Status { pid, legs, doing, boots, boot_id, faults } = status;
    let legs: Vec<String> =
        legs.iter().map(|(leg, on)| format!("{leg} {}", if *on { "on" } else { "off" })).collect();
    let boot = boot_id.as_deref().unwrap_or("none");
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(" ") };
    format!("{doing}: {}; process {pid}, boot {boots} ({boot}), faults: {faults}", legs.join(", "))
}
