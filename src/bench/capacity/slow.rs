//! Slow clients: each connects, opens HTTP/2 as it should, and then sends one valid call byte by byte, a byte every so often.
//!
//! A client library can't be made to do so: the bytes of a real call are recorded from one, with the body cut into small DATA
//! frames, and written by hand. They break no rule: the handshake comes at once (`grpc.handshake_timeout`), and frames are
//! completed more often than `grpc.keepalive_interval`. When its call is answered, or the daemon ends the connection, a client
//! begins again.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::ReadHalf},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::super::{Load, callers};
use crate::proto::{SaveRequest, save_service_client::SaveServiceClient};

const BYTE_INTERVAL: Duration = Duration::from_millis(100);
/// All at once would be a flood, and write their bytes in step ever after.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);
/// After a connection that was ended or not made.
const AGAIN_WAIT: Duration = Duration::from_secs(1);
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Complete after a second and a half.
const DATA_BYTES: usize = 6;

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
/// A flag of DATA and HEADERS.
const END_STREAM: u8 = 1;

/// The slow clients of one daemon. They end when this is dropped.
#[derive(Debug)]
pub(super) struct SlowClients {
    counts: Arc<Counts>,
    clients: JoinSet<()>,
}

/// What came of them so far.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Slowness {
    /// How many there are.
    pub(super) slow_clients: usize,
    /// Calls that were answered.
    pub(super) slow_answered: u64,
    /// Connections that ended, or weren't made, before their call was answered.
    pub(super) slow_ended: u64,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    ended: AtomicU64,
}

impl SlowClients {
    pub(super) async fn begin(address: &str, clients: usize) -> anyhow::Result<Self> {
        Self::begin_with(address, clients, BYTE_INTERVAL).await
    }

    async fn begin_with(address: &str, clients: usize, byte_interval: Duration) -> anyhow::Result<Self> {
        let call = Arc::new(timeout(RECORD_TIMEOUT, Call::record()).await.context("record a call")?.context("record a call")?);
        let (counts, mut tasks) = (Arc::new(Counts::default()), JoinSet::new());
        for _ in 0..clients {
            tasks.spawn(trickle(address.to_owned(), Arc::clone(&call), byte_interval, Arc::clone(&counts)));
        }
        Ok(Self { counts, clients: tasks })
    }

    pub(super) fn seen(&self) -> Slowness {
        let Counts { answered, ended } = &*self.counts;
        Slowness { slow_clients: self.clients.len(), slow_answered: answered.load(Relaxed), slow_ended: ended.load(Relaxed) }
    }
}

/// The bytes of a call.
#[derive(Debug)]
struct Call {
    /// Preface and settings.
    greeting: Vec<u8>,
    rest: Vec<u8>,
}

impl Call {
    /// Has the generated client make a call to nobody, and keeps what it sends.
    async fn record() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?.to_string();
        let calling = async {
            let channel = callers::connect(&address, 1).await?.pop().context("one was asked for")?;
            let request = SaveRequest { save: Some(Load::Reference.save(0)), ..SaveRequest::default() };
            SaveServiceClient::new(channel).save(request).await.context("nobody answers")
        };
        let hearing = async {
            let (mut socket, _) = listener.accept().await?;
            let mut bytes = Vec::new();
            loop {
                if let Some(call) = Self::cut(&bytes) {
                    return anyhow::Ok(call);
                }
                anyhow::ensure!(socket.read_buf(&mut bytes).await? > 0, "the client gave up");
            }
        };
        tokio::select! {
            call = hearing => call,
            called = calling => Err(called.err().unwrap_or_else(|| anyhow::anyhow!("somebody answered"))),
        }
    }

    /// None until the call is complete.
    fn cut(bytes: &[u8]) -> Option<Self> {
        let (preface, mut frames) = bytes.split_at_checked(PREFACE_BYTES)?;
        let (settings, after) = Frame::read(frames)?;
        frames = after;
        let mut call = Self { greeting: preface.to_vec(), rest: Vec::new() };
        settings.write(&mut call.greeting);
        loop {
            let (frame, after) = Frame::read(frames)?;
            frames = after;
            frame.write_small(&mut call.rest);
            if frame.ends_stream() {
                return Some(call);
            }
        }
    }
}

