//! Who has to be served whatever others do: clients that save, and probes that ask for health, over gRPC and over HTTP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use forebay::proto::save_service_client::SaveServiceClient;
use tokio::{task::JoinHandle, time::timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::{
    campaigns::client::Client,
    support::{Daemon, HANG, eventually, http},
};

/// Between the calls of one of them.
const PACE: Duration = Duration::from_millis(5);
/// Being served well: so many more calls acknowledged, and so many probes answered.
const CALLS: u64 = 20;
const PROBES: u64 = 3;

/// Honest clients and probes at work.
pub(super) struct Honest {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<Client>>,
    probes: Vec<JoinHandle<()>>,
}

/// How they fare.
#[derive(Debug, Default)]
struct Tally {
    ends: AtomicBool,
    calls: AtomicU64,
    refused: AtomicU64,
    health: AtomicU64,
    pages: AtomicU64,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Honest {
    /// Connects them, and lets them begin.
    pub(super) async fn start(daemon: &Daemon, clients: Vec<Client>, may_be_refused: bool) -> Self {
        let tally = Arc::<Tally>::default();
        let mut saving = Vec::new();
        for client in clients {
            saving.push(tokio::spawn(save(client, daemon.client().await, Arc::clone(&tally), may_be_refused)));
        }
        let health = tokio::spawn(ask_for_health(daemon.channel().await, Arc::clone(&tally)));
        let pages = tokio::spawn(ask_for_pages(daemon.http().await, Arc::clone(&tally)));
        Self { tally, clients: saving, probes: vec![health, pages] }
    }

    /// Waits until they are served well, from now on; over new connections too, which the HTTP port takes for each request.
    pub(super) async fn served(&self) {
        let pages = || self.tally.pages.load(Ordering::Relaxed);
        let before = pages();
        self.served_as_connected().await;
        eventually("probes are answered over HTTP", || async { (pages() >= before + PROBES).then_some(()) }).await;
    }

    /// The same, over the connections that they have.
    pub(super) async fn served_as_connected(&self) {
        let now = || (self.tally.calls.load(Ordering::Relaxed), self.tally.health.load(Ordering::Relaxed));
        let before = now();
        eventually("honest clients are served", || async {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client has failed");
            assert!(!self.probes.iter().any(JoinHandle::is_finished), "a probe has failed");
            let (calls, health) = now();
            (calls >= before.0 + CALLS && health >= before.1 + PROBES).then_some(())
        })
        .await;
    }

    /// Ends them once what they have open is answered; gives the clients back, and how many of their calls were refused.
    pub(super) async fn stop(self) -> (Vec<Client>, u64) {
        self.tally.ends.store(true, Ordering::Relaxed);
        for probe in self.probes {
            probe.await.expect("probes are answered");
        }
        let mut clients = Vec::new();
        for client in self.clients {
            clients.push(client.await.expect("calls are acknowledged"));
        }
        (clients, self.tally.refused.load(Ordering::Relaxed))
    }
}

async fn save(mut client: Client, mut daemon: SaveServiceClient<Channel>, tally: Arc<Tally>, may_be_refused: bool) -> Client {
    while tally.goes_on() {
        match timeout(HANG, client.call(&mut daemon)).await.expect("a call is answered") {
            Ok(()) => count(&tally.calls),
            Err(status) if may_be_refused => {
                count(&tally.refused);
                tokio::time::sleep(comes_back_after(&status)).await;
            }
            Err(status) => panic!("an honest client is not served: {status:?}"),
        }
        tokio::time::sleep(PACE).await;
    }
    client
}

/// A refusal at a limit names it, and says when to come back.
pub(super) fn comes_back_after(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert!(info.metadata.contains_key("limit"), "{info:?}");
    assert!(status.get_details_quota_failure().is_some(), "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    let delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay).expect("RetryInfo");
    assert_eq!(pushback.map(Duration::from_millis), Some(delay), "{status:?}");
    delay
}

async fn ask_for_health(channel: Channel, tally: Arc<Tally>) {
    let mut health = HealthClient::new(channel);
    while tally.goes_on() {
        let answer = timeout(HANG, health.check(HealthCheckRequest::default())).await.expect("health is told").expect("health is told");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
        count(&tally.health);
        tokio::time::sleep(PACE).await;
    }
}

async fn ask_for_pages(address: SocketAddr, tally: Arc<Tally>) {
    while tally.goes_on() {
        let (code, body) = timeout(HANG, http(address, "/readyz")).await.expect("readiness is told");
        assert_eq!(code, 200, "{body}");
        count(&tally.pages);
        tokio::time::sleep(PACE).await;
    }
}
