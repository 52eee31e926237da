//! What strangers send, given to what reads it: bytes from the network, from the journal's disk, from settings files, names from a
//! catalog. The targets of `tests/fuzz`; the test here gives them its corpora, and what a few changes make of these.
//!
//! Each takes any bytes. It must not panic, and what it reads must be the same when it is written and read again.

use std::sync::Arc;

use crate::{
    backlog::Generation,
    collections::KeyForm,
    outcomes::{Named, Tickets},
    save::{Accepted, Key, Save, Sequence},
};

/// A target: it takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("chunks", chunks),
    ("identifiers", identifiers),
    ("records", records),
    ("requests", requests),
    ("segments", segments),
    ("settings", settings),
];

/// The journal's framing: one chunk, as it is and with a sound checksum.
pub fn chunks(bytes: &[u8]) {
    crate::journal::fuzzing::chunk(bytes);
}

/// A segment's file as a crash may leave it, whose chunks have sound checksums: audited, and what it carries read.
pub fn segments(bytes: &[u8]) {
    crate::journal::fuzzing::segment(bytes);
}

/// The payload of a chunk: records, one after the other.
pub fn records(bytes: &[u8]) {
    crate::journal::fuzzing::records(bytes);
}

/// A `SaveBatchRequest`: what is valid goes on into the journal and is folded.
pub fn requests(bytes: &[u8]) {
    let saves = crate::grpc::fuzzing::saves(bytes);
    saves.iter().for_each(crate::journal::fuzzing::save);
    let number = |(save, n): (Save, u64)| Accepted { sequence: Sequence::from_u64(n), save };
    let expected = saves.len() as u64;
    let generation = Generation::fold(Sequence::ZERO, Arc::default(), saves.into_iter().zip(1..).map(number));
    assert_eq!(generation.saves, expected);
}

/// Settings of all sources, parted by NUL: a file, then variables and flags.
pub fn settings(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::settings::fuzzing::sources(text);
    }
}

/// What names things: schemas, tables and columns in SQL (parted by NUL), keys, tickets.
pub fn identifiers(bytes: &[u8]) {
    if let Some(key) = Key::from_bytes(bytes) {
        assert_eq!(Key::from_parts(key.parts()), key);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    crate::postgres::fuzzing::names(text);
    ticket(text);
    let labels = vec!["off".to_owned(), "on".to_owned()];
    let plain = [KeyForm::Int2, KeyForm::Int4, KeyForm::Int8, KeyForm::Uuid, KeyForm::Bool, KeyForm::Bytea, KeyForm::Date];
    let others = [KeyForm::Timestamp, KeyForm::TimestampTz, KeyForm::Text { chars_max: Some(20) }, KeyForm::Enum { labels }];
    for form in plain.into_iter().chain(others).chain([KeyForm::Numeric { precision: 12, scale: 3 }]) {
        let Ok(canonical) = form.canonical(text) else { continue };
        assert_eq!(form.canonical(&canonical), Ok(canonical.clone()), "{form:?}: what is canonical stays as it is");
        let json = form.json(&canonical);
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{form:?}: {json} is no JSON");
    }
}

fn ticket(text: &str) {
    let tickets = Tickets::new(uuid::Uuid::from_u128(7), &[7; Tickets::KEY_BYTES]);
    if let Named::Save(ticket) = tickets.read(text) {
        assert_eq!(tickets.read(&tickets.show(ticket)), Named::Save(ticket));
    }
    if let Some(through) = tickets.read_after(text) {
        assert_eq!(tickets.read_after(&tickets.after(through)), Some(through));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The files of a corpus, by name.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files.iter().map(|file| fs::read(file).expect("readable")).collect()
    }

    /// What fuzzers do, without what they learn.
    fn change(bytes: &mut Vec<u8>, other: &[u8], chance: &mut fastrand::Rng) {
        let at = chance.usize(..=bytes.len());
        match chance.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, chance.u8(..)),
            2 => drop(bytes.drain(at..bytes.len().min(at + chance.usize(..9)))),
            3 => drop(bytes.splice(at.., other[chance.usize(..=other.len())..].iter().copied())),
            _ if bytes.is_empty() => {}
            4 => bytes[at.saturating_sub(1)] ^= 1 << chance.u8(..8),
            _ => bytes[at.saturating_sub(1)] = [0, 1, 0x7f, 0x80, 0xff][chance.usize(..5)],
        }
    }

    #[test]
    fn every_target_takes_its_corpus_and_what_changes_make_of_it() {
        for (name, target) in TARGETS {
            let files = corpus(name);
            assert!(files.len() > 2, "{name} has hardly a corpus");
            let mut chance = fastrand::Rng::with_seed(1);
            for file in &files {
                target(file);
                for _ in 0..200 {
                    let mut bytes = file.clone();
                    for _ in 0..chance.usize(1..5) {
                        change(&mut bytes, chance.choice(&files).expect("a file"), &mut chance);
                    }
                    target(&bytes);
                }
            }
        }
    }
}
