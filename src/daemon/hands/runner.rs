//! Controllers: one queue each, and so many commands at the same time.

use pitstop_drivers::PowerLimits;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queues of all controllers. They are fair: first come, first served.
#[derive(Debug, Default)]
pub struct Runners {
    queues: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Runners {
    /// Waits until it is one's turn at this controller; the turn lasts as
    /// long as the result lives. `None` cannot happen: no queue is closed.
    pub async fn turn(&self, limits: &PowerLimits) -> Option<OwnedSemaphorePermit> {
        let queue = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = queues.entry(limits.queue.clone());
            queue.or_insert_with(|| Arc::new(Semaphore::new(limits.at_once))).clone()
        };
        queue.acquire_owned().await.ok()
    }
}
