//! Clients that save versions of objects, remember what they were told, and compare it with Postgres.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay::proto::save_service_client::SaveServiceClient;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};

use super::{
    Daemon, Database,
    saves::{request, set},
};

/// The table that the clients save to.
pub(crate) const SCHEMA: &str = "create table things (id text primary key, version bigint not null, filler text)";

/// Refused clients come back after this: their load must not drown what the test looks at.
const REFUSED_WAIT: Duration = Duration::from_millis(20);

/// What a client knows of its object.
#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    sent: u64,
    acknowledged: u64,
}

/// Clients, each with an object of its own.
#[derive(Clone)]
pub(crate) struct Load(Arc<Inner>);

struct Inner {
    objects: Vec<Mutex<Versions>>,
    filler: String,
    refused: Mutex<Option<Status>>,
    /// A client was told that the outcome of its call is unknown: nothing may be acknowledged any more.
    failed: AtomicBool,
}

impl Load {
    /// So many clients; saves of about so many bytes.
    pub(crate) fn new(clients: usize, bytes: usize) -> Self {
        let objects = (0..clients).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { objects, filler: "x".repeat(bytes), refused: Mutex::default(), failed: AtomicBool::new(false) }))
    }

    /// Lets every client save again and again until a call fails for another reason than a limit. Gives those failures.
    pub(crate) async fn start(&self, daemon: &Daemon) -> JoinSet<Status> {
        let mut clients = JoinSet::new();
        for n in 0..self.0.objects.len() {
            clients.spawn(self.clone().save_on(daemon.client().await, n));
        }
        clients
    }

    async fn save_on(self, mut client: SaveServiceClient<Channel>, n: usize) -> Status {
        loop {
            let failed_before = self.0.failed.load(Ordering::SeqCst);
            match self.save(&mut client, n).await {
                Ok(()) => assert!(!failed_before, "acknowledged after another call was told that its outcome is unknown (P8)"),
                Err(status) if status.code() == Code::ResourceExhausted => {
                    *self.0.refused.lock().expect("no client panics with it") = Some(status);
                    tokio::time::sleep(REFUSED_WAIT).await;
                }
                Err(status) => {
                    self.0.failed.store(true, Ordering::SeqCst);
                    return status;
                }
            }
        }
    }

    /// One save of the next version of a client's object.
    pub(crate) async fn save(&self, client: &mut SaveServiceClient<Channel>, n: usize) -> Result<(), Status> {
        let version = {
            let mut versions = self.object(n);
            versions.sent += 1;
            versions.sent
        };
        let body = json!({"version": version, "filler": self.0.filler});
        client.save(request(set("things", &[&n.to_string()], body))).await?;
        self.object(n).acknowledged = version;
        Ok(())
    }

    fn object(&self, n: usize) -> std::sync::MutexGuard<'_, Versions> {
        self.0.objects[n].lock().expect("no client panics with it")
    }

    /// The sum of the versions last acknowledged: as long as none is refused, the number of saves acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        (0..self.0.objects.len()).map(|n| self.object(n).acknowledged).sum()
    }

    /// Takes the latest refusal at a limit.
    pub(crate) fn take_refusal(&self) -> Option<Status> {
        self.0.refused.lock().expect("no client panics with it").take()
    }

    /// Every object is there at the version acknowledged, or at a newer one that was sent.
    pub(crate) async fn is_in(&self, database: &Database) {
        let rows = database.rows("select id, version from things").await;
        let text = |value: &Option<String>| value.clone().expect("not null");
        let stored: HashMap<_, u64> = rows.iter().map(|row| (text(&row[0]), text(&row[1]).parse().expect("a number"))).collect();
        for n in 0..self.0.objects.len() {
            let (stored, versions) = (stored.get(&n.to_string()).copied().unwrap_or(0), *self.object(n));
            assert!((versions.acknowledged..=versions.sent).contains(&stored), "object {n}: stored {stored}, but {versions:?}");
        }
    }
}
