//! Every system call of the journal fails once: the n-th of each kind, for every n, kills the process, fails once or for good, or
//! writes short, over a script of at most 50 saves that starts, rotates, trims and stops, or that recovers first (P1, P6, P8).
//!
//! Afterwards a start without faults has everything that was acknowledged, and takes saves.

use std::{fmt, path::Path, str::FromStr, sync::Arc, time::Duration};

use fastrand::Rng;
use forebay::proto::{FlushRequest, save_service_client::SaveServiceClient};
use serde_json::Value;
use tempfile::TempDir;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::support::{Daemon, Database, Ended, HANG, Setup, directory, eventually, lanes};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    check,
    client::{Client, Shape},
    client_log::ClientLog,
    injector::{CALLS, Fault, Injector, Kind},
    kill::oldest_segment,
};

/// Saves of a script in all.
const SAVES_MAX: u64 = 50;
/// Saves of the journal that is recovered: more than a segment takes.
const SAVES_LEFT: u64 = 36;
/// Most saves of one call.
const BATCH_MAX: usize = 3;
/// Behind the last call of a sound run: a tick of the janitor more or less.
const BEYOND: u64 = 2;
/// They have failed: a ledger that was cut short in the making did not open again; sled panicked as it closed; a copy that could not be
/// closed counted as a damaged segment; a directory that could not be synced was only warned of.
const FAILED_ONCE: [&str; 9] = [
    "load/write/SIGKILL/6",
    "load/write/SIGKILL/7",
    "load/fsync/ENOSPC/18+",
    "recovery/fdatasync/EIO/1",
    "recovery/fsync/EIO/11",
    "recovery/fsync/EIO/12",
    "recovery/fsync/EIO/33+",
    "recovery/fsync/ENOSPC/61",
    "recovery/fsync/ENOSPC/62",
];
/// What the client draws, always the same: the n-th call is at the same place of the script each time.
const SCRIPT_SEED: u64 = 1;
/// So long a journal may take to stop itself (P8).
const STOP_SOON: Duration = Duration::from_secs(1);

/// Back to an empty database.
const RESET: &str = "truncate things, stuff, goods, notes, applied restart identity; drop schema if exists forebay cascade";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// A new journal: saves, rotates, trims, stops.
    Load,
    /// A journal that was killed with saves that are not in Postgres: recovers, and then the same.
    Recovery,
}

