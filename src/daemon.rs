//! The composition root: opens, recovers, connects, spawns, waits, stops. Alone knows the topology.
//!
//! Start is recovery: the journal is audited and read from the lanes' positions, its entries go through the same door as live
//! ones, and only then does health say SERVING. Stop is the end of input running down the pipe: no new calls, the calls in
//! flight are answered, the journal closes its inbox, the lanes drain until the deadline, the rest stays in the journal.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    exit::{Exit, Failure, OrExit},
    grpc::{self, Health},
    http,
    settings::Settings,
};

mod append;
mod aside;
mod callbacks;
mod catalog;
mod control;
mod core;
mod failed;
mod gaps;
mod lanes;
mod layout;
mod log;
mod observe;
mod outcomes;
mod page;
mod reads;
mod recovery;
mod rewinds;
mod streams;
mod target;
mod watch;

pub use self::core::journal_failure;
use self::{control::Controls, core::Core, page::Page};

/// The stop of a daemon that something broke.
const BROKEN_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often histograms are put in order.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Where the daemon listens; bound before anything else, so that a clash is found first.
#[derive(Debug)]
pub struct Listeners {
    /// For saves.
    pub grpc: TcpListener,
    /// For metrics and probes.
    pub http: TcpListener,
}

/// What is asked of one start.
#[derive(Debug, Default)]
pub struct Options {
    /// Take the position rows over from whoever has them.
    pub take_over: bool,
    /// Told once saves are accepted.
    pub ready: Option<oneshot::Sender<()>>,
    /// Tells that the catalog is to be read again.
    pub reread: Arc<Notify>,
}

/// What a stop leaves in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Saves that are not in Postgres.
    pub saves: u64,
    /// Objects that they change.
    pub objects: u64,
    /// Postgres has said in this run that it holds everything: without a contact no backlog proves nothing, because Postgres
    /// may have gone back in time; then what it lost is counted nowhere.
    pub drained: bool,
}

impl Listeners {
    /// Binds both addresses.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] with the address that can't be had.
    pub async fn bind(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { grpc: listen("grpc.listen", settings.grpc.listen).await?, http: listen("http.listen", settings.http.listen).await? })
    }

    /// The addresses that were bound: gRPC and HTTP.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (local(&self.grpc), local(&self.http))
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| Failure { exit: Exit::Unavailable, error: anyhow::anyhow!("listen on {address} ({key}): {error}") })
}

/// Runs a daemon until `stop`, or until something ends it.
///
/// # Errors
/// [`Failure`], with the exit code, when it can't start, when the journal fails (P8), or when another daemon has taken over.
pub async fn run(settings: Settings, listeners: Listeners, options: Options, stop: CancellationToken) -> Result<Left, Failure> {
    let (grpc_address, http_address) = listeners.addresses();
    tracing::info!(grpc = %grpc_address, http = %http_address, "listening");
    let (health, page, http_stop) = (Health::default(), Page::default(), CancellationToken::new());
    let mut http = tokio::spawn(http::serve(listeners.http, page.pages(&health), http_stop.clone()));
    let mut core = Core::start(&settings, options.take_over, &stop).await?;
    page.show(&core, &health);
    let upkeep = tokio::spawn(keep_up(core.observer.0.clone()));
    let rereading = tokio::spawn(reread(Arc::clone(&core.controls), options.reread));

    let grpc_stop = CancellationToken::new();
    let front_door = grpc::serve(listeners.grpc, settings.grpc.clone(), handles(&core, &settings, &health), grpc_stop.clone());
    let mut front_door = tokio::spawn(async move {
        if let Err(error) = front_door.await {
            tracing::error!(%error, "the front door broke");
        }
    });
    health.serving();
    core.observer.0.recovered(core.started.elapsed());
    tracing::info!(seconds = core.started.elapsed().as_secs_f64(), "serving");
    if let Some(ready) = options.ready {
        // Whoever asked may have gone away.
        let _ = ready.send(());
    }

    let ended = tokio::select! {
        ended = core.wait(&stop) => ended,
        _ = &mut front_door => Err(ended_early("the front door")),
        _ = &mut http => Err(ended_early("the http port")),
    };
    tracing::info!("stopping");
    health.stopping();
    // What broke can't be mended by waiting: whoever restarts us should do so soon (P8).
    let deadline = Instant::now() + if ended.is_ok() { settings.stop.timeout } else { settings.stop.timeout.min(BROKEN_STOP_TIMEOUT) };
    grpc_stop.cancel();
    ended_by(deadline, front_door, "the front door").await;
    page.hide();
    rereading.abort();
    let left = core.stop(&settings, deadline).await;
    http_stop.cancel();
    upkeep.abort();
    ended_by(deadline, http, "the http port").await;
    ended?;
    left
}

