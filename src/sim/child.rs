//! The agent's process on a simulated machine, seen from the machine.

use super::boot::Job;
use super::line::Line;
use std::process::Stdio;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Longest boot script, in bytes.
const MAX_SCRIPT: u64 = 64 << 10;

/// Runs the agent until it ends; what it says goes to the serial line. When
/// the future is dropped, the process is killed.
pub async fn run(job: &Job, line: &Line) {
    match start(job, line).await {
        Ok(status) => line.say(&format!("agent: {status}")),
        Err(e) => line.say(&format!("agent: cannot be started: {e}")),
    }
}

async fn start(job: &Job, line: &Line) -> std::io::Result<std::process::ExitStatus> {
    let mut child = Command::new("/proc/self/exe")
        .args(["sim-boot", "--name", &job.machine])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // The job holds the token: it travels by pipe, where nobody can see it.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&serde_json::to_vec(job)?).await?;
    }
    if let Some(mut said) = child.stderr.take() {
        let mut buf = [0; 1024];
        loop {
            let n = said.read(&mut buf).await?;
            if n == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&buf[..n]).replace('\n', "\r\n");
            line.put(text.as_bytes());
        }
    }
    child.wait().await
}

/// Fetches a boot script: HTTP/1.0, since that is all that firmware needs.
pub async fn fetch(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is spoken here")?;
    let (host, path) = rest.split_once('/').ok_or("the address names no file")?;
    let talk = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_SCRIPT).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = talk.await.map_err(|e| format!("{host}: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is no HTTP")?;
    let status = head.split_ascii_whitespace().nth(1).unwrap_or("?");
    if status == "200" { Ok(body.to_owned()) } else { Err(format!("{host}: status {status}")) }
}
