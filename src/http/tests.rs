//! The port from outside, over real sockets.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;
use crate::outcomes::State as SaveState;

/// A server on a port of its own, ready when told.
struct Server {
    address: SocketAddr,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let is_ready = Arc::clone(&ready);
        let pages = Pages {
            metrics: Box::new(|| "forebay_ready 0\n".to_owned()),
            ready: Box::new(move || is_ready.load(Ordering::SeqCst).then_some(()).ok_or_else(|| "recovering the journal".to_owned())),
            ticket: Box::new(|ticket| match ticket {
                "pending" => TicketPage::State(SaveState::Pending, Some(Duration::from_millis(2_100))),
                "soon" => TicketPage::State(SaveState::Pending, None),
                "late" => TicketPage::State(SaveState::Pending, Some(Duration::from_secs(7_200))),
                "failed" => TicketPage::State(SaveState::Failed, None),
                "untold" => TicketPage::Untold("postgres has not been asked".to_owned()),
                _ => TicketPage::NotFound,
            }),
        };
        let task = tokio::spawn(serve(listener, pages, stop.clone()));
        Self { address, ready, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    /// All that the server sends back until it closes.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn request(&self, method: &str, path: &str) -> String {
        self.send(format!("{method} {path} HTTP/1.1\r\nhost: forebay\r\n\r\n").as_bytes()).await
    }
}

#[tokio::test]
async fn pages_are_answered_and_the_connection_closed() {
    let server = Server::start().await;
    let metrics = server.request("GET", "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.ends_with("\r\n\r\nforebay_ready 0\n"), "{metrics}");
    assert!(server.request("GET", "/livez").await.ends_with("\r\n\r\nok\n"));
    assert!(server.request("GET", "/health").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let server = Server::start().await;
    let waiting = server.request("GET", "/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.ends_with("\r\n\r\nrecovering the journal\n"), "{waiting}");
    server.ready.store(true, Ordering::SeqCst);
    let ready = server.request("GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nready\n"), "{ready}");
}

#[tokio::test]
async fn a_ticket_tells_the_state_alone_and_when_to_ask_again() {
    let server = Server::start().await;
    for (ticket, seconds) in [("pending", 3), ("soon", 1), ("late", 60)] {
        let pending = server.request("GET", &format!("/v1/tickets/{ticket}")).await;
        assert!(pending.starts_with("HTTP/1.1 200 ") && pending.ends_with("\r\n\r\n{\"state\":\"PENDING\"}\n"), "{pending}");
        assert!(pending.contains(&format!("retry-after: {seconds}\r\n")) && pending.contains("etag: \"PENDING\"\r\n"), "{pending}");
        assert!(pending.contains("content-type: application/json\r\n") && pending.contains("cache-control: no-cache\r\n"), "{pending}");
    }
    let failed = server.request("GET", "/v1/tickets/failed").await;
    assert!(failed.ends_with("{\"state\":\"FAILED\"}\n") && !failed.contains("retry-after"), "{failed}");
    let untold = server.request("GET", "/v1/tickets/untold").await;
    assert!(untold.starts_with("HTTP/1.1 503 ") && untold.contains("retry-after: 1\r\n"), "{untold}");
    assert!(server.request("GET", "/v1/tickets/other").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_state_that_a_poller_knows_is_not_told_again() {
    let server = Server::start().await;
    let poll = |ticket: &str, tags: &str| {
        let request = format!("GET /v1/tickets/{ticket} HTTP/1.1\r\nhost: forebay\r\nif-none-match: {tags}\r\n\r\n");
        let server = &server;
        async move { server.send(request.as_bytes()).await }
    };
    for tags in ["\"PENDING\"", "W/\"PENDING\"", "\"FAILED\", \"PENDING\"", "*"] {
        let known = poll("pending", tags).await;
        assert!(known.starts_with("HTTP/1.1 304 ") && known.contains("retry-after: 3\r\n") && known.ends_with("\r\n\r\n"), "{known}");
    }
    assert!(poll("failed", "\"PENDING\"").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn other_methods_than_get_are_refused() {
    let server = Server::start().await;
    for method in ["POST", "DELETE", "PUT"] {
        let answer = server.request(method, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET,HEAD"), "{answer}");
    }
}

#[tokio::test]
async fn garbage_and_oversized_headers_end_in_a_closed_connection() {
    let server = Server::start().await;
    let tls_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    for garbage in [&tls_hello[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET /\r\n\r\n"] {
        let answer = server.send(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let oversized = format!("GET /livez HTTP/1.1\r\nhost: forebay\r\nx: {}\r\n\r\n", "a".repeat(HEADER_BYTES_MAX));
    assert!(server.send(oversized.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert!(server.request("GET", "/livez").await.ends_with("ok\n"));
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_room() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(server.connect().await);
    }
    let waiting = server.request("GET", "/livez");
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    silent.pop();
    assert!(waiting.await.ends_with("ok\n"));
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_header_timeout() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let closed = timeout(HEADER_TIMEOUT * 2, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "still open");
}

#[tokio::test]
async fn stop_ends_it_although_a_connection_is_open() {
    let server = Server::start().await;
    let _silent = server.connect().await;
    assert!(server.request("GET", "/livez").await.ends_with("ok\n"));
    server.stop.cancel();
    timeout(STOP_TIMEOUT * 5, server.task).await.expect("stopped").expect("without a panic");
}
