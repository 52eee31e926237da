//! Which segments there are, what they hold, and when they may go. Decides only; the janitor acts.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::segment::{Summary, Wanted};
use crate::save::Sequence;

/// Room is given back in steps of about so much: a mark for each step bounds the list by `journal.bytes_max`.
const CHARGE_STEP_BYTES: u64 = 256 << 10;

/// The segments, oldest first; the last one is written. And what is charged to `journal.bytes_max`.
#[derive(Debug)]
pub(super) struct Table {
    segments: Vec<Held>,
    charges: VecDeque<Charge>,
}

#[derive(Debug)]
struct Held {
    summary: Summary,
    closed: bool,
    drained_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    through: Sequence,
    bytes: u64,
}

/// When drained segments go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retention {
    pub time: Duration,
    pub bytes: u64,
    /// Space is short: whatever is drained goes now.
    pub pressed: bool,
}

/// Where the next entries are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub wanted: Wanted,
    /// Whether the owner has it, not the janitor.
    pub current: bool,
    /// The segment's last save.
    pub last: Sequence,
}

/// What was asked for has been removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub oldest: Sequence,
}

impl Table {
    pub(super) fn new(closed: Vec<Summary>, current: Summary) -> Self {
        let closed = closed.into_iter().map(|summary| Held { summary, closed: true, drained_since: None });
        let current = Held { summary: current, closed: false, drained_since: None };
        let segments: Vec<_> = closed.chain([current]).collect();
        let held = segments.iter().filter(|held| held.summary.saves > 0);
        let charges = held.map(|held| Charge { through: held.summary.last(), bytes: held.summary.bytes }).collect();
        Self { segments, charges }
    }

    /// What is charged.
    pub(super) fn charged(&self) -> u64 {
        self.charges.iter().map(|charge| charge.bytes).sum()
    }

    /// The current segment has grown by a synced group.
    pub(super) fn grow(&mut self, summary: Summary, charge: u64) {
        let through = summary.last();
        let current = self.segments.last_mut().expect("there is always a current segment");
        current.summary = summary;
        current.drained_since = None;
        match self.charges.back_mut().filter(|open| open.bytes < CHARGE_STEP_BYTES) {
            Some(open) => *open = Charge { through, bytes: open.bytes + charge },
            None => self.charges.push_back(Charge { through, bytes: charge }),
        }
    }

    /// Another segment is the current one; its opening is synced.
    pub(super) fn rotate(&mut self, summary: &Summary) {
        self.segments.push(Held { summary: summary.clone(), closed: false, drained_since: None });
    }

    /// The janitor has closed a segment.
    pub(super) fn close(&mut self, summary: Summary) {
        if let Some(held) = self.segments.iter_mut().find(|held| held.summary.segment == summary.segment) {
            held.summary = summary;
            held.closed = true;
        }
    }

    /// Everything up to `floor` is drained: the charge that can be given back.
    pub(super) fn settle(&mut self, floor: Sequence) -> u64 {
        let mut bytes = 0;
        while let Some(charge) = self.charges.front().filter(|charge| charge.through <= floor) {
            bytes += charge.bytes;
            self.charges.pop_front();
        }
        bytes
    }

    /// The last save before everything that is held.
    pub(super) fn oldest(&self) -> Sequence {
        Sequence::from_u64(self.segments[0].summary.last_before)
    }

    /// Where the first entry after `after` is, if there is one up to `through`.
    pub(super) fn locate(&self, after: Sequence, through: Sequence) -> Result<Option<Place>, Gone> {
        let oldest = &self.segments[0].summary;
        if after.get() < oldest.last_before {
            return Err(Gone { oldest: oldest.begins() });
        }
        let holds = |held: &&Held| held.summary.saves > 0 && held.summary.last() > after && held.summary.begins() <= through;
        let Some(held) = self.segments.iter().find(holds) else { return Ok(None) };
        let summary = &held.summary;
        let wanted = Wanted {
            segment: summary.segment,
            first_chunk: summary.first_chunk,
            last_chunk: summary.last_chunk,
            from: after.plus(1),
            through,
            bytes_max: 0,
        };
        let current = self.current().segment == summary.segment;
        Ok(Some(Place { wanted, current, last: summary.last() }))
    }

    /// Notes what is drained at `floor` since when. The floor may have fallen: what is above it must not go.
    pub(super) fn note_drained(&mut self, floor: Sequence, now: Instant) {
        for held in &mut self.segments {
            let drained = held.summary.last() <= floor;
            held.drained_since = drained.then(|| held.drained_since.unwrap_or(now));
        }
    }

    /// The oldest segment and its last save, if it may go: closed, drained, and its retention over.
    pub(super) fn removable(&self, now: Instant, retention: Retention) -> Option<(u64, Sequence)> {
        let oldest = &self.segments[0];
        let since = oldest.drained_since.filter(|_| oldest.closed && self.segments.len() > 1)?;
        let over = retention.pressed || now.duration_since(since) >= retention.time || self.drained_bytes() > retention.bytes;
        over.then_some((oldest.summary.segment, oldest.summary.last()))
    }

    /// Whether the current segment holds only what could go if it were an older one.
    pub(super) fn wants_rotation(&self, now: Instant, retention: Retention) -> bool {
        let current = self.segments.last().expect("there is always a current segment");
        let over = |since| retention.pressed || now.duration_since(since) >= retention.time;
        current.summary.saves > 0 && current.drained_since.is_some_and(over)
    }

    /// Forgets the oldest segment.
    pub(super) fn forget(&mut self, segment: u64) {
        if self.segments[0].summary.segment == segment {
            self.segments.remove(0);
        }
    }

    /// The segment that is written, as of its last sync.
    pub(super) fn current(&self) -> &Summary {
        &self.segments.last().expect("there is always a current segment").summary
    }

    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Size of all segments' files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|held| held.summary.bytes).sum()
    }

    /// For how long drained saves have been kept.
    pub(super) fn retained(&self, now: Instant) -> Duration {
        self.segments[0].drained_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Size of the segments that are kept although they are drained.
    pub(super) fn drained_bytes(&self) -> u64 {
        self.segments.iter().filter(|held| held.closed && held.drained_since.is_some()).map(|held| held.summary.bytes).sum()
    }
}
