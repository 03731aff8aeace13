//! Programs that do what no small crate does well: `xz` and `gzip`, and `grub-mkrescue`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use super::BootImageError;
use super::module::at_most;

/// How much of a program's complaint is repeated, in bytes.
const COMPLAINT: u64 = 400;

/// What `program` makes of `input`, at most `limit` bytes; `subject` is for errors.
pub(super) fn through(
    program: &'static str,
    args: &[impl AsRef<OsStr>],
    input: File,
    limit: u64,
    subject: &Path,
) -> Result<Vec<u8>, BootImageError> {
    let failed =
        |why: String| BootImageError::Program { program, subject: subject.display().to_string(), why };
    // In a file, so that a talkative program cannot fill a pipe that nobody reads.
    let mut complaints = tempfile::tempfile().map_err(|e| failed(format!("no temporary file: {e}")))?;
    let stderr = complaints.try_clone().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(program);
    let command = command.args(args).env("LC_ALL", "C").stdin(input).stdout(Stdio::piped()).stderr(stderr);
    let mut child =
        command.spawn().map_err(|e| failed(format!("cannot be started: {e}; is it installed?")))?;
    let output = child.stdout.take().map_or(Ok(Some(Vec::new())), |stdout| at_most(stdout, limit));
    if !matches!(output, Ok(Some(_))) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    match output {
        Err(e) => Err(failed(e.to_string())),
        Ok(None) => Err(failed(format!("more than {limit} bytes came out"))),
        Ok(Some(output)) if status.success() => Ok(output),
        Ok(Some(_)) => {
            let mut said = Vec::new();
            let read = complaints
                .seek(SeekFrom::Start(0))
                .and_then(|_| complaints.take(COMPLAINT).read_to_end(&mut said));
            let said =
                read.map_or_else(|e| e.to_string(), |_| String::from_utf8_lossy(&said).trim().to_owned());
            Err(failed(format!("{status}: {said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const NONE: &[&str] = &[];

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn output_is_bounded_and_failure_says_why() {
        let subject = Path::new("a.ko.gz");
        assert_eq!(through("cat", NONE, file(b"whole"), 5, subject).unwrap(), b"whole");
        let error = through("cat", NONE, file(b"longer"), 5, subject).unwrap_err();
        assert!(error.to_string().contains("more than 5 bytes"), "{error}");
        let endless = File::open("/dev/zero").unwrap();
        assert!(through("cat", NONE, endless, 5, subject).is_err(), "cut off, not waited for");
        let error = through("gzip", &["-dc"], file(b"no gzip"), 5, subject).unwrap_err().to_string();
        assert!(error.contains("a.ko.gz") && error.contains("not in gzip format"), "{error}");
        let error = through("no-such-program", NONE, file(b""), 5, subject).unwrap_err();
        assert!(error.to_string().contains("is it installed?"), "{error}");
    }
}
