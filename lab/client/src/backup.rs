//! A copy of the lab's database: the one answer that is larger than memory.

use crate::http::{Call, Failed};
use crate::{Client, Result};
use http_body_util::BodyExt;
use pitstop_wire::{ApiError, Code};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How long the next piece may take.
const STALLED: Duration = Duration::from_secs(60);

impl Client {
    /// Writes the database, as of the newest commit, to `to`. Answers with how
    /// many bytes it has.
    ///
    /// # Errors
    /// Where the daemon refuses or stops in the middle, or `to` takes no more.
    pub async fn backup<W: AsyncWrite + Unpin>(&self, to: &mut W) -> Result<u64> {
        let call = Call::get("/backup");
        let response = self.open(&call).await.map_err(|e| e.into_api(&call))?;
        let mut body = response.into_body();
        let mut bytes = 0;
        loop {
            let lost = |what: String| Failed::Lost(what).into_api(&call);
            let piece = tokio::time::timeout(STALLED, body.frame()).await;
            let piece = piece.map_err(|_| lost(format!("nothing came for {} s", STALLED.as_secs())))?;
            // A body that ends too early is an error here: its length was told.
            let Some(piece) = piece else { break };
            let Ok(data) = piece.map_err(|e| lost(e.to_string()))?.into_data() else { continue };
            to.write_all(&data).await.map_err(unwritten)?;
            bytes += data.len() as u64;
        }
        to.flush().await.map_err(unwritten)?;
        Ok(bytes)
    }
}

fn unwritten(error: std::io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("the backup cannot be written: {error}"))
}
