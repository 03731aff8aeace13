//! The block map: what an image holds, chunk by chunk, and its name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Chunk length unless the caller says otherwise: 1 MiB.
pub const DEFAULT_CHUNK: u32 = 1 << 20;
/// Shortest chunk length, 4 KiB.
pub const MIN_CHUNK: u32 = 4 << 10;
/// Longest chunk length, 16 MiB.
pub const MAX_CHUNK: u32 = 16 << 20;
/// Most chunks in a map: 1 TiB at the default length, 16 TiB at the longest.
/// It bounds what a map costs in memory, whoever sent it.
pub const MAX_CHUNKS: u64 = 1 << 20;
/// Longest image, 16 TiB.
pub const MAX_IMAGE_SIZE: u64 = 16 << 40;
/// Shortest seed area, one block.
pub const MIN_SEED: u64 = 512;
/// Longest seed area, 16 MiB.
pub const MAX_SEED: u64 = 16 << 20;

const MAGIC: &[u8; 8] = b"PITMAP\x00\x01";
/// Magic, size, chunk length, seed offset, seed length.
const HEADER: usize = 8 + 8 + 4 + 8 + 8;
const TAG_ZERO: u8 = 0;
const TAG_DATA: u8 = 1;

/// Longest encoding of a map, in bytes: a bound for whoever receives one.
pub const MAX_ENCODED_MAP: usize = HEADER + 33 * MAX_CHUNKS as usize;

/// The name of an image's content: BLAKE3 over its encoded block map, written
/// `b3:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest from its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the prefix, fit for a file name.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an image digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an image digest: expected \"b3:\" and 64 lower-case hex digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let digits = text.strip_prefix("b3:").ok_or(ParseDigestError)?;
        // One spelling per digest, so that text can be compared as text.
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseDigestError);
        }
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseDigestError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One chunk of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// All bytes are zero; nothing is stored or sent.
    Zero,
    /// Content with this BLAKE3 hash (of the uncompressed bytes).
    Data([u8; 32]),
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("Zero"),
            Self::Data(hash) => write!(f, "Data({}…)", hex::encode(&hash[..4])),
        }
    }
}

/// Where the boot agent leaves its record for the host agent, in bytes from
/// the start of the image.
///
/// The area is zero in the image, so its later content is no part of the
/// digest, and the proof is made before the record is written. Its *place* is
/// part of the digest: whoever holds the right map cannot be told to write the
/// record over something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Start, a multiple of 512.
    pub offset: u64,
    /// Length, a multiple of 512, between [`MIN_SEED`] and [`MAX_SEED`].
    pub len: u64,
}

impl Seed {
    /// Checks the bounds against an image or device of `size` bytes.
    ///
    /// # Errors
    /// [`MapError::Seed`] naming the broken rule.
    pub fn check(&self, size: u64) -> Result<(), MapError> {
        let bad = |why| Err(MapError::Seed { offset: self.offset, len: self.len, why });
        if self.len < MIN_SEED || self.len > MAX_SEED {
            return bad("its length is not between 512 bytes and 16 MiB");
        }
        if !self.offset.is_multiple_of(512) || !self.len.is_multiple_of(512) {
            return bad("it does not start and end at multiples of 512");
        }
        match self.offset.checked_add(self.len) {
            Some(end) if end <= size => Ok(()),
            _ => bad("it reaches beyond the end of the image"),
        }
    }
}

