//! Simulated images: raw files whose first block says in words what the
//! machine does when it boots them. Everything else about an image is real:
//! it is chunked, hashed, written, read back and seeded like any other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// First line of a simulated image.
pub const MAGIC: &str = "PITSTOP-SIM-IMAGE 1";
/// Bytes at the beginning of the disk that the header may fill.
pub const HEADER: usize = 4096;
/// Length of the seed area in bytes.
pub const SEED_LEN: u64 = 64 << 10;
/// Where the seed area of an image made by [`mksimimage`] begins.
pub const SEED_OFFSET: u64 = 64 << 10;

/// What a simulated image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Name of the system.
    pub hostname: String,
    /// When its kernel panics, if it does.
    pub panic: Option<Panic>,
    /// How long it takes to boot, in milliseconds; `None`: as the machine does.
    pub boot_ms: Option<u64>,
    /// Where its seed area is: offset and length in bytes.
    pub seed: Option<(u64, u64)>,
}

/// When a kernel panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panic {
    /// Before its init runs.
    Kernel,
    /// Some time after the host agent was started.
    Late,
}

impl Header {
    /// Reads the header of a disk. `None`: there is no simulated image on it.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let text = block.split(|b| *b == 0).next()?;
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let keys: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
        let seed = keys.get("seed").and_then(|text| text.split_once(','));
        let plain = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
        Some(Self {
            hostname: keys.get("hostname").filter(|t| plain(t)).unwrap_or(&"simulated").to_string(),
            panic: match keys.get("panic").copied() {
                Some("kernel") => Some(Panic::Kernel),
                Some("late") => Some(Panic::Late),
                _ => None,
            },
            boot_ms: keys.get("boot_ms").and_then(|ms| ms.parse().ok()),
            seed: seed.and_then(|(offset, len)| Some((offset.parse().ok()?, len.parse().ok()?))),
        })
    }

    /// Reads the header of a disk file.
    pub fn of_disk(path: &Path) -> std::io::Result<Option<Self>> {
        let mut block = Vec::with_capacity(HEADER);
        File::open(path)?.take(HEADER as u64).read_to_end(&mut block)?;
        Ok(Self::parse(&block))
    }

    /// The header as it stands on a disk.
    pub fn text(&self) -> String {
        let mut text = format!("{MAGIC}\nhostname={}\n", self.hostname);
        match self.panic {
            Some(Panic::Kernel) => text.push_str("panic=kernel\n"),
            Some(Panic::Late) => text.push_str("panic=late\n"),
            None => {}
        }
        if let Some(ms) = self.boot_ms {
            text.push_str(&format!("boot_ms={ms}\n"));
        }
        if let Some((offset, len)) = self.seed {
            text.push_str(&format!("seed={offset},{len}\n"));
        }
        text
    }
}

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

    #[test]
    fn what_is_no_simulated_image_boots_nothing() {
        for block in [&b""[..], b"\0\0\0", b"PITSTOP-SIM-IMAGE 2\n", b"\xff\xfe"] {
            assert_eq!(Header::parse(block), None);
        }
        let odd = Header::parse(b"PITSTOP-SIM-IMAGE 1\nhostname=\x1b]0;x\nseed=1\npanic=often\0").unwrap();
        assert_eq!(odd, Header { hostname: "simulated".into(), ..Header::default() });
    }
}
