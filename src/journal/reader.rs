//! The way back: entries by sequence. Chunks come raw from whoever has the segment; they are checked and decoded in the
//! reader's task.

use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use super::{
    group::{Assembler, Batches, Group, GroupError, weight},
    janitor::Job,
    record::Entry,
    shared::{Fetched, Request, Shared},
    store::Value,
    table::{Gone, Place},
};
use crate::save::Sequence;

/// A handle that reads what the journal holds: everything synced and not yet removed.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// Why entries could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They were drained and have been removed.
    #[error("the journal no longer holds these saves: its oldest is {oldest}")]
    Gone {
        /// The oldest save that it may hold.
        oldest: Sequence,
    },
    /// They are not as they were written.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// The journal has stopped or failed.
    #[error("the journal is stopped")]
    Stopped,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::Sender<Job>) -> Self {
        Self { shared, jobs }
    }

    /// Entries above `after`, up to `through`, in order: about `bytes_max` bytes of them, whole atomic batches, at least one
    /// batch. Empty only if there are no more.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, after: Sequence, through: Sequence, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        let mut after = after;
        loop {
            let place = self.shared.table().locate(after, through);
            let Some(mut place) = place.map_err(|Gone { oldest }| ReadError::Gone { oldest })? else { return Ok(Vec::new()) };
            place.wanted.bytes_max = bytes_max;
            // The segment may have been closed or removed in between: then look again.
            let Some(values) = self.fetch(place).await? else { continue };
            let entries = select(&values, place, (after, through), bytes_max)?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            after = place.last;
        }
    }

    async fn fetch(&self, place: Place) -> Result<Option<Vec<Value>>, ReadError> {
        let (reply, answer) = oneshot::channel();
        let asked = match place.current {
            true => self.shared.send(Request::Read(place.wanted, reply)).is_ok(),
            false => self.jobs.send(Job::Read(place.wanted, reply)).is_ok(),
        };
        let fetched: Fetched = if asked { answer.await.map_err(|_| ReadError::Stopped)? } else { return Err(ReadError::Stopped) };
        fetched.transpose().map_err(|error| ReadError::Damaged(format!("segment {}: {error}", place.wanted.segment)))
    }
}

/// Decodes chunks and keeps whole batches between `after` and `through`.
pub(super) fn select(
    values: &[Value],
    place: Place,
    (after, through): (Sequence, Sequence),
    bytes_max: usize,
) -> Result<Vec<Entry>, ReadError> {
    let damaged = |error: GroupError| ReadError::Damaged(format!("segment {}: {error}", place.wanted.segment));
    let mut assembler = Assembler::default();
    let mut selection = Selection { after, through, bytes_left: bytes_max, entries: Vec::new() };
    for value in values {
        if let Some(group) = assembler.add(value).map_err(damaged)?
            && !selection.add(&group).map_err(damaged)?
        {
            break;
        }
    }
    Ok(selection.entries)
}

struct Selection {
    after: Sequence,
    through: Sequence,
    bytes_left: usize,
    entries: Vec<Entry>,
}

impl Selection {
    /// Adds what is wanted of a group; false once no more is.
    fn add(&mut self, group: &Group) -> Result<bool, GroupError> {
        let mut batches = Batches::default();
        for entry in group.entries() {
            let entry = entry?;
            if entry.sequence <= self.after {
                continue;
            }
            if entry.sequence > self.through {
                return Ok(false);
            }
            let Some(batch) = batches.add(entry) else { continue };
            let bytes: usize = batch.as_slice().iter().map(|entry| weight(&entry.record)).sum();
            if bytes > self.bytes_left && !self.entries.is_empty() {
                return Ok(false);
            }
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.entries.extend(batch);
        }
        Ok(true)
    }
}
