//! Saving later: a bounded queue for code that doesn't wait for its saves, over a [`SaveStream`] that carries them in order.
//!
//! The queue never drops a save silently. When it is full, the sender waits or gets its save back; what is refused (or fails) is
//! told to a listener or kept until it is taken; [`SaveLater::close`] sends what waits and gives back what could not be saved. The
//! queue itself is in memory: only what is acknowledged survives the application.

use std::time::Duration;

use super::{
    Client, Durability, NotSaved, Save, StreamOptions,
    stream::{Listener, SaveStream},
};

/// Settings of a [`SaveLater`].
#[derive(Clone, Debug)]
pub struct LaterOptions {
    queue_max: usize,
    queue_bytes_max: usize,
    durability: Durability,
    callback: String,
    listener: Option<Listener>,
}

impl Default for LaterOptions {
    fn default() -> Self {
        Self { queue_max: 10_000, queue_bytes_max: 64 << 20, durability: Durability::default(), callback: String::new(), listener: None }
    }
}

impl LaterOptions {
    /// Saves that have no answer yet, and their bytes. Default: 10,000 and 64 MiB.
    #[must_use]
    pub fn queue_max(self, saves: usize, bytes: usize) -> Self {
        Self { queue_max: saves, queue_bytes_max: bytes, ..self }
    }

    /// When a save is answered and leaves the queue. Default: [`Durability::Synced`].
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// The endpoint of the daemon's settings (`endpoints.NAME`) that is told the outcome of each save, by a webhook.
    #[must_use]
    pub fn callback(self, callback: impl Into<String>) -> Self {
        Self { callback: callback.into(), ..self }
    }

    /// Is told each save that was refused or has failed, as it happens; without it they wait for
    /// [`take_not_saved`](SaveLater::take_not_saved). It holds up the queue while it runs.
    #[must_use]
    pub fn on_not_saved(self, listener: impl Fn(NotSaved) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Listener::new(listener)), ..self }
    }
}

/// A queue of saves that are sent in the background, in order.
///
/// It rides out restarts of the daemon for as long as the client's policy tries again; then it has ended, takes nothing more, and
/// [`close`](Self::close) gives back what was in it. Dropped without that, it logs a warning with the number of saves that had no
/// answer.
#[derive(Debug)]
pub struct SaveLater {
    stream: SaveStream,
}

impl Client {
    /// Opens a queue of saves to be sent in the background.
    ///
    /// ```no_run
    /// # async fn example(client: &forebay::client::Client) {
    /// use std::time::Duration;
    /// use forebay::client::{LaterOptions, Save};
    ///
    /// let options = LaterOptions::default().on_not_saved(|not_saved| eprintln!("{not_saved}"));
    /// let later = client.save_later(options);
    /// if let Err(full) = later.try_send(Save::set("players", ["42"], r#"{"gold":7}"#)) {
    ///     eprintln!("{full}");
    /// }
    /// for not_saved in later.close(Duration::from_secs(20)).await {
    ///     eprintln!("{not_saved}");
    /// }
    /// # }
    /// ```
    pub fn save_later(&self, options: LaterOptions) -> SaveLater {
        let LaterOptions { queue_max, queue_bytes_max, durability, callback, listener } = options;
        let options = StreamOptions {
            unacknowledged_max: queue_max,
            unacknowledged_bytes_max: queue_bytes_max,
            durability,
            callback,
            want_tickets: false,
        };
        SaveLater { stream: SaveStream::open(self.clone(), options, listener) }
    }
}

impl SaveLater {
    /// Puts a save into the queue; waits while it is full.
    ///
    /// # Errors
    /// Gives the save back if no message can hold it, or the queue has ended.
    pub async fn send(&self, save: Save) -> Result<(), NotSaved> {
        self.stream.put(save, None).await.map(drop)
    }

    /// Puts a save into the queue, at once or not at all.
    ///
    /// # Errors
    /// Gives the save back: [`Error::Busy`](super::Error::Busy) if the queue is full, else as [`send`](Self::send).
    pub fn try_send(&self, save: Save) -> Result<(), NotSaved> {
        self.stream.try_put(save).map(drop)
    }

    /// The refused and failed saves since the last call, if no listener is told of them. At 4,096 that nobody takes the queue ends.
    pub fn take_not_saved(&self) -> Vec<NotSaved> {
        self.stream.take_not_saved()
    }

    /// Saves that have no answer yet.
    pub fn waiting(&self) -> usize {
        self.stream.unanswered()
    }

    /// Sends what waits, waits for the answers, at most for `within`, and gives back everything that was not saved, with the
    /// reason: what nobody has taken or been told of yet, and what has no answer
    /// ([`Error::OutcomeUnknown`](super::Error::OutcomeUnknown) if it may have been accepted).
    #[must_use = "these saves are not saved"]
    pub async fn close(self, within: Duration) -> Vec<NotSaved> {
        self.stream.close(within).await
    }
}

impl Drop for SaveLater {
    fn drop(&mut self) {
        let (unanswered, not_taken) = (self.waiting(), self.stream.take_not_saved().len());
        if unanswered + not_taken > 0 {
            tracing::warn!(stream_id = self.stream.id(), unanswered, not_taken, "a queue was dropped with saves that may not be saved");
        }
    }
}
