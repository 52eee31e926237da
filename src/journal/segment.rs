//! A segment: a row of chunks in a store of its own. Written by one owner, then closed, then only read, then removed whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    JournalId,
    cutter::Cutter,
    framing::{self, Header},
    store::{self, Store, StoreError, Value, sync_directory},
};
use crate::save::{LaneId, Sequence};

/// The last positions that lanes are known to have settled.
pub(super) type Settled = Vec<(LaneId, Sequence)>;

/// What is in a segment, without its saves. Lies beside a closed segment in the file `closed`: nobody writes there any
/// more, everything up to `last_chunk` has been synced, and what lies above doesn't count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub journal: JournalId,
    pub segment: u64,
    pub run: u64,
    pub first_chunk: u64,
    pub last_chunk: u64,
    pub last_checksum: u32,
    /// The last chunk before this segment that counts, and its checksum: the chain between segments.
    pub follows: u64,
    pub follows_checksum: u32,
    /// The last chunk known to be synced when this segment began.
    pub known_synced: u64,
    /// The first sequence that belongs here.
    pub begins: u64,
    /// The last sequence before `begins`.
    pub last_before: u64,
    /// The last sequence here; `last_before` if there is none.
    pub last: u64,
    pub saves: u64,
    pub groups: u64,
    /// Size of the store's file.
    pub bytes: u64,
    pub settled: Vec<(u16, u64)>,
}

/// Where a segment begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    pub journal: JournalId,
    pub segment: u64,
    pub run: u64,
    pub first_chunk: u64,
    pub follows: u64,
    pub follows_checksum: u32,
    pub synced_through: u64,
    pub begins: Sequence,
    pub last_before: Sequence,
}

impl Start {
    /// The summary of a segment that holds its opening at most.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            journal: self.journal,
            segment: self.segment,
            run: self.run,
            first_chunk: self.first_chunk,
            last_chunk: self.first_chunk,
            last_checksum: 0,
            follows: self.follows,
            follows_checksum: self.follows_checksum,
            known_synced: self.synced_through,
            begins: self.begins.get(),
            last_before: self.last_before.get(),
            last: self.last_before.get(),
            saves: 0,
            groups: 0,
            bytes: 0,
            settled: Vec::new(),
        }
    }
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    store: Store,
    cutter: Cutter,
}

impl SegmentWriter {
    /// Writes the opening into an empty store; durable with the next [`SegmentWriter::sync`].
    pub(super) fn open(mut store: Store, start: &Start, carried: u32, settled: &Settled) -> Result<Self, StoreError> {
        let mut cutter = Cutter::new(start);
        cutter.opening(start, carried, settled, |number, value| store.put_chunk(number, value))?;
        Ok(Self { store, cutter })
    }

    /// Writes a group; durable with the next [`SegmentWriter::sync`].
    pub(super) fn put<'a>(
        &mut self,
        first: Sequence,
        saves: u32,
        records: impl Iterator<Item = &'a [u8]> + Clone,
        settled: &Settled,
    ) -> Result<(), StoreError> {
        let Self { store, cutter } = self;
        cutter.group(first, saves, records, settled, |number, value| store.put_chunk(number, value))
    }

    /// Makes everything written durable. Returns how long the device took.
    pub(super) fn sync(&mut self) -> Result<Duration, StoreError> {
        let started = Instant::now();
        self.store.sync()?;
        self.cutter.synced();
        self.cutter.summary.bytes = self.store.bytes()?;
        Ok(started.elapsed())
    }

    /// What it holds.
    pub(super) fn summary(&self) -> &Summary {
        &self.cutter.summary
    }

    /// The start of the segment that goes on after this one.
    pub(super) fn next_start(&self, segment: u64) -> Start {
        self.cutter.next_start(segment)
    }

    /// See [`fetch`].
    pub(super) fn fetch(&self, wanted: &Wanted) -> Result<Vec<Value>, StoreError> {
        fetch(|number| self.store.chunk(number), wanted)
    }

    /// Ends it: the store is closed and marked so.
    pub(super) fn close(self, path: &Path, settled: &Settled) -> Result<Summary, StoreError> {
        let mut summary = self.cutter.summary;
        summary.bytes = self.store.bytes()?;
        summary.settled = settled.iter().map(|(lane, sequence)| (lane.0, sequence.get())).collect();
        self.store.close()?;
        summary.mark(path)?;
        Ok(summary)
    }

    /// Lets every later sync fail, as a broken disk would.
    #[cfg(test)]
    pub(super) fn break_sync(&mut self) {
        self.store.break_sync();
    }

    /// After a failure: not a byte more.
    pub(super) fn abandon(self) {
        self.store.abandon();
    }
}

/// Which chunks of a segment a reader wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub segment: u64,
    /// The segment's opening.
    pub first_chunk: u64,
    pub last_chunk: u64,
    /// The first save wanted.
    pub from: Sequence,
    /// The last one.
    pub through: Sequence,
    /// Groups are given until they weigh so much; one at least.
    pub bytes_max: usize,
}