/// Why bytes are not a block map, or parts do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The first bytes are not those of a map of this version.
    #[error("not a block map of version 1 (wrong first bytes)")]
    Magic,
    /// The size is beyond [`MAX_IMAGE_SIZE`].
    #[error("image of {0} bytes: more than 16 TiB")]
    Size(u64),
    /// The chunk length is out of bounds.
    #[error("chunk length {0}: must be a power of two from 4 KiB to 16 MiB")]
    ChunkLength(u32),
    /// More chunks than [`MAX_CHUNKS`].
    #[error("{0} chunks are more than {MAX_CHUNKS}; use longer chunks for an image this large")]
    TooManyChunks(u64),
    /// The number of chunks is not what size and chunk length say.
    #[error("{got} chunks where size and chunk length demand {expected}")]
    ChunkCount {
        /// What the size demands.
        expected: u64,
        /// What is there.
        got: u64,
    },
    /// A chunk is marked neither zero nor data.
    #[error("chunk {index} is marked {tag:#04x}, which is neither zero nor data")]
    Tag {
        /// The chunk.
        index: u64,
        /// The mark.
        tag: u8,
    },
    /// The bytes end early.
    #[error("the block map is cut off after {0} bytes")]
    Truncated(usize),
    /// Bytes follow the last chunk.
    #[error("{0} bytes follow the end of the block map")]
    Trailing(usize),
    /// The seed area breaks a rule.
    #[error("seed area at {offset}, {len} bytes: {why}")]
    Seed {
        /// Start in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The broken rule.
        why: &'static str,
    },
    /// The map is sound, but of another image.
    #[error("the block map is that of image {got}, not of {expected}")]
    OtherImage {
        /// The image asked for.
        expected: Digest,
        /// The image the bytes describe.
        got: Digest,
    },
}

/// What an image holds. Always consistent: it can only be made by
/// [`BlockMap::new`] and [`BlockMap::decode`], which check it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockMap {
    size: u64,
    chunk: u32,
    seed: Option<Seed>,
    chunks: Vec<Chunk>,
    digest: Digest,
}

/// What a proof is judged against; small enough for a database row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapSummary {
    /// The image.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its chunk length in bytes.
    pub chunk: u32,
    /// Number of chunks.
    pub chunks: u64,
    /// Bytes in chunks that hold data.
    pub mapped: u64,
}

impl BlockMap {
    /// Builds a map and its digest.
    ///
    /// A map of size 0 is the blank image: writing it erases the whole device.
    ///
    /// # Errors
    /// A bound is exceeded or the parts contradict each other.
    pub fn new(size: u64, chunk: u32, seed: Option<Seed>, chunks: Vec<Chunk>) -> Result<Self, MapError> {
        let expected = chunk_count(size, chunk)?;
        if chunks.len() as u64 != expected {
            return Err(MapError::ChunkCount { expected, got: chunks.len() as u64 });
        }
        if let Some(seed) = seed {
            check_seed(seed, size, chunk, &chunks)?;
        }
        let mut map = Self { size, chunk, seed, chunks, digest: Digest([0; 32]) };
        map.digest = Digest(*blake3::hash(&map.encode()).as_bytes());
        Ok(map)
    }

