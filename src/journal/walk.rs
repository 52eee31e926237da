//! Walking a segment that was not closed: along the chain of its chunks, group by group, up to the first break.

use super::{
    framing::Kind,
    segment::{Settled, Start, Summary},
    witness::Witness,
};
use crate::save::Sequence;

/// A group seen in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first_chunk: u64,
    pub last_chunk: u64,
    pub last_checksum: u32,
    pub first: Sequence,
    pub saves: u32,
}

impl Span {
    pub(super) fn last(&self) -> Sequence {
        self.first.plus(u64::from(self.saves.saturating_sub(1)))
    }
}

/// What a segment that was not closed turned out to hold: its opening, and whole groups up to the first break.
#[derive(Debug)]
pub(super) struct Walk {
    opening: Summary,
    pub spans: Vec<Span>,
    /// Chunks above its end.
    pub torn_chunks: u64,
    settled: Settled,
}

impl Walk {
    /// Follows the chain, not beyond the chunk `bound`. `None` if the opening or what it carries isn't whole.
    pub(super) fn of(witness: &Witness, bound: Option<u64>) -> Option<Self> {
        let (&first, seen) = witness.chunks.first_key_value()?;
        let opening = seen.opening.filter(|_| seen.header.kind == Kind::Opening)?;
        let start = Start {
            journal: seen.header.journal,
            segment: seen.header.segment,
            run: seen.header.run,
            first_chunk: first,
            follows: opening.follows,
            follows_checksum: seen.header.previous,
            synced_through: seen.header.synced_through,
            begins: seen.header.first,
            last_before: opening.last_before,
        };
        let summary = Summary { last_checksum: seen.checksum, bytes: witness.bytes().ok()?, ..start.summary() };
        let mut walk = Self { opening: summary, spans: Vec::new(), torn_chunks: 0, settled: seen.settled.clone() };
        walk.follow(witness, bound.unwrap_or(u64::MAX));
        let (end, _) = walk.end();
        walk.torn_chunks = witness.chunks.range(end + 1..).count() as u64;
        (walk.spans.len() >= opening.carried as usize).then_some(walk)
    }

    fn follow(&mut self, witness: &Witness, bound: u64) {
        let mut before = (self.opening.first_chunk, self.opening.last_checksum);
        let mut last = Sequence::from_u64(self.opening.last_before);
        let mut open: Option<Span> = None;
        for (&number, seen) in witness.chunks.range(before.0 + 1..).take_while(|&(&number, _)| number <= bound) {
            let header = &seen.header;
            let fresh =
                Span { first_chunk: number, last_chunk: number, last_checksum: seen.checksum, first: header.first, saves: header.saves };
            let span = open.get_or_insert(fresh);
            let linked = (number, header.previous, header.kind) == (before.0 + 1, before.1, Kind::Group);
            let belongs = (span.first, span.saves, u64::from(header.part)) == (header.first, header.saves, number - span.first_chunk);
            if !linked || !belongs || span.first <= last || span.saves == 0 {
                return;
            }
            (span.last_chunk, span.last_checksum) = (number, seen.checksum);
            before = (number, seen.checksum);
            if !seen.settled.is_empty() {
                self.settled.clone_from(&seen.settled);
            }
            if header.part + 1 == header.parts {
                last = span.last();
                self.spans.extend(open.take());
            }
        }
    }

    /// The last chunk of its last whole group, and its checksum.
    pub(super) fn end(&self) -> (u64, u32) {
        self.spans.last().map_or((self.opening.last_chunk, self.opening.last_checksum), |span| (span.last_chunk, span.last_checksum))
    }

    /// The segment as if it ended after so many groups.
    pub(super) fn summary(&self, groups: usize) -> Summary {
        let mut summary = self.opening.clone();
        summary.settled = self.settled.iter().map(|(lane, sequence)| (lane.0, sequence.get())).collect();
        if let Some(last) = self.spans[..groups].last() {
            summary.last_chunk = last.last_chunk;
            summary.last_checksum = last.last_checksum;
            summary.last = last.last().get();
            summary.groups = groups as u64;
            summary.saves = self.spans[..groups].iter().map(|span| u64::from(span.saves)).sum();
        }
        summary
    }
}
