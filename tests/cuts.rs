//! The way to Postgres breaks at every message of a lane's transactions, in every way, and what was sent late arrives late:
//! every save is in Postgres once and in order (P3, P5, P6).
//!
//! `FOREBAY_CUTS` sets how many ways are tried at each message (CI: one, drawn; all: 7), `FOREBAY_SEED` replays.

use fastrand::Rng;
use forebay::proto::{FlushRequest, Save, SaveBatchRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::{
    Daemon, Database, HANG, Setup, database_rows, directory, eventually,
    proxy::{Break, Fault, Passed, Proxy, Way},
    runs,
    saves::{batch, request, set},
    seed,
};

/// A row of `log` twice is an append applied twice. The trigger logs every version that is written: a version twice, or
/// falling, is a save applied twice or out of order. `rounds` is added to: once too often is a save applied twice.
const SCHEMA: &str = "
    create table log (number bigserial primary key, round bigint not null);
    create table things (id text primary key, version bigint not null check (version > 0), rounds bigint);
    create table applied (number bigserial primary key, id text not null, version bigint not null);
    create function note() returns trigger language plpgsql as
        $$ begin insert into applied (id, version) values (new.id, new.version); return null; end $$;
    create trigger note after insert or update on things for each row execute function note();
    create table warm (id text primary key, round bigint not null);
";

/// What the tables say, in one row: appended, out of order; versions written, out of order; rounds added; failed saves.
const TABLES: &str = "
    select (select count(*) from log),
        (select count(*) from (select round <= lag(round) over (order by number) as wrong from log) l where wrong),
        (select count(*) from applied),
        (select count(*) from (select version <= lag(version) over (partition by id order by number) as wrong from applied) a where wrong),
        (select coalesce(sum(rounds), 0) from things),
        (select count(*) from forebay.failed_save)";

/// How many rounds are tried for a fault to happen.
const ROUNDS_MAX: usize = 5;

/// What a round saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An atomic batch: a row appended, two objects set, one of which counts the rounds.
    Good,
    /// A save that Postgres will not take: a transaction is rolled back, the next one writes a failed save.
    Poison,
}

/// A daemon with a proxy before its Postgres, and what must be there.
struct Course {
    database: Database,
    proxy: Proxy,
    setup: Setup,
    daemon: Daemon,
    client: SaveServiceClient<Channel>,
    round: u64,
    good: u64,
    poison: u64,
    _journal: TempDir,
}

impl Course {
    async fn start(database: Database) -> Self {
        let (journal, proxy) = (directory(), Proxy::start(&database.url()).await);
        let setup = Setup::new(journal.path(), proxy.url())
            .set("collections.log.mode", "append")
            .set("drain.retry_wait_min", "1 ms")
            .set("drain.retry_wait_max", "20 ms")
            .set("postgres.lock_timeout", "200 ms")
            .set("postgres.statement_timeout", "400 ms")
            .set("postgres.answer_grace", "300 ms")
            .expect_in_log("postgres");
        let daemon = setup.start().await;
        let client = daemon.client().await;
        Self { database, proxy, setup, daemon, client, round: 0, good: 0, poison: 0, _journal: journal }
    }

    /// The saves of a round of this kind are accepted.
    async fn save(&mut self, kind: Kind) {
        self.round += 1;
        let version = json!({"version": self.round});
        match kind {
            Kind::Good => {
                self.good += 1;
                let append = Save { key: Vec::new(), ..set("log", &[], json!({"round": self.round})) };
                let counted = set("things", &["a"], json!({"version": self.round, "rounds": 1}));
                let counted = Save { add: vec!["rounds".to_owned()], ..counted };
                let saves = vec![append, counted, set("things", &["b"], version)];
                self.client.save_batch(SaveBatchRequest { atomic: true, ..batch(saves) }).await.expect("accepted");
            }
            Kind::Poison => {
                self.poison += 1;
                self.client.save(request(set("things", &["a"], json!({"version": -1})))).await.expect("accepted");
            }
        }
    }

    async fn flush(&mut self) {
        let flushed = tokio::time::timeout(HANG, self.client.flush(FlushRequest::default())).await;
        flushed.unwrap_or_else(|_| panic!("it never ends: {:#?}", self.daemon.lines())).expect("flushed");
    }

