//! A stored image, open for reading.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Result, StoreError, files, io_at};
use crate::codec::{Decompressor, max_stored_len};
use crate::map::{BlockMap, Chunk, Digest, MAX_CHUNKS, MAX_ENCODED_MAP};
use crate::source::{ChunkSource, FRAME_HEADER, SourceError, frame_header};

/// Map, index and data of one image. Reading needs no lock and no seeking, so
/// any number of machines can be served from one of these.
#[derive(Debug)]
pub struct StoredImage {
    path: PathBuf,
    map: BlockMap,
    /// Per chunk where its stored bytes start, and one past the last; zero
    /// chunks have none.
    starts: Vec<u64>,
    data: File,
}

impl StoredImage {
    pub(super) fn open(dir: &Path, digest: &Digest) -> Result<Self> {
        let read = |name: &str, limit| {
            let path = dir.join(name);
            let missing = || io_at("open", &path)(io::ErrorKind::NotFound.into());
            files::read_bounded(&path, limit)?.ok_or_else(missing)
        };
        let map = BlockMap::decode_expecting(&read("map", MAX_ENCODED_MAP as u64)?, digest);
        let map = map.map_err(|e| damaged(&dir.join("map"), e.to_string()))?;
        let index = read("index", 4 * MAX_CHUNKS)?;
        Self::assemble(dir, map, &index)
    }

    /// Puts the parts together and checks that they fit each other.
    pub(super) fn assemble(dir: &Path, map: BlockMap, index: &[u8]) -> Result<Self> {
        let index_path = dir.join("index");
        let limit = max_stored_len(map.chunk()) as u64;
        let mut lens = index.chunks_exact(4);
        let mut starts = Vec::with_capacity(map.chunks().len() + 1);
        let mut at = 0u64;
        for chunk in map.chunks() {
            starts.push(at);
            if *chunk == Chunk::Zero {
                continue;
            }
            let len = match lens.next() {
                Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
                _ => return Err(damaged(&index_path, "it ends early".into())),
            };
            if len > limit {
                return Err(damaged(&index_path, format!("a chunk of {len} stored bytes")));
            }
            at += len;
        }
        starts.push(at);
        if lens.next().is_some() || !lens.remainder().is_empty() {
            return Err(damaged(&index_path, "it is longer than the map".into()));
        }
        let path = dir.join("data");
        let data = File::open(&path).map_err(io_at("open", &path))?;
        let len = data.metadata().map_err(io_at("look at", &path))?.len();
        if len != at {
            return Err(damaged(&path, format!("it has {len} bytes, the index says {at}")));
        }
        Ok(Self { path, map, starts, data })
    }

    /// What the image holds.
    #[must_use]
    pub const fn map(&self) -> &BlockMap {
        &self.map
    }

    /// Compressed bytes of all chunks.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Where the stored bytes of data chunk `index` lie in the data file:
    /// offset and length.
    fn place(&self, index: u64) -> Option<(u64, u64)> {
        let at = usize::try_from(index).ok()?;
        match self.map.chunk_at(index) {
            Chunk::Zero => None,
            Chunk::Data(_) => Some((*self.starts.get(at)?, self.starts.get(at + 1)? - self.starts.get(at)?)),
        }
    }

    /// The stored (compressed) bytes of data chunk `index`.
    ///
    /// # Errors
    /// There is no such data chunk, or it cannot be read.
    pub fn chunk(&self, index: u64) -> Result<Vec<u8>> {
        let digest = self.map.digest();
        let (offset, len) = self.place(index).ok_or(StoreError::NoSuchChunk { digest, index })?;
        let mut bytes = vec![0; len as usize];
        self.data.read_exact_at(&mut bytes, offset).map_err(io_at("read", &self.path))?;
        Ok(bytes)
    }

    /// All data chunks from `from` on as one stream: per chunk its index and
    /// stored length (u32 each, little-endian), then the stored bytes. The
    /// other end is [`FramedSource`](crate::FramedSource).
    #[must_use]
    pub fn frames(self: &Arc<Self>, from: u64) -> Frames {
        Frames { image: Arc::clone(self), next: from, header: [0; FRAME_HEADER], state: Frame::Next }
    }

    /// Length of [`frames`](Self::frames) in bytes, for a `Content-Length`.
    #[must_use]
    pub fn frames_len(&self, from: u64) -> u64 {
        let places = (from..self.map.chunks().len() as u64).filter_map(|index| self.place(index));
        places.map(|(_, len)| FRAME_HEADER as u64 + len).sum()
    }