/// The chunks of whole groups, from the first group that ends at or behind the first save wanted to the last group that begins
/// at or before the last one. `chunk` gives the segment's chunks by their numbers.
pub(super) fn fetch(chunk: impl Fn(u64) -> Result<Option<Value>, StoreError>, wanted: &Wanted) -> Result<Vec<Value>, StoreError> {
    let chunk = |number: u64| chunk(number)?.ok_or(StoreError::Chunk(number));
    let (mut values, mut bytes) = (Vec::new(), 0);
    for number in group_start(chunk, wanted)?..=wanted.last_chunk {
        let value = chunk(number)?;
        let header = header(&value, number)?;
        if header.part == 0 && header.first > wanted.through {
            break;
        }
        bytes += value.len();
        values.push(value);
        if header.part + 1 == header.parts && bytes >= wanted.bytes_max {
            break;
        }
    }
    Ok(values)
}

/// Where that group begins, found by halving: chunk numbers have no gaps and sequences rise.
fn group_start(chunk: impl Fn(u64) -> Result<Value, StoreError>, wanted: &Wanted) -> Result<u64, StoreError> {
    let (mut low, mut high) = (wanted.first_chunk + 1, wanted.last_chunk + 1);
    let mut start = low;
    while low < high {
        let middle = low.midpoint(high);
        let header = header(&chunk(middle)?, middle)?;
        if header.first > wanted.from {
            high = middle;
            continue;
        }
        let group = middle - u64::from(header.part);
        low = group + u64::from(header.parts);
        start = if header.first.plus(u64::from(header.saves)) > wanted.from { group } else { low };
    }
    Ok(start)
}

fn header(value: &[u8], number: u64) -> Result<Header, StoreError> {
    framing::decode(value).map(|chunk| chunk.header).map_err(|_| StoreError::Chunk(number))
}

const CLOSED: &str = "closed";

impl Summary {
    /// Marks the segment in `path` as closed, durably, and gives the room back that it didn't need.
    pub(super) fn mark(&self, path: &Path) -> io::Result<()> {
        store::give_back(path)?;
        let text = serde_json::to_string(self).expect("a summary is JSON");
        let checksum = crc32c::crc32c(text.as_bytes());
        let mut file = create_private(&path.join(CLOSED))?;
        file.write_all(format!("{text}\n{checksum:08x}\n").as_bytes())?;
        file.sync_all()?;
        sync_directory(path)
    }

    /// The mark of the segment in `path`, if there is one that is whole. A torn one is as good as none.
    pub(super) fn read_mark(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path.join(CLOSED)) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some((summary, checksum)) = text.trim_end().split_once('\n') else { return Ok(None) };
        let whole = u32::from_str_radix(checksum, 16) == Ok(crc32c::crc32c(summary.as_bytes()));
        Ok(if whole { serde_json::from_str(summary).ok() } else { None })
    }

    pub(super) fn last(&self) -> Sequence {
        Sequence::from_u64(self.last)
    }

    pub(super) fn positions(&self) -> Settled {
        self.settled.iter().map(|&(lane, sequence)| (LaneId(lane), Sequence::from_u64(sequence))).collect()
    }

    pub(super) fn begins(&self) -> Sequence {
        Sequence::from_u64(self.begins)
    }
}

/// A file that only we may read.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::{super::framing::PAYLOAD_BYTES_MAX, *};

    const CACHE_BYTES: u64 = 1 << 20;

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    /// Groups of two saves each from 1 on, every fourth of them so long that it takes two chunks.
    fn segment(path: &Path, groups: u64) -> SegmentWriter {
        let store = Store::open(path, CACHE_BYTES).expect("a store");
        let mut segment = SegmentWriter::open(store, &Start { begins: seq(1), ..Start::default() }, 0, &Settled::new()).expect("opened");
        for group in 0..groups {
            let record = vec![7; if group % 4 == 3 { PAYLOAD_BYTES_MAX + 1 } else { 100 }];
            segment.put(seq(2 * group + 1), 2, [&record[..]].into_iter(), &Settled::new()).expect("written");
        }
        segment
    }

    #[test]
    fn a_read_of_one_save_fetches_its_group_alone() {
        let home = tempfile::tempdir().expect("a directory");
        let segment = segment(&home.path().join("segment"), 12);
        let (first_chunk, last_chunk) = (segment.summary().first_chunk, segment.summary().last_chunk);
        let firsts = |from, through| {
            let wanted = Wanted { segment: 0, first_chunk, last_chunk, from: seq(from), through: seq(through), bytes_max: usize::MAX };
            let values = segment.fetch(&wanted).expect("fetched");
            values.iter().map(|value| header(value, 0).expect("a chunk").first.get()).collect::<Vec<_>>()
        };
        assert_eq!((firsts(1, 1), firsts(10, 10), firsts(24, 24)), (vec![1], vec![9], vec![23, 23]));
        assert_eq!(firsts(8, 8), [7, 7], "a group is fetched whole");
        assert_eq!(firsts(4, 9), [3, 5, 7, 7, 9]);
        assert_eq!(firsts(1, u64::MAX >> 1).len(), 15);
    }
}
