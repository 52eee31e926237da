//! SIGTERM, as supervisors send it, and SIGINT, as people do.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first signal. The second leaves at once: safe, because recovery is the same code as start.
pub(super) fn stop() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tracing::warn!("second signal: leaving at once; what is left is in the journal");
                std::process::exit(0);
            }
            token.cancel();
        }
    });
    Ok(stop)
}
