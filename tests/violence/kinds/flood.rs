//! Serial lines that never stop, and watchers that do not read: they hurt
//! themselves only.

use super::Harm;
use crate::arena::Arena;
use pitstop_client::api::ConsoleRequest;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LINES: [&str; 4] = ["board1", "board2", "board3", "bare1"];
const WATCHERS_EACH: usize = 4;
const FLOOD: Duration = Duration::from_secs(3);

/// Floods the lines of some machines while watchers hang on them.
pub fn harm(arena: &mut Arena) -> Harm {
    arena.work(300..800);
    let over = Arc::new(AtomicBool::new(false));
    let bytes = Arc::new(AtomicU64::new(0));
    let _watchers = hung_watchers(arena)?;
    let dirs = LINES.map(|name| arena.lab.data().join("machines").join(name).join("console-main"));
    let floods = dirs.map(|line| {
        let (over, bytes) = (over.clone(), bytes.clone());
        std::thread::spawn(move || flood(line, &over, &bytes))
    });
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut answered = Ok(Duration::ZERO);
    while began.elapsed() < FLOOD && answered.is_ok() {
        answered = arena.until_served();
        slowest = slowest.max(answered.clone().unwrap_or_default());
        arena.work(50..100);
    }
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().map_err(|_| "a flood died")??;
    }
    answered?;
    let kib = bytes.load(Ordering::Relaxed) >> 10;
    Ok(format!(
        "{kib} KiB into 4 lines, 16 hung watchers, slowest lease meanwhile {} ms",
        slowest.as_millis()
    ))
}

/// What is typed on the line is echoed by the machine: both ways are full.
fn flood(line: PathBuf, over: &AtomicBool, bytes: &AtomicU64) -> Result<(), String> {
    let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let open = std::fs::File::options().write(true).custom_flags(flags).open(&line);
    let mut pty = open.map_err(|e| format!("{}: {e}", line.display()))?;
    let piece = [b'#'; 4_000];
    while !over.load(Ordering::Relaxed) {
        match pty.write(&piece).and_then(|n| Ok(n + pty.write(b"\r")?)) {
            Ok(n) => drop(bytes.fetch_add(n as u64, Ordering::Relaxed)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(())
}

/// Attached, and never read from again.
fn hung_watchers(arena: &Arena) -> Result<Vec<pitstop_client::ConsoleLink>, String> {
    let client = arena.client();
    let ask = ConsoleRequest { last: Some(1 << 20), ..ConsoleRequest::default() };
    let all = LINES.iter().flat_map(|name| std::iter::repeat_n(*name, WATCHERS_EACH));
    all.map(|name| {
        let link = arena.block(client.console(name, ask.clone()));
        link.map_err(|e| format!("the console of {name} cannot be watched: {e}"))
    })
    .collect()
}
