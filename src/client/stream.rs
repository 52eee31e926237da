//! A pipelined stream of saves: many in flight, in order, resumed by (stream id, offset) after a broken connection.
//!
//! Saves wait in a bounded buffer until they are answered. When the connection breaks or the daemon restarts, the stream is
//! opened again under its id, the daemon tells which save it accepted last, and those after it are sent again: none is lost,
//! none accepted twice. If the daemon remembers the stream no more (its journal keeps streams for a while only), sets and
//! deletes are sent again all the same, in their order; with an append or `add` among them the stream ends with
//! [`Error::OutcomeUnknown`], unless the policy repeats those too.
//!
//! With [`Durability::Persisted`] a save is answered when it has its outcome in Postgres.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

use uuid::Uuid;

use super::{Client, Durability, Error, Save, Ticket};
use crate::proto::SaveStreamRequest;
use buffer::{Answered, Buffer, Tell};

mod buffer;
mod driver;
mod requests;

/// Refused and failed saves that nobody has taken: one more ends the stream.
const NOT_SAVED_MAX: usize = 4_096;

/// Settings of a [`SaveStream`].
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Saves that have no answer yet. The daemon reads no more than its `grpc.stream_unacknowledged_max` of them; the others wait
    /// here. Default: 2,048.
    pub unacknowledged_max: usize,
    /// Their bytes. Default: 8 MiB.
    pub unacknowledged_bytes_max: usize,
    /// When to answer a save. Default: [`Durability::Synced`].
    pub durability: Durability,
    /// The endpoint of the daemon's settings (`endpoints.NAME`) that is told the outcome of each save, by a webhook. Empty: none.
    pub callback: String,
    /// Answer with tickets too. Default: no.
    pub want_tickets: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            unacknowledged_max: 2_048,
            unacknowledged_bytes_max: 8 << 20,
            durability: Durability::default(),
            callback: String::new(),
            want_tickets: false,
        }
    }
}

/// A stream of saves. Saves take effect in the order in which they were sent.
///
/// Dropped without [`finish`](Self::finish), it ends at once: saves that wait for their answer may be accepted or not.
#[derive(Debug)]
pub struct SaveStream {
    shared: Arc<Shared>,
    driver: AbortHandle,
}

/// A save that was not saved, as far as is known, given back with the reason: refused, failed ([`Error::Failed`]), never sent, or
/// without an answer ([`Error::OutcomeUnknown`]).
#[derive(Clone, Debug, thiserror::Error)]
#[error("a save to {}: {error}", .save.collection())]
pub struct NotSaved {
    /// Its offset in the stream; `None` if the stream never took it.
    pub offset: Option<u64>,
    /// The save.
    pub save: Save,
    /// Why.
    #[source]
    pub error: Error,
}

/// How a stream ended: every save is answered.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The offset of the last save; 0 if none was sent.
    pub through: u64,
    /// Refused and failed saves that had not been taken yet; all others are saved.
    pub not_saved: Vec<NotSaved>,
}

/// One save of a stream is accepted; persisted, if the stream's durability is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its ticket, if the stream wants them; none either if it was accepted before the stream was resumed.
    pub ticket: Option<Ticket>,
    /// Persisted without effect: the row had a version as high.
    pub superseded: bool,
}

/// Is told what was not saved, as it happens.
#[derive(Clone)]
pub(super) struct Listener(Arc<dyn Fn(NotSaved) + Send + Sync>);

impl Listener {
    pub(super) fn new(listener: impl Fn(NotSaved) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// The answer to one save of a stream.
#[derive(Debug)]
pub struct Acknowledgement {
    /// The save's offset in the stream.
    pub offset: u64,
    answer: oneshot::Receiver<Result<Accepted, Error>>,
    shared: Arc<Shared>,
}

impl Acknowledgement {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What a unary call would have ended with, or [`Error::OutcomeUnknown`] if the stream ended before.
    pub async fn wait(self) -> Result<Accepted, Error> {
        match self.answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.shared.why_ended().for_sent()),
        }
    }
}

/// What the stream's handle and its driver share.
#[derive(Debug)]
struct Shared {
    id: String,
    options: StreamOptions,
    message_bytes_max: usize,
    buffer: Mutex<Buffer>,
    /// What nobody has taken yet, unless there is a listener.
    not_saved: Mutex<Vec<NotSaved>>,
    listener: Option<Listener>,
    /// Room for saves and for their bytes; closed when the stream has ended.
    saves: Semaphore,
    bytes: Semaphore,
    progress: watch::Sender<Progress>,
}

