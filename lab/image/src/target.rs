//! What is written to and read back: a block device, or a file that stands for one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::buffer::{ALIGN, AlignedBuf};
use crate::ioctl;

/// How bytes reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoMethod {
    /// `O_DIRECT`, past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// How bytes come back for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadMethod {
    /// `O_DIRECT`, past the page cache.
    Direct,
    /// Flushed, the cached pages dropped, then read again.
    CacheDropped,
}

/// How a range was made zero. All of them leave zeroes, not hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroMethod {
    /// `BLKZEROOUT` on a block device.
    ZeroOut,
    /// A hole in a file, which reads as zero.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE` in a file.
    ZeroRange,
    /// Zeroes written like data.
    Written,
}

/// A disk as the writer, the prover and the seed's writer see it. Offsets and
/// lengths are bytes of any alignment.
pub trait Target {
    /// Length in bytes.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// What the system said; a read beyond the end is one too.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system said.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range read as zero and says how.
    ///
    /// # Errors
    /// What the system said.
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<ZeroMethod>;
    /// Returns when all written bytes are on stable storage.
    ///
    /// # Errors
    /// What the system said: then nothing written since the last flush counts.
    fn flush(&mut self) -> io::Result<()>;
    /// Flushes, and sees to it that reads come from the device.
    ///
    /// # Errors
    /// What the system said.
    fn forget_cached(&mut self) -> io::Result<ReadMethod>;
    /// How `write_at` works at the moment.
    fn io_method(&self) -> IoMethod;
}

/// Why a path cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("cannot {what} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The device or file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// It exists, but is no disk.
    #[error("{} is neither a block device nor a regular file", .0.display())]
    NotADisk(PathBuf),
    /// The name changed its meaning while it was being opened.
    #[error("{} became another device while it was opened; look again which disk is meant", .0.display())]
    Changed(PathBuf),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) => " (it is mounted or in use: unmount it first)",
        Some(Errno::ACCESS | Errno::PERM) => " (root or the disk group may open disks)",
        _ => "",
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    File,
}

/// A block device, or a file as the disk of a simulated machine.
///
/// Two descriptors: one for direct I/O, and one through the page cache for the
/// few bytes that direct I/O cannot address. The kernel keeps them coherent.
pub struct DiskTarget {
    path: PathBuf,
    kind: Kind,
    size: u64,
    cached: File,
    direct: Option<File>,
    /// Ways of zeroing this device refused; asked only once.
    refused: Vec<ZeroMethod>,
}

impl DiskTarget {
    /// Opens for writing; a block device exclusively, so a mounted one is refused.
    ///
    /// # Errors
    /// It cannot be opened or is no disk.
    pub fn open(path: &Path) -> Result<Self, TargetError> {
        Self::open_as(path, OFlags::EXCL)
    }

    /// Opens for writing beside other users of the device: the host agent
    /// reads and wipes the seed on the disk it runs from.
    ///
    /// # Errors
    /// It cannot be opened or is no disk.
    pub fn open_shared(path: &Path) -> Result<Self, TargetError> {
        Self::open_as(path, OFlags::empty())
    }

