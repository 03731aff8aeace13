//! Putting an image on a device: mapped chunks written, everything else erased.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::buffer::{AlignedBuf, is_zero};
use crate::codec::{Decompressor, max_stored_len};
use crate::map::{BlockMap, Chunk};
use crate::source::{ChunkSource, SourceError};
use crate::target::{IoMethod, Target, ZeroMethod};

/// Longest range erased by one request. A device may take long over one, and
/// neither cancel nor progress gets a word in meanwhile.
const ERASE_PIECE: u64 = 64 << 20;

/// How ranges outside the image's data are erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Erase {
    /// The fastest way that promises zeroes (see [`ZeroMethod`]).
    #[default]
    Offload,
    /// Zeroes written like data: for a device whose promise a proof refuted.
    Write,
}

/// Choices for one write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// First device chunk still to do, as given by [`Stopped::resume_from`].
    /// Chunks before it are taken as done; the proof checks them all the same.
    pub resume_from: Option<u64>,
    /// Read first, and write (and fetch) only what differs.
    pub differential: bool,
    /// How to erase.
    pub erase: Erase,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Writing and erasing.
    Write,
    /// Waiting for the device to say that all is on stable storage.
    Flush,
    /// Reading back.
    Prove,
}

/// Where a job is; all counts are bytes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it is doing.
    pub step: Step,
    /// Everything before this offset is done.
    pub done: u64,
    /// The device's length.
    pub total: u64,
}

/// What a finished write did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Chunks with data that were fetched, checked and written.
    pub chunks_written: u64,
    /// Chunks with data the device already held (differential only).
    pub chunks_kept: u64,
    /// Bytes of image data written.
    pub bytes_written: u64,
    /// Bytes erased.
    pub bytes_erased: u64,
    /// Bytes found to be zero already (differential only).
    pub bytes_kept_zero: u64,
    /// Compressed bytes fetched.
    pub bytes_fetched: u64,
    /// How data was written.
    pub method: IoMethod,
    /// How ranges were erased, each way once.
    pub erase_methods: Vec<ZeroMethod>,
    /// Device chunk this write started at.
    pub started_at: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Why a write did not finish.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Not even the image fits.
    #[error("the device holds {device} bytes, the image {image}: take a larger disk or another image")]
    TooSmall {
        /// Device length in bytes.
        device: u64,
        /// Image length in bytes.
        image: u64,
    },
    /// The resume point is not on this device.
    #[error("cannot resume at chunk {asked}: the device has {chunks} chunks")]
    ResumeBeyondEnd {
        /// Where to resume.
        asked: u64,
        /// Chunks of the device.
        chunks: u64,
    },
    /// A chunk is not the one the map names. Nothing of it was written.
    #[error("chunk {index} is corrupt: {why}; fetch it again")]
    ChunkCorrupt {
        /// The chunk.
        index: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A chunk could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The device refused.
    #[error("cannot {what} {len} bytes at {offset}: {source}")]
    Device {
        /// What was attempted.
        what: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// What came back.
        source: io::Error,
    },
    /// The decompressor could not be set up.
    #[error("cannot set up decompression: {0}")]
    Setup(io::Error),
    /// The caller's flag was set.
    #[error("cancelled")]
    Cancelled,
}

/// A write that ended early. [`resume_from`](Self::resume_from) goes into the
/// next one's options; what was written before it was not necessarily flushed,
/// which a restart of the machine makes void.
#[derive(Debug, thiserror::Error)]
#[error("image write stopped at chunk {resume_from}: {cause}")]
pub struct Stopped {
    /// First device chunk not done.
    pub resume_from: u64,
    /// Why.
    #[source]
    pub cause: WriteError,
}

/// One image and one device, written and then proven.
///
/// Chunks are counted over the whole device: those behind the image's end are
/// its tail, so that erasing a large tail can be resumed as well.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The image.
    pub map: &'a BlockMap,
    /// Looked at before every chunk.
    pub cancel: &'a AtomicBool,
    /// Called after every chunk from the job's own thread; must not block.
    pub progress: &'a dyn Fn(Progress),
}

