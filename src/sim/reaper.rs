//! Power-off for processes. Whatever was started on the machine ends, even
//! if it moved to a session of its own: the machine's process adopts orphans,
//! so everything stays below it in the process tree.

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Takes over orphans from now on.
pub fn adopt_orphans() -> std::io::Result<()> {
    // Any pid means "yes" to prctl(PR_SET_CHILD_SUBREAPER).
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills everything below this process; returns how many were left after
/// `limit`, which is 0 unless one hangs in the kernel.
pub fn kill_everything(limit: Duration) -> usize {
    let until = Instant::now() + limit;
    loop {
        let below = descendants();
        if below.is_empty() || Instant::now() >= until {
            return below.len();
        }
        for pid in below {
            // Gone in between is what we want.
            let _ = kill_process(pid, Signal::KILL);
        }
        reap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Collects children that ended. The runtime's own children are collected by
/// it too; whoever comes first, the other one hears that there is none.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Processes below this one, also those that ended and were not collected: of
/// a process that counts as ended, threads may still be on their way out, with
/// the disk in their hands.
fn descendants() -> Vec<Pid> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    let mut parents = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // proc(5): the name is in parentheses and may hold any character.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut rest = rest.split_ascii_whitespace();
        // The state, then the parent.
        if let Some(parent) = rest.nth(1).and_then(|p| p.parse::<i32>().ok()) {
            parents.insert(pid, parent);
        }
    }
    let below = |mut pid: i32| {
        for _ in 0..parents.len() {
            match parents.get(&pid) {
                Some(parent) if *parent == me => return true,
                Some(parent) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().filter(|pid| below(**pid)).filter_map(|pid| Pid::from_raw(*pid)).collect()
}
