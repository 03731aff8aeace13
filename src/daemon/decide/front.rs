//! The loop's side of the desk: takes what is queued, serves readers.

use super::batch::Waiting;
use crate::daemon::clock::Clock;
use crate::daemon::desk::{Counter, Snapshot, not_known};
use crate::store::{History, sleep};
use pitstop_core::Lab;
use pitstop_core::inventory::model::Inventory;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub struct Front {
    pub counter: Counter,
    pub clock: Clock,
    pub waiting: Waiting,
    /// The inventory as of the newest commit.
    pub inventory: Arc<Inventory>,
    history: Arc<dyn History>,
}

impl Front {
    pub fn new(counter: Counter, clock: Clock, history: Arc<dyn History>, inventory: Arc<Inventory>) -> Self {
        Self { counter, clock, waiting: Waiting::default(), inventory, history }
    }

    /// Waits until something comes, for `patience` milliseconds at most, and
    /// takes all that is queued.
    pub fn gather(&mut self, patience: Option<u64>) {
        match patience {
            Some(0) => {}
            Some(ms) => drop(self.take_one(Duration::from_millis(ms))),
            None => match self.counter.queue.recv() {
                Ok(item) => self.waiting.take(item),
                Err(_) => self.waiting.stop = true,
            },
        }
        while let Ok(item) = self.counter.queue.try_recv() {
            self.waiting.take(item);
        }
    }

    /// Lets time pass while the store waits for the disk. Readers are served
    /// from what is committed; everything else waits for the next batch.
    pub fn pause(&mut self, time: Duration, ahead: &Lab, view: &mut Option<Snapshot>) {
        let until = Instant::now() + time;
        loop {
            if !self.waiting.readers.is_empty() {
                let view = view.get_or_insert_with(|| self.committed_view(ahead));
                self.waiting.serve_readers(view);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if self.take_one(left).is_err() {
                return sleep(left);
            }
        }
    }

    /// The lab as the store has it while the loop's own is ahead.
    pub fn committed_view(&self, ahead: &Lab) -> Snapshot {
        let rows = self.history.rows().map_err(|e| not_known(&e.to_string()))?;
        Ok(Arc::new(Lab::reopen(rows, Arc::clone(&self.inventory), ahead, self.clock.now())))
    }

    /// `Err`: nobody is left who could ask.
    fn take_one(&mut self, patience: Duration) -> Result<(), ()> {
        match self.counter.queue.recv_timeout(patience) {
            Ok(item) => self.waiting.take(item),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                self.waiting.stop = true;
                return Err(());
            }
        }
        Ok(())
    }
}
