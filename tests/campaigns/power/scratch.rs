//! Where broken journals are put: in memory, as thousands of them are written and each is synced many times. One that a run fails on
//! is kept.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::support::directory;

/// A directory that is removed in the end, unless a panic ends it: then it is copied to where the run keeps what is left of it.
pub(crate) struct Scratch {
    home: TempDir,
    keep: PathBuf,
}

impl Scratch {
    /// `keep`: where it is copied to.
    pub(crate) fn new(keep: PathBuf) -> Self {
        let memory = Path::new("/dev/shm");
        let home = if memory.is_dir() { tempfile::Builder::new().prefix("forebay-test-").tempdir_in(memory) } else { Ok(directory()) };
        Self { home: home.expect("a temporary directory"), keep }
    }

    /// Not made yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("journal")
    }

    /// Copies it.
    pub(crate) fn keep(&self) -> &Path {
        copy(&self.path(), &self.keep);
        &self.keep
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.keep.exists() {
            copy(&self.path(), &self.keep);
            println!("the state it failed on: {}", self.keep.display());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).expect("copied");
        return;
    }
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("readable").path();
        copy(&path, &to.join(path.file_name().expect("a name")));
    }
}
