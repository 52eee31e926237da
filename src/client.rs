//! The Rust client: saves one by one, in batches or on a pipelined stream, and rides out restarts of the daemon.
//!
//! ```no_run
//! # async fn example() -> Result<(), forebay::client::Error> {
//! use forebay::client::{Client, Save};
//!
//! let client = Client::connect("127.0.0.1:7420").await?;
//! client.save(Save::set("players", ["42"], r#"{"name":"Ann"}"#)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every call has a deadline. What is certainly not accepted (limits, a daemon that starts or stops, a connection that broke
//! before the call was taken) is tried again as [`RetryPolicy`] says, honouring `grpc-retry-pushback-ms` and `RetryInfo`.
//! What may have been accepted is [`Error::OutcomeUnknown`] and repeated only if the policy says so: the save is then at most
//! accepted twice, never lost. A set or delete that is accepted twice leaves the same row, as long as nobody else saved the
//! object in between; an append or `add` counts twice. A request id in the [`SaveOptions`] and [`SaveStream`] have no such gap:
//! the daemon recognises their saves.
//!
//! An accepted save is durable, and Postgres gets it later. What became of it is told by its [`Ticket`]
//! ([`Client::ticket`], [`Client::await_ticket`]), by the answer itself ([`Durability::Persisted`]), or by
//! [`Client::watch`]; [`Client::get`] and [`Client::load`] read what is accepted, stored or not. [`Client::save_later`] is for
//! code that doesn't wait for its saves.
//!
//! Needs the feature `client` only: neither sled nor tokio-postgres.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{Request, Response, Status, transport::Channel};

use crate::proto::{self, admin_service_client::AdminServiceClient, save_service_client::SaveServiceClient};

mod admin;
mod builder;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod later;
mod read;
mod resuming;
mod retry;
mod save;
mod stream;
mod ticket;
mod watch;

pub use builder::Builder;
pub use error::{Answer, Error, FailedSave, Pushback, Violation};
pub use later::{LaterOptions, SaveLater};
pub use read::{Load, LoadOptions, LoadedRow, Object, Progress};
pub use retry::RetryPolicy;
pub use save::{Durability, Save, SaveOptions, Saved};
pub use stream::{Accepted, Acknowledgement, Finished, NotSaved, SaveStream, StreamOptions};
pub use ticket::{Failure, Ticket, TicketState, TicketStatus};
pub use watch::{Outcome, Watch, Watermark};

use retry::Repeat;

/// Calls a daemon. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channels: Vec<Channel>,
    next_channel: AtomicUsize,
    call_timeout: Duration,
    message_bytes_max: usize,
    retry: RetryPolicy,
}

impl Client {
    /// Connects with the defaults of [`Builder`]: `127.0.0.1:7420` or `http://forebay.internal:7420`.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is no address, [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(endpoint: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder(endpoint).connect().await
    }

    /// Settings to connect with.
    pub fn builder(endpoint: impl AsRef<str>) -> Builder {
        Builder::new(endpoint.as_ref())
    }

    /// Opens a stream of saves with the default [`StreamOptions`].
    pub fn save_stream(&self) -> SaveStream {
        self.save_stream_with(StreamOptions::default())
    }

    /// Opens a stream of saves. The connection is made in the background.
    pub fn save_stream_with(&self, options: StreamOptions) -> SaveStream {
        SaveStream::open(self.clone(), options, None)
    }

    /// Waits until everything accepted before has its outcome; no collections: everything. Returns the sequence up to which
    /// Postgres holds everything.
    ///
    /// `within` bounds this one call instead of the call timeout.
    ///
    /// # Errors
    /// [`Error::Blocked`] at once if a lane is paused, halted or fenced; else see [`Error`].
    pub async fn flush(&self, collections: &[&str], within: Duration) -> Result<u64, Error> {
        let collections: Vec<_> = collections.iter().map(|&name| name.to_owned()).collect();
        let answer = self
            .call_within(within, Repeat::Always, |mut stub: SaveServiceClient<Channel>, deadline| {
                let request = with_deadline(proto::FlushRequest { collections: collections.clone() }, deadline);
                async move { stub.flush(request).await }
            })
            .await?;
        Ok(answer.through)
    }

    /// What may be saved, and which tables may not, and why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_collections(&self) -> Result<proto::ListCollectionsResponse, Error> {
        self.call(Repeat::Always, |mut stub: SaveServiceClient<Channel>, deadline| async move {
            stub.list_collections(with_deadline(proto::ListCollectionsRequest {}, deadline)).await
        })
        .await
    }

    async fn call<S, T, F>(&self, repeat: Repeat, attempt: impl FnMut(S, Duration) -> F) -> Result<T, Error>
    where
        S: Stub,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(self.shared.call_timeout, repeat, attempt).await
    }

    /// Calls, and calls again as the policy says, each time on the next connection and with a deadline of its own.
    async fn call_within<S, T, F>(&self, timeout: Duration, repeat: Repeat, mut attempt: impl FnMut(S, Duration) -> F) -> Result<T, Error>
    where
        S: Stub,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut waits = self.shared.retry.waits();
        loop {
            let error = match attempt(self.stub(), timeout).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from_status(status),
            };
            let Some(wait) = waits.next(&error, repeat) else { return Err(error) };
            tracing::debug!(%error, wait_ms = wait.as_millis(), "trying again");
            tokio::time::sleep(wait).await;
        }
    }

    fn stub<S: Stub>(&self) -> S {
        let turn = self.shared.next_channel.fetch_add(1, Ordering::Relaxed);
        let channel = self.shared.channels[turn % self.shared.channels.len()].clone();
        S::on(channel, self.shared.message_bytes_max)
    }
}

/// A generated client.
trait Stub {
    fn on(channel: Channel, message_bytes_max: usize) -> Self;
}

impl Stub for SaveServiceClient<Channel> {
    fn on(channel: Channel, message_bytes_max: usize) -> Self {
        Self::new(channel).max_encoding_message_size(usize::MAX).max_decoding_message_size(answer_bytes_max(message_bytes_max))
    }
}

impl Stub for AdminServiceClient<Channel> {
    fn on(channel: Channel, message_bytes_max: usize) -> Self {
        Self::new(channel).max_encoding_message_size(usize::MAX).max_decoding_message_size(answer_bytes_max(message_bytes_max))
    }
}

/// A ticket may be longer than the save it answers.
const fn answer_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max.saturating_mul(4)
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

#[cfg(test)]
mod tests;
