//! A run: one daemon, who has to be served, and what is asked of it during and after each round.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use forebay::proto::FlushRequest;

use crate::{
    campaigns::{
        Home, SCHEMA,
        campaign::Counts,
        check,
        client::{Client, Shape},
        client_log::ClientLog,
    },
    support::{Daemon, Database, Setup, eventually, http_get, number, try_client},
};

use super::{KIB, Kind, LIMITS, MIB, capacity, honest::Honest};

/// Without minutes to fill.
const ROUNDS: u64 = 2;
/// How many clients save.
const CLIENTS: usize = 2;
/// What they and the probes have open.
pub(super) const HONEST_CONNECTIONS: usize = CLIENTS + 1;
/// What serving honest clients takes beside what it took before the first round: their backlog, and the same caches and buffers.
const HONEST_BYTES_MAX: u64 = 40 * MIB;
/// By how much the memory that is kept after a round may differ from that after the first, whatever the number of rounds: caches and
/// buffers of some 30 MiB are there after the first rounds, and their pages are touched one after the other.
const GROWTH_BYTES_MAX: u64 = 40 * MIB;
/// Files that come and go without overload: connections to Postgres, segments of the journal.
const OTHER_FILES: usize = 8;

pub(super) struct Run {
    kind: Kind,
    pub(super) random: Rng,
    pub(super) database: Database,
    address: SocketAddr,
    http: SocketAddr,
    /// Told to end only by [`Run::complete`].
    daemon: Option<Daemon>,
    clients: Vec<Client>,
    /// At work during a round.
    honest: Option<Honest>,
    log: Arc<ClientLog>,
    /// Before the first round.
    quiet: State,
    /// Memory after the first round.
    kept: Option<u64>,
    rounds: u64,
    ends_at: Option<Instant>,
    pub(super) counts: Counts,
    home: Home,
}

/// What nobody's overload may change for good.
#[derive(Debug)]
struct State {
    files: usize,
    memory: u64,
}

impl Run {
    pub(super) async fn new(kind: Kind, seed: u64) -> Self {
        let (home, mut random) = (Home::new(&format!("overload-{kind:?}"), seed), Rng::with_seed(seed));
        let database = Database::with(&format!("{SCHEMA}; {}", capacity::SCHEMA)).await;
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let shape = Shape { batch_max: 12, filler: 20..400, poison_every: u64::MAX };
        let clients = (0..CLIENTS).map(|n| Client::new(n, shape.clone(), random.fork(), Arc::clone(&log))).collect();
        let daemon = setup(kind, &home, &database).start().await;
        let mut run = Self {
            kind,
            random,
            database,
            address: daemon.grpc().await,
            http: daemon.http().await,
            daemon: Some(daemon),
            clients,
            honest: None,
            log,
            quiet: State { files: 0, memory: 0 },
            kept: None,
            rounds: 0,
            ends_at: number("FOREBAY_FAULTS_MINUTES").map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
            counts: Counts::new(),
            home,
        };
        run.begin().await;
        run.served().await;
        run.rest().await;
        run.quiet = State { files: run.files(), memory: run.memory("VmRSS:") };
        run
    }

