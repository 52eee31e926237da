//! A chunk: the value that the store holds under one key, and all that recovery may rely on.
//!
//! The key is the chunk's number, big-endian. Numbers rise over all segments; inside a segment there are no gaps. Numbers in
//! the value are little-endian.
//!
//! | at | bytes | field           |                                                                                     |
//! |----|-------|-----------------|-------------------------------------------------------------------------------------|
//! | 0  | 4     | magic           | `FB` and "FBJ"; the byte FB is in no UTF-8 text, so no save can look like a chunk     |
//! | 4  | 1     | format version  | 1                                                                                   |
//! | 5  | 1     | kind            | 0 opening, 1 group                                                                  |
//! | 6  | 2     | lanes           | how many settled positions follow the header                                        |
//! | 8  | 4     | length          | of the whole value                                                                  |
//! | 12 | 16    | journal id      |                                                                                     |
//! | 28 | 8     | run             | the start of the daemon that wrote it                                               |
//! | 36 | 8     | segment         |                                                                                     |
//! | 44 | 8     | number          | of this chunk; equals the key                                                       |
//! | 52 | 4     | part            | of its group, from 0                                                                |
//! | 56 | 4     | parts           | of its group                                                                        |
//! | 60 | 8     | first           | sequence of the group's first save; of an opening: `begins`                         |
//! | 68 | 4     | saves           | in the group                                                                        |
//! | 72 | 8     | synced through  | the last chunk that was known to be synced when this one was written                |
//! | 80 | 4     | previous        | checksum of the chunk before: the chain                                             |
//! | 84 | 10·n  | settled         | (lane u16, sequence u64) per lane, in a group's first chunk: a hint                 |
//! |    |       | payload         | a slice of the group's records, see [`record`](super::record)                       |
//! |    | 4     | checksum        | CRC32C of everything before                                                         |
//!
//! A segment's first chunk is its opening; its payload is (all little-endian): carried groups u32, `follows` u64, the last
//! sequence before `begins` u64. `follows` is the last chunk of earlier segments that counts: what they hold above it is
//! superseded. Magic, length and checksum stay where they are in every later version.

use super::JournalId;
use crate::save::{LaneId, Sequence};

pub(super) const FORMAT_VERSION: u8 = 1;
pub(super) const MAGIC: [u8; 4] = [0xFB, b'F', b'B', b'J'];
/// Payload of one chunk. Even a leaf of 26 such values (16 and 10 pending) would stay below the 2 MiB that make sled write blobs.
pub(super) const PAYLOAD_BYTES_MAX: usize = 56 << 10;
const HEADER_BYTES: usize = 84;
const LANE_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 4;
const LENGTH_AT: usize = 8;
/// The longest value: 65,535 lanes would not fit, the settings allow fewer by far.
pub(super) const VALUE_BYTES_MAX: usize = HEADER_BYTES + LANES_MAX * LANE_BYTES + PAYLOAD_BYTES_MAX + CHECKSUM_BYTES;
/// Settled positions in one chunk.
pub(super) const LANES_MAX: usize = 256;

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Opening,
    Group,
}

/// A chunk's fixed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub journal: JournalId,
    pub run: u64,
    pub segment: u64,
    pub number: u64,
    pub part: u32,
    pub parts: u32,
    pub first: Sequence,
    pub saves: u32,
    pub synced_through: u64,
    pub previous: u32,
}

/// A chunk, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub header: Header,
    pub settled: Vec<(LaneId, Sequence)>,
    pub payload: &'a [u8],
    pub checksum: u32,
}

/// The payload of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// Groups of earlier segments that are written here again, right after the opening.
    pub carried: u32,
    /// The last chunk of earlier segments that counts; 0 if none does.
    pub follows: u64,
    /// The last sequence that earlier segments hold below `begins`.
    pub last_before: Sequence,
}

/// Bytes that are no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    #[error("is no chunk")]
    NotAChunk,
    #[error("fails its checksum")]
    Checksum,
    #[error("has format version {0}: a later Forebay wrote it")]
    Version(u8),
    #[error("contradicts itself")]
    Contradiction,
}

/// Starts a value in `buffer`; the caller adds the payload and calls [`seal`].
pub(super) fn begin(header: &Header, settled: &[(LaneId, Sequence)], buffer: &mut Vec<u8>) {
    let settled = &settled[..settled.len().min(LANES_MAX)];
    buffer.clear();
    buffer.extend_from_slice(&MAGIC);
    buffer.push(FORMAT_VERSION);
    buffer.push(match header.kind {
        Kind::Opening => 0,
        Kind::Group => 1,
    });
    buffer.extend_from_slice(&(settled.len() as u16).to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&header.journal.to_bytes());
    for number in [header.run, header.segment, header.number] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    buffer.extend_from_slice(&header.part.to_le_bytes());
    buffer.extend_from_slice(&header.parts.to_le_bytes());
    buffer.extend_from_slice(&header.first.get().to_le_bytes());
    buffer.extend_from_slice(&header.saves.to_le_bytes());
    buffer.extend_from_slice(&header.synced_through.to_le_bytes());
    buffer.extend_from_slice(&header.previous.to_le_bytes());
    for (lane, sequence) in settled {
        buffer.extend_from_slice(&lane.0.to_le_bytes());
        buffer.extend_from_slice(&sequence.get().to_le_bytes());
    }
}

