//! Buffers fit for direct I/O, and the test for zeroes.

use std::ops::{Deref, DerefMut};

/// Offsets, lengths and addresses that are multiples of this suit direct I/O
/// on every disk in use: logical blocks are 512 or 4096 bytes.
pub(crate) const ALIGN: usize = 4096;

/// A zero-filled byte buffer whose address suits direct I/O (4 KiB).
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// Allocates `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let raw = vec![0u8; len + ALIGN];
        let start = (ALIGN - raw.as_ptr().addr() % ALIGN) % ALIGN;
        Self { raw, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

/// Fits the first-level cache beside what it is compared with.
static ZEROES: [u8; 16 * 1024] = [0; 16 * 1024];

/// Whether every byte is zero.
///
/// Comparing with a block of zeroes ends up in the C library's `memcmp`, which
/// is as fast as memory in every build profile, also the agent's `opt-level = s`.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|part| part == &ZEROES[..part.len()])
}

/// The first and one-past-last offset of what is not zero.
pub(crate) fn nonzero_span(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = bytes.iter().position(|&b| b != 0)?;
    let last = bytes.iter().rposition(|&b| b != 0)?;
    Some((first, last + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_of_the_asked_length() {
        for len in [0, 1, 4095, 4096, 1 << 20] {
            let buf = AlignedBuf::new(len);
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr().addr() % ALIGN, 0);
            assert!(is_zero(&buf));
        }
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for len in [1usize, 7, 8, 4096, 16 * 1024, 16 * 1024 + 1, 50_000] {
            let mut bytes = vec![0u8; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 0x10;
                assert!(!is_zero(&bytes), "length {len}, byte {at}");
                assert_eq!(nonzero_span(&bytes), Some((at, at + 1)));
                bytes[at] = 0;
            }
            assert_eq!(nonzero_span(&bytes), None);
        }
    }
}
