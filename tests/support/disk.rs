//! A file system of its own for a journal: small enough to be filled up, and to be made read-only. No mode stops root, and no
//! setting stands in for a disk that is really full.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use tempfile::TempDir;

/// Holds the file system mounted until its input ends: however the test ends, even killed.
const KEEPER: &str = r#"
    set -e
    trap '' HUP INT TERM
    [ "$4" = mounted ] || mkfs.ext4 -q -F -m 0 -E nodiscard "$1"
    mount -o loop "$1" "$2"
    chown "$3" "$2"
    echo mounted
    cat >/dev/null
    umount -l "$2"
"#;

/// An ext4 file system in a file, mounted until this is dropped.
pub(crate) struct Disk {
    keeper: Child,
    /// Closed, it ends the keeper.
    input: Option<ChildStdin>,
    home: TempDir,
}

impl Disk {
    /// A file system of so many MiB; ext4 takes a tenth for itself. Panics where it can't be mounted: nothing is skipped.
    pub(crate) fn mount(mib: u64) -> Self {
        let home = super::directory();
        let image = home.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        Self::keep(home, &image, "made")
    }

    /// A new file system in an image.
    pub(crate) fn make(image: &Path) -> Self {
        Self::keep(super::directory(), image, "made")
    }

    /// The file system that is in an image.
    pub(crate) fn of(image: &Path) -> Self {
        Self::keep(super::directory(), image, "mounted")
    }

    fn keep(home: TempDir, image: &Path, how: &str) -> Self {
        let root = home.path().join("root");
        fs::create_dir(&root).expect("made");
        let owner = format!("{}:{}", rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut keeper = as_root("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(image).arg(&root).arg(owner).arg(how).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().expect("sh, or sudo, runs");
        let (input, output) = (keeper.stdin.take(), keeper.stdout.take().expect("it is piped"));
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("readable");
        assert_eq!(
            line.trim_end(),
            "mounted",
            "this test mounts a small file system: it needs root or sudo without a password, mkfs.ext4 and a free loop device"
        );
        Self { keeper, input, home }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("root")
    }

    /// Lets nobody write from now on.
    pub(crate) fn make_read_only(&self) {
        self.remount("ro");
    }

    /// Lets its owner write again.
    pub(crate) fn make_writable(&self) {
        self.remount("rw");
    }

    fn remount(&self, how: &str) {
        let status = as_root("mount").args(["-o", &format!("remount,{how}")]).arg(self.path()).status().expect("mount runs");
        assert!(status.success(), "remounted {how}: {status}");
    }

    /// Bytes free.
    pub(crate) fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).expect("it is mounted");
        found.f_bavail * found.f_frsize
    }

    /// Lets another file take the room, up to so many bytes.
    pub(crate) fn fill(&self, leave: u64) {
        let mut file = File::options().create(true).append(true).open(self.filler()).expect("a file");
        let (zeros, mut step) = (vec![0; 1 << 20], 1 << 20);
        while step >= 512 {
            let room = self.free().saturating_sub(leave);
            if room == 0 {
                break;
            }
            step = step.min(usize::try_from(room).expect("a small disk").max(512));
            match file.write_all(&zeros[..step]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => step /= 2,
                Err(error) => panic!("fill the disk: {error}"),
            }
        }
        file.sync_all().expect("what was written fits");
    }

    /// Gives back so much of what [`Disk::fill`] took.
    pub(crate) fn give_back(&self, bytes: u64) {
        let file = File::options().write(true).open(self.filler()).expect("it was filled");
        let length = file.metadata().expect("a file").len();
        file.set_len(length.saturating_sub(bytes)).and_then(|()| file.sync_all()).expect("cut");
    }

    /// Gives back all of it.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.input.take());
        // A test that panics has nobody to tell.
        let _ = self.keeper.wait();
    }
}

pub(crate) fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

/// Every file below a directory and what is in it, by path.
pub(crate) fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push((path.clone(), fs::read(&path).expect("readable"))),
            }
        }
    }
    found.sort();
    found
}
