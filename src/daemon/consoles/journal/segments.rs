//! Reading journals, packed or not.

use super::{End, Entry, packed_path, segment_path};
use crate::daemon::consoles::ring::{Mark, MarkKind, Stamp};
use crate::daemon::consoles::tenancy::Owned;
use pitstop_core::time::{LabTime, WallMs};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Where the journal in `dir` ends; at 0 if there is none.
pub fn end_of(dir: &Path) -> End {
    let segments = Segments::of(dir);
    let position = segments.list.last().map_or(0, |s| s.start + s.len);
    let newest = |kind: MarkKind| {
        segments.list.iter().rev().find_map(|s| {
            entries(&segments.index(s.start)).filter(|e| e.k == kind.word()).map(|e| e.o).last()
        })
    };
    let owned = segments.owned();
    End { position, boot: newest(MarkKind::Boot), reserve: newest(MarkKind::Reserve), owned }
}

fn entries(path: &Path) -> impl Iterator<Item = Entry> + use<> {
    let lines = File::open(path).ok().map(|file| BufReader::new(file).lines());
    // The last line may be half written: it is not there then.
    lines.into_iter().flatten().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok())
}

/// The segments of one console, as they were when they were listed.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    pub(super) list: Vec<Segment>,
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: u64,
    /// Bytes the machine said in it.
    pub len: u64,
    /// Whether it is closed and packed.
    pub packed: bool,
}

impl Segment {
    fn of_name(name: &str, size: u64) -> Option<Self> {
        if let Some(start) = name.strip_suffix(".log") {
            return Some(Self { start: start.parse().ok()?, len: size, packed: false });
        }
        let (start, len) = name.strip_suffix(".zst")?.split_once('-')?;
        Some(Self { start: start.parse().ok()?, len: len.parse().ok()?, packed: true })
    }

    /// Position behind its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Where its bytes are.
    pub fn path(&self, dir: &Path) -> PathBuf {
        if self.packed {
            packed_path(dir, self.start, self.len)
        } else {
            segment_path(dir, self.start, "log")
        }
    }

    /// Its bytes from `position` on.
    fn open(&self, dir: &Path, position: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(self.path(dir))?;
        let skip = position - self.start;
        if !self.packed {
            file.seek(SeekFrom::Start(skip))?;
            // It may grow: what comes later is in memory as well.
            return Ok(Box::new(file.take(self.len - skip)));
        }
        let mut bytes = zstd::Decoder::new(file)?;
        io::copy(&mut bytes.by_ref().take(skip), &mut io::sink())?;
        Ok(Box::new(bytes))
    }
}

