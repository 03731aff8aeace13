//! The wall clock is stepped, forwards and backwards by hours and months, as
//! by a bad time server or an empty battery. No deadline moves with it.
//!
//! The computer's own clock is nobody's to step, and a time namespace covers
//! only the others. So the daemon runs with libfaketime, which answers for
//! the C library's CLOCK_REALTIME and is told to leave the rest alone.

use super::Harm;
use crate::arena::Arena;
use crate::harness::Lab;
use std::path::PathBuf;

const OFFSET: &str = "offset";

/// What is wrong with the clock, in libfaketime's words.
const STEPS: [&str; 6] = ["+3600s", "-7200s", "+300d", "-1d", "+59s", "+0s"];

/// Puts the library under the daemon.
pub fn prepare(lab: &mut Lab) {
    let library = library().expect("libfaketime is missing: apt-get install faketime");
    std::fs::write(lab.path(OFFSET), "+0s\n").unwrap();
    lab.set("LD_PRELOAD", &library.display().to_string());
    lab.set("FAKETIME_TIMESTAMP_FILE", &lab.path(OFFSET).display().to_string());
    lab.set("FAKETIME_NO_CACHE", "1");
    lab.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

/// Where Debian puts it, on whatever computer.
fn library() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?.flatten();
    places.map(|dir| dir.path().join("faketime/libfaketime.so.1")).find(|file| file.exists())
}

/// Steps it, and sees that the daemon believes it and that nobody suffers.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..800);
    let mut seen = Vec::new();
    for step in STEPS {
        std::fs::write(arena.lab.path(OFFSET), format!("{step}\n")).map_err(|e| e.to_string())?;
        arena.work(600..1_200);
        arena.until_served()?;
        seen.push(newest_wall(arena)?);
    }
    let month = 30 * 24 * 3_600_000;
    if seen[2] - seen[1] < month || seen[2] - seen[3] < month {
        return Err(format!("the daemon's wall clock was not stepped at all: {seen:?}"));
    }
    Ok(format!("wall clock stepped by {}", STEPS.join(", ")))
}

/// When the newest record was made, by the daemon's wall.
fn newest_wall(arena: &Arena) -> Result<i64, String> {
    let query = "SELECT wall FROM record ORDER BY number DESC LIMIT 1";
    arena.lab.database().query_row(query, [], |row| row.get(0)).map_err(|e| e.to_string())
}