/// How far the stream is.
#[derive(Clone, Debug, Default)]
struct Progress {
    through: u64,
    end: Option<Result<(), Error>>,
}

impl SaveStream {
    pub(super) fn open(client: Client, options: StreamOptions, listener: Option<Listener>) -> Self {
        let message_bytes_max = client.shared.message_bytes_max;
        // A save that a message can hold finds room in an empty buffer.
        let bytes_max = options.unacknowledged_bytes_max.max(message_bytes_max).min(u32::MAX as usize);
        let shared = Arc::new(Shared {
            id: Uuid::new_v4().to_string(),
            message_bytes_max,
            buffer: Mutex::new(Buffer::default()),
            not_saved: Mutex::default(),
            listener,
            saves: Semaphore::new(options.unacknowledged_max.max(1)),
            bytes: Semaphore::new(bytes_max),
            options,
            progress: watch::Sender::default(),
        });
        let driver = tokio::spawn(driver::drive(client, Arc::clone(&shared))).abort_handle();
        Self { shared, driver }
    }

    /// The stream's id, as in the daemon's log.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Puts a save on the stream; waits while the window is full. Returns its offset: 1, 2, 3, and so on.
    ///
    /// # Errors
    /// [`Error::Refused`] if no message can hold it; else what ended the stream.
    pub async fn send(&self, save: Save) -> Result<u64, Error> {
        self.put(save, None).await.map_err(|not_saved| not_saved.error)
    }

    /// Puts a save on the stream and hands back its acknowledgement to wait for.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_tracked(&self, save: Save) -> Result<Acknowledgement, Error> {
        let (tell, answer) = oneshot::channel();
        let offset = self.put(save, Some(tell)).await.map_err(|not_saved| not_saved.error)?;
        Ok(Acknowledgement { offset, answer, shared: Arc::clone(&self.shared) })
    }

    pub(super) async fn put(&self, save: Save, tell: Option<Tell>) -> Result<u64, NotSaved> {
        let room = match self.bytes_of(&save) {
            Ok(bytes) => self.room(bytes).await.ok_or_else(|| self.shared.why_ended()),
            Err(error) => Err(error),
        };
        self.push(save, room, tell)
    }

    /// Puts a save on the stream if there is room.
    pub(super) fn try_put(&self, save: Save) -> Result<u64, NotSaved> {
        let room = self.bytes_of(&save).and_then(|bytes| self.room_now(bytes));
        self.push(save, room, None)
    }

    fn push(&self, save: Save, room: Result<Room<'_>, Error>, tell: Option<Tell>) -> Result<u64, NotSaved> {
        let not_saved = |save, error| NotSaved { offset: None, save, error };
        let Room { save: one, bytes } = match room {
            Ok(room) => room,
            Err(error) => return Err(not_saved(save, error)),
        };
        let pushed = self.shared.buffer().push(save.into_proto(), bytes.num_permits(), tell);
        one.forget();
        bytes.forget();
        pushed.map_err(|save| not_saved(save.into(), self.shared.why_ended()))
    }

    /// What a save takes of the window.
    fn bytes_of(&self, save: &Save) -> Result<u32, Error> {
        let (bytes, max) = (save.encoded_len() + buffer::FRAME_BYTES, self.shared.message_bytes_max);
        if bytes > max { Err(Error::too_large(bytes, max)) } else { Ok(u32::try_from(bytes).expect("a message is below 4 GiB")) }
    }

    /// Waits for room; `None` when the stream has ended.
    async fn room(&self, bytes: u32) -> Option<Room<'_>> {
        let save = self.shared.saves.acquire().await.ok()?;
        Some(Room { save, bytes: self.shared.bytes.acquire_many(bytes).await.ok()? })
    }

    fn room_now(&self, bytes: u32) -> Result<Room<'_>, Error> {
        let room = self.shared.saves.try_acquire().and_then(|save| Ok(Room { save, bytes: self.shared.bytes.try_acquire_many(bytes)? }));
        room.map_err(|error| match error {
            TryAcquireError::NoPermits => Error::busy("no room for a save before others are answered"),
            TryAcquireError::Closed => self.shared.why_ended(),
        })
    }

    /// The offset up to which every save is accepted or refused; 0 before the first.
    pub fn acknowledged_through(&self) -> u64 {
        self.shared.progress.borrow().through
    }

    /// Waits until every save up to `offset` is accepted or refused.
    ///
    /// # Errors
    /// What ended the stream before.
    pub async fn acknowledged(&self, offset: u64) -> Result<(), Error> {
        let mut progress = self.shared.progress.subscribe();
        let progress = progress.wait_for(|progress| progress.through >= offset || progress.end.is_some()).await;
        match progress {
            Ok(progress) if progress.through >= offset => Ok(()),
            _ => Err(self.shared.why_ended().for_sent()),
        }
    }

    /// The refused and failed saves since the last call, those with an [`Acknowledgement`] left out. At 4,096 that nobody takes
    /// the stream ends.
    pub fn take_not_saved(&self) -> Vec<NotSaved> {
        mem::take(&mut *self.shared.not_saved())
    }

    /// Sends what waits, waits for every answer, and closes the stream.
    ///
    /// # Errors
    /// What ended the stream before: saves not yet answered may be accepted or not.
    pub async fn finish(self) -> Result<Finished, Error> {
        let through = self.shared.buffer().finish();
        self.ended().await.map_err(|error| error.for_sent())?;
        Ok(Finished { through, not_saved: self.take_not_saved() })
    }

    /// Waits for the end.
    async fn ended(&self) -> Result<(), Error> {
        let mut progress = self.shared.progress.subscribe();
        let progress = progress.wait_for(|progress| progress.end.is_some()).await;
        progress.expect("the sender is shared with this handle").end.clone().expect("waited for")
    }

    /// As [`finish`](Self::finish), but gives up after `within`, and returns everything that was not saved.
    pub(super) async fn close(&self, within: Duration) -> Vec<NotSaved> {
        self.shared.buffer().finish();
        if timeout(within, self.ended()).await.is_err() {
            self.shared.end(Err(Error::unavailable("it was closed before the answer came")));
        }
        let mut not_saved = self.take_not_saved();
        not_saved.extend(self.shared.buffer().take_unanswered(&self.shared.why_ended()));
        not_saved
    }

    /// Saves that have no answer yet.
    pub(super) fn unanswered(&self) -> usize {
        self.shared.buffer().unanswered()
    }
}

