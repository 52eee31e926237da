//! A small file system is filled, held full and freed again, over and over, under load (P1, P7, P8).
//!
//! The daemon has to refuse before its store meets a full disk (which would be fail stop), go on by itself once there is room, and
//! lose nothing. Between two fills the drain is paused or not, so that the journal grows, or gives back what is drained; sometimes the
//! daemon is killed while the disk is full, and started again when there is room.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use forebay::proto::{FlushRequest, save_service_client::SaveServiceClient};
use tokio::task::JoinHandle;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{Daemon, Database, Disk, Setup, eventually, lanes};

use super::{
    Home, SCHEMA,
    campaign::{self, Counts},
    check,
    client::{Client, Shape},
    client_log::ClientLog,
};

const CLIENTS: usize = 4;
/// Fills of a run.
const CYCLES: u64 = 4;
const DISK_MIB: u64 = 96;
/// `journal.free_bytes_min`: below it saves are refused.
const FREE_MIN_MIB: u64 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_again_and_again_costs_refusals_and_nothing_else() {
    campaign::run("full", 1, u64::MAX, |seed| async move { Run::new(seed).await.complete().await }).await;
}

/// What clients were told, counted.
#[derive(Debug, Default)]
struct Told {
    accepted: AtomicU64,
    disk_full: AtomicU64,
}

struct Run {
    random: Rng,
    disk: Disk,
    database: Database,
    setup: Setup,
    clients: Vec<Client>,
    told: Arc<Told>,
    log: Arc<ClientLog>,
    kills: u64,
    home: Home,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let (home, mut random) = (Home::new("full", seed), Rng::with_seed(seed));
        let (database, disk) = (Database::with(SCHEMA).await, Disk::mount(DISK_MIB));
        let log = Arc::new(ClientLog::create(&home.0.join("client-log")));
        let shape = Shape { batch_max: 40, filler: 100..3_000, poison_every: 1_000 };
        let setup = Setup::new(&disk.path().join("journal"), &database.url())
            .set("collections.notes.mode", "append")
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", "100 ms")
            .set("journal.free_bytes_min", &format!("{FREE_MIN_MIB} MiB"))
            .expect_in_log("postgres would not take")
            .expect_in_log("saves are refused")
            .expect_in_log("torn");
        let clients = (0..CLIENTS).map(|n| Client::new(n, shape.clone(), random.fork(), Arc::clone(&log))).collect();
        Self { random, disk, database, setup, clients, told: Arc::default(), log, kills: 0, home }
    }

    async fn complete(mut self) -> Counts {
        let mut daemon = self.setup.start().await;
        let mut clients = self.start_clients(&daemon).await;
        for _ in 0..CYCLES {
            self.go_on("before it is full").await;
            self.fill(&daemon).await;
            if self.random.u8(..4) == 0 {
                self.kill(daemon, clients).await;
                self.disk.empty();
                daemon = self.setup.start().await;
                clients = self.start_clients(&daemon).await;
            } else {
                self.disk.empty();
            }
            lanes::resume(&daemon).await;
            self.go_on("once there is room").await;
        }
        self.kill(daemon, clients).await;
        let daemon = self.setup.start().await;
        daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
        let ended = daemon.stop().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, Some(0));
        let history = self.log.history().await;
        check(&history, &self.database).await;
        let refused = self.told.disk_full.load(Ordering::Relaxed);
        let saved = history.acknowledged();
        Counts::from([("fills", CYCLES), ("refusals", refused), ("kills", self.kills), ("saves acknowledged", saved)])
    }

    /// Until saves are refused because of it; then leaves less and less, and holds it so for a while.
    async fn fill(&mut self, daemon: &Daemon) {
        if self.random.bool() {
            lanes::pause(daemon).await;
        }
        let mut leave = self.random.u64(1..FREE_MIN_MIB / 2) << 20;
        for hold in 0..3 {
            println!("full: {} KiB left, for the {hold}th time", leave >> 10);
            let before = self.told.disk_full.load(Ordering::Relaxed);
            eventually("saves are refused", || async {
                // Again and again: the journal gives up what is drained.
                self.disk.fill(leave);
                let error = daemon.lines().into_iter().find(|line| line["level"] == "ERROR");
                assert!(error.is_none(), "the daemon does not go on: {error:?}");
                (self.told.disk_full.load(Ordering::Relaxed) > before + 5).then_some(())
            })
            .await;
            leave = if self.random.bool() { 0 } else { leave / 2 };
        }
    }

    async fn go_on(&self, when: &str) {
        let before = self.told.accepted.load(Ordering::Relaxed);
        let accepted = || async { (self.told.accepted.load(Ordering::Relaxed) > before + 200).then_some(()) };
        eventually(&format!("saves are accepted {when}"), accepted).await;
    }

    async fn start_clients(&mut self, daemon: &Daemon) -> Vec<JoinHandle<Client>> {
        let mut started = Vec::new();
        for client in self.clients.drain(..) {
            started.push(tokio::spawn(save_until_it_ends(client, daemon.client().await, Arc::clone(&self.told))));
        }
        started
    }

    async fn kill(&mut self, daemon: Daemon, clients: Vec<JoinHandle<Client>>) {
        self.kills += 1;
        let ended = daemon.kill().await;
        self.home.keep_log(&ended);
        assert_eq!(ended.code, None, "ended by itself");
        for client in clients {
            self.clients.push(client.await.expect("the client ends with the daemon"));
        }
    }
}

/// Calls until the daemon is gone; comes back after a refusal, as it was told to.
async fn save_until_it_ends(mut client: Client, mut daemon: SaveServiceClient<Channel>, told: Arc<Told>) -> Client {
    loop {
        match client.call(&mut daemon).await {
            Ok(()) => drop(told.accepted.fetch_add(1, Ordering::Relaxed)),
            Err(refusal) if refusal.code() == Code::ResourceExhausted => {
                assert_eq!(reason(&refusal), "DISK_FULL", "{refusal:?}");
                told.disk_full.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => return client,
        }
    }
}

fn reason(refusal: &Status) -> String {
    refusal.get_details_error_info().expect("every refusal has ErrorInfo").reason
}
