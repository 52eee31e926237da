//! The campaign's clients, saving until they are told to stop. Whatever happens to Postgres, no call fails (P10): only while a
//! table is changed may a save that no longer fits it be refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay::proto::save_service_client::SaveServiceClient;
use tokio::task::JoinSet;
use tonic::{Code, transport::Channel};

use crate::{
    campaigns::client::Client,
    support::{Daemon, HANG},
};

/// Between a client's calls: enough of them to keep every transaction busy, and few enough for the checks.
const PACE: Duration = Duration::from_millis(8);

/// Clients at work.
pub(super) struct Load {
    ends: Arc<AtomicBool>,
    tables_change: Arc<AtomicBool>,
    /// Calls that were refused.
    refused: Arc<AtomicU64>,
    clients: JoinSet<Client>,
}

impl Load {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { ends: Arc::default(), tables_change: Arc::default(), refused: Arc::default(), clients: JoinSet::new() }
    }

    pub(super) async fn start(&mut self, daemon: &Daemon, clients: Vec<Client>) {
        self.ends.store(false, Ordering::Relaxed);
        for client in clients {
            let saving = save_until(
                client,
                daemon.client().await,
                Arc::clone(&self.ends),
                Arc::clone(&self.tables_change),
                Arc::clone(&self.refused),
            );
            self.clients.spawn(saving);
        }
    }

    /// Gives them back, once the call that each has open is answered.
    pub(super) async fn stop(&mut self) -> Vec<Client> {
        self.ends.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        while let Some(ended) = tokio::time::timeout(HANG, self.clients.join_next()).await.expect("a call is answered") {
            clients.push(ended.expect("a client's calls are acknowledged"));
        }
        clients
    }

    /// Nobody waits for them any more.
    pub(super) fn abandon(&mut self) {
        self.clients.abort_all();
    }

    /// Whether saves may be refused because a table isn't what they are made for.
    pub(super) fn set_tables_change(&self, change: bool) {
        self.tables_change.store(change, Ordering::Relaxed);
    }

    /// How many calls were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

async fn save_until(
    mut client: Client,
    mut daemon: SaveServiceClient<Channel>,
    ends: Arc<AtomicBool>,
    tables_change: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
) -> Client {
    while !ends.load(Ordering::Relaxed) {
        let may_be_refused = tables_change.load(Ordering::Relaxed);
        match client.call(&mut daemon).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::InvalidArgument && may_be_refused => drop(refused.fetch_add(1, Ordering::Relaxed)),
            Err(status) => panic!("a save is not acknowledged: {status:?}"),
        }
        tokio::time::sleep(PACE).await;
    }
    client
}
