//! Messages that come in pieces, by a client that sends as it likes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{streams::Talk, *};
use crate::support::{
    http2::{Call, Connection},
    lanes,
};

async fn begin(connection: &Connection, bytes: Bytes) -> Call {
    let mut call = connection.call("Save").await;
    call.send(bytes);
    call
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
    let (connection, other) = (Connection::open(daemon.grpc().await).await, Connection::open(daemon.grpc().await).await);
    let message = prefixed(save(1, 2_500));
    let first = begin(&connection, message.slice(..HELD)).await;
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64).await;

    let second = begin(&other, message.slice(..HELD)).await.status().await;
    refused_by(&second, "grpc.receiving_bytes_max");
    let given_up = begin(&connection, message.slice(..1_000)).await;
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64 + 1_000).await;
    drop(given_up);
    used(&daemon, "grpc.receiving_bytes_max", HELD as u64).await;
    daemon.client().await.save(request(save(2, 1_500))).await.expect("what comes whole is taken");

    assert_eq!(first.end(message.slice(HELD..)).await.code(), Code::Ok, "the rest of the first");
    assert_eq!(shown(&daemon, "grpc.receiving_bytes_max").await.used, 0);
    assert_eq!(begin(&other, message.slice(..HELD)).await.end(message.slice(HELD..)).await.code(), Code::Ok, "there is room again");
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
    let connection = Connection::open(daemon.grpc().await).await;
    // Within the prefix, right behind it, and later.
    let silent = [1, 5, 700].map(|begun| {
        let begun_call = begin(&connection, message.slice(..begun));
        async move { (begun, begun_call.await.status().await) }
    });
    for (begun, status) in join_all(silent).await {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let said = format!("{begun} bytes of a message came and nothing after them for grpc.message_timeout = 2s");
        assert!(status.message().contains(&said), "{status:?}");
    }
    assert_eq!(shown(&daemon, "grpc.receiving_bytes_max").await.used, 0);
    let status = begin(&connection, Bytes::new()).await.status().await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("no message came for grpc.message_timeout = 2s"), "{status:?}");
    assert_eq!(shown(&daemon, "grpc.receiving_bytes_max").await.used, 0);
    // As long as something comes, it may last.
    let mut slow = begin(&connection, message.slice(..5)).await;
    let (last, piece) = (message.len() - 1, message.len() / 10);
    for from in (5..last).step_by(piece) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        slow.send(message.slice(from..last.min(from + piece)));
    }
    assert_eq!(slow.end(message.slice(last..)).await.code(), Code::Ok);
    stream.send(streams::saves(4..=4)).await;
    stream.acknowledged(4).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_once_its_message_is_whole() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let connection = Connection::open(daemon.grpc().await).await;
    let [first, second, third] = [1, 2, 3].map(|id| prefixed(save(id, 1_000)));
    assert_eq!(begin(&connection, first).await.status().await.code(), Code::Ok, "the client never ends its side");
    let two = Bytes::from([second, third].concat());
    assert_eq!(begin(&connection, two).await.status().await.code(), Code::Ok);
    lanes::flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await, 2, "a second message in one call is not read");
    daemon.stop().await;
}

/// What a client may send ahead, as the daemon says it at the beginning of a connection (RFC 9113, sections 6.5.2 and 6.9.2).
#[tokio::test(flavor = "multi_thread")]
async fn little_may_be_sent_ahead() {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const INITIAL_WINDOW_SIZE: u32 = 4;
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut stream = TcpStream::connect(daemon.grpc().await).await.expect("the daemon listens");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it takes the preface");
    let (mut of_a_call, mut of_the_connection) = (None, None);
    while of_a_call.is_none() || of_the_connection.is_none() {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.expect("all of it");
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
        match head[3] {
            SETTINGS => {
                let set = payload.chunks_exact(6).find(|setting| number(&setting[..2]) == INITIAL_WINDOW_SIZE);
                of_a_call = of_a_call.or(set.map(|setting| number(&setting[2..])));
            }
            WINDOW_UPDATE => of_the_connection = Some(65_535 + number(&payload)),
            _ => {}
        }
    }
    assert_eq!((of_a_call, of_the_connection), (Some(64 << 10), Some(2 << 20)));
    drop(stream);
    daemon.stop().await;
}
