//! Signals that this process was started to ignore.
//!
//! A shell ignores SIGINT and SIGQUIT for what it starts with `&`, and nohup ignores SIGHUP. Programs inherit
//! that, and no shell can trap what was ignored when it began: ctrl-C in `pitstop run` would not reach a
//! command whose agent was started so. A signal that has a handler is at its default again after exec.

use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Rust programs ignore it themselves, and not for their children.
const SIGPIPE: i32 = 13;

/// From now on commands start with every signal at its default. To be called within a runtime.
pub(crate) fn heed_signals() -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    for number in ignored(&status).filter(|&number| number != SIGPIPE) {
        // The handler outlives the stream, and does nothing: the agent itself goes on ignoring it.
        signal(SignalKind::from_raw(number)).map(drop)?;
    }
    Ok(())
}

/// `SigIgn` of proc(5): a mask in hexadecimal, whose lowest bit is signal 1. Real-time signals are left out.
fn ignored(status: &str) -> impl Iterator<Item = i32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..32).filter(move |number| mask >> (number - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::ignored;

    #[test]
    fn the_mask_is_read_from_its_lowest_bit() {
        let status =
            "Name:\tsh\nSigBlk:\t00000000ffffffff\nSigIgn:\t8000000040001007\nSigCgt:\t0000000000000000\n";
        assert_eq!(ignored(status).collect::<Vec<_>>(), [1, 2, 3, 13, 31]);
        assert_eq!(ignored("Name:\tsh\n").count(), 0);
    }
}
