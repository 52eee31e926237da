//! Calls of HTTP/2 by hand: their messages come as the test likes.

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::{Status, codegen::http::Request};

/// A connection, and what keeps it going.
pub(crate) struct Connection(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the daemon listens");
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        Self(sender, tokio::spawn(connection))
    }

    /// Begins a call of SaveService.
    pub(crate) async fn call(&self, method: &str) -> Call {
        self.call_with(method, []).await
    }

    /// With headers of its own.
    pub(crate) async fn call_with(&self, method: &str, headers: impl IntoIterator<Item = (&str, &str)>) -> Call {
        let uri = format!("http://test/forebay.v1.SaveService/{method}");
        let head = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
        let head = headers.into_iter().fold(head, |head, (name, value)| head.header(name, value));
        let mut sender = self.0.clone().ready().await.expect("there is room for a call");
        let (answer, body) = sender.send_request(head.body(()).expect("a request"), false).expect("it is sent");
        Call { body, answer }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// A call that the client has not ended.
pub(crate) struct Call {
    body: SendStream<Bytes>,
    answer: ResponseFuture,
}

impl Call {
    /// More of it. Nothing happens if the daemon has answered.
    pub(crate) fn send(&mut self, bytes: Bytes) {
        drop(self.body.send_data(bytes, false));
    }

    /// Waits until the daemon has taken it, or answered.
    pub(crate) async fn send_all(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            self.body.reserve_capacity(bytes.len());
            let Some(Ok(room)) = poll_fn(|cx| self.body.poll_capacity(cx)).await else { return };
            self.send(bytes.split_to(room.min(bytes.len())));
        }
    }

    /// The last of it, and what comes of the call.
    pub(crate) async fn end(mut self, bytes: Bytes) -> Status {
        drop(self.body.send_data(bytes, true));
        self.status().await
    }

    pub(crate) async fn status(self) -> Status {
        let (head, body) = self.answer.await.expect("an answer").into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) => status,
            None => trailing_status(body).await,
        }
    }
}

async fn trailing_status(mut body: RecvStream) -> Status {
    while let Some(data) = body.data().await {
        data.expect("an answer");
    }
    let trailers = body.trailers().await.expect("an answer").expect("trailers");
    Status::from_header_map(&trailers).expect("a status")
}