    /// The lane has a sound connection.
    async fn warm_up(&mut self) {
        self.client.save(request(set("warm", &["1"], json!({"round": self.round})))).await.expect("accepted");
        self.flush().await;
    }

    /// A whole round with this fault; panics if it doesn't happen. A statement that a busy machine makes too slow ends a
    /// transaction before the message comes: then another round is tried.
    async fn run(&mut self, kind: Kind, fault: Option<Fault>) -> Passed {
        for _ in 0..ROUNDS_MAX {
            self.warm_up().await;
            self.proxy.watch(fault);
            self.save(kind).await;
            self.flush().await;
            let (passed, happened) = (self.proxy.passed(), self.proxy.has_happened());
            self.proxy.release();
            if happened == fault.is_some() {
                return passed;
            }
        }
        panic!("{fault:?} never happens, the last time it passed {:?}", self.proxy.passed());
    }

    /// Every save is in Postgres once, and in order.
    async fn check(&self, what: &str) {
        let [good, versions, poison] = [self.good, self.good * 2, self.poison].map(|count| count.to_string());
        let expected = database_rows([[Some(&*good), Some("0"), Some(&*versions), Some("0"), Some(&*good), Some(&*poison)]]);
        assert_eq!(self.database.rows(TABLES).await, expected, "after {what}");
    }

    /// The same when nothing that was sent can arrive any more: every session that wrote, but the lane's own, has ended.
    async fn check_at_the_end(mut self, what: &str) {
        self.proxy.release();
        self.warm_up().await;
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'forebay'";
        eventually("old sessions end", || async { (self.database.number(sessions).await <= 3).then_some(()) }).await;
        self.check(what).await;
        assert_eq!(self.daemon.stop().await.code, Some(0));
    }
}

