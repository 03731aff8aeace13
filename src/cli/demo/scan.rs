//! Looking into disks from outside, past the daemon and its agents: whoever
//! proves must not be the only one to look.

use super::build::MARK;
use crate::cli::Result;
use crate::cli::fail::Fail;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const PIECE: usize = 64 << 10;
static ZEROES: [u8; PIECE] = [0; PIECE];

/// How many marks of builds are on a disk.
pub async fn marks(disk: PathBuf) -> Result<usize> {
    blocking(disk, |disk| count(File::open(disk)?, MARK.as_bytes())).await
}

/// Whether a disk holds the image, byte by byte, and nothing behind it.
pub async fn is_exactly(disk: PathBuf, image: PathBuf) -> Result<bool> {
    blocking(disk, move |disk| exact(File::open(disk)?, File::open(&image)?)).await
}

async fn blocking<T: Send + 'static>(
    disk: PathBuf,
    look: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let looked = tokio::task::spawn_blocking(move || {
        look(&disk).map_err(|e| Fail::internal(format!("{}: {e}", disk.display())))
    });
    looked.await.map_err(|e| Fail::internal(format!("nobody looked at a disk: {e}")))?
}

/// Reads on until the piece is full or the file is over.
fn fill(file: &mut impl io::Read, piece: &mut Vec<u8>) -> io::Result<()> {
    piece.clear();
    file.by_ref().take(PIECE as u64).read_to_end(piece).map(|_| ())
}

/// How often `word` is in a file, wherever it begins.
fn count(mut file: impl io::Read, word: &[u8]) -> io::Result<usize> {
    let (mut found, mut piece, mut text) = (0, Vec::new(), Vec::new());
    loop {
        fill(&mut file, &mut piece)?;
        if piece.is_empty() {
            return Ok(found);
        }
        if piece[..] == ZEROES[..piece.len()] {
            text.clear(); // nothing begins before this piece and ends behind it
            continue;
        }
        text.extend_from_slice(&piece);
        found += text.windows(word.len()).filter(|window| *window == word).count();
        let keep = text.len().min(word.len() - 1);
        text.drain(..text.len() - keep);
    }
}

/// Whether `disk` is `image` and then zeroes.
fn exact(mut disk: impl io::Read, mut image: impl io::Read) -> io::Result<bool> {
    let (mut on_disk, mut wanted) = (Vec::new(), Vec::new());
    loop {
        fill(&mut disk, &mut on_disk)?;
        fill(&mut image, &mut wanted)?;
        let Some((head, tail)) = on_disk.split_at_checked(wanted.len()) else { return Ok(false) };
        if head != wanted || *tail != ZEROES[..tail.len()] {
            return Ok(false);
        }
        if on_disk.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_begins_and_counted_once() {
        for at in [0, 1, PIECE - 5, PIECE - 1, PIECE, 2 * PIECE + 7, 3 * PIECE - 4] {
            let mut disk = vec![0; 3 * PIECE];
            disk[at..at + 4].copy_from_slice(b"mark");
            assert_eq!(count(&disk[..], b"mark").unwrap(), 1, "at {at}");
        }
        assert_eq!(count(&b"markmarkmar"[..], b"mark").unwrap(), 2);
        assert_eq!(count(&vec![0; 2 * PIECE][..], b"mark").unwrap(), 0);
    }

    #[test]
    fn one_wrong_byte_anywhere_is_not_exact() {
        let image = vec![7; PIECE + 3];
        let mut disk = vec![0; 3 * PIECE + 5];
        disk[..image.len()].copy_from_slice(&image);
        assert!(exact(&disk[..], &image[..]).unwrap());
        for at in [0, PIECE, PIECE + 2, PIECE + 3, 3 * PIECE + 4] {
            let mut wrong = disk.clone();
            wrong[at] ^= 1;
            assert!(!exact(&wrong[..], &image[..]).unwrap(), "at {at}");
        }
        assert!(!exact(&image[..9], &image[..]).unwrap(), "a disk that is too short");
    }
}
