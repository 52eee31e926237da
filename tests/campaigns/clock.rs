//! The system's clock is set by up to a day, ahead and back, while saves are accepted: nothing that was promised goes by what it shows.
//!
//! A run sets it again and again: first while a receiver of callbacks refuses, then with kills in between. Meanwhile clients save; a
//! call is repeated by its request id after each step, and has to be recognised; callbacks wait as long as they should.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use fastrand::Rng;
use forebay::proto::{FlushRequest, Save, SaveRequest};
use serde_json::json;
use tokio::{process::Command, task::JoinHandle};

use crate::support::{
    Daemon, Database, Setup, eventually,
    receiver::{Conduct, Receiver},
    saves::{request, set},
};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    check,
    client::{Client, Shape},
    client_log::ClientLog,
    shim,
};

pub(super) const DAY: i64 = 24 * 60 * 60;
const CLIENTS: usize = 4;
/// What the repeated calls add to: one that is applied twice shows.
const MARKS: &str = "create table marks (id text primary key, times int not null)";

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| shim::compile("clock"));

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_may_be_set_by_a_day_while_saves_are_accepted() {
    campaign::run("clock", 1, u64::MAX, |seed| async move { Run::new(seed).await.complete().await }).await;
}

/// The clock that the daemon sees.
pub(super) struct Clock {
    path: PathBuf,
    file: fs::File,
}

impl Clock {
    pub(super) fn new(path: PathBuf) -> Self {
        let file = fs::File::create(&path).expect("a file");
        let clock = Self { path, file };
        clock.set_ahead(0);
        clock
    }

    pub(super) fn set_ahead(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
    }

    pub(super) fn start(&self, setup: &Setup) -> Daemon {
        let mut launcher = Command::new("env");
        launcher.arg(format!("LD_PRELOAD={}", LIBRARY.display())).arg(format!("CLOCK_FILE={}", self.path.display()));
        setup.spawn_by(launcher)
    }
}

struct Run {
    random: Rng,
    clock: Clock,
    clients: Vec<Client>,
    database: Database,
    receiver: Receiver,
    setup: Setup,
    log: Arc<ClientLog>,
    /// Calls with a request id: of each, one is applied.
    marks: u64,
    home: Home,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let (home, mut random) = (Home::new("clock", seed), Rng::with_seed(seed));
        let database = Database::with(&format!("{SCHEMA}; {MARKS}")).await;
        let receiver = Receiver::start(Conduct::Answer(503)).await;
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let shape = Shape { batch_max: 20, filler: 20..200, poison_every: 1_000 };
        let setup = Setup::new(&home.journal(), &database.url())
            .set("collections.notes.mode", "append")
            .set("endpoints.told.url", &receiver.url())
            .set("endpoints.told.secret", "whsec_Zm9yZWJheSBzaG91bGQgYmUgYmVsaWV2ZWQ=")
            .set("endpoints.told.allow_loopback", "true")
            .expect_in_log("a callback was not delivered")
            .expect_in_log("postgres would not take")
            .expect_in_log("torn");
        let clients = (0..CLIENTS).map(|n| Client::new(n, shape.clone(), random.fork(), Arc::clone(&log))).collect();
        Self { clock: Clock::new(home.0.join("clock")), random, clients, database, receiver, setup, log, marks: 0, home }
    }

    async fn complete(mut self) -> Counts {
        let daemon = self.step_while_callbacks_wait().await;
        let kills = self.step_between_kills(daemon).await;
        let daemon = self.clock.start(&self.setup);
        daemon.serving().await;
        daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
        let ended = daemon.stop().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, Some(0));
        let history = self.log.history().await;
        check(&history, &self.database).await;
        let once = self.database.number("select count(*) from marks where times = 1").await;
        let all = self.database.number("select count(*) from marks").await;
        assert_eq!((once, all), (self.marks, self.marks), "each is applied once");
        Counts::from([("steps of the clock", self.marks), ("kills", kills), ("saves acknowledged", history.acknowledged())])
    }

    async fn step_while_callbacks_wait(&mut self) -> Daemon {
        let daemon = self.clock.start(&self.setup);
        daemon.serving().await;
        let clients = self.start_clients(&daemon).await;
        for ahead in self.draw_steps() {
            self.step(&daemon, ahead, "told").await;
        }
        self.receiver.conduct(Conduct::Answer(200));
        eventually("every outcome was told", || async { (self.receiver.told().len() as u64 == self.marks).then_some(()) }).await;
        self.kill(daemon, clients).await;
        let daemon = self.clock.start(&self.setup);
        daemon.serving().await;
        daemon
    }

    async fn step_between_kills(&mut self, mut daemon: Daemon) -> u64 {
        let mut kills = 1;
        for (ahead, next) in self.draw_steps().into_iter().zip(self.draw_steps()) {
            let clients = self.start_clients(&daemon).await;
            self.step(&daemon, ahead, "").await;
            self.kill(daemon, clients).await;
            kills += 1;
            self.clock.set_ahead(next);
            daemon = self.clock.start(&self.setup);
            daemon.serving().await;
        }
        assert_eq!(daemon.stop().await.code, Some(0));
        kills
    }

    /// A call, another time, and the call again.
    async fn step(&mut self, daemon: &Daemon, ahead: i64, callback: &str) {
        let mut client = daemon.client().await;
        let call = self.mark(callback);
        let first = client.save(call.clone()).await.expect("accepted").into_inner();
        self.clock.set_ahead(ahead);
        let again = client.save(call).await.expect("accepted before").into_inner();
        assert_eq!((again.ticket, again.deduplicated), (first.ticket, true));
        client.flush(FlushRequest::default()).await.expect("flushed, whatever the time");
    }

    fn mark(&mut self, callback: &str) -> SaveRequest {
        self.marks += 1;
        let id = self.marks.to_string();
        let save = Save { add: vec!["times".to_owned()], ..set("marks", &[&id], json!({"times": 1})) };
        SaveRequest { request_id: id, callback: callback.to_owned(), ..request(save) }
    }

    /// Where the clock goes: to both ends, back to the true time, and anywhere between, in an order of its own.
    fn draw_steps(&mut self) -> [i64; 4] {
        let mut steps = [DAY, -DAY, 0, self.random.i64(-DAY..=DAY)];
        self.random.shuffle(&mut steps);
        println!("clock: {steps:?} s ahead");
        steps
    }

    async fn start_clients(&mut self, daemon: &Daemon) -> Vec<JoinHandle<Client>> {
        let mut started = Vec::new();
        for client in self.clients.drain(..) {
            started.push(tokio::spawn(client.save_until_it_ends(daemon.client().await)));
        }
        started
    }

    async fn kill(&mut self, daemon: Daemon, clients: Vec<JoinHandle<Client>>) {
        let ended = daemon.kill().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, None, "ended by itself");
        for client in clients {
            self.clients.push(client.await.expect("the client ends with the daemon"));
        }
    }
}
