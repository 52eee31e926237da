//! What the system calls say: every acknowledgement comes after an fdatasync of the journal that covers it, there is one fdatasync
//! a group, and whatever the journal has made until then is synced, with the name that it has.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Database, Setup, directory,
    saves::{request, set},
    strace,
};

const SCHEMA: &str = "create table players (id bigint primary key, name text)";

/// Every fdatasync returns so much later: an acknowledgement that didn't wait for it would come sooner.
const SYNC_DELAY: Duration = Duration::from_millis(40);

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_waits_for_the_sync_of_its_group() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let trace = journal.path().join("trace");
    let setup = Setup::new(&journal.path().join("journal"), &database.url());
    let daemon = strace::with_slow_syncs(&setup, SYNC_DELAY, &trace).await;
    let mut client = daemon.client().await;
    let before = segment_syncs(&trace);
    let saves = 25;
    for n in 0..saves {
        let start = Instant::now();
        client.save(request(set("players", &[&n.to_string()], json!({"name": "x"})))).await.expect("accepted");
        assert!(start.elapsed() >= SYNC_DELAY, "acknowledged {:?} after the call, before the sync returned", start.elapsed());
    }
    let alone = segment_syncs(&trace) - before;
    assert_eq!(alone, saves, "saves one after the other are groups of one, with one fdatasync each");
    let calls: Vec<_> = (0..200_u32)
        .map(|n| {
            let mut client = client.clone();
            tokio::spawn(async move { client.save(request(set("players", &[&n.to_string()], json!({"name": "y"})))).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("accepted");
    }
    let together = segment_syncs(&trace) - before - alone;
    assert!((1..=20).contains(&together), "200 saves at once took {together} syncs");
    daemon.stop().await;
}

/// Finished fdatasyncs of a segment's log, as far as the trace says.
fn segment_syncs(trace: &Path) -> usize {
    let text = fs::read_to_string(trace).expect("strace writes the trace");
    text.lines().filter(|line| line.contains("fdatasync(") && line.contains("/segments/") && line.contains("/db>")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_made_is_synced_with_its_name_before_a_save_is_acknowledged() {
    let (database, home) = (Database::with(SCHEMA).await, directory());
    let (journal, trace) = (home.path().join("journal"), home.path().join("trace"));
    let setup = Setup::new(&journal, &database.url());
    let daemon = strace::spawn(&setup, &trace, &["-e", "trace=/^(open(at)?|mkdir(at)?|rename(at2?)?|f(data)?sync)$"]);
    daemon.serving().await;
    daemon.client().await.save(request(set("players", &["1"], json!({"name": "x"})))).await.expect("accepted");
    let mut made = Made::default();
    fs::read_to_string(&trace).expect("strace writes the trace").lines().for_each(|line| made.follow(line));
    // The segment that is opened ahead isn't used yet.
    let used = |path: &Path| path.starts_with(&journal) && !path.starts_with(journal.join("segments/0000000002")) && path.exists();
    let made: Vec<_> = made.0.into_iter().filter(|(path, _)| used(path)).collect();
    for name in ["LOCK", "watermark", "ledger/conf", "ledger/db", "segments/0000000001/conf", "segments/0000000001/blobs"] {
        assert!(made.iter().any(|(path, _)| *path == journal.join(name)), "{name} is made before the first save: {made:#?}");
    }
    let unsynced: Vec<_> = made.iter().filter(|(_, synced)| !(synced.content && synced.name)).collect();
    assert!(unsynced.is_empty(), "a power cut may leave without its content or its name: {unsynced:#?}");
    daemon.stop().await;
}

/// Files and directories that were made, and what of them was synced since.
#[derive(Default)]
struct Made(BTreeMap<PathBuf, Synced>);

#[derive(Debug, Default)]
struct Synced {
    content: bool,
    name: bool,
}

impl Made {
    /// One line of a trace; as far as it goes, for a call that another one interrupts.
    fn follow(&mut self, line: &str) {
        let Some((call, arguments)) = line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('(')) else { return };
        let mut quoted = arguments.split('"').skip(1).step_by(2).map(PathBuf::from);
        match call {
            "open" | "openat" if arguments.contains("O_CREAT") => self.make(quoted.next()),
            "mkdir" | "mkdirat" => self.make(quoted.next()),
            "rename" | "renameat" | "renameat2" => {
                if let (Some(from), Some(to)) = (quoted.next(), quoted.next()) {
                    self.rename(&from, &to);
                }
            }
            "fsync" | "fdatasync" => {
                let path = arguments.split_once('<').and_then(|(_, path)| path.split_once('>')).map(|(path, _)| Path::new(path));
                path.into_iter().for_each(|path| self.sync(path));
            }
            _ => {}
        }
    }

    fn make(&mut self, path: Option<PathBuf>) {
        if let Some(path) = path {
            self.0.entry(path).or_default();
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let all = std::mem::take(&mut self.0).into_iter().map(|(path, synced)| match path.strip_prefix(from) {
            Ok(rest) if rest == Path::new("") => (to.to_owned(), Synced { name: false, ..synced }),
            Ok(rest) => (to.join(rest), synced),
            Err(_) => (path, synced),
        });
        self.0 = all.collect();
    }

    fn sync(&mut self, path: &Path) {
        self.0.entry(path.to_owned()).and_modify(|synced| synced.content = true);
        self.0.iter_mut().filter(|(made, _)| made.parent() == Some(path)).for_each(|(_, synced)| synced.name = true);
    }
}
