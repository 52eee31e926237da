//! A daemon for the client's tests: real gRPC on a port of its own, answers as told, no journal.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Code, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto::{self, OffsetRange, StreamOpened, save_service_server::SaveServiceServer};

use service::Service;
use wire::Lingering;
pub(crate) use wire::Wire;

mod service;
mod stream;
mod wire;

/// What one call of a stream of answers is told; then it says nothing more, unless that was an error.
pub(crate) type Script<T> = Vec<Result<T, Status>>;

/// What the fake remembers, and how it is to answer.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Errors for the next unary calls.
    pub(crate) errors: VecDeque<Status>,
    /// Keys of accepted saves, in order.
    pub(crate) accepted: Vec<String>,
    /// The last accepted offset of each stream.
    pub(crate) streams: HashMap<String, u64>,
    /// Keys that streams refuse.
    pub(crate) refused_keys: Vec<String>,
    /// Keys whose saves are accepted and fail.
    pub(crate) failing_keys: Vec<String>,
    /// What is known of tickets; nothing of the others.
    pub(crate) tickets: HashMap<String, proto::TicketStatus>,
    /// What is read, by key.
    pub(crate) objects: HashMap<String, proto::GetResponse>,
    /// What the next watches tell.
    pub(crate) watches: VecDeque<Script<proto::WatchOutcomesResponse>>,
    /// Pages of the next loads, which then end.
    pub(crate) loads: VecDeque<Script<proto::LoadResponse>>,
    /// What watches and loads were asked to resume from.
    pub(crate) resumed_from: Vec<String>,
    /// Accept unary saves, and calls that await a ticket, and never answer.
    pub(crate) mute: bool,
    /// Connections that saves came over since the last start.
    pub(crate) peers: BTreeSet<SocketAddr>,
    /// What streams have refused.
    refused: HashMap<String, Vec<u64>>,
    /// Saves that streams accept before they keep quiet.
    pub(crate) answer_saves_max: Option<u64>,
    pub(crate) unary_calls: u64,
    /// Those that unary calls carried, accepted or not.
    pub(crate) request_ids: Vec<String>,
    pub(crate) stream_calls: u64,
    /// The first message of the last stream.
    pub(crate) stream_opened: proto::SaveStreamRequest,
    pub(crate) await_calls: u64,
    pub(crate) deadlines: Vec<bool>,
}

impl State {
    fn open(&self, stream_id: &str) -> StreamOpened {
        let known = self.streams.get(stream_id).copied();
        let acknowledged_through = known.unwrap_or_default();
        let refused = self.refused.get(stream_id).into_iter().flatten().copied();
        let missing = refused.filter(|&offset| offset < acknowledged_through).map(|offset| OffsetRange { first: offset, last: offset });
        StreamOpened { known: known.is_some(), acknowledged_through, missing: missing.collect() }
    }
}

/// A running fake. Stops at once when dropped, gracefully with [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    /// The listening socket.
    door: OwnedFd,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default()).await
    }

    /// Starts on a port that it can come back to: below the ephemeral ones, where another socket, or a client that tries again
    /// and again, might take it meanwhile.
    pub(crate) async fn start_to_restart() -> Self {
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(free).expect("a port is free");
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], port)), Arc::default()).await
    }

    /// Starts again where another stopped, with what it remembered.
    pub(crate) async fn start_on(address: SocketAddr, state: Arc<Mutex<State>>) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("the port is known");
        let door = listener.as_fd().try_clone_to_owned().expect("a descriptor is free");
        let (stop, stopped) = oneshot::channel::<()>();
        state.lock().expect("no holder panics").peers.clear();
        let service = SaveServiceServer::new(Service::new(Arc::clone(&state)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = Server::builder().add_service(service);
            let incoming = TcpListenerStream::new(listener).map(|socket| socket.map(Lingering));
            server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.expect("the fake serves");
        });
        Self { address, state, door, stop: Some(stop), tasks }
    }

    /// Ends and breaks every connection; another one takes over with what it remembered.
    pub(crate) async fn restart_behind(self, wire: &Wire) -> Self {
        let fake = Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::clone(&self.state)).await;
        wire.retarget(fake.address);
        drop(self);
        wire.cut();
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Finishes open calls and closes, as the daemon does on SIGTERM.
    pub(crate) async fn stop(mut self) -> (SocketAddr, Arc<Mutex<State>>) {
        // Nobody may connect any more before the first GOAWAY. To close it wouldn't do: a test that starts a process may have
        // copied it.
        let door = std::net::TcpStream::from(self.door);
        door.shutdown(std::net::Shutdown::Both).expect("the socket is ours");
        drop(self.stop.take());
        self.tasks.join_next().await.expect("it runs").expect("it doesn't panic");
        (self.address, Arc::clone(&self.state))
    }
}

/// An error as the daemon makes them.
pub(crate) fn error(code: Code, reason: &str, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "forebay.dev", HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, "as told", details)
}

/// An error that says something of itself.
pub(crate) fn error_with(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<_, _> = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Status::with_error_details(code, "as told", ErrorDetails::with_error_info(reason, "forebay.dev", metadata))
}
