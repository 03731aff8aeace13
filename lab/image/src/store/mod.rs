//! The daemon's images: content-addressed, published whole or not at all.
//!
//! ```text
//! DIR/blobs/<64 hex>/map            the block map, encoded
//! DIR/blobs/<64 hex>/index          u32 per data chunk: its stored length
//! DIR/blobs/<64 hex>/data           the stored chunks, one after the other
//! DIR/blobs/<64 hex>/manifest.json
//! DIR/names/<name>.json             the manifest the name stands for
//! DIR/tmp/                          what is being made; emptied at open
//! ```
//!
//! A blob is made in `tmp`, synced, and renamed into place; a name is replaced
//! by renaming a file over it. So a crash leaves whole images and rubbish in
//! `tmp`, never half an image.

mod add;
mod files;
mod image;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::map::{Digest, MapError, ParseDigestError, Seed};

pub use add::{AddOptions, SeedChoice};
pub use image::{Frames, ImageReader, StoredImage};

use files::{Lock, TempDir};

/// What is known about an image. Bytes and counts are of the raw image unless
/// said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this record, 1.
    pub version: u32,
    /// The name it was added under.
    pub name: String,
    /// Free text of the one who added it: `os`, `firmware`, …
    pub kind: String,
    /// The image's name by content.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// Chunk length in bytes.
    pub chunk: u32,
    /// Bytes in chunks that hold data.
    pub mapped: u64,
    /// Compressed bytes in the store: what travels.
    pub stored: u64,
    /// SHA-256 of the raw image in hex, for people who compare with a download page.
    pub sha256: String,
    /// When it was added, by the caller's clock: milliseconds since 1970 UTC.
    pub added_unix_ms: i64,
    /// Where the boot agent leaves its record for the host agent.
    pub seed: Option<Seed>,
}

/// What [`ImageStore::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The image the name stood for.
    pub digest: Digest,
    /// Whether another name still stands for it.
    pub still_named: bool,
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name cannot be one.
    #[error("\"{0}\" cannot be an image name: 1 to 64 of a-z 0-9 . _ -, starting with a letter or digit")]
    Name(String),
    /// The kind cannot be one.
    #[error("the image's kind must be at most 64 printable characters")]
    Kind,
    /// Neither a name nor a digest that is here.
    #[error("no image \"{0}\" in the store; `pitstop image list` shows what there is")]
    Unknown(String),
    /// It looks like a digest, but is none.
    #[error("\"{text}\": {source}")]
    Digest {
        /// What was given.
        text: String,
        /// What is wrong.
        source: ParseDigestError,
    },
    /// The image has no bytes.
    #[error("the image is empty")]
    Empty,
    /// Reading the source failed.
    #[error("reading the image at byte {offset}: {source}")]
    Source {
        /// Offset in the raw image, in bytes.
        offset: u64,
        /// What came back.
        source: io::Error,
    },
    /// Bounds or the seed area.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The seed area is in use.
    #[error("the seed area at {offset}, {len} bytes, is not zero at byte {at}: choose another or zero it")]
    SeedInUse {
        /// Start in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// First byte that is not zero.
        at: u64,
    },
    /// The name stands for another image.
    #[error("\"{name}\" stands for another image: {digest}")]
    Taken {
        /// The name.
        name: String,
        /// The image it stands for.
        digest: Digest,
    },
    /// The file system failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// What is stored is not what was stored.
    #[error("{} is damaged: {why}; add the image again", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The image has no data chunk of this index.
    #[error("image {digest} stores nothing for chunk {index}")]
    NoSuchChunk {
        /// The image.
        digest: Digest,
        /// The chunk.
        index: u64,
    },
}

type Result<T> = std::result::Result<T, StoreError>;

fn io_at<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> StoreError + 'p {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// Whether `name` may name an image: `[a-z0-9][a-z0-9._-]{0,63}`.
fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = name.len() <= 64
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(StoreError::Name(name.into())) }
}

/// The store in a directory. Cheap to share behind an `Arc`; several processes
/// may use one directory at once.
pub struct ImageStore {
    dir: PathBuf,
    /// Images someone reads right now, so that serving chunk after chunk does
    /// not read the map again each time.
    open: Mutex<HashMap<Digest, Weak<StoredImage>>>,
}

