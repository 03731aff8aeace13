//! One accepted connection: messages both ways, the heartbeat, until it is lost.

use std::collections::VecDeque;
use std::time::Duration;

use pitstop_wire::agent::{FromAgent, ToAgent};
use pitstop_wire::frame::{Decoder, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::dial::Connection;
use super::{Event, take};
use crate::run::Engine;
use crate::work::Desk;

/// How a connection ended.
pub(super) enum Over {
    /// It broke: come back.
    Lost(String),
    /// The daemon said goodbye.
    Bye(String),
    /// The daemon does not want us.
    Refused(String),
    /// We were told to stop.
    Stopped,
}

/// What a connection serves.
pub(super) struct Link<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) desk: &'a mut Desk,
    pub(super) events: &'a mut UnboundedReceiver<Event>,
}

/// Bytes on their way out. Nothing is encoded before the bytes in front of it are gone, so a slow daemon
/// makes the engine hold back, which makes the commands hold back.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    at: usize,
    unflushed: bool,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Moves bytes on. May be dropped at any point without losing or repeating one.
    async fn push<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> std::io::Result<()> {
        if self.is_empty() {
            writer.flush().await?;
            self.unflushed = false;
            return Ok(());
        }
        let written = writer.write(&self.bytes[self.at..]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.at += written;
        self.unflushed = true;
        Ok(())
    }
}

impl Link<'_> {
    pub(super) async fn serve(
        mut self,
        connection: Connection,
        beat: Duration,
        mut stopped: watch::Receiver<bool>,
    ) -> Over {
        let Connection { stream, mut decoder } = connection;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut beats = tokio::time::interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut urgent = VecDeque::from(self.desk.catch_up());
        let mut out = Outgoing::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Err(over) = self.dispatch(&mut decoder, &mut urgent) {
                return over;
            }
            if out.is_empty()
                && let Err(over) = self.fill(&mut out, &mut urgent)
            {
                return over;
            }
            tokio::select! {
                read = read_some(&mut reader, &mut buffer, &mut decoder) => if let Err(why) = read {
                    return Over::Lost(why);
                },
                sent = out.push(&mut writer), if !out.is_empty() || out.unflushed => if let Err(e) = sent {
                    return Over::Lost(format!("sending: {e}"));
                },
                Some(event) = self.events.recv() => take(event, self.engine, self.desk),
                _ = beats.tick() => urgent.push_front(FromAgent::Beat),
                _ = stopped.wait_for(|stop| *stop) => return Over::Stopped,
            }
            urgent.extend(self.desk.news());
        }
    }

    /// Handles every whole message that has arrived.
    fn dispatch(&mut self, decoder: &mut Decoder, urgent: &mut VecDeque<FromAgent>) -> Result<(), Over> {
        loop {
            let frame = match decoder.next::<ToAgent>() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(e) => return Err(Over::Lost(format!("the daemon's message: {e}"))),
            };
            match frame.message {
                ToAgent::Run(message) => self.engine.handle(message, &frame.body),
                ToAgent::Bye { reason } => return Err(Over::Bye(reason)),
                other => urgent.extend(self.desk.handle(other, frame.body)),
            }
        }
    }

    /// Encodes the next message, if there is one.
    fn fill(&mut self, out: &mut Outgoing, urgent: &mut VecDeque<FromAgent>) -> Result<(), Over> {
        let (message, body) = match urgent.pop_front() {
            Some(message) => (message, Vec::new()),
            None => match self.engine.next() {
                Some((message, body)) => (FromAgent::Run(message), body),
                None => return Ok(()),
            },
        };
        out.bytes = encode(&message, &body).map_err(|e| Over::Lost(format!("a message of our own: {e}")))?;
        out.at = 0;
        Ok(())
    }
}

async fn read_some<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut [u8],
    decoder: &mut Decoder,
) -> Result<(), String> {
    match reader.read(buffer).await {
        Ok(0) => Err("closed by the daemon".into()),
        Ok(n) => {
            decoder.push(&buffer[..n]);
            Ok(())
        }
        Err(e) => Err(format!("receiving: {e}")),
    }
}