    pub(super) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs until the run is complete")
    }

    /// Of the gRPC port.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether there is another round.
    pub(super) fn goes_on(&self) -> bool {
        self.rounds < ROUNDS || self.ends_at.is_some_and(|end| Instant::now() < end)
    }

    /// Honest clients and probes are at work, and the peak of memory is that of this round.
    pub(super) async fn begin(&mut self) {
        const RESET_PEAK: &str = "5";
        fs::write(self.proc("clear_refs"), RESET_PEAK).expect("the peak of memory is forgotten");
        let clients = std::mem::take(&mut self.clients);
        let may_be_refused = self.kind == Kind::TenTimesCapacity;
        self.honest = Some(Honest::start(self.daemon(), clients, may_be_refused).await);
    }

    pub(super) fn honest(&self) -> &Honest {
        self.honest.as_ref().expect("a round has begun")
    }

    /// Waits until honest clients and probes are served well, from now on.
    pub(super) async fn served(&self) {
        self.honest().served().await;
    }

    /// Strikes again and again until honest clients and probes were served well meanwhile; the sum of what was struck.
    pub(super) async fn while_serving<S: Future<Output = u64>>(&self, strike: impl Fn() -> S) -> u64 {
        let served = self.served();
        tokio::pin!(served);
        let (mut struck, mut is_served) = (0, false);
        while !is_served {
            let strike = strike();
            tokio::pin!(strike);
            struck += loop {
                tokio::select! {
                    () = &mut served, if !is_served => is_served = true,
                    count = &mut strike => break count,
                }
            };
        }
        struck
    }

    /// The overload is over: everything is as it was, by itself.
    pub(super) async fn end(&mut self, struck: u64) {
        let peak = self.memory("VmHWM:");
        let most = self.quiet.memory + HONEST_BYTES_MAX + self.kind.memory_max() + self.kind.kept_max();
        assert!(peak <= most, "{} KiB of memory, where the limits allow {} KiB", peak / KIB, most / KIB);
        self.rest().await;
        eventually("files are closed", || async { (self.files() <= self.quiet.files + OTHER_FILES).then_some(()) }).await;
        let kept = *self.kept.get_or_insert(self.memory("VmRSS:"));
        let most = kept + GROWTH_BYTES_MAX + self.kind.kept_max();
        eventually("memory stays what it was", || async { (self.memory("VmRSS:") <= most).then_some(()) }).await;
        println!("overload: {:?}: {struck} {}, {} KiB of memory at the peak", self.kind, self.kind.counted(), peak / KIB);
        *self.counts.entry(self.kind.counted()).or_default() += struck;
        self.rounds += 1;
    }

    /// Honest clients pause, a new one is served, and everything is written.
    async fn rest(&mut self) {
        let honest = self.honest.take().expect("a round has begun");
        let (clients, refused) = honest.stop().await;
        self.clients = clients;
        if refused > 0 {
            *self.counts.entry("honest calls refused").or_default() += refused;
        }
        let fresh = eventually("a new client is served", || try_client(self.address)).await;
        eventually("everything is written", || {
            let mut fresh = fresh.clone();
            async move { fresh.flush(FlushRequest::default()).await.ok() }
        })
        .await;
        drop(fresh);
        eventually("all that was taken is given back", || async { self.used().await.is_empty().then_some(()) }).await;
    }

    pub(super) async fn complete(mut self) -> Counts {
        let ended = self.daemon.take().expect("it runs").stop().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, Some(0));
        let history = self.log.history().await;
        check(&history, &self.database).await;
        let mut counts = std::mem::take(&mut self.counts);
        if self.kind == Kind::TenTimesCapacity {
            capacity::judge(&counts, &self.database).await;
        }
        counts.insert("rounds", self.rounds);
        counts.insert("saves acknowledged", history.acknowledged());
        counts
    }

    /// Calls in flight, and what is in use of the limits on connections, calls and what they hold, as the metrics show it; what is 0
    /// is left out.
    pub(super) async fn used(&self) -> Vec<String> {
        const SHOWN: [&str; 4] = [
            "forebay_calls_in_flight{",
            "forebay_limit_used{name=\"grpc.",
            "forebay_limit_used{name=\"backlog.",
            "forebay_limit_used{name=\"journal.inbox",
        ];
        let is_used =
            |line: &&str| SHOWN.iter().any(|begin| line.starts_with(begin)) && !line.contains("kind=\"size\"") && !line.ends_with(" 0");
        http_get(self.http, "/metrics").await.lines().filter(is_used).map(str::to_owned).collect()
    }

    /// How many files are open.
    pub(super) fn files(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("the daemon runs").count()
    }

    /// A line of its status, in bytes.
    fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the daemon runs");
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("no {line} in {status}")) * KIB
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.daemon().pid())
    }
}

fn setup(kind: Kind, home: &Home, database: &Database) -> Setup {
    let setup = Setup::new(&home.journal(), &database.url()).set("collections.notes.mode", "append").set("lanes.default.window", "5 ms");
    let setup = LIMITS.iter().chain(kind.limits()).fold(setup, |setup, (key, value)| setup.set(key, value));
    kind.logged().iter().fold(setup, |setup, message| setup.expect_in_log(message))
}

/// What the daemon has said is kept with the rest of a run that failed.
impl Drop for Run {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take().filter(|_| std::thread::panicking()) {
            let lines: String = daemon.lines().iter().map(|line| format!("{line}\n")).collect();
            if let Err(error) = fs::write(self.home.0.join("daemon.log"), lines) {
                println!("the daemon's log can't be kept: {error}");
            }
        }
    }
}
