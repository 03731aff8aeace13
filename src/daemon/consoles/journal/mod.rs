//! The journal on disk: raw bytes, and beside them an index of when and what.
//!
//! ```text
//! DIR/MACHINE/CONSOLE/00000000000000012345.log       bytes from position 12345 on
//! DIR/MACHINE/CONSOLE/00000000000000012345.idx       one line of JSON per entry
//! DIR/MACHINE/CONSOLE/00000000000000012345-6789.zst  the bytes (6789 of them), once the segment is closed
//! DIR/MACHINE/CONSOLE/held                           positions that a failure needs
//! ```
//!
//! A segment ends at a power-on or at 8 MiB. Stamps are not in the text: what
//! the machine sent stays as it was sent. One thread writes all journals, in
//! rounds; a disk that is full or slow costs journal bytes (counted, and said
//! in the journal), never a console. Another packs what is closed and drops
//! what is too old, so that neither keeps the first from writing.

mod keeper;
mod segments;
mod writer;

pub use keeper::{Keeper, Quota};
pub use segments::{Reader, Segments, end_of};
pub use writer::Journal;

use super::tenancy::Owned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Bytes after which a segment ends.
const SEGMENT: u64 = 8 << 20;

/// Why a journal could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub struct JournalError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

fn at<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(std::io::Error) -> JournalError + 'p {
    move |source| JournalError { what, path: path.to_owned(), source }
}

/// A line of an index.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Position of the byte it stands before.
    o: u64,
    /// Lab time in milliseconds.
    t: u64,
    /// Wall time in milliseconds since 1970.
    w: i64,
    /// `data`, or the word of a mark; `own`: from here on it is `x`'s;
    /// `hole`: from byte `x` up to here a line said again what it had kept.
    k: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    x: String,
}

/// Where a journal ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Position of the next byte.
    pub position: u64,
    /// Where the newest boot begins, if one is known.
    pub boot: Option<u64>,
    /// Where the newest reservation begins, if one is known.
    pub reserve: Option<u64>,
    /// Who had the machine last, if it is known.
    pub owned: Option<Owned>,
}

fn segment_path(dir: &Path, start: u64, kind: &str) -> PathBuf {
    dir.join(format!("{start:020}.{kind}"))
}

fn packed_path(dir: &Path, start: u64, len: u64) -> PathBuf {
    dir.join(format!("{start:020}-{len}.zst"))
}