    fn open_as(path: &Path, claim: OFlags) -> Result<Self, TargetError> {
        let fail = |what, source| TargetError::Io { what, path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(|e| fail("look at", e))?;
        let kind = match meta.file_type() {
            t if t.is_block_device() => Kind::Block,
            t if t.is_file() => Kind::File,
            _ => return Err(TargetError::NotADisk(path.to_owned())),
        };
        // O_EXCL without O_CREAT has a meaning for block devices only.
        let claim = if kind == Kind::Block { claim } else { OFlags::empty() };
        let mut cached = open(path, claim).map_err(|e| fail("open", e))?;
        let same = |file: &File| {
            let now = file.metadata()?;
            let id = |m: &std::fs::Metadata| (m.dev(), m.ino(), m.rdev());
            Ok(id(&now) == id(&meta))
        };
        if !same(&cached).map_err(|e| fail("look at", e))? {
            return Err(TargetError::Changed(path.to_owned()));
        }
        let size = cached.seek(SeekFrom::End(0)).map_err(|e| fail("find the size of", e))?;
        let direct = match open(path, OFlags::DIRECT) {
            Ok(file) if same(&file).map_err(|e| fail("look at", e))? => Some(file),
            Ok(_) => return Err(TargetError::Changed(path.to_owned())),
            // Some file systems have no direct I/O; the cache does as well.
            Err(e) if is(&e, Errno::INVAL) || is(&e, Errno::OPNOTSUPP) => None,
            Err(e) => return Err(fail("open", e)),
        };
        Ok(Self { path: path.to_owned(), kind, size, cached, direct, refused: Vec::new() })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device rather than a file.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.kind == Kind::Block
    }

    /// How much of a transfer direct I/O can take: whole aligned blocks from
    /// an aligned start, out of an aligned buffer.
    fn direct_len(&self, offset: u64, bytes: &[u8]) -> usize {
        let aligned = offset.is_multiple_of(ALIGN as u64) && bytes.as_ptr().addr().is_multiple_of(ALIGN);
        if self.direct.is_some() && aligned { bytes.len() / ALIGN * ALIGN } else { 0 }
    }

    fn within(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{len} bytes at {offset} reach beyond the end ({} bytes)", self.size),
            )),
        }
    }

    fn try_zero(&self, how: ZeroMethod, offset: u64, len: u64) -> io::Result<()> {
        let keep = FallocateFlags::KEEP_SIZE;
        match how {
            ZeroMethod::ZeroOut => self.zero_out(offset, len),
            ZeroMethod::PunchHole => {
                let mode = FallocateFlags::PUNCH_HOLE | keep;
                Ok(rustix::fs::fallocate(&self.cached, mode, offset, len)?)
            }
            ZeroMethod::ZeroRange => {
                let mode = FallocateFlags::ZERO_RANGE | keep;
                Ok(rustix::fs::fallocate(&self.cached, mode, offset, len)?)
            }
            ZeroMethod::Written => self.write_zeroes(offset, len),
        }
    }

    /// The kernel takes whole blocks; the ragged ends go through the cache.
    fn zero_out(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let first = offset.next_multiple_of(ALIGN as u64);
        let last = end / ALIGN as u64 * ALIGN as u64;
        if first >= last {
            return self.write_zeroes(offset, len);
        }
        ioctl::zero_out(self.cached.as_fd(), first, last - first)?;
        self.write_zeroes(offset, first - offset)?;
        self.write_zeroes(last, end - last)
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        const PIECE: u64 = 1 << 20;
        if len == 0 {
            return Ok(());
        }
        let zeroes = AlignedBuf::new(len.min(PIECE) as usize);
        let (mut at, end) = (offset, offset + len);
        while at < end {
            // After the first piece every start is aligned.
            let boundary = (at + 1).next_multiple_of(PIECE);
            let part = (end - at).min(boundary - at).min(zeroes.len() as u64) as usize;
            let part = &zeroes[..part];
            let direct = self.direct_len(at, part);
            if let (Some(file), true) = (&self.direct, direct > 0) {
                file.write_all_at(&part[..direct], at)?;
            }
            self.cached.write_all_at(&part[direct..], at + direct as u64)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

impl Target for DiskTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.within(offset, buf.len() as u64)?;
        let mut done = self.direct_len(offset, buf);
        if let (Some(file), true) = (&self.direct, done > 0) {
            match file.read_exact_at(&mut buf[..done], offset) {
                Err(e) if is(&e, Errno::INVAL) => {
                    self.direct = None;
                    done = 0;
                }
                other => other?,
            }
        }
        self.cached.read_exact_at(&mut buf[done..], offset + done as u64)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.within(offset, bytes.len() as u64)?;
        let mut done = self.direct_len(offset, bytes);
        if let (Some(file), true) = (&self.direct, done > 0) {
            match file.write_all_at(&bytes[..done], offset) {
                // Larger blocks than ours, or a file system that opens but
                // does not write directly: from now on through the cache.
                Err(e) if is(&e, Errno::INVAL) => {
                    self.direct = None;
                    done = 0;
                }
                other => other?,
            }
        }
        self.cached.write_all_at(&bytes[done..], offset + done as u64)
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<ZeroMethod> {
        self.within(offset, len)?;
        let ways: &[ZeroMethod] = match self.kind {
            Kind::Block => &[ZeroMethod::ZeroOut],
            Kind::File => &[ZeroMethod::PunchHole, ZeroMethod::ZeroRange],
        };
        for &how in ways {
            if len == 0 || self.refused.contains(&how) {
                continue;
            }
            match self.try_zero(how, offset, len) {
                Ok(()) => return Ok(how),
                // "This way does not exist here" is no failure of the disk;
                // everything else is.
                Err(e) if not_offered(&e) => self.refused.push(how),
                Err(e) => return Err(e),
            }
        }
        match self.write_zeroes(offset, len) {
            Err(e) if is(&e, Errno::INVAL) && self.direct.is_some() => {
                self.direct = None;
                self.write_zeroes(offset, len)?;
            }
            other => other?,
        }
        Ok(ZeroMethod::Written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.cached.sync_all()
    }

    fn forget_cached(&mut self) -> io::Result<ReadMethod> {
        self.flush()?;
        if self.kind == Kind::Block
            && let Err(e) = ioctl::flush_buffers(self.cached.as_fd())
            && !(is(&e, Errno::ACCESS) || is(&e, Errno::PERM))
        {
            return Err(e);
        }
        rustix::fs::fadvise(&self.cached, 0, None, Advice::DontNeed)?;
        Ok(if self.direct.is_some() { ReadMethod::Direct } else { ReadMethod::CacheDropped })
    }

    fn io_method(&self) -> IoMethod {
        if self.direct.is_some() { IoMethod::Direct } else { IoMethod::Buffered }
    }
}

fn open(path: &Path, extra: OFlags) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(extra.bits() as i32).open(path)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn not_offered(error: &io::Error) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NOTTY, Errno::INVAL, Errno::PERM]
        .into_iter()
        .any(|errno| is(error, errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::is_zero;

    fn disk(len: usize) -> (tempfile::NamedTempFile, DiskTarget) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xa5; len]).unwrap();
        let target = DiskTarget::open(file.path()).unwrap();
        (file, target)
    }

    #[test]
    fn every_way_of_zeroing_a_file_zeroes_exactly_the_range() {
        let ways = [ZeroMethod::PunchHole, ZeroMethod::ZeroRange, ZeroMethod::Written];
        for refused in [&ways[..0], &ways[..1], &ways[..2]] {
            for (offset, len) in [(0, 300_001), (1, 4095), (4096, 8192), (5000, 100), (4095, 2), (7, 0)] {
                let (file, mut target) = disk(300_001);
                target.refused = refused.to_vec();
                let how = target.zero(offset, len).unwrap();
                assert!(!refused.contains(&how));
                let bytes = std::fs::read(file.path()).unwrap();
                let (offset, end) = (offset as usize, (offset + len) as usize);
                assert!(is_zero(&bytes[offset..end]), "{how:?} left something in {offset}+{len}");
                let outside = bytes[..offset].iter().chain(&bytes[end..]);
                assert!(outside.into_iter().all(|&b| b == 0xa5), "{how:?} hit its neighbours");
                assert_eq!(bytes.len(), 300_001);
            }
        }
    }

    #[test]
    fn unaligned_reads_and_writes_are_exact() {
        let (file, mut target) = disk(20_000);
        let mut buf = AlignedBuf::new(10_001);
        buf.fill(7);
        target.write_at(4096, &buf).unwrap();
        target.write_at(3, &[9]).unwrap();
        target.flush().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes[3], 9);
        assert!(bytes[4096..14_097].iter().all(|&b| b == 7));
        assert_eq!((bytes[4095], bytes[14_097]), (0xa5, 0xa5));
        buf.fill(0);
        target.read_at(4096, &mut buf).unwrap();
        assert!(buf.iter().all(|&b| b == 7));
    }

    #[test]
    fn nothing_is_written_or_read_beyond_the_end() {
        let (file, mut target) = disk(8192);
        assert!(target.write_at(8191, &[1, 2]).is_err());
        assert!(target.write_at(u64::MAX, &[1, 2]).is_err());
        assert!(target.read_at(8192, &mut [0]).is_err());
        assert!(target.zero(4096, 4097).is_err());
        assert_eq!(file.as_file().metadata().unwrap().len(), 8192);
    }

    #[test]
    fn a_directory_or_character_device_is_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(DiskTarget::open(dir.path()), Err(TargetError::NotADisk(_))));
        assert!(matches!(DiskTarget::open(Path::new("/dev/null")), Err(TargetError::NotADisk(_))));
        let absent = DiskTarget::open(&dir.path().join("absent"));
        assert!(matches!(absent, Err(TargetError::Io { .. })));
    }
}
