//! A console, followed across lost connections.

use crate::frames::{FrameReader, write_frame};
use crate::http::Call;
use crate::retry::{Retry, worth_another_try};
use crate::{Client, Result};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pitstop_wire::api::ConsoleRequest;
use pitstop_wire::console::{FromConsole, ToConsole};
use pitstop_wire::frame::Frame;
use pitstop_wire::{ApiError, Code};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

type Io = TokioIo<Upgraded>;

/// Keys that wait to be sent. A line takes a few thousand a second.
const AHEAD: usize = 64;

/// An attached console. Comes back where it was after a lost connection.
pub struct ConsoleLink {
    client: Client,
    machine: String,
    ask: ConsoleRequest,
    reader: FrameReader<ReadHalf<Io>>,
    keys: mpsc::Sender<(ToConsole, Vec<u8>)>,
    over: bool,
}

impl Client {
    /// Attaches to a console.
    ///
    /// # Errors
    /// Where the daemon refuses or cannot be reached.
    pub async fn console(&self, machine: &str, ask: ConsoleRequest) -> Result<ConsoleLink> {
        let (reader, keys) = attach(self, machine, &ask).await?;
        let (client, machine) = (self.clone(), machine.to_owned());
        Ok(ConsoleLink { client, machine, ask, reader, keys, over: false })
    }
}

impl ConsoleLink {
    /// The next thing to show; `None` at the end.
    ///
    /// # Errors
    /// Where the daemon stays away for longer than the client's patience.
    pub async fn next(&mut self) -> Result<Option<Frame<FromConsole>>> {
        loop {
            match self.reader.next::<FromConsole>().await {
                Ok(Some(frame)) => {
                    self.note(&frame);
                    return Ok(Some(frame));
                }
                _ if self.over => return Ok(None),
                Ok(None) | Err(_) => {
                    let (reader, keys) = attach(&self.client, &self.machine, &self.ask).await?;
                    (self.reader, self.keys) = (reader, keys);
                }
            }
        }
    }

    /// Says something to the console. What is said while the connection is
    /// lost is lost: keys typed blindly may mean something else by then.
    pub async fn say(&self, message: ToConsole, body: Vec<u8>) {
        let _ = self.keys.send((message, body)).await;
    }

    /// Nothing more will be said: what was said goes out, the daemon closes,
    /// and [`next`](Self::next) gives what comes until then.
    pub fn finish(&mut self) {
        self.over = true;
        self.keys = mpsc::channel(1).0;
    }

    /// Where to go on, and with which seat.
    fn note(&mut self, frame: &Frame<FromConsole>) {
        match &frame.message {
            FromConsole::Attached { position, .. } | FromConsole::Skipped { position, .. } => {
                self.ask.from = Some(*position);
            }
            FromConsole::Output { position } => self.ask.from = Some(position + frame.body.len() as u64),
            FromConsole::Seats { you, .. } => {
                self.ask.write = *you;
                self.ask.steal = false;
            }
            FromConsole::Replayed => self.over |= self.ask.no_follow,
            FromConsole::Closed { .. } => self.over = true,
            FromConsole::Time { .. } | FromConsole::Mark { .. } | FromConsole::Refused { .. } => {}
        }
    }
}

async fn attach(
    client: &Client,
    machine: &str,
    ask: &ConsoleRequest,
) -> Result<(FrameReader<ReadHalf<Io>>, mpsc::Sender<(ToConsole, Vec<u8>)>)> {
    let path = format!("/machines/{}/console", crate::calls::escaped(machine));
    let call = Call::post(path, ask)?.upgrade();
    let mut retry = Retry::new(client.patience());
    let response = loop {
        match client.open(&call).await {
            Ok(response) => break response,
            Err(error) => {
                if !worth_another_try(&error) || !client.met() || !retry.pause(&error).await {
                    return Err(error.into_api(&call));
                }
            }
        }
    };
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded =
        upgraded.map_err(|e| ApiError::new(Code::NotKnown, format!("the upgrade to frames failed: {e}")))?;
    let (reader, writer) = split(TokioIo::new(upgraded));
    Ok((FrameReader::new(reader), spawn_writer(writer)))
}

/// Sends in a task of its own: a line that takes no keys must not keep what
/// the machine says from being shown.
fn spawn_writer(mut writer: WriteHalf<Io>) -> mpsc::Sender<(ToConsole, Vec<u8>)> {
    let (keys, mut typed) = mpsc::channel::<(ToConsole, Vec<u8>)>(AHEAD);
    tokio::spawn(async move {
        while let Some((message, body)) = typed.recv().await {
            if write_frame(&mut writer, &message, &body).await.is_err() {
                return; // the reader notices
            }
        }
        let _ = writer.shutdown().await;
    });
    keys
}
