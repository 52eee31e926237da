//! Limits on calls: in flight, waiting, on one connection, and their headers.

use std::time::Duration;

use forebay::proto::{FlushRequest, ListCollectionsRequest, SaveStreamRequest};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Request;

use super::{streams::Talk, *};
use crate::support::strace;

/// Saves at once, until one of them is refused by this limit; then one alone, which is not.
async fn save_at_once(daemon: &Daemon, limit: &str, bytes: usize) {
    let client = daemon.client().await;
    let refusal = eventually("one is refused", || async {
        let saves = (0..16).map(|n| {
            let mut client = client.clone();
            async move { client.save(request(save(n, bytes))).await }
        });
        join_all(saves).await.into_iter().find_map(Result::err)
    })
    .await;
    refused_by(&refusal, limit);
    used(daemon, limit, 0).await;
    client.clone().save(request(save(1, bytes))).await.expect("there is room again");
}

/// Syncs that take their time: what comes meanwhile piles up.
const SYNC_DELAY: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_flight_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(&journal.path().join("journal"), &database.url()).set("grpc.calls_in_flight_max", "2");
    let daemon = strace::with_slow_syncs(&setup, SYNC_DELAY, &journal.path().join("trace")).await;
    save_at_once(&daemon, "grpc.calls_in_flight_max", 10).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journals_inbox_is_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(&journal.path().join("journal"), &database.url())
        .set("journal.inbox_bytes_max", "64 KiB")
        .set("journal.group_bytes_max", "64 KiB")
        .set("grpc.message_bytes_max", "64 KiB")
        .set("grpc.body_bytes_max", "60 KiB");
    let daemon = strace::with_slow_syncs(&setup, SYNC_DELAY, &journal.path().join("trace")).await;
    save_at_once(&daemon, "journal.inbox_bytes_max", 40_000).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_calls_are_limited_and_take_no_room_from_saves() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("grpc.awaiting_calls_max", "1").set("postgres.lock_timeout", "30 s");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let holder = database.client().await;
    holder.batch_execute("begin; lock table players").await.expect("locked");
    client.save(request(save(1, 10))).await.expect("accepted");
    let mut waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.flush(FlushRequest::default()).await });
    used(&daemon, "grpc.awaiting_calls_max", 1).await;
    let status = client.flush(FlushRequest::default()).await.expect_err("refused");
    refused_by(&status, "grpc.awaiting_calls_max");
    client.save(request(save(2, 10))).await.expect("saves have room of their own");
    holder.batch_execute("commit").await.expect("released");
    waiting.await.expect("no panic").expect("flushed");
    client.flush(FlushRequest::default()).await.expect("there is room again");
    assert_eq!(database.number("select count(*) from players").await, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.header_bytes_max", "1 KiB").start().await;
    let mut client = daemon.client().await;
    let list = |bytes: usize| {
        let mut request = Request::new(ListCollectionsRequest::default());
        request.metadata_mut().insert("filler", "x".repeat(bytes).parse().expect("a header"));
        request
    };
    client.list_collections(list(500)).await.expect("small enough");
    let limit = shown(&daemon, "grpc.header_bytes_max").await;
    assert!(limit.used > 500 && limit.used <= limit.max, "{limit:?}");
    let status = client.list_collections(list(1_024)).await.expect_err("too large");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("grpc.header_bytes_max = 1024: send less"), "{status:?}");
    client.list_collections(list(4_096)).await.expect_err("HTTP/2 itself refuses what is far too large");
    client.list_collections(list(500)).await.expect("the connection goes on");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_connection_are_limited_and_wait_in_the_client() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.streams_per_connection_max", "2").start().await;
    let mut client = daemon.client().await;
    let first = Talk::begin(client.clone(), SaveStreamRequest::default()).await.expect("open");
    let _second = Talk::begin(client.clone(), SaveStreamRequest::default()).await.expect("open");
    used(&daemon, "grpc.streams_per_connection_max", 2).await;
    let third = tokio::spawn(async move { client.list_collections(ListCollectionsRequest::default()).await });
    daemon.client().await.save(request(save(1, 10))).await.expect("other connections are not concerned");
    assert!(!third.is_finished(), "it waits");
    drop(first);
    third.await.expect("no panic").expect("there is room again");
    assert_eq!(shown(&daemon, "grpc.streams_per_connection_max").await.used, 2);
    daemon.stop().await;
}

/// A client that keeps to no limit: frames by hand.
struct Frames(TcpStream);

impl Frames {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

    async fn connect(daemon: &Daemon) -> Self {
        let mut frames = Self(TcpStream::connect(daemon.grpc().await).await.expect("connected"));
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
        frames.write(Self::SETTINGS, 0, 0, &[]).await;
        frames
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).expect("a short frame");
        self.0.write_all(&[0, 0, length, kind, flags, 0, 0, 0, stream]).await.expect("written");
        self.0.write_all(payload).await.expect("written");
    }

    /// Opens a save stream: a call that lasts.
    async fn open(&mut self, stream: u8) {
        const END_HEADERS: u8 = 4;
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/forebay.v1.SaveService/SaveStream"),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // HPACK: a literal that is not indexed, with a name of its own.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend(text.as_bytes());
            }
        }
        self.write(Self::HEADERS, END_HEADERS, stream, &block).await;
    }

    /// The next frame that answers or resets a call: its stream, kind and payload.
    async fn answer(&mut self) -> (u8, u8, Vec<u8>) {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.expect("the connection goes on");
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            self.0.read_exact(&mut payload).await.expect("the connection goes on");
            if matches!(head[3], Self::HEADERS | Self::RST_STREAM) {
                return (head[8], head[3], payload);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_to_no_limit_has_its_surplus_calls_reset() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.streams_per_connection_max", "2").start().await;
    let mut frames = Frames::connect(&daemon).await;
    for stream in [1, 3] {
        frames.open(stream).await;
        let (answered, kind, _) = frames.answer().await;
        assert_eq!((answered, kind), (stream, Frames::HEADERS));
    }
    frames.open(5).await;
    assert_eq!(frames.answer().await, (5, Frames::RST_STREAM, Frames::REFUSED_STREAM.to_vec()));
    used(&daemon, "grpc.streams_per_connection_max", 2).await;
    daemon.client().await.save(request(save(1, 10))).await.expect("other connections are not concerned");
    // The first call is given up: there is room for another.
    frames.write(Frames::RST_STREAM, 0, 1, &[0, 0, 0, 8]).await;
    for stream in (7..=u8::MAX).step_by(2) {
        frames.open(stream).await;
        let (answered, kind, _) = frames.answer().await;
        assert_eq!(answered, stream);
        if kind == Frames::HEADERS {
            drop(frames);
            daemon.stop().await;
            return;
        }
    }
    panic!("there is never room again");
}
