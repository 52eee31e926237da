//! Connections and calls that are held, and descriptors that are gone.

use std::time::Duration;

use bytes::Bytes;
use forebay::proto::ListCollectionsRequest;
use futures_util::future::join_all;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Mutex};

use crate::support::{
    eventually,
    http2::{Call, Connection},
    try_client,
};

use super::{
    CALLS_PER_CONNECTION_MAX, CONNECTIONS_MAX, KIB, MESSAGE_BYTES_MAX, RECEIVING_BYTES_MAX,
    frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, head},
    run::{HONEST_CONNECTIONS, Run},
};

/// What shows who is gone: soon.
pub(super) const IDLE_LIMITS: [(&str, &str); 4] = [
    ("grpc.first_byte_timeout", "1 s"),
    ("grpc.handshake_timeout", "1 s"),
    ("grpc.keepalive_interval", "1 s"),
    ("grpc.keepalive_timeout", "3 s"),
];

/// A field that nobody knows begins; its bytes are more than a message has.
const BEGUN_FIELD: [u8; 5] = [15 << 3 | 2, 0xff, 0xff, 0xff, 0x7f];

/// What a connection takes that has no calls.
pub(super) const IDLE_BYTES_MAX: u64 = 64 * KIB;

/// Connections beyond the cap, that are silent from the start, in the midst of the preface, or after it: all of them go in the end,
/// while their clients hold on to them. Those that answer pings stay.
pub(super) async fn idle(run: &mut Run) -> u64 {
    const LIVING: usize = 8;
    const BEYOND: usize = 64;
    let mut living = Vec::new();
    for _ in 0..LIVING {
        living.push(run.daemon().client().await);
    }
    let (mut silent, mut greeted) = (Vec::new(), Vec::new());
    for n in 0..CONNECTIONS_MAX + BEYOND {
        if n % 3 == 0 {
            let mut frames = Frames::connect(run.address()).await;
            frames.send().await;
            greeted.push(frames);
            continue;
        }
        let mut stream = TcpStream::connect(run.address()).await.expect("the daemon listens");
        // Beyond the cap it is closed already.
        let _ = stream.write_all(if n % 3 == 1 { b"" } else { b"PRI * HTTP/2.0" }).await;
        silent.push(stream);
    }
    run.daemon().logged("connections are refused").await;
    run.served().await;
    let all = format!("forebay_limit_used{{name=\"grpc.connections_max\",kind=\"amount\"}} {}", LIVING + HONEST_CONNECTIONS);
    eventually("the idle ones are dropped", || async { run.used().await.contains(&all).then_some(()) }).await;
    eventually("there is room for a new client", || try_client(run.address())).await;
    for mut client in living {
        client.list_collections(ListCollectionsRequest::default()).await.expect("those that live are kept");
    }
    (silent.len() + greeted.len()) as u64
}

/// Connections of slow calls; half of them read nothing, half of them write next to nothing.
const SLOW_CONNECTIONS: usize = 40;
/// What each of the calls that write has sent of its message.
const WRITTEN_BYTES: usize = 16 << 10;
/// Between the bytes that follow.
const BYTE_EVERY: Duration = Duration::from_millis(50);
/// What they take: what was written, and of what nobody reads a page each.
pub(super) const SLOW_BYTES_MAX: u64 = (SLOW_CONNECTIONS * CALLS_PER_CONNECTION_MAX) as u64 * (WRITTEN_BYTES as u64 + 16 * KIB);

/// Calls whose messages come a byte at a time, and calls whose answers are never read; then all are gone without a word.
pub(super) async fn read_and_write_slowly(run: &mut Run) -> u64 {
    let mut calls = 0;
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for n in 0..SLOW_CONNECTIONS {
        if n % 2 == 0 {
            writers.push(begin_to_write(run, &mut calls).await);
        } else {
            readers.push(begin_to_read(run, &mut calls).await);
        }
    }
    let writers = Mutex::new(writers);
    let write_on = || async {
        for (frames, streams) in writers.lock().await.iter_mut() {
            streams.iter().for_each(|&stream| frames.frame(DATA, 0, stream, b" "));
            assert!(frames.send().await, "slow calls are borne");
        }
        tokio::time::sleep(BYTE_EVERY).await;
        1
    };
    run.while_serving(write_on).await;
    drop(readers);
    calls
}

