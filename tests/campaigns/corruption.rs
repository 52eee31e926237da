//! Rot: one thing in a journal with known content is not as it was written: a bit, a block, a file's length, a file or a directory.
//! A start then finds exactly what was there, or refuses with a report; it never finds less without a word, hangs or panics (P1, P6).
//!
//! A run makes a journal, in order or by a kill, and changes it in many ways, one at a time. After a kill the groups at the end that
//! the watermark doesn't know yet may be gone, from the first damaged one on: nothing that is left can tell that from a crash.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use forebay::{exit::Exit, journal::Entry, proto::FlushRequest};

use crate::support::{Database, Setup};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    checker,
    checker::Stored,
    client::{Client, Shape},
    client_log::{ClientLog, History},
    power::{
        contents::{self, Contents, Refusal},
        disk::write_file,
        scratch::Scratch,
    },
};

/// Changes of one run.
const MUTATIONS: u64 = 120;
/// One of so many is started by the program itself.
const BY_PROGRAM: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_read_exactly_or_refused_with_a_report() {
    campaign::run("corruption", 2, u64::MAX, run).await;
}

/// Damage that only shows when the saves are read, after the audit.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_segment_of_zeros_ends_the_program_and_stays_as_it_is() {
    let home = Home::new("closed-segment", 0);
    let mut sound = Sound::make(&home, true, &mut Rng::with_seed(0)).await;
    let path = Path::new("segments/0000000001/db");
    file(&mut sound.files, path)[4096..].fill(0);
    let scratch = Scratch::new(home.0.join("damaged"));
    write(&sound.files, &scratch.path());
    assert_eq!(sound.start(&scratch.path()).await, Ok("refused by the program"));
    assert!(fs::read(scratch.path().join(path)).expect("readable") == sound.files[path], "what is left is for salvage");
}

