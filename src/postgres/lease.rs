//! A pooled connection that is thrown away unless it is known to be sound.

use std::{ops::Deref, time::Duration};

use deadpool_postgres::Object;
use tokio_postgres::{Client, Error};

use super::{Failure, sqlstate::Phase};

/// A connection from the pool. While a transaction is under way it is *unsound*: whoever leaves then (an error, a timeout, a
/// cancelled future) leaves a connection that still holds locks and unread answers, which nobody may have again.
#[derive(Debug)]
pub(super) struct Lease {
    /// Empty only while dropping.
    object: Option<Object>,
    sound: bool,
}

impl Lease {
    pub(super) fn new(object: Object) -> Self {
        Self { object: Some(object), sound: true }
    }

    /// A transaction begins.
    pub(super) fn enter(&mut self) {
        self.sound = false;
    }

    /// It is over, committed or rolled back, and every answer is read.
    pub(super) fn leave(&mut self) {
        self.sound = true;
    }

    /// Whether it can be used again.
    pub(super) fn is_sound(&self) -> bool {
        self.sound && !self.is_closed()
    }
}

impl Deref for Lease {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.object.as_ref().expect("the connection is there until the lease is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take().filter(|_| !self.sound) {
            // Out of the pool; dropping it closes the socket.
            drop(Object::take(object));
        }
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(limit: Duration, act: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::from_error(&error, Phase::BeforeCommit)),
        Err(_) => Err(Failure::timed_out(Phase::BeforeCommit, limit, act)),
    }
}
