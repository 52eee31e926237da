//! The HTTP port: metrics, probes and tickets, on a listener of its own.
//!
//! It serves pages that the daemon gives and knows nothing about what they say. Its limits are fixed here: a probe or a
//! scrape is small, and whoever else comes must not hold anything for long (P7). Each connection answers one request.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

mod tickets;

pub use tickets::TicketPage;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// The request line and all headers.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// From accept to the end of the headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole connection: a reader that takes longer is stuck.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After an accept that failed for want of descriptors or memory: others need time to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Answers under way when the daemon stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// What the pages show, asked at every request.
pub struct Pages {
    /// The metrics in Prometheus' text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether saves are accepted, or one line saying why not. Postgres has no part in it: to go on without it is the
    /// product.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// How the save of a ticket stands.
    pub ticket: Box<dyn Fn(&str) -> TicketPage + Send + Sync>,
}

/// Serves until `stop`; answers under way have a second to end.
pub async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let router = router(pages);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(answer(stream, router.clone()))),
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    // What is still open after that is cut off when the set is dropped.
    let _ = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/tickets/{ticket}", get(tickets::ticket))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics, /livez, /readyz and /v1/tickets/TICKET\n"))
        .with_state(Arc::new(pages))
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    match (pages.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (pages.metrics)()).into_response()
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        // Garbage, a slow header or a caller that left: its own business, and anyone could fill a log with it.
        Ok(Err(error)) => tracing::debug!(%error, "http connection ended early"),
        Err(_) => tracing::debug!("http connection timed out"),
    }
}

async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "http connection could not be accepted");
    sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests;