    /// Reads everything and compares it with the map: what an admin does after
    /// a disk of the server had trouble.
    ///
    /// # Errors
    /// The first chunk that is damaged or cannot be read.
    pub fn verify(&self) -> Result<()> {
        let mut reader = ImageReader::new(self)?;
        (0..self.map.chunks().len() as u64).try_for_each(|index| reader.load(index))
    }
}

fn damaged(path: &Path, why: String) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), why }
}

/// The raw image at any offset, one decompressed chunk at a time.
pub struct ImageReader<I> {
    image: I,
    decompressor: Decompressor,
    plain: Vec<u8>,
    loaded: Option<u64>,
}

impl<I: Borrow<StoredImage>> ImageReader<I> {
    /// Reads from `image`, borrowed or shared.
    ///
    /// # Errors
    /// Decompression cannot be set up.
    pub fn new(image: I) -> Result<Self> {
        let decompressor = Decompressor::new().map_err(io_at("decompress", &image.borrow().path))?;
        Ok(Self { image, decompressor, plain: Vec::new(), loaded: None })
    }

    /// Fills `buf` from byte `offset` of the image.
    ///
    /// # Errors
    /// The range is not inside the image, or a chunk is damaged or unreadable.
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let map = &self.image.borrow().map;
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= map.size());
        if end.is_none() {
            return Err(io_at("read beyond the end of", &self.image.borrow().path)(
                io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        let chunk = u64::from(map.chunk());
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            self.load(at / chunk)?;
            let part = &self.plain[(at % chunk) as usize..];
            let len = part.len().min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&part[..len]);
            done += len;
        }
        Ok(())
    }

    fn load(&mut self, index: u64) -> Result<()> {
        if self.loaded == Some(index) {
            return Ok(());
        }
        self.loaded = None;
        self.plain.clear();
        self.plain.resize(self.image.borrow().map.chunk_len(index), 0);
        if let Chunk::Data(hash) = self.image.borrow().map.chunk_at(index) {
            let stored = self.image.borrow().chunk(index)?;
            let checked = self.decompressor.decompress(&stored, &mut self.plain, &hash);
            checked.map_err(|bad| damaged(&self.image.borrow().path, format!("chunk {index}: {}", bad.0)))?;
        }
        self.loaded = Some(index);
        Ok(())
    }
}

/// A store on the same machine is a source of chunks as well.
impl ChunkSource for Arc<StoredImage> {
    fn fetch(&mut self, index: u64, limit: usize, out: &mut Vec<u8>) -> std::result::Result<(), SourceError> {
        let (offset, len) = self.place(index).ok_or(SourceError::Absent(index))?;
        if len > limit as u64 {
            let why = format!("{len} stored bytes, more than {limit}");
            return Err(SourceError::Protocol { index, why });
        }
        out.resize(len as usize, 0);
        self.data.read_exact_at(out, offset).map_err(|source| SourceError::Io { index, source })
    }
}

enum Frame {
    Next,
    Header { done: usize, offset: u64, len: u64 },
    Body { offset: u64, left: u64 },
}

/// See [`StoredImage::frames`].
pub struct Frames {
    image: Arc<StoredImage>,
    next: u64,
    header: [u8; FRAME_HEADER],
    state: Frame,
}

impl Frames {
    /// Moves on to the next data chunk; false at the end.
    fn advance(&mut self) -> bool {
        while self.next < self.image.map.chunks().len() as u64 {
            let index = self.next;
            self.next += 1;
            if let Some((offset, len)) = self.image.place(index) {
                // Both fit: a map has at most 2^20 chunks of at most 16 MiB.
                self.header = frame_header(index as u32, len as u32);
                self.state = Frame::Header { done: 0, offset, len };
                return true;
            }
        }
        false
    }
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                Frame::Next => {
                    if !self.advance() {
                        return Ok(0);
                    }
                }
                Frame::Header { done, offset, len } => {
                    let part = buf.len().min(FRAME_HEADER - done);
                    buf[..part].copy_from_slice(&self.header[done..done + part]);
                    self.state = match done + part {
                        FRAME_HEADER => Frame::Body { offset, left: len },
                        done => Frame::Header { done, offset, len },
                    };
                    return Ok(part);
                }
                Frame::Body { left: 0, .. } => self.state = Frame::Next,
                Frame::Body { offset, left } => {
                    let part = (buf.len() as u64).min(left) as usize;
                    let got = self.image.data.read_at(&mut buf[..part], offset)?;
                    if got == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.state = Frame::Body { offset: offset + got as u64, left: left - got as u64 };
                    return Ok(got);
                }
            }
        }
    }
}
