//! What handlers take out of a request: the caller with its idempotency key,
//! a body, a query, a name. Every refusal says where and what.

use super::body::{did_you_mean, read_body};
use super::error::{Refusal, usage};
use super::peer::{Peer, PeerResult};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use pitstop_core::event::Caller;
use pitstop_core::id::{ReservationId, SecretHash};
use pitstop_wire::api::{IDEMPOTENCY_KEY, MAX_KEY};
use pitstop_wire::text::brief;
use pitstop_wire::{ApiError, Code, MachineName};
use serde::de::DeserializeOwned;
use std::collections::HashMap;

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match parts.extensions.get::<PeerResult>().map(AsRef::as_ref) {
            Some(Ok(peer)) => Ok(peer.clone()),
            Some(Err(error)) => Err(Refusal(error.clone())),
            None => Err(Refusal(ApiError::new(Code::NotAllowed, "nobody is logged in on this connection"))),
        }
    }
}

/// A mutation: who asks, under which key, with which body.
pub struct Asked<T> {
    /// Who.
    pub caller: Caller,
    /// The body.
    pub body: T,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let peer = Peer::from_request_parts(&mut parts, state).await?;
        let method = parts.method.clone();
        let path = parts.uri.path().to_owned();
        let key = key(&parts.headers)?;
        let bytes = Bytes::from_request(Request::from_parts(parts, body), state)
            .await
            .map_err(|e| usage(format!("the body cannot be read: {}", e.body_text())))?;
        // The request that a key stands for: what is asked of what.
        let key = key.map(|key| {
            let mut text = format!("{method} {path}\n");
            text.push_str(&String::from_utf8_lossy(&bytes));
            (key, SecretHash::of(&text))
        });
        let body = read_body(&bytes).map_err(Refusal)?;
        Ok(Self { caller: Caller { user: peer.user, admin: peer.admin, key }, body })
    }
}

/// The idempotency key of a request.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().map(str::to_owned).unwrap_or_default();
    if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(usage(format!("an idempotency key is 1 to {MAX_KEY} visible ASCII characters")));
    }
    Ok(Some(key))
}

/// A query string.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|e| {
            let text = e.body_text();
            let what = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            let error = ApiError::new(Code::Usage, format!("in the query string: {}", brief(what, 500)));
            let unknown = what.find("unknown ").and_then(|at| did_you_mean(&what[at..]));
            Refusal(match unknown {
                Some(word) => error.hint(format!("did you mean `{word}`?")),
                None => error,
            })
        })
    }
}

async fn part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Refusal> {
    let Path(mut map) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|e| usage(format!("in the path: {}", e.body_text())))?;
    map.remove(name).ok_or_else(|| Refusal(ApiError::new(Code::Internal, format!("this path has no {name}"))))
}

/// The machine in a path.
pub struct Name(pub MachineName);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = part(parts, state, "name").await?;
        MachineName::new(&text).map(Self).map_err(|e| usage(e.to_string()))
    }
}

/// The reservation in a path.
pub struct Id(pub ReservationId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        part(parts, state, "id").await?.parse().map(Self).map_err(usage)
    }
}