async fn run(seed: u64) -> Counts {
    let (home, mut random) = (Home::new("corruption", seed), Rng::with_seed(seed));
    let sound = Sound::make(&home, !seed.is_multiple_of(2), &mut random).await;
    let (mut counts, mut failed) = (Counts::new(), 0);
    for number in 0..MUTATIONS {
        let mutation = Mutation::draw(&sound.files, &mut random);
        let scratch = Scratch::new(home.0.join(format!("damaged-{number}")));
        write(&mutation.applied(&sound.files), &scratch.path());
        let judged = if number.is_multiple_of(BY_PROGRAM) { sound.start(&scratch.path()).await } else { sound.read(&scratch.path()).await };
        *counts.entry("mutations").or_default() += 1;
        match judged {
            Ok(outcome) => *counts.entry(outcome).or_default() += 1,
            Err(wrong) => {
                println!("corruption: {mutation:?}: {wrong}; left in {}", scratch.keep().display());
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 0, "mutations that were not met as they should");
    counts
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A journal before anything happens to it.
struct Sound {
    files: Files,
    /// Acknowledged are those calls that can't be missed unnoticed.
    history: History,
    entries: Vec<Entry>,
    ledger: Vec<(String, Vec<u8>)>,
    /// So many of the first entries can't be missed unnoticed.
    witnessed: usize,
}

impl Sound {
    /// A journal of two lives with a Postgres that took nothing, and went away: it holds everything, and knows of no position.
    async fn make(home: &Home, in_order: bool, random: &mut Rng) -> Self {
        let (mut database, journal) = (Database::alone(SCHEMA).await, home.journal());
        database.execute("alter database postgres set default_transaction_read_only = on").await;
        let setup = setup(&journal, &database);
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let shape = Shape { batch_max: 20, filler: 20..6_000, poison_every: u64::MAX };
        let mut client = Client::new(0, shape, random.fork(), Arc::clone(&log));
        for life in 0..2 {
            let daemon = setup.start().await;
            if life == 0 {
                database.stop_postgres();
            }
            let mut channel = daemon.client().await;
            for _ in 0..random.usize(15..40) {
                client.call(&mut channel).await.expect("acknowledged");
            }
            let killed = life == 1 && !in_order;
            if killed {
                // Known to the watermark is what the start wrote into the ledger, and not all saves.
                let before = contents::watermark(&journal);
                while contents::watermark(&journal) == before {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    client.call(&mut channel).await.expect("acknowledged");
                }
                client.call(&mut channel).await.expect("acknowledged");
            }
            let ended = if killed { daemon.kill().await } else { daemon.stop().await };
            home.keep_log(&ended);
        }
        let (files, history) = (files(&journal), log.history().await);
        let known = contents::watermark(&journal);
        let contents = contents::read(&journal).await.expect("a sound journal");
        let violations = checker::judge(&history, &contents.over(Stored::default()));
        let Contents { entries, ledger } = contents;
        assert!(violations.is_empty(), "{violations:?}");
        let witnessed = entries.iter().take_while(|entry| entry.sequence.get() <= known).count();
        assert!(!in_order || witnessed == entries.len(), "{witnessed} of {} are witnessed", entries.len());
        Self { files, history: as_witnessed(history, witnessed), entries, ledger, witnessed }
    }

    /// By the journal's own recovery: what it made of the damage, or what is wrong with that.
    async fn read(&self, damaged: &Path) -> Result<&'static str, String> {
        match contents::read(damaged).await {
            Ok(found) if found.ledger != self.ledger => Err(self.other_values(&found.ledger)),
            Ok(found) => self.judge(&found.entries),
            Err(Refusal::Damaged(report)) if report.is_empty() => Err("refused without a report".to_owned()),
            Err(Refusal::Damaged(_)) => Ok("refused"),
            Err(Refusal::Other(report)) => Err(format!("refused, but not as damaged: {report}")),
            Err(Refusal::Panicked(what)) => Err(format!("it panicked: {what}")),
        }
    }

    fn other_values(&self, found: &[(String, Vec<u8>)]) -> String {
        let text = |pairs: &[(String, Vec<u8>)]| -> String {
            let of = |(key, value): &(String, Vec<u8>)| {
                format!("{key} {} {}", value.len(), String::from_utf8_lossy(&value[..value.len().min(120)]))
            };
            pairs.iter().map(of).collect::<Vec<_>>().join("; ")
        };
        format!("the ledger holds: {}\ninstead of: {}", text(found), text(&self.ledger))
    }

    fn judge(&self, found: &[Entry]) -> Result<&'static str, String> {
        let all = &self.entries;
        if !all.starts_with(found) {
            return Err("other saves were found than there were".to_owned());
        }
        match all.len() - found.len() {
            0 => Ok("exact"),
            _ if found.len() >= self.witnessed => Ok("without a tail that nothing called synced"),
            gone => Err(format!("{gone} of {} saves are gone without a word", all.len())),
        }
    }

    /// By the program.
    async fn start(&self, damaged: &Path) -> Result<&'static str, String> {
        let database = Database::with(SCHEMA).await;
        let daemon = setup(damaged, &database).spawn();
        if !daemon.serves().await {
            let ended = daemon.ended().await;
            let damaged = ended.code == Some(Exit::DamagedJournal as i32);
            return damaged.then_some("refused by the program").ok_or_else(|| format!("ended with {:?}: {:#?}", ended.code, ended.log));
        }
        daemon.client().await.flush(FlushRequest::default()).await.map_err(|status| format!("nothing is written: {status}"))?;
        let ended = daemon.stop().await;
        let violations = checker::judge(&self.history, &Stored::read(&database).await);
        let sound = ended.code == Some(0) && violations.is_empty();
        sound.then_some("taken by the program").ok_or_else(|| format!("ended with {:?}, violations: {violations:?}", ended.code))
    }
}

/// A client's calls are in the journal in their order. Of those that only the end of it knows, nobody may be sure.
fn as_witnessed(mut history: History, witnessed: usize) -> History {
    let mut entries = 0;
    for call in &mut history.calls {
        entries += call.saves.len();
        call.acknowledged = entries <= witnessed;
    }
    history
}

fn setup(journal: &Path, database: &Database) -> Setup {
    Setup::new(journal, &database.url())
        .set("collections.notes.mode", "append")
        .set("journal.segment_bytes", "1 MiB")
        // What damage makes it say is not known beforehand.
        .expect_in_log("")
}

/// What happens to a journal.
#[derive(Debug)]
enum Mutation {
    Flip {
        path: PathBuf,
        at: usize,
        bit: u8,
    },
    Zero {
        path: PathBuf,
        at: usize,
        bytes: usize,
    },
    Garbage {
        path: PathBuf,
        at: usize,
        bytes: usize,
        seed: u64,
    },
    /// A block of one file is written to the place of another, or the two change places.
    Misplace {
        from: (PathBuf, usize),
        to: (PathBuf, usize),
        bytes: usize,
        swap: bool,
    },
    Cut {
        path: PathBuf,
        length: usize,
    },
    Extend {
        path: PathBuf,
        bytes: usize,
        with: u8,
    },
    Delete(PathBuf),
    /// Everything below a directory.
    DeleteAll(PathBuf),
    /// One file instead of another one, or beside it.
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    /// A segment, whole, under another number.
    CopyAll {
        from: PathBuf,
        to: PathBuf,
    },
}

