//! A console on an in-memory pipe, for tests of whatever reads consoles.

use super::{Console, Line};
use crate::error::{DriverError, Task};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

/// A scripted console: [`Fake::plug`] gives the machine's end of the line.
#[derive(Debug, Default, Clone)]
pub struct Fake {
    next: Arc<Mutex<Option<DuplexStream>>>,
    breaks: Arc<Mutex<usize>>,
}

impl Fake {
    /// Makes a line that the next `open` gets; dropping the returned end
    /// loses the line.
    pub fn plug(&self) -> DuplexStream {
        let (ours, theirs) = duplex(64 << 10);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(theirs);
        ours
    }

    /// Breaks sent so far.
    pub fn breaks(&self) -> usize {
        *self.breaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console for Fake {
    fn pause(&self) -> std::time::Duration {
        super::CHEAP
    }

    fn open(&self) -> Task<'_, Box<dyn Line>> {
        let line = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let breaks = self.breaks.clone();
        Box::pin(async move {
            match line {
                Some(stream) => Ok(Box::new(FakeLine { stream, breaks }) as Box<dyn Line>),
                None => Err(DriverError::new("console.fake", "open the line", "nothing is plugged in")),
            }
        })
    }
}

struct FakeLine {
    stream: DuplexStream,
    breaks: Arc<Mutex<usize>>,
}

impl Line for FakeLine {
    fn send_break(&mut self) -> Result<(), DriverError> {
        *self.breaks.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ok(())
    }
}

impl AsyncRead for FakeLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for FakeLine {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