fn handles(core: &Core, settings: &Settings, health: &Health) -> grpc::Handles {
    grpc::Handles {
        appender: Arc::new(core.journal.appender()),
        control: Arc::clone(&core.controls) as Arc<dyn grpc::Control>,
        reads: Arc::new(core.reads.clone()),
        limits: core.limits.clone(),
        lanes: core.controls.lanes.iter().map(|lane| lane.name().to_string()).collect(),
        tickets: core.controls.tickets.clone(),
        endpoints: settings.endpoints.keys().cloned().collect(),
        streams: Arc::clone(&core.streams),
        request_ids: Arc::clone(&core.request_ids),
        health: health.clone(),
        events: Arc::new(core.observer.clone()),
    }
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("it is bound")
}

async fn keep_up(metrics: crate::metrics::Metrics) {
    loop {
        tokio::time::sleep(UPKEEP_INTERVAL).await;
        metrics.run_upkeep();
    }
}

async fn reread(controls: Arc<Controls>, asked: Arc<Notify>) {
    loop {
        asked.notified().await;
        controls.reread_catalog().await;
    }
}

/// Every task lives as long as the daemon: one that ends by itself takes it along.
fn ended_early(name: &str) -> Failure {
    Failure { exit: Exit::Internal, error: anyhow::anyhow!("{name} ended by itself") }
}

/// Waits for a task, but not longer than the stop may take.
async fn ended_by(deadline: Instant, mut task: JoinHandle<()>, name: &'static str) {
    if task.is_finished() {
        return;
    }
    match tokio::time::timeout_at(deadline, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, name, "a task ended badly"),
        Err(_) => {
            tracing::warn!(name, "did not end before stop.timeout");
            task.abort();
        }
    }
}

/// A daemon in this process, for the bench. Dropped, it is left to itself.
#[derive(Debug)]
pub struct Running {
    grpc: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<Left, Failure>>,
}

/// Starts a daemon in this process and returns once it serves.
///
/// # Errors
/// As [`run`].
pub async fn start(settings: Settings) -> Result<Running, Failure> {
    let listeners = Listeners::bind(&settings).await?;
    let (grpc, _) = listeners.addresses();
    let (ready, serves) = oneshot::channel();
    let stop = CancellationToken::new();
    let options = Options { ready: Some(ready), ..Options::default() };
    let task = tokio::spawn(run(settings, listeners, options, stop.clone()));
    let running = Running { grpc, stop, task };
    match serves.await {
        Ok(()) => Ok(running),
        Err(_) => Err(running.stop().await.expect_err("a daemon that never served has failed")),
    }
}

impl Running {
    /// Where it takes saves.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Stops it.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn stop(self) -> Result<Left, Failure> {
        self.stop.cancel();
        self.task.await.or_exit(Exit::Internal, "run the daemon")?
    }
}

/// Writes everything that a journal holds to Postgres and accepts nothing: for a journal whose host is gone.
///
/// # Errors
/// As [`run`].
pub async fn drain(settings: Settings, options: Options, stop: CancellationToken) -> Result<Left, Failure> {
    let core = Core::start_as_it_is(&settings, options.take_over, &stop).await?;
    if let Err(why) = core.drained(settings.postgres.first_wait, &stop).await {
        tracing::error!(%why, "the journal can't be drained");
    }
    let deadline = Instant::now() + settings.stop.timeout;
    core.stop(&settings, deadline).await
}
