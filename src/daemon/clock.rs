//! Lab time: driven by CLOCK_BOOTTIME, which counts suspend and which nobody
//! can set, continued over restarts by the difference of wall time.

use pitstop_core::lab::Meta;
use pitstop_core::time::{LabTime, WallMs};
use rustix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest time that the lab may have been down as far as deadlines are
/// concerned: a dead RTC battery must not end every reservation.
const LONGEST_DOWN: u64 = 30 * 24 * 3600 * 1000;

/// A loop that was away for longer than this (ms) could not hear anybody.
pub const LONGEST_ABSENCE: u64 = 1_000;

/// The lab's clock. Copies agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Lab time when the clock was started.
    start: LabTime,
    /// CLOCK_BOOTTIME at that moment, in milliseconds.
    boot: u64,
}

impl Clock {
    /// Goes on from the newest commit.
    pub fn start(meta: &Meta) -> Self {
        let clock = Self { start: continued(meta, wall()), boot: boottime() };
        tracing::debug!(now = clock.start.0, "lab time goes on");
        clock
    }

    /// The same clock, if it was not started before this; else one that was
    /// started at this.
    #[must_use]
    pub fn not_before(self, floor: LabTime) -> Self {
        Self { start: self.start.max(floor), ..self }
    }

    /// Lab time.
    pub fn now(&self) -> LabTime {
        self.start + boottime().saturating_sub(self.boot)
    }

    /// Wall time, to label records with.
    pub fn wall(&self) -> WallMs {
        wall()
    }
}

/// Lab time at a start: the newest commit's, and as much later as the wall
/// clock says, within reason.
fn continued(meta: &Meta, wall: WallMs) -> LabTime {
    if meta.records == 0 {
        return meta.now;
    }
    let down = u64::try_from(wall.saturating_sub(meta.wall)).unwrap_or(0);
    meta.now + down.min(LONGEST_DOWN)
}

fn boottime() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec.saturating_mul(1_000).saturating_add(t.tv_nsec / 1_000_000).unsigned_abs()
}

/// By the standard library, and so by the C library: there a test can step
/// the wall clock for this process alone.
fn wall() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let (time, sign) = since.map_or_else(|before| (before.duration(), -1), |after| (after, 1));
    WallMs::try_from(time.as_millis()).unwrap_or(WallMs::MAX) * sign
}

/// Notices when the loop did not run while it should have: a suspended
/// host, a stopped process, a commit that took seconds.
#[derive(Debug)]
pub struct Pulse {
    last: LabTime,
}

impl Pulse {
    /// Begins to watch.
    pub fn new(now: LabTime) -> Self {
        Self { last: now }
    }

    /// The loop runs (again), after it went to sleep for `asked` milliseconds
    /// at most; `None`: for as long as nothing happens. Answers with how long
    /// it was away without wanting to, if that is longer than
    /// [`LONGEST_ABSENCE`].
    pub fn beat(&mut self, now: LabTime, asked: Option<u64>) -> Option<u64> {
        let passed = now - std::mem::replace(&mut self.last, now);
        let away = passed.saturating_sub(asked?);
        (away > LONGEST_ABSENCE).then_some(away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitstop_core::id::Epoch;

    fn meta(now: u64, wall: WallMs) -> Meta {
        Meta { epoch: Epoch(1), records: 1, reservations: 0, now: LabTime(now), wall }
    }

    #[test]
    fn time_spent_down_counts() {
        assert_eq!(continued(&meta(5_000, 1_000_000), 1_060_000), LabTime(65_000));
    }

    #[test]
    fn a_wall_clock_set_back_does_not_turn_lab_time_back() {
        assert_eq!(continued(&meta(5_000, 1_000_000), 10), LabTime(5_000));
    }

    #[test]
    fn a_wall_clock_years_ahead_ends_not_everything() {
        assert_eq!(continued(&meta(5_000, 0), i64::MAX), LabTime(5_000 + LONGEST_DOWN));
    }

    #[test]
    fn a_backup_does_not_turn_lab_time_back() {
        let clock = Clock::start(&meta(5_000, wall()));
        assert!(clock.not_before(LabTime(9_000_000)).now() >= LabTime(9_000_000));
        assert!(clock.not_before(LabTime(1)).now() >= LabTime(5_000));
    }

    #[test]
    fn a_new_lab_begins_at_zero() {
        assert_eq!(continued(&Meta::default(), 1_700_000_000_000), LabTime(0));
    }

    #[test]
    fn a_running_clock_never_goes_back() {
        let clock = Clock::start(&meta(7, wall()));
        let mut last = LabTime(7);
        for _ in 0..1_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn sleeping_as_long_as_asked_is_no_absence() {
        let mut pulse = Pulse::new(LabTime(0));
        assert_eq!(pulse.beat(LabTime(500), Some(500)), None);
        assert_eq!(pulse.beat(LabTime(1_900), Some(500)), None);
        assert_eq!(pulse.beat(LabTime(9_999_999), None), None);
    }

    #[test]
    fn an_absence_is_as_long_as_the_loop_did_not_run() {
        let mut pulse = Pulse::new(LabTime(0));
        assert_eq!(pulse.beat(LabTime(40_500), Some(500)), Some(40_000));
        assert_eq!(pulse.beat(LabTime(40_600), Some(500)), None);
    }
}
