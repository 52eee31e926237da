//! Cutting groups into chunks: their numbers, their chain, and what the segment's summary says of them. Pure: where a chunk goes is
//! the caller's matter.

use super::{
    framing::{self, Header, Kind, Opening, PAYLOAD_BYTES_MAX},
    segment::{Settled, Start, Summary},
};
use crate::save::{LaneId, Sequence};

/// What a segment has been given so far, and what its next chunk goes on from.
#[derive(Debug)]
pub(super) struct Cutter {
    pub summary: Summary,
    next_chunk: u64,
    previous: u32,
    synced_through: u64,
    buffer: Vec<u8>,
}

impl Cutter {
    /// A segment that holds nothing yet, not even its opening.
    pub(super) fn new(start: &Start) -> Self {
        Self {
            summary: start.summary(),
            next_chunk: start.first_chunk,
            previous: start.follows_checksum,
            synced_through: start.synced_through,
            buffer: Vec::with_capacity(framing::VALUE_BYTES_MAX),
        }
    }

    /// The opening: a segment's first chunk.
    pub(super) fn opening<E>(
        &mut self,
        start: &Start,
        carried: u32,
        settled: &Settled,
        put: impl FnOnce(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let opening = Opening { carried, follows: start.follows, last_before: start.last_before };
        self.begin(Kind::Opening, (0, 1), (start.begins, 0), settled);
        self.buffer.extend_from_slice(&opening.to_bytes());
        self.finish(put)
    }

    /// A group's chunks, one after the other.
    pub(super) fn group<'a, E>(
        &mut self,
        first: Sequence,
        saves: u32,
        records: impl Iterator<Item = &'a [u8]> + Clone,
        settled: &Settled,
        mut put: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let length: usize = records.clone().map(<[u8]>::len).sum();
        let parts = u32::try_from(length.div_ceil(PAYLOAD_BYTES_MAX).max(1)).expect("a group is bounded");
        let (mut records, mut rest) = (records, &[][..]);
        for part in 0..parts {
            let hints = if part == 0 { &settled[..] } else { &[] };
            self.begin(Kind::Group, (part, parts), (first, saves), hints);
            let mut room = PAYLOAD_BYTES_MAX;
            while room > 0 {
                if rest.is_empty() {
                    let Some(next) = records.next() else { break };
                    rest = next;
                }
                let (now, later) = rest.split_at(rest.len().min(room));
                self.buffer.extend_from_slice(now);
                (rest, room) = (later, room - now.len());
            }
            self.finish(&mut put)?;
        }
        self.summary.last = first.plus(u64::from(saves)).get() - 1;
        self.summary.saves += u64::from(saves);
        self.summary.groups += 1;
        Ok(())
    }

    /// Everything cut so far is durable.
    pub(super) fn synced(&mut self) {
        self.synced_through = self.summary.last_chunk;
    }

    /// The start of the segment that goes on after this one.
    pub(super) fn next_start(&self, segment: u64) -> Start {
        let last = Sequence::from_u64(self.summary.last);
        Start {
            journal: self.summary.journal,
            segment,
            run: self.summary.run,
            first_chunk: self.next_chunk,
            follows: self.summary.last_chunk,
            follows_checksum: self.summary.last_checksum,
            synced_through: self.synced_through,
            begins: last.plus(1),
            last_before: last,
        }
    }

    fn begin(&mut self, kind: Kind, (part, parts): (u32, u32), (first, saves): (Sequence, u32), settled: &[(LaneId, Sequence)]) {
        let header = Header {
            kind,
            journal: self.summary.journal,
            run: self.summary.run,
            segment: self.summary.segment,
            number: self.next_chunk,
            part,
            parts,
            first,
            saves,
            synced_through: self.synced_through,
            previous: self.previous,
        };
        framing::begin(&header, settled, &mut self.buffer);
    }

    fn finish<E>(&mut self, put: impl FnOnce(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.previous = framing::seal(&mut self.buffer);
        put(self.next_chunk, &self.buffer)?;
        (self.summary.last_chunk, self.summary.last_checksum) = (self.next_chunk, self.previous);
        self.next_chunk += 1;
        Ok(())
    }
}
