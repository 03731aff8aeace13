//! The daemon is stopped for longer than sessions may be silent, and goes on:
//! silence that nobody could have heard is no evidence, and nobody may be
//! declared dead for it.

use super::Harm;
use crate::arena::Arena;
use rustix::process::{Pid, Signal, kill_process};

/// Stops it past the sessions' silence.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    let pid = i32::try_from(arena.lab.pid()).ok().and_then(Pid::from_raw).ok_or("no process")?;
    let signal =
        |signal| kill_process(pid, signal).map_err(|e| format!("the daemon cannot be signalled: {e}"));
    signal(Signal::STOP)?;
    let silence = crate::load::SILENCE * 1_000;
    let stopped = arena.work(silence + 1_000..silence + 3_000);
    signal(Signal::CONT)?;
    let after = arena.until_served()?;
    // Long enough for a session to be lost that nobody spared.
    arena.work(500..1_500);
    Ok(format!("stopped for {} ms, served again {} ms after", stopped.as_millis(), after.as_millis()))
}
