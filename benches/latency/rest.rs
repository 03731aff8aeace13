//! What a daemon costs while nothing happens.

use crate::common::Daemon;
use crate::common::daemon::{cpu_seconds, memory};
use crate::report::Line;
use anyhow::Result;
use std::time::Duration;

/// Memory in MiB.
pub fn memory_now(daemon: &Daemon, what: String) -> Result<Line> {
    let (now, _) = memory(daemon.pid()?)?;
    Ok(Line::single(what, now, "MiB", 100.0))
}

/// Memory in MiB and processor in percent of one core, over the window.
pub fn at_rest(daemon: &Daemon, machines: usize, window: Duration) -> Result<[Line; 2]> {
    let pid = daemon.pid()?;
    let before = cpu_seconds(pid)?;
    std::thread::sleep(window);
    let percent = (cpu_seconds(pid)? - before) / window.as_secs_f64() * 100.0;
    Ok([
        memory_now(daemon, format!("memory at rest, {machines} machines"))?,
        Line::single(format!("processor at rest, {machines} machines"), percent, "% of a core", 1.0),
    ])
}
