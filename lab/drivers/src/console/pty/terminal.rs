//! The terminal end of a pty as a serial line.

use crate::console::Line;
use crate::error::DriverError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::termios::{OptionalActions, tcgetattr, tcsendbreak, tcsetattr};
use std::fs::File;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The terminal end of a pty, in raw mode.
///
/// The exclusive claim is a lock on the file, not `TIOCEXCL`: the machine's
/// process keeps this end open too, so the terminal would stay exclusive for
/// ever after a daemon was killed.
pub struct Pty {
    fd: AsyncFd<File>,
    driver: &'static str,
}

impl Pty {
    /// Opens and claims it, for this driver.
    pub fn open(path: &Path, driver: &'static str) -> Result<Self, DriverError> {
        let fail = |what: &str, e: &dyn std::fmt::Display| {
            DriverError::new(driver, format!("{what} {}", path.display()), e)
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| fail("open", &e))?.into();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| fail("claim", &"another program has the line"))?;
        let mut mode = tcgetattr(&file).map_err(|e| fail("set up", &e))?;
        mode.make_raw();
        tcsetattr(&file, OptionalActions::Now, &mode).map_err(|e| fail("set up", &e))?;
        Ok(Self { fd: crate::watched::file(file).map_err(|e| fail("watch", &e))?, driver })
    }
}

impl Line for Pty {
    fn send_break(&mut self) -> Result<(), DriverError> {
        tcsendbreak(self.fd.get_ref()).map_err(|e| DriverError::new(self.driver, "send a break", e))
    }
}

impl AsyncRead for Pty {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        crate::watched::poll_read(&self.fd, cx, buf)
    }
}

impl AsyncWrite for Pty {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        crate::watched::poll_write(&self.fd, cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
