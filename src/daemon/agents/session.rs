//! One connection of an agent.

use super::hub::{Agents, Cut, Inner, Member, Order, Who, lock};
use super::listen::Limits;
use pitstop_core::event::Report;
use pitstop_image::{Digest, StoredImage};
use pitstop_wire::agent::{FromAgent, Hello, ImageWork, ToAgent, Welcome, Work};
use pitstop_wire::frame::{Decoder, FrameError, encode};
use pitstop_wire::run::{FromRun, ToRun};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a hello, at most.
const MAX_HELLO: usize = 64 << 10;
/// Bytes of anything else that an agent says, at most: output comes in pieces
/// of 64 KiB.
const MAX_MESSAGE: usize = 2 << 20;
/// Fetches that wait to be served; the agent asks for 16 at most.
const FETCHES: usize = 64;
/// Bulk messages that wait to be sent.
const BULK: usize = 4;

/// Anything that TLS runs over, or a pipe in a test.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
pub enum Over {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the connection was closed")]
    Closed,
    #[error("it said nothing for too long")]
    Silent,
    #[error("it sends more than it may: {0}")]
    TooMuch(&'static str),
    #[error("it does not read what it is told")]
    Stuck,
    #[error("it was dismissed")]
    Dismissed,
    #[error("a newer connection took over")]
    Replaced,
}

/// A stranger who said hello.
pub struct Met<S> {
    stream: S,
    incoming: Decoder,
    hello: Hello,
}

/// Waits for the hello.
pub async fn greet<S: Stream>(mut stream: S) -> Result<Met<S>, Over> {
    let mut incoming = Decoder::default();
    let hello = next::<Hello>(&mut stream, &mut incoming, MAX_HELLO).await?.0;
    Ok(Met { stream, incoming, hello })
}

async fn next<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    incoming: &mut Decoder,
    limit: usize,
) -> Result<(M, Vec<u8>), Over> {
    let mut buf = [0; 16 << 10];
    loop {
        if let Some(frame) = incoming.next::<M>()? {
            return Ok((frame.message, frame.body));
        }
        if incoming.pending() > limit {
            return Err(Over::TooMuch("one message is too long"));
        }
        match stream.read(&mut buf).await? {
            0 => return Err(Over::Closed),
            n => incoming.push(&buf[..n]),
        }
    }
}

/// Has the loop decide about the hello, then serves the session to its end.
pub async fn run<S: Stream>(agents: Agents, met: Met<S>, from: IpAddr, limits: Limits) {
    static IDS: AtomicU64 = AtomicU64::new(0);
    let (Hello::Attach { machine, nonce, boot_id, .. } | Hello::Resume { machine, nonce, boot_id, .. }) =
        &met.hello;
    let who = Who { machine: machine.clone(), nonce: nonce.clone(), boot_id: boot_id.clone() };
    let (orders, ordered) = mpsc::unbounded_channel();
    let (runs, to_runs) = mpsc::channel(16);
    let (over, gone) = watch::channel(false);
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let member =
        Member { id, who, orders, cut: watch::Sender::new(None), runs, routes: Arc::default(), gone };
    let inner = agents.inner.clone();
    let (reader, mut writer) = tokio::io::split(met.stream);
    if let Some(reason) = inner.origins.refuse(&met.hello, from) {
        // The loop does not hear of it: the right machine may still come.
        tracing::warn!(machine = %member.who.machine, "an agent was refused: {reason}");
        let welcome = Welcome::Refused { reason, retry: false };
        let _ = timeout(limits.hello, send(&mut writer, &welcome, &[])).await;
        return;
    }
    inner.enter(member.clone());
    let welcome = inner.front.hello(met.hello.clone()).await;
    if let Welcome::Refused { reason, .. } = &welcome {
        tracing::info!(machine = %member.who.machine, "an agent was refused: {reason}");
        inner.refused(&member);
        // He may have hung up meanwhile.
        let _ = timeout(limits.hello, send(&mut writer, &welcome, &[])).await;
        return;
    }
    inner.accepted(&member);
    let sent = timeout(limits.hello, send(&mut writer, &welcome, &[])).await;
    let ended = match sent {
        Err(_) => Over::Silent,
        Ok(Err(e)) => e,
        Ok(Ok(())) => {
            Session::new(inner.clone(), member.clone(), limits)
                .live(reader, met.incoming, writer, ordered, to_runs)
                .await
        }
    };
    tracing::debug!(machine = %member.who.machine, "an agent's connection ended: {ended}");
    inner.left(&member);
    lock(&member.routes).clear();
    over.send_replace(true);
}

