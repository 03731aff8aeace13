//! Waiting a moment for company.
//!
//! Clients that were just answered come back at once with their next request.
//! A commit that began right behind the last one would just miss them: they
//! would wait for it, and then for their own. So a batch waits a fraction of
//! what a commit takes for those who are about to come; not at all for one
//! that is alone.

use std::time::{Duration, Instant};

/// Part of a commit's time that is spent on waiting: what is lost if those
/// who were answered have nothing more to ask.
const PART: u32 = 4;
/// The longest wait, however slow the disk.
const LONGEST: Duration = Duration::from_millis(1);

/// Who may be about to come after a commit.
pub struct Crowd {
    /// Those who were answered, and those who had come meanwhile.
    expected: usize,
    until: Instant,
}

impl Crowd {
    /// A commit that took so long has just ended.
    pub fn after(commit: Duration, answered: usize, waiting: usize) -> Self {
        Self { expected: answered + waiting, until: Instant::now() + (commit / PART).min(LONGEST) }
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
}
