//! How to connect.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tonic::transport::Endpoint;

use super::{Client, Error, RetryPolicy, Shared};

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: String,
    connections: usize,
    connect_timeout: Duration,
    call_timeout: Duration,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    message_bytes_max: usize,
    retry: RetryPolicy,
}

impl Builder {
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") },
            connections: 1,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            message_bytes_max: 4 << 20,
            retry: RetryPolicy::default(),
        }
    }

    /// Connections to spread calls over, at least one. Default: 1. A daemon allows 256 calls at once on each.
    #[must_use]
    pub fn connections(self, connections: usize) -> Self {
        Self { connections: connections.max(1), ..self }
    }

    /// The longest wait for a connection. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// The deadline of each attempt of a call. Default: 10 s.
    #[must_use]
    pub fn call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// A silent connection is pinged after `interval` and given up when `timeout` passes without an answer. Default: 30 s, 10 s.
    #[must_use]
    pub fn keepalive(self, interval: Duration, timeout: Duration) -> Self {
        Self { keepalive_interval: interval, keepalive_timeout: timeout, ..self }
    }

    /// The largest request; raise it together with the daemon's `grpc.message_bytes_max`. Default: 4 MiB.
    #[must_use]
    pub fn message_bytes_max(self, message_bytes_max: usize) -> Self {
        Self { message_bytes_max, ..self }
    }

    /// How to try again.
    #[must_use]
    pub fn retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Refused`] if the endpoint is no address, [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(self) -> Result<Client, Error> {
        let endpoint = self.endpoint()?;
        let mut channels = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            let channel = endpoint.connect().await;
            channels.push(channel.map_err(|error| Error::unavailable(format!("connect to {}: {}", self.endpoint, chain(&error))))?);
        }
        Ok(self.client(channels))
    }

    /// Connects with the first call: also while no daemon listens yet.
    ///
    /// # Errors
    /// [`Error::Refused`] if the endpoint is no address.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let endpoint = self.endpoint()?;
        let channels = (0..self.connections).map(|_| endpoint.connect_lazy()).collect();
        Ok(self.client(channels))
    }

    fn client(self, channels: Vec<tonic::transport::Channel>) -> Client {
        Client {
            shared: Arc::new(Shared {
                channels,
                next_channel: AtomicUsize::new(0),
                call_timeout: self.call_timeout,
                message_bytes_max: self.message_bytes_max,
                retry: self.retry,
            }),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(self.endpoint.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("forebay-client/", env!("CARGO_PKG_VERSION"))))
            .map_err(|error| Error::refused(format!("{:?} is no address like 127.0.0.1:7420: {}", self.endpoint, chain(&error))))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
    }
}

fn chain(error: &tonic::transport::Error) -> String {
    super::error::chain(error)
}
