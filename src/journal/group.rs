//! Groups: what one sync covers. Cut into chunks when written, put together again when read.

use super::{
    framing::{self, Chunk, FramingError, Kind},
    record::{self, Entry, Record, RecordError},
};
use crate::save::Sequence;

/// A group put together from its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its first save.
    pub first: Sequence,
    /// Saves in it.
    pub saves: u32,
    /// Their records.
    pub payload: Vec<u8>,
}

/// Why chunks make no groups.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GroupError {
    #[error("a chunk {0}")]
    Chunk(FramingError),
    #[error("chunk {0} is not where it belongs: the chain is broken")]
    Chain(u64),
    #[error("the group that begins with save {0} is not whole")]
    Part(Sequence),
    #[error("save {0}: {1}")]
    Record(Sequence, RecordError),
    #[error("the group that begins with save {0} has another number of saves than it says")]
    Count(Sequence),
}

impl Group {
    /// The group's saves, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<Entry, GroupError>> + '_ {
        self.records().map(|record| record.map(|(entry, _)| entry))
    }

    /// The group's saves, in order, each with its bytes. Ends after the first error.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<(Entry, &[u8]), GroupError>> + '_ {
        let mut rest = &self.payload[..];
        let mut number = 0;
        std::iter::from_fn(move || {
            if number == self.saves {
                return (!std::mem::take(&mut rest).is_empty()).then_some(Err(GroupError::Count(self.first)));
            }
            let (sequence, before) = (self.first.plus(u64::from(number)), rest);
            number += 1;
            match record::decode(&mut rest) {
                Ok(record) => Some(Ok((Entry { sequence, record }, &before[..before.len() - rest.len()]))),
                Err(error) => {
                    (rest, number) = (&[], self.saves);
                    Some(Err(GroupError::Record(sequence, error)))
                }
            }
        })
    }

    /// Its last save.
    pub(super) fn last(&self) -> Sequence {
        self.first.plus(u64::from(self.saves.saturating_sub(1)))
    }
}

/// Puts groups together, chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    open: Option<Group>,
    before: Option<(u64, u32)>,
}

impl Assembler {
    /// Takes the value of the next chunk; gives the group that it completes.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<Option<Group>, GroupError> {
        let chunk = framing::decode(value).map_err(GroupError::Chunk)?;
        let number = chunk.header.number;
        if self.before.is_some_and(|before| before != (number - 1, chunk.header.previous)) {
            return Err(GroupError::Chain(number));
        }
        self.before = Some((number, chunk.checksum));
        match chunk.header.kind {
            Kind::Opening => Ok(None),
            Kind::Group => self.add_part(&chunk),
        }
    }

    fn add_part(&mut self, chunk: &Chunk<'_>) -> Result<Option<Group>, GroupError> {
        let header = &chunk.header;
        let group = match (&mut self.open, header.part) {
            (None, 0) => self.open.insert(Group { first: header.first, saves: header.saves, payload: Vec::new() }),
            (Some(group), 1..) if group.first == header.first && group.saves == header.saves => group,
            _ => return Err(GroupError::Part(header.first)),
        };
        group.payload.extend_from_slice(chunk.payload);
        Ok(if header.part + 1 == header.parts { self.open.take() } else { None })
    }
}

/// Keeps whole atomic batches: gives the entries of a batch once its last one has come. A save in none is one.
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: Vec<Entry>,
}

impl Batches {
    pub(super) fn add(&mut self, entry: Entry) -> Option<std::vec::Drain<'_, Entry>> {
        let last = entry.record.batch_left == 0;
        self.open.push(entry);
        last.then(|| self.open.drain(..))
    }
}

/// Bytes that a record takes in memory, for readers that ask for so many.
pub(super) fn weight(record: &Record) -> usize {
    let body = record.change.body().map_or(0, |body| body.as_bytes().len());
    record.collection.len() + record.key.as_bytes().len() + body + 64
}
