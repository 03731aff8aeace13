//! Typing slowly: some boot loaders poll their UART between other work, and
//! lose what comes faster than a person types.

use crate::console::Line;
use crate::error::DriverError;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A line that takes one byte at a time, with a pause behind each.
pub struct Paced<L> {
    line: L,
    pause: Duration,
    resting: Option<Pin<Box<Sleep>>>,
}

impl<L> Paced<L> {
    pub fn new(line: L, pause: Duration) -> Self {
        Self { line, pause, resting: None }
    }
}

impl<L: Line> Line for Paced<L> {
    fn send_break(&mut self) -> Result<(), DriverError> {
        self.line.send_break()
    }
}

impl<L: Line> AsyncRead for Paced<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.line).poll_read(cx, buf)
    }
}

impl<L: Line> AsyncWrite for Paced<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if let Some(rest) = &mut self.resting {
            std::task::ready!(rest.as_mut().poll(cx));
            self.resting = None;
        }
        let one = &bytes[..bytes.len().min(1)];
        let written = std::task::ready!(Pin::new(&mut self.line).poll_write(cx, one));
        self.resting = Some(Box::pin(tokio::time::sleep(self.pause)));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}
