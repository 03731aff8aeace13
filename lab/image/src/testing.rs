//! Disks in memory that misbehave on demand, and sources made from raw bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicBool;

use crate::codec::Compressor;
use crate::source::{ChunkSource, SourceError};
use crate::target::{IoMethod, ReadMethod, Target, ZeroMethod};
use crate::write::{Job, Progress};
use crate::{BlockMap, Chunk, Seed, is_zero};

pub(crate) static GO_ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn quiet(_: Progress) {}

pub(crate) fn job(map: &BlockMap) -> Job<'_> {
    Job { map, cancel: &GO_ON, progress: &quiet }
}

/// A disk in memory.
#[derive(Default)]
pub(crate) struct MemDisk {
    pub(crate) bytes: Vec<u8>,
    /// Says it erased, and did not.
    pub(crate) lies_about_zeroing: bool,
    /// Refuses to write this byte.
    pub(crate) bad_write: Option<u64>,
    /// Refuses to read this byte.
    pub(crate) bad_read: Option<u64>,
    pub(crate) fails_flush: bool,
    /// Offset and length of every write, then of every erasure.
    pub(crate) writes: Vec<(u64, u64)>,
    pub(crate) erasures: Vec<(u64, u64)>,
    pub(crate) flushes: usize,
}

impl MemDisk {
    /// Full of a former user's bytes.
    pub(crate) fn used(len: usize) -> Self {
        Self { bytes: vec![0xa5; len], ..Self::default() }
    }

    fn bad(at: Option<u64>, offset: u64, len: usize) -> io::Result<()> {
        match at {
            Some(at) if (offset..offset + len as u64).contains(&at) => Err(io::Error::other("bad block")),
            _ => Ok(()),
        }
    }
}

impl Target for MemDisk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Self::bad(self.bad_read, offset, buf.len())?;
        let at = offset as usize;
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Self::bad(self.bad_write, offset, bytes.len())?;
        self.writes.push((offset, bytes.len() as u64));
        let at = offset as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<ZeroMethod> {
        Self::bad(self.bad_write, offset, len as usize)?;
        self.erasures.push((offset, len));
        if !self.lies_about_zeroing {
            self.bytes[offset as usize..(offset + len) as usize].fill(0);
        }
        Ok(ZeroMethod::ZeroOut)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        if self.fails_flush { Err(io::Error::other("cache lost")) } else { Ok(()) }
    }
    fn forget_cached(&mut self) -> io::Result<ReadMethod> {
        self.flush()?;
        Ok(ReadMethod::CacheDropped)
    }
    fn io_method(&self) -> IoMethod {
        IoMethod::Buffered
    }
}

/// Chunks made from raw bytes.
#[derive(Default)]
pub(crate) struct MemSource {
    pub(crate) stored: BTreeMap<u64, Vec<u8>>,
    /// Every chunk asked for, in order.
    pub(crate) asked: Vec<u64>,
    /// Breaks off at this chunk.
    pub(crate) ends_before: Option<u64>,
}

impl ChunkSource for MemSource {
    fn fetch(&mut self, index: u64, _: usize, out: &mut Vec<u8>) -> Result<(), SourceError> {
        self.asked.push(index);
        if self.ends_before.is_some_and(|end| index >= end) {
            return Err(SourceError::Io { index, source: io::ErrorKind::UnexpectedEof.into() });
        }
        let stored = self.stored.get(&index).ok_or(SourceError::Absent(index))?;
        out.extend_from_slice(stored);
        Ok(())
    }
}

/// Map and source of an image.
pub(crate) fn image(raw: &[u8], chunk: u32, seed: Option<Seed>) -> (BlockMap, MemSource) {
    let mut source = MemSource::default();
    let mut compressor = Compressor::new().unwrap();
    let mut chunks = Vec::new();
    for (index, bytes) in raw.chunks(chunk as usize).enumerate() {
        if is_zero(bytes) {
            chunks.push(Chunk::Zero);
        } else {
            chunks.push(Chunk::Data(*blake3::hash(bytes).as_bytes()));
            source.stored.insert(index as u64, compressor.compress(bytes).unwrap());
        }
    }
    (BlockMap::new(raw.len() as u64, chunk, seed, chunks).unwrap(), source)
}

/// Bytes that do not compress away, different for each `salt`.
pub(crate) fn noise(len: usize, salt: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[salt]);
    hasher.finalize_xof().fill(&mut out);
    out
}

/// An image of `layout.len()` chunks of `chunk` bytes, `true` being data; the
/// last one lacks `short` bytes.
pub(crate) fn sparse(layout: &[bool], chunk: usize, short: usize) -> Vec<u8> {
    let mut raw = vec![0; layout.len() * chunk];
    for (index, part) in raw.chunks_mut(chunk).enumerate() {
        if layout[index] {
            part.copy_from_slice(&noise(chunk, index as u8));
        }
    }
    raw.truncate(raw.len() - short);
    raw
}
