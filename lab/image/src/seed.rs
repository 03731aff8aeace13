//! The seed record: what the boot agent leaves on the disk for the host agent.
//!
//! ```text
//! 0   8   "PITSEED1"
//! 8   4   length of the body, u32 little-endian
//! 12  4   zero
//! 16  32  BLAKE3 of the body
//! 48  …   the body, JSON
//!         zeroes to the end of the area
//! ```
//!
//! The body carries a token, so it never appears in a `Debug` or an error, and
//! is wiped with written zeroes, which no file system or device may defer.

use std::fmt;
use std::io;

use serde::de::IgnoredAny;

use crate::buffer::{AlignedBuf, is_zero};
use crate::detect::find_seed_partition;
use crate::map::{MapError, Seed};
use crate::target::Target;

const MAGIC: &[u8; 8] = b"PITSEED1";
const HEADER: usize = 48;

/// Longest body, 64 KiB.
pub const MAX_BODY: usize = 64 << 10;

/// Why a seed record could not be written, read or wiped.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The area is not on this device.
    #[error(transparent)]
    Area(#[from] MapError),
    /// The body does not fit.
    #[error("a seed record of {len} bytes does not fit: at most {most}")]
    TooLong {
        /// Length of the body in bytes.
        len: usize,
        /// The most there is room for, in bytes.
        most: usize,
    },
    /// The body is not JSON.
    #[error("the seed record is not JSON")]
    NotJson,
    /// The area holds something else; nothing was overwritten.
    #[error("the seed area at byte {0} holds data that is no seed record; it was left alone")]
    Occupied(u64),
    /// There is a record, but not a whole one.
    #[error("the seed record is damaged: {0}")]
    Damaged(&'static str),
    /// What was written did not come back.
    #[error("the seed area at byte {0} does not hold what was written to it")]
    ReadBack(u64),
    /// The device refused.
    #[error("cannot {what} the seed area at byte {offset}: {source}")]
    Device {
        /// What was attempted.
        what: &'static str,
        /// Start of the area in bytes.
        offset: u64,
        /// What came back.
        source: io::Error,
    },
}

/// The body of a record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Vec<u8>);

impl Record {
    /// The JSON text.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

/// Where the seed area of a running disk is, by its partition table; for the
/// host agent, which has no block map.
///
/// # Errors
/// The disk cannot be read.
pub fn find(target: &mut dyn Target) -> Result<Option<Seed>, SeedError> {
    let size = target.size();
    let found = find_seed_partition(size, &mut |offset, buf| target.read_at(offset, buf));
    found.map_err(|source| SeedError::Device { what: "look for", offset: 0, source })
}

/// Writes a record, pads the area with zeroes, flushes and reads it back. Only
/// zeroes or an older record are overwritten.
///
/// # Errors
/// See [`SeedError`].
pub fn write(target: &mut dyn Target, seed: Seed, json: &[u8]) -> Result<(), SeedError> {
    seed.check(target.size())?;
    let most = MAX_BODY.min(seed.len as usize - HEADER);
    if json.len() > most {
        return Err(SeedError::TooLong { len: json.len(), most });
    }
    check_json(json)?;
    check_free(target, seed)?;
    let mut area = AlignedBuf::new(seed.len as usize);
    area[..8].copy_from_slice(MAGIC);
    // Fits: bounded by MAX_BODY.
    area[8..12].copy_from_slice(&(json.len() as u32).to_le_bytes());
    area[16..HEADER].copy_from_slice(blake3::hash(json).as_bytes());
    area[HEADER..HEADER + json.len()].copy_from_slice(json);
    put(target, seed, &area)
}

/// Reads the record; `None` when the area holds only zeroes where a record
/// would begin.
///
/// # Errors
/// See [`SeedError`]; what is there may have been made by anyone.
pub fn read(target: &mut dyn Target, seed: Seed) -> Result<Option<Record>, SeedError> {
    seed.check(target.size())?;
    let device = |source| SeedError::Device { what: "read", offset: seed.offset, source };
    let mut head = AlignedBuf::new(HEADER);
    target.read_at(seed.offset, &mut head).map_err(device)?;
    if is_zero(&head) {
        return Ok(None);
    }
    if &head[..8] != MAGIC {
        return Err(SeedError::Occupied(seed.offset));
    }
    let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    if !is_zero(&head[12..16]) {
        return Err(SeedError::Damaged("its reserved bytes are not zero"));
    }
    if len > MAX_BODY.min(seed.len as usize - HEADER) {
        return Err(SeedError::Damaged("its length is beyond the area"));
    }
    let mut body = vec![0; len];
    target.read_at(seed.offset + HEADER as u64, &mut body).map_err(device)?;
    if blake3::hash(&body).as_bytes() != &head[16..HEADER] {
        return Err(SeedError::Damaged("its hash is wrong"));
    }
    check_json(&body)?;
    Ok(Some(Record(body)))
}

/// Overwrites the area with zeroes, flushes and reads it back. An area that
/// holds neither zeroes nor a record is left alone.
///
/// # Errors
/// See [`SeedError`].
pub fn wipe(target: &mut dyn Target, seed: Seed) -> Result<(), SeedError> {
    seed.check(target.size())?;
    check_free(target, seed)?;
    put(target, seed, &AlignedBuf::new(seed.len as usize))
}

/// Whether the area may be overwritten: all zero, or begun by our magic.
fn check_free(target: &mut dyn Target, seed: Seed) -> Result<(), SeedError> {
    let mut area = AlignedBuf::new(seed.len as usize);
    let read = target.read_at(seed.offset, &mut area);
    read.map_err(|source| SeedError::Device { what: "read", offset: seed.offset, source })?;
    if is_zero(&area) || area.starts_with(MAGIC) { Ok(()) } else { Err(SeedError::Occupied(seed.offset)) }
}

fn put(target: &mut dyn Target, seed: Seed, area: &[u8]) -> Result<(), SeedError> {
    let device = |what| move |source| SeedError::Device { what, offset: seed.offset, source };
    target.write_at(seed.offset, area).map_err(device("write"))?;
    target.forget_cached().map_err(device("flush"))?;
    let mut back = AlignedBuf::new(area.len());
    target.read_at(seed.offset, &mut back).map_err(device("read back"))?;
    if &back[..] == area { Ok(()) } else { Err(SeedError::ReadBack(seed.offset)) }
}

fn check_json(bytes: &[u8]) -> Result<(), SeedError> {
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Ok(_) => Ok(()),
        // The error of the parser may quote the text.
        Err(_) => Err(SeedError::NotJson),
    }
}

#[cfg(test)]
#[path = "seed_tests.rs"]
mod tests;
