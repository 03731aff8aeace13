//! The machines' listener. Whoever connects is a stranger until his hello is
//! accepted: he gets little time and little memory.

use super::Agents;
use super::session;
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
    /// How long a hello may take, TLS included.
    pub hello: Duration,
    /// Silence after which a connection is dead.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            strangers: 256,
            hello: Duration::from_secs(10),
            silence: Duration::from_millis(3 * pitstop_wire::agent::HEARTBEAT_MS),
        }
    }
}

/// Serves agents until the future is dropped.
pub async fn serve(agents: Agents, listener: TcpListener, tls: Arc<ServerConfig>, limits: Limits) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(limits.connections));
    let strangers = Arc::new(Semaphore::new(limits.strangers));
    loop {
        let (Ok(place), Ok(stranger)) =
            (places.clone().acquire_owned().await, strangers.clone().acquire_owned().await)
        else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of descriptors, mostly: give others time to close some.
                tracing::warn!("the machines' listener: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
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
            drop(stranger);
            session::run(agents, met, limits).await;
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
