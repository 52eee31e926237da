//! The syncer: the second stage of the pipe that the [`owner`](super::owner) begins. While the owner gathers and writes the next
//! group, it waits for the device: one `fdatasync` a group, then it offers the group to the backlog and answers its callers.
//!
//! Groups come by rendezvous: one is taken when the one before it is over, so that two are under way at the most, and
//! whoever has handed something over knows that all before it is synced and answered.

use std::{
    fs::File,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use super::{
    running::{Events, GroupStats},
    segment::Summary,
    shared::{Failed, Shared},
};
use crate::save::Accepted;

/// A group that sled has handed to the kernel.
pub(super) struct Written {
    /// Whose sync makes it durable.
    pub file: Arc<File>,
    /// Its segment with it.
    pub summary: Summary,
    pub accepted: Vec<Accepted>,
    /// Bytes of its records.
    pub bytes: u64,
    /// What it takes of `journal.bytes_max`.
    pub charge: u64,
    /// How long sled took to hand it over.
    pub writing: Duration,
}

/// `None` is nothing: it is taken once everything before it is over.
pub(super) type Handed = Option<Written>;

pub(super) struct Syncer {
    pub shared: Arc<Shared>,
    pub events: Events,
    pub groups: mpsc::Receiver<Handed>,
    pub sync_warn: Duration,
}

impl Syncer {
    /// The thread's whole life: until the owner has ended, or something fails.
    pub(super) fn run(mut self) {
        while let Ok(handed) = self.groups.recv() {
            let Some(written) = handed else { continue };
            if let Err(Failed) = self.finish(written) {
                return;
            }
        }
    }

    /// Makes a group durable, offers it, answers.
    fn finish(&mut self, written: Written) -> Result<(), Failed> {
        let Written { file, summary, accepted, bytes, charge, writing } = written;
        let started = Instant::now();
        if let Err(error) = file.sync_data() {
            self.shared.fail(format!("sync the journal: {error}"));
            return Err(Failed);
        }
        let sync = writing + started.elapsed();
        let answers = self.shared.end_write()?;
        if sync > self.sync_warn {
            tracing::warn!(seconds = sync.as_secs_f64(), "a journal sync was slow");
        }
        self.shared.last_sync_us.store(sync.as_micros() as u64, Ordering::Relaxed);
        self.shared.synced_chunk.store(summary.last_chunk, Ordering::Relaxed);
        self.shared.limits.segment_bytes.saw(summary.bytes);
        self.shared.limits.journal_inbox_bytes.give_back(bytes);
        self.shared.table().grow(summary, charge);
        let saves = u32::try_from(accepted.len()).expect("a group is bounded");
        (self.events.offer)(accepted);
        for (done, sequence) in answers {
            done.tell(Ok(sequence));
        }
        (self.events.on_group)(GroupStats { saves, bytes, sync });
        Ok(())
    }
}
