//! Frames over an upgraded connection; also what the daemon's end uses.

use pitstop_wire::frame::{Decoder, Frame, FrameError, encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Why a framed connection is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection broke or was closed.
    #[error("the connection was lost: {0}")]
    Lost(#[from] std::io::Error),
    /// What arrived is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The reading half.
pub struct FrameReader<R> {
    inner: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, decoder: Decoder::default(), buffer: vec![0; 64 << 10] }
    }

    /// The next frame; `None` at the end. May be dropped and called again
    /// without losing a byte.
    ///
    /// # Errors
    /// [`LinkError`]; the connection is of no use after it.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, LinkError> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let n = self.inner.read(&mut self.buffer).await?;
            if n == 0 {
                return Ok(None);
            }
            self.decoder.push(&self.buffer[..n]);
        }
    }
}

/// Writes one frame.
///
/// # Errors
/// [`LinkError`] where the message is too long or the connection is lost.
pub async fn write_frame<W, M>(to: &mut W, message: &M, body: &[u8]) -> Result<(), LinkError>
where
    W: AsyncWrite + Unpin,
    M: Serialize,
{
    to.write_all(&encode(message, body)?).await?;
    to.flush().await?;
    Ok(())
}
