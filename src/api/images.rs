//! Images: what machines can be given.

use super::error::{Answer, Refusal, not_found, usage};
use super::extract::{Asked, Params, key};
use super::machines::done;
use super::peer::Peer;
use super::{Shared, view};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use http_body_util::BodyExt;
use pitstop_core::event::{Caller, Request as Ask};
use pitstop_core::id::SecretHash;
use pitstop_core::machine::ImageRef;
use pitstop_image::{AddOptions, ImageStore, Manifest, Seed, SeedChoice, StoreError};
use pitstop_wire::api::{Beat, Done, Image, Images};
use pitstop_wire::{ApiError, Code};
use serde::Deserialize;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces of an upload that wait for the disk.
const AHEAD: usize = 16;
/// How long the next piece of an upload may take.
const STALLED: Duration = Duration::from_secs(60);

/// How long an upload that is refused is still listened to. Who is hung up on
/// while he speaks hears a broken connection and not the reason.
const HEARD_OUT: Duration = Duration::from_secs(30);

/// Images that may be asked for.
pub async fn list(State(app): State<Shared>, _: Peer) -> Answer<Images> {
    Ok(Json(view::status::images(&*app.desk.snapshot().await?)))
}

/// One image.
pub async fn one(State(app): State<Shared>, _: Peer, Path(name): Path<String>) -> Answer<Image> {
    let images = view::status::images(&*app.desk.snapshot().await?).images;
    let near = pitstop_wire::nearest(&name, images.iter().map(|i| i.name.as_str())).map(str::to_owned);
    images.into_iter().find(|i| i.name == name).map(Json).ok_or_else(|| {
        let error = not_found(format!("there is no image `{name}`"));
        Refusal(match near {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint("pitstop image ls"),
        })
    })
}

/// Where the seed area of a new image is; found by itself unless said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddQuery {
    /// `none`, or offset and length in bytes: `1048576,65536`.
    seed: Option<String>,
    /// Let the name stand for this image where it stands for another one.
    #[serde(default)]
    replace: bool,
}

fn seed(query: &AddQuery) -> Result<SeedChoice, Refusal> {
    let Some(text) = query.seed.as_deref() else { return Ok(SeedChoice::Detect) };
    if text == "none" {
        return Ok(SeedChoice::None);
    }
    let numbers = text.split_once(',').and_then(|(o, l)| Some((o.parse().ok()?, l.parse().ok()?)));
    let (offset, len) = numbers
        .ok_or_else(|| usage(format!("`seed={text}` is neither `none` nor OFFSET,LENGTH in bytes")))?;
    Ok(SeedChoice::At(Seed { offset, len }))
}

/// Add an image: the body is the file, raw or zstd.
pub async fn add(
    State(app): State<Shared>,
    Path(name): Path<String>,
    peer: Peer,
    Params(query): Params<AddQuery>,
    request: Request,
) -> Answer<Image> {
    let (head, mut body) = request.into_parts();
    let added = take(&app, &name, &peer, &query, &head.headers, &mut body).await;
    if added.is_err() {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        // Whoever is not done by then has had his chance.
        let _ = tokio::time::timeout(HEARD_OUT, rest).await;
    }
    added?;
    one(State(app), peer, Path(name)).await
}

async fn take(
    app: &Shared,
    name: &str,
    peer: &Peer,
    query: &AddQuery,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<(), Refusal> {
    // Asked before gigabytes are read; the core asks again.
    if !peer.admin {
        return Err(Refusal(ApiError::new(
            Code::NotAllowed,
            format!("only admins may add images; you are {}", peer.user),
        )));
    }
    let key = key(headers)?;
    let options = AddOptions {
        added_unix_ms: app.desk.wall(),
        seed: seed(query)?,
        keep: !query.replace,
        ..AddOptions::default()
    };
    let manifest = store(Arc::clone(&app.images), name.to_owned(), options, body).await?;
    // The same file under the same key is the same request.
    let key = key.map(|key| (key, SecretHash::of(&format!("PUT image {name} {}", manifest.digest))));
    let image = ImageRef {
        name: name.to_owned(),
        digest: manifest.digest.to_string(),
        seed: manifest.seed.map(|s| (s.offset, s.len)),
    };
    let caller = Caller { user: peer.user.clone(), admin: peer.admin, key };
    app.desk.ask(caller, Ask::NameImage { image, bytes: manifest.size }).await?;
    Ok(())
}

/// Feeds the body to the store, which works on a thread of its own.
async fn store(
    images: Arc<ImageStore>,
    name: String,
    options: AddOptions,
    body: &mut Body,
) -> Result<Manifest, Refusal> {
    let (send, pieces) = mpsc::channel(AHEAD);
    let taker = tokio::task::spawn_blocking(move || {
        images.add(&name, Pieces { pieces, now: Bytes::new(), over: false }, &options)
    });
    let fed = async {
        loop {
            match tokio::time::timeout(STALLED, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && send.send(Piece::Data(data)).await.is_err()
                    {
                        return; // the store gave up: it says why
                    }
                }
                Ok(None) => {
                    let _ = send.send(Piece::End).await;
                    return;
                }
                // Without an end the store takes nothing.
                Ok(Some(Err(_))) | Err(_) => return,
            }
        }
    };
    fed.await;
    drop(send);
    let taken =
        taker.await.map_err(|e| ApiError::new(Code::Internal, format!("adding the image died: {e}")))?;
    taken.map_err(|e| refused(&e))
}

