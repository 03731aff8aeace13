//! Watchers: one for each console of whatever server it is.

use super::now;
use super::records::{Arrived, Scanner};
use anyhow::{Context, Result, bail, ensure};
use pitstop_client::api::ConsoleRequest;
use pitstop_client::{Client, ConsoleLink};
use pitstop_wire::console::{FromConsole, ToConsole};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How a console is attached to.
#[derive(Debug, Clone)]
pub enum Place {
    /// Console `i` is at this port + `i`, bytes and nothing else.
    Tcp(u16),
    /// The master of a conserver.
    Conserver(u16),
    /// The socket of a pitstop.
    Pitstop(PathBuf),
}

/// What all watchers saw.
#[derive(Default)]
pub struct Seen {
    pub consoles: Vec<Arrived>,
    /// From being said to being read, in ms.
    pub byte_ms: Vec<f64>,
    /// From a key to its answer, in ms.
    pub key_ms: Vec<f64>,
    pub keys_lost: u32,
    /// When the key was typed that is waited for.
    typed: Option<u64>,
    /// When something arrived last.
    pub last: u64,
}

impl Seen {
    /// Nothing yet, of so many consoles.
    pub fn of(consoles: usize) -> Self {
        Self { consoles: vec![Arrived::default(); consoles], ..Self::default() }
    }
}

/// A handle to it.
pub type Book = Arc<Mutex<Seen>>;

/// Looks at what all watchers saw.
pub fn look<T>(book: &Book, at: impl FnOnce(&mut Seen) -> T) -> T {
    at(&mut book.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An attached console.
pub enum Link {
    Bytes(TcpStream),
    Frames(Box<ConsoleLink>),
}

impl Place {
    /// Attaches; `write`: with the keyboard.
    pub async fn attach(&self, console: usize, write: bool) -> Result<Link> {
        match self {
            Self::Tcp(base) => Ok(Link::Bytes(dial(*base + u16::try_from(console)?).await?)),
            Self::Conserver(port) => Ok(Link::Bytes(call(*port, console).await?)),
            Self::Pitstop(socket) => {
                let client = Client::new(socket);
                // Nothing of the past: there is none.
                let ask = ConsoleRequest { write, last: Some(0), ..ConsoleRequest::default() };
                let mut link = client.console(&machine(console), ask).await?;
                loop {
                    let frame = link.next().await?.context("the console is closed")?;
                    if matches!(frame.message, FromConsole::Seats { down: None, .. }) {
                        return Ok(Link::Frames(Box::new(link)));
                    }
                }
            }
        }
    }
}

/// Name of the machine with this console.
pub fn machine(console: usize) -> String {
    format!("m{console:04}")
}

async fn dial(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Attaches as conserver's own client does: its master says at which port the
/// console is. `^Ec;` there means that we are ready for the bytes.
async fn call(master: u16, console: usize) -> Result<TcpStream> {
    let (port, _) = ask(master, console).await?;
    let port: u16 = port.trim().parse().with_context(|| format!("conserver: {port}"))?;
    let (attached, mut stream) = ask(port, console).await?;
    ensure!(attached.starts_with('['), "conserver: {attached}");
    stream.write_all(b"\x05c;").await?;
    Ok(stream)
}

async fn ask(port: u16, console: usize) -> Result<(String, TcpStream)> {
    // Read byte by byte: what follows the answer belongs to the console.
    let mut stream = BufReader::with_capacity(1, dial(port).await?);
    let mut answer = String::new();
    for word in ["", "login bench", &format!("call c{console}")] {
        if !word.is_empty() {
            stream.write_all(format!("{word}\r\n").as_bytes()).await?;
        }
        answer.clear();
        stream.read_line(&mut answer).await?;
        if answer.is_empty() {
            bail!("conserver hung up");
        }
    }
    Ok((answer, stream.into_inner()))
}

/// Reads a console until it is aborted, and types what comes by `keys`.
pub async fn follow(console: usize, mut link: Link, book: Book, mut keys: Option<mpsc::Receiver<()>>) {
    let mut scanner = Scanner::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        tokio::select! {
            bytes = link.next(&mut buffer) => match bytes {
                Some(bytes) => note(console, bytes, &mut scanner, &book),
                None => return,
            },
            Some(()) = next(&mut keys) => {
                look(&book, |seen| seen.typed = Some(now()));
                link.type_in().await;
            }
        }
    }
}

async fn next(keys: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match keys {
        Some(keys) => keys.recv().await,
        None => None,
    }
}

impl Link {
    async fn next<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        match self {
            Self::Bytes(stream) => {
                let n = stream.read(buffer).await.ok().filter(|n| *n > 0)?;
                Some(&buffer[..n])
            }
            Self::Frames(link) => loop {
                let frame = link.next().await.ok()??;
                if matches!(frame.message, FromConsole::Output { .. }) {
                    *buffer = frame.body;
                    return Some(buffer);
                }
            },
        }
    }

    async fn type_in(&mut self) {
        match self {
            // A broken link shows as lost keys.
            Self::Bytes(stream) => drop(stream.write_all(b"k").await),
            Self::Frames(link) => link.say(ToConsole::Input, b"k".to_vec()).await,
        }
    }
}

fn note(console: usize, bytes: &[u8], scanner: &mut Scanner, book: &Book) {
    let read = now();
    let ms = |since: u64| read.saturating_sub(since) as f64 / 1e6;
    look(book, |seen| {
        seen.last = read;
        scanner.feed(bytes, |record| {
            if !record.answer {
                seen.consoles[console].count(console as u32, &record);
                seen.byte_ms.push(ms(record.said));
            } else if let Some(typed) = seen.typed.take() {
                seen.key_ms.push(ms(typed));
            }
        });
    });
}

/// Types a key now and then, as long as the one before was answered.
pub async fn probe(keys: mpsc::Sender<()>, book: Book) {
    const PAUSE: Duration = Duration::from_millis(50);
    const LOST_NS: u64 = 1_000_000_000;
    loop {
        tokio::time::sleep(PAUSE).await;
        let waits = look(&book, |seen| {
            let lost = seen.typed.take_if(|typed| now() - *typed > LOST_NS).is_some();
            seen.keys_lost += u32::from(lost);
            seen.typed.is_some()
        });
        if !waits && keys.send(()).await.is_err() {
            return;
        }
    }
}

/// What the journal of a console has, as a client reads it.
pub async fn journal(socket: &PathBuf, console: usize) -> Result<Arrived> {
    let ask = ConsoleRequest { from: Some(0), no_follow: true, ..ConsoleRequest::default() };
    let mut link = Client::new(socket).console(&machine(console), ask).await?;
    let (mut arrived, mut scanner) = (Arrived::default(), Scanner::default());
    while let Some(frame) = link.next().await? {
        match frame.message {
            FromConsole::Output { .. } => scanner.feed(&frame.body, |record| {
                if !record.answer {
                    arrived.count(console as u32, &record);
                }
            }),
            FromConsole::Replayed => break,
            _ => {}
        }
    }
    Ok(arrived)
}