impl Mutation {
    fn draw(files: &Files, random: &mut Rng) -> Self {
        let bytes = [512, 4096, 65_536][random.usize(..3)];
        let (path, at) = place(files, random);
        let block = at / bytes * bytes;
        match random.u8(..14) {
            0..4 => Self::Flip { path, at, bit: random.u8(..8) },
            4..6 => Self::Zero { path, at: block, bytes },
            6 => Self::Garbage { path, at: block, bytes, seed: random.u64(..) },
            7..9 => {
                let (to, to_at) = place(files, random);
                Self::Misplace { from: (path, block), to: (to, to_at / bytes * bytes), bytes, swap: random.bool() }
            }
            9 => Self::Cut { path, length: if random.bool() { at } else { block } },
            10 => Self::Extend { path, bytes, with: if random.bool() { 0 } else { random.u8(..) } },
            11 => Self::Delete(path),
            12 => Self::Copy { from: path, to: any(files, random) },
            _ => Self::draw_directory(files, random),
        }
    }

    fn draw_directory(files: &Files, random: &mut Rng) -> Self {
        let mut directories: Vec<_> = files.keys().filter_map(|path| path.parent()).filter(|path| path.components().count() > 0).collect();
        directories.dedup();
        let directory = directories[random.usize(..directories.len())].to_owned();
        if random.bool() || !directory.starts_with("segments") {
            return Self::DeleteAll(directory);
        }
        Self::CopyAll { from: directory, to: Path::new("segments").join(format!("{:010}", random.u64(1..12))) }
    }

    fn applied(&self, files: &Files) -> Files {
        let mut files = files.clone();
        let part = |content: &[u8], at: usize, bytes: usize| content[at.min(content.len())..(at + bytes).min(content.len())].to_vec();
        match self {
            Self::Flip { path, at, bit } => file(&mut files, path)[*at] ^= 1 << bit,
            Self::Zero { path, at, bytes } => put(file(&mut files, path), *at, &vec![0; *bytes]),
            Self::Garbage { path, at, bytes, seed } => {
                let mut garbage = vec![0; *bytes];
                Rng::with_seed(*seed).fill(&mut garbage);
                put(file(&mut files, path), *at, &garbage);
            }
            Self::Misplace { from, to, bytes, swap } => {
                let (moved, before) = (part(&files[&from.0], from.1, *bytes), part(&files[&to.0], to.1, *bytes));
                put(file(&mut files, &to.0), to.1, &moved);
                if *swap {
                    put(file(&mut files, &from.0), from.1, &before);
                }
            }
            Self::Cut { path, length } => file(&mut files, path).truncate(*length),
            Self::Extend { path, bytes, with } => file(&mut files, path).extend(std::iter::repeat_n(*with, *bytes)),
            Self::Delete(path) => drop(files.remove(path)),
            Self::DeleteAll(directory) => files.retain(|path, _| !path.starts_with(directory)),
            Self::Copy { from, to } => drop(files.insert(to.clone(), files[from].clone())),
            Self::CopyAll { from, to } => {
                let copied: Vec<_> =
                    files.iter().filter_map(|(path, bytes)| Some((to.join(path.strip_prefix(from).ok()?), bytes.clone()))).collect();
                files.extend(copied);
            }
        }
        files
    }
}

/// A place where something is written, most of the time: stores are mostly zeros.
fn place(files: &Files, random: &mut Rng) -> (PathBuf, usize) {
    const TRIES: usize = 50;
    let mut drawn = (PathBuf::new(), 0);
    let tries = if random.u8(..10) == 0 { 1 } else { TRIES };
    for _ in 0..tries {
        let path = any(files, random);
        let content = &files[&path];
        // The front of a file is where most of it is.
        let at = if random.bool() { random.usize(..content.len()) } else { random.usize(..content.len().min(1 << 20)) };
        let written = content[at] != 0;
        drawn = (path, at);
        if written {
            break;
        }
    }
    drawn
}

fn any(files: &Files, random: &mut Rng) -> PathBuf {
    let filled: Vec<_> = files.iter().filter(|(path, content)| !content.is_empty() && *path != Path::new("LOCK")).collect();
    filled[random.usize(..filled.len())].0.clone()
}

fn file<'a>(files: &'a mut Files, path: &Path) -> &'a mut Vec<u8> {
    files.get_mut(path).expect("one of its files")
}

/// Overwrites, without making a file longer.
fn put(content: &mut [u8], at: usize, bytes: &[u8]) {
    let end = content.len().min(at + bytes.len());
    if at < end {
        content[at..end].copy_from_slice(&bytes[..end - at]);
    }
}

fn files(directory: &Path) -> Files {
    let found = crate::support::disk::content(directory);
    found.into_iter().map(|(path, content)| (path.strip_prefix(directory).expect("below it").to_owned(), content)).collect()
}

fn write(files: &Files, into: &Path) {
    for (path, content) in files {
        let path = into.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        write_file(&path, content);
    }
}
