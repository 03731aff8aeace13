//! How long nobody could be heard: out of descriptors, or with every place
//! taken, no connection is accepted, and with it no beat of a session.

use std::time::{Duration, Instant};

/// How often that is told: no session may be silent for as little.
const TELL: Duration = Duration::from_millis(250);

/// Measures deafness, and tells of it while it lasts: behind it, the sessions
/// would have ended already.
///
/// It adds up. Between two failures there may be a descriptor for one of
/// those who wait, and a beat waits behind them all the same.
pub struct Ears<F> {
    since: Option<Instant>,
    untold: Duration,
    tell: F,
}

impl<F: Fn(Duration)> Ears<F> {
    /// Ears that hear; `tell` gets each stretch of deafness once.
    pub fn new(tell: F) -> Self {
        Self { since: None, untold: Duration::ZERO, tell }
    }

    /// Nobody can be heard from now on.
    pub fn deaf(&mut self, now: Instant) {
        self.count(now);
        self.since = Some(now);
    }

    /// Somebody was heard.
    pub fn hear(&mut self, now: Instant) {
        self.count(now);
        self.since = None;
    }

    /// What comes of it, during which nobody can be heard.
    pub async fn deaf_until<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            self.deaf(Instant::now());
            if let Ok(done) = tokio::time::timeout(TELL, done.as_mut()).await {
                self.hear(Instant::now());
                return done;
            }
        }
    }

    fn count(&mut self, now: Instant) {
        self.untold += self.since.map_or(Duration::ZERO, |since| now - since);
        if self.untold >= TELL {
            (self.tell)(std::mem::take(&mut self.untold));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn deafness_is_told_while_it_lasts_and_each_moment_once() {
        let told = RefCell::new(Vec::new());
        let mut ears = Ears::new(|time: Duration| told.borrow_mut().push(time));
        let began = Instant::now();
        for n in 0..13 {
            ears.deaf(began + 100 * n * MS);
        }
        assert_eq!(*told.borrow(), [300 * MS; 4], "while it lasts");
        ears.hear(began + 1_300 * MS);
        ears.deaf(began + 10_000 * MS);
        ears.hear(began + 10_000 * MS);
        assert_eq!(told.borrow().iter().sum::<Duration>(), 1_200 * MS, "who hears is not deaf");
        ears.deaf(began + 20_000 * MS);
        ears.hear(began + 20_150 * MS);
        assert_eq!(told.borrow().iter().sum::<Duration>(), 1_450 * MS, "nor is what was short forgotten");
    }

    #[test]
    fn one_descriptor_now_and_then_is_deafness_all_the_same() {
        let told = Cell::new(Duration::ZERO);
        let mut ears = Ears::new(|time| told.set(told.get() + time));
        let began = Instant::now();
        for n in 0..100 {
            ears.deaf(began + 20 * n * MS);
            ears.hear(began + 20 * (n + 1) * MS);
        }
        assert!(told.get() > 2_000 * MS - TELL, "{told:?} of 2 s");
    }

    #[tokio::test]
    async fn a_wait_for_a_place_is_deafness() {
        let (place, free) = tokio::sync::oneshot::channel();
        let (place, told) = (Cell::new(Some(place)), Cell::new(0));
        let mut ears = Ears::new(|_| {
            told.set(told.get() + 1);
            if told.get() == 2 {
                place.take().unwrap().send(()).unwrap();
            }
        });
        // Nobody leaves before it was told twice.
        tokio::time::timeout(Duration::from_secs(60), ears.deaf_until(free)).await.unwrap().unwrap();
        ears.deaf_until(std::future::ready(())).await;
        assert_eq!(told.get(), 2, "a free place is no wait");
    }
}
