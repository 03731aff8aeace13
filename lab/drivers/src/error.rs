//! What a driver says when it could not do something.

use std::future::Future;
use std::pin::Pin;

/// What a driver's operation gives: it may be waited for on any thread.
pub type Task<'a, T> = Pin<Box<dyn Future<Output = Result<T, DriverError>> + Send + 'a>>;

/// An operation that did not work. It proves nothing about the hardware: a
/// BMC that answers with an error may have switched all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{driver}: could not {attempted}: {answer}{}", next.as_deref().map(|n| format!(" ({n})")).unwrap_or_default())]
pub struct DriverError {
    /// The driver as the inventory writes it: `power.qemu`.
    pub driver: &'static str,
    /// What was attempted, as it would follow "could not".
    pub attempted: String,
    /// What came back.
    pub answer: String,
    /// Whether trying again is pointless until somebody changes something.
    pub permanent: bool,
    /// Whether what was begun for it is known to be over, and cannot act later.
    pub over: bool,
    /// What a person can do about it.
    pub next: Option<String>,
}

impl DriverError {
    /// A failure that may go away by itself.
    pub fn new(driver: &'static str, attempted: impl Into<String>, answer: impl ToString) -> Self {
        let (attempted, answer) = (attempted.into(), answer.to_string());
        Self { driver, attempted, answer, permanent: false, over: false, next: None }
    }

    /// What the inventory says cannot be; it is a person's to mend.
    pub fn in_inventory(driver: &'static str, attempted: impl Into<String>, answer: impl ToString) -> Self {
        Self::new(driver, attempted, answer).permanent().next("mend the inventory")
    }

    /// The same, but only a person can end it.
    #[must_use]
    pub fn permanent(self) -> Self {
        Self { permanent: true, ..self }
    }

    /// Nothing of it can act any more.
    #[must_use]
    pub fn over(self) -> Self {
        Self { over: true, ..self }
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(self, step: impl Into<String>) -> Self {
        Self { next: Some(step.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_who_tried_what_and_what_to_do() {
        let e = DriverError::new("power.x", "switch srv1 on", "no answer").next("look at the cable");
        assert_eq!(e.to_string(), "power.x: could not switch srv1 on: no answer (look at the cable)");
        let e = DriverError::new("power.x", "switch srv1 on", "no answer");
        assert_eq!(e.to_string(), "power.x: could not switch srv1 on: no answer");
    }
}
