//! Simulated images: raw files whose first block says in words what the
//! machine does when it boots them. Everything else about an image is real:
//! it is chunked, hashed, written, read back and seeded like any other.

pub use super::header::{Header, Panic};

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Length of the seed area in bytes.
pub const SEED_LEN: u64 = 64 << 10;
/// Where the seed area of an image made by [`mksimimage`] begins.
pub const SEED_OFFSET: u64 = 64 << 10;

/// How a simulated image is made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// When its kernel panics, if it does.
    pub panic: Option<Panic>,
    /// How long it takes to boot, in milliseconds.
    pub boot_ms: Option<u64>,
    /// Bytes of content besides the header, spread over the image with holes
    /// between them; different names have different content.
    pub content: u64,
}

/// Makes a raw simulated image of `size` bytes at `path`, sparse. Its seed
/// area is at [`SEED_OFFSET`], [`SEED_LEN`] long.
pub fn mksimimage(path: &Path, name: &str, size: u64, options: &Options) -> std::io::Result<()> {
    if size < SEED_OFFSET + SEED_LEN {
        return Err(std::io::Error::other(format!(
            "an image of {size} bytes has no room for its seed; make it {} at least",
            SEED_OFFSET + SEED_LEN
        )));
    }
    let header = Header {
        hostname: name.to_owned(),
        panic: options.panic,
        boot_ms: options.boot_ms,
        seed: Some((SEED_OFFSET, SEED_LEN)),
    };
    let mut file = File::create(path)?;
    file.write_all(header.text().as_bytes())?;
    let start = SEED_OFFSET + SEED_LEN;
    let room = size - start;
    const PIECE: u64 = 4096;
    let pieces = options.content.min(room / 2) / PIECE;
    let mut state = blake3::hash(name.as_bytes());
    for at in 0..pieces {
        let mut piece = Vec::with_capacity(PIECE as usize);
        while piece.len() < PIECE as usize {
            state = blake3::hash(state.as_bytes());
            piece.extend_from_slice(state.as_bytes());
        }
        file.seek(SeekFrom::Start(start + at * (room / pieces.max(1)) / PIECE * PIECE))?;
        file.write_all(&piece)?;
    }
    file.set_len(size)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_image_reads_back_as_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i");
        let options = Options { panic: Some(Panic::Late), boot_ms: Some(7), content: 1 << 20 };
        mksimimage(&path, "blue", 4 << 20, &options).unwrap();
        let header = Header::of_disk(&path).unwrap().unwrap();
        assert_eq!(header.hostname, "blue");
        assert_eq!((header.panic, header.boot_ms), (Some(Panic::Late), Some(7)));
        assert_eq!(header.seed, Some((SEED_OFFSET, SEED_LEN)));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4 << 20);
        let seed = SEED_OFFSET as usize..(SEED_OFFSET + SEED_LEN) as usize;
        assert!(bytes[seed].iter().all(|b| *b == 0), "the seed area is the agent's");
        assert!(bytes.iter().filter(|b| **b != 0).count() > 900 << 10);
    }
}