impl<'a> Job<'a> {
    /// Writes the image and erases the rest of the device, then flushes.
    ///
    /// # Errors
    /// [`Stopped`] says why and where to go on.
    pub fn write(
        &self,
        target: &mut dyn Target,
        source: &mut dyn ChunkSource,
        options: WriteOptions,
    ) -> Result<Written, Stopped> {
        let start = options.resume_from.unwrap_or(0);
        let began = Instant::now();
        let stopped = |resume_from, cause| Stopped { resume_from, cause };
        let mut writer = Writer::new(*self, target, source, options).map_err(|e| stopped(start, e))?;
        let mut at = start;
        while at < writer.device_chunks {
            at = writer.step(at).map_err(|cause| stopped(at, cause))?;
            self.report(Step::Write, at, writer.device);
        }
        self.report(Step::Flush, at, writer.device);
        let flushed = writer.target.flush();
        flushed.map_err(|e| stopped(start, device("flush", 0, writer.device)(e)))?;
        let mut written = writer.written;
        written.method = writer.target.io_method();
        written.took_ms = began.elapsed().as_millis() as u64;
        Ok(written)
    }

    pub(crate) fn report(&self, step: Step, chunk: u64, total: u64) {
        let done = chunk.saturating_mul(u64::from(self.map.chunk())).min(total);
        (self.progress)(Progress { step, done, total });
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Chunks of a device of `size` bytes, the image's and the tail's.
    pub(crate) fn device_chunks(&self, size: u64) -> u64 {
        size.div_ceil(u64::from(self.map.chunk()))
    }

    /// The device's bytes that chunks `from..to` stand for.
    pub(crate) fn range(&self, from: u64, to: u64, size: u64) -> Range<u64> {
        let chunk = u64::from(self.map.chunk());
        from * chunk..(to * chunk).min(size)
    }
}

/// Maps a device error of one operation.
fn device(what: &'static str, offset: u64, len: u64) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError::Device { what, offset, len, source }
}

struct Writer<'j> {
    job: Job<'j>,
    target: &'j mut dyn Target,
    source: &'j mut dyn ChunkSource,
    options: WriteOptions,
    device: u64,
    device_chunks: u64,
    decompressor: Decompressor,
    /// One chunk as it goes to, or came from, the device.
    plain: AlignedBuf,
    stored: Vec<u8>,
    written: Written,
}

impl<'j> Writer<'j> {
    fn new(
        job: Job<'j>,
        target: &'j mut dyn Target,
        source: &'j mut dyn ChunkSource,
        options: WriteOptions,
    ) -> Result<Self, WriteError> {
        let device = target.size();
        if device < job.map.size() {
            return Err(WriteError::TooSmall { device, image: job.map.size() });
        }
        let device_chunks = job.device_chunks(device);
        let started_at = options.resume_from.unwrap_or(0);
        if started_at > device_chunks {
            return Err(WriteError::ResumeBeyondEnd { asked: started_at, chunks: device_chunks });
        }
        let written = Written {
            chunks_written: 0,
            chunks_kept: 0,
            bytes_written: 0,
            bytes_erased: 0,
            bytes_kept_zero: 0,
            bytes_fetched: 0,
            method: target.io_method(),
            erase_methods: Vec::new(),
            started_at,
            took_ms: 0,
        };
        Ok(Self {
            decompressor: Decompressor::new().map_err(WriteError::Setup)?,
            plain: AlignedBuf::new(job.map.chunk() as usize),
            stored: Vec::new(),
            job,
            target,
            source,
            options,
            device,
            device_chunks,
            written,
        })
    }

