//! Reading: messages become pieces of saves with their offsets.

use std::{future::poll_fn, pin::Pin, task::Poll};

use futures_util::Stream;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    grpc::{door::Door, errors},
    proto::{Save, SaveStreamRequest},
};

/// A save and where it stands.
pub(super) struct Numbered {
    pub(super) offset: u64,
    /// Its place in its message.
    pub(super) nth: usize,
    pub(super) save: Save,
}

/// The requests of a stream.
pub(super) struct Gather {
    requests: Streaming<SaveStreamRequest>,
    /// The last offset read.
    last: Option<u64>,
    /// The end of the requests, if it is reached.
    end: Option<Result<(), Status>>,
}

/// What waiting for saves came to.
pub(super) enum Gathered {
    /// There are some.
    Saves,
    /// The client has sent everything.
    End,
    /// The call was ended from this side.
    Cancelled,
}

impl Gather {
    /// Saves of one piece: what is checked and appended at one go, so that answers get their turn.
    pub(super) const PIECE_SAVES: usize = 256;
    /// Bytes of one piece; its last message may go beyond.
    const PIECE_BYTES: usize = 1 << 20;

    pub(super) fn new(requests: Streaming<SaveStreamRequest>) -> Self {
        Self { requests, last: None, end: None }
    }

    /// The first message.
    pub(super) async fn first(&mut self, ended: &CancellationToken) -> Result<Option<SaveStreamRequest>, Status> {
        tokio::select! {
            biased;
            () = ended.cancelled() => Ok(None),
            message = self.requests.message() => message,
        }
    }

    /// Waits for a message, then takes what else is there already, up to a piece. (It may hold no saves: messages may be
    /// empty.) A message that can't be taken ends the stream, after what came before it.
    pub(super) async fn more(&mut self, door: &Door, ended: &CancellationToken, piece: &mut Vec<Numbered>) -> Result<Gathered, Status> {
        let (mut messages, mut bytes) = (0, 0);
        while self.end.is_none() && messages < Self::PIECE_SAVES && piece.len() < Self::PIECE_SAVES && bytes < Self::PIECE_BYTES {
            let message = match self.ready().await {
                Some(message) => message,
                None if messages > 0 => break,
                None => tokio::select! {
                    biased;
                    () = ended.cancelled() => return Ok(Gathered::Cancelled),
                    message = self.requests.message() => message,
                },
            };
            messages += 1;
            self.end = match message {
                Ok(Some(message)) => match self.take_later(door, message, piece) {
                    Ok(taken) => {
                        bytes += taken;
                        None
                    }
                    Err(error) => Some(Err(error)),
                },
                Ok(None) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
        }
        match self.end.take_if(|_| piece.is_empty()) {
            Some(end) => end.map(|()| Gathered::End),
            None => Ok(Gathered::Saves),
        }
    }

    /// A message that has arrived already.
    async fn ready(&mut self) -> Option<Result<Option<SaveStreamRequest>, Status>> {
        poll_fn(|cx| match Pin::new(&mut self.requests).poll_next(cx) {
            Poll::Ready(message) => Poll::Ready(Some(message.transpose())),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn take_later(&mut self, door: &Door, message: SaveStreamRequest, piece: &mut Vec<Numbered>) -> Result<usize, Status> {
        for (is_set, field) in [
            (!message.stream_id.is_empty(), "stream_id"),
            (message.want_tickets, "want_tickets"),
            (message.durability != 0, "durability"),
            (!message.callback.is_empty(), "callback"),
        ] {
            if is_set {
                return Err(errors::invalid_request(field, "belongs in the first message only"));
            }
        }
        self.take(door, message, piece)
    }

    /// Numbers the saves of a message; gives its bytes, if it holds any.
    pub(super) fn take(&mut self, door: &Door, message: SaveStreamRequest, piece: &mut Vec<Numbered>) -> Result<usize, Status> {
        if message.saves.is_empty() {
            return Ok(0);
        }
        let bytes = message.encoded_len();
        door.check_count(message.saves.len())?;
        if let Some(last) = self.last.filter(|&last| message.offset <= last) {
            let why = format!("is {}, but offsets rise and the last one was {last}", message.offset);
            return Err(errors::invalid_request("offset", why));
        }
        let Some(last) = message.offset.checked_add(message.saves.len() as u64 - 1) else {
            return Err(errors::invalid_request("offset", "is too high: the offsets of the saves after it don't fit 64 bits"));
        };
        self.last = Some(last);
        let numbered = message.saves.into_iter().enumerate();
        piece.extend(numbered.map(|(nth, save)| Numbered { offset: message.offset + nth as u64, nth, save }));
        Ok(bytes)
    }
}
