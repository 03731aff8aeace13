//! `console.telnet` and `console.rfc2217`: a port of a console server that
//! speaks telnet, and one whose serial port can be set up over it.

pub mod codec;

use super::tcp::{ADDRESS, Port};
use super::{Console, Line};
use crate::error::{DriverError, Task};
use crate::site::Site;
use codec::{Codec, ComPort};
use pitstop_core::inventory::catalogue::{DriverSchema, FieldKind, FieldSchema, Unique};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Where telnet servers listen (RFC 854).
const PORT: u16 = 23;
const DEFAULT_BAUD: u32 = 115_200;
/// How long the line is held in a break (tcsendbreak(3): 0.25 to 0.5 s).
const BREAK: Duration = Duration::from_millis(300);
/// Bytes that wait for the connection before no more are taken.
const MAX_WAITING: usize = 64 << 10;

/// What the inventory may say of a telnet port.
pub const TELNET: DriverSchema = DriverSchema {
    name: "telnet",
    fields: &[FieldSchema::required(
        "address",
        FieldKind::Address { port: Some(PORT) },
        "the console server: `conserver.lab`, or `conserver.lab:3001` where it is not port 23",
    )],
    unique: &[Unique { what: "serial port", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

/// What the inventory may say of an RFC 2217 port.
pub const RFC2217: DriverSchema = DriverSchema {
    name: "rfc2217",
    fields: &[
        ADDRESS,
        FieldSchema::optional(
            "baud",
            FieldKind::Int { min: 50, max: 12_000_000 },
            "bits per second, 115200 unless said",
        ),
        FieldSchema::optional("rtscts", FieldKind::Bool, "hardware flow control; off unless said"),
    ],
    unique: &[Unique { what: "serial port", fields: &["address"] }],
    ..DriverSchema::EMPTY
};

struct Telnet {
    port: Port,
    com_port: Option<ComPort>,
}

/// Makes `console.telnet`.
pub fn telnet(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    Ok(Arc::new(Telnet { port: Port::of("console.telnet", site, console)?, com_port: None }))
}

/// Makes `console.rfc2217`.
pub fn rfc2217(site: &Site, console: &str) -> Result<Arc<dyn Console>, DriverError> {
    let spec = site.spec.consoles.get(console).cloned().unwrap_or_default();
    let baud = spec.int("baud").and_then(|b| u32::try_from(b).ok()).unwrap_or(DEFAULT_BAUD);
    let com_port = ComPort { baud, rtscts: spec.flag("rtscts") == Some(true) };
    Ok(Arc::new(Telnet { port: Port::of("console.rfc2217", site, console)?, com_port: Some(com_port) }))
}

impl Console for Telnet {
    fn open(&self) -> Task<'_, Box<dyn Line>> {
        Box::pin(async {
            let stream = self.port.connect().await?;
            let mut codec = Codec::new(self.com_port);
            let waiting = codec.take_output();
            Ok(Box::new(TelnetLine { stream, codec, waiting, read: Vec::new(), breaking: None })
                as Box<dyn Line>)
        })
    }
}

struct TelnetLine {
    stream: TcpStream,
    codec: Codec,
    /// For the connection, not taken by it yet.
    waiting: Vec<u8>,
    /// Data that was read, not taken by our reader yet.
    read: Vec<u8>,
    breaking: Option<Pin<Box<Sleep>>>,
}

impl TelnetLine {
    /// Sends what waits.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting.extend(self.codec.take_output());
        while !self.waiting.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn end_break(&mut self, cx: &mut Context<'_>) {
        if self.breaking.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            self.breaking = None;
            self.codec.end_break();
        }
    }
}

impl Line for TelnetLine {
    fn send_break(&mut self) -> Result<(), DriverError> {
        self.codec.begin_break();
        self.breaking = Some(Box::pin(tokio::time::sleep(BREAK)));
        Ok(())
    }
}

impl AsyncRead for TelnetLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.end_break(cx);
        let mut chunk = [0; 4096];
        while this.read.is_empty() {
            // Answers are part of reading: nobody may ever write.
            if let Poll::Ready(Err(e)) = this.poll_waiting(cx) {
                return Poll::Ready(Err(e));
            }
            // A server that asks and does not listen is not read from.
            if this.waiting.len() > MAX_WAITING {
                return Poll::Pending;
            }
            let mut space = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.read = this.codec.receive(space.filled());
        }
        let n = buf.remaining().min(this.read.len());
        buf.put_slice(&this.read[..n]);
        this.read.drain(..n);
        // What came may be answered by something that nobody else would send.
        if let Poll::Ready(Err(e)) = this.poll_waiting(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TelnetLine {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        // It asked for silence; that it wants to hear again is read by
        // whoever reads, who then writes.
        if self.codec.suspended() {
            return Poll::Pending;
        }
        let sent = self.codec.send(bytes);
        self.waiting.extend(sent);
        if let Poll::Ready(Err(e)) = self.poll_waiting(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_waiting(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
