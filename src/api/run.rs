//! `run`: frames between a caller and the agent of his machine. Only the
//! permission is ours; positions and repeats are between the two ends.

use super::Shared;
use super::error::{Refusal, usage};
use super::extract::{Asked, Name};
use crate::daemon::agents::{Agents, RunLink};
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pitstop_client::frames::{FrameReader, write_frame};
use pitstop_core::event::Request as Ask;
use pitstop_wire::api::{FRAMES, RunRequest};
use pitstop_wire::run::{Command, End, FromRun, ToRun};
use pitstop_wire::{ApiError, Code, MachineName};
use tokio::io::{AsyncWriteExt, split};
use tokio_util::sync::CancellationToken;

/// Commands on machines.
pub trait Runs: Send + Sync {
    /// A link to the machine's agent for one command; `None` where no agent
    /// of the attempt with this nonce is connected.
    fn link(&self, machine: &MachineName, run: &str, nonce: &str) -> Option<RunLink>;
}

impl Runs for Agents {
    fn link(&self, machine: &MachineName, run: &str, nonce: &str) -> Option<RunLink> {
        Self::link(self, machine, run, nonce)
    }
}

/// Start a command, or attach to it again.
pub async fn run(
    State(app): State<Shared>,
    Name(machine): Name,
    request: Request,
) -> Result<Response, Refusal> {
    let (upgrade, request) = upgrade(request)?;
    let mut asked = Asked::<RunRequest>::from_request(request, &app).await?;
    let ask = asked.body;
    check(&ask)?;
    // The caller may come back with other positions: the key stands for the
    // command itself.
    let identity = serde_json::to_string(&(&machine, &ask.id, &ask.command))
        .map_err(|e| ApiError::new(Code::Internal, format!("the command cannot be written as JSON: {e}")))?;
    asked.caller.key = Some((format!("run-{}", ask.id), pitstop_core::id::SecretHash::of(&identity)));
    let command = shown(&ask.command);
    let answer = app.desk.ask(asked.caller, Ask::Run { machine: machine.clone(), command }).await?;
    let said = |field: &str| answer.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
    // On a repeat this is the first answer: a command is never started again
    // in another boot than the one it was started in.
    let lab = app.desk.snapshot().await?;
    let boot_id = lab.machine(&machine).and_then(|m| m.agent.as_ref()).map(|a| a.boot_id.as_str());
    if boot_id != Some(said("boot_id")) {
        let error =
            ApiError::new(Code::MachineFailed, format!("{machine} has booted again: the command is gone"));
        return Err(Refusal(error.hint(format!("pitstop events {machine}"))));
    }
    let nonce = said("nonce");
    start(&*app.runs, &machine, ask, nonce, upgrade, app.closing.clone()).await
}

async fn start(
    runs: &dyn Runs,
    machine: &MachineName,
    ask: RunRequest,
    nonce: &str,
    upgrade: OnUpgrade,
    closing: CancellationToken,
) -> Result<Response, Refusal> {
    let link = runs.link(machine, &ask.id, nonce).ok_or_else(|| away(machine))?;
    let start = ToRun::Start { id: ask.id, command: ask.command, stdout: ask.stdout, stderr: ask.stderr };
    if link.send.send((start, Vec::new())).await.is_err() {
        return Err(Refusal(away(machine)));
    }
    Ok(accept(upgrade, closing, move |io| relay(io, link)))
}

/// Without the core's permission, to test the streams alone.
#[cfg(test)]
pub async fn without_permission(
    runs: std::sync::Arc<dyn Runs>,
    request: Request,
) -> Result<Response, Refusal> {
    let (upgrade, request) = upgrade(request)?;
    let asked = Asked::<RunRequest>::from_request(request, &()).await?;
    let machine = MachineName::new("m0").map_err(|e| usage(e.to_string()))?;
    start(&*runs, &machine, asked.body, "", upgrade, CancellationToken::new()).await
}

fn check(ask: &RunRequest) -> Result<(), Refusal> {
    if ask.command.argv.first().is_none_or(String::is_empty) {
        return Err(usage("`command.argv` needs a program"));
    }
    if ask.id.is_empty()
        || ask.id.len() > 64
        || !ask.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(usage("`id` is 1 to 64 letters, digits and -"));
    }
    let c = &ask.command;
    let texts = c.argv.iter().chain(c.env.iter().flat_map(|(k, v)| [k, v])).chain(&c.cwd);
    if texts.into_iter().any(|t| t.contains('\0'))
        || c.env.iter().any(|(k, _)| k.is_empty() || k.contains('='))
    {
        return Err(usage("a command, its environment and its directory hold no NUL, and names no `=`"));
    }
    Ok(())
}

fn away(machine: &MachineName) -> ApiError {
    let mut error =
        ApiError::new(Code::NotKnown, format!("the agent of {machine} is not connected just now"));
    error.retry_after = Some(1);
    error.hint(format!("pitstop why {machine}; if it stays away: pitstop reimage {machine}"))
}

/// A command in one line, for the audit.
fn shown(command: &Command) -> String {
    command
        .argv
        .iter()
        .map(|a| if a.contains(' ') { format!("{a:?}") } else { a.clone() })
        .collect::<Vec<_>>()
        .join(" ")
}

/// An upgraded connection.
pub type Io = TokioIo<Upgraded>;

/// Until either end is gone. Each direction waits for its own reader only.
async fn relay(io: Io, mut link: RunLink) {
    let (reader, mut writer) = split(io);
    let mut reader = FrameReader::new(reader);
    let send = link.send;
    let inbound = async move {
        while let Ok(Some(frame)) = reader.next::<ToRun>().await {
            // The start is ours to say: the audit has seen that command.
            if matches!(frame.message, ToRun::Start { .. })
                || send.send((frame.message, frame.body)).await.is_err()
            {
                return;
            }
        }
    };
    let outbound = async move {
        while let Some((message, body)) = link.receive.recv().await {
            let over = matches!(message, FromRun::Ended { end: End::Failed { .. }, .. });
            if write_frame(&mut writer, &message, &body).await.is_err() {
                return;
            }
            if over {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        () = inbound => {}
        () = outbound => {}
    }
}

/// Takes the upgrade out of a request that must ask for one.
pub fn upgrade(request: Request) -> Result<(OnUpgrade, Request), Refusal> {
    let (mut parts, body) = request.into_parts();
    if !wants_frames(&parts.headers) {
        let error =
            ApiError::new(Code::Usage, format!("this needs `Connection: upgrade` and `Upgrade: {FRAMES}`"));
        return Err(Refusal(error));
    }
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| usage("this connection cannot be upgraded"))?;
    Ok((upgrade, Request::from_parts(parts, body)))
}

fn wants_frames(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.to_ascii_lowercase().contains(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, FRAMES)
}

/// Answers 101 and serves the connection in a task of its own, until the
/// daemon closes: whoever is at the other end comes back to the next one.
pub fn accept<F, Fut>(upgrade: OnUpgrade, closing: CancellationToken, serve: F) -> Response
where
    F: FnOnce(Io) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => tokio::select! {
                // First: nothing that the end leads to is told as news.
                biased;
                () = closing.cancelled() => {}
                () = serve(TokioIo::new(upgraded)) => {}
            },
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, FRAMES)];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}