fn refused(error: &StoreError) -> Refusal {
    let code = match error {
        StoreError::Name(_)
        | StoreError::Kind
        | StoreError::Empty
        | StoreError::Map(_)
        | StoreError::SeedInUse { .. } => Code::Usage,
        StoreError::Source { .. } => Code::Usage,
        StoreError::Taken { .. } => Code::Conflict,
        StoreError::Unknown(_) | StoreError::Digest { .. } | StoreError::NoSuchChunk { .. } => Code::NotFound,
        StoreError::Io { .. } | StoreError::Damaged { .. } => Code::Internal,
    };
    let refused = ApiError::new(code, format!("the image was not added: {error}"));
    Refusal(match error {
        StoreError::Taken { .. } => refused.hint("--replace takes the name away from it"),
        _ => refused,
    })
}

enum Piece {
    Data(Bytes),
    End,
}

/// The body as the store reads it. An upload that breaks off is an error,
/// not a shorter image.
struct Pieces {
    pieces: mpsc::Receiver<Piece>,
    now: Bytes,
    over: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() && !self.over {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.now = data,
                Some(Piece::End) => self.over = true,
                None => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "the upload broke off",
                    ));
                }
            }
        }
        let n = self.now.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.now.split_to(n));
        Ok(n)
    }
}

/// A suspected image is good after all.
pub async fn trust(State(app): State<Shared>, Path(name): Path<String>, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Ask::TrustImage(name.clone())).await?;
    Ok(done(format!("image {name} is handed out again"), answer))
}

/// Remove an image. Machines that are half-way through writing it finish.
pub async fn remove(State(app): State<Shared>, Path(name): Path<String>, asked: Asked<Beat>) -> Answer<Done> {
    let answer = app.desk.ask(asked.caller, Ask::ForgetImage(name.clone())).await?;
    let (images, forgotten) = (Arc::clone(&app.images), name.clone());
    let removed = tokio::task::spawn_blocking(move || images.remove(&forgotten)).await;
    match removed.map_err(|e| ApiError::new(Code::Internal, format!("removing the image died: {e}")))? {
        // Removed before, by a try whose answer was lost.
        Ok(_) | Err(StoreError::Unknown(_)) => Ok(done(format!("image {name} removed"), answer)),
        Err(error) => Err(refused(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_area_is_none_or_two_numbers() {
        let ask = |text: Option<&str>| seed(&AddQuery { seed: text.map(str::to_owned), replace: false });
        assert!(matches!(ask(None), Ok(SeedChoice::Detect)));
        assert!(matches!(ask(Some("none")), Ok(SeedChoice::None)));
        assert!(matches!(ask(Some("4096,8192")), Ok(SeedChoice::At(Seed { offset: 4096, len: 8192 }))));
        assert!(ask(Some("4096")).is_err() && ask(Some("a,b")).is_err() && ask(Some("-1,2")).is_err());
    }

    #[test]
    fn an_upload_that_breaks_off_is_an_error_and_no_shorter_image() {
        let (send, pieces) = mpsc::channel(4);
        send.try_send(Piece::Data(Bytes::from_static(b"abc"))).ok().unwrap();
        drop(send);
        let mut text = Vec::new();
        let error = Pieces { pieces, now: Bytes::new(), over: false }.read_to_end(&mut text).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
