//! The control socket.

use super::machine::Call;
use pitstop_drivers::sim::protocol::MAX_LINE;
use pitstop_drivers::sim::{Reply, Request};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers callers until the machine is gone.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    while let Ok((stream, _)) = listener.accept().await {
        let calls = calls.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(stream, calls)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => eprintln!("a caller was not answered: {e}"),
                Err(_) => eprintln!("a caller took too long"),
            }
        });
    }
}

async fn answer(stream: UnixStream, calls: mpsc::Sender<Call>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
    let reply = match serde_json::from_slice::<Request>(&line) {
        Err(e) => Reply { error: Some(format!("not understood: {e}")), ..Reply::default() },
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let gone = || std::io::Error::other("the machine is gone");
            calls.send((request, answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        }
    };
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    stream.get_mut().write_all(&bytes).await?;
    stream.get_mut().shutdown().await
}
