//! Reads a file and what it includes, and puts all of it into one tree.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::error::{Problem, Problems};
use super::files::{Files, glob};
use super::source::{Loc, SourceMap};
use super::tree::{Entry, Node, Table, Val, combine, convert, loc};

/// Largest file, in bytes.
pub const MAX_FILE: u64 = 8 << 20;
/// Most files of one inventory.
pub const MAX_FILES: usize = 1_000;
/// Deepest nesting of includes.
const MAX_DEPTH: usize = 16;
/// The format this release reads.
const FORMAT: i64 = 1;
/// Syntax errors shown per file: behind the first few the parser only guesses.
const MAX_SYNTAX: usize = 5;
/// Dots in one dotted key; nothing needs more than 6. The TOML parser bounds the nesting of values and the length of keys
/// each, but drops its tree recursively, and the product of the two is too deep for a thread's stack.
const MAX_DOTS: usize = 24;

/// Everything that was read, as one tree.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub sources: SourceMap,
    pub root: Table,
    pub problems: Problems,
    /// Some file could not be read or parsed: what it would have declared is unknown, and complaints about it would be noise.
    pub incomplete: bool,
}

/// Reads an inventory. Problems are in the result; the tree holds what could be read.
pub(super) fn load(files: &dyn Files, path: &Path) -> Loaded {
    let mut loader = Loader { files, loaded: Loaded::default(), seen: Vec::new() };
    loader.file(path, None, &mut Vec::new());
    loader.loaded
}

struct Loader<'f> {
    files: &'f dyn Files,
    loaded: Loaded,
    seen: Vec<PathBuf>,
}

impl Loader<'_> {
    fn raise(&mut self, problem: Problem) {
        self.loaded.problems.raise(problem);
    }

    /// Reads one file. `from` is the text that includes it, `open` the files that are being read.
    fn file(&mut self, path: &Path, from: Option<Loc>, open: &mut Vec<PathBuf>) {
        let identity = self.files.identity(path);
        let shown = path.display().to_string();
        if let (Some(at), true) = (from, open.contains(&identity)) {
            return self.raise(Problem::new(at, format!("`{shown}` includes itself")));
        }
        if self.seen.contains(&identity) {
            return;
        }
        if let (Some(at), true) = (from, self.seen.len() >= MAX_FILES || open.len() >= MAX_DEPTH) {
            let what = format!("too many includes: at most {MAX_FILES} files, {MAX_DEPTH} deep");
            return self.raise(Problem::new(at, what));
        }
        self.seen.push(identity.clone());
        match self.files.read(path, MAX_FILE) {
            Ok(text) => {
                open.push(identity);
                self.text(path, text, from.is_none(), open);
                open.pop();
            }
            Err(error) => self.unreadable(&shown, &error, from),
        }
    }

    fn unreadable(&mut self, shown: &str, error: &io::Error, from: Option<Loc>) {
        // Without an including file there is no line to point at: the file itself is the place.
        let at = from.or_else(|| {
            self.loaded.sources.add(shown, String::new()).map(|file| Loc { file, start: 0, end: 0 })
        });
        self.loaded.incomplete = true;
        if let Some(at) = at {
            self.raise(Problem::new(at, format!("cannot read `{shown}`: {error}")));
        }
    }

    fn text(&mut self, path: &Path, text: String, main: bool, open: &mut Vec<PathBuf>) {
        let shown = path.display().to_string();
        let Some(file) = self.loaded.sources.add(&shown, text) else { return };
        let Some(mut table) = parse(&mut self.loaded, file) else {
            self.loaded.incomplete = true;
            return;
        };
        check_format(&mut self.loaded, file, table.remove("format").as_ref(), main);
        let include = table.remove("include");
        combine(&mut self.loaded.root, table, "", &mut self.loaded.problems);
        if let Some(include) = include {
            self.includes(path, &include, open);
        }
    }

    fn includes(&mut self, path: &Path, include: &Entry, open: &mut Vec<PathBuf>) {
        let Val::List(items) = &include.node.value else {
            let what = format!("`include` takes a list of files, not {}", include.node.kind());
            return self
                .raise(Problem::new(include.node.at, what).expected("`include = [\"lab.d/*.toml\"]`"));
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        for item in items {
            match item.as_text() {
                Some(pattern) if !pattern.is_empty() => self.include(folder, pattern, item, open),
                _ => self.raise(Problem::new(
                    item.at,
                    format!("`include` takes names of files, not {}", item.kind()),
                )),
            }
        }
    }

    fn include(&mut self, folder: &Path, pattern: &str, item: &Node, open: &mut Vec<PathBuf>) {
        let target = folder.join(pattern);
        if !pattern.contains(['*', '?']) {
            return self.file(&target, Some(item.at), open);
        }
        let parent = target.parent().unwrap_or(Path::new(""));
        let (Some(name), false) = (target.file_name().and_then(|name| name.to_str()), has_wildcard(parent))
        else {
            let what = "only the last part of a path can be a pattern";
            return self
                .raise(Problem::new(item.at, what).expected("a folder and a pattern, `\"lab.d/*.toml\"`"));
        };
        match self.files.list(parent) {
            Ok(mut names) => {
                names.sort();
                // As in a shell, `*` does not mean hidden files: editors leave theirs there.
                let hidden = name.starts_with('.');
                for found in
                    names.iter().filter(|found| (hidden || !found.starts_with('.')) && glob(name, found))
                {
                    self.file(&parent.join(found), Some(item.at), open);
                }
            }
            Err(error) => {
                self.raise(Problem::new(item.at, format!("cannot list `{}`: {error}", parent.display())));
            }
        }
    }
}

