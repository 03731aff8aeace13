//! The lab's rows as outsiders see them.

pub mod event;
pub mod machine;
pub mod reservation;
pub mod status;
mod words;

use pitstop_core::Lab;
use pitstop_core::time::LabTime;
use pitstop_wire::api::Time;

/// Turns lab time into wall time, by the lab's newest commit. A step of the
/// wall clock moves what is shown, never what is decided.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    now: LabTime,
    wall: i64,
}

impl Clock {
    /// The clock of this snapshot.
    pub fn of(lab: &Lab) -> Self {
        Self { now: lab.meta().now, wall: lab.meta().wall }
    }

    /// When that was or will be, by the wall.
    pub fn wall(&self, at: LabTime) -> Time {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let moved = if at >= self.now { signed(at - self.now) } else { -signed(self.now - at) };
        Time(self.wall.saturating_add(moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_time_is_shown_by_the_wall_of_the_newest_commit() {
        let clock = Clock { now: LabTime(5_000), wall: 1_000_000 };
        assert_eq!(clock.wall(LabTime(6_000)), Time(1_001_000));
        assert_eq!(clock.wall(LabTime(1_000)), Time(996_000));
        assert_eq!(clock.wall(LabTime(u64::MAX)), Time(i64::MAX));
    }
}
