//! Machines that died at their start. Consoles and power legs ask for the
//! machine's process on their own, each as often as it likes; what is known
//! of its last start belongs to all of them, and outlives their drivers.

use super::protocol::Config;
use crate::error::DriverError;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The first pause after a failed start, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

struct Trouble {
    /// How the machine was built that died.
    config: Config,
    error: DriverError,
    /// How often in a row.
    times: u32,
    /// When it may be tried again.
    until: Instant,
}

fn known() -> MutexGuard<'static, HashMap<PathBuf, Trouble>> {
    static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Trouble>>> = LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the machine may be started now; else what came of it the last time.
pub fn check(dir: &Path, config: &Config) -> Result<(), DriverError> {
    let known = known();
    let Some(trouble) = known.get(dir).filter(|t| t.config == *config) else { return Ok(()) };
    let left = trouble.until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(());
    }
    let (times, seconds) = (trouble.times, left.as_secs() + 1);
    let answer = format!("{}; {times} times so far, again in {seconds} s", trouble.error.answer);
    Err(DriverError { answer, ..trouble.error.clone() })
}

/// It died.
pub fn note(dir: &Path, config: &Config, error: &DriverError) {
    let mut known = known();
    let times = known.get(dir).filter(|t| t.config == *config).map_or(0, |t| t.times).saturating_add(1);
    let pause = PAUSE.0.saturating_mul(1 << (times - 1).min(16)).min(PAUSE.1);
    let until = Instant::now() + pause;
    known.insert(dir.to_owned(), Trouble { config: config.clone(), error: error.clone(), times, until });
}

/// It lives.
pub fn over(dir: &Path) {
    known().remove(dir);
}
