//! Reading the whole device back, and the record of it.

use std::io;
use std::ops::Range;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::buffer::{AlignedBuf, is_zero, nonzero_span};
use crate::map::{Chunk, Digest, MapSummary};
use crate::target::{ReadMethod, Target};
use crate::write::{Job, Step};

/// Most places a proof names; beyond that it only counts.
pub const MAX_MISMATCHES: usize = 64;

/// Bytes read by one request when chunks are shorter.
const READ_PIECE: usize = 1 << 20;

/// What should have been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MismatchKind {
    /// A chunk of the image has another hash; the range is the chunk.
    Data,
    /// Bytes the image holds as zero are not; the range is exact.
    Zero,
    /// Bytes behind the image's end are not zero; the range is exact.
    Tail,
}

/// A place that is not as the image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Start in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// What should have been there.
    pub kind: MismatchKind,
}

/// What reading a device back found. By itself it is only a record;
/// [`missing_for`](Self::missing_for) says whether it proves something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The image it was compared with.
    pub digest: Digest,
    /// Length of the device in bytes.
    pub device_size: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Chunks of the image compared, with data or zero.
    pub chunks_checked: u64,
    /// Bytes in chunks with data whose hash was made.
    pub data_bytes_checked: u64,
    /// Bytes in zero chunks that were looked at.
    pub zero_bytes_checked: u64,
    /// Bytes behind the image's end that were looked at.
    pub tail_bytes_checked: u64,
    /// Number of places that differ.
    pub mismatch_count: u64,
    /// The first [`MAX_MISMATCHES`] of them.
    pub mismatches: Vec<Mismatch>,
    /// How the bytes were read.
    pub method: ReadMethod,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One item a proof lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// It was made for another image.
    #[error("it is about image {got}, not {expected}")]
    Digest {
        /// The image asked about.
        expected: Digest,
        /// The image compared with.
        got: Digest,
    },
    /// It was made on a device of another size.
    #[error("it is about a device of {got} bytes, not {expected}")]
    DeviceSize {
        /// Size of the device asked about, in bytes.
        expected: u64,
        /// Size of the device read, in bytes.
        got: u64,
    },
    /// The image does not fit the device.
    #[error("the image ({image} bytes) does not fit the device ({device} bytes)")]
    ImageLargerThanDevice {
        /// Image length in bytes.
        image: u64,
        /// Device length in bytes.
        device: u64,
    },
    /// A count falls short of (or exceeds) the whole.
    #[error("{item}: {got} of {expected}")]
    Count {
        /// What is counted.
        item: String,
        /// The whole.
        expected: u64,
        /// What was done.
        got: u64,
    },
    /// Places differ.
    #[error("{count} places differ from the image, the first at byte {first}")]
    Mismatches {
        /// How many.
        count: u64,
        /// Offset of the first in bytes.
        first: u64,
    },
}

impl Proof {
    /// Everything that keeps this from proving that a device of `device_size`
    /// bytes holds exactly the image and zeroes; empty means proven.
    #[must_use]
    pub fn missing_for(&self, image: &MapSummary, device_size: u64) -> Vec<Missing> {
        let mut missing = Vec::new();
        if self.digest != image.digest {
            missing.push(Missing::Digest { expected: image.digest, got: self.digest });
        }
        if self.device_size != device_size {
            missing.push(Missing::DeviceSize { expected: device_size, got: self.device_size });
        }
        if image.size > device_size {
            missing.push(Missing::ImageLargerThanDevice { image: image.size, device: device_size });
        }
        let counts = [
            ("bytes read", device_size, self.bytes_read),
            ("chunks checked", image.chunks, self.chunks_checked),
            ("data bytes checked", image.mapped, self.data_bytes_checked),
            ("zero bytes checked", image.size.saturating_sub(image.mapped), self.zero_bytes_checked),
            ("tail bytes checked", device_size.saturating_sub(image.size), self.tail_bytes_checked),
        ];
        for (item, expected, got) in counts {
            if expected != got {
                missing.push(Missing::Count { item: item.into(), expected, got });
            }
        }
        if self.mismatch_count > 0 || !self.mismatches.is_empty() {
            let first = self.mismatches.first().map_or(0, |place| place.offset);
            let count = self.mismatch_count.max(self.mismatches.len() as u64);
            missing.push(Missing::Mismatches { count, first });
        }
        missing
    }

    /// Whether nothing is missing.
    ///
    /// # Errors
    /// The missing items, at least one.
    pub fn is_complete_for(&self, image: &MapSummary, device_size: u64) -> Result<(), Vec<Missing>> {
        let missing = self.missing_for(image, device_size);
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }
}

