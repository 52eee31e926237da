//! What was saved and what was acknowledged, object by object.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::objects;

/// Shared by all who save. An object belongs to one of them, so its versions are acknowledged in order.
#[derive(Debug)]
pub(super) struct Ledger {
    issued: Vec<AtomicU64>,
    acknowledged: Vec<AtomicU64>,
    saves_max: u64,
    saves_issued: AtomicU64,
    saves_acknowledged: AtomicU64,
    phase: AtomicU8,
}

/// What the latency of a save counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: something is being started or stopped.
    Between,
    /// Everything is well.
    Before,
    /// Postgres is away.
    Outage,
}

impl Ledger {
    pub(super) fn new(saves_max: u64) -> Self {
        let zeros = || (0..objects::COUNT).map(|_| AtomicU64::new(0)).collect();
        Self {
            issued: zeros(),
            acknowledged: zeros(),
            saves_max,
            saves_issued: AtomicU64::new(0),
            saves_acknowledged: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Between as u8),
        }
    }

    /// The next version of an object; nothing when all saves have been made.
    pub(super) fn issue(&self, object: usize) -> Option<u64> {
        let more = |issued| (issued < self.saves_max).then_some(issued + 1);
        self.saves_issued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(self.issued[object].fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn acknowledge(&self, object: usize, version: u64) {
        self.acknowledged[object].fetch_max(version, Ordering::Relaxed);
        self.saves_acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// The newest acknowledged version of an object; 0 if there is none.
    pub(super) fn version(&self, object: usize) -> u64 {
        self.acknowledged[object].load(Ordering::Relaxed)
    }

    pub(super) fn issued(&self) -> u64 {
        self.saves_issued.load(Ordering::Relaxed)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.saves_acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Before as u8 => Phase::Before,
            phase if phase == Phase::Outage as u8 => Phase::Outage,
            _ => Phase::Between,
        }
    }
}
