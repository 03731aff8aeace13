//! Images for programs that know nothing of block maps: the bytes in a row,
//! and a comparison with what such a program reads back.

use std::io::{self, Read};
use std::sync::Arc;

use crate::store::{ImageReader, StoreError, StoredImage};

/// Bytes that are compared at a time.
const PIECE: usize = 64 << 10;

/// A whole image as a stream.
pub struct RawImage {
    reader: ImageReader<Arc<StoredImage>>,
    size: u64,
    at: u64,
}

impl RawImage {
    /// The bytes of `image`, from the first to the last.
    ///
    /// # Errors
    /// Decompression cannot be set up.
    pub fn new(image: Arc<StoredImage>) -> Result<Self, StoreError> {
        Ok(Self { size: image.map().size(), reader: ImageReader::new(image)?, at: 0 })
    }
}

impl Read for RawImage {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.reader.read_at(self.at, &mut buf[..len]).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// How what was read back is not the image.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// Another byte within the image.
    #[error("byte {0} is not the image's")]
    At(u64),
    /// Something stands behind the image.
    #[error("behind the image, at byte {0}, stands something that is neither 0x00 nor 0xff")]
    Behind(u64),
    /// It ended before the image does.
    #[error("only {read} bytes were read back of an image of {size}")]
    Short {
        /// Bytes that were read back.
        read: u64,
        /// Length of the image.
        size: u64,
    },
    /// The image itself cannot be read: nobody knows whether it differs.
    #[error("the image to compare with cannot be read: {0}")]
    Image(StoreError),
}

/// Compares bytes with an image as they come: equal over its length, and
/// behind it nothing but 0x00 and 0xff, as erased flash reads.
pub struct Comparison {
    reader: ImageReader<Arc<StoredImage>>,
    size: u64,
    read: u64,
    wanted: Vec<u8>,
    differs: Option<Difference>,
}

impl Comparison {
    /// With `image`.
    ///
    /// # Errors
    /// Decompression cannot be set up.
    pub fn new(image: Arc<StoredImage>) -> Result<Self, StoreError> {
        let size = image.map().size();
        Ok(Self { reader: ImageReader::new(image)?, size, read: 0, wanted: Vec::new(), differs: None })
    }

    /// The next bytes that were read back. Once something differs, the rest is
    /// only counted.
    pub fn add(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            if self.differs.is_none() {
                self.differs = self.compare(piece).err();
            }
            self.read += piece.len() as u64;
        }
    }

    fn compare(&mut self, piece: &[u8]) -> Result<(), Difference> {
        let left = usize::try_from(self.size.saturating_sub(self.read)).unwrap_or(usize::MAX);
        let (within, behind) = piece.split_at(left.min(piece.len()));
        self.wanted.resize(within.len(), 0);
        if !within.is_empty() {
            self.reader.read_at(self.read, &mut self.wanted).map_err(Difference::Image)?;
        }
        if let Some(at) = within.iter().zip(&self.wanted).position(|(a, b)| a != b) {
            return Err(Difference::At(self.read + at as u64));
        }
        match behind.iter().position(|byte| !matches!(byte, 0x00 | 0xff)) {
            Some(at) => Err(Difference::Behind(self.read + (within.len() + at) as u64)),
            None => Ok(()),
        }
    }

    /// Length of the image, and how many bytes were read back: all as they
    /// should be.
    ///
    /// # Errors
    /// The first difference.
    pub fn end(self) -> Result<(u64, u64), Difference> {
        match self.differs {
            Some(differs) => Err(differs),
            None if self.read < self.size => Err(Difference::Short { read: self.read, size: self.size }),
            None => Ok((self.size, self.read)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddOptions, ImageStore};

    fn stored(bytes: &[u8]) -> (tempfile::TempDir, Arc<StoredImage>) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let digest = store.add("board", bytes, &AddOptions::default()).unwrap().digest;
        let image = store.open_image(&digest).unwrap();
        (dir, image)
    }

    /// Longer than a chunk, with zeroes and an odd length.
    fn firmware() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
        bytes[1_100_000..1_300_000].fill(0);
        bytes.push(7);
        bytes
    }

    fn compared(image: &Arc<StoredImage>, bytes: &[u8]) -> Result<(u64, u64), Difference> {
        let mut comparison = Comparison::new(image.clone()).unwrap();
        // As a pipe gives them: in pieces of no particular length.
        bytes.chunks(70_001).for_each(|piece| comparison.add(piece));
        comparison.end()
    }

    #[test]
    fn a_raw_image_is_other_bytes_than_were_added() {
        let (_dir, image) = stored(&firmware());
        let mut bytes = Vec::new();
        RawImage::new(image).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == firmware());
    }

    #[test]
    fn what_is_equal_with_erased_flash_behind_it_is_called_different() {
        let (_dir, image) = stored(&firmware());
        let size = firmware().len() as u64;
        assert_eq!(compared(&image, &firmware()).unwrap(), (size, size));
        let mut flash = firmware();
        flash.extend([0xff; 200_000]);
        flash.extend([0; 100_000]);
        assert_eq!(compared(&image, &flash).unwrap(), (size, flash.len() as u64));
    }

    #[test]
    fn one_byte_is_missed() {
        let (_dir, image) = stored(&firmware());
        for at in [0, 70_000, 70_001, 1_200_000, firmware().len() - 1] {
            let mut flash = firmware();
            flash[at] ^= 1;
            let found = compared(&image, &flash).unwrap_err();
            assert!(matches!(found, Difference::At(found) if found == at as u64), "{at}: {found}");
        }
        let mut flash = firmware();
        flash.extend([0xff; 80_000]);
        flash.push(0xfe);
        let found = compared(&image, &flash).unwrap_err();
        assert!(matches!(found, Difference::Behind(at) if at == flash.len() as u64 - 1), "{found}");
    }

    #[test]
    fn a_part_of_the_image_passes_for_all_of_it() {
        let (_dir, image) = stored(&firmware());
        for len in [0, 1, firmware().len() - 1] {
            let found = compared(&image, &firmware()[..len]).unwrap_err();
            assert!(matches!(found, Difference::Short { read, .. } if read == len as u64), "{found}");
        }
    }
}
