//! Taking an image in: one pass over the source, bounded memory.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Cursor, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::files::{TempDir, sync_dir, write_synced};
use super::{ImageReader, ImageStore, Manifest, Result, StoreError, StoredImage, check_name, io_at};
use crate::buffer::{is_zero, nonzero_span};
use crate::codec::Compressor;
use crate::detect::find_seed_partition;
use crate::map::{BlockMap, Chunk, DEFAULT_CHUNK, Digest, MAX_CHUNKS, MAX_IMAGE_SIZE, MapError, Seed};

/// RFC 8878 §3.1.1.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where the seed area is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeedChoice {
    /// The partition made for it, if the image has one: see
    /// [`find_seed_partition`]. One that is not all zero is not taken.
    #[default]
    Detect,
    /// The image has none.
    None,
    /// Here. It must be all zero.
    At(Seed),
}

/// Choices for [`ImageStore::add`].
#[derive(Clone, Debug)]
pub struct AddOptions {
    /// Free text, at most 64 printable characters.
    pub kind: String,
    /// The caller's clock: milliseconds since 1970 UTC.
    pub added_unix_ms: i64,
    /// Where the seed area is.
    pub seed: SeedChoice,
    /// Chunk length in bytes, a power of two from 4 KiB to 16 MiB.
    pub chunk: u32,
    /// A name that stands for another image is not taken from it.
    pub keep: bool,
}

impl Default for AddOptions {
    fn default() -> Self {
        Self {
            kind: String::new(),
            added_unix_ms: 0,
            seed: SeedChoice::Detect,
            chunk: DEFAULT_CHUNK,
            keep: false,
        }
    }
}

impl ImageStore {
    /// [`add`](Self::add) from a file.
    ///
    /// # Errors
    /// As `add`, or the file cannot be opened.
    pub fn add_file(&self, name: &str, path: &Path, options: &AddOptions) -> Result<Manifest> {
        let file = File::open(path).map_err(io_at("open", path))?;
        self.add(name, file, options)
    }

    /// Takes in a raw image, or a zstd-compressed one (told by its first
    /// bytes), and lets `name` stand for it. A name that stood for something
    /// else is replaced, unless `keep` says no; content that is here already is not stored again.
    ///
    /// # Errors
    /// The name or options are wrong, the source fails, or the disk does. The
    /// store is then as it was before.
    pub fn add(&self, name: &str, source: impl Read, options: &AddOptions) -> Result<Manifest> {
        check_name(name)?;
        if options.kind.chars().count() > 64 || options.kind.chars().any(char::is_control) {
            return Err(StoreError::Kind);
        }
        // Checks the chunk length before a byte is read.
        BlockMap::new(0, options.chunk, None, Vec::new())?;
        let temp = TempDir::new(&self.tmp())?;
        let (image, sha256) = take_in(temp.path(), source, options)?;
        let map = image.map();
        let manifest = Manifest {
            version: 1,
            name: name.into(),
            kind: options.kind.clone(),
            digest: map.digest(),
            size: map.size(),
            chunk: map.chunk(),
            mapped: map.mapped(),
            stored: image.stored_bytes(),
            sha256,
            added_unix_ms: options.added_unix_ms,
            seed: map.seed(),
        };
        self.publish(&temp, &manifest, options.keep)?;
        Ok(manifest)
    }

    /// Whether the image is here and every chunk of it is sound.
    fn holds_whole(&self, digest: &Digest) -> Result<bool> {
        let blob = self.blob(digest);
        if !blob.is_dir() {
            return Ok(false);
        }
        let checked = StoredImage::open(&blob, digest).and_then(|image| image.verify());
        match checked.and_then(|()| self.by_digest(digest)) {
            Ok(_) => Ok(true),
            Err(StoreError::Damaged { .. } | StoreError::Unknown(_)) => Ok(false),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(other) => Err(other),
        }
    }

    fn publish(&self, temp: &TempDir, manifest: &Manifest, keep: bool) -> Result<()> {
        let json = serde_json::to_vec_pretty(manifest).map_err(io::Error::from);
        let json = json.map_err(io_at("describe the image in", temp.path()))?;
        write_synced(&temp.path().join("manifest.json"), &json)?;
        sync_dir(temp.path())?;
        let _lock = self.lock()?;
        match self.by_name(&manifest.name) {
            Ok(there) if keep && there.digest != manifest.digest => {
                return Err(StoreError::Taken { name: there.name, digest: there.digest });
            }
            _ => {} // what cannot be read is what a new one mends
        }
        let link_temp = TempDir::new(&self.tmp())?;
        let blob = self.blob(&manifest.digest);
        if !self.holds_whole(&manifest.digest)? {
            if blob.is_dir() {
                // Adding again is how a damaged image is mended.
                let damaged = link_temp.path().join("damaged");
                std::fs::rename(&blob, &damaged).map_err(io_at("move away", &blob))?;
                self.forget(&manifest.digest);
            }
            std::fs::rename(temp.path(), &blob).map_err(io_at("publish", &blob))?;
            sync_dir(&self.blobs())?;
        }
        let (new, link) = (link_temp.path().join("name"), self.link(&manifest.name));
        write_synced(&new, &json)?;
        std::fs::rename(&new, &link).map_err(io_at("publish", &link))?;
        sync_dir(&self.names())
    }
}