/// Ends a value: writes its length and its checksum, which is returned.
pub(super) fn seal(buffer: &mut Vec<u8>) -> u32 {
    let length = u32::try_from(buffer.len() + CHECKSUM_BYTES).expect("a chunk is small");
    buffer[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(buffer);
    buffer.extend_from_slice(&checksum.to_le_bytes());
    checksum
}

/// The length of the value that begins with `bytes`, if they begin like one.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    let length = u32_at(bytes, LENGTH_AT) as usize;
    let fits = (HEADER_BYTES + CHECKSUM_BYTES..=VALUE_BYTES_MAX).contains(&length);
    (bytes.starts_with(&MAGIC) && fits).then_some(length)
}

/// Reads a value and checks all of it.
pub(super) fn decode(value: &[u8]) -> Result<Chunk<'_>, FramingError> {
    if length(value) != Some(value.len()) {
        return Err(FramingError::NotAChunk);
    }
    let (content, checksum) = value.split_at(value.len() - CHECKSUM_BYTES);
    let checksum = u32_at(checksum, 0);
    if crc32c::crc32c(content) != checksum {
        return Err(FramingError::Checksum);
    }
    if content[4] != FORMAT_VERSION {
        return Err(FramingError::Version(content[4]));
    }
    let header = read_header(content)?;
    let lanes = usize::from(u16::from_le_bytes([content[6], content[7]]));
    let (settled, payload) = content[HEADER_BYTES..].split_at_checked(lanes * LANE_BYTES).ok_or(FramingError::Contradiction)?;
    let settled = settled.chunks_exact(LANE_BYTES).map(|lane| {
        let number = u16::from_le_bytes([lane[0], lane[1]]);
        (LaneId(number), Sequence::from_u64(u64_at(lane, 2)))
    });
    Ok(Chunk { header, settled: settled.collect(), payload, checksum })
}

fn read_header(content: &[u8]) -> Result<Header, FramingError> {
    let kind = match content[5] {
        0 => Kind::Opening,
        1 => Kind::Group,
        _ => return Err(FramingError::Contradiction),
    };
    let header = Header {
        kind,
        journal: JournalId::from_bytes(content[12..28].try_into().expect("16 bytes")),
        run: u64_at(content, 28),
        segment: u64_at(content, 36),
        number: u64_at(content, 44),
        part: u32_at(content, 52),
        parts: u32_at(content, 56),
        first: Sequence::from_u64(u64_at(content, 60)),
        saves: u32_at(content, 68),
        synced_through: u64_at(content, 72),
        previous: u32_at(content, 80),
    };
    let sound =
        header.part < header.parts && header.synced_through < header.number && header.number.max(header.first.get()) < u64::MAX >> 1;
    if sound { Ok(header) } else { Err(FramingError::Contradiction) }
}

impl Opening {
    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.carried.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.follows.to_le_bytes());
        bytes[12..].copy_from_slice(&self.last_before.get().to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, FramingError> {
        let bytes: &[u8; 20] = bytes.try_into().map_err(|_| FramingError::Contradiction)?;
        let last_before = Sequence::from_u64(u64_at(bytes, 12));
        Ok(Self { carried: u32_at(bytes, 0), follows: u64_at(bytes, 4), last_before })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Group,
            journal: JournalId::from_bytes([7; 16]),
            run: 3,
            segment: 4,
            number: 17,
            part: 1,
            parts: 2,
            first: Sequence::from_u64(99),
            saves: 5,
            synced_through: 15,
            previous: 0xdead_beef,
        }
    }

    fn value(payload: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        begin(&header(), &[(LaneId(0), Sequence::from_u64(12))], &mut buffer);
        buffer.extend_from_slice(payload);
        seal(&mut buffer);
        buffer
    }

    #[test]
    fn a_chunk_comes_back_as_it_went_in() {
        let value = value(b"payload");
        let chunk = decode(&value).expect("a chunk");
        assert_eq!(chunk.header, header());
        assert_eq!(chunk.settled, [(LaneId(0), Sequence::from_u64(12))]);
        assert_eq!(chunk.payload, b"payload");
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut value = value(b"payload");
        value[4] = 2;
        value.truncate(value.len() - CHECKSUM_BYTES);
        seal(&mut value);
        assert_eq!(decode(&value), Err(FramingError::Version(2)));
    }

    proptest! {
        #[test]
        fn every_single_changed_byte_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, by in 1u8..) {
            let mut value = value(&payload);
            let at = at.index(value.len());
            value[at] ^= by;
            prop_assert!(decode(&value).is_err());
        }

        #[test]
        fn sealed_nonsense_is_read_without_panic(mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES..300), kind in 0u8..3, lanes in 0u16..30) {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = FORMAT_VERSION;
            bytes[5] = kind;
            bytes[6..8].copy_from_slice(&lanes.to_le_bytes());
            seal(&mut bytes);
            if let Ok(chunk) = decode(&bytes) {
                let _ = Opening::from_bytes(chunk.payload);
            }
            let _ = decode(&bytes[..bytes.len() - 1]);
        }
    }
}
