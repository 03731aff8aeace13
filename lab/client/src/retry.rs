//! When and how long a call is repeated.

use crate::http::Failed;
use pitstop_wire::Code;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Back-off within a limit.
pub(crate) struct Retry {
    until: Instant,
    next: Duration,
}

impl Retry {
    pub fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, next: Duration::from_millis(20) }
    }

    /// Waits before another try; false when patience is over.
    pub async fn pause(&mut self, error: &Failed) -> bool {
        let mut wait = self.next;
        if let Failed::Answer(error) = error {
            wait = wait.max(Duration::from_secs(error.retry_after.unwrap_or(0)));
        }
        if Instant::now() + wait > self.until {
            return false;
        }
        sleep(wait).await;
        self.next = (self.next * 2).min(Duration::from_millis(500));
        true
    }
}

/// Whether the same call may go another way next time. Safe to repeat is
/// every call: reads change nothing, mutations carry a key.
pub(crate) fn worth_another_try(error: &Failed) -> bool {
    match error {
        Failed::Connect(error) | Failed::Answer(error) => error.code == Code::NotKnown,
        Failed::Lost(_) => true,
    }
}
