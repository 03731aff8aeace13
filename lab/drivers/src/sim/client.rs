//! Finding, starting and asking a simulated machine.

use super::protocol::{CONFIG, Config, MAX_LINE, Reply, Request, SOCKET};
use crate::error::DriverError;
use crate::process::flocked;
use crate::site::socket_path;
use std::fs::OpenOptions;
use std::io::Write as _;
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
/// none. Two callers at once start one.
pub async fn ensure(program: &Path, dir: &Path, config: &Config) -> Result<(), DriverError> {
    if request(dir, &Request::Status).await?.is_some() {
        return Ok(());
    }
    write_config(dir, config)
        .map_err(|e| DriverError::new(DRIVER, format!("describe {}", config.name), e))?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("log"));
    let log = log.map_err(|e| DriverError::new(DRIVER, format!("open the log of {}", config.name), e))?;
    let start = |e: &dyn std::fmt::Display| {
        DriverError::new(DRIVER, format!("start the simulated machine {}", config.name), e)
            .next(format!("see {}", dir.join("log").display()))
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
        .map_err(|e| start(&e))?;
    // It says one line when its socket listens, or that another process has
    // the machine, which is as good.
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let mut out = BufReader::new(out.take(MAX_LINE));
        match timeout(ANSWER, out.read_line(&mut said)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(start(&e)),
            Err(_) => return Err(start(&"it does not get ready")),
        }
    }
    match said.trim() {
        "ready" => Ok(()),
        "taken" => match request(dir, &Request::Status).await? {
            Some(_) => Ok(()),
            None => Err(start(&"another process holds the machine and does not answer")),
        },
        other => Err(start(&format!("it ended with `{other}`"))),
    }
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
