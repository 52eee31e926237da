//! The store: a sled directory behind the few acts that a journal needs. Nothing else in Forebay knows sled.
//!
//! Keeps P1 together with [`segment`](super::segment): sled's own `flush` only asks the kernel to write (`sync_file_range`), so
//! [`Store::sync`] adds an `fdatasync` on a handle of our own, and opening syncs what sled never does: `conf`, `db`,
//! snapshots, `blobs/`, the directory and its parent. Never used: sled's background flusher (it swallows errors),
//! `flush_async` (deadlocks), `generate_id`, transactions, removal of single values from a segment.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::space::{self, OWN_BYTES};

/// A value that the store lent: cheap to clone, read as bytes.
pub(super) type Value = sled::IVec;

/// sled's unit of allocation. Only pages above a quarter of it become blob files, which sled never syncs.
const STORE_SEGMENT_BYTES: usize = 8 << 20;
/// How long a store that was just closed may go on holding its lock: sled lets go of it a little after the drop.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// What the store says has gone wrong. Nothing may be acknowledged after it (P8).
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("values became blob files, which are never synced")]
    Blobs,
    #[error("chunk {0} is damaged or gone")]
    Chunk(u64),
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io(source) | StoreError::Sled(sled::Error::Io(source)) => source,
            other => Self::other(other),
        }
    }
}

/// Chunks of one shelf, unless they are small: sled rewrites a leaf after ten inserts, and again when it splits at seventeen. With
/// all chunks in one tree each was written more than four times.
const SHELF_CHUNKS: u64 = 9;
/// Small chunks share a shelf up to this size; and a shelf is larger than sled's list of them, which is rewritten for each.
const SHELF_BYTES: u64 = 64 << 10;
const SHELF_LISTING_BYTES: u64 = 64;

/// By the number of the first chunk.
type Shelves = Vec<(u64, sled::Tree)>;

/// An open sled directory.
///
/// The ledger uses the default tree. Chunks stand on shelves: a tree of its own for every few of them, named by the number
/// of the first.
#[derive(Debug)]
pub(super) struct Store {
    sled: Handles,
    /// Chunks and bytes put on the last shelf since it was opened; `None` until something is put.
    filled: Option<(u64, u64)>,
    /// Our own handle of sled's file: its errors are reported to us, whatever sled does with its own.
    file: File,
}

/// What we hold of sled: its database and the shelves, `None` once given up. When the last of it is dropped sled syncs its file, and
/// panics if that fails: caught, because a disk that fails has an end of its own (P8), which is no panic.
#[derive(Debug)]
struct Handles(Option<(sled::Db, Shelves)>);

impl Handles {
    fn db(&self) -> &sled::Db {
        &self.0.as_ref().expect("a store in use holds them").0
    }

    fn shelves(&self) -> &Shelves {
        &self.0.as_ref().expect("a store in use holds them").1
    }

    fn shelve(&mut self, number: u64) -> Result<(), StoreError> {
        let (db, shelves) = self.0.as_mut().expect("a store in use holds them");
        shelves.push((number, db.open_tree(number.to_be_bytes())?));
        Ok(())
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let handles = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(handles))).map_err(|_| io::Error::other("sled failed to sync its file as it closed").into())
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "a journal store was not closed in order");
        }
    }
}

impl Store {
    /// Opens or creates the store in `path`, and makes it durable that it is there.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        create_directory(path)?;
        remove_unfinished_snapshots(path)?;
        let config = sled::Config::default()
            .path(path)
            .segment_size(STORE_SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            .use_compression(false)
            .flush_every_ms(None);
        let db = open_patiently(&config)?;
        match settle(&db, path) {
            Ok((shelves, file)) => Ok(Self { sled: Handles(Some((db, shelves))), filled: None, file }),
            Err(error) => {
                // Dropped, sled would sync once more, and panic if that fails too.
                std::mem::forget(db);
                Err(error)
            }
        }
    }

    /// Puts a chunk; durable after the next [`Store::sync`]. Numbers rise.
    pub(super) fn put_chunk(&mut self, number: u64, value: &[u8]) -> Result<(), StoreError> {
        let bytes_min = SHELF_BYTES.max(SHELF_LISTING_BYTES * self.sled.shelves().len() as u64);
        if self.filled.is_none_or(|(chunks, bytes)| chunks >= SHELF_CHUNKS && bytes >= bytes_min) {
            self.sled.shelve(number)?;
            self.filled = Some((0, 0));
        }
        let (_, shelf) = self.sled.shelves().last().expect("just put there");
        shelf.insert(number.to_be_bytes(), value)?;
        self.filled = self.filled.map(|(chunks, bytes)| (chunks + 1, bytes + value.len() as u64));
        Ok(())
    }

    /// The chunk of this number.
    pub(super) fn chunk(&self, number: u64) -> Result<Option<Value>, StoreError> {
        let shelves = self.sled.shelves();
        let behind = shelves.partition_point(|(first, _)| *first <= number);
        let Some((_, shelf)) = behind.checked_sub(1).map(|at| &shelves[at]) else { return Ok(None) };
        Ok(shelf.get(number.to_be_bytes())?)
    }

