//! File descriptors that are kept for people.
//!
//! Where a program has none left, nothing is accepted any more: a session
//! whose beat cannot be heard would end, though its holder lives. Machines and
//! strangers come by hundreds and stay; people's requests are short. So a few
//! descriptors are held open for nothing. The people's listener gives one away
//! for each connection that finds none, and takes them back as there are some;
//! until it has all of them again, the machines' listeners accept nobody.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many are kept.
pub const KEPT: usize = 8;

/// Those that are kept.
#[derive(Debug)]
pub struct Spare {
    kept: Mutex<Vec<File>>,
    size: usize,
    whole: watch::Sender<bool>,
}

impl Spare {
    /// Keeps so many, or says why there are too few already.
    pub fn keep(size: usize) -> io::Result<Arc<Self>> {
        let kept = (0..size).map(|_| one()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { kept: Mutex::new(kept), size, whole: watch::Sender::new(true) }))
    }

    /// Gives one away, if any is left.
    pub fn give(&self) -> bool {
        self.whole.send_replace(false);
        self.kept().pop().is_some()
    }

    /// Takes back what can be had. Whoever wants one gets it again.
    pub fn refill(&self) {
        let mut kept = self.kept();
        while kept.len() < self.size {
            let Ok(file) = one() else { return };
            kept.push(file);
        }
        self.whole.send_replace(true);
    }

    /// Whether none is missing.
    pub fn is_whole(&self) -> bool {
        *self.whole.borrow()
    }

    /// Ready when none is missing.
    pub async fn whole(&self) {
        // It cannot go away: we have the sender.
        let _ = self.whole.subscribe().wait_for(|whole| *whole).await;
    }

    fn kept(&self) -> MutexGuard<'_, Vec<File>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn one() -> io::Result<File> {
    File::open("/dev/null")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_ready(spare: &Spare) -> bool {
        tokio::time::timeout(Duration::ZERO, spare.whole()).await.is_ok()
    }

    #[tokio::test]
    async fn machines_wait_until_people_have_all_of_theirs_again() {
        let spare = Spare::keep(2).unwrap();
        assert!(is_ready(&spare).await);
        assert!(spare.give());
        assert!(spare.give());
        assert!(!spare.give(), "there were two");
        assert!(!spare.is_whole());
        assert!(!is_ready(&spare).await);
        spare.refill();
        assert!(spare.is_whole());
        assert!(is_ready(&spare).await);
        assert!(spare.give());
    }
}
