//! Media: CDs that machines' BMCs fetch, in pieces and as often as they like.
//!
//! ```text
//! GET /boot/medium/KEY/agent.iso    the CD of one machine's attempt
//! ```
//!
//! A CD is lent for one attempt, under a key that nobody can guess and that
//! only the BMC is told. Whoever has the key can read the token, so the first
//! address that asks with it is the only one; a request from another means
//! that the key was read by somebody else, and burns the attempt. No log has
//! a key.

use super::{Shop, Source};
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pitstop_core::event::BootAnswer;
use pitstop_drivers::boot::medium::{Medium, SERVED};
use pitstop_wire::MachineName;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_stream::StreamExt as _;

/// What a CD is called: some BMCs want such a name.
const NAME: &str = "agent.iso";
/// Bytes that are read at a time.
const PIECE: u64 = 256 << 10;

/// Every CD that is lent.
#[derive(Debug, Default)]
pub struct Media(Mutex<HashMap<String, Arc<Loan>>>);

/// A CD that is lent for one machine's attempt.
#[derive(Debug)]
pub struct Loan {
    machine: MachineName,
    medium: Medium,
    /// Who asked first.
    to: Mutex<Option<IpAddr>>,
    /// Bytes that were given out, however often.
    given: AtomicU64,
    /// Nobody is given any more of it.
    over: AtomicBool,
}