    /// Does chunk `at`, or the run of zero chunks that starts there; gives the
    /// next chunk to do.
    fn step(&mut self, at: u64) -> Result<u64, WriteError> {
        if self.job.cancelled() {
            return Err(WriteError::Cancelled);
        }
        match self.job.map.chunk_at(at) {
            Chunk::Data(hash) => {
                self.data(at, &hash)?;
                Ok(at + 1)
            }
            Chunk::Zero if self.options.differential => {
                self.zero_if_needed(at)?;
                Ok(at + 1)
            }
            Chunk::Zero => {
                let next = self.zero_run(at);
                self.erase(self.job.range(at, next, self.device))?;
                Ok(next)
            }
        }
    }

    fn data(&mut self, index: u64, hash: &[u8; 32]) -> Result<(), WriteError> {
        let range = self.job.range(index, index + 1, self.device);
        let (whole, image) = ((range.end - range.start) as usize, self.job.map.chunk_len(index));
        if self.options.differential {
            self.read(&range)?;
            let (data, rest) = self.plain[..whole].split_at(image);
            if is_zero(rest) && blake3::hash(data).as_bytes() == hash {
                self.written.chunks_kept += 1;
                return Ok(());
            }
        }
        self.stored.clear();
        let limit = max_stored_len(self.job.map.chunk());
        self.source.fetch(index, limit, &mut self.stored)?;
        if self.stored.len() > limit {
            let why = format!("{} compressed bytes, more than {limit}", self.stored.len());
            return Err(WriteError::ChunkCorrupt { index, why });
        }
        self.written.bytes_fetched += self.stored.len() as u64;
        let (data, rest) = self.plain[..whole].split_at_mut(image);
        self.decompressor
            .decompress(&self.stored, data, hash)
            .map_err(|bad| WriteError::ChunkCorrupt { index, why: bad.0 })?;
        // The last chunk may end before its device range does.
        rest.fill(0);
        let write = self.target.write_at(range.start, &self.plain[..whole]);
        write.map_err(device("write", range.start, whole as u64))?;
        self.written.chunks_written += 1;
        self.written.bytes_written += image as u64;
        self.written.bytes_erased += (whole - image) as u64;
        Ok(())
    }

    fn zero_if_needed(&mut self, index: u64) -> Result<(), WriteError> {
        let range = self.job.range(index, index + 1, self.device);
        self.read(&range)?;
        let len = range.end - range.start;
        if is_zero(&self.plain[..len as usize]) {
            self.written.bytes_kept_zero += len;
            return Ok(());
        }
        self.erase(range)
    }

    fn read(&mut self, range: &Range<u64>) -> Result<(), WriteError> {
        let len = range.end - range.start;
        let read = self.target.read_at(range.start, &mut self.plain[..len as usize]);
        read.map_err(device("read", range.start, len))
    }

    /// One past the last chunk of the zero run, bounded by [`ERASE_PIECE`].
    fn zero_run(&self, at: u64) -> u64 {
        let most = (ERASE_PIECE / u64::from(self.job.map.chunk())).max(1);
        let end = self.device_chunks.min(at + most);
        (at + 1..end).find(|&next| self.job.map.chunk_at(next) != Chunk::Zero).unwrap_or(end)
    }

    fn erase(&mut self, range: Range<u64>) -> Result<(), WriteError> {
        let len = range.end - range.start;
        let how = match self.options.erase {
            Erase::Offload => self.target.zero(range.start, len),
            Erase::Write => self.write_zeroes(&range),
        };
        let how = how.map_err(device("erase", range.start, len))?;
        if !self.written.erase_methods.contains(&how) {
            self.written.erase_methods.push(how);
        }
        self.written.bytes_erased += len;
        Ok(())
    }

    fn write_zeroes(&mut self, range: &Range<u64>) -> io::Result<ZeroMethod> {
        self.plain.fill(0);
        let mut at = range.start;
        while at < range.end {
            let part = (range.end - at).min(self.plain.len() as u64);
            self.target.write_at(at, &self.plain[..part as usize])?;
            at += part;
        }
        Ok(ZeroMethod::Written)
    }
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
