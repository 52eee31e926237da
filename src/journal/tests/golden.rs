//! Journals of every format version stay readable.

use super::*;

/// A journal's chunks as hexadecimal lines: `segment value`. sled's own files would be 8 MiB of mostly nothing.
const VERSION_1: &str = include_str!("../../../tests/golden/journal-v1/chunks.hex");

#[tokio::test]
async fn a_journal_of_format_version_1_is_read() {
    let home = tempfile::tempdir().expect("a directory");
    let id = restore(VERSION_1, home.path());
    let journal = open(&settings(home.path()));
    assert_eq!((journal.id(), journal.settled_hint(LANE)), (id, Sequence::from_u64((1 << 40) + 2)));
    let rig = Rig::run(journal, limits());
    let entries = rig.entries().await;
    let origin = crate::save::StreamOrigin { stream_id: *b"0123456789abcdef", offset: 300 };
    assert_eq!(entries.iter().filter_map(|entry| entry.record.origin).collect::<Vec<_>>(), [origin]);
    rig.running.stop().await.expect("a clean end");
    let mut lines = Vec::new();
    export(home.path(), &mut lines).expect("readable");
    assert_eq!(String::from_utf8(lines).expect("text"), include_str!("../../../tests/golden/journal-v1/entries.ndjson"));
}

/// Puts the chunks into fresh stores, and the journal's identity into a fresh ledger.
fn restore(chunks: &str, home: &Path) -> JournalId {
    let mut id = JournalId::default();
    let mut stores: Vec<(u64, store::Store)> = Vec::new();
    for line in chunks.lines() {
        let (segment, value) = line.split_once(' ').expect("a segment and a value");
        let (segment, value) = (segment.parse().expect("a number"), from_hex(value));
        if stores.last().is_none_or(|(open, _)| *open != segment) {
            std::fs::create_dir_all(home.join("segments")).expect("a directory");
            stores.push((segment, store::Store::open(&segment_path(home, segment), 1 << 20).expect("a store")));
        }
        let header = framing::decode(&value).expect("a chunk").header;
        id = header.journal;
        stores.last_mut().expect("just put there").1.put_chunk(header.number, &value).expect("put");
    }
    stores.into_iter().for_each(|(_, store)| store.close().expect("closed"));
    let ledger = Ledger::open(&home.join("ledger")).expect("a ledger");
    ledger.put(recovery::JOURNAL_ID, &id.to_bytes()).expect("put");
    ledger.close().expect("closed");
    id
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |n: usize| u8::from_str_radix(&text[n..n + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}