/// A fault at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    script: Script,
    fault: Fault,
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_call_on_the_journal_fails_nothing_acknowledged_is_lost() {
    let stage = Arc::new(Stage::new().await);
    let points = match std::env::var_os("FOREBAY_FAULTS_POINT") {
        Some(point) => vec![point.to_string_lossy().parse().expect("SCRIPT/CALL/KIND/N")],
        None => points(&stage).await,
    };
    let all = points.len() as u64;
    println!("syscalls: {all} points");
    let again = |seed| format!("--point {}", points[place(seed, all)]);
    campaign::run_named("syscalls", 16, all, again, |seed| {
        let (point, stage) = (points[place(seed, all)], Arc::clone(&stage));
        async move { tokio::time::timeout(4 * HANG, try_point(point, Home::new("syscalls", seed), &stage)).await.expect("no hang") }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_failure_did_harm_once_do_none() {
    let stage = Stage::new().await;
    for (n, name) in (0..).zip(FAILED_ONCE) {
        println!("syscalls: --point {name}");
        try_point(name.parse().expect("a point"), Home::new("syscalls-again", n), &stage).await;
    }
}

/// Where in a list of so many points a seed stands. Neighbours in the list are alike, so it is gone through in steps of about the
/// golden section: seeds in a row meet each point once, and some of them are a fair sample of all.
fn place(seed: u64, all: u64) -> usize {
    let divisor = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let step = (all * 618 / 1000..).find(|step| divisor(*step, all) == 1).expect("one below all has no divisor in common with it");
    usize::try_from(seed % all * step % all).expect("an index")
}

/// Every fault at every call that a sound run makes, and a little beyond.
async fn points(stage: &Stage) -> Vec<Point> {
    let mut points = Vec::new();
    for script in [Script::Load, Script::Recovery] {
        let home = directory();
        let mut trial = stage.trial(script, home.path()).await;
        let injector = Injector::new(home.path().join("report"));
        let daemon = injector.spawn(&trial.setup, None);
        daemon.serving().await;
        trial.play(&daemon).await.expect("nothing fails");
        assert_eq!(daemon.stop().await.code, Some(0));
        for (call, count) in injector.counts() {
            println!("syscalls: {}: {count} {call}", script.name());
            let faults = (1..=count + BEYOND).flat_map(|nth| Fault::all(call, nth));
            points.extend(faults.map(|fault| Point { script, fault }));
        }
    }
    points
}

async fn try_point(point: Point, home: Home, stage: &Stage) -> Counts {
    let mut trial = stage.trial(point.script, &home.0).await;
    let injector = Injector::new(home.0.join("report"));
    let daemon = injector.spawn(&trial.setup, Some(point.fault));
    let played = daemon.serves().await && trial.play(&daemon).await.is_ok();
    let ended = if played { daemon.stop().await } else { daemon.ended().await };
    home.keep_log(&ended);
    let met = injector.met();
    judge_end(point.fault, met.is_some(), played, &ended);
    let late = met.is_some_and(|met| ended.code == Some(74) && met.elapsed().is_ok_and(|since| since > STOP_SOON));

    let daemon = trial.setup.start().await;
    let mut client = daemon.client().await;
    client.flush(FlushRequest::default()).await.expect("everything recovered is written");
    trial.client.call(&mut client).await.expect("saves are taken again");
    client.flush(FlushRequest::default()).await.expect("written too");
    assert_eq!(daemon.stop().await.code, Some(0));
    let history = trial.log.history().await;
    check(&history, &stage.database).await;
    Counts::from([
        ("points met", met.is_some().into()),
        ("saves acknowledged", history.acknowledged()),
        ("stopped by themselves", (ended.code == Some(74)).into()),
        ("of these after more than a second", late.into()),
    ])
}

/// Whether the daemon may end so.
fn judge_end(fault: Fault, met: bool, played: bool, ended: &Ended) {
    let sound = played && ended.code == Some(0);
    // At a start what is wrong with the directory has a code of its own.
    let stopped = matches!(ended.code, Some(73 | 74));
    let allowed = match fault.kind {
        _ if !met => sound,
        Kind::Kill => ended.code.is_none(),
        Kind::Short => sound,
        Kind::Eio | Kind::Enospc if fault.is_of_sync() => stopped,
        Kind::Eio | Kind::Enospc => stopped || sound,
    };
    assert!(allowed, "met: {met}, played to its end: {played}, ended with {:?}: {:#?}", ended.code, ended.log);
    // sled panics if its own sync fails as it closes: caught, so that the end names what failed and no panic.
    let ours = |line: &&Value| line.to_string().contains("panicked at") && !line.to_string().contains("/sled-0.34.7/");
    let panic = ended.log.iter().find(ours).or(ended.log.last().filter(|end| end.to_string().contains("panicked")));
    assert!(panic.is_none(), "{panic:?}");
}

/// What every run begins with: an empty database, and for a recovery always the same journal.
struct Stage {
    database: Database,
    /// The journal of `killed`.
    _home: TempDir,
    killed: Trial,
}

impl Stage {
    async fn new() -> Self {
        let (database, home) = (Database::with(SCHEMA).await, directory());
        let mut killed = Trial::new(home.path(), &database);
        killed.leave_saves().await;
        Self { database, _home: home, killed }
    }

    async fn trial(&self, script: Script, home: &Path) -> Trial {
        self.database.execute(RESET).await;
        match script {
            Script::Load => Trial::new(home, &self.database),
            Script::Recovery => self.killed.copy(home).await,
        }
    }
}

/// One journal and its client.
struct Trial {
    setup: Setup,
    client: Client,
    log: Arc<ClientLog>,
}

impl Trial {
    fn new(home: &Path, database: &Database) -> Self {
        let log = Arc::new(ClientLog::create(&home.join("client-log")));
        let shape = Shape { batch_max: BATCH_MAX, filler: 60_000..90_000, poison_every: 4 };
        let client = Client::new(0, shape, Rng::with_seed(SCRIPT_SEED), Arc::clone(&log));
        // What a fault makes the daemon say is not known beforehand.
        let setup = Setup::new(&home.join("journal"), &database.url())
            .set("collections.notes.mode", "append")
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", "0 ms")
            .expect_in_log("");
        Self { setup, client, log }
    }

    async fn copy(&self, home: &Path) -> Self {
        let journal = home.join("journal");
        let copied = std::process::Command::new("cp").arg("-a").arg(&self.setup.journal).arg(&journal).status();
        assert!(copied.expect("cp runs").success(), "the journal is copied");
        let log = Arc::new(self.log.copy(&home.join("client-log")).await);
        Self { setup: Setup { journal, ..self.setup.clone() }, client: self.client.with_log(Arc::clone(&log)), log }
    }

    /// Kills the journal before anything of it is in Postgres, once it has a second segment and has opened the third.
    async fn leave_saves(&mut self) {
        let daemon = self.setup.start().await;
        lanes::pause(&daemon).await;
        let mut client = daemon.client().await;
        while self.client.sent() < SAVES_LEFT {
            self.client.call(&mut client).await.expect("nothing fails");
        }
        let segments = self.setup.journal.join("segments");
        let rests = || async { (segments.join("0000000001/closed").exists() && segments.join("0000000003/db").exists()).then_some(()) };
        eventually("the first segment is closed, the third one open", rests).await;
        daemon.kill().await;
    }

    /// The script, up to the first call that fails. After it nothing is acknowledged any more.
    async fn play(&mut self, daemon: &Daemon) -> Result<(), Status> {
        let mut client = lazy_client(daemon).await;
        let played = self.play_with(&mut client, daemon).await;
        if let Err(failure) = &played {
            let after = self.client.call(&mut client).await;
            assert!(after.is_err(), "a save was acknowledged after a call that failed: {failure:?}: {:#?}", daemon.lines());
        }
        played
    }

    async fn play_with(&mut self, client: &mut SaveServiceClient<Channel>, daemon: &Daemon) -> Result<(), Status> {
        let before = oldest_segment(&self.setup.journal);
        let mut calls = 0;
        while self.client.sent() + BATCH_MAX as u64 <= SAVES_MAX {
            self.client.call(client).await?;
            calls += 1;
            if calls % 5 == 0 {
                client.flush(FlushRequest::default()).await?;
            }
        }
        client.flush(FlushRequest::default()).await?;
        while oldest_segment(&self.setup.journal) == before && !could_not_remove(daemon) {
            // A daemon that has ended removes nothing more.
            client.flush(FlushRequest::default()).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// A segment that can't be removed stays until the next start.
fn could_not_remove(daemon: &Daemon) -> bool {
    daemon.lines().iter().any(|line| line["message"] == "a drained segment could not be removed")
}

/// A client that connects with its first call: the daemon may have ended. Its calls end in time: once in two thousand ends of a daemon,
/// tonic has not told a call that its connection is gone.
async fn lazy_client(daemon: &Daemon) -> SaveServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", daemon.grpc().await)).expect("an address");
    SaveServiceClient::new(endpoint.timeout(HANG).connect_lazy())
}

/// `load/` or `recovery/`, then the fault.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.script.name(), self.fault)
    }
}

impl FromStr for Point {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (script, fault) = text.split_once('/').ok_or(())?;
        let script = [Script::Load, Script::Recovery].into_iter().find(|known| known.name() == script).ok_or(())?;
        Ok(Self { script, fault: fault.parse()? })
    }
}

impl Script {
    const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Recovery => "recovery",
        }
    }
}

