//! A daemon for the client's tests: real gRPC on a port of its own, answers as told, no journal.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream, wrappers::UnboundedReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{
        Server,
        server::{Connected, TcpConnectInfo},
    },
};
use tonic_types::{ErrorDetails, StatusExt};

use crate::proto::{
    self, OffsetRange, SaveStreamRequest, SaveStreamResponse, StreamAcknowledged, StreamOpened, StreamRefused,
    save_service_server::{SaveService, SaveServiceServer},
    save_stream_response::Event,
};

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
    /// Accept unary saves and never answer.
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
        let service = SaveServiceServer::new(Service { state: Arc::clone(&state) });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = Server::builder().add_service(service);
            let incoming = TcpListenerStream::new(listener).map(|socket| socket.map(Lingering));
            server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.expect("the fake serves");
        });
        Self { address, state, door, stop: Some(stop), tasks }
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

/// A server's end of a connection, closed as the daemon does it: it reads on until the client has closed too. Closing a socket
/// that holds unread calls resets the connection, and the reset overtakes the GOAWAY that says they were not processed.
struct Lingering(TcpStream);

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_shutdown(cx))?;
        loop {
            let mut bytes = [0; 1_024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Connected for Lingering {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.connect_info()
    }
}

/// Something between client and fake that can be cut.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("the port is known");
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let mut accepting = JoinSet::new();
        let accepted = Arc::clone(&connections);
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        accepting.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *current.lock().expect("no holder panics");
                accepted.lock().expect("no holder panics").spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, target, connections, _accepting: accepting }
    }

    /// Where new connections lead.
    pub(crate) fn retarget(&self, target: SocketAddr) {
        *self.target.lock().expect("no holder panics") = target;
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.connections.lock().expect("no holder panics").abort_all();
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

struct Service {
    state: Arc<Mutex<State>>,
}

impl Service {
    fn unary(&self, deadline: bool, request_id: String, saves: &[proto::Save]) -> Result<Vec<String>, Status> {
        let mut state = self.state.lock().expect("no holder panics");
        state.unary_calls += 1;
        state.deadlines.push(deadline);
        state.request_ids.extend(Some(request_id).filter(|id| !id.is_empty()));
        if let Some(status) = state.errors.pop_front() {
            return Err(status);
        }
        state.accepted.extend(saves.iter().map(|save| save.key.concat()));
        Ok(saves.iter().map(|save| format!("ticket-{}", save.key.concat())).collect())
    }
}

fn has_deadline<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key("grpc-timeout")
}

type Answers = Pin<Box<dyn Stream<Item = Result<SaveStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SaveService for Service {
    async fn save(&self, request: Request<proto::SaveRequest>) -> Result<Response<proto::SaveResponse>, Status> {
        let (deadline, peer) = (has_deadline(&request), request.remote_addr());
        let proto::SaveRequest { save, request_id, .. } = request.into_inner();
        let ticket = self.unary(deadline, request_id, &[save.expect("a save")])?.remove(0);
        let mute = {
            let mut state = self.state.lock().expect("no holder panics");
            state.peers.extend(peer);
            state.mute
        };
        if mute {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(proto::SaveResponse { ticket, ..Default::default() }))
    }

    async fn save_batch(&self, request: Request<proto::SaveBatchRequest>) -> Result<Response<proto::SaveBatchResponse>, Status> {
        let deadline = has_deadline(&request);
        let batch = request.into_inner();
        let tickets = self.unary(deadline, batch.request_id, &batch.saves)?;
        let results = tickets.into_iter().map(|ticket| proto::SaveResult { ticket, ..Default::default() }).collect();
        Ok(Response::new(proto::SaveBatchResponse { results, deduplicated: false }))
    }

    type SaveStreamStream = Answers;

    async fn save_stream(&self, request: Request<Streaming<SaveStreamRequest>>) -> Result<Response<Answers>, Status> {
        {
            let mut state = self.state.lock().expect("no holder panics");
            state.stream_calls += 1;
            if let Some(status) = state.errors.pop_front() {
                return Err(status);
            }
        }
        let (answer, answers) = mpsc::unbounded_channel();
        tokio::spawn(take_stream(Arc::clone(&self.state), request.into_inner(), answer));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    type LoadStream = Pin<Box<dyn Stream<Item = Result<proto::LoadResponse, Status>> + Send>>;
    type WatchOutcomesStream = Pin<Box<dyn Stream<Item = Result<proto::WatchOutcomesResponse, Status>> + Send>>;

    async fn get_ticket(&self, _: Request<proto::GetTicketRequest>) -> Result<Response<proto::GetTicketResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn await_ticket(&self, _: Request<proto::AwaitTicketRequest>) -> Result<Response<proto::AwaitTicketResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_outcomes(&self, _: Request<proto::WatchOutcomesRequest>) -> Result<Response<Self::WatchOutcomesStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn load(&self, _: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn flush(&self, request: Request<proto::FlushRequest>) -> Result<Response<proto::FlushResponse>, Status> {
        self.unary(has_deadline(&request), String::new(), &[])?;
        Ok(Response::new(proto::FlushResponse { through: 7 }))
    }

    async fn list_collections(
        &self,
        _: Request<proto::ListCollectionsRequest>,
    ) -> Result<Response<proto::ListCollectionsResponse>, Status> {
        Ok(Response::new(proto::ListCollectionsResponse::default()))
    }
}

type Answer = mpsc::UnboundedSender<Result<SaveStreamResponse, Status>>;

/// Serves one stream until it breaks.
async fn take_stream(state: Arc<Mutex<State>>, mut messages: Streaming<SaveStreamRequest>, answer: Answer) {
    let Some(Ok(first)) = messages.next().await else { return };
    let stream_id = first.stream_id.clone();
    // Nobody may be left to hear an answer.
    let tell = |event| drop(answer.send(Ok(SaveStreamResponse { event: Some(event) })));
    if !stream_id.is_empty() {
        tell(Event::Opened(state.lock().expect("no holder panics").open(&stream_id)));
    }
    let mut next = Some(first);
    while let Some(message) = next {
        let through = message.offset + message.saves.len() as u64;
        let (refused, quiet) = take_saves(&mut state.lock().expect("no holder panics"), &stream_id, message);
        refused.into_iter().for_each(tell);
        if !quiet && through > 0 {
            tell(Event::Acknowledged(StreamAcknowledged { through: through - 1, ..Default::default() }));
        }
        next = messages.next().await.and_then(Result::ok);
    }
}

/// Accepts and refuses; whether to keep quiet about it.
fn take_saves(state: &mut State, stream_id: &str, message: SaveStreamRequest) -> (Vec<Event>, bool) {
    let quiet = |state: &State| state.answer_saves_max.is_some_and(|max| state.accepted.len() as u64 > max);
    let mut refused = Vec::new();
    for (offset, save) in (message.offset..).zip(message.saves) {
        let key = save.key.concat();
        if state.refused_keys.contains(&key) {
            state.refused.entry(stream_id.to_owned()).or_default().push(offset);
            let code = Code::InvalidArgument.into();
            let event = Event::Refused(StreamRefused { offset, code, message: "as told".to_owned(), details: Vec::new() });
            refused.extend((!quiet(state)).then_some(event));
        } else if stream_id.is_empty() || state.streams.get(stream_id).is_none_or(|&through| offset > through) {
            // Else a connection that broke is still being read while the next one sends the same again.
            state.accepted.push(key);
            state.streams.insert(stream_id.to_owned(), offset);
        }
    }
    (refused, quiet(state))
}
