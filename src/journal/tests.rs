//! The journal against a real store, in temporary directories. A crash is a copy of the directory of a journal that runs:
//! what a killed process leaves.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;
use crate::{
    collections::Collections,
    limits::Limits,
    save::{Accepted, Body, Change, CollectionId, ColumnSet, Key, Save},
    settings::Settings,
};

mod crashes;
mod damage;
mod flow;
mod golden;
mod room;
mod schedules;
mod tools;

const LANE: LaneId = LaneId(0);
const ALL: Sequence = Sequence::from_u64(u64::MAX >> 1);

fn settings(directory: &Path) -> JournalSettings {
    JournalSettings {
        directory: directory.to_owned(),
        free_bytes_min: 0,
        retention: Duration::from_secs(3600),
        ..Settings::default().journal
    }
}

/// None is met, unless a test says so.
fn limits() -> Limits {
    let limits = Limits::new(&Settings::default());
    limits.all().for_each(|limit| limit.set_max(u64::MAX >> 1));
    limits.journal_free_bytes.set_max(0);
    limits
}

fn collections() -> Collections {
    let mut collections = Collections::default();
    collections.give_numbers("players", Some(&Body::parse(br#"{"gold":1}"#).expect("a body")));
    collections
}

fn save(key: u64, body_bytes: usize) -> Save {
    let body = format!("{{\"gold\":\"{}\"}}", "x".repeat(body_bytes));
    Save {
        lane: LANE,
        collection: CollectionId(0),
        key: Key::from_parts([key.to_string().as_str()]),
        change: Change::Set(Body::from_checked(body.as_bytes())),
        columns: ColumnSet::from_iter([0]),
        adds: [].into(),
        version: None,
        batch_left: 0,
        origin: None,
        request_id: None,
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + key),
        retries: None,
        callback: None,
    }
}

fn saves(keys: std::ops::Range<u64>, body_bytes: usize) -> Vec<Save> {
    keys.map(|key| save(key, body_bytes)).collect()
}

fn batch(keys: std::ops::Range<u64>, body_bytes: usize) -> Vec<Save> {
    let mut saves = saves(keys, body_bytes);
    let count = saves.len() as u32;
    saves.iter_mut().zip((0..count).rev()).for_each(|(save, left)| save.batch_left = left);
    saves
}

/// A journal that runs, and what it called.
struct Rig {
    running: Running,
    limits: Limits,
    offered: Arc<Mutex<Vec<Accepted>>>,
    groups: Arc<Mutex<Vec<GroupStats>>>,
    fatal: mpsc::Receiver<String>,
}

impl Rig {
    fn start(settings: &JournalSettings) -> Self {
        let limits = limits();
        limits.journal_free_bytes.set_max(settings.free_bytes_min);
        Self::run(open(settings), limits)
    }

    fn run(journal: Journal, limits: Limits) -> Self {
        let lane = journal.settled_hint(LANE);
        Self::run_with(journal, limits, &[lane])
    }

    fn run_with(journal: Journal, limits: Limits, lanes: &[Sequence]) -> Self {
        let (tell, fatal) = mpsc::channel();
        let (offered, groups) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (offers, stats) = (Arc::clone(&offered), Arc::clone(&groups));
        let events = Events {
            offer: Box::new(move |accepted| offers.lock().expect("no panic").extend(accepted)),
            on_group: Box::new(move |group| stats.lock().expect("no panic").push(group)),
            on_fatal: Box::new(move |reason| drop(tell.send(reason))),
        };
        let running = journal.start(&limits, lanes, events).expect("threads");
        Self { running, limits, offered, groups, fatal }
    }

    async fn append(&self, saves: Vec<Save>) -> Result<Sequence, AppendError> {
        self.running.appender().append(&collections(), saves).await
    }

    async fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map_or(Sequence::ZERO, |entry| entry.sequence);
            let more = self.running.reader().read(after, ALL, 100_000).await.expect("readable");
            if more.is_empty() {
                return entries;
            }
            entries.extend(more);
        }
    }

    async fn keys(&self) -> Vec<u64> {
        self.entries().await.iter().map(key_of).collect()
    }

    /// What a kill at this moment leaves.
    fn crash(&self, of: &Path) -> TempDir {
        copy_of(of)
    }
}

fn open(settings: &JournalSettings) -> Journal {
    Journal::open(settings).expect("a sound journal")
}

fn open_damaged(settings: &JournalSettings) -> Report {
    match Journal::open(settings) {
        Err(OpenError::Damaged(report)) => *report,
        other => panic!("should be damaged: {other:?}"),
    }
}

fn key_of(entry: &Entry) -> u64 {
    entry.record.key.parts().next().expect("one part").parse().expect("a number")
}

fn copy_of(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    store::copy(directory, copy.path()).expect("copied");
    copy
}

/// The newest segment that holds anything.
fn newest_segment(directory: &Path) -> (u64, witness::Witness) {
    let directory = directory::Directory::existing(directory).expect("a journal");
    let segments = directory.segments().expect("readable").into_iter().rev();
    let mut seen = segments.filter_map(|number| Some((number, witness::Witness::look(&directory.segment(number), number).ok()??)));
    seen.find(|(_, witness)| !witness.chunks.is_empty()).expect("a segment with chunks")
}

fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join("segments").join(format!("{segment:010}"))
}

/// Overwrites every copy of a chunk on disk: sectors that never made it, or rotted.
fn destroy(directory: &Path, segment: u64, chunk: u64) {
    let path = segment_path(directory, segment);
    let value = witness::Witness::look(&path, segment).expect("readable").expect("a file").value(chunk).expect("seen");
    let file = File::options().read(true).write(true).open(path.join("db")).expect("a file");
    let mut content = Vec::new();
    (&file).read_to_end(&mut content).expect("readable");
    let needle = &value[..64];
    let copies: Vec<_> = (0..content.len() - needle.len()).filter(|&at| content[at] == 0xFB && content[at..].starts_with(needle)).collect();
    for at in copies {
        file.write_all_at(&[0; 64], at as u64).expect("written");
    }
}

/// Sets the watermark back, as if it had not been written for a while.
fn set_watermark(directory: &Path, chunk: u64) {
    let path = directory.join("watermark");
    let mark = watermark::read(&path).expect("readable").expect("a mark");
    std::fs::remove_file(&path).expect("removed");
    watermark::Watermark::open(&path).expect("a file").write(watermark::Mark { chunk, ..mark }).expect("written");
}

/// Every file below a directory and its content, but for the lock.
fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(content(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            files.push((path.clone(), std::fs::read(&path).expect("readable")));
        }
    }
    files.sort();
    files
}
