//! Clients that remember when they sent each call and when they were told that it is safe: what a power cut may take depends on
//! nothing else.

use std::sync::Arc;

use fastrand::Rng;
use forebay::proto::save_service_client::SaveServiceClient;
use tonic::transport::Channel;

use crate::campaigns::{
    Home,
    client::{Client, Shape},
    client_log::{Call, ClientLog, History},
};

use super::trace::{Time, now};

/// A client with a log of its own, and when its calls were sent and acknowledged.
pub(super) struct Caller {
    client: Client,
    log: Arc<ClientLog>,
    times: Vec<(Time, Option<Time>)>,
}

/// The calls of one client, and when each was sent and acknowledged.
pub(crate) struct Told {
    history: History,
    times: Vec<(Time, Option<Time>)>,
}

impl Caller {
    pub(super) fn new(number: usize, home: &Home, random: Rng) -> Self {
        let log = Arc::new(ClientLog::create(&home.0.join(format!("client-log-{number}"))));
        let shape = Shape { batch_max: 20, filler: 20..6_000, poison_every: u64::MAX };
        Self { client: Client::new(number, shape, random, Arc::clone(&log)), log, times: Vec::new() }
    }

    /// So many calls, or up to one that fails, as it does when the daemon ends.
    pub(super) async fn save(mut self, mut daemon: SaveServiceClient<Channel>, calls: usize) -> Self {
        for _ in 0..calls {
            let sent = now();
            let called = self.client.call(&mut daemon).await;
            self.times.push((sent, called.is_ok().then(now)));
            if called.is_err() {
                break;
            }
        }
        self
    }

    pub(super) async fn told(self) -> Told {
        Told { history: self.log.history().await, times: self.times }
    }
}

/// When clients were told that their saves are safe.
pub(crate) fn acknowledgements(clients: &[Told]) -> Vec<Time> {
    clients.iter().flat_map(|told| told.times.iter().filter_map(|(_, acknowledged)| *acknowledged)).collect()
}

/// What had been sent and acknowledged by a moment.
pub(crate) fn history(clients: &[Told], at: Time) -> History {
    let calls = clients.iter().flat_map(|told| {
        let calls = told.history.calls.iter().zip(&told.times).filter(move |(_, (sent, _))| *sent <= at);
        calls.map(move |(call, (_, acknowledged))| Call {
            acknowledged: acknowledged.is_some_and(|acknowledged| acknowledged <= at),
            ..call.clone()
        })
    });
    History { calls: calls.collect() }
}
