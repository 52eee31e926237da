//! SIGTERM, as supervisors send it, and SIGINT, as people do. SIGHUP, after a change of the schema.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
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

/// Notified by every SIGHUP.
pub(super) fn reread() -> io::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let asked = Arc::new(Notify::new());
    let notified = Arc::clone(&asked);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            notified.notify_one();
        }
    });
    Ok(asked)
}
