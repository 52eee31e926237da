//! The ledger: small durable state beside the segments (run number, owner tokens, the cached catalog).
//!
//! Each key has a head; a value that is too long for it lies in parts of its own, written and synced before the head that
//! names them. So a key holds its old value or its new one, never a mixture, and no value comes near the size that makes sled
//! write blobs.
//!
//! | key                                             | value                                                             |
//! |-------------------------------------------------|-------------------------------------------------------------------|
//! | "h" key                                         | format version u8, turn u64, length u64, CRC32C of the value, then the value itself if it is short |
//! | "p" length of the key u16, key, turn u64, n u32 | a part of a long value                                            |
//! | "n"                                             | how many times anything was put or removed, u64                   |
//!
//! The count goes up with every such call, under the same sync. The [watermark](super::watermark) knows it too: a ledger that comes
//! back with fewer has lost its newest values, however sound the rest is (to sled damage at the end is a write that a crash cut short).
//!
//! Numbers in keys are big-endian, so that parts come in order; in values little-endian.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    shared::Shared,
    store::{Store, StoreError, sync_directory},
};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + 8 + 4;
const PART_BYTES_MAX: usize = 32 << 10;
const KEY_BYTES_MAX: usize = 1 << 10;
/// The longest value. The catalog of a thousand tables takes a few MiB.
const VALUE_BYTES_MAX: usize = 64 << 20;
const COUNT_KEY: &[u8] = b"n";
const CACHE_BYTES: u64 = 4 << 20;

/// A handle on the ledger. Calls block; what they have written is synced when they return.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// `None` once closed.
    store: Option<Store>,
    failed: Option<String>,
    /// The journal that accepts, once it does: it fails with its ledger (P8).
    journal: Option<Arc<Shared>>,
}

/// Why the ledger did not do as told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The journal has been stopped.
    #[error("the journal is stopped")]
    Stopped,
    /// The store failed; nothing is written any more (P8).
    #[error("the ledger failed: {0}")]
    Failed(String),
    /// A value fails its checksum.
    #[error("the ledger's value of {0:?} is damaged")]
    Damaged(String),
    /// A key or a value is longer than a ledger is for.
    #[error("{0:?} or its value is too long for the ledger")]
    TooLong(String),
}

impl Ledger {
    /// Opens the ledger, or begins one: under another name first, because sled can't open what it was interrupted in making. A name
    /// that the next start sweeps.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            let (home, unborn) = (path.parent().expect("a ledger lies in the journal's directory"), path.with_file_name(".trash-ledger"));
            Store::open(&unborn, CACHE_BYTES)?.close()?;
            fs::rename(&unborn, path)?;
            sync_directory(home)?;
        }
        let store = Some(Store::open(path, CACHE_BYTES)?);
        Ok(Self(Arc::new(Mutex::new(Inner { store, failed: None, journal: None }))))
    }

    /// From now on a journal accepts: if the ledger fails, nothing is acknowledged any more.
    pub(super) fn is_of(&self, journal: &Arc<Shared>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).journal = Some(Arc::clone(journal));
    }

    /// Puts a value, durable when this returns.
    ///
    /// # Errors
    /// See [`LedgerError`]; after [`LedgerError::Failed`] the key holds its old value or this one.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), LedgerError> {
        self.put_all([(key, value)])
    }

    /// Puts many values under one sync (a second one if any is long), durable when this returns. A crash may leave some of them.
    ///
    /// # Errors
    /// See [`LedgerError`]; after [`LedgerError::Failed`] each key holds its old value or its new one.
    pub fn put_all<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), LedgerError> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        if let Some((key, _)) = pairs.iter().find(|(key, value)| key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX) {
            return Err(LedgerError::TooLong((*key).to_owned()));
        }
        self.with(|store| {
            let mut turns = Vec::with_capacity(pairs.len());
            let mut synced = true;
            for (key, value) in &pairs {
                let turn = put_parts(store, key, value)?;
                synced &= value.len() <= PART_BYTES_MAX;
                turns.push(turn);
            }
            if !synced {
                store.sync()?;
            }
            for ((key, value), &turn) in pairs.iter().zip(&turns) {
                store.put(&head_key(key), &Head::bytes(turn, value))?;
            }
            sync_counted(store)?;
            pairs.iter().zip(turns).try_for_each(|((key, _), turn)| remove_parts(store, key, Some(turn)))
        })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let found = self.with(|store| Head::read(store, key)?.map(|head| head.value(store, key)).transpose())?;
        found.map(|value| value.ok_or_else(|| LedgerError::Damaged(key.to_owned()))).transpose()
    }

    /// Removes keys, durably when this returns.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn remove<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Result<(), LedgerError> {
        let keys: Vec<_> = keys.into_iter().collect();
        self.with(|store| {
            keys.iter().try_for_each(|key| store.remove(&head_key(key)))?;
            sync_counted(store)?;
            keys.iter().try_for_each(|key| remove_parts(store, key, None))
        })
    }

    /// Every key that begins with `prefix` and its value, by key.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let heads = self.with(|store| store.scan(&head_key(prefix)))?;
        let mut pairs = Vec::with_capacity(heads.len());
        for (head, _) in heads {
            let key = String::from_utf8_lossy(&head[1..]).into_owned();
            if let Some(value) = self.get(&key)? {
                pairs.push((key, value));
            }
        }
        Ok(pairs)
    }

    /// How many times anything was put or removed, durably.
    ///
    /// # Errors
    /// See [`LedgerError`].
    pub(super) fn count(&self) -> Result<u64, LedgerError> {
        self.with(count)
    }

    /// Closes the store, so that the directory is free; later calls are refused.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner).store.take();
        store.map_or(Ok(()), Store::close)
    }

    /// Lets every later sync fail, as a broken disk would.
    #[cfg(test)]
    pub(super) fn break_sync(&self) {
        let mut inner = self.0.lock().expect("no test panics while it holds the ledger");
        inner.store.as_mut().expect("an open ledger").break_sync();
    }

    fn with<T>(&self, act: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, LedgerError> {
        let mut inner = self.0.lock().map_err(|_| LedgerError::Failed("a call panicked".to_owned()))?;
        if let Some(failed) = &inner.failed {
            return Err(LedgerError::Failed(failed.clone()));
        }
        let store = inner.store.as_ref().ok_or(LedgerError::Stopped)?;
        let error = match act(store) {
            Ok(done) => return Ok(done),
            Err(error) => error.to_string(),
        };
        inner.failed = Some(error.clone());
        let journal = inner.journal.clone();
        drop(inner);
        if let Some(journal) = journal {
            journal.fail(format!("write the ledger: {error}"));
        }
        Err(LedgerError::Failed(error))
    }
}

