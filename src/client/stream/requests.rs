//! What one connection of a stream sends: pulled by HTTP/2 as its windows allow, so nothing queues in between.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_stream::Stream;

use super::{Shared, buffer::Next};
use crate::proto::SaveStreamRequest;

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    shared: Arc<Shared>,
    connection: u64,
    opened: bool,
}

impl Requests {
    pub(super) fn new(shared: Arc<Shared>, connection: u64) -> Self {
        Self { shared, connection, opened: false }
    }
}

impl Stream for Requests {
    type Item = SaveStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.opened {
            self.opened = true;
            return Poll::Ready(Some(self.shared.first_message()));
        }
        let next = self.shared.buffer().next(self.connection, cx.waker());
        match next {
            Next::Send(message) => Poll::Ready(Some(message)),
            Next::Wait => Poll::Pending,
            Next::End => Poll::Ready(None),
        }
    }
}