async fn send<M: serde::Serialize>(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &M,
    body: &[u8],
) -> Result<(), Over> {
    writer.write_all(&encode(message, body)?).await?;
    Ok(writer.flush().await?)
}

/// Something the agent asked for.
enum Want {
    Map(String),
    Chunk(String, u64),
}

struct Session {
    inner: Arc<Inner>,
    member: Member,
    limits: Limits,
    /// The image that the newest work names: no other is given out.
    image: watch::Sender<Option<String>>,
    /// That image, kept open between two chunks.
    open: Mutex<Option<(Digest, Arc<StoredImage>)>>,
}

impl Session {
    fn new(inner: Arc<Inner>, member: Member, limits: Limits) -> Self {
        Self { inner, member, limits, image: watch::Sender::new(None), open: Mutex::default() }
    }

    /// Until the connection ends, for whatever reason: reading, writing and
    /// serving images go on side by side, so that none holds up another.
    async fn live<S: Stream>(
        self,
        reader: ReadHalf<S>,
        incoming: Decoder,
        writer: WriteHalf<S>,
        ordered: mpsc::UnboundedReceiver<Order>,
        runs: mpsc::Receiver<(ToRun, Vec<u8>)>,
    ) -> Over {
        let (want, wanted) = mpsc::channel(FETCHES);
        let (bulk, to_send) = mpsc::channel(BULK);
        let ended = tokio::select! {
            ended = self.read(reader, incoming, want) => ended,
            ended = self.write(writer, ordered, runs, to_send) => ended,
            () = self.fetch(wanted, bulk) => Ok(()),
            over = self.cut() => Err(over),
        };
        ended.err().unwrap_or(Over::Closed)
    }

    /// Until others end the session.
    async fn cut(&self) -> Over {
        let mut cut = self.member.cut.subscribe();
        let first = cut.wait_for(Option::is_some).await.map(|cut| *cut);
        if let Ok(Some(Cut::Dismissed)) = first {
            // The goodbye is being said; an agent that does not read it is
            // gone all the same.
            let replaced = cut.wait_for(|cut| *cut == Some(Cut::Replaced));
            if timeout(self.limits.hello, replaced).await.is_err() {
                return Over::Dismissed;
            }
        }
        Over::Replaced
    }

    async fn read<S: Stream>(
        &self,
        mut reader: ReadHalf<S>,
        mut incoming: Decoder,
        want: mpsc::Sender<Want>,
    ) -> Result<(), Over> {
        let ask = |w| want.try_send(w).map_err(|_| Over::TooMuch("too many chunks asked for at once"));
        loop {
            let silence = Instant::now() + self.limits.silence;
            let message = timeout_at(silence, next::<FromAgent>(&mut reader, &mut incoming, MAX_MESSAGE));
            let (message, body) = message.await.map_err(|_| Over::Silent)??;
            match message {
                FromAgent::Beat => {}
                FromAgent::Progress { phase, done, total, .. } => {
                    self.inner.progress(&self.member, phase.chars().take(16).collect(), done, total);
                }
                FromAgent::Done { step, outcome } => {
                    self.inner.no_progress(&self.member.who.machine);
                    // No more is taken from it before this is decided: what it
                    // says meanwhile waits with it, not here.
                    self.inner.tell_loop(self.member.who.clone(), Report::Done { step, outcome }).await;
                }
                FromAgent::FetchMap { digest } => ask(Want::Map(digest))?,
                FromAgent::Fetch { digest, index } => ask(Want::Chunk(digest, index))?,
                FromAgent::Run(message) => self.route(message, body),
            }
        }
    }

    /// Hands output to its caller. Nobody waits here: a caller who is too
    /// far behind is cut off, attaches again and gets it from the agent.
    fn route(&self, message: FromRun, body: Vec<u8>) {
        let mut routes = lock(&self.member.routes);
        let id = message.id().to_owned();
        let full = routes.get(&id).is_some_and(|route| route.try_send((message, body)).is_err());
        if full {
            routes.remove(&id);
        }
    }

