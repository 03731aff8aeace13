//! The user's terminal: every key goes to the machine, and whatever ends us,
//! afterwards it is as it was.

use crate::cli::Result;
use crate::cli::fail::Fail;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::sync::{Mutex, Once, PoisonError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How the terminal was. Here, so that a panic on any thread finds it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal passes every key on, until this is dropped.
pub struct Raw(());

impl Raw {
    /// Sets the terminal on standard input.
    pub fn on() -> Result<Self> {
        let failed = |e: rustix::io::Errno| Fail::internal(format!("the terminal cannot be set: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        restore_at_panic();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &before);
    }
}

/// First the terminal, then the message: else nobody could read it.
fn restore_at_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            next(panic);
        }));
    });
}

/// Signals that end us, by number. Without this the terminal would stay as
/// it is.
pub fn signals() -> Result<mpsc::Receiver<u8>> {
    let (send, signals) = mpsc::channel(1);
    let kinds = [
        (SignalKind::hangup(), 1),
        (SignalKind::interrupt(), 2),
        (SignalKind::quit(), 3),
        (SignalKind::terminate(), 15),
    ];
    for (kind, number) in kinds {
        let mut arrived =
            signal(kind).map_err(|e| Fail::internal(format!("signals cannot be watched: {e}")))?;
        let send = send.clone();
        tokio::spawn(async move {
            while arrived.recv().await.is_some() {
                // One is enough.
                let _ = send.try_send(number);
            }
        });
    }
    Ok(signals)
}