impl ImageStore {
    /// Opens the store, makes it if it is not there, and clears away what a
    /// crash left behind.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self> {
        for part in ["blobs", "names", "tmp"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).map_err(io_at("make", &path))?;
        }
        let store = Self { dir: dir.to_owned(), open: Mutex::new(HashMap::new()) };
        store.clear_leftovers()?;
        Ok(store)
    }

    /// Every named image, by name.
    ///
    /// # Errors
    /// The directory or a manifest cannot be read.
    pub fn list(&self) -> Result<Vec<Manifest>> {
        let mut names = Vec::new();
        for entry in files::entries(&self.names())? {
            if let Some(name) = entry.strip_suffix(".json") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            match self.by_name(&name) {
                // Removed between the two looks.
                Err(StoreError::Unknown(_)) => {}
                other => list.push(other?),
            }
        }
        Ok(list)
    }

    /// The image of a name, or of a digest in its text form.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when it is not there.
    pub fn get(&self, reference: &str) -> Result<Manifest> {
        if reference.starts_with("b3:") {
            let digest = reference.parse();
            let digest = digest.map_err(|source| StoreError::Digest { text: reference.into(), source })?;
            return self.by_digest(&digest);
        }
        self.by_name(reference)
    }

    /// The image with this content.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when it is not there.
    pub fn by_digest(&self, digest: &Digest) -> Result<Manifest> {
        let path = self.blob(digest).join("manifest.json");
        files::read_manifest(&path)?.ok_or_else(|| StoreError::Unknown(digest.to_string()))
    }

    fn by_name(&self, name: &str) -> Result<Manifest> {
        check_name(name)?;
        let manifest = files::read_manifest(&self.link(name))?;
        manifest.ok_or_else(|| StoreError::Unknown(name.into()))
    }

    /// Opens an image for reading its map and chunks. Whoever holds the result
    /// can read on after the image was removed.
    ///
    /// # Errors
    /// It is not there, or is damaged.
    pub fn open_image(&self, digest: &Digest) -> Result<Arc<StoredImage>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = open.get(digest).and_then(Weak::upgrade) {
            return Ok(image);
        }
        let path = self.blob(digest);
        if !path.is_dir() {
            return Err(StoreError::Unknown(digest.to_string()));
        }
        let image = Arc::new(StoredImage::open(&path, digest)?);
        open.retain(|_, image| image.strong_count() > 0);
        open.insert(*digest, Arc::downgrade(&image));
        Ok(image)
    }

    /// The stored (compressed) bytes of one data chunk. For more than one,
    /// keep the result of [`open_image`](Self::open_image).
    ///
    /// # Errors
    /// There is no such image or chunk, or it cannot be read.
    pub fn open_chunk(&self, digest: &Digest, index: u64) -> Result<Vec<u8>> {
        self.open_image(digest)?.chunk(index)
    }

    /// Takes a name away. The content stays until [`sweep`](Self::sweep), since
    /// a machine may be half-way through writing it.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when there is no such name.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let _lock = self.lock()?;
        let digest = self.by_name(name)?.digest;
        let path = self.link(name);
        std::fs::remove_file(&path).map_err(io_at("remove", &path))?;
        files::sync_dir(&self.names())?;
        let still_named = self.list()?.iter().any(|other| other.digest == digest);
        Ok(Removed { digest, still_named })
    }

    /// Deletes every image that has no name and that `in_use` does not claim;
    /// gives the deleted ones. To be called after removing or replacing a name
    /// and at start, with the images of all reservations and machines claimed.
    ///
    /// # Errors
    /// The directory cannot be read or changed.
    pub fn sweep(&self, in_use: &dyn Fn(&Digest) -> bool) -> Result<Vec<Digest>> {
        let _lock = self.lock()?;
        let named: BTreeSet<Digest> = self.list()?.into_iter().map(|image| image.digest).collect();
        let mut gone = Vec::new();
        for entry in files::entries(&self.blobs())? {
            let Ok(digest) = format!("b3:{entry}").parse::<Digest>() else { continue };
            if named.contains(&digest) || in_use(&digest) {
                continue;
            }
            // Moved away in one step first: half a blob must not be found.
            let temp = TempDir::new(&self.tmp())?;
            let path = self.blob(&digest);
            std::fs::rename(&path, temp.path().join("blob")).map_err(io_at("move away", &path))?;
            files::sync_dir(&self.blobs())?;
            gone.push(digest);
        }
        Ok(gone)
    }

    /// Removes what a crash left in `tmp`, unless another process is just
    /// making something there: then the next open does it.
    fn clear_leftovers(&self) -> Result<()> {
        let tmp = self.tmp();
        let Some(_lock) = Lock::try_exclusive(&tmp)? else { return Ok(()) };
        for entry in files::entries(&tmp)? {
            let path = tmp.join(entry);
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(&path),
                false => std::fs::remove_file(&path),
            };
            removed.map_err(io_at("clear away", &path))?;
        }
        Ok(())
    }

    /// The next reader opens the files anew.
    fn forget(&self, digest: &Digest) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Held while names or the set of blobs change, by threads and processes
    /// alike: a sweep must not delete what an `add` is about to name.
    fn lock(&self) -> Result<Lock> {
        Lock::exclusive(&self.names())
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    fn names(&self) -> PathBuf {
        self.dir.join("names")
    }

    fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_hex())
    }

    fn link(&self, name: &str) -> PathBuf {
        self.names().join(format!("{name}.json"))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