    async fn write<S: Stream>(
        &self,
        mut writer: WriteHalf<S>,
        mut ordered: mpsc::UnboundedReceiver<Order>,
        mut runs: mpsc::Receiver<(ToRun, Vec<u8>)>,
        mut bulk: mpsc::Receiver<(ToAgent, Vec<u8>)>,
    ) -> Result<(), Over> {
        loop {
            let (message, body, last) = tokio::select! {
                biased;
                Some(order) = ordered.recv() => match order {
                    Order::Say(message) => {
                        self.note(&message);
                        (*message, Vec::new(), false)
                    }
                    Order::Bye(reason) => (ToAgent::Bye { reason }, Vec::new(), true),
                    Order::Replaced => return Err(Over::Replaced),
                },
                Some((message, body)) = runs.recv() => (ToAgent::Run(message), body, false),
                Some((message, body)) = bulk.recv() => (message, body, false),
                else => return Err(Over::Closed),
            };
            let said = async {
                send(&mut writer, &message, &body).await?;
                if last {
                    // A close that TLS knows of, so that the goodbye arrives.
                    writer.shutdown().await?;
                }
                Ok::<(), Over>(())
            };
            // One that beats but does not read would have us keep all that it
            // is to be told.
            timeout(self.limits.say, said).await.map_err(|_| Over::Stuck)??;
            if last {
                return Err(Over::Dismissed);
            }
        }
    }

    fn note(&self, message: &ToAgent) {
        if let ToAgent::Do { work: Work::Image(ImageWork { digest, .. }), .. } = message {
            self.image.send_replace(digest.clone());
        }
    }

    /// Serves maps and chunks, one after the other, in the order asked for.
    async fn fetch(&self, mut wanted: mpsc::Receiver<Want>, bulk: mpsc::Sender<(ToAgent, Vec<u8>)>) {
        let mut image = self.image.subscribe();
        while let Some(want) = wanted.recv().await {
            let (Want::Map(asked) | Want::Chunk(asked, _)) = &want;
            // An agent that resumes asks for chunks before its work is told
            // to this connection again: wait for that.
            let current = match image.wait_for(Option::is_some).await {
                Ok(current) => current.clone(),
                Err(_) => return,
            };
            let answer = if current.as_ref() == Some(asked) {
                self.look_up(&want).await
            } else {
                Err("this is not the image of your work".to_owned())
            };
            let frame = match (want, answer) {
                (Want::Map(digest), Ok(bytes)) => (ToAgent::Map { digest }, bytes),
                (Want::Chunk(digest, index), Ok(bytes)) => (ToAgent::Chunk { digest, index }, bytes),
                (Want::Map(digest), Err(reason)) => {
                    (ToAgent::NoChunk { digest, index: None, reason }, Vec::new())
                }
                (Want::Chunk(digest, index), Err(reason)) => {
                    (ToAgent::NoChunk { digest, index: Some(index), reason }, Vec::new())
                }
            };
            if bulk.send(frame).await.is_err() {
                return;
            }
        }
    }

    async fn look_up(&self, want: &Want) -> Result<Vec<u8>, String> {
        let (Want::Map(digest) | Want::Chunk(digest, _)) = want;
        let digest: Digest = digest.parse().map_err(|e: pitstop_image::ParseDigestError| e.to_string())?;
        let index = match want {
            Want::Map(_) => None,
            Want::Chunk(_, index) => Some(*index),
        };
        let images = self.inner.images.clone();
        let open = lock(&self.open).clone().filter(|(have, _)| *have == digest).map(|(_, image)| image);
        let read = move || -> Result<(Arc<StoredImage>, Vec<u8>), String> {
            let image = open.map_or_else(|| images.open_image(&digest), Ok).map_err(|e| e.to_string())?;
            let bytes = match index {
                None => image.map().encode(),
                Some(index) => image.chunk(index).map_err(|e| e.to_string())?,
            };
            Ok((image, bytes))
        };
        let (image, bytes) = self.inner.pool.run(read).await.ok_or("the daemon is stopping")??;
        *lock(&self.open) = Some((digest, image));
        if bytes.len() > pitstop_wire::frame::MAX_FRAME - (64 << 10) {
            return Err(format!("it has {} bytes, more than one message carries", bytes.len()));
        }
        Ok(bytes)
    }
}