/// Why there is no proof at all.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Not even the image fits.
    #[error("the device holds {device} bytes, the image {image}: nothing can be proven")]
    TooSmall {
        /// Device length in bytes.
        device: u64,
        /// Image length in bytes.
        image: u64,
    },
    /// Written bytes could not be brought to stable storage.
    #[error("cannot flush the device before reading it back: {0}")]
    Flush(io::Error),
    /// A place cannot be read.
    #[error("cannot read back {len} bytes at {offset}: {source}")]
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// What came back.
        source: io::Error,
    },
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
}

impl Job<'_> {
    /// Reads the whole device back and compares every byte with the image.
    /// Differences are part of the result; a place that cannot be read is an
    /// error, since then there is nothing to prove.
    ///
    /// # Errors
    /// See [`ProveError`].
    pub fn prove(&self, target: &mut dyn Target) -> Result<Proof, ProveError> {
        let began = Instant::now();
        let (device, image) = (target.size(), self.map.size());
        if device < image {
            return Err(ProveError::TooSmall { device, image });
        }
        self.report(Step::Flush, 0, device);
        let method = target.forget_cached().map_err(ProveError::Flush)?;
        let mut proof = empty_proof(self.map.digest(), device, method);
        let chunk = self.map.chunk() as usize;
        let mut buf = AlignedBuf::new(chunk.max(READ_PIECE));
        let per_read = (buf.len() / chunk) as u64;
        let chunks = self.device_chunks(device);
        let mut at = 0;
        while at < chunks {
            if self.cancelled() {
                return Err(ProveError::Cancelled);
            }
            let next = chunks.min(at + per_read);
            let Range { start, end } = self.range(at, next, device);
            let bytes = &mut buf[..(end - start) as usize];
            let read = target.read_at(start, bytes);
            read.map_err(|source| ProveError::Read { offset: start, len: end - start, source })?;
            proof.bytes_read += end - start;
            for (index, bytes) in (at..next).zip(bytes.chunks(chunk)) {
                self.check_chunk(&mut proof, index, bytes);
            }
            at = next;
            self.report(Step::Prove, at, device);
        }
        // A device that dropped direct I/O on the way was read through the
        // cache from there on.
        if target.io_method() == crate::target::IoMethod::Buffered {
            proof.method = ReadMethod::CacheDropped;
        }
        proof.took_ms = began.elapsed().as_millis() as u64;
        Ok(proof)
    }

    fn check_chunk(&self, proof: &mut Proof, index: u64, bytes: &[u8]) {
        let start = index * u64::from(self.map.chunk());
        let (image, tail) = bytes.split_at(self.map.chunk_len(index));
        if !image.is_empty() {
            proof.chunks_checked += 1;
            let len = image.len() as u64;
            match self.map.chunk_at(index) {
                Chunk::Data(hash) => {
                    proof.data_bytes_checked += len;
                    if blake3::hash(image).as_bytes() != &hash {
                        proof.differs(start, len, MismatchKind::Data);
                    }
                }
                Chunk::Zero => {
                    proof.zero_bytes_checked += len;
                    proof.check_zero(start, image, MismatchKind::Zero);
                }
            }
        }
        proof.tail_bytes_checked += tail.len() as u64;
        proof.check_zero(start + image.len() as u64, tail, MismatchKind::Tail);
    }
}

fn empty_proof(digest: Digest, device_size: u64, method: ReadMethod) -> Proof {
    Proof {
        digest,
        device_size,
        bytes_read: 0,
        chunks_checked: 0,
        data_bytes_checked: 0,
        zero_bytes_checked: 0,
        tail_bytes_checked: 0,
        mismatch_count: 0,
        mismatches: Vec::new(),
        method,
        took_ms: 0,
    }
}

impl Proof {
    fn check_zero(&mut self, start: u64, bytes: &[u8], kind: MismatchKind) {
        if is_zero(bytes) {
            return;
        }
        if let Some((first, last)) = nonzero_span(bytes) {
            self.differs(start + first as u64, (last - first) as u64, kind);
        }
    }

    fn differs(&mut self, offset: u64, len: u64, kind: MismatchKind) {
        self.mismatch_count += 1;
        if self.mismatches.len() < MAX_MISMATCHES {
            self.mismatches.push(Mismatch { offset, len, kind });
        }
    }
}

#[cfg(test)]
#[path = "prove_tests.rs"]
mod tests;