    /// Puts a value into the default tree; durable after the next [`Store::sync`].
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.sled.db().insert(key, value)?;
        Ok(())
    }

    /// The value of a key in the default tree.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Value>, StoreError> {
        Ok(self.sled.db().get(key)?)
    }

    /// Removes a key from the default tree (chunks are only ever removed with their whole segment).
    pub(super) fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.sled.db().remove(key)?;
        Ok(())
    }

    /// Every pair of the default tree whose key begins with `prefix`, by key.
    pub(super) fn scan(&self, prefix: &[u8]) -> Result<Vec<(Value, Value)>, StoreError> {
        self.sled.db().scan_prefix(prefix).map(|pair| Ok(pair?)).collect()
    }

    /// Makes everything put so far durable: one `fdatasync`.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.sled.db().flush()?;
        Ok(self.file.sync_data()?)
    }

    /// Size of the store's file.
    pub(super) fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata()?.len())
    }

    /// Closes it; sled syncs once more. Takes some 40 ms, so never on the thread that commits.
    pub(super) fn close(mut self) -> Result<(), StoreError> {
        if let Err(error) = self.sync() {
            self.abandon();
            return Err(error);
        }
        self.sled.end()
    }

    /// Takes a chunk away behind everybody's back.
    #[cfg(test)]
    pub(super) fn lose_chunk(&self, number: u64) {
        for (_, shelf) in self.sled.shelves() {
            shelf.remove(number.to_be_bytes()).expect("removed");
        }
    }

    /// Lets every later sync fail, as a broken disk would.
    #[cfg(test)]
    pub(super) fn break_sync(&mut self) {
        self.file = File::open("/dev/null").expect("a device that can't be synced");
    }

    /// Leaves it as it is: after a failure sled's own closing would write again.
    pub(super) fn abandon(mut self) {
        std::mem::forget(self.sled.0.take());
    }
}

/// The barrier after opening: everything sled has made and not synced. Gives the shelves, and our handle of the file.
fn settle(db: &sled::Db, path: &Path) -> Result<(Shelves, File), StoreError> {
    db.flush()?;
    let shelves = shelves(db)?;
    if fs::read_dir(path.join("blobs"))?.next().is_some() {
        return Err(StoreError::Blobs);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        File::open(entry.path())?.sync_all()?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path.join("db"))?;
    file.sync_all()?;
    sync_directory(path)?;
    sync_directory(path.parent().expect("a store lies in the journal's directory"))?;
    Ok((shelves, file))
}

/// Takes the disk's room for the first `bytes` of the file of the store in `path`, opened or yet to be created, so that what is written
/// there never meets a full disk. The size of the file stays; [`give_back`] gives up what lies behind it. False: there is no such
/// room. A file system that can't reserve (ZFS), or that writes elsewhere whatever was reserved (btrfs), promises nothing.
pub(super) fn reserve(path: &Path, bytes: u64) -> io::Result<bool> {
    if space::free(path.parent().expect("a store lies in the journal's directory"))? < bytes.saturating_add(OWN_BYTES) {
        return Ok(false);
    }
    create_directory(path)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join("db"))?;
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(true),
        // Somebody else has just taken it, and the file what was left. It keeps that: it may be open, and shortening it could cost what is
        // being written.
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives up the room behind the end of the file of a store that nobody has open: what is just written there would be cut off.
pub(super) fn give_back(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path.join("db"))?;
    file.set_len(file.metadata()?.len())
}

/// Size of a store's file once it has been opened again: sled fills its last unit of allocation up.
pub(super) fn opened_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(STORE_SEGMENT_BYTES as u64)
}

/// The shelves that are there, by number.
fn shelves(db: &sled::Db) -> Result<Shelves, StoreError> {
    let numbers = db.tree_names().into_iter().filter_map(|name| Some(u64::from_be_bytes(name.as_ref().try_into().ok()?)));
    let mut shelves = numbers.map(|number| Ok((number, db.open_tree(number.to_be_bytes())?))).collect::<Result<Vec<_>, StoreError>>()?;
    shelves.sort_unstable_by_key(|(number, _)| *number);
    Ok(shelves)
}

/// sled gives its lock up only after the last internal reference is gone, which may be a little after the drop.
fn open_patiently(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let started = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") && started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_RETRY);
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// A kill between the creation and the renaming of a snapshot leaves a short file, which sled would choose to read.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name.to_string_lossy().ends_with(".generating") {
            fs::remove_file(path.join(name))?;
        }
    }
    Ok(())
}

/// Makes a directory that only we may enter.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes names that were created or removed in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies a store that nobody has open.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    create_directory(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const CACHE_BYTES: u64 = 1 << 20;

    /// Bytes of the disk that the store's file holds.
    fn held(path: &Path) -> u64 {
        path.join("db").metadata().expect("a file").blocks() * 512
    }

    #[test]
    fn what_is_reserved_is_held_and_used_and_given_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, room) = (directory.path().join("store"), 32 << 20);
        assert!(reserve(&path, room).expect("asked for"), "there is room");
        assert!(held(&path) >= room, "{}", held(&path));
        let mut store = Store::open(&path, CACHE_BYTES).expect("a store begins in reserved room");
        for number in 0..1_000 {
            store.put_chunk(number, &[7; 9_000]).expect("put");
        }
        store.sync().expect("synced");
        let bytes = store.bytes().expect("it has a size");
        assert!((9_000_000..room).contains(&bytes), "{bytes}");
        assert!(held(&path) < room + room / 4, "what is written lies in what was reserved: {}", held(&path));
        store.close().expect("closed");
        give_back(&path).expect("given back");
        assert!(held(&path) < bytes + room / 4, "{} of {bytes}", held(&path));
        let store = Store::open(&path, CACHE_BYTES).expect("a store");
        assert_eq!(store.chunk(999).expect("read").as_deref(), Some(&[7; 9_000][..]));
        store.close().expect("closed");
    }

    #[test]
    fn what_no_disk_has_is_not_reserved() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store");
        assert!(!reserve(&path, 1 << 60).expect("asked for"));
        assert!(!path.exists(), "nothing is left of it");
    }
}
