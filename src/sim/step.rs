//! The built-in build step: what the demo's builds do on a machine whose host
//! refuses namespaces. Nothing keeps it from the host, so it does one thing
//! only, whoever gives it which arguments: it writes a short text into the
//! disk of its own machine.

use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

/// Unit of the places, in bytes.
const SECTOR: u64 = 512;
/// Longest text, in bytes.
const MAX_MARK: usize = 128;
/// Most places.
const MAX_PLACES: usize = 16;

/// `pitstop-step MARK SECTOR…`: writes the mark there, says so, and waits for
/// the end of its input.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|a| a.to_string_lossy().into_owned()).collect();
    match work(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("pitstop-step: {words}");
            ExitCode::FAILURE
        }
    }
}

fn work(args: &[String]) -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| format!("prctl: {e}"))?;
    let [mark, places @ ..] = args else { return Err("MARK SECTOR… is missing".into()) };
    let path = std::env::var_os("PITSTOP_DISK").ok_or("this machine has no disk")?;
    let disk = File::options().read(true).write(true).open(&path);
    write(&disk.map_err(|e| format!("the disk: {e}"))?, mark, places)?;
    println!("{} marks left on the disk", places.len());
    // What comes is of no interest, only that there is no more.
    let mut rest = [0; 512];
    while std::io::stdin().lock().read(&mut rest).is_ok_and(|n| n > 0) {}
    Ok(())
}

fn write(disk: &File, mark: &str, places: &[String]) -> Result<(), String> {
    if mark.len() > MAX_MARK || places.len() > MAX_PLACES {
        return Err(format!("a mark has {MAX_MARK} bytes at the most, and goes to {MAX_PLACES} places"));
    }
    let size = disk.metadata().map_err(|e| format!("the disk: {e}"))?.len();
    for place in places {
        let sector: u64 = place.parse().map_err(|_| format!("`{place}` is no sector"))?;
        // A disk does not grow by being written to.
        let fits =
            sector.checked_add(1).and_then(|end| end.checked_mul(SECTOR)).is_some_and(|end| end <= size);
        if !fits {
            return Err(format!("the disk has no sector {sector}"));
        }
        disk.write_all_at(mark.as_bytes(), sector * SECTOR).map_err(|e| format!("sector {sector}: {e}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_mark_stays_on_the_disk_and_the_disk_keeps_its_size() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(4 * SECTOR).unwrap();
        write(&disk, "mark", &places(&["0", "3"])).unwrap();
        let mut at = [0; 4];
        disk.read_exact_at(&mut at, 3 * SECTOR).unwrap();
        assert_eq!(&at, b"mark");
        for bad in ["4", "-1", "x", "18446744073709551615", "36028797018963968"] {
            write(&disk, "mark", &places(&[bad])).unwrap_err();
        }
        write(&disk, &"x".repeat(MAX_MARK + 1), &places(&["0"])).unwrap_err();
        write(&disk, "mark", &vec!["0".to_owned(); MAX_PLACES + 1]).unwrap_err();
        assert_eq!(disk.metadata().unwrap().len(), 4 * SECTOR);
    }
}