fn count(store: &Store) -> Result<u64, StoreError> {
    let bytes = store.get(COUNT_KEY)?;
    Ok(bytes.and_then(|bytes| Some(u64::from_le_bytes(bytes.first_chunk().copied()?))).unwrap_or(0))
}

/// Counts once more, and syncs.
fn sync_counted(store: &Store) -> Result<(), StoreError> {
    store.put(COUNT_KEY, &(count(store)? + 1).to_le_bytes())?;
    store.sync()
}

/// What stands under a head.
struct Head {
    turn: u64,
    length: usize,
    checksum: u32,
    inline: Vec<u8>,
}

impl Head {
    fn read(store: &Store, key: &str) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = store.get(&head_key(key))? else { return Ok(None) };
        // What is no head reads as one of an impossible value: damaged, not missing.
        let mut head = Self { turn: 0, length: usize::MAX, checksum: 0, inline: Vec::new() };
        if bytes.len() >= HEAD_BYTES && bytes[0] == VERSION {
            head.turn = u64::from_le_bytes(bytes[1..9].try_into().expect("8 bytes"));
            head.length = u64::from_le_bytes(bytes[9..17].try_into().expect("8 bytes")) as usize;
            head.checksum = u32::from_le_bytes(bytes[17..21].try_into().expect("4 bytes"));
            head.inline = bytes[HEAD_BYTES..].to_vec();
        }
        Ok(Some(head))
    }

    fn bytes(turn: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&turn.to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
        if value.len() <= PART_BYTES_MAX {
            bytes.extend_from_slice(value);
        }
        bytes
    }

    /// The whole value; `None` if it is damaged.
    fn value(self, store: &Store, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut value = self.inline;
        if value.len() != self.length {
            for (_, part) in store.scan(&parts_prefix(key, Some(self.turn)))? {
                value.extend_from_slice(&part);
            }
        }
        Ok((value.len() == self.length && crc32c::crc32c(&value) == self.checksum).then_some(value))
    }
}

/// Puts the parts of a value that is long, for a head that is put after the next sync; gives the value's turn.
fn put_parts(store: &Store, key: &str, value: &[u8]) -> Result<u64, StoreError> {
    let before = Head::read(store, key)?.map(|head| head.turn);
    // Parts of a put that a crash has cut short would be taken for ours.
    remove_parts(store, key, before)?;
    let turn = before.map_or(0, |turn| turn + 1);
    let parts = if value.len() > PART_BYTES_MAX { value } else { &[] };
    for (n, part) in parts.chunks(PART_BYTES_MAX).enumerate() {
        store.put(&part_key(key, turn, n as u32), part)?;
    }
    Ok(turn)
}