impl Media {
    /// Lends a CD; the path it is served at from now on. Another one of the
    /// machine's is lent no more.
    ///
    /// # Errors
    /// The kernel has no randomness for a key.
    pub fn lend(&self, machine: &MachineName, medium: Medium) -> io::Result<(String, Arc<Loan>)> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
        let key = hex::encode(key);
        let path = format!("{SERVED}{key}/{NAME}");
        let loan = Arc::new(Loan {
            machine: machine.clone(),
            medium,
            to: Mutex::default(),
            given: AtomicU64::default(),
            over: AtomicBool::default(),
        });
        self.end(machine);
        self.all().insert(key, Arc::clone(&loan));
        Ok((path, loan))
    }

    /// Ends the loan of this machine, if there is one.
    pub fn end(&self, machine: &MachineName) -> Option<Arc<Loan>> {
        let mut all = self.all();
        let key = all.iter().find(|(_, loan)| loan.machine == *machine).map(|(key, _)| key.clone())?;
        let loan = all.remove(&key)?;
        // A transfer that is under way ends, too.
        loan.over.store(true, Ordering::Relaxed);
        Some(loan)
    }

    /// Ends the loans of all other machines.
    pub fn keep(&self, known: impl Fn(&MachineName) -> bool) {
        let gone: Vec<MachineName> =
            self.all().values().map(|loan| &loan.machine).filter(|m| !known(m)).cloned().collect();
        for machine in gone {
            self.end(&machine);
        }
    }

    /// Whether this loan is not over.
    pub fn is_lent(&self, loan: &Arc<Loan>) -> bool {
        self.all().values().any(|other| Arc::ptr_eq(other, loan))
    }

    fn find(&self, key: &str) -> Option<Arc<Loan>> {
        self.all().get(key).cloned()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Loan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    /// The CD.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// How far the fetching has come, as a sentence about the BMC.
    pub fn progress(&self) -> String {
        let to = *self.to();
        match to {
            None => "its BMC has asked this daemon for nothing".to_owned(),
            Some(to) => {
                let (given, whole) = (self.given.load(Ordering::Relaxed), self.medium.bytes());
                format!("its BMC ({to}) was given {given} bytes of a medium of {whole}")
            }
        }
    }

    /// Whether `from` is who asked first, or is so now; else who did.
    fn taken_by(&self, from: IpAddr) -> Result<(), IpAddr> {
        let first = *self.to().get_or_insert(from);
        if first == from { Ok(()) } else { Err(first) }
    }

    fn to(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        if self.over.load(Ordering::Relaxed) {
            return Err(io::Error::other("this medium is lent no more"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.medium.read_at(&mut bytes, at)?;
        self.given.fetch_add(len, Ordering::Relaxed);
        Ok(bytes)
    }
}

pub(super) async fn medium(
    State(shop): State<Arc<Shop>>,
    Extension(Source(from)): Extension<Source>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Response {
    let media = &shop.rigs.media;
    let Some(loan) = media.find(&key) else {
        return (StatusCode::NOT_FOUND, "there is no such medium, or not any more\n").into_response();
    };
    let machine = &loan.machine;
    let rig = shop.rigs.get(machine);
    let own = rig.and_then(|rig| rig.boot().ok().and_then(|boot| boot.asks_from()));
    if let Some(own) = own.filter(|own| *own != from) {
        tracing::warn!(%machine, %from, "asked for its boot medium; only {own} may: nothing was given out");
        return (StatusCode::FORBIDDEN, "this medium is for another address\n").into_response();
    }
    if let Err(first) = loan.taken_by(from) {
        tracing::warn!(%machine, %from, "asked for the boot medium that {first} fetches: the attempt is burned");
        media.end(machine);
        // A second request for an attempt's parameters, which is what burns it.
        if let BootAnswer::NotKnown(why) = shop.front.boot(machine.clone(), false).await {
            tracing::warn!(%machine, "the attempt could not be burned: {why}; its medium is lent no more");
        }
        return (StatusCode::FORBIDDEN, "this medium was lent to another address\n").into_response();
    }
    answer(loan, &key, &headers)
}

fn answer(loan: Arc<Loan>, key: &str, headers: &HeaderMap) -> Response {
    let len = loan.medium.bytes();
    // Of the key, but nobody gets from it to that.
    let etag = format!("\"{}\"", &blake3::hash(key.as_bytes()).to_hex()[..16]);
    let (status, from, until) = match wanted(headers, &etag, len) {
        Wanted::All => (StatusCode::OK, 0, len),
        Wanted::Part(from, until) => (StatusCode::PARTIAL_CONTENT, from, until),
        Wanted::Outside => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{len}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    let range = format!("bytes {from}-{}/{len}", until.saturating_sub(1));
    let pieces = (from..until).step_by(PIECE as usize).map(move |at| (at, PIECE.min(until - at)));
    let body = tokio_stream::iter(pieces).then(move |(at, len)| {
        let loan = Arc::clone(&loan);
        async move {
            // A disk may hang; nothing else must.
            tokio::task::spawn_blocking(move || loan.piece(at, len)).await.map_err(io::Error::other)?
        }
    });
    let head = [
        (header::CONTENT_LENGTH, (until - from).to_string()),
        (header::CONTENT_TYPE, super::OCTETS.to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, etag),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let mut response = (status, head, Body::from_stream(body)).into_response();
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(range) = range.parse()
    {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// What part of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// First byte, and the one behind the last.
    Part(u64, u64),
    /// Nothing of it is there.
    Outside,
}

/// RFC 9110, section 14.2. A header that is not understood, or asks for
/// several parts, may be left out of account.
fn wanted(headers: &HeaderMap, etag: &str, len: u64) -> Wanted {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(range) = text(header::RANGE) else { return Wanted::All };
    // Only if it is still the file that the asker knows (section 13.1.5).
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Wanted::All;
    }
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let Some((from, to)) = range.trim().strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Wanted::All;
    };
    match (number(from), number(to)) {
        (None, Some(last)) if from.is_empty() => match last.min(len) {
            0 => Wanted::Outside,
            last => Wanted::Part(len - last, len),
        },
        (Some(from), None) if to.is_empty() && from < len => Wanted::Part(from, len),
        (Some(from), Some(to)) if from <= to && from < len => {
            Wanted::Part(from, to.saturating_add(1).min(len))
        }
        (Some(from), _) if from >= len && (to.is_empty() || number(to).is_some_and(|to| to >= from)) => {
            Wanted::Outside
        }
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests;