impl Segments {
    /// The segments in `dir`, as they are now.
    pub fn of(dir: &Path) -> Self {
        let mut list: Vec<Segment> = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let size = entry.metadata().map_or(0, |meta| meta.len());
            list.extend(entry.file_name().to_str().and_then(|name| Segment::of_name(name, size)));
        }
        // One that is being packed is there twice for a moment.
        list.sort_by_key(|s| (s.start, !s.packed));
        list.dedup_by_key(|s| s.start);
        Self { dir: dir.to_owned(), list }
    }

    fn index(&self, start: u64) -> PathBuf {
        segment_path(&self.dir, start, "idx")
    }

    /// Up to `most` bytes from `position` on, up to the next gap; empty if
    /// the journal has nothing there.
    pub fn read(&self, position: u64, most: usize) -> Vec<u8> {
        let mut reader = Reader::of(&self.dir);
        let mut bytes = Vec::new();
        while bytes.len() < most {
            let more = reader.read(position + bytes.len() as u64, most - bytes.len());
            if more.is_empty() {
                break;
            }
            bytes.extend(more);
        }
        bytes
    }

    /// Where the first segment behind `position` begins.
    pub fn next_start(&self, position: u64) -> Option<u64> {
        self.list.iter().map(|s| s.start).find(|start| *start > position)
    }

    /// Where the machine was at this moment: the newest entry of the index
    /// that is not later; the oldest byte there is if all are.
    pub fn position_at(&self, moment: LabTime) -> Option<u64> {
        let before = |segment: &Segment| {
            entries(&self.index(segment.start)).take_while(|e| e.t <= moment.0).map(|e| e.o).last()
        };
        self.list.iter().rev().find_map(before).or(self.list.first().map(|s| s.start))
    }

    /// Who had the machine last, and from where on.
    fn owned(&self) -> Option<Owned> {
        let mut holes = Vec::new();
        for segment in self.list.iter().rev() {
            let entries: Vec<Entry> = entries(&self.index(segment.start)).collect();
            for entry in entries.into_iter().rev() {
                if entry.k == MarkKind::Hole.word() {
                    holes.extend(entry.x.parse().ok().map(|from| (from, entry.o)));
                } else if entry.k == MarkKind::Own.word() {
                    holes.reverse();
                    return Some(Owned { label: entry.x, from: entry.o, at: LabTime(entry.t), holes });
                }
            }
        }
        None
    }

    /// The stamps of the segment that `position` is in, oldest first, and
    /// where the next segment begins.
    pub fn stamps(&self, position: u64) -> (Vec<(u64, WallMs)>, u64) {
        let behind = self.list.partition_point(|s| s.start <= position);
        let until = self.list.get(behind).map_or(u64::MAX, |s| s.start);
        let Some(segment) = behind.checked_sub(1).and_then(|at| self.list.get(at)) else {
            return (Vec::new(), until);
        };
        let stamps = entries(&self.index(segment.start)).map(|entry| (entry.o, entry.w));
        (stamps.collect(), until)
    }

    /// The marks from position `from` to before `to`, oldest first.
    pub fn marks(&self, from: u64, to: u64) -> Vec<Mark> {
        let mut marks = Vec::new();
        for (at, segment) in self.list.iter().enumerate() {
            let next = self.list.get(at + 1).map_or(u64::MAX, |s| s.start);
            if next < from || segment.start >= to {
                continue;
            }
            for entry in entries(&self.index(segment.start)) {
                let Some(kind) = MarkKind::of_word(&entry.k) else { continue };
                if entry.o >= from && entry.o < to {
                    let stamp = Stamp { at: LabTime(entry.t), wall: entry.w };
                    marks.push(Mark { position: entry.o, stamp, kind, text: entry.x, number: 0 });
                }
            }
        }
        marks
    }
}

/// Reads a journal piece by piece, as long as it is read in order without
/// unpacking anything twice.
pub struct Reader {
    dir: PathBuf,
    open: Option<Open>,
}

struct Open {
    position: u64,
    bytes: Box<dyn Read + Send>,
}

impl Reader {
    /// A reader of the journal in `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// Up to `most` bytes from `position` on; empty if the journal has
    /// nothing there, or cannot be read.
    pub fn read(&mut self, position: u64, most: usize) -> Vec<u8> {
        // The segment may end here, or have been packed since it was listed.
        for _ in 0..3 {
            if self.open.as_ref().is_none_or(|open| open.position != position) {
                self.open = self.find(position);
            }
            let mut bytes = Vec::new();
            if let Some(open) = &mut self.open
                && open.bytes.by_ref().take(most as u64).read_to_end(&mut bytes).is_ok_and(|n| n > 0)
            {
                open.position += bytes.len() as u64;
                return bytes;
            }
            self.open = None;
        }
        Vec::new()
    }

    fn find(&self, position: u64) -> Option<Open> {
        let segments = Segments::of(&self.dir);
        let segment = segments.list.iter().find(|s| s.start <= position && position < s.end())?;
        match segment.open(&self.dir, position) {
            Ok(bytes) => Some(Open { position, bytes }),
            Err(e) => {
                tracing::debug!("console journal {}: {e}", segment.path(&self.dir).display());
                None
            }
        }
    }
}
