//! Where the writer gets its chunks from.

use std::io::{self, Read};

use crate::codec::max_stored_len;

/// Why a chunk could not be had. The caller decides whether to try again; the
/// device is untouched by this chunk.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Reading failed; also an early end of the stream.
    #[error("reading chunk {index}: {source}")]
    Io {
        /// The chunk asked for.
        index: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// The source answers something else than was asked.
    #[error("asked for chunk {index}: {why}")]
    Protocol {
        /// The chunk asked for.
        index: u64,
        /// What is wrong with the answer.
        why: String,
    },
    /// There is no such chunk.
    #[error("the source does not have chunk {0}")]
    Absent(u64),
}

/// Gives the stored (compressed) bytes of chunks.
///
/// A plain write asks for data chunks only, in rising order, each once; a
/// differential one leaves out those the device already holds.
pub trait ChunkSource {
    /// Puts the stored bytes of chunk `index` into `out`, which is empty, and
    /// not more than `limit` of them.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn fetch(&mut self, index: u64, limit: usize, out: &mut Vec<u8>) -> Result<(), SourceError>;
}

/// Bytes before each frame in a stream of frames: chunk index and length of
/// what follows, both u32 little-endian.
pub const FRAME_HEADER: usize = 8;

pub(crate) fn frame_header(index: u32, len: u32) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&index.to_le_bytes());
    header[4..].copy_from_slice(&len.to_le_bytes());
    header
}

/// Chunks from one stream as [`StoredImage::frames`](crate::StoredImage::frames)
/// makes it: one request feeds a whole image. Frames the writer does not ask
/// for are passed over.
pub struct FramedSource<R> {
    stream: R,
    max_frame: usize,
}

impl<R: Read> FramedSource<R> {
    /// Reads frames of an image with chunks of `chunk` bytes.
    pub const fn new(stream: R, chunk: u32) -> Self {
        Self { stream, max_frame: max_stored_len(chunk) }
    }

    /// The stream back.
    pub fn into_inner(self) -> R {
        self.stream
    }
}

impl<R: Read> ChunkSource for FramedSource<R> {
    fn fetch(&mut self, index: u64, limit: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let io = |source| SourceError::Io { index, source };
        let limit = limit.min(self.max_frame);
        loop {
            let mut header = [0u8; FRAME_HEADER];
            self.stream.read_exact(&mut header).map_err(io)?;
            let [a, b, c, d, e, f, g, h] = header;
            let got = u64::from(u32::from_le_bytes([a, b, c, d]));
            let len = u32::from_le_bytes([e, f, g, h]) as usize;
            if got > index {
                let why = format!("the stream is already at chunk {got}");
                return Err(SourceError::Protocol { index, why });
            }
            if len > limit {
                let why = format!("a frame of {len} bytes is more than the {limit} allowed");
                return Err(SourceError::Protocol { index, why });
            }
            out.clear();
            out.resize(len, 0);
            self.stream.read_exact(out).map_err(io)?;
            if got == index {
                return Ok(());
            }
        }
    }
}
