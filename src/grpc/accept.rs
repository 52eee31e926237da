//! The accept loop: bounded connections, deadlines for whoever connects and stays silent, and no spinning when the process
//! has no file descriptor left.
//!
//! A connection over `grpc.connections_max` is accepted and closed at once, so that the caller learns it in a millisecond
//! and the kernel's queue stays free for who comes when there is room again. A connection has
//! `grpc.first_byte_timeout` for its first byte and `grpc.handshake_timeout` for the whole HTTP/2 preface and settings;
//! from then on HTTP/2 pings watch over it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::calls::ConnectionCalls;
use crate::{
    limits::{Limit, Permit},
    settings::GrpcSettings,
};

/// Wait after an accept that failed for want of file descriptors or memory.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// For the client to take our GOAWAY and close its side.
const LINGER_MAX: Duration = Duration::from_millis(500);

/// Accepts connections.
pub(super) struct Accept {
    pub(super) listener: TcpListener,
    /// `grpc.connections_max`
    pub(super) connections: Arc<Limit>,
    pub(super) first_byte_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    /// Cuts every connection.
    pub(super) cut: CancellationToken,
    /// A spell of refusals or of exhaustion is logged at its beginning.
    pub(super) spell: Spell,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Spell {
    #[default]
    None,
    Full,
    Exhausted,
}

impl Accept {
    pub(super) fn new(listener: TcpListener, settings: &GrpcSettings, connections: Arc<Limit>, cut: CancellationToken) -> Self {
        let GrpcSettings { first_byte_timeout, handshake_timeout, .. } = *settings;
        Self { listener, connections, first_byte_timeout, handshake_timeout, cut, spell: Spell::None }
    }

    /// Connections, for ever.
    pub(super) fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, |mut this| async move { Some((Ok(this.next().await), this)) })
    }

    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((socket, peer)) => {
                    if let Some(connection) = self.admit(socket, peer) {
                        return connection;
                    }
                }
                Err(error) if is_exhausted(&error) => {
                    self.begin(Spell::Exhausted, || tracing::error!(%error, "can't accept connections: raise the limit of open files"));
                    sleep(EXHAUSTED_WAIT).await;
                }
                // The peer has gone again, or its network has: no concern of the next one.
                Err(error) => tracing::debug!(%error, "a connection was not accepted"),
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) -> Option<Connection> {
        let permit = match self.connections.permit(1) {
            Ok(permit) => permit,
            Err(reached) => {
                self.begin(Spell::Full, || tracing::warn!(%peer, %reached, "connections are refused"));
                return None;
            }
        };
        self.spell = Spell::None;
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "a connection was not accepted");
            return None;
        }
        let now = Instant::now();
        Some(Connection {
            socket,
            greeting: Some(Greeting {
                read: 0,
                settings: 0,
                ends_at: now + self.handshake_timeout,
                deadline: Box::pin(sleep_until(now + self.first_byte_timeout.min(self.handshake_timeout))),
            }),
            cut: Box::pin(self.cut.clone().cancelled_owned()),
            lingers: None,
            calls: ConnectionCalls::default(),
            _permit: permit,
        })
    }

    fn begin(&mut self, spell: Spell, log: impl FnOnce()) {
        if self.spell != spell {
            self.spell = spell;
            log();
        }
    }
}

/// The process or the machine has no file descriptors or buffers left.
fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    use rustix::io::Errno;
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// One client's connection.
pub(super) struct Connection {
    socket: TcpStream,
    /// Until the handshake is over.
    greeting: Option<Greeting>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Set once our side is closed: how long we read on for the client to close its side.
    lingers: Option<Pin<Box<Sleep>>>,
    calls: ConnectionCalls,
    _permit: Permit,
}

/// What has come of the client's preface and settings.
struct Greeting {
    read: usize,
    /// Length of the settings frame's payload, as far as it is read.
    settings: usize,
    ends_at: Instant,
    deadline: Pin<Box<Sleep>>,
}

impl Greeting {
    const PREFACE_BYTES: usize = 24;
    const FRAME_HEADER_BYTES: usize = 9;
    /// The first three bytes of a frame's header are its length.
    const LENGTH_BYTES: usize = 3;

    /// Whether the handshake is over with these bytes. Whether they are right is for HTTP/2 to say.
    fn over(&mut self, bytes: &[u8]) -> bool {
        if self.read == 0 && !bytes.is_empty() {
            self.deadline.as_mut().reset(self.ends_at);
        }
        let length_from = Self::PREFACE_BYTES;
        for (at, byte) in (self.read..).zip(bytes).skip_while(|(at, _)| *at < length_from).take(Self::LENGTH_BYTES) {
            if at < length_from + Self::LENGTH_BYTES {
                self.settings = self.settings << 8 | usize::from(*byte);
            }
        }
        self.read += bytes.len();
        self.read >= Self::PREFACE_BYTES + Self::FRAME_HEADER_BYTES + self.settings
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.deadline.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, "the client did not begin in time"))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.socket).poll_read(cx, buffer) {
            if this.greeting.as_mut().is_some_and(|greeting| greeting.over(&buffer.filled()[before..])) {
                this.greeting = None;
            }
            return Poll::Ready(result);
        }
        if let Some(greeting) = &mut this.greeting
            && let Poll::Ready(error) = greeting.poll_deadline(cx)
        {
            return Poll::Ready(Err(error));
        }
        // Looked at only when there is nothing to read: the fast path stays one system call.
        this.cut.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the daemon stops")))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    /// Closes our side, then reads on until the client has closed its own. Closing a socket that holds unread calls resets the
    /// connection, and the reset overtakes the GOAWAY that tells the client that those calls were not processed.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(cx))?;
        }
        let lingers = this.lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_MAX)));
        loop {
            if lingers.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unread = [0; 1_024];
            let mut buffer = ReadBuf::new(&mut unread);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has closed, or is gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionCalls;

    fn connect_info(&self) -> ConnectionCalls {
        self.calls.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        let now = Instant::now();
        Greeting { read: 0, settings: 0, ends_at: now, deadline: Box::pin(sleep_until(now)) }
    }

    #[tokio::test]
    async fn the_handshake_is_over_after_the_settings_frame_however_it_is_cut() {
        let mut bytes = vec![b'P'; 24];
        bytes.extend([0, 1, 2, 4, 0, 0, 0, 0, 0]);
        bytes.extend([7; 258]);
        for cut in [1, 5, 24, 25, 26, 27, 33, 100, bytes.len()] {
            let mut greeting = greeting();
            let over: Vec<_> = bytes.chunks(cut).map(|piece| greeting.over(piece)).collect();
            let last = over.len() - 1;
            assert!(over[last] && !over[..last].contains(&true), "cut every {cut} bytes: {over:?}");
        }
    }

    #[test]
    fn only_want_of_descriptors_and_memory_makes_the_loop_wait() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(is_exhausted(&errno.into()));
        }
        assert!(!is_exhausted(&Errno::CONNABORTED.into()));
        assert!(!is_exhausted(&io::Error::other("x")));
    }
}
