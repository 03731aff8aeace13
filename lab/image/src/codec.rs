//! One chunk, one zstd frame: small enough to check, fetch and retry alone.

use std::io;

/// Good ratio at a cost that hides behind reading the source file.
const LEVEL: i32 = 3;

/// The most bytes an honest store keeps for a chunk of `chunk` bytes.
///
/// zstd's own worst case is input + 1/256 + 64; whoever sends more is refused
/// before a byte is decompressed.
#[must_use]
pub const fn max_stored_len(chunk: u32) -> usize {
    let chunk = chunk as usize;
    chunk + chunk / 128 + 512
}

pub(crate) struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    pub(crate) fn new() -> io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    pub(crate) fn compress(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(chunk)
    }
}

pub(crate) struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    pub(crate) fn new() -> io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// Fills `out` exactly and checks it against `hash`. What the frame claims
    /// about its own size is never believed: `out` is the bound.
    pub(crate) fn decompress(
        &mut self,
        stored: &[u8],
        out: &mut [u8],
        hash: &[u8; 32],
    ) -> Result<(), BadChunk> {
        let expected = out.len();
        let got = self
            .0
            .decompress_to_buffer(stored, out)
            .map_err(|e| BadChunk(format!("it does not decompress to {expected} bytes: {e}")))?;
        if got != expected {
            return Err(BadChunk(format!("it holds {got} bytes instead of {expected}")));
        }
        if blake3::hash(out).as_bytes() != hash {
            return Err(BadChunk("its hash is not the one in the block map".into()));
        }
        Ok(())
    }
}

/// Why a stored chunk is not the one the map names.
#[derive(Debug)]
pub(crate) struct BadChunk(pub(crate) String);
