//! The texts that were read, and places in them.

use std::ops::Range;
use std::sync::Arc;

use super::model::Place;

/// A piece of one of the files: bytes `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Loc {
    pub file: u16,
    pub start: u32,
    pub end: u32,
}

/// Every file of an inventory, in the order read.
#[derive(Debug, Default)]
pub(super) struct SourceMap {
    files: Vec<SourceFile>,
}

#[derive(Debug)]
struct SourceFile {
    name: Arc<str>,
    text: String,
    /// Byte at which each line starts.
    lines: Vec<u32>,
}

impl SourceMap {
    /// Takes a file; `None` when there are too many to number.
    pub fn add(&mut self, name: &str, text: String) -> Option<u16> {
        let number = u16::try_from(self.files.len()).ok()?;
        let starts = text.match_indices('\n').filter_map(|(at, _)| u32::try_from(at + 1).ok());
        let lines = std::iter::once(0).chain(starts).collect();
        self.files.push(SourceFile { name: Arc::from(name), text, lines });
        Some(number)
    }

    pub fn text(&self, file: u16) -> &str {
        self.files.get(usize::from(file)).map_or("", |file| &file.text)
    }

    pub fn slice(&self, loc: Loc) -> &str {
        self.text(loc.file).get(loc.start as usize..loc.end as usize).unwrap_or_default()
    }

    pub fn place(&self, loc: Loc) -> Place {
        let Some(file) = self.files.get(usize::from(loc.file)) else {
            return Place { file: Arc::from("?"), line: 1, col: 1 };
        };
        let line = file.line_of(loc.start);
        let start = file.lines.get(line).copied().unwrap_or_default();
        let before = file.text.get(start as usize..loc.start as usize).unwrap_or_default();
        Place { file: Arc::clone(&file.name), line: count(line) + 1, col: count(before.chars().count()) + 1 }
    }

    /// The lines before the one a place begins in.
    pub fn before(&self, loc: Loc) -> &str {
        let Some(file) = self.files.get(usize::from(loc.file)) else { return "" };
        let start = file.lines.get(file.line_of(loc.start)).copied().unwrap_or_default();
        file.text.get(..start as usize).unwrap_or_default()
    }

    /// The line a place begins in, without its end, and the part of the place that lies in it, in bytes of the line.
    pub fn line(&self, loc: Loc) -> (&str, Range<usize>) {
        let Some(file) = self.files.get(usize::from(loc.file)) else {
            return ("", 0..0);
        };
        let line = file.line_of(loc.start);
        let start = file.lines.get(line).copied().unwrap_or_default() as usize;
        let end = file.lines.get(line + 1).map_or(file.text.len(), |next| *next as usize);
        let text = file.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r']);
        let from = (loc.start as usize - start).min(text.len());
        let to = (loc.end as usize).saturating_sub(start).clamp(from, text.len());
        (text, from..to)
    }
}

impl SourceFile {
    fn line_of(&self, at: u32) -> usize {
        self.lines.partition_point(|start| *start <= at).saturating_sub(1)
    }
}

/// Files are bounded to a few megabytes, so nothing is ever cut here.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
