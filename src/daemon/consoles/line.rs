//! The task that has a line: opens it, reads it, writes to it, opens it again.

use super::listener::{Heard, Listener};
use super::ring::{Input, MarkKind, Shared, Typed};
use pitstop_drivers::{Console as Driver, DriverError, Line};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::futures::Notified;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// Pieces of input that wait for the line.
pub const INPUT: usize = 64;
/// Bytes of one read: what a line gives at once.
const READ: usize = 4096;
/// Shortest and longest pause before a line is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// For so long after somebody expects the line it is tried as often as its
/// driver bears: a machine's line may come to be with its power.
const EAGER: Duration = Duration::from_secs(5);
/// A line that was just opened may give what it kept: until it is silent for
/// so long, and for so long at most.
const KEPT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The task of one console.
pub struct Task {
    /// For the log.
    pub name: String,
    pub driver: Result<Arc<dyn Driver>, DriverError>,
    pub shared: Arc<Shared>,
    pub typed: mpsc::Receiver<Typed>,
    pub listener: Listener,
    pub tell: Tell,
}

/// Where what was heard goes.
pub type Tell = Box<dyn Fn(Heard) + Send>;

enum Event {
    Read(usize),
    Lost(String),
    Typed(Option<Typed>),
    Wrote,
    /// What is said from here on was not said before.
    Empty,
}

/// An open line.
struct Open {
    line: Box<dyn Line>,
    /// Typed, and not taken by the line yet.
    pending: Vec<u8>,
    /// In which turn of owners.
    turn: u64,
    /// Until what comes counts as kept from before.
    kept: Option<Kept>,
    /// Whether that may be what was said already.
    repeats: bool,
}

/// What comes may have waited somewhere.
struct Kept {
    quiet: Duration,
    latest: Instant,
    silent: Pin<Box<Sleep>>,
}

impl Kept {
    fn begin(quiet: Duration) -> Self {
        let silent = Box::pin(tokio::time::sleep(quiet));
        Self { quiet, latest: Instant::now() + KEPT.1, silent }
    }

    /// Something came; whether it may still be kept.
    fn heard(&mut self) -> bool {
        let now = Instant::now();
        self.silent.as_mut().reset(self.latest.min(now + self.quiet));
        now < self.latest
    }
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
                    let error = self.serve(line, driver.repeats()).await;
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
    async fn serve(&mut self, line: Box<dyn Line>, repeats: bool) -> String {
        let shared = self.shared.clone();
        let mut sealed = std::pin::pin!(shared.seal.notified());
        if repeats {
            shared.repeats();
        }
        let kept = shared.sealed.load(Ordering::Acquire).then(|| Kept::begin(KEPT.0));
        let mut open = Open { line, pending: Vec::new(), turn: 0, kept, repeats };
        let mut buf = [0; READ];
        loop {
            let event =
                std::future::poll_fn(|cx| self.poll(cx, &mut open, &mut buf, sealed.as_mut(), &shared)).await;
            match event {
                Event::Read(n) => self.take(&buf[..n], &mut open),
                Event::Empty => open.empty(&shared),
                Event::Lost(why) => return why,
                Event::Wrote => {}
                Event::Typed(Some(typed)) => self.typed(typed, &mut open),
                Event::Typed(None) => return "the console is closed".into(),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], open: &mut Open) {
        self.shared.push(bytes);
        // What was said in another boot means nothing in this one.
        if !open.repeats {
            let boot = self.shared.boots.load(Ordering::Acquire);
            self.listener.hear(boot, bytes).into_iter().for_each(&self.tell);
        }
        if self.shared.sealed.load(Ordering::Acquire) {
            // A line that is never empty must be somebody's all the same.
            let kept = open.kept.get_or_insert_with(|| Kept::begin(Duration::ZERO));
            if !kept.heard() {
                open.empty(&self.shared);
            }
        }
    }

    fn typed(&self, Typed { turn, input }: Typed, open: &mut Open) {
        let ours = turn == self.shared.turns.load(Ordering::Acquire);
        match input {
            Input::Keys(keys) if ours => {
                open.turn = turn;
                open.pending.extend(keys);
            }
            Input::Keys(_) => {}
            // Who asked may have left.
            Input::Break(answer) if ours => drop(answer.send(open.line.send_break().map_err(|e| e.answer))),
            Input::Break(answer) => drop(answer.send(Err("the machine changed hands".into()))),
        }
    }

    /// Reading comes first and never waits for writing: a machine that does
    /// not take input may still have something to say.
    fn poll<'s>(
        &mut self,
        cx: &mut Context<'_>,
        open: &mut Open,
        buf: &mut [u8],
        mut sealed: Pin<&mut Notified<'s>>,
        shared: &'s Shared,
    ) -> Poll<Event> {
        let mut space = ReadBuf::new(buf);
        match Pin::new(&mut open.line).poll_read(cx, &mut space) {
            Poll::Ready(Ok(())) if space.filled().is_empty() => {
                return Poll::Ready(Event::Lost("the line ended".into()));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Event::Read(space.filled().len())),
            Poll::Ready(Err(e)) => return Poll::Ready(Event::Lost(e.to_string())),
            Poll::Pending => {}
        }
        while sealed.as_mut().poll(cx).is_ready() {
            sealed.set(shared.seal.notified());
        }
        if shared.sealed.load(Ordering::Acquire) && open.is_empty(cx) {
            return Poll::Ready(Event::Empty);
        }
        if open.turn != shared.turns.load(Ordering::Acquire) {
            open.pending.clear();
        }
        if !open.pending.is_empty() {
            match Pin::new(&mut open.line).poll_write(cx, &open.pending) {
                Poll::Ready(Ok(n)) => {
                    open.pending.drain(..n);
                    return Poll::Ready(Event::Wrote);
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Event::Lost(e.to_string())),
                Poll::Pending => {}
            }
        } else if let Poll::Ready(Err(e)) = Pin::new(&mut open.line).poll_flush(cx) {
            return Poll::Ready(Event::Lost(e.to_string()));
        }
        // A break comes behind the keys that were typed before it.
        if open.pending.is_empty() { self.typed.poll_recv(cx).map(Event::Typed) } else { Poll::Pending }
    }
}

impl Open {
    /// Whether nothing that was kept is left, now that there is nothing to read.
    fn is_empty(&mut self, cx: &mut Context<'_>) -> bool {
        self.kept.as_mut().is_none_or(|kept| kept.silent.as_mut().poll(cx).is_ready())
    }

    fn empty(&mut self, shared: &Shared) {
        self.kept = None;
        self.repeats = false;
        shared.unseal();
    }
}
