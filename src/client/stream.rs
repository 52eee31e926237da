//! A pipelined stream of saves: many in flight, in order, resumed by (stream id, offset) after a broken connection.
//!
//! Saves wait in a bounded buffer until they are answered. When the connection breaks or the daemon restarts, the stream is
//! opened again under its id, the daemon tells which save it accepted last, and those after it are sent again: none is lost,
//! none accepted twice. If the daemon remembers the stream no more (its journal keeps streams for a while only), sets and
//! deletes are sent again all the same, in their order; with an append or `add` among them the stream ends with
//! [`Error::OutcomeUnknown`], unless the policy repeats those too.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot, watch},
    task::AbortHandle,
};

use prost::Message;
use uuid::Uuid;

use super::{Client, Error, Save};
use buffer::{Answered, Buffer};

mod buffer;
mod driver;
mod requests;

/// Refused saves that nobody has taken: one more ends the stream.
const REFUSED_MAX: usize = 4_096;

/// Settings of a [`SaveStream`].
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Saves sent and not answered yet; at most the daemon's `grpc.stream_unacknowledged_max`. Default: 2,048.
    pub unacknowledged_max: usize,
    /// Their bytes. Default: 8 MiB.
    pub unacknowledged_bytes_max: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { unacknowledged_max: 2_048, unacknowledged_bytes_max: 8 << 20 }
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

/// A save that was refused.
#[derive(Clone, Debug)]
pub struct RefusedSave {
    /// Its offset in the stream, as [`SaveStream::send`] returned it.
    pub offset: u64,
    /// Why.
    pub error: Error,
}

/// How a stream ended: every save is answered.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The offset of the last save; 0 if none was sent.
    pub through: u64,
    /// Refused saves that had not been taken yet; all others are accepted.
    pub refused: Vec<RefusedSave>,
}

/// The answer to one save of a stream.
#[derive(Debug)]
pub struct Acknowledgement {
    /// The save's offset in the stream.
    pub offset: u64,
    answer: oneshot::Receiver<Result<(), Error>>,
    shared: Arc<Shared>,
}

impl Acknowledgement {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What a unary call would have ended with, or [`Error::OutcomeUnknown`] if the stream ended before.
    pub async fn wait(self) -> Result<(), Error> {
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
    message_bytes_max: usize,
    buffer: Mutex<Buffer>,
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
    pub(super) fn open(client: Client, options: StreamOptions) -> Self {
        let message_bytes_max = client.shared.message_bytes_max;
        // A save that a message can hold finds room in an empty buffer.
        let bytes_max = options.unacknowledged_bytes_max.max(message_bytes_max).min(u32::MAX as usize);
        let shared = Arc::new(Shared {
            id: Uuid::new_v4().to_string(),
            message_bytes_max,
            buffer: Mutex::new(Buffer::default()),
            saves: Semaphore::new(options.unacknowledged_max.max(1)),
            bytes: Semaphore::new(bytes_max),
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
        self.put(save, None).await
    }

    /// Puts a save on the stream and hands back its acknowledgement to wait for.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_tracked(&self, save: Save) -> Result<Acknowledgement, Error> {
        let (tell, answer) = oneshot::channel();
        let offset = self.put(save, Some(tell)).await?;
        Ok(Acknowledgement { offset, answer, shared: Arc::clone(&self.shared) })
    }

    async fn put(&self, save: Save, tell: Option<oneshot::Sender<Result<(), Error>>>) -> Result<u64, Error> {
        let save = save.into_proto();
        let bytes = save.encoded_len() + buffer::FRAME_BYTES;
        if bytes > self.shared.message_bytes_max {
            return Err(Error::too_large(bytes, self.shared.message_bytes_max));
        }
        let room = self.room(bytes).await.ok_or_else(|| self.shared.why_ended())?;
        let offset = self.shared.buffer().push(save, bytes, tell);
        room.0.forget();
        room.1.forget();
        offset.ok_or_else(|| self.shared.why_ended())
    }

    /// Room for a save; `None` when the stream has ended.
    async fn room(&self, bytes: usize) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let bytes = u32::try_from(bytes).expect("a message is below 4 GiB");
        let save = self.shared.saves.acquire().await.ok()?;
        Some((save, self.shared.bytes.acquire_many(bytes).await.ok()?))
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

    /// The refused saves since the last call, those with an [`Acknowledgement`] left out. At 4,096 that nobody takes the stream
    /// ends.
    pub fn take_refused(&self) -> Vec<RefusedSave> {
        self.shared.buffer().take_refused()
    }

    /// Sends what waits, waits for every answer, and closes the stream.
    ///
    /// # Errors
    /// What ended the stream before: saves not yet answered may be accepted or not.
    pub async fn finish(self) -> Result<Finished, Error> {
        let through = self.shared.buffer().finish();
        let mut progress = self.shared.progress.subscribe();
        let progress = progress.wait_for(|progress| progress.end.is_some()).await;
        match progress.map(|progress| progress.end.clone()) {
            Ok(Some(Ok(()))) => Ok(Finished { through, refused: self.take_refused() }),
            _ => Err(self.shared.why_ended().for_sent()),
        }
    }
}

impl Drop for SaveStream {
    fn drop(&mut self) {
        self.shared.end(Err(Error::unknown("the stream was dropped before it was finished")));
        self.driver.abort();
    }
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().expect("no holder panics")
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
        self.buffer().clear();
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
