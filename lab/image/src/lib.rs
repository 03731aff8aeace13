//! Images: block maps, the content-addressed store, writing and proving.
//!
//! The daemon keeps images in an [`ImageStore`]; the boot agent puts one on a
//! disk with [`Job::write`] and reads the whole disk back with [`Job::prove`].
//! Between the two travels a [`BlockMap`], whose bytes hash to the image's
//! [`Digest`], and one compressed frame per chunk that is not zero.
//!
//! Everything here is synchronous and works in constant memory; callers run it
//! on threads of their own.
//!
//! The rules the crate keeps:
//!
//! * **Exact.** After a write every byte the image does not hold is zero, up to
//!   the device's last one. Discard is a hint, so it is never used for that.
//! * **Checked twice.** Each chunk is hashed before it is written, and the whole
//!   device is read back afterwards. A [`Proof`] lists what was read; one
//!   missing item, and it is no proof.
//! * **Hostile input.** Maps, frames, partition tables and seed records come
//!   from elsewhere: everything is bounded before it is believed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![warn(missing_docs)]

mod buffer;
mod codec;
mod detect;
mod ioctl;
mod map;
mod prove;
pub mod seed;
mod source;
mod store;
mod target;
#[cfg(test)]
mod testing;
mod whole;
mod write;

pub use buffer::{AlignedBuf, is_zero};
pub use codec::max_stored_len;
pub use detect::{MAX_DETECTED_SEED, SEED_PARTITION_NAME, find_seed_partition};
pub use map::{
    BlockMap, Chunk, DEFAULT_CHUNK, Digest, MAX_CHUNK, MAX_CHUNKS, MAX_ENCODED_MAP, MAX_IMAGE_SIZE, MAX_SEED,
    MIN_CHUNK, MIN_SEED, MapError, MapSummary, ParseDigestError, Seed,
};
pub use prove::{MAX_MISMATCHES, Mismatch, MismatchKind, Missing, Proof, ProveError};
pub use source::{ChunkSource, FRAME_HEADER, FramedSource, SourceError};
pub use store::{
    AddOptions, Frames, ImageReader, ImageStore, Manifest, Removed, SeedChoice, StoreError, StoredImage,
};
pub use target::{DiskTarget, IoMethod, ReadMethod, Target, TargetError, ZeroMethod};
pub use whole::{Comparison, Difference, RawImage};
pub use write::{Erase, Job, Progress, Step, Stopped, WriteError, WriteOptions, Written};
