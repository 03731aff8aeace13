//! The Unix socket people's tools connect to.

use super::peer::{PeerResult, Peers};
use super::room::{Busy, Guest, Room};
use crate::daemon::spare::Spare;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at the same time. When more come, those that say nothing go.
const CONNECTIONS: usize = 2_048;
/// How long a client may take for the head of a request. Also ends idle
/// connections, whose owners notice and connect again.
const HEAD: Duration = Duration::from_secs(30);
/// Most headers of a request, and most bytes of its head.
const HEADERS: usize = 64;
const HEAD_BYTES: usize = 64 << 10;
/// How soon it is tried again when a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);
/// How long half a request may take whose place somebody else wants.
const LEAVE: Duration = Duration::from_millis(250);
/// How long answers under way may take once the daemon stops.
const GRACE: Duration = Duration::from_secs(3);
/// Longest path of a Unix socket (sockaddr_un, with its closing zero).
const LONGEST_PATH: usize = 107;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It is somebody else's.
    #[error("another daemon answers at {0}; stop it, or use --socket with another path")]
    InUse(PathBuf),
    /// The path is too long for the kernel.
    #[error("the socket's path {0} has more than {LONGEST_PATH} bytes; use --socket with a shorter one")]
    TooLong(PathBuf),
    /// It cannot be made.
    #[error("the socket {path} cannot be made: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// A bound socket; gone when dropped.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Binds, for this user and group only. A socket left by a daemon that
    /// was killed is replaced in one step, so that clients that retry never
    /// find nothing there.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { path: path.to_owned(), source };
        // The temporary name is 4 bytes longer.
        if path.as_os_str().len() + 4 > LONGEST_PATH {
            return Err(ListenError::TooLong(path.to_owned()));
        }
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::InUse(path.to_owned()));
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let inode = std::fs::metadata(&temporary).map_err(failed)?.ino();
        std::fs::rename(&temporary, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Serves until told to stop, then lets answers under way finish. Whoever
    /// finds no descriptor gets a `spare` one.
    pub async fn serve(self, router: Router, stop: CancellationToken, spare: Arc<Spare>) {
        let room = Room::new(CONNECTIONS);
        let tasks = TaskTracker::new();
        let peers = Arc::new(Peers::new(rustix::process::geteuid().as_raw()));
        let mut again = tokio::time::interval(ACCEPT_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = again.tick(), if !spare.is_whole() => {
                    spare.refill();
                    continue;
                }
                () = stop.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely. Said once until
                    // there are enough again.
                    if spare.is_whole() {
                        tracing::warn!(%error, "a connection cannot be accepted at once");
                    }
                    if !spare.give() {
                        room.part_with_one(ACCEPT_AGAIN).await;
                    }
                    continue;
                }
            };
            let guest = tokio::select! {
                guest = room.enter() => guest,
                () = stop.cancelled() => break,
            };
            let Some(guest) = guest else { break };
            let (router, peers, stop) = (router.clone(), Arc::clone(&peers), stop.clone());
            tasks.spawn(connection(stream, router, peers, stop, guest));
        }
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::info!("connections were still open when the daemon stopped");
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another daemon may have put its own in our place.
        if std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn connection(
    stream: UnixStream,
    router: Router,
    peers: Arc<Peers>,
    stop: CancellationToken,
    guest: Guest,
) {
    let peer: PeerResult = Arc::new(match stream.peer_cred() {
        Ok(credentials) => peers.of_uid(credentials.uid()),
        Err(error) => Err(pitstop_wire::ApiError::new(
            pitstop_wire::Code::NotAllowed,
            format!("the kernel does not say who you are: {error}"),
        )),
    });
    let service = tower_service_fn(router, peer, guest.begins());
    let leave = guest.leave();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        // It has no request, or has just got one: that is answered still.
        () = leave.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                () = guest.lingers(LEAVE) => Ok(()),
            }
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// The routes, for requests that know whose they are; each says when it
/// begins.
fn tower_service_fn(
    router: Router,
    peer: PeerResult,
    begins: impl Fn() -> Busy + Clone + Send + 'static,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> {
    let inner = TowerToHyperService::new(router);
    hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&peer));
        let (busy, answer) = (begins(), hyper::service::Service::call(&inner, request));
        async move { answer.await.map(|response| response.map(|body| busy.until_sent(body))) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_by_a_killed_daemon_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/pitstop.sock");
        let first = Listener::bind(&path).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listener::bind(&path).await, Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists(), "a daemon that ends takes its socket along");
        // As after kill -9: the file stays, nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let second = Listener::bind(&path).await.unwrap();
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(second);
    }

    #[tokio::test]
    async fn a_path_too_long_for_the_kernel_is_said_so() {
        let path = PathBuf::from(format!("/tmp/{}/s", "x".repeat(120)));
        assert!(matches!(Listener::bind(&path).await, Err(ListenError::TooLong(_))));
    }
}