/// Removes the parts of a key that belong to another turn: of the value before, or of a `put` that a crash has cut short.
fn remove_parts(store: &Store, key: &str, keep: Option<u64>) -> Result<(), StoreError> {
    let kept = keep.map(|turn| parts_prefix(key, Some(turn)));
    let parts = store.scan(&parts_prefix(key, None))?;
    for (part, _) in parts.iter().filter(|(part, _)| kept.as_ref().is_none_or(|kept| !part.starts_with(kept))) {
        store.remove(part)?;
    }
    Ok(())
}

fn head_key(key: &str) -> Vec<u8> {
    [b"h", key.as_bytes()].concat()
}

fn parts_prefix(key: &str, turn: Option<u64>) -> Vec<u8> {
    let length = u16::try_from(key.len()).expect("a key is short");
    let mut bytes = [b"p", &length.to_be_bytes()[..], key.as_bytes()].concat();
    bytes.extend(turn.iter().flat_map(|turn| turn.to_be_bytes()));
    bytes
}

fn part_key(key: &str, turn: u64, n: u32) -> Vec<u8> {
    let mut bytes = parts_prefix(key, Some(turn));
    bytes.extend_from_slice(&n.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_size_come_back_after_reopening() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let long: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
        let ledger = Ledger::open(&path).expect("a ledger");
        for value in [&b"short"[..], &long, &long[..PART_BYTES_MAX], &long[..PART_BYTES_MAX + 1], b"", &long] {
            ledger.put("catalog", value).expect("put");
            assert_eq!(ledger.get("catalog").expect("read").as_deref(), Some(value));
        }
        ledger.put("catalog.other", b"other").expect("put");
        ledger.close().expect("closed");
        assert_eq!(ledger.get("catalog"), Err(LedgerError::Stopped));
        let ledger = Ledger::open(&path).expect("a ledger");
        let all = ledger.scan("cat").expect("read");
        assert_eq!(all, [("catalog".to_owned(), long), ("catalog.other".to_owned(), b"other".to_vec())]);
        ledger.remove(["catalog"]).expect("removed");
        assert_eq!(ledger.get("catalog"), Ok(None));
        let left = ledger.with(|store| store.scan(b"p")).expect("read");
        assert!(left.is_empty(), "no part of a removed value stays");
        assert_eq!(std::fs::read_dir(path.join("blobs")).expect("a directory").count(), 0, "blobs are never synced");
    }

    #[test]
    fn many_values_go_in_and_out_together() {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&directory.path().join("ledger")).expect("a ledger");
        let long = vec![5; PART_BYTES_MAX + 1];
        ledger.put_all([("waits/1", &b"one"[..]), ("waits/2", &long), ("waits/3", b"three")]).expect("put");
        ledger.put_all([("waits/3", &b"again"[..])]).expect("put");
        let all = ledger.scan("waits/").expect("read");
        let expected = [("waits/1", b"one".to_vec()), ("waits/2", long), ("waits/3", b"again".to_vec())];
        assert_eq!(all, expected.map(|(key, value)| (key.to_owned(), value)));
        ledger.remove(["waits/1", "waits/2"]).expect("removed");
        assert_eq!(ledger.scan("waits/").expect("read").len(), 1);
        let parts = ledger.with(|store| store.scan(b"p")).expect("read");
        assert!(parts.is_empty(), "no part of a removed value stays");
    }

    #[test]
    fn a_put_cut_short_leaves_the_old_value() {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&directory.path().join("ledger")).expect("a ledger");
        let (old, new) = (vec![1; 100_000], vec![2; 50_000]);
        ledger.put("key", &old).expect("put");
        for n in 0..9 {
            ledger
                .with(|store| store.put(&part_key("key", 1, n), &[3; PART_BYTES_MAX]))
                .expect("a part of a value that never got its head");
        }
        assert_eq!(ledger.get("key"), Ok(Some(old)));
        ledger.put("key", &new).expect("put");
        assert_eq!(ledger.get("key"), Ok(Some(new)));
    }

    #[test]
    fn a_damaged_value_is_told_from_a_missing_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = Ledger::open(&directory.path().join("ledger")).expect("a ledger");
        ledger.put("key", &[7; 100_000]).expect("put");
        ledger.with(|store| store.put(&part_key("key", 0, 1), b"wrong")).expect("damage");
        assert_eq!(ledger.get("key"), Err(LedgerError::Damaged("key".to_owned())));
        ledger.with(|store| store.put(b"hkey", b"nonsense")).expect("damage");
        assert_eq!(ledger.get("key"), Err(LedgerError::Damaged("key".to_owned())));
    }
}
