//! The task that has a line: opens it, reads it, writes to it, opens it again.

use super::listener::{Heard, Listener};
use super::ring::{Input, MarkKind, Shared};
use pitstop_drivers::{Console as Driver, DriverError, Line};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Pieces of input that wait for the line.
pub const INPUT: usize = 64;
/// Bytes of one read: what a line gives at once.
const READ: usize = 4096;
/// Shortest and longest pause before a line is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// For so long after somebody expects the line it is tried as often as its
/// driver bears: a machine's line may come to be with its power.
const EAGER: Duration = Duration::from_secs(5);

/// The task of one console.
pub struct Task {
    /// For the log.
    pub name: String,
    pub driver: Result<Arc<dyn Driver>, DriverError>,
    pub shared: Arc<Shared>,
    pub typed: mpsc::Receiver<Input>,
    pub listener: Listener,
    pub tell: Tell,
}

/// Where what was heard goes.
pub type Tell = Box<dyn Fn(Heard) + Send>;

enum Event {
    Read(usize),
    Lost(String),
    Typed(Option<Input>),
    Wrote,
}

impl Task {
    /// Runs until it is aborted.
    pub async fn run(mut self) {
        let driver = match &self.driver {
            Ok(driver) => driver.clone(),
            Err(e) => {
                let words = e.to_string();
                // Whoever expects the line hears that it cannot come.
                loop {
                    self.shared.line(Err(words.clone()));
                    self.shared.kick.notified().await;
                }
            }
        };
        let mut pause = BACK_OFF.0;
        let mut eager_until = Instant::now();
        let mut down_since: Option<Instant> = None;
        let mut last_error = String::new();
        loop {
            let error = match driver.open().await {
                Ok(line) => {
                    tracing::debug!(console = self.name, "open");
                    if let Some(since) = down_since.take() {
                        self.shared.mark(MarkKind::Gap, format!("line down {} s", since.elapsed().as_secs()));
                    }
                    self.shared.line(Ok(()));
                    pause = BACK_OFF.0;
                    let error = self.serve(line).await;
                    down_since = Some(Instant::now());
                    error
                }
                Err(e) => e.to_string(),
            };
            if error != last_error {
                tracing::debug!(console = self.name, "{error}");
                last_error.clone_from(&error);
            }
            self.shared.line(Err(error));
            let wait = if Instant::now() < eager_until { driver.pause() } else { pause };
            if self.rest(wait).await {
                eager_until = Instant::now() + EAGER;
                pause = BACK_OFF.0;
            } else if Instant::now() >= eager_until {
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }

    /// Waits; true: somebody expects the line. What is typed meanwhile is for
    /// a machine that does not listen, and is gone.
    async fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = self.shared.kick.notified() => return true,
                () = tokio::time::sleep_until(until) => return false,
                Some(_) = self.typed.recv() => {}
            }
        }
    }

    /// Serves an open line until it is lost; says why.
    async fn serve(&mut self, mut line: Box<dyn Line>) -> String {
        let mut buf = [0; READ];
        let mut pending: Vec<u8> = Vec::new();
        loop {
            let event = std::future::poll_fn(|cx| self.poll(cx, &mut line, &mut buf, &mut pending)).await;
            match event {
                Event::Read(n) => self.take(&buf[..n]),
                Event::Lost(why) => return why,
                Event::Wrote => {}
                Event::Typed(Some(Input::Keys(keys))) => pending.extend(keys),
                Event::Typed(Some(Input::Break(answer))) => {
                    // Who asked may have left.
                    let _ = answer.send(line.send_break().map_err(|e| e.answer));
                }
                Event::Typed(None) => return "the console is closed".into(),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.shared.push(bytes);
        let boot = self.shared.boots.load(Ordering::Acquire);
        self.listener.hear(boot, bytes).into_iter().for_each(&self.tell);
    }

    /// Reading comes first and never waits for writing: a machine that does
    /// not take input may still have something to say.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        line: &mut Box<dyn Line>,
        buf: &mut [u8],
        pending: &mut Vec<u8>,
    ) -> Poll<Event> {
        let mut space = ReadBuf::new(buf);
        match Pin::new(&mut *line).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) if space.filled().is_empty() => {
                return Poll::Ready(Event::Lost("the line ended".into()));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Event::Read(space.filled().len())),
            Poll::Ready(Err(e)) => return Poll::Ready(Event::Lost(e.to_string())),
            Poll::Pending => {}
        }
        if !pending.is_empty() {
            match Pin::new(&mut *line).poll_write(cx, pending) {
                Poll::Ready(Ok(n)) => {
                    pending.drain(..n);
                    return Poll::Ready(Event::Wrote);
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Event::Lost(e.to_string())),
                Poll::Pending => {}
            }
        } else if let Poll::Ready(Err(e)) = Pin::new(&mut *line).poll_flush(cx) {
            return Poll::Ready(Event::Lost(e.to_string()));
        }
        // A break comes behind the keys that were typed before it.
        if pending.is_empty() { self.typed.poll_recv(cx).map(Event::Typed) } else { Poll::Pending }
    }
}