    /// Reads a map from bytes that anyone may have made.
    ///
    /// # Errors
    /// The bytes are not exactly one map within bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        let mut at = Cursor { bytes, at: 0 };
        if at.take::<8>()? != MAGIC {
            return Err(MapError::Magic);
        }
        let size = u64::from_le_bytes(*at.take()?);
        let chunk = u32::from_le_bytes(*at.take()?);
        let offset = u64::from_le_bytes(*at.take()?);
        let len = u64::from_le_bytes(*at.take()?);
        let seed = match (offset, len) {
            (0, 0) => None,
            _ => Some(Seed { offset, len }),
        };
        let count = chunk_count(size, chunk)?;
        // Each chunk takes at least its tag, so memory stays within a small
        // multiple of what the sender really sent.
        if at.rest() < count as usize {
            return Err(MapError::Truncated(bytes.len()));
        }
        let mut chunks = Vec::with_capacity(count as usize);
        for index in 0..count {
            chunks.push(match at.take::<1>()?[0] {
                TAG_ZERO => Chunk::Zero,
                TAG_DATA => Chunk::Data(*at.take()?),
                tag => return Err(MapError::Tag { index, tag }),
            });
        }
        if at.rest() > 0 {
            return Err(MapError::Trailing(at.rest()));
        }
        Self::new(size, chunk, seed, chunks)
    }

    /// [`decode`](Self::decode), and the result must be the image asked for.
    ///
    /// # Errors
    /// As `decode`, or [`MapError::OtherImage`].
    pub fn decode_expecting(bytes: &[u8], expected: &Digest) -> Result<Self, MapError> {
        let map = Self::decode(bytes)?;
        if map.digest != *expected {
            return Err(MapError::OtherImage { expected: *expected, got: map.digest });
        }
        Ok(map)
    }

    /// The canonical bytes: what travels, and what the digest is made of.
    ///
    /// All numbers little-endian: magic and version (8 bytes), size (u64),
    /// chunk length (u32), seed offset and length (u64 each, both 0 for none),
    /// then per chunk `00` for zero, or `01` and the 32 bytes of its hash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.chunks.len() * 8);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.chunk.to_le_bytes());
        let (offset, len) = self.seed.map_or((0, 0), |seed| (seed.offset, seed.len));
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        for chunk in &self.chunks {
            match chunk {
                Chunk::Zero => out.push(TAG_ZERO),
                Chunk::Data(hash) => {
                    out.push(TAG_DATA);
                    out.extend_from_slice(hash);
                }
            }
        }
        out
    }

    /// The image's name.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the image in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Chunk length in bytes; the last chunk may be shorter.
    #[must_use]
    pub const fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Where the boot agent leaves its record, if the image has such a place.
    #[must_use]
    pub const fn seed(&self) -> Option<Seed> {
        self.seed
    }

    /// All chunks in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Chunk `index`; behind the image's end everything is [`Chunk::Zero`].
    #[must_use]
    pub fn chunk_at(&self, index: u64) -> Chunk {
        usize::try_from(index).ok().and_then(|index| self.chunks.get(index)).copied().unwrap_or(Chunk::Zero)
    }

    /// Bytes of the image in chunk `index`: short for the last, 0 behind it.
    #[must_use]
    pub fn chunk_len(&self, index: u64) -> usize {
        let start = index.saturating_mul(u64::from(self.chunk));
        self.size.saturating_sub(start).min(u64::from(self.chunk)) as usize
    }

    /// Bytes in chunks that hold data.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        let data = |(index, chunk): (usize, &Chunk)| match chunk {
            Chunk::Zero => 0,
            Chunk::Data(_) => self.chunk_len(index as u64) as u64,
        };
        self.chunks.iter().enumerate().map(data).sum()
    }

    /// What a proof is judged against.
    #[must_use]
    pub fn summary(&self) -> MapSummary {
        MapSummary {
            digest: self.digest,
            size: self.size,
            chunk: self.chunk,
            chunks: self.chunks.len() as u64,
            mapped: self.mapped(),
        }
    }
}

fn chunk_count(size: u64, chunk: u32) -> Result<u64, MapError> {
    if size > MAX_IMAGE_SIZE {
        return Err(MapError::Size(size));
    }
    if !chunk.is_power_of_two() || !(MIN_CHUNK..=MAX_CHUNK).contains(&chunk) {
        return Err(MapError::ChunkLength(chunk));
    }
    let count = size.div_ceil(u64::from(chunk));
    if count > MAX_CHUNKS {
        return Err(MapError::TooManyChunks(count));
    }
    Ok(count)
}

/// A chunk that lies wholly inside the seed area must be zero. Chunks that
/// share bytes with it are checked when the image is added, and again by the
/// seed's writer, which overwrites nothing but zeroes.
fn check_seed(seed: Seed, size: u64, chunk: u32, chunks: &[Chunk]) -> Result<(), MapError> {
    seed.check(size)?;
    let chunk = u64::from(chunk);
    let inside = seed.offset.div_ceil(chunk)..(seed.offset + seed.len) / chunk;
    for index in inside {
        if !matches!(chunks.get(index as usize), Some(Chunk::Zero)) {
            let why = "the image holds data there";
            return Err(MapError::Seed { offset: seed.offset, len: seed.len, why });
        }
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], MapError> {
        let part = self.bytes[self.at..].first_chunk::<N>();
        self.at += N;
        part.ok_or(MapError::Truncated(self.bytes.len()))
    }
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
