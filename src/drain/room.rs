//! Room in the backlog's limits that a lane holds for what it took out.

use std::sync::Arc;

use crate::{
    backlog::Footprint,
    limits::{Limit, Limits},
};

/// The two limits of the backlog.
#[derive(Clone, Debug)]
pub(super) struct Rooms {
    bytes: Arc<Limit>,
    objects: Arc<Limit>,
}

/// Room that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    rooms: Rooms,
    footprint: Footprint,
}

impl Rooms {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { bytes: Arc::clone(&limits.backlog_bytes), objects: Arc::clone(&limits.backlog_objects) }
    }

    /// Room that admission has taken.
    pub(super) fn adopt(&self, footprint: Footprint) -> Room {
        Room { rooms: self.clone(), footprint }
    }

    /// Room that must be granted: the journal holds the saves, whatever the limits say.
    pub(super) fn take_anyway(&self, footprint: Footprint) -> Room {
        self.bytes.take_anyway(footprint.bytes);
        self.objects.take_anyway(footprint.objects);
        self.adopt(footprint)
    }
}

impl Room {
    /// Both as one.
    pub(super) fn joined(mut self, mut other: Self) -> Self {
        self.footprint += std::mem::take(&mut other.footprint);
        self
    }

    /// No more than this; the rest is given back.
    pub(super) fn within(mut self, max: Footprint) -> Self {
        let kept = Footprint { bytes: self.footprint.bytes.min(max.bytes), objects: self.footprint.objects.min(max.objects) };
        let surplus = Footprint { bytes: self.footprint.bytes - kept.bytes, objects: self.footprint.objects - kept.objects };
        self.footprint = kept;
        drop(self.rooms.adopt(surplus));
        self
    }

    pub(super) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// Leaves the room taken: somebody else gives it back.
    pub(super) fn keep(mut self) {
        self.footprint = Footprint::default();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.footprint != Footprint::default() {
            self.rooms.bytes.give_back(self.footprint.bytes);
            self.rooms.objects.give_back(self.footprint.objects);
        }
    }
}
