//! Boot files for machines whose firmware fetches them: plain HTTP, since
//! that is all that firmware speaks.
//!
//! ```text
//! GET /boot/MACHINE/script   what to boot now, as an iPXE script
//! GET /boot/kernel           the boot agent's kernel
//! GET /boot/initrd           its initial RAM disk
//! GET /boot/medium/KEY/…     a CD for a machine's BMC
//! ```
//!
//! A script with parameters is given out once per attempt: it holds the
//! token. So does a CD, for as long as it is lent. Nothing else here is
//! secret, and nothing here changes anything but by asking the decision loop.

mod medium;
mod script;

#[cfg(test)]
mod tests;

use super::agents::Agents;
use super::hands::{Front, Rigs};
use super::share::Shares;
use super::spare::Spare;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pitstop_core::event::BootAnswer;
use pitstop_wire::MachineName;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

pub use medium::{Loan, Media};

/// Connections at the same time: a rack that boots together.
const CONNECTIONS: usize = 512;
/// How many of them one address may have.
const EACH: usize = 8;
/// How many this host may have, where all machines on a user-mode network
/// come from.
const LOOPBACK: usize = 384;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long one connection may last: a kernel over a slow management network.
const WHOLE: Duration = Duration::from_secs(600);

const OCTETS: &str = "application/octet-stream";

/// How often each machine asked what to boot, since this daemon started.
#[derive(Debug, Default)]
pub struct Asks(Mutex<HashMap<MachineName, u64>>);

impl Asks {
    /// How often this one did.
    pub fn of(&self, machine: &MachineName) -> u64 {
        self.all().get(machine).copied().unwrap_or_default()
    }

    fn note(&self, machine: &MachineName) {
        *self.all().entry(machine.clone()).or_default() += 1;
    }

    fn all(&self) -> MutexGuard<'_, HashMap<MachineName, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shop {
    asks: Arc<Asks>,
    front: Arc<dyn Front>,
    rigs: Arc<Rigs>,
    agents: Agents,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Source(IpAddr);

/// Serves boot files until the future is dropped. `agents` hears who was given
/// parameters, `asks` who asked. Nobody new is served while people have no
/// `spare` descriptors.
pub async fn serve(
    front: Arc<dyn Front>,
    rigs: Arc<Rigs>,
    agents: Agents,
    asks: Arc<Asks>,
    listener: TcpListener,
    spare: Arc<Spare>,
) {
    let app = Router::new()
        .route("/boot/{machine}/script", get(script))
        .route("/boot/kernel", get(kernel))
        .route("/boot/initrd", get(initrd))
        .route("/boot/medium/{key}/agent.iso", get(medium::medium))
        .fallback(elsewhere)
        .with_state(Arc::new(Shop { asks, front, rigs, agents }));
    let shares = Shares::new(EACH, LOOPBACK);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        spare.whole().await;
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip().to_canonical()),
            Err(e) => {
                tracing::warn!("the boot files' listener: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(from) else {
            tracing::debug!(%from, "too many connections for boot files from one address");
            continue;
        };
        let service = TowerToHyperService::new(app.clone().layer(Extension(Source(from))));
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
            let served =
                tokio::time::timeout(WHOLE, http.serve_connection(TokioIo::new(stream), service)).await;
            if let Ok(Err(e)) = served {
                tracing::debug!("boot files: {e}");
            }
            drop((place, share));
        });
    }
}

async fn script(
    State(shop): State<Arc<Shop>>,
    Extension(Source(from)): Extension<Source>,
    Path(machine): Path<String>,
) -> Response {
    let Ok(machine) = MachineName::new(&machine) else { return StatusCode::NOT_FOUND.into_response() };
    let Some(rig) = shop.rigs.get(&machine) else { return StatusCode::NOT_FOUND.into_response() };
    // Only machines that boot this way have business here: for all others a
    // request is somebody else's, and must not burn their attempt.
    let boot = rig.boot().ok().filter(|boot| boot.delivery() == pitstop_drivers::Delivery::Asked);
    let Some(boot) = boot else {
        return (StatusCode::FORBIDDEN, "this machine does not boot from here\n").into_response();
    };
    if let Some(own) = boot.asks_from().filter(|own| *own != from) {
        tracing::warn!(%machine, %from, "asked what to boot; only {own} may: nothing was given out");
        return (StatusCode::FORBIDDEN, "this machine asks from another address\n").into_response();
    }
    shop.asks.note(&machine);
    let text = match shop.front.boot(machine.clone(), false).await {
        BootAnswer::Agent(params) => {
            shop.agents.given(&machine, &params.nonce, from);
            script::agent(&rig, &rig.complete(&shop.rigs.places, params))
        }
        BootAnswer::Disk => script::disk(),
        BootAnswer::Refused(why) => {
            tracing::info!(%machine, "boot parameters were refused: {why}");
            script::refused(&machine, &why)
        }
        BootAnswer::NotKnown(why) => {
            tracing::info!(%machine, "boot parameters: {why}; it is to ask again");
            script::again()
        }
    };
    ([(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

async fn kernel(State(shop): State<Arc<Shop>>) -> Response {
    file(shop.rigs.places.agent.join("vmlinuz")).await
}

async fn initrd(State(shop): State<Arc<Shop>>) -> Response {
    file(shop.rigs.places.agent.join("initrd")).await
}

async fn file(path: PathBuf) -> Response {
    let opened = async {
        let file = tokio::fs::File::open(&path).await?;
        let len = file.metadata().await?.len();
        std::io::Result::Ok((file, len))
    };
    match opened.await {
        Ok((file, len)) => {
            let body = Body::from_stream(ReaderStream::with_capacity(file, 256 << 10));
            let head = [(header::CONTENT_LENGTH, len.to_string()), (header::CONTENT_TYPE, OCTETS.to_owned())];
            (head, body).into_response()
        }
        Err(e) => {
            tracing::error!(
                "a boot file cannot be given out: {}: {e}; make it with `pitstop image agent`",
                path.display()
            );
            (StatusCode::NOT_FOUND, "the boot agent's files are not there; see the daemon's log\n")
                .into_response()
        }
    }
}

async fn elsewhere() -> Response {
    (StatusCode::NOT_FOUND, "this port serves boot files only\n").into_response()
}
