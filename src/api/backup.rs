//! A copy of the lab's database, taken while everything goes on.

use super::Shared;
use super::error::Refusal;
use super::peer::Peer;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use pitstop_wire::{ApiError, Code};
use std::io;
use tokio_util::io::ReaderStream;

/// Directories of copies in the making, within the data directory: nobody else's begin like this.
pub const PREFIX: &str = ".pitstop-backup-in-the-making-";

/// `GET /backup`: the database as of the newest commit, as one file.
pub async fn backup(State(app): State<Shared>, peer: Peer) -> Result<Response, Refusal> {
    if !peer.admin {
        let text = format!(
            "only admins may take a backup: it holds all that is known of the lab; you are {}",
            peer.user
        );
        return Err(Refusal(ApiError::new(Code::NotAllowed, text)));
    }
    let failed = |e: io::Error| {
        let text = format!("no copy of the database can be made in {}: {e}", app.data.display());
        Refusal(ApiError::new(Code::Internal, text).hint("see that there is room for it"))
    };
    let place = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&app.data).map_err(failed)?;
    let copy = place.path().join("lab.db");
    app.desk.backup(&copy).await?;
    let file = tokio::fs::File::open(&copy).await.map_err(failed)?;
    let bytes = file.metadata().await.map_err(failed)?.len();
    // From here on its name is gone, and itself as soon as it is sent.
    place.close().map_err(failed)?;
    tracing::info!(by = %peer.user, bytes, "a backup was taken");
    let headers = [
        (CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (CONTENT_LENGTH, bytes.to_string()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, 256 << 10))).into_response())
}
