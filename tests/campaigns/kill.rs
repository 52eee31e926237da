//! SIGKILL: under load and at the moments at which the daemon changes something on disk or in Postgres, and often again while it
//! recovers from the last one (P1, P3, P6).
//!
//! A run is one journal and one database that go through every moment in an order of their own; every third run has one lane, three
//! lanes, or lanes that change from start to start. Postgres is away during some of the kills.

use std::{path::Path, sync::Arc, time::Duration};

use fastrand::Rng;
use forebay::proto::{DrainRequest, FlushRequest};
use tokio::task::JoinHandle;

use crate::support::{Daemon, Database, Ended, Setup, eventually, lanes};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    check,
    client::{Client, Shape},
    client_log::ClientLog,
};

const CLIENTS: usize = 8;

/// Settings of lanes.
type Layout = &'static [(&'static str, &'static str)];

const ONE_LANE: Layout = &[];
const THREE_LANES: Layout = &[("lanes.second.collections", "stuff"), ("lanes.third.collections", "goods")];

/// Each start of a run has one of them.
const LAYOUTS: [&[Layout]; 3] = [
    &[ONE_LANE],
    &[THREE_LANES],
    &[
        ONE_LANE,
        &[("lanes.second.collections", "stuff")],
        &[("lanes.second.collections", "goods"), ("lanes.third.collections", "stuff")],
        &[("lanes.third.collections", "things, stuff")],
    ],
];

/// What the daemon is doing when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Taking saves.
    Load,
    /// Recovering from a kill just before.
    Recovery,
    /// Going over to the next segment.
    Rotation,
    /// Removing a drained one.
    Trim,
    /// Looking for the save that Postgres won't take.
    Halving,
    /// Writing a large backlog, having closed its door.
    Drain,
    /// Stopping.
    Stop,
}

const MOMENTS: [Moment; 7] = [Moment::Load, Moment::Recovery, Moment::Rotation, Moment::Trim, Moment::Halving, Moment::Drain, Moment::Stop];

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_saves_survive_kills_at_any_moment_and_are_applied_once() {
    campaign::run("kill", 3, u64::MAX, |seed| async move { Run::new(seed).await.complete().await }).await;
}

