//! Connections to the fake, and how they end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A server's end of a connection, closed as the daemon does it: it reads on until the client has closed too. Closing a socket
/// that holds unread calls resets the connection, and the reset overtakes the GOAWAY that says they were not processed.
pub(super) struct Lingering(pub(super) TcpStream);

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_shutdown(cx))?;
        loop {
            let mut bytes = [0; 1_024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Connected for Lingering {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.connect_info()
    }
}

/// Something between client and fake that can be cut.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the port is known");
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let mut accepting = JoinSet::new();
        let accepted = Arc::clone(&connections);
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        accepting.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *current.lock().expect("no holder panics");
                accepted.lock().expect("no holder panics").spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, target, connections, _accepting: accepting }
    }

    /// Where new connections lead.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        *self.target.lock().expect("no holder panics") = target;
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.connections.lock().expect("no holder panics").abort_all();
    }
}
