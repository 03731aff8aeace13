//! A disk in memory.

use pitstop_image::{IoMethod, ReadMethod, Target, ZeroMethod};
use std::io;
use std::ops::Range;

/// A disk that does what it is told.
#[derive(Debug, Clone)]
pub struct Disk(pub Vec<u8>);

impl Disk {
    /// Full of a former user's bytes.
    #[must_use]
    pub fn used(len: usize) -> Self {
        Self(vec![0xa5; len])
    }

    fn range(&self, offset: u64, len: usize) -> Range<usize> {
        let start = usize::try_from(offset).expect("an offset on this disk");
        assert!(start.checked_add(len).is_some_and(|end| end <= self.0.len()), "beyond the end of the disk");
        start..start + len
    }
}

impl Target for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = self.range(offset, buf.len());
        buf.copy_from_slice(&self.0[range]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = self.range(offset, bytes.len());
        self.0[range].copy_from_slice(bytes);
        Ok(())
    }
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<ZeroMethod> {
        let range = self.range(offset, usize::try_from(len).expect("a length on this disk"));
        self.0[range].fill(0);
        Ok(ZeroMethod::Written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn forget_cached(&mut self) -> io::Result<ReadMethod> {
        Ok(ReadMethod::CacheDropped)
    }
    fn io_method(&self) -> IoMethod {
        IoMethod::Buffered
    }
}