/// One journal and one database, killed again and again.
struct Run {
    random: Rng,
    layouts: &'static [Layout],
    clients: Vec<Client>,
    database: Database,
    setup: Setup,
    log: Arc<ClientLog>,
    kills: u64,
    home: Home,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let (home, mut random) = (Home::new("kill", seed), Rng::with_seed(seed));
        let database = Database::alone(SCHEMA).await;
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let shape = Shape { batch_max: 40, filler: 20..400, poison_every: 300 };
        let setup = Setup::new(&home.journal(), &database.url())
            .set("collections.notes.mode", "append")
            .set("lanes.default.window", "5 ms")
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", "100 ms")
            .set("drain.retry_wait_max", "200 ms")
            // On a machine that is slow enough a start finds more than it drains in time, and keeps the lanes that it has.
            .expect_in_log("the lanes stay as they were")
            .expect_in_log("postgres")
            .expect_in_log("torn");
        let clients = (0..CLIENTS).map(|n| Client::new(n, shape.clone(), random.fork(), Arc::clone(&log))).collect();
        let layouts = LAYOUTS[usize::try_from(seed % 3).expect("three of them")];
        Self { random, layouts, clients, database, setup, log, kills: 0, home }
    }

    async fn complete(mut self) -> Counts {
        let mut moments = MOMENTS;
        self.random.shuffle(&mut moments);
        for moment in moments {
            self.cycle(moment).await;
        }
        if self.layouts.len() > 1 {
            self.change_lanes().await;
        }
        self.drain(&self.setup.clone()).await;
        let history = self.log.history().await;
        check(&history, &self.database).await;
        Counts::from([("kills", self.kills), ("saves acknowledged", history.acknowledged())])
    }

    /// Starts, writes everything, stops.
    async fn drain(&self, setup: &Setup) {
        let daemon = setup.start().await;
        daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
        let ended = daemon.stop().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, Some(0));
    }

    /// Kills a start that finds other lanes and nothing that waits; the next one has them.
    async fn change_lanes(&mut self) {
        println!("kill: ChangeOfLanes");
        let (old, new) = (self.with_layout(self.layouts[0]), self.with_layout(self.layouts[1]));
        self.drain(&old).await;
        self.strike_while_it_starts(&new).await;
        let daemon = new.start().await;
        eventually("the new lanes are in force", || async { (lanes::all(&daemon).await.len() == 2).then_some(()) }).await;
        self.kill(daemon).await;
    }

    /// A start, load, and a kill; sometimes another one while it starts again.
    async fn cycle(&mut self, moment: Moment) {
        println!("kill: {moment:?}");
        let daemon = self.draw_setup().start().await;
        let clients = self.start_clients(&daemon).await;
        // What Postgres has to do can't be waited for without it.
        let without_postgres = self.random.u8(..3) == 0 && !matches!(moment, Moment::Trim | Moment::Halving | Moment::Drain);
        if without_postgres {
            self.database.stop_postgres();
        }
        self.strike(moment, daemon).await;
        for client in clients {
            self.clients.push(client.await.expect("the client ends with the daemon"));
        }
        if moment == Moment::Recovery || self.random.u8(..3) == 0 {
            let setup = self.draw_setup();
            self.strike_while_it_starts(&setup).await;
        }
        if without_postgres {
            self.database.start_postgres();
        }
    }

    fn draw_setup(&mut self) -> Setup {
        let layout = self.layouts[self.random.usize(..self.layouts.len())];
        self.with_layout(layout)
    }

    fn with_layout(&self, layout: Layout) -> Setup {
        layout.iter().fold(self.setup.clone(), |setup, (key, value)| setup.set(key, value))
    }

    async fn start_clients(&mut self, daemon: &Daemon) -> Vec<JoinHandle<Client>> {
        let mut started = Vec::new();
        for client in self.clients.drain(..) {
            started.push(tokio::spawn(client.save_until_it_ends(daemon.client().await)));
        }
        started
    }

    async fn strike(&mut self, moment: Moment, daemon: Daemon) {
        match moment {
            Moment::Load | Moment::Recovery => self.wait(20..400).await,
            Moment::Rotation => {
                let before = newest_segment(&self.home.journal());
                eventually("another segment", || async { (newest_segment(&self.home.journal()) > before).then_some(()) }).await;
                self.wait(0..40).await;
            }
            Moment::Trim => {
                let before = oldest_segment(&self.home.journal());
                eventually("a segment goes", || async { (oldest_segment(&self.home.journal()) > before).then_some(()) }).await;
                self.wait(0..20).await;
            }
            Moment::Halving => {
                daemon.logged("postgres would not take a generation: halving it").await;
                self.wait(0..60).await;
            }
            Moment::Drain => {
                lanes::pause(&daemon).await;
                self.wait(100..300).await;
                lanes::resume(&daemon).await;
                let mut admin = daemon.admin().await;
                // It ends with the daemon, if not before.
                tokio::spawn(async move { admin.drain(DrainRequest::default()).await });
                self.wait(0..200).await;
            }
            Moment::Stop => {
                self.wait(20..200).await;
                daemon.signal(rustix::process::Signal::TERM);
                self.wait(0..300).await;
            }
        }
        let ended = self.kill(daemon).await;
        assert!(ended.code.is_none() || moment == Moment::Stop && ended.code == Some(0), "ended by itself with {:?}", ended.code);
    }

    /// Between its first act and some time after it serves.
    async fn strike_while_it_starts(&mut self, setup: &Setup) {
        let daemon = setup.spawn();
        daemon.logged("listening").await;
        self.wait(0..600).await;
        let ended = self.kill(daemon).await;
        assert_eq!(ended.code, None, "ended by itself");
    }

    async fn kill(&mut self, daemon: Daemon) -> Ended {
        self.kills += 1;
        let ended = daemon.kill().await;
        self.home.keep_log(&ended);
        ended
    }

    /// The moment of a kill is anybody's guess: this is what is drawn, not what anything waits for.
    async fn wait(&mut self, millis: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(millis))).await;
    }
}

fn newest_segment(journal: &Path) -> u64 {
    segments(journal).max().unwrap_or(0)
}

pub(super) fn oldest_segment(journal: &Path) -> u64 {
    segments(journal).min().unwrap_or(0)
}

fn segments(journal: &Path) -> impl Iterator<Item = u64> {
    let entries = std::fs::read_dir(journal.join("segments")).expect("the journal is there");
    entries.filter_map(|entry| entry.expect("an entry").file_name().to_str()?.parse().ok())
}