/// Room for one save.
struct Room<'a> {
    save: SemaphorePermit<'a>,
    bytes: SemaphorePermit<'a>,
}

impl Drop for SaveStream {
    fn drop(&mut self) {
        self.shared.end(Err(Error::unknown("the stream was dropped before it was finished")));
        self.driver.abort();
        drop(self.shared.buffer().take_unanswered(&self.shared.why_ended()));
    }
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().expect("no holder panics")
    }

    fn not_saved(&self) -> MutexGuard<'_, Vec<NotSaved>> {
        self.not_saved.lock().expect("no holder panics")
    }

    /// Tells what was not saved, or keeps it; fails when too much of it has not been taken.
    fn reject(&self, rejected: NotSaved) -> Result<(), Error> {
        if let Some(Listener(tell)) = &self.listener {
            tell(rejected);
            return Ok(());
        }
        let error = rejected.error.clone();
        let mut not_saved = self.not_saved();
        not_saved.push(rejected);
        if not_saved.len() > NOT_SAVED_MAX { Err(error) } else { Ok(()) }
    }

    /// What opens a connection.
    fn first_message(&self) -> SaveStreamRequest {
        SaveStreamRequest {
            stream_id: self.id.clone(),
            want_tickets: self.options.want_tickets,
            durability: self.options.durability.to_proto(),
            callback: self.options.callback.clone(),
            ..Default::default()
        }
    }

    /// Tells the senders what was answered.
    fn answered(&self, answered: Answered, through: u64) {
        self.saves.add_permits(answered.saves);
        self.bytes.add_permits(answered.bytes);
        self.progress.send_if_modified(|progress| {
            let moved = progress.through < through;
            progress.through = progress.through.max(through);
            moved
        });
    }

    /// Ends the stream; the first end counts.
    fn end(&self, end: Result<(), Error>) {
        self.progress.send_if_modified(|progress| {
            let first = progress.end.is_none();
            progress.end.get_or_insert(end);
            first
        });
        self.saves.close();
        self.bytes.close();
        self.buffer().close();
    }

    fn why_ended(&self) -> Error {
        match &self.progress.borrow().end {
            Some(Err(error)) => error.clone(),
            _ => Error::refused("the stream is finished"),
        }
    }
}

/// Between attempts to open the stream, and for its first answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
