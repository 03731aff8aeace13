//! Where the daemon is found and where it keeps its things.

use std::path::PathBuf;

fn dir(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// What a variable says, if anything.
fn said(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|text| !text.is_empty()).map(PathBuf::from)
}

/// The socket: what PITSTOP_SOCKET says, else a user's own lab where there is a runtime directory, else the
/// system's.
pub fn socket() -> PathBuf {
    if let Some(path) = said("PITSTOP_SOCKET") {
        return path;
    }
    match dir("XDG_RUNTIME_DIR") {
        Some(run) => run.join("pitstop/pitstop.sock"),
        None => PathBuf::from("/run/pitstop/pitstop.sock"),
    }
}

/// The data directory: what PITSTOP_DATA says, else a user's own, or the system's for root.
pub fn data() -> PathBuf {
    if let Some(path) = said("PITSTOP_DATA") {
        return path;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/pitstop");
    }
    let home = || dir("HOME").map(|home| home.join(".local/share"));
    dir("XDG_DATA_HOME")
        .or_else(home)
        .map_or_else(|| PathBuf::from("/var/lib/pitstop"), |d| d.join("pitstop"))
}