/// Writes data, index and map into `dir`; everything synced but the directory.
fn take_in(dir: &Path, source: impl Read, options: &AddOptions) -> Result<(StoredImage, String)> {
    let mut intake = Intake::new(dir, options.chunk)?;
    intake.run(plain_reader(source)?)?;
    let Intake { data, data_path, index, chunks, size, sha, .. } = intake;
    if size == 0 {
        return Err(StoreError::Empty);
    }
    let data = data.into_inner().map_err(io::IntoInnerError::into_error);
    data.and_then(|file| file.sync_all()).map_err(io_at("write", &data_path))?;
    // The seed is found by looking into what was just stored: a stream cannot
    // be read twice.
    let image =
        StoredImage::assemble(dir, BlockMap::new(size, options.chunk, None, chunks.clone())?, &index)?;
    let seed = choose_seed(&image, options.seed)?;
    let image = match seed {
        None => image,
        seed => StoredImage::assemble(dir, BlockMap::new(size, options.chunk, seed, chunks)?, &index)?,
    };
    write_synced(&dir.join("index"), &index)?;
    write_synced(&dir.join("map"), &image.map().encode())?;
    Ok((image, hex::encode(sha.finalize())))
}

/// The raw bytes of the source, decompressed if need be.
fn plain_reader<'r>(mut source: impl Read + 'r) -> Result<Box<dyn Read + 'r>> {
    let failed = |source| StoreError::Source { offset: 0, source };
    let mut start = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut start).map_err(failed)?;
    let compressed = start == ZSTD_MAGIC;
    let whole = Cursor::new(start).chain(source);
    if compressed {
        // zstd refuses windows over 128 MiB by itself, which bounds memory.
        let decoder = zstd::stream::read::Decoder::new(BufReader::new(whole));
        return Ok(Box::new(decoder.map_err(failed)?));
    }
    Ok(Box::new(whole))
}

struct Intake {
    chunk: usize,
    data: BufWriter<File>,
    data_path: std::path::PathBuf,
    compressor: Compressor,
    index: Vec<u8>,
    chunks: Vec<Chunk>,
    size: u64,
    sha: Sha256,
}

impl Intake {
    fn new(dir: &Path, chunk: u32) -> Result<Self> {
        let data_path = dir.join("data");
        let data = File::create_new(&data_path).map_err(io_at("make", &data_path))?;
        Ok(Self {
            chunk: chunk as usize,
            data: BufWriter::with_capacity(1 << 18, data),
            compressor: Compressor::new().map_err(io_at("compress into", &data_path))?,
            data_path,
            index: Vec::new(),
            chunks: Vec::new(),
            size: 0,
            sha: Sha256::new(),
        })
    }

    fn run(&mut self, mut raw: Box<dyn Read + '_>) -> Result<()> {
        let mut buf = vec![0; self.chunk];
        loop {
            let got = read_full(&mut raw, &mut buf);
            let got = got.map_err(|source| StoreError::Source { offset: self.size, source })?;
            if got == 0 {
                return Ok(());
            }
            self.take(&buf[..got])?;
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        if self.size > MAX_IMAGE_SIZE {
            return Err(MapError::Size(self.size).into());
        }
        if self.chunks.len() as u64 >= MAX_CHUNKS {
            return Err(MapError::TooManyChunks(MAX_CHUNKS + 1).into());
        }
        self.sha.update(bytes);
        if is_zero(bytes) {
            self.chunks.push(Chunk::Zero);
            return Ok(());
        }
        self.chunks.push(Chunk::Data(*blake3::hash(bytes).as_bytes()));
        let stored = self.compressor.compress(bytes);
        let stored = stored.map_err(io_at("compress into", &self.data_path))?;
        // Fits: a chunk is at most 16 MiB.
        self.index.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        self.data.write_all(&stored).map_err(io_at("write", &self.data_path))
    }
}

/// Reads until `buf` is full or the source ends.
fn read_full(source: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match source.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn choose_seed(image: &StoredImage, choice: SeedChoice) -> Result<Option<Seed>> {
    let mut reader = ImageReader::new(image)?;
    let size = image.map().size();
    match choice {
        SeedChoice::None => Ok(None),
        SeedChoice::At(seed) => {
            seed.check(size)?;
            match first_nonzero(&mut reader, seed)? {
                Some(at) => Err(StoreError::SeedInUse { offset: seed.offset, len: seed.len, at }),
                None => Ok(Some(seed)),
            }
        }
        SeedChoice::Detect => {
            let found = find_seed_partition(size, &mut |offset, buf| reader.read_at(offset, buf))?;
            match found {
                Some(seed) if first_nonzero(&mut reader, seed)?.is_none() => Ok(Some(seed)),
                _ => Ok(None),
            }
        }
    }
}

fn first_nonzero(reader: &mut ImageReader<&StoredImage>, seed: Seed) -> Result<Option<u64>> {
    let mut buf = vec![0; 1 << 16];
    let (mut at, end) = (seed.offset, seed.offset + seed.len);
    while at < end {
        let part = (end - at).min(buf.len() as u64) as usize;
        reader.read_at(at, &mut buf[..part])?;
        if let Some((first, _)) = nonzero_span(&buf[..part]) {
            return Ok(Some(at + first as u64));
        }
        at += part as u64;
    }
    Ok(None)
}
