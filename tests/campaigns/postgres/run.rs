//! A run of the campaign: one daemon, its clients, its Postgres and the roads there; and what is asked of all of them after each
//! fault.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use forebay::proto::LaneState;
use tokio_postgres::Client as Session;

use crate::{
    campaigns::{
        Home, SCHEMA, TABLES,
        campaign::Counts,
        checker::{self, Stored},
        client::{Client, Shape},
        client_log::{Change, ClientLog, History},
    },
    support::{Daemon, Database, DatabaseRows, Setup, command, eventually, lanes},
};

use super::{load::Load, road::Road};

const CLIENTS: usize = 4;
/// Connections that Postgres takes. Forebay needs 5 of them with three lanes, what does the harm and looks a few.
const CONNECTIONS_MAX: u32 = 16;
/// What waits for a lock looks for a deadlock after so long.
const DEADLOCK_TIMEOUT: &str = "300 ms";
/// Beside the writers.
const READERS: u64 = 2;
/// Rows written under load before and after a fault.
const ROWS: u64 = 40;

pub(in crate::campaigns) struct Run {
    pub(in crate::campaigns) random: Rng,
    /// The primary.
    pub(in crate::campaigns) database: Database,
    /// What the daemon is told of: its Postgres is behind one of them, and behind the other a standby or nobody.
    roads: [Road; 2],
    /// The one that leads to the primary.
    home_road: usize,
    pub(in crate::campaigns) load: Load,
    clients: Vec<Client>,
    log: Arc<ClientLog>,
    pub(in crate::campaigns) setup: Setup,
    /// None until [`Run::starts`], and between [`Run::ends`] and the next one.
    daemon: Option<Daemon>,
    lanes: u64,
    /// Failed saves up to here are forgotten.
    forgotten: u64,
    /// SQLSTATEs with which rows may have failed, until they were retried.
    refusals: BTreeSet<&'static str>,
    counts: Counts,
    pub(in crate::campaigns) home: Home,
}

/// A place in the daemon's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(usize);

impl Run {
    pub(super) async fn new(seed: u64) -> Self {
        let mut run = Self::prepared("postgres", seed, |setup| setup).await;
        run.starts(run.setup.spawn()).await;
        run
    }

    /// Without a daemon. `change` is of its settings.
    pub(in crate::campaigns) async fn prepared(campaign: &str, seed: u64, change: impl FnOnce(Setup) -> Setup) -> Self {
        let (home, mut random) = (Home::new(campaign, seed), Rng::with_seed(seed));
        let settings = [("max_connections", CONNECTIONS_MAX.to_string()), ("deadlock_timeout", DEADLOCK_TIMEOUT.to_owned())];
        let database = Database::alone_with(SCHEMA, &settings).await;
        let roads = [Road::new(Some(database.port()), random.fork()).await, Road::new(None, random.fork()).await];
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let clients = clients(&mut random, &log);
        let lanes = if random.bool() { 1 } else { 3 };
        let setup = change(setup(&home, &roads, lanes));
        Self {
            random,
            database,
            roads,
            home_road: 0,
            load: Load::new(),
            clients,
            log,
            setup,
            daemon: None,
            lanes,
            forgotten: 0,
            refusals: BTreeSet::new(),
            counts: Counts::new(),
            home,
        }
    }

    /// Waits until it serves.
    pub(in crate::campaigns) async fn starts(&mut self, daemon: Daemon) {
        daemon.serving().await;
        self.daemon = Some(daemon);
    }

    /// Gives the daemon up to whoever ends it.
    pub(in crate::campaigns) fn ends(&mut self) -> Daemon {
        self.daemon.take().expect("it runs")
    }

    pub(in crate::campaigns) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Under load.
    pub(in crate::campaigns) async fn begin(&mut self) {
        let clients = std::mem::take(&mut self.clients);
        self.load_with(clients).await;
        self.flows().await;
    }

    /// These clients save.
    pub(in crate::campaigns) async fn load_with(&mut self, clients: Vec<Client>) {
        self.load.start(self.daemon.as_ref().expect("it runs"), clients).await;
    }

    /// The cause is gone: everything flows again, by itself, and ends where it belongs.
    pub(in crate::campaigns) async fn end(&mut self, kind: &'static str) {
        self.flows().await;
        self.clients = self.load.stop().await;
        self.flushed().await;
        self.retry().await;
        self.connections_are_few().await;
        self.judge().await;
        *self.counts.entry(kind).or_default() += 1;
    }

