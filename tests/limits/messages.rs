//! Messages that come in pieces, by a client that sends as it likes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{RecvStream, SendStream, client::SendRequest};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::codegen::http::Request;

use super::{streams::Talk, *};
use crate::support::lanes;

/// A connection of HTTP/2, and what keeps it going.
struct Sender(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

/// A call whose message has begun.
struct Begun(SendStream<Bytes>, h2::client::ResponseFuture);

impl Sender {
    async fn connect(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(daemon.grpc().await).await.expect("the daemon listens");
        let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        Self(sender, tokio::spawn(connection))
    }

    async fn begin(&self, bytes: Bytes) -> Begun {
        let call =
            Request::post("http://test/forebay.v1.SaveService/Save").header("content-type", "application/grpc").header("te", "trailers");
        let mut sender = self.0.clone().ready().await.expect("there is room for a call");
        let (answer, mut body) = sender.send_request(call.body(()).expect("a request"), false).expect("it is sent");
        body.send_data(bytes, false).expect("it is sent");
        Begun(body, answer)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Begun {
    async fn go_on(mut self, bytes: Bytes) -> Status {
        self.0.send_data(bytes, true).expect("it is sent");
        self.status().await
    }

    async fn status(self) -> Status {
        let (head, body) = self.1.await.expect("an answer").into_parts();
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

/// A message with its prefix.
fn prefixed(save: Save) -> Bytes {
    let message = request(save).encode_to_vec();
    let length = u32::try_from(message.len()).expect("a message").to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_not_whole_are_limited() {
    const HELD: usize = 2_000;
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("grpc.message_bytes_max", "3 KiB")
        .set("grpc.body_bytes_max", "3 KiB")
        .set("grpc.receiving_bytes_max", "3 KiB");
    let daemon = setup.start().await;
    let (sender, other) = (Sender::connect(&daemon).await, Sender::connect(&daemon).await);
    let message = prefixed(save(1, 2_500));
    let first = sender.begin(message.slice(..HELD)).await;
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64).await;

    let second = other.begin(message.slice(..HELD)).await.status().await;
    refused_by(&second, "grpc.receiving_bytes_max");
    let given_up = sender.begin(message.slice(..1_000)).await;
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64 + 1_000).await;
    drop(given_up);
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64).await;
    daemon.client().await.save(request(save(2, 1_500))).await.expect("what comes whole is taken");

    assert_eq!(first.go_on(message.slice(HELD..)).await.code(), Code::Ok, "the rest of the first");
    assert_eq!(shown(&daemon, "grpc.receiving_bytes_max").await.used, 0);
    assert_eq!(other.begin(message.slice(..HELD)).await.go_on(message.slice(HELD..)).await.code(), Code::Ok, "there is room again");
    lanes::flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players where length(name) in (1500, 2500)").await, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_limited_in_the_midst_of_a_message_and_not_between_messages() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.message_timeout", "2 s").start().await;
    let mut stream = Talk::begin(daemon.client().await, streams::saves(2..=3)).await.expect("open");
    stream.acknowledged(3).await;
    let message = prefixed(save(1, 1_000));
    let sender = Sender::connect(&daemon).await;
    // Within the prefix, right behind it, and later.
    let silent = [1, 5, 700].map(|begun| {
        let begun_call = sender.begin(message.slice(..begun));
        async move { (begun, begun_call.await.status().await) }
    });
    for (begun, status) in join_all(silent).await {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let said = format!("{begun} bytes of a message came and nothing after them for grpc.message_timeout = 2s");
        assert!(status.message().contains(&said), "{status:?}");
    }
    assert_eq!(shown(&daemon, "grpc.receiving_bytes_max").await.used, 0);
    // As long as something comes, it may last.
    let mut slow = sender.begin(message.slice(..5)).await;
    let (last, piece) = (message.len() - 1, message.len() / 10);
    for from in (5..last).step_by(piece) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        slow.0.send_data(message.slice(from..last.min(from + piece)), false).expect("the call goes on");
    }
    assert_eq!(slow.go_on(message.slice(last..)).await.code(), Code::Ok);
    stream.send(streams::saves(4..=4)).await;
    stream.acknowledged(4).await;
    daemon.stop().await;
}
