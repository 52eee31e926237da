//! What the clients of a run sent and what they were told: a file that is only added to, and synced before anything is sent. It
//! is read back after the run, and nothing that the daemon does can change it.
//!
//! Before a call, a line for each of its saves, `sent CALL ATOMIC CLIENT OBJECT VERSION CHANGE CHECKSUM`; after it,
//! `acknowledged CALL`. A call that failed has no second line: its saves may be there or not.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use tokio::sync::oneshot;

/// What a save does to its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A row with this version.
    Set,
    /// No row.
    Delete,
    /// A line that is added to the notes of a client.
    Line,
    /// The same, and Postgres won't take it: it has to become a failed save.
    Poison,
}

/// One save of a call. Versions of an object rise in the order in which they are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) client: usize,
    /// `table/id`; for lines `notes/CLIENT`.
    pub(super) object: String,
    pub(super) version: u64,
    pub(super) change: Change,
    pub(super) checksum: u32,
}

/// Saves that were sent together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) saves: Vec<Sent>,
    /// All of them or none.
    pub(super) atomic: bool,
    pub(super) acknowledged: bool,
}

/// All calls of a run, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) calls: Vec<Call>,
}

/// The log of a run. One thread writes it, and syncs once for all that wait.
#[derive(Debug)]
pub(super) struct ClientLog {
    path: PathBuf,
    calls: AtomicU64,
    entries: mpsc::Sender<Entry>,
}

struct Entry {
    text: String,
    synced: Option<oneshot::Sender<()>>,
}

impl ClientLog {
    pub(super) fn create(path: &Path) -> Self {
        let file = File::options().append(true).create_new(true).open(path).expect("a new client log");
        Self::write_to(file, path, 0)
    }

    /// A log that begins with what this one holds: of clients that go on from here, each time anew.
    pub(super) async fn copy(&self, path: &Path) -> Self {
        self.synced(String::new()).await;
        fs::copy(&self.path, path).expect("the client log is copied");
        let file = File::options().append(true).open(path).expect("just copied");
        Self::write_to(file, path, self.calls.load(Ordering::Relaxed))
    }

    fn write_to(file: File, path: &Path, calls: u64) -> Self {
        let (entries, received) = mpsc::channel();
        std::thread::spawn(move || write(file, &received));
        Self { path: path.to_owned(), calls: AtomicU64::new(calls), entries }
    }

    /// Notes a call that is about to be sent. It may be once this returns.
    pub(super) async fn sent(&self, call: &Call) -> u64 {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let line = |sent: &Sent| format!("sent {number} {} {sent}\n", u8::from(call.atomic));
        self.synced(call.saves.iter().map(line).collect()).await;
        number
    }

    /// Notes that a call was acknowledged; on disk with the next one that is sent.
    pub(super) fn acknowledged(&self, number: u64) {
        self.send(Entry { text: format!("acknowledged {number}\n"), synced: None });
    }

    /// Everything noted so far, from disk.
    pub(super) async fn history(&self) -> History {
        self.synced(String::new()).await;
        let text = fs::read_to_string(&self.path).expect("the client log is readable");
        text.parse().unwrap_or_else(|line| panic!("the client log has a line that nobody wrote: {line:?}"))
    }

    async fn synced(&self, text: String) {
        let (synced, told) = oneshot::channel();
        self.send(Entry { text, synced: Some(synced) });
        told.await.expect("the client log is synced");
    }

    fn send(&self, entry: Entry) {
        self.entries.send(entry).expect("the client log is written until it is dropped");
    }
}

fn write(mut file: File, entries: &mpsc::Receiver<Entry>) {
    while let Ok(first) = entries.recv() {
        let (mut text, mut waiting) = (String::new(), Vec::new());
        for entry in std::iter::once(first).chain(entries.try_iter()) {
            text.push_str(&entry.text);
            waiting.extend(entry.synced);
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).expect("the client log's disk is sound");
        for synced in waiting {
            // A client that was stopped waits no more.
            let _ = synced.send(());
        }
    }
}

impl History {
    /// Saves that were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.calls.iter().filter(|call| call.acknowledged).map(|call| call.saves.len() as u64).sum()
    }
}

impl FromStr for History {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut calls = BTreeMap::<u64, Call>::new();
        for line in text.lines() {
            read(line, &mut calls).ok_or(line)?;
        }
        Ok(Self { calls: calls.into_values().collect() })
    }
}

/// One line; `None` if it isn't one of ours.
fn read(line: &str, calls: &mut BTreeMap<u64, Call>) -> Option<()> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["sent", number, atomic, client, object, version, change, checksum] => {
            let call = calls.entry(number.parse().ok()?).or_default();
            call.atomic = atomic == "1";
            call.saves.push(Sent {
                client: client.parse().ok()?,
                object: object.to_owned(),
                version: version.parse().ok()?,
                change: change.parse().ok()?,
                checksum: checksum.parse().ok()?,
            });
        }
        ["acknowledged", number] => calls.get_mut(&number.parse().ok()?)?.acknowledged = true,
        _ => return None,
    }
    Some(())
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, object, version, change, checksum } = self;
        write!(f, "{client} {object} {version} {} {checksum}", change.word())
    }
}

impl Change {
    const ALL: [Self; 4] = [Self::Set, Self::Delete, Self::Line, Self::Poison];

    const fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Line => "line",
            Self::Poison => "poison",
        }
    }
}

impl FromStr for Change {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|change| change.word() == word).ok_or(())
    }
}

#[tokio::test]
async fn the_client_log_gives_back_what_was_noted() {
    let home = crate::support::directory();
    let log = ClientLog::create(&home.path().join("log"));
    let sent = |version, change| Sent { client: 3, object: "things/3-7".to_owned(), version, change, checksum: 99 };
    let calls = [
        Call { saves: vec![sent(1, Change::Set), sent(2, Change::Delete)], atomic: true, acknowledged: true },
        Call { saves: vec![sent(3, Change::Line)], atomic: false, acknowledged: false },
        Call { saves: vec![sent(4, Change::Poison)], atomic: false, acknowledged: true },
    ];
    for call in &calls {
        let number = log.sent(call).await;
        if call.acknowledged {
            log.acknowledged(number);
        }
    }
    let history = log.history().await;
    assert_eq!(history.calls, calls);
    assert_eq!(history.acknowledged(), 3);
    let copy = log.copy(&home.path().join("copy")).await;
    copy.sent(&calls[1]).await;
    assert_eq!(copy.history().await.calls, [&calls[..], &calls[1..2]].concat(), "it goes on behind what was copied");
    assert_eq!("sent 1 0 3 things/3-7 1 set".parse::<History>().err().as_deref(), Some("sent 1 0 3 things/3-7 1 set"));
    assert!("acknowledged 1".parse::<History>().is_err(), "nothing is acknowledged that wasn't sent");
}
