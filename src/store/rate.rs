//! What the disk itself can do, as the bound of everything durable.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// One write of a page, as a small commit makes it.
const PAGE: usize = 4096;
/// Pages overwritten in turn, as a write-ahead log is between checkpoints.
const PAGES: u64 = 256;

/// How many pages per second can be written to `dir` and known to be on
/// disk, one after the other. Measured for half a second, at least 20 times.
///
/// # Errors
/// The directory cannot be written to.
pub fn sync_rate(dir: &Path) -> io::Result<f64> {
    let path = dir.join(format!(".sync-rate-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let measured = measure(&file);
    std::fs::remove_file(&path)?;
    measured
}

fn measure(file: &std::fs::File) -> io::Result<f64> {
    let page = [0x5a; PAGE];
    for n in 0..PAGES {
        file.write_all_at(&page, n * PAGE as u64)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut done = 0;
    while done < 20 || start.elapsed() < Duration::from_millis(500) {
        file.write_all_at(&page, (done % PAGES) * PAGE as u64)?;
        file.sync_data()?;
        done += 1;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_disk_has_a_rate_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(super::sync_rate(dir.path()).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(super::sync_rate(std::path::Path::new("/nonexistent/pitstop")).is_err());
    }
}