fn has_wildcard(path: &Path) -> bool {
    path.to_str().is_none_or(|text| text.contains(['*', '?']))
}

/// Parses a file; `None` after syntax errors, since what follows from half a tree would only confuse.
fn parse(loaded: &mut Loaded, file: u16) -> Option<Table> {
    let text = loaded.sources.text(file);
    if let Some(at) = too_deep(text) {
        let problem = Problem::new(loc(file, at..at + 1), format!("a key of more than {MAX_DOTS} parts"));
        loaded.problems.raise(problem);
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(convert(file, table.get_ref()));
    }
    let end = text.len();
    let problems: Vec<Problem> = errors
        .iter()
        .take(MAX_SYNTAX)
        .map(|error| {
            let span = error.span().unwrap_or(end..end);
            let (what, expected) = error
                .message()
                .split_once(", expected ")
                .map_or((error.message(), None), |(w, e)| (w, Some(e)));
            let problem = Problem::new(loc(file, span), format!("not TOML: {what}"));
            expected.map_or(problem.clone(), |expected| problem.expected(expected))
        })
        .collect();
    problems.into_iter().for_each(|problem| loaded.problems.raise(problem));
    None
}

/// Where a run of dotted key parts is longer than any real one. Strings are not told apart from keys: prose has commas
/// and brackets, numbers and addresses in a row have blanks without a dot at their side.
fn too_deep(text: &str) -> Option<usize> {
    let mut dots = 0;
    let mut last = b'\n';
    let mut blank = false;
    for (at, byte) in text.bytes().enumerate() {
        let apart = std::mem::take(&mut blank) && last != b'.';
        match byte {
            b' ' | b'\t' => {
                blank = true;
                continue;
            }
            b'.' if last == b'.' => dots = 0,
            b'.' => dots += 1,
            byte if b"_-\"'".contains(&byte) || byte.is_ascii_alphanumeric() || !byte.is_ascii() => {
                dots = if apart { 0 } else { dots };
            }
            _ => dots = 0,
        }
        if dots > MAX_DOTS {
            return Some(at);
        }
        last = byte;
    }
    None
}

fn check_format(loaded: &mut Loaded, file: u16, format: Option<&Entry>, main: bool) {
    let problem = match format {
        None if main => Problem::new(Loc { file, start: 0, end: 0 }, "the file does not say its format")
            .expected(format!("`format = {FORMAT}` as the first line")),
        None => return,
        Some(entry) => match entry.node.value {
            Val::Int(FORMAT) => return,
            Val::Int(other) => {
                Problem::new(entry.node.at, format!("format {other} is not one this release reads"))
                    .expected(format!("`format = {FORMAT}`"))
            }
            _ => Problem::new(entry.node.at, format!("`format` takes a number, not {}", entry.node.kind()))
                .expected(format!("`format = {FORMAT}`")),
        },
    };
    loaded.problems.raise(problem);
}

/// The top-level section of this name, when it is a table.
pub(super) fn section<'t>(root: &'t Table, name: &str, problems: &mut Problems) -> Option<&'t Table> {
    let entry = root.get(name)?;
    let table = entry.node.as_table();
    if table.is_none() {
        problems
            .raise(Problem::new(entry.node.at, format!("`{name}` takes a table, not {}", entry.node.kind())));
    }
    table
}

/// Tables of a section by name: `[circuit.rack-a]`.
pub(super) fn named<'t>(
    root: &'t Table,
    name: &str,
    problems: &mut Problems,
) -> Vec<(&'t Arc<str>, &'t Entry, &'t Table)> {
    let mut found = Vec::new();
    for (key, entry) in section(root, name, problems).into_iter().flatten() {
        match entry.node.as_table() {
            Some(table) => found.push((key, entry, table)),
            None => problems.raise(
                Problem::new(
                    entry.node.at,
                    format!("`{name}.{key}` takes a table, not {}", entry.node.kind()),
                )
                .expected(format!("`[{name}.{key}]`")),
            ),
        }
    }
    found
}
