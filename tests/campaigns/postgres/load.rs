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
pub(in crate::campaigns) struct Load {
    orders: Arc<Orders>,
    clients: JoinSet<Client>,
}

/// What they are told, and what they tell.
#[derive(Default)]
struct Orders {
    ends: AtomicBool,
    in_haste: AtomicBool,
    tables_change: AtomicBool,
    /// Calls that were refused.
    refused: AtomicU64,
}

impl Load {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { orders: Arc::default(), clients: JoinSet::new() }
    }

    pub(super) async fn start(&mut self, daemon: &Daemon, clients: Vec<Client>) {
        self.orders.ends.store(false, Ordering::Relaxed);
        for client in clients {
            self.clients.spawn(save_until(client, daemon.client().await, Arc::clone(&self.orders)));
        }
    }

    /// Gives them back, once the call that each has open is answered.
    pub(in crate::campaigns) async fn stop(&mut self) -> Vec<Client> {
        self.orders.ends.store(true, Ordering::Relaxed);
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
        self.orders.tables_change.store(change, Ordering::Relaxed);
    }

    /// Whether they call as fast as they are answered.
    pub(in crate::campaigns) fn set_in_haste(&self, haste: bool) {
        self.orders.in_haste.store(haste, Ordering::Relaxed);
    }

    /// How many calls were refused.
    pub(super) fn refused(&self) -> u64 {
        self.orders.refused.load(Ordering::Relaxed)
    }
}

async fn save_until(mut client: Client, mut daemon: SaveServiceClient<Channel>, orders: Arc<Orders>) -> Client {
    while !orders.ends.load(Ordering::Relaxed) {
        let may_be_refused = orders.tables_change.load(Ordering::Relaxed);
        match client.call(&mut daemon).await {
            Ok(()) => {}
            Err(status) if status.code() == Code::InvalidArgument && may_be_refused => {
                orders.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => panic!("a save is not acknowledged: {status:?}"),
        }
        if !orders.in_haste.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
        }
    }
    client
}
