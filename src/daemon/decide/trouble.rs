//! When commits fail: what is known, what is kept, when to try again.

use super::batch::{self, Draft};
use super::lag::Lag;
use super::{Decider, Halt, Hands};
use crate::daemon::clock::LONGEST_ABSENCE;
use crate::daemon::desk::Condition;
use crate::store::CommitError;
use pitstop_core::Lab;
use pitstop_core::event::Event;
use pitstop_core::record::Record;
use pitstop_core::time::LabTime;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many failures in a row, and requests are no longer tried one by one.
const READ_ONLY_AFTER: u32 = 3;
/// Pause after the first failure; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Commits fail.
pub struct Trouble {
    /// When the batch was begun that failed first: nothing was heard or
    /// judged since.
    pub since: LabTime,
    /// What the store said last.
    pub reason: String,
    failures: u32,
    retry: Instant,
}

impl Trouble {
    /// Milliseconds until the next try; never 0, so that a retry is due by
    /// then.
    pub fn patience(&self) -> u64 {
        let left = self.retry.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Whether the lab is read-only and the next try is not due yet.
    pub fn rests(&self) -> bool {
        self.read_only() && Instant::now() < self.retry
    }

    fn read_only(&self) -> bool {
        self.failures >= READ_ONLY_AFTER
    }
}

/// A batch of which nobody knows whether it is committed, since the store
/// could not be read either.
pub struct Limbo {
    draft: Draft,
    before: Option<Arc<Lab>>,
}

impl Decider {
    /// The batch is on disk.
    pub(super) fn committed(&mut self, hands: &dyn Hands, draft: Draft) {
        let follows = !Arc::ptr_eq(&self.front.inventory, self.lab.inventory());
        if follows {
            self.front.inventory = Arc::clone(self.lab.inventory());
            hands.follow(&self.front.inventory);
            self.front.counter.inventory.send_replace(Arc::clone(&self.front.inventory));
        }
        hands.know(&self.lab, (!follows).then(|| draft.records()));
        if let Some(trouble) = self.trouble.take() {
            tracing::info!(failures = trouble.failures, "the store can be written again; the lab goes on");
            self.front.counter.condition.send_replace(Condition::Well);
        }
        let (records, effects, lags) = draft.answer(&self.lab);
        self.publish(records);
        batch::release(hands, effects, self.epoch);
        lags.iter().for_each(Lag::tell);
    }

    fn publish(&self, records: Vec<Record>) {
        if !records.is_empty() && self.front.counter.records.receiver_count() > 0 {
            // The last subscriber may leave at any moment.
            drop(self.front.counter.records.send(records.into()));
        }
    }

    /// The commit failed. `before` is the lab before the batch, if it was kept.
    pub(super) fn failed(
        &mut self,
        hands: &dyn Hands,
        draft: Draft,
        before: Option<Arc<Lab>>,
        error: &CommitError,
    ) -> Result<(), Halt> {
        self.count_failure(error);
        if let (CommitError::Refused(_), Some(before)) = (error, &before) {
            self.lab = Arc::clone(before);
            self.front.waiting.put_back(draft.turn_away(&error.to_string()));
            return Ok(());
        }
        self.limbo = Some(Limbo { draft, before });
        self.leave_limbo(hands)?;
        if let Some(limbo) = &mut self.limbo {
            limbo.draft.not_known(&error.to_string());
        }
        Ok(())
    }

    fn count_failure(&mut self, error: &CommitError) {
        let since = self.began;
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            since,
            reason: String::new(),
            failures: 0,
            retry: Instant::now(),
        });
        trouble.failures += 1;
        trouble.reason = error.to_string();
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(trouble.failures - 1)).min(LONGEST_PAUSE);
        trouble.retry = Instant::now() + pause;
        let (failures, reason, since) = (trouble.failures, trouble.reason.clone(), trouble.since);
        if failures < READ_ONLY_AFTER {
            tracing::warn!(failures, reason, "a commit failed; the batch was dropped");
        } else if failures == READ_ONLY_AFTER {
            tracing::error!(failures, reason, "the lab is read-only: nothing is decided and nothing expires");
        }
        if failures >= READ_ONLY_AFTER {
            self.front.counter.condition.send_replace(Condition::ReadOnly { since, reason });
        }
    }

    /// Reads what is on disk, which tells whether the batch is there, and
    /// goes on from it. Answers whether that is known now.
    pub(super) fn leave_limbo(&mut self, hands: &dyn Hands) -> Result<bool, Halt> {
        let Some(limbo) = self.limbo.take() else { return Ok(true) };
        let rows = match self.load() {
            Ok(rows) => rows,
            Err(error) => {
                self.limbo = Some(limbo);
                self.count_failure(&CommitError::Unknown(error));
                return Ok(false);
            }
        };
        if rows.meta.epoch > self.epoch {
            limbo.draft.turn_away("another pitstop has taken the lab over");
            return Err(Halt::Superseded { by: rows.meta.epoch, ours: self.epoch });
        }
        if limbo.draft.newest() == Some(rows.meta.records) {
            // It was written after all: everything may leave.
            let silence = self.trouble.as_ref().map_or(0, |t| self.front.clock.now() - t.since);
            self.committed(hands, limbo.draft);
            if silence > LONGEST_ABSENCE {
                self.front.waiting.put_back(vec![Event::Gap(silence)]);
            }
            return Ok(true);
        }
        let old = limbo.before.as_ref().unwrap_or(&self.lab);
        let lab = Lab::reopen(rows, Arc::clone(&self.front.inventory), old, self.front.clock.now());
        self.lab = Arc::new(lab);
        self.front.waiting.put_back(limbo.draft.turn_away("the store did not take it"));
        Ok(true)
    }
}
