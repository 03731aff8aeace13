//! A second daemon on the same lab. The locks turn it away; where somebody
//! removed them, the epoch does: whoever leads now, the other one stops, and
//! writes nothing more.

use super::Harm;
use crate::arena::Arena;
use crate::harness::{PATIENCE, Running, until};
use std::time::Instant;

/// Tries to take the lab over, at first as a mistake, then by force.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    turned_away(arena)?;
    arena.until_served()?;
    let stopped = taken_over(arena)?;
    Ok(format!("a second daemon was turned away; with the lock removed, the first one stopped: {stopped}"))
}

fn turned_away(arena: &Arena) -> Result<(), String> {
    let inventory = arena.lab.path("inventory.toml").display().to_string();
    let socket = arena.lab.path("other.sock").display().to_string();
    let done = arena.lab.cli(&["serve", "--simulated", "--inventory", &inventory, "--socket", &socket]);
    if done.code == 1 && done.stderr.contains("another pitstop") {
        return Ok(());
    }
    Err(format!("a second daemon was not turned away: {done}"))
}

/// The kernel's lock is on a file that is not there any more.
fn taken_over(arena: &mut Arena) -> Harm {
    let copy = arena.lab.path("copy.toml");
    let failed = |e: std::io::Error| format!("the second lab cannot be prepared: {e}");
    std::fs::copy(arena.lab.path("inventory.toml"), &copy).map_err(failed)?;
    std::fs::remove_file(arena.lab.data().join("lock")).map_err(failed)?;
    // While the second one leads, sessions beat where nobody hears them.
    arena.book.excuse_all();
    let ports: Vec<String> = free_ports().map_err(failed)?;
    let (copy, socket) = (copy.display().to_string(), arena.lab.path("other.sock").display().to_string());
    let args = ["serve", "--simulated", "--inventory", &copy, "--socket", &socket];
    let more = ["--port", &ports[0], "--boot-port", &ports[1]];
    let args = [&args[..], &more[..]].concat();
    let (mut second, tries) = start_second(arena, &args)?;
    // The load makes the first one try to commit.
    let stopped = until(&mut || (!arena.lab.runs()).then_some(()));
    let both = arena.lab.log();
    second.kill9();
    second.wait();
    match stopped {
        None => Err("two daemons lead one lab".to_owned()),
        Some(()) if both.contains("taken this lab over") => {
            arena.lab.kill9();
            arena.lab.start();
            let after = arena.until_served()?;
            Ok(format!("at try {tries}; it said why; served again {} ms later", after.as_millis()))
        }
        Some(()) => Err(format!("the first daemon stopped without saying why:\n{both}")),
    }
}

/// While the first one commits all the time, the second may find that what it
/// has loaded is not the newest any more: then it has not taken over.
fn start_second(arena: &Arena, args: &[&str]) -> Result<(Running, u32), String> {
    let until = Instant::now() + PATIENCE;
    let mut tries = 1;
    loop {
        let mut second = arena.lab.spawn(args);
        if second.until_stderr(|line| line.starts_with("lab ")).is_some() {
            return Ok((second, tries));
        }
        second.wait();
        let said = second.stderr();
        if Instant::now() > until || !said.contains("somebody else wrote to it") {
            return Err(format!("the second daemon does not serve: {said}"));
        }
        tries += 1;
    }
}

fn free_ports() -> std::io::Result<Vec<String>> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0");
    let held = [bind()?, bind()?];
    held.iter().map(|l| Ok(l.local_addr()?.port().to_string())).collect()
}
