//! What the journal reads from its disk, given any bytes.

use std::{fs::File, io::Write};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{
    audit::{self, Found},
    framing::{self, LANES_MAX, Opening},
    group::Assembler,
    record::{self, Record},
    recovery::read_group,
    witness::Witness,
};
use crate::save::{Added, CollectionId, ColumnSet, Save};

/// A chunk as it is, and as it would be if it had been written so.
pub(crate) fn chunk(bytes: &[u8]) {
    check_chunk(bytes);
    if bytes.len() > framing::MAGIC.len() + 8 {
        let mut sealed = bytes.to_vec();
        framing::seal(&mut sealed);
        check_chunk(&sealed);
    }
}

fn check_chunk(value: &[u8]) {
    let Ok(chunk) = framing::decode(value) else { return };
    let _ = Opening::from_bytes(chunk.payload);
    let _ = Assembler::default().add(value);
    if chunk.settled.len() <= LANES_MAX {
        let mut again = Vec::new();
        framing::begin(&chunk.header, &chunk.settled, &mut again);
        again.extend_from_slice(chunk.payload);
        framing::seal(&mut again);
        assert_eq!(again, value);
    }
}

/// A segment that was not closed.
pub(crate) fn segment(bytes: &[u8]) {
    let mut image = bytes.to_vec();
    let segment = seal_chunks(&mut image).unwrap_or(1);
    let mut file = File::from(memfd_create("segment", MemfdFlags::CLOEXEC).expect("a file of memory"));
    file.write_all(&image).expect("written");
    let found = [Found::Open(segment, Some(Witness::of(file, segment).expect("readable")))];
    let Ok(plan) = audit::judge(&found, None) else { return };
    let report = plan.report();
    assert!(report.is_sound());
    let Found::Open(_, Some(witness)) = &found[0] else { unreachable!("it was put there") };
    for span in &plan.carried {
        let group = read_group(witness, span.first_chunk, span.last_chunk).expect("what is carried is whole");
        assert_eq!((group.first, group.saves), (span.first, span.saves));
        group.entries().take_while(Result::is_ok).for_each(drop);
    }
}

/// Gives every chunk of an image the checksum that it needs; the segment of the first.
fn seal_chunks(image: &mut [u8]) -> Option<u64> {
    let (mut at, mut segment) = (0, None);
    while at < image.len() {
        let Some(length) = framing::length(&image[at..]).filter(|length| at + length <= image.len()) else {
            at += 1;
            continue;
        };
        let (content, checksum) = image[at..at + length].split_last_chunk_mut::<4>().expect("a chunk is longer");
        *checksum = crc32c::crc32c(content).to_le_bytes();
        segment = segment.or_else(|| Some(framing::decode(&image[at..at + length]).ok()?.header.segment));
        at += length;
    }
    segment
}

/// Records, one after the other.
pub(crate) fn records(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(record) = record::decode(&mut rest) {
        // As many members are added as the body has, but a record is not held against its body.
        if record.adds <= 1_000 {
            let (save, collection) = save_of(record.clone());
            assert_eq!(written_and_read(&save, &collection), record);
        }
    }
}

/// A save that the front door has let through.
pub(crate) fn save(save: &Save) {
    let collection = "a collection";
    let record = written_and_read(save, collection);
    assert_eq!((record.lane, &*record.collection, &record.key, &record.change), (save.lane, collection, &save.key, &save.change));
    assert_eq!((record.adds, record.batch_left), (save.adds.len(), save.batch_left));
}

fn written_and_read(save: &Save, collection: &str) -> Record {
    let mut written = Vec::new();
    record::encode(save, collection, &mut written);
    let mut rest = &written[..];
    let record = record::decode(&mut rest).expect("what was written can be read");
    assert!(rest.is_empty());
    record
}

fn save_of(record: Record) -> (Save, String) {
    let Record { lane, collection, key, change, adds, batch_left, origin, request_id, accepted_at, retries, callback } = record;
    let adds = (0..adds).map(|_| Added { column: 0, form: None }).collect();
    let save = Save {
        lane,
        collection: CollectionId(0),
        key,
        change,
        columns: ColumnSet::default(),
        adds,
        version: None,
        batch_left,
        origin,
        request_id,
        accepted_at,
        retries,
        callback,
    };
    (save, collection)
}
