//! The machines' listener. Whoever connects is a stranger until his hello is
//! accepted: he gets little time and little memory.

use super::Agents;
use super::session;
use crate::daemon::share::Shares;
use crate::daemon::spare::Spare;
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// What strangers and agents may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections at the same time that have not said hello.
    pub strangers: usize,
    /// How many of them one address may have.
    pub each: usize,
    /// How many this host may have besides: simulated machines, and all that
    /// are on a user-mode network.
    pub loopback: usize,
    /// How long a hello may take, TLS included.
    pub hello: Duration,
    /// Silence after which a connection is dead.
    pub silence: Duration,
    /// How long one message to an agent may take; the longest are chunks of
    /// about 1 MiB.
    pub say: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            strangers: 256,
            each: 8,
            loopback: 1024,
            hello: Duration::from_secs(10),
            silence: Duration::from_millis(3 * pitstop_wire::agent::HEARTBEAT_MS),
            say: Duration::from_secs(60),
        }
    }
}

/// Serves agents until the future is dropped; nobody new while people have no
/// `spare` descriptors.
pub async fn serve(
    agents: Agents,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: Limits,
    spare: Arc<Spare>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Arc::new(Semaphore::new(limits.strangers));
    let shares = Shares::new(limits.each, limits.loopback);
    loop {
        let (Ok(place), Ok(stranger)) =
            (places.clone().acquire_owned().await, strangers.clone().acquire_owned().await)
        else {
            return;
        };
        spare.whole().await;
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip()),
            Err(e) => {
                // Out of descriptors, mostly: give others time to close some.
                tracing::warn!("the machines' listener: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Closed at once: it comes again when others of its own are done.
        let Some(share) = shares.take(from) else {
            tracing::debug!(%from, "too many strangers from one address");
            continue;
        };
        let stranger = (!from.to_canonical().is_loopback()).then_some(stranger);
        let (agents, acceptor) = (agents.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _place = place;
            let met = tokio::time::timeout(limits.hello, async {
                let stream = shake_hands(stream, &acceptor).await?;
                session::greet(stream).await
            });
            let met = match met.await {
                Ok(Ok(met)) => met,
                Ok(Err(e)) => return tracing::debug!("a stranger did not say hello: {e}"),
                Err(_) => return tracing::debug!("a stranger took too long to say hello"),
            };
            drop((stranger, share));
            session::run(agents, met, from, limits).await;
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    // Keys that are typed and signals that are sent are small and urgent.
    stream.set_nodelay(true)?;
    acceptor.accept(stream).await
}
