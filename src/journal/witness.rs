//! What really is on disk: finds the chunks in sled's file without sled.
//!
//! sled repairs when it opens, and its repair ends at the first message that it can't read: what lies behind it is
//! zeroed, acknowledged or not. So a segment that was not closed in order is looked at first, as it is, without a single
//! write: chunks stand in sled's file as they were put (no compression, no blobs), they begin with a magic number that is in
//! no text, and carry their length and checksum. The same eyes serve `verify`, `export` and `salvage`.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{
    framing::{self, FramingError, Header, MAGIC, Opening, VALUE_BYTES_MAX},
    store::{StoreError, Value},
};
use crate::save::{LaneId, Sequence};

/// How much of the file is looked at in one go.
const BLOCK_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4096;

/// One chunk seen.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub header: Header,
    pub settled: Vec<(LaneId, Sequence)>,
    pub opening: Option<Opening>,
    pub checksum: u32,
    at: u64,
    length: usize,
}

/// Every chunk of one segment that is on disk, by number.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    pub chunks: BTreeMap<u64, Sighting>,
    /// The format version of a chunk that this version can't read.
    pub later_version: Option<u8>,
    /// Chunks of other segments or journals: they have no business here.
    pub strangers: u64,
}

impl Witness {
    /// Looks at the segment in `path`. A segment without a file holds nothing.
    pub(super) fn look(path: &Path, segment: u64) -> io::Result<Option<Self>> {
        let file = match File::open(path.join("db")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::of(file, segment).map(Some)
    }

    /// Looks at the file of the segment of this number.
    pub(super) fn of(file: File, segment: u64) -> io::Result<Self> {
        let mut witness = Self { file, chunks: BTreeMap::new(), later_version: None, strangers: 0 };
        witness.scan(segment)?;
        Ok(witness)
    }

    fn scan(&mut self, segment: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut block = vec![0; BLOCK_BYTES + VALUE_BYTES_MAX];
        let mut at = 0;
        while at < length {
            let filled = read_up_to(&self.file, &mut block, at)?;
            let mut seen = 0;
            while let Some(found) = find_magic(&block[..filled], seen).filter(|&found| found < BLOCK_BYTES) {
                seen = found + self.note(&block[found..filled], at + found as u64, segment);
            }
            at += seen.max(BLOCK_BYTES) as u64;
        }
        Ok(())
    }

    /// Notes the chunk that may begin here; returns how far to go on.
    fn note(&mut self, bytes: &[u8], at: u64, segment: u64) -> usize {
        let Some(value) = framing::length(bytes).and_then(|length| bytes.get(..length)) else { return 1 };
        let chunk = match framing::decode(value) {
            Ok(chunk) => chunk,
            Err(FramingError::Version(version)) => {
                self.later_version = Some(version);
                return value.len();
            }
            Err(_) => return 1,
        };
        if chunk.header.segment != segment {
            self.strangers += 1;
            return value.len();
        }
        let opening = if chunk.header.kind == framing::Kind::Opening { Opening::from_bytes(chunk.payload).ok() } else { None };
        let sighting =
            Sighting { opening, settled: chunk.settled, checksum: chunk.checksum, at, length: value.len(), header: chunk.header };
        // sled writes a value again when it consolidates a leaf: the copies are equal.
        self.chunks.entry(sighting.header.number).or_insert(sighting);
        value.len()
    }

    /// The value of a chunk seen.
    pub(super) fn value(&self, number: u64) -> io::Result<Vec<u8>> {
        let sighting = self.chunks.get(&number).ok_or_else(|| io::Error::other(format!("chunk {number} was not seen")))?;
        let mut value = vec![0; sighting.length];
        self.file.read_exact_at(&mut value, sighting.at)?;
        Ok(value)
    }

    /// The chunk of this number, if it was seen.
    pub(super) fn chunk(&self, number: u64) -> Result<Option<Value>, StoreError> {
        let seen = self.chunks.contains_key(&number);
        Ok(if seen { Some(self.value(number)?.into()) } else { None })
    }

    /// Size of the file.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Where the magic number stands next. Zeroed stretches are long, so a page without its first byte is passed at once.
fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        let page = &bytes[at..bytes.len().min(at + PAGE_BYTES)];
        if page.contains(&MAGIC[0]) {
            let found = page.iter().enumerate().find(|&(n, &byte)| byte == MAGIC[0] && bytes[at + n..].starts_with(&MAGIC));
            if let Some((n, _)) = found {
                return Some(at + n);
            }
        }
        at += page.len();
    }
    None
}
