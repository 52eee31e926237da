//! The journal's directory: who may use it, and what lies where.
//!
//! | name                  |                                                                      |
//! |-----------------------|----------------------------------------------------------------------|
//! | `LOCK`                | held by the one process that uses the journal; names it              |
//! | `watermark`           | see [`watermark`](super::watermark)                                  |
//! | `ledger/`             | a store: see [`ledger`](super::ledger)                               |
//! | `segments/0000000012/`| a store each: see [`segment`](super::segment)                        |
//! | `.trash-*`, `.audit-*`| leavings of an interrupted removal or audit; swept at the next start |

use std::{
    fs::{self, File, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    OpenError, space,
    store::{create_directory, sync_directory},
};

/// A journal's directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory if need be, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |reason: String| OpenError::Directory { path: path.to_owned(), reason };
        create_directory(path).map_err(|error| unusable(format!("can't be created: {}", remedied(&error))))?;
        check_owner(path).map_err(unusable)?;
        check_content(path).map_err(unusable)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("LOCK"))
            .map_err(|error| unusable(format!("can't be written: {}", remedied(&error))))?;
        take_lock(path, &mut lock)?;
        let prepared = fs::set_permissions(path, Permissions::from_mode(0o700))
            .and_then(|()| create_directory(&path.join("segments")))
            .and_then(|()| sign(&mut lock))
            .and_then(|()| sync_directory(path))
            .and_then(|()| path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_directory));
        prepared.map_err(|error| unusable(format!("can't be written: {}", remedied(&error))))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Locks a directory that must hold a journal, to read it only.
    pub(super) fn existing(path: &Path) -> Result<Self, OpenError> {
        let unusable = |reason: String| OpenError::Directory { path: path.to_owned(), reason };
        if !path.join("segments").is_dir() {
            return Err(unusable("holds no journal (there is no `segments` in it)".to_owned()));
        }
        let mut lock = File::open(path.join("LOCK")).map_err(|error| unusable(format!("can't be locked: {error}")))?;
        take_lock(path, &mut lock)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Refuses a file system that is too full to begin with: a store that meets its end may be damaged.
    pub(super) fn has_room(&self, bytes: u64) -> Result<(), OpenError> {
        let unusable = |reason: String| OpenError::Directory { path: self.path.clone(), reason };
        let free = space::free(&self.path).map_err(|error| unusable(format!("can't be looked at: {error}")))?;
        if free < bytes {
            return Err(unusable(format!("is on a full disk: {free} bytes are free, a start needs {bytes}: free some space")));
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.path.join("ledger")
    }

    pub(super) fn watermark(&self) -> PathBuf {
        self.path.join("watermark")
    }

    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join("segments").join(format!("{number:010}"))
    }

    /// Where the audit of a segment may make a copy.
    pub(super) fn audit(&self, number: u64) -> PathBuf {
        self.path.join(format!(".audit-{number:010}"))
    }

    /// Where the audit of the ledger may make a copy.
    pub(super) fn audit_of_ledger(&self) -> PathBuf {
        self.path.join(".audit-ledger")
    }

    /// The segments that are there, oldest first.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.path.join("segments"))? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes a segment whole. Once the name is gone it stays gone, whenever the power fails.
    pub(super) fn remove_segment(&self, number: u64) -> Result<(), Unremoved> {
        let trash = self.path.join(format!(".trash-{number:010}"));
        fs::rename(self.segment(number), &trash).map_err(Unremoved::Left)?;
        sync_directory(&self.path.join("segments")).and_then(|()| sync_directory(&self.path)).map_err(Unremoved::Unsynced)?;
        fs::remove_dir_all(trash).map_err(Unremoved::Left)
    }

    /// Removes what an interrupted removal or audit has left.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(".trash-") || name.to_string_lossy().starts_with(".audit-") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// How a segment was not removed.
#[derive(Debug)]
pub(super) enum Unremoved {
    /// It, or its trash, is still there, which the next start sees to.
    Left(io::Error),
    /// A directory could not be synced: no journal goes on after that (P8).
    Unsynced(io::Error),
}

impl From<Unremoved> for io::Error {
    fn from(unremoved: Unremoved) -> Self {
        let (Unremoved::Left(error) | Unremoved::Unsynced(error)) = unremoved;
        error
    }
}

/// Why it can't be written, and what helps.
fn remedied(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or name another journal.directory",
        io::ErrorKind::PermissionDenied => "let this user write there, or name another journal.directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}

/// Somebody else's directory, or one that somebody else may write, holds no promise of ours.
fn check_owner(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| format!("can't be looked at: {error}"))?;
    let (owner, us) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != us {
        return Err(format!("belongs to user {owner}, but this process runs as user {us}: change its owner or journal.directory"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("may be written by others (mode {:04o}): chmod 700 it", found.mode() & 0o7777));
    }
    Ok(())
}

/// A directory with other things in it was named by mistake: nothing is mixed into it.
fn check_content(path: &Path) -> Result<(), String> {
    let listed = |error: io::Error| format!("can't be listed: {error}");
    for entry in fs::read_dir(path).map_err(listed)? {
        let name = entry.map_err(listed)?.file_name();
        let name = name.to_string_lossy();
        let ours = matches!(&*name, "LOCK" | "watermark" | "ledger" | "segments" | "lost+found") || name.starts_with('.');
        if !ours {
            return Err(format!("holds {name:?}, which is no part of a journal: name an empty directory"));
        }
    }
    Ok(())
}

fn take_lock(path: &Path, lock: &mut File) -> Result<(), OpenError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is a courtesy; that it is held is what counts.
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "an unknown process".to_owned() } else { holder.trim().to_owned() };
            Err(OpenError::Locked { path: path.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(OpenError::Io { act: "lock the journal", source }),
    }
}

fn sign(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "process {}, started {:.0}", std::process::id(), jiff::Timestamp::now())?;
    lock.sync_all()
}
