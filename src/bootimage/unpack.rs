//! Debian packages, unpacked for the time of a build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::BootImageError;

const PROGRAM: &str = "dpkg-deb";

/// Unpacks the packages into one directory, which goes when the value is dropped. Nothing in them is run.
pub(super) fn debs(files: &[PathBuf]) -> Result<TempDir, BootImageError> {
    let dir = tempfile::Builder::new().prefix("pitstop-kernel-").tempdir();
    let dir = dir.map_err(BootImageError::file("make a directory in", std::env::temp_dir()))?;
    for file in files {
        extract(file, dir.path())?;
    }
    Ok(dir)
}

fn extract(file: &Path, into: &Path) -> Result<(), BootImageError> {
    let failed =
        |why: String| BootImageError::Program { program: PROGRAM, subject: file.display().to_string(), why };
    // Absolute, since a name that begins with a dash would be an option.
    let real = file.canonicalize().map_err(BootImageError::file("read", file))?;
    let mut command = Command::new(PROGRAM);
    command.arg("--extract").arg(real).arg(into).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output();
    let output = output.map_err(|e| {
        failed(format!(
            "cannot be started: {e}; without it, unpack the package yourself and give --kernel-tree"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim().lines().next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_package_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = debs(&[file.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
        let missing = debs(&[PathBuf::from("/no/such.deb")]).unwrap_err();
        assert!(matches!(missing, BootImageError::File { .. }));
    }
}
