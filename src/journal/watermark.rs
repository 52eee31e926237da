//! The watermark: how far the journal and its ledger were synced, written outside the store. A witness against a disk that lied: if
//! either comes back shorter than this, something that was acknowledged is gone, and the daemon says so.
//!
//! A file of two slots, a sector or more apart, written in turn; each is: magic "FBWM", format version u32, journal id
//! (16), turn u64, run u64, chunk u64, sequence u64, removed u64, ledger u64, CRC32C; little-endian. Written about once a second, and
//! when a segment is closed or removed: it may lie behind, never ahead.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use super::{JournalId, segment::create_private};
use crate::save::Sequence;

const MAGIC: &[u8; 4] = b"FBWM";
const VERSION: u32 = 2;
const SLOT_BYTES: usize = 76;
const SLOT_STRIDE: u64 = 4096;

/// How far a journal was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub journal: JournalId,
    pub run: u64,
    pub chunk: u64,
    pub sequence: Sequence,
    /// Saves up to here were drained and may have been removed; written before they are.
    pub removed: Sequence,
    /// What the ledger had [counted](super::Ledger::count).
    pub ledger: u64,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    turn: u64,
    written: Option<Mark>,
}

impl Watermark {
    /// Opens the file to go on writing, or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let newest = newest(path)?;
        let file = match &newest {
            Some(_) => File::options().read(true).write(true).open(path)?,
            None => create_private(path)?,
        };
        Ok(Self { file, turn: newest.map_or(0, |(turn, _)| turn + 1), written: None })
    }

    /// Writes the mark and syncs it, if it is news.
    pub(super) fn write(&mut self, mark: Mark) -> io::Result<()> {
        if self.written == Some(mark) {
            return Ok(());
        }
        self.file.write_all_at(&to_bytes(self.turn, &mark), self.turn % 2 * SLOT_STRIDE)?;
        self.file.sync_all()?;
        self.turn += 1;
        self.written = Some(mark);
        Ok(())
    }
}

/// The newest mark that is whole.
pub(super) fn read(path: &Path) -> io::Result<Option<Mark>> {
    Ok(newest(path)?.map(|(_, mark)| mark))
}

fn newest(path: &Path) -> io::Result<Option<(u64, Mark)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let slots = [0, SLOT_STRIDE as usize].into_iter().filter_map(|at| from_bytes(bytes.get(at..at + SLOT_BYTES)?));
    Ok(slots.max_by_key(|&(turn, _)| turn))
}

fn to_bytes(turn: u64, mark: &Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..24].copy_from_slice(&mark.journal.to_bytes());
    for (n, number) in [turn, mark.run, mark.chunk, mark.sequence.get(), mark.removed.get(), mark.ledger].into_iter().enumerate() {
        bytes[24 + n * 8..32 + n * 8].copy_from_slice(&number.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[..SLOT_BYTES - 4]);
    bytes[SLOT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn from_bytes(bytes: &[u8]) -> Option<(u64, Mark)> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    let sound = u32::from_le_bytes(*checksum) == crc32c::crc32c(content);
    if !sound || !content.starts_with(MAGIC) || content[4..8] != VERSION.to_le_bytes() {
        return None;
    }
    let number = |n: usize| Some(u64::from_le_bytes(content[24 + n * 8..].first_chunk::<8>().copied()?));
    let journal = JournalId::from_bytes(content[8..].first_chunk::<16>().copied()?);
    let (sequence, removed) = (Sequence::from_u64(number(3)?), Sequence::from_u64(number(4)?));
    Some((number(0)?, Mark { journal, run: number(1)?, chunk: number(2)?, sequence, removed, ledger: number(5)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(chunk: u64) -> Mark {
        let (sequence, removed) = (Sequence::from_u64(chunk * 10), Sequence::from_u64(chunk));
        Mark { journal: JournalId::from_bytes([1; 16]), run: 2, chunk, sequence, removed, ledger: chunk * 3 }
    }

    #[test]
    fn the_newest_mark_survives_a_torn_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watermark");
        assert_eq!(read(&path).expect("readable"), None);
        for chunk in 1..4 {
            let mut watermark = Watermark::open(&path).expect("a file");
            watermark.write(mark(chunk)).expect("written");
            assert_eq!(read(&path).expect("readable"), Some(mark(chunk)));
        }
        let file = File::options().write(true).open(&path).expect("a file");
        file.write_all_at(&[9], 40).expect("torn");
        assert_eq!(read(&path).expect("readable"), Some(mark(2)), "the older slot is whole");
    }
}