/// Every way to break at one message. Stalled, a message that arrives is one that the next one waits behind.
fn ways_to_break() -> Vec<(bool, Break)> {
    let both = |how| [(false, how), (true, how)];
    [Break::Reset, Break::Close, Break::HalfClose].into_iter().flat_map(both).chain([(false, Break::Stall)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_connection_breaks_every_save_is_in_postgres_once() {
    let mut random = Rng::with_seed(seed("cuts"));
    let began = std::time::Instant::now();
    let (at_each, mut cuts) = (runs("FOREBAY_CUTS", 1), 0);
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    for kind in [Kind::Good, Kind::Poison] {
        let Passed { to_server, to_daemon, .. } = course.run(kind, None).await;
        course.check("a round without a fault").await;
        println!("cuts: {kind:?}: {} messages to the server, {} to the daemon", to_server.len(), to_daemon.len());
        for (way, messages) in [(Way::ToServer, &to_server), (Way::ToDaemon, &to_daemon)] {
            for (message, told) in messages.iter().enumerate() {
                for (delivered, how) in random.choose_multiple(ways_to_break(), usize::try_from(at_each).expect("a small number")) {
                    let fault = Fault { way, message, delivered, how };
                    course.run(kind, Some(fault)).await;
                    course.check(&format!("{fault} ({told}) of {kind:?}")).await;
                    cuts += 1;
                }
            }
        }
    }
    println!(
        "cuts: {cuts} breaks in {:?}, {} appended, {} failed, 0 lost, 0 twice, 0 out of order",
        began.elapsed(),
        course.good,
        course.poison
    );
    course.check_at_the_end("all of them").await;
}

/// Where a message stands among those of a round without a fault.
fn number(messages: &[String], told: &str) -> usize {
    messages.iter().position(|message| message == told).unwrap_or_else(|| panic!("{told} is not among {messages:?}"))
}

impl Course {
    /// A good round, of which this message does not arrive before [`Proxy::release`].
    async fn hold(&mut self, way: Way, told: &str) {
        self.break_at(way, told, Break::Hold).await;
    }

    async fn break_at(&mut self, way: Way, told: &str, how: Break) {
        let passed = self.run(Kind::Good, None).await;
        let messages = if way == Way::ToServer { &passed.to_server } else { &passed.to_daemon };
        let fault = Fault { way, message: number(messages, told), delivered: false, how };
        self.proxy.watch(Some(fault));
        self.save(Kind::Good).await;
        self.proxy.happened().await;
    }

    /// The backend that this leaves in the middle of a transaction.
    async fn backend_in_transaction(&self) -> rustix::process::Pid {
        self.backend("state = 'idle in transaction'").await
    }

    async fn backend(&self, which: &str) -> rustix::process::Pid {
        let query =
            format!("select pid from pg_stat_activity where datname = current_database() and application_name = 'forebay' and {which}");
        let rows = eventually("there is one such backend", || async {
            let rows = self.database.rows(&query).await;
            (rows.len() == 1).then_some(rows)
        });
        let pid = rows.await[0][0].as_ref().and_then(|pid| pid.parse().ok()).expect("a process id");
        rustix::process::Pid::from_raw(pid).expect("a process id")
    }

    /// The lane tries again, and waits for the lock of its own old transaction.
    async fn retry_waits_for_the_lock(&self) {
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        eventually("the retry waits for the position row", || async { (self.database.number(waits).await > 0).then_some(()) }).await;
    }
}

/// COMMIT included: a network or a pooler that delivers everything once more, after the fact.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_flight_that_arrives_after_its_retry_changes_nothing() {
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    for kind in [Kind::Good, Kind::Poison] {
        let passed = course.run(kind, None).await;
        assert!(passed.to_server.contains(&"Q commit".to_owned()), "{passed:?}");
        let said = course.proxy.replay(&passed.bytes).await;
        assert!(said.contains(&"E 22012".to_owned()) && said.contains(&"C ROLLBACK".to_owned()), "{said:?}");
        assert!(!said.contains(&"C COMMIT".to_owned()), "{said:?}");
        course.check("its flight came again").await;
    }
    course.check_at_the_end("all of them").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_arrives_after_its_retry_changes_nothing() {
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    course.hold(Way::ToServer, "Q begin isolation level read committed read write").await;
    course.flush().await;
    course.check("the retry").await;
    course.check_at_the_end("the old BEGIN arrived").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_arrives_while_its_retry_waits_happens_once() {
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    course.hold(Way::ToServer, "Q commit").await;
    course.retry_waits_for_the_lock().await;
    course.proxy.release();
    course.flush().await;
    course.check("the old COMMIT arrived").await;
    course.check_at_the_end("it is over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_stopped_before_its_transaction_that_goes_on_after_the_retry_changes_nothing() {
    use rustix::process::{Signal, kill_process};
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    course.warm_up().await;
    let backend = course.backend("state = 'idle' and query like '%lane_position%'").await;
    kill_process(backend, Signal::STOP).expect("the backend is ours to stop");
    course.save(Kind::Good).await;
    course.flush().await;
    course.check("the retry").await;
    kill_process(backend, Signal::CONT).expect("the backend is ours to continue");
    course.check_at_the_end("the old backend went on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_stopped_before_commit_that_goes_on_after_the_retry_commits_once() {
    use rustix::process::{Signal, kill_process};
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    course.hold(Way::ToServer, "Q commit").await;
    let backend = course.backend_in_transaction().await;
    kill_process(backend, Signal::STOP).expect("the backend is ours to stop");
    // Into its socket, where it waits.
    course.proxy.release();
    course.retry_waits_for_the_lock().await;
    kill_process(backend, Signal::CONT).expect("the backend is ours to continue");
    course.flush().await;
    course.check("the old backend went on").await;
    course.check_at_the_end("it is over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_in_the_position_row() {
    let mut course = Course::start(Database::with(SCHEMA).await).await;
    course.break_at(Way::ToDaemon, "C COMMIT", Break::Reset).await;
    course.flush().await;
    course.daemon.logged("the transaction in doubt was committed").await;
    course.check("its answer was lost").await;
    course.check_at_the_end("it is over").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_after_a_restart_too() {
    for kills in [false, true] {
        let mut course = Course::start(Database::with(SCHEMA).await).await;
        course.warm_up().await;
        course.proxy.set_down(true);
        course.break_at(Way::ToDaemon, "C COMMIT", Break::Reset).await;
        let Course { setup, daemon, .. } = course;
        if kills {
            daemon.kill().await
        } else {
            daemon.stop().await
        };
        course.daemon = setup.start().await;
        course.setup = setup;
        course.client = course.daemon.client().await;
        course.proxy.set_down(false);
        course.flush().await;
        course.daemon.logged("the position is ahead of what the journal noted").await;
        course.check("its answer was lost, and the daemon started again").await;
        course.check_at_the_end("it is over").await;
    }
}
