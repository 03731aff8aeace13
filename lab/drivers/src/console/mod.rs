//! Consoles: a line of bytes from and to a machine.

pub mod command;
pub mod fake;
pub mod pty;
pub mod serial;
pub mod sim;
pub mod sol;
pub mod tcp;
pub mod telnet;
pub mod unix;

#[cfg(test)]
mod conformance;

use crate::error::{DriverError, Task};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The pause where a try costs nothing: a file or socket of this host.
pub const CHEAP: Duration = Duration::from_millis(20);

/// The pause where each try costs somebody else a session.
pub const DEAR: Duration = Duration::from_secs(1);

/// Opens the line of one console. While a [`Line`] lives, nobody else gets it.
pub trait Console: Send + Sync {
    /// Opens the line now; no retries, that is the caller's part.
    fn open(&self) -> Task<'_, Box<dyn Line>>;

    /// Shortest pause between two tries, of somebody who waits for the line.
    /// Where each try costs a device a session, it is not pestered.
    fn pause(&self) -> Duration {
        DEAR
    }

    /// Whether the line may say again, when it is opened, what the machine
    /// said before: a BMC that keeps the last of it.
    fn repeats(&self) -> bool {
        false
    }

    /// Whether the line comes and goes with the machine's power: that it
    /// cannot be opened while the machine is off is then no fault.
    fn only_while_on(&self) -> bool {
        false
    }
}

/// An open line. A read of 0 bytes is the end: the line is lost.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {
    /// Sends a break where the transport has one.
    fn send_break(&mut self) -> Result<(), DriverError>;
}
