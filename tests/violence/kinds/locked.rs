//! Another process has the database locked for ten seconds. Who only looks
//! notices nothing; who asks waits, and is told nothing that is not stored.

use super::Harm;
use crate::arena::Arena;
use std::time::{Duration, Instant};

const LOCKED: Duration = Duration::from_secs(10);

/// Locks it against every writer.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..1_000);
    let failed = |e: rusqlite::Error| format!("the database cannot be locked: {e}");
    let other = rusqlite::Connection::open(arena.lab.data().join("lab.db")).map_err(failed)?;
    other.busy_timeout(Duration::from_secs(20)).map_err(failed)?;
    other.execute_batch("BEGIN EXCLUSIVE").map_err(failed)?;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < LOCKED {
        slowest = slowest.max(arena.until_answered()?);
        arena.work(50..150);
    }
    other.execute_batch("COMMIT").map_err(failed)?;
    let after = arena.until_served()?;
    let (slowest, after) = (slowest.as_millis(), after.as_millis());
    Ok(format!("locked for 10 s, slowest read {slowest} ms, served again after {after} ms"))
}
