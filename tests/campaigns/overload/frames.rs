//! HTTP/2 by hand: a client that keeps to no rule and answers nothing.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
    time::timeout,
};

/// How long it goes on writing to a daemon that has stopped reading.
const HELD_BACK_MAX: Duration = Duration::from_secs(2);

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Flag of SETTINGS.
const ACK: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 4;
/// Flag of HEADERS and DATA.
pub(super) const END_STREAM: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS_INITIAL_WINDOW_SIZE = 0: nothing may be sent but headers.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// A connection.
pub(super) struct Frames {
    write: OwnedWriteHalf,
    /// Never read: what the daemon says piles up there.
    unread: Option<OwnedReadHalf>,
    /// Reads all that the daemon says; ends with the connection.
    reading: JoinSet<()>,
    unsent: Vec<u8>,
    last_stream: u32,
    /// Frames that were sent.
    pub(super) sent: u64,
    unsent_frames: u64,
}

impl Frames {
    /// A client that reads its answers, and looks at none.
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let mut frames = Self::open(address, &[]).await;
        frames.read();
        frames
    }

    /// The same, once the daemon has given it the room of a connection and of calls: what comes before that has to be little.
    pub(super) async fn connect_with_room(address: SocketAddr) -> Self {
        let mut frames = Self::open(address, &[]).await;
        assert!(frames.send().await, "the daemon takes the preface");
        let read = frames.unread.as_mut().expect("just opened");
        let mut head = [0; 9];
        while head[3] != WINDOW_UPDATE {
            read.read_exact(&mut head).await.expect("the daemon begins");
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            read.read_exact(&mut payload).await.expect("the daemon begins");
        }
        frames.frame(SETTINGS, ACK, 0, &[]);
        frames.read();
        frames
    }

    fn read(&mut self) {
        let mut read = self.unread.take().expect("just opened");
        self.reading.spawn(async move { drop(copy(&mut read, &mut sink()).await) });
    }

    /// A client that gives its answers no room, and reads nothing.
    pub(super) async fn connect_unread(address: SocketAddr) -> Self {
        Self::open(address, &NO_WINDOW).await
    }

    async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let (read, write) = TcpStream::connect(address).await.expect("the daemon listens").into_split();
        let (unsent, reading) = (PREFACE.to_vec(), JoinSet::new());
        let mut frames = Self { write, unread: Some(read), reading, unsent, last_stream: 0, sent: 0, unsent_frames: 0 };
        frames.frame(SETTINGS, 0, 0, settings);
        frames
    }

    /// Adds a frame.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
        self.unsent.extend(&length[1..]);
        self.unsent.extend([kind, flags]);
        self.unsent.extend(stream.to_be_bytes());
        self.unsent.extend(payload);
        self.unsent_frames += 1;
    }

    /// A number for the next call.
    pub(super) fn next_stream(&mut self) -> u32 {
        self.last_stream = if self.last_stream == 0 { 1 } else { self.last_stream + 2 };
        self.last_stream
    }

    /// Adds the headers of a call of SaveService, whose messages follow.
    pub(super) fn call(&mut self, method: &str) -> u32 {
        let stream = self.next_stream();
        self.frame(HEADERS, END_HEADERS, stream, &head(method));
        stream
    }

    /// Sends what was added: whether the daemon takes it.
    pub(super) async fn send(&mut self) -> bool {
        let written = timeout(HELD_BACK_MAX, self.write.write_all(&self.unsent)).await;
        let taken = matches!(written, Ok(Ok(())));
        self.sent += if taken { self.unsent_frames } else { 0 };
        self.unsent.clear();
        self.unsent_frames = 0;
        taken
    }
}

/// The headers of a call of SaveService.
pub(super) fn head(method: &str) -> Vec<u8> {
    let path = format!("/forebay.v1.SaveService/{method}");
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &*path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    headers.iter().flat_map(|(name, value)| literal(name, value.as_bytes())).collect()
}

/// HPACK: a header that is not indexed.
pub(super) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    named(0, name, value)
}

/// The same, to be remembered: the daemon's first entry of those that are.
pub(super) fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    const INDEXED: u8 = 0x40;
    named(INDEXED, name, value)
}

/// The newest header that is remembered, again.
pub(super) const REMEMBERED_AGAIN: u8 = 0x80 | 62;

fn named(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![kind];
    for text in [name.as_bytes(), value] {
        length(text.len(), &mut block);
        block.extend(text);
    }
    block
}

/// HPACK: the length of a text, in seven bits and as many bytes more as it takes.
fn length(bytes: usize, block: &mut Vec<u8>) {
    const PREFIX_MAX: usize = 127;
    let low = |value: usize, max: usize| u8::try_from(value & max).expect("seven bits");
    if bytes < PREFIX_MAX {
        return block.push(low(bytes, PREFIX_MAX));
    }
    block.push(low(PREFIX_MAX, PREFIX_MAX));
    let mut rest = bytes - PREFIX_MAX;
    while rest > PREFIX_MAX {
        block.push(0x80 | low(rest, PREFIX_MAX));
        rest >>= 7;
    }
    block.push(low(rest, PREFIX_MAX));
}