    pub(in crate::campaigns) async fn complete(mut self) -> Counts {
        let ended = self.ends().stop().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, Some(0));
        self.count_acknowledged().await;
        let mut counts = std::mem::take(&mut self.counts);
        counts.insert("calls refused for a changed table", self.load.refused());
        counts
    }

    async fn count_acknowledged(&mut self) {
        *self.counts.entry("saves acknowledged").or_default() += self.log.history().await.acknowledged();
    }

    /// Of what was judged nothing is left that the next judgement would have to read: neither rows nor failed saves, nor what was
    /// sent. So a run may go on for as long as it likes. Gives how many failed saves were open.
    pub(in crate::campaigns) async fn forget(&mut self) -> u64 {
        self.count_acknowledged().await;
        let open = self.database.number("select count(*) from forebay.failed_save where closed_at is null").await;
        if open > 0 {
            command::cli(self.daemon(), &["failed", "discard", "--all", "--reason", "judged"], 0).await;
        }
        self.forgotten = self.database.number("select coalesce(max(sequence), 0) from forebay.failed_save").await.max(self.forgotten);
        self.refusals.clear();
        self.database.execute("truncate things, stuff, goods, notes, applied restart identity").await;
        let path = self.home.0.join("client-log");
        std::fs::remove_file(&path).expect("the last log");
        self.log = Arc::new(ClientLog::create(&path));
        self.clients = clients(&mut self.random, &self.log);
        open
    }

    /// Waits until more rows are written.
    pub(in crate::campaigns) async fn flows(&self) {
        const NEWEST: &str = "select coalesce(max(number), 0) from applied";
        let session = self.database.client().await;
        let newest = async || session.query_one(NEWEST, &[]).await.expect("Postgres answers").get::<_, i64>(0).unsigned_abs();
        let before = newest().await;
        eventually("rows are written", || async { (newest().await >= before + ROWS).then_some(()) }).await;
    }

    /// Waits until nothing is left to write. A lane that is halted probes by itself.
    async fn flushed(&self) {
        eventually("everything is written", || async { lanes::flush(self.daemon(), &[]).await.ok() }).await;
    }

    /// What the log tells from now on.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.daemon().lines().len())
    }

    /// Whether the log has told this since.
    pub(super) fn has_told(&self, Mark(mark): Mark, text: &str) -> bool {
        self.daemon().lines_from(mark).iter().any(|line| line.to_string().contains(text))
    }

    /// Waits until it has.
    pub(super) async fn told(&self, mark: Mark, text: &str) {
        eventually(text, || async { self.has_told(mark, text).then_some(()) }).await;
    }

    /// Waits until a lane halts for this reason, and holds that against the remedy it names.
    pub(super) async fn halted(&self, reason: &str, remedy: &str) {
        let halt = eventually(&format!("a lane halts: {reason}"), || async { self.halts().await.into_iter().next() }).await;
        assert!(halt.0.contains(reason) && halt.1.contains(remedy), "{halt:?}");
    }

    /// Reason and remedy of each lane that is halted.
    async fn halts(&self) -> Vec<(String, String)> {
        let request = forebay::proto::GetStatusRequest::default();
        let status = self.daemon().admin().await.get_status(request).await.expect("a status").into_inner().status.expect("a status");
        let halted = status.lanes.into_iter().filter(|lane| lane.state() == LaneState::Halted);
        halted.map(|lane| (lane.reason, lane.remedy)).collect()
    }

    /// Waits until each has gone on.
    pub(super) async fn no_lane_is_halted(&self) {
        eventually("no lane is halted", || async { self.halts().await.is_empty().then_some(()) }).await;
    }

    /// The operator has repaired what halted a lane, and says so or leaves it to its probes.
    pub(super) async fn repaired(&mut self) {
        if self.random.u8(..4) != 0 {
            lanes::resume(self.daemon()).await;
        }
    }

    /// Saves may fail with this code from now on; the operator retries them after the fault.
    pub(super) fn may_fail_with(&mut self, sqlstate: &'static str) {
        self.refusals.insert(sqlstate);
    }

    /// Whether tables belong to different ones.
    pub(super) fn has_lanes(&self) -> bool {
        self.lanes > 1
    }

    /// The road to the primary.
    pub(in crate::campaigns) fn road(&self) -> &Road {
        &self.roads[self.home_road]
    }

    /// The other one.
    pub(super) fn side_road(&self) -> &Road {
        &self.roads[1 - self.home_road]
    }

    /// Another server is the primary, behind the other road; the one that was is gone.
    pub(super) fn moved_to(&mut self, database: Database) {
        self.road().lead_to(None);
        self.home_road = 1 - self.home_road;
        self.database = database;
    }

    pub(super) fn draw_table(&mut self) -> &'static str {
        TABLES[self.random.usize(..TABLES.len())]
    }

    /// Another moment of the load: drawn, nothing is waited for.
    pub(in crate::campaigns) async fn pass_time(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(millis))).await;
    }

    /// What the operator or the application does to the tables: again, if it lost a deadlock.
    pub(super) async fn alter(&self, sql: &str) {
        println!("postgres: {sql}");
        let session = self.database.client().await;
        eventually(sql, || async {
            match session.batch_execute(sql).await {
                Ok(()) => Some(()),
                Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => None,
                Err(error) => panic!("{sql}: {error:?}"),
            }
        })
        .await;
    }

    /// As the operator does with failed saves whose cause is repaired. (Poisoned lines stay.) Of two of one object the first may be
    /// left out, as the second came after it: the retry of that one closes both.
    async fn retry(&self) {
        for sqlstate in &self.refusals {
            let open = format!("select count(*) from forebay.failed_save where closed_at is null and sqlstate = '{sqlstate}'");
            if self.database.number(&open).await > 0 {
                let retried = command::run(self.daemon(), &["failed", "retry", "--sqlstate", sqlstate]).await;
                self.flushed().await;
                assert_eq!(self.database.number(&open).await, 0, "left open: {retried:?}");
            }
        }
    }

    /// P9, and that none is forgotten.
    async fn connections_are_few(&self) {
        let session = self.database.client().await;
        eventually("no connection is forgotten", || async {
            (sessions(&session).await.len() as u64 <= self.lanes + READERS).then_some(())
        })
        .await;
    }

    async fn judge(&self) {
        // Before everything else: a closed one may be forgotten at any time.
        let refused = self.refused().await;
        let (history, mut stored) = (self.log.history().await, Stored::read_after(&self.database, self.forgotten).await);
        let retried = self.judge_refusals(&history, &stored, refused);
        stored.failed.retain(|line| !retried.contains(line));
        let violations = checker::judge(&history, &stored);
        let shown: String = violations.iter().map(|violation| format!("    {violation}\n")).collect();
        assert!(violations.is_empty(), "{} violations:\n{shown}", violations.len());
    }

    /// Failed saves of rows: SQLSTATE, state, object, version, checksum, and how [`Stored::failed`] names them.
    async fn refused(&self) -> DatabaseRows {
        let sql = format!(
            "select sqlstate, coalesce(closed_reason, 'open'), collection || '/' || key[1], coalesce(body->>'version', 'none'), \
             body->>'checksum', collection || ' ' || key::text from forebay.failed_save where kind <> 'append' and sequence > {}",
            self.forgotten
        );
        self.database.rows(&sql).await
    }

    /// Rows that Postgres refused had a cause of ours, are of saves that were sent, and ended otherwise: retried, or overtaken and
    /// never written. Gives their names.
    fn judge_refusals(&self, history: &History, stored: &Stored, refused: DatabaseRows) -> HashSet<String> {
        let (sent, mut named) = (sets(history), HashSet::new());
        let applied: HashSet<_> = stored.applied.iter().map(|(object, version)| (object.clone(), version.to_string())).collect();
        for row in refused {
            let what = format!("{row:?}");
            let [Some(sqlstate), Some(state), Some(object), Some(version), checksum, Some(name)] = &row[..] else {
                panic!("half a failed save: {what}");
            };
            let save = (object.clone(), version.clone());
            assert!(self.refusals.contains(&**sqlstate), "failed without a cause: {what}");
            assert!(state == "retried" || state == "overtaken" && !applied.contains(&save), "failed for good, or written too: {what}");
            // A delete has no body.
            assert!(checksum.as_ref().is_none_or(|checksum| sent.get(&save) == Some(checksum)), "nobody sent it: {what}");
            named.insert(name.clone());
        }
        named
    }
}