async fn begin_to_write(run: &mut Run, calls: &mut u64) -> (Frames, Vec<u32>) {
    let mut frames = Frames::connect_with_room(run.address()).await;
    let mut streams = Vec::new();
    for _ in 0..CALLS_PER_CONNECTION_MAX {
        let stream = frames.call(["Save", "SaveBatch", "SaveStream"][run.random.usize(..3)]);
        let length = u32::try_from(MESSAGE_BYTES_MAX).expect("a length").to_be_bytes();
        frames.frame(DATA, 0, stream, &[&[0][..], &length, &BEGUN_FIELD, &[0; WRITTEN_BYTES - 64]].concat());
        streams.push(stream);
    }
    assert!(frames.send().await, "calls are taken");
    *calls += streams.len() as u64;
    (frames, streams)
}

async fn begin_to_read(run: &mut Run, calls: &mut u64) -> Frames {
    use prost::Message;
    let load = forebay::proto::LoadRequest { collection: "things".to_owned(), ..Default::default() }.encode_to_vec();
    let watch = forebay::proto::WatchOutcomesRequest::default().encode_to_vec();
    let mut frames = Frames::connect_unread(run.address()).await;
    for _ in 0..CALLS_PER_CONNECTION_MAX {
        let (method, message) = if run.random.bool() { ("Load", &load) } else { ("WatchOutcomes", &watch) };
        let stream = frames.next_stream();
        frames.frame(HEADERS, END_HEADERS, stream, &head(method));
        let length = u32::try_from(message.len()).expect("a length").to_be_bytes();
        frames.frame(DATA, END_STREAM, stream, &[&[0][..], &length, message].concat());
        *calls += 1;
    }
    assert!(frames.send().await, "calls are taken");
    frames
}

/// Messages whose last frame is never sent, ten times as much of them as there is room for: what is beyond it is refused, and messages
/// that come whole are taken.
pub(super) async fn begin_messages(run: &mut Run) -> u64 {
    const CONNECTIONS: usize = 32;
    const CALLS: usize = 31;
    const { assert!((CONNECTIONS * CALLS) as u64 * (MESSAGE_BYTES_MAX - UNSENT_BYTES) > 9 * RECEIVING_BYTES_MAX) };
    let mut held = Vec::new();
    // Messages that come side by side may be refused side by side, and leave room.
    while held.len() < CONNECTIONS || !is_mostly_taken(&run.used().await) {
        held.push(begin_messages_of_one(run, CALLS).await);
    }
    run.served().await;
    (held.len() * CALLS) as u64
}

/// What is never sent of a message.
const UNSENT_BYTES: u64 = 16 << 10;

async fn begin_messages_of_one(run: &mut Run, calls: usize) -> (Connection, Vec<Call>) {
    let length = u32::try_from(MESSAGE_BYTES_MAX).expect("a length").to_be_bytes();
    let filler = vec![0; usize::try_from(MESSAGE_BYTES_MAX - UNSENT_BYTES).expect("a length") - BEGUN_FIELD.len()];
    let begun = Bytes::from([&[0][..], &length, &BEGUN_FIELD, &filler].concat());
    let connection = Connection::open(run.address()).await;
    let methods: Vec<_> = (0..calls).map(|_| ["Save", "SaveBatch", "SaveStream"][run.random.usize(..3)]).collect();
    let calls = methods.into_iter().map(async |method| {
        let mut call = connection.call(method).await;
        call.send_all(begun.clone()).await;
        call
    });
    let calls = join_all(calls).await;
    (connection, calls)
}

fn is_mostly_taken(used: &[String]) -> bool {
    let line = used.iter().find(|line| line.contains("grpc.receiving_bytes_max"));
    let used = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    used.is_some_and(|used: u64| used > RECEIVING_BYTES_MAX / 2)
}

/// The process may open a few more files than it has open, and connections take them all. Those that are there are served; the
/// others wait for the kernel's queue.
pub(super) async fn take_all_descriptors(run: &mut Run) -> u64 {
    const LEFT: u64 = 8;
    const TAKERS: u64 = 48;
    let open = run.files() as u64;
    let before = set_files_max(run, Some(open + LEFT));
    let mut takers = Vec::new();
    for _ in 0..TAKERS {
        let mut taker = Frames::connect(run.address()).await;
        taker.send().await;
        takers.push(taker);
    }
    run.daemon().logged("can't accept connections: raise the limit of open files").await;
    run.honest().served_as_connected().await;
    drop(takers);
    eventually("a new client is served with the descriptors that came back", || try_client(run.address())).await;
    set_files_max(run, before);
    run.served().await;
    TAKERS
}

/// Sets how many files the daemon may open; gives how many it was.
fn set_files_max(run: &Run, max: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(run.daemon().pid().cast_signed());
    // It has what it may raise that to from us.
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: max, maximum }).expect("the daemon is ours").current
}
