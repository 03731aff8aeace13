//! Finding, starting and asking a simulated machine.

use super::protocol::{CONFIG, Config, MAX_LINE, Reply, Request, SOCKET};
use super::trouble;
use crate::error::DriverError;
use crate::process::flocked;
use crate::site::socket_path;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

const DRIVER: &str = "sim";
/// A machine answers at once; under heavy load it may take a while.
const ANSWER: Duration = Duration::from_secs(10);
/// So much of a log is looked at for last words, in bytes.
const MAX_WORDS: u64 = 1024;
/// File that the machine's process holds a lock on while it lives.
pub const LOCK: &str = "process.lock";

/// Asks the machine in `dir`. `Ok(None)`: there is no machine process.
pub async fn request(dir: &Path, request: &Request) -> Result<Option<Reply>, DriverError> {
    let path = socket_path(DRIVER, dir, SOCKET)?;
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(failed(&path, e)),
    };
    let talk = async move {
        let mut stream = BufReader::new(stream);
        let mut line = serde_json::to_vec(request).map_err(std::io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.take(MAX_LINE).read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            return Err(std::io::Error::other("the connection was closed without an answer"));
        }
        serde_json::from_slice::<Reply>(&answer).map_err(std::io::Error::other)
    };
    match timeout(ANSWER, talk).await {
        Ok(Ok(reply)) => Ok(Some(reply)),
        Ok(Err(e)) => Err(failed(&path, e)),
        Err(_) => Err(failed(&path, format!("no answer within {} s", ANSWER.as_secs()))),
    }
}

/// Makes sure that the machine in `dir` has a process; starts one if there is
/// none. Two callers at once start one. One that died at its start is started
/// again only after a while, which grows.
pub async fn ensure(program: &Path, dir: &Path, config: &Config) -> Result<(), DriverError> {
    if request(dir, &Request::Status).await?.is_some() {
        return Ok(());
    }
    trouble::check(dir, config)?;
    let started = start(program, dir, config).await;
    match &started {
        Ok(()) => trouble::over(dir),
        Err(error) => trouble::note(dir, config, error),
    }
    started
}

async fn start(program: &Path, dir: &Path, config: &Config) -> Result<(), DriverError> {
    write_config(dir, config)
        .map_err(|e| DriverError::new(DRIVER, format!("describe {}", config.name), e))?;
    let path = dir.join("log");
    let log = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path);
    let log = log.map_err(|e| DriverError::new(DRIVER, format!("open the log of {}", config.name), e))?;
    let before = log.metadata().map_or(0, |log| log.len());
    let failed = |e: &dyn std::fmt::Display| {
        DriverError::new(DRIVER, format!("start the simulated machine {}", config.name), e)
            .next(format!("see {}", path.display()))
    };
    let mut child = tokio::process::Command::new(program)
        .arg("sim-machine")
        .arg("--dir")
        .arg(dir)
        .args(["--name", &config.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| failed(&e))?;
    // It says one line when its socket listens, or that another process has
    // the machine, which is as good.
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let mut out = BufReader::new(out.take(MAX_LINE));
        match timeout(ANSWER, out.read_line(&mut said)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(failed(&e)),
            Err(_) => return Err(failed(&"it does not get ready")),
        }
    }
    match said.trim() {
        "ready" => Ok(()),
        "taken" => match request(dir, &Request::Status).await? {
            Some(_) => Ok(()),
            None => Err(failed(&"another process holds the machine and does not answer")),
        },
        _ => {
            // What it has to say is in the log when it has ended.
            let ended = timeout(ANSWER, child.wait()).await;
            let how = ended.ok().and_then(Result::ok).map_or("it hangs".to_owned(), |how| how.to_string());
            let words = last_words(&path, before).unwrap_or_else(|| "it said nothing".to_owned());
            Err(failed(&format!("it ended at once ({how}): {words}")))
        }
    }
}

/// The last line that was added to a log since it was `before` bytes long,
/// cut and fit for a terminal.
fn last_words(log: &Path, before: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(before.max(end.saturating_sub(MAX_WORDS)))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_WORDS).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS as usize / 2).collect())
}

/// Ends the machine's process and waits until it is gone.
pub async fn stop(dir: &Path) -> Result<(), DriverError> {
    // The process may be gone before its answer is: the lock is what counts.
    let asked = request(dir, &Request::Stop).await;
    if let Ok(None) = asked {
        return Ok(());
    }
    let lock = dir.join(LOCK);
    let gone = async {
        while flocked(&lock).unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(ANSWER, gone).await.map_err(|_| failed(dir, "it does not end"))
}

fn write_config(dir: &Path, config: &Config) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(config).map_err(std::io::Error::other)?;
    // Written aside and renamed: the process of another caller may read it.
    let aside = dir.join(format!(".{CONFIG}.{}", std::process::id()));
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&text)?;
    std::fs::rename(&aside, dir.join(CONFIG))
}

fn failed(path: &Path, answer: impl ToString) -> DriverError {
    DriverError::new(DRIVER, format!("talk to the simulated machine at {}", path.display()), answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    fn config(name: &str) -> Config {
        let (legs, consoles) = (vec!["power".to_owned()], Vec::new());
        Config { name: name.into(), legs, consoles, disks: Vec::new(), boot_ms: 1, faults: Vec::new() }
    }

    /// A program that counts its starts and dies.
    fn dying(dir: &Path) -> std::path::PathBuf {
        let program = dir.join("program");
        let text = "#!/bin/sh\necho start >>\"$3/starts\"\necho \"older words\" >&2\n\
                    echo \"no such\\033[2J fault\" >&2\nexit 3\n";
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[tokio::test]
    async fn a_machine_that_dies_at_its_start_says_why_and_is_not_started_in_a_tight_loop() {
        let dir = tempfile::tempdir().unwrap();
        let program = dying(dir.path());
        let first = ensure(&program, dir.path(), &config("m1")).await.unwrap_err().to_string();
        assert!(first.contains("no such"), "{first}");
        assert!(!first.contains("older words") && !first.contains('\u{1b}'), "{first}");
        let until = Instant::now() + Duration::from_secs(1);
        let mut asked = 1;
        let mut last = first;
        while Instant::now() < until {
            last = ensure(&program, dir.path(), &config("m1")).await.unwrap_err().to_string();
            asked += 1;
        }
        let starts = std::fs::read_to_string(dir.path().join("starts")).unwrap().lines().count();
        assert!(asked > 2 * starts && starts < 8, "{starts} starts for {asked} askers");
        assert!(last.contains("no such"), "the reason must not get lost: {last}");
    }

    #[tokio::test]
    async fn a_machine_that_is_built_otherwise_is_started_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let program = dying(dir.path());
        for _ in 0..6 {
            ensure(&program, dir.path(), &config("m1")).await.unwrap_err();
        }
        let starts = || std::fs::read_to_string(dir.path().join("starts")).unwrap().lines().count();
        let before = starts();
        ensure(&program, dir.path(), &config("m2")).await.unwrap_err();
        assert_eq!(starts(), before + 1);
    }
}
