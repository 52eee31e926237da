//! Free space of the journal's file system: sled never recovers from a full disk, so saves are refused before.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::limits::Limit;

/// What a start, or a segment more, writes beside saves: names, openings, the ledger.
pub(super) const OWN_BYTES: u64 = 4 << 20;

/// What was measured last, and what follows.
#[derive(Debug)]
pub(super) struct Space {
    /// `journal.free_bytes_min`
    limit: Arc<Limit>,
    refusing: AtomicBool,
}

impl Space {
    pub(super) fn new(limit: &Arc<Limit>) -> Self {
        Self { limit: Arc::clone(limit), refusing: AtomicBool::new(false) }
    }

    /// Measures; decides nothing.
    pub(super) fn measure(&self, path: &Path) -> io::Result<u64> {
        let free = free(path)?;
        self.limit.set_used(free);
        Ok(free)
    }

    /// Refuses saves from now on, or takes them again. Called after retention has been given up.
    pub(super) fn decide(&self) {
        self.refusing.store(self.free() < self.min(), Ordering::Relaxed);
    }

    pub(super) fn free(&self) -> u64 {
        self.limit.used()
    }

    pub(super) fn min(&self) -> u64 {
        self.limit.max()
    }

    pub(super) fn refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }
}

/// Bytes that we may still write to the file system of this path.
pub(super) fn free(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