#[test]
fn seeds_in_a_row_meet_every_point_once() {
    for all in [1, 2, 3, 10, 618, 1_000] {
        let mut places: Vec<_> = (7..7 + all).map(|seed| place(seed, all)).collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..usize::try_from(all).expect("a number")), "of {all}");
    }
}

/// What the injector doesn't see it can't let fail: strace, which misses nothing, counts the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_injector_sees_every_call_on_the_journal() {
    let (stage, home) = (Stage::new().await, directory());
    let mut trial = stage.trial(Script::Recovery, home.path()).await;
    let (injector, trace) = (Injector::new(home.path().join("report")), home.path().join("trace"));
    let daemon = injector.spawn_traced(&trial.setup, &trace);
    daemon.serving().await;
    trial.play(&daemon).await.expect("nothing fails");
    assert_eq!(daemon.stop().await.code, Some(0));
    let trace = std::fs::read_to_string(&trace).expect("strace writes the trace");
    let journal = trial.setup.journal.display().to_string();
    let on_journal: Vec<_> = trace.lines().filter(|line| line.contains(&journal)).filter_map(called).collect();
    for (call, count) in injector.counts() {
        let traced = on_journal.iter().filter(|traced| **traced == call).count() as u64;
        assert_eq!(count, traced, "{call}");
    }
    let unknown: Vec<_> = on_journal.iter().filter(|call| !CALLS.contains(call) && !HARMLESS.contains(call)).collect();
    assert!(unknown.is_empty(), "calls on the journal that the injector doesn't know: {unknown:?}");
}

/// They change nothing in a journal that its promises rest on.
const HARMLESS: [&str; 14] = [
    "chmod",
    "fchmod",
    "close",
    "fstat",
    "newfstatat",
    "statx",
    "stat",
    "lseek",
    "read",
    "pread64",
    "getdents64",
    "fcntl",
    "statfs",
    "flock",
];

/// The kind of call that a line of a trace begins with, under the name that the injector has for it.
fn called(line: &str) -> Option<&str> {
    let name = line.split_whitespace().nth(1)?.split('(').next().filter(|name| !name.starts_with('<'))?;
    Some(match name {
        "open" => "openat",
        "rename" | "renameat" | "renameat2" => "rename",
        "unlink" | "unlinkat" | "rmdir" => "unlink",
        "mkdir" | "mkdirat" => "mkdir",
        other => other,
    })
}