/// New ones, and so are their objects.
fn clients(random: &mut Rng, log: &Arc<ClientLog>) -> Vec<Client> {
    let shape = Shape { batch_max: 12, filler: 20..400, poison_every: 1_000 };
    (0..CLIENTS).map(|n| Client::new(n, shape.clone(), random.fork(), Arc::clone(log))).collect()
}

/// Backends of the daemon.
pub(super) async fn sessions(session: &Session) -> Vec<i32> {
    let rows = session.query("select pid from pg_stat_activity where application_name = 'forebay'", &[]).await;
    rows.expect("Postgres answers").into_iter().map(|row| row.get(0)).collect()
}

/// Their checksums by object and version, as text.
fn sets(history: &History) -> HashMap<(String, String), String> {
    let sent = history.calls.iter().flat_map(|call| &call.saves).filter(|sent| sent.change == Change::Set);
    sent.map(|sent| ((sent.object.clone(), sent.version.to_string()), sent.checksum.to_string())).collect()
}

/// Waits are short, and most of what goes wrong is told in words of Postgres.
fn setup(home: &Home, roads: &[Road; 2], lanes: u64) -> Setup {
    let hosts: Vec<_> = roads.iter().map(|road| format!("127.0.0.1:{}", road.port())).collect();
    let url = format!("postgres://postgres@{}/postgres?target_session_attrs=read-write", hosts.join(","));
    let setup = Setup::new(&home.journal(), &url)
        .set("collections.notes.mode", "append")
        .set("lanes.default.window", "5 ms")
        .set("journal.segment_bytes", "4 MiB")
        .set("drain.retry_wait_max", "200 ms")
        .set("postgres.connect_timeout", "2 s")
        .set("postgres.statement_timeout", "2 s")
        .set("postgres.answer_grace", "1 s")
        .set("postgres.lock_timeout", "500 ms")
        .expect_in_log("postgres")
        .expect_in_log("halted: nothing is written until this is repaired");
    match lanes {
        1 => setup,
        _ => setup.set("lanes.second.collections", "stuff").set("lanes.third.collections", "goods"),
    }
}

/// What the daemon has said is kept with the rest of a run that failed.
impl Drop for Run {
    fn drop(&mut self) {
        self.load.abandon();
        if let Some(daemon) = self.daemon.take().filter(|_| std::thread::panicking()) {
            self.home.keep_lines(&daemon.lines(), "was running");
        }
    }
}
