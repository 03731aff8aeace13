//! Waiting a moment for company.
//!
//! Clients that were just answered come back at once with their next request.
//! A commit that began right behind the last one would just miss them: they
//! would wait for it, and then for their own. So a batch waits a fraction of
//! what the disk takes for those who are about to come; not at all for one
//! that is alone. Only the disk's time is shared: where it is fast, the loop
//! had better begin with those who are there.

use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// Part of the disk's time that is spent on waiting: what is lost if those
/// who were answered have nothing more to ask.
const PART: u32 = 4;
/// The longest wait, however slow the disk.
const LONGEST: Duration = Duration::from_millis(1);

/// Measures for how long this thread had to wait.
pub struct Stopwatch {
    start: Instant,
    worked: Duration,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self { start: Instant::now(), worked: worked() }
    }

    /// What passed, without what this thread worked meanwhile.
    pub fn waited(&self) -> Duration {
        self.start.elapsed().saturating_sub(worked().saturating_sub(self.worked))
    }
}

/// Processor time of this thread.
fn worked() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Who may be about to come after a commit.
pub struct Crowd {
    /// Those who were answered, and those who had come meanwhile.
    expected: usize,
    until: Instant,
}

impl Crowd {
    /// A commit has just ended that the disk took so long for.
    pub fn after(disk: Duration, answered: usize, waiting: usize) -> Self {
        Self { expected: answered + waiting, until: Instant::now() + (disk / PART).min(LONGEST) }
    }

    /// For how long to wait for more than those who are there; `None`: begin.
    pub fn worth_waiting(&self, waiting: usize) -> Option<Duration> {
        if waiting == 0 || waiting >= self.expected {
            return None;
        }
        Some(self.until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn who_is_alone_does_not_wait() {
        assert_eq!(Crowd::after(HOUR, 1, 0).worth_waiting(1), None);
        assert_eq!(Crowd::after(HOUR, 8, 0).worth_waiting(0), None, "there is no batch yet");
    }

    #[test]
    fn a_crowd_is_waited_for_until_it_is_complete_and_never_long() {
        let crowd = Crowd::after(HOUR, 4, 4);
        let left = crowd.worth_waiting(4);
        assert!(left.is_none_or(|left| left <= LONGEST), "{left:?}");
        assert_eq!(crowd.worth_waiting(8), None);
        let past = Crowd { expected: 8, until: Instant::now() };
        assert_eq!(past.worth_waiting(4), None, "they did not come back in time");
    }

    #[test]
    fn work_is_no_wait() {
        let watch = Stopwatch::start();
        while watch.start.elapsed() < Duration::from_millis(20) {}
        let busy = watch.waited();
        std::thread::sleep(Duration::from_millis(20));
        let waited = watch.waited() - busy;
        assert!(waited >= Duration::from_millis(15), "{waited:?}");
        assert!(worked() - watch.worked > Duration::ZERO);
    }
}
