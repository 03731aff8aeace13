//! The files an inventory is read from. The only I/O of this crate, behind a trait so that tests need none.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// What reading an inventory needs of a file system.
pub trait Files {
    /// The text of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// As the file system says; `InvalidData` when it is not UTF-8, `FileTooLarge` when it is longer.
    fn read(&self, path: &Path, limit: u64) -> io::Result<String>;

    /// The names in a folder, in any order. A folder that does not exist has none.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// A path that is equal for equal files, so that each is read once.
    fn identity(&self, path: &Path) -> PathBuf;
}

/// The real ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &Path, limit: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        // One byte more than allowed: the length a file claims is not the length it has.
        std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        bounded_text(bytes, limit)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        // A name that is not UTF-8 matches no pattern that can be written.
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn identity(&self, path: &Path) -> PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// Files that exist only in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(BTreeMap<PathBuf, Vec<u8>>);

impl MemoryFiles {
    /// Adds a file or replaces it.
    #[must_use]
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(plain(Path::new(path)), content.into());
        self
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path, limit: u64) -> io::Result<String> {
        let bytes = self.0.get(&plain(path)).ok_or(io::ErrorKind::NotFound)?;
        bounded_text(bytes.clone(), limit)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let folder = plain(folder);
        let inside = self.0.keys().filter(|path| path.parent() == Some(&folder));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn identity(&self, path: &Path) -> PathBuf {
        plain(path)
    }
}

/// The path without `.` and `..`; in memory there are no links that would make this wrong.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.pop() => {}
            other => plain.push(other),
        }
    }
    plain
}

fn bounded_text(bytes: Vec<u8>, limit: u64) -> io::Result<String> {
    if bytes.len() as u64 > limit {
        let message = format!("it is larger than {} MiB", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}

/// Whether a file name fits a pattern in which `*` is any number of characters and `?` one.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last `*` has to take one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_file_names() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.tom", false),
            ("r?ck*.toml", "rack-a.toml", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbx", false),
            ("", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_large_or_binary_file_is_refused_by_name_of_the_fault() {
        let files = MemoryFiles::default().with("big", vec![b'x'; 11]).with("bin", b"a\n\xff".to_vec());
        assert_eq!(files.read(Path::new("big"), 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(files.read(Path::new("bin"), 10).unwrap_err().to_string(), "line 2 is not UTF-8 text");
    }
}