/// A frame of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame, and what comes after; none while it isn't complete.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let (payload, rest) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)?;
        Some((Self { kind, flags, stream, payload }, rest))
    }

    fn write(self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).expect("a frame is small").to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream);
        out.extend_from_slice(self.payload);
    }

    /// DATA as many small frames; the last of them ends the stream, if this one did.
    fn write_small(self, out: &mut Vec<u8>) {
        if self.kind != DATA || self.payload.is_empty() {
            return self.write(out);
        }
        let mut parts = self.payload.chunks(DATA_BYTES).peekable();
        while let Some(payload) = parts.next() {
            let flags = if parts.peek().is_some() { self.flags & !END_STREAM } else { self.flags };
            Self { flags, payload, ..self }.write(out);
        }
    }

    fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// One slow client, for ever.
async fn trickle(address: String, call: Arc<Call>, byte_interval: Duration, counts: Arc<Counts>) {
    sleep(BEGIN_WITHIN.mul_f64(fastrand::f64())).await;
    loop {
        match once(&address, &call, byte_interval).await {
            Ok(()) => drop(counts.answered.fetch_add(1, Relaxed)),
            Err(_) => {
                counts.ended.fetch_add(1, Relaxed);
                sleep(AGAIN_WAIT).await;
            }
        }
    }
}

async fn once(address: &str, call: &Call, byte_interval: Duration) -> io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    socket.write_all(&call.greeting).await?;
    let (mut from, mut to) = socket.split();
    let sent = async {
        for byte in &call.rest {
            sleep(byte_interval).await;
            to.write_all(std::slice::from_ref(byte)).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(sent, answered(&mut from)).map(drop)
}

/// Reads to the end of the answer to the only call.
async fn answered(from: &mut ReadHalf<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    while from.read_buf(&mut bytes).await? > 0 {
        let mut rest = &bytes[..];
        while let Some((frame, after)) = Frame::read(rest) {
            rest = after;
            match frame.kind {
                _ if frame.ends_stream() => return Ok(()),
                RST_STREAM | GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
        let read = bytes.len() - rest.len();
        bytes.drain(..read);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;

    #[tokio::test]
    async fn a_trickled_call_is_a_valid_save() {
        let fake = Fake::start().await;
        let slow = SlowClients::begin_with(&fake.address.to_string(), 3, Duration::from_micros(100)).await.expect("a call is recorded");
        timeout(Duration::from_secs(60), async {
            while slow.seen().slow_answered < 6 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("every client is answered, and begins again");
        let key = Load::Reference.save(0).key.concat();
        assert!(fake.state().accepted.iter().all(|accepted| *accepted == key));
        assert_eq!((slow.seen().slow_clients, slow.seen().slow_ended), (3, 0));
    }

    #[tokio::test]
    async fn an_ended_connection_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let slow = SlowClients::begin(&address, 1).await.expect("a call is recorded");
        let (socket, _) = listener.accept().await.expect("it connects");
        drop((socket, listener));
        timeout(Duration::from_secs(60), async {
            while slow.seen().slow_ended == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is noticed");
        assert_eq!(slow.seen().slow_answered, 0);
    }

    #[test]
    fn data_is_cut_into_small_frames_that_hold_the_same_bytes() {
        let payload: Vec<u8> = (0..20).collect();
        let whole = Frame { kind: DATA, flags: END_STREAM, stream: [0, 0, 0, 1], payload: &payload };
        let mut bytes = Vec::new();
        whole.write_small(&mut bytes);
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((frame, after)) = Frame::read(rest) {
            frames.push(frame);
            rest = after;
        }
        assert_eq!(frames.iter().flat_map(|frame| frame.payload).copied().collect::<Vec<_>>(), payload);
        assert_eq!(frames.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), [6, 6, 6, 2]);
        assert_eq!(frames.iter().map(|frame| frame.ends_stream()).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!(Frame::read(&bytes[..8]), None);
    }
}
