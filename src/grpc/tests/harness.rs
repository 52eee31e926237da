//! A front door on a port of its own, and its clients.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::{Notify, OwnedMutexGuard, mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::{ErrorInfo, StatusExt};
use uuid::Uuid;

use crate::{
    collections::{Catalog, Collection, Collections},
    failed::{FailedFilter, FailedPage, FailedQuery, FailedRow},
    grpc::{
        Append, AppendDone, AppendError, Control, Events, FailedStanding, FlushError, Handles, Health, LoadPage, LoadQuery, Loading,
        ReadError, ReadObject, Reads, RequestIds, Resume, SettleError, Streams, door::Door, fixtures, save_service::SaveService, serve,
    },
    limits::Limits,
    outcomes::{Named, Outcome, State, Ticket, TicketStatus, Tickets, Untold, Waiters, Waiting, Watch, WatchEnd, WatchEvent},
    proto::{
        self, SaveStreamRequest, SaveStreamResponse, admin_service_client::AdminServiceClient, save::Change,
        save_service_client::SaveServiceClient, save_stream_response::Event,
    },
    save::{Key, LaneId, Save, Sequence},
    settings::{GrpcSettings, Settings},
    status::{JournalStatus, LaneState, LaneStatus, StatusSnapshot},
};

/// Nothing here takes as long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens within the patience of a test")
}

/// What the journal does with an append.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Conduct {
    Answer,
    /// Until it is released.
    Hold,
    Fail(AppendError),
    /// As a journal whose thread is gone.
    Drop,
}

pub(super) struct FakeJournal {
    state: Mutex<FakeState>,
    /// Saves handed over.
    pub(super) handed: watch::Sender<usize>,
}

struct FakeState {
    conduct: Conduct,
    gate: Result<(), AppendError>,
    next: Sequence,
    saved: Vec<Save>,
    held: VecDeque<(Vec<Save>, AppendDone)>,
}

impl FakeJournal {
    fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().expect("no test panics under it")
    }

    pub(super) fn conduct(&self, conduct: Conduct) {
        self.state().conduct = conduct;
    }

    pub(super) fn gate(&self, gate: Result<(), AppendError>) {
        self.state().gate = gate;
    }

    pub(super) fn saved(&self) -> Vec<Save> {
        self.state().saved.clone()
    }

    /// Keys of the saves, in order.
    pub(super) fn keys(&self) -> Vec<String> {
        self.saved().iter().map(|save| save.key.parts().collect::<Vec<_>>().join("/")).collect()
    }

    /// Waits until so many saves were handed over.
    pub(super) async fn handed(&self, count: usize) {
        soon(self.handed.subscribe().wait_for(|&handed| handed >= count)).await.expect("the journal lives");
    }

    /// Answers what is held, and everything after it.
    pub(super) fn release(&self) {
        self.conduct(Conduct::Answer);
        let held = std::mem::take(&mut self.state().held);
        for (saves, done) in held {
            self.answer(saves, done);
        }
    }

    /// Fails what is held.
    pub(super) fn fail(&self, error: AppendError) {
        let held = std::mem::take(&mut self.state().held);
        for (_, done) in held {
            done(Err(error));
        }
    }

    fn answer(&self, saves: Vec<Save>, done: AppendDone) {
        let first = {
            let mut state = self.state();
            let first = state.next;
            state.next = first.plus(saves.len() as u64);
            state.saved.extend(saves);
            first
        };
        done(Ok(first));
    }
}

impl Append for FakeJournal {
    fn gate(&self) -> Result<(), AppendError> {
        self.state().gate
    }

    fn append_with(&self, _: &Collections, saves: Vec<Save>, done: AppendDone) {
        let (conduct, count) = (self.state().conduct, saves.len());
        match conduct {
            Conduct::Answer => self.answer(saves, done),
            Conduct::Hold => self.state().held.push_back((saves, done)),
            Conduct::Fail(error) => done(Err(error)),
            Conduct::Drop => drop(done),
        }
        self.handed.send_modify(|handed| *handed += count);
    }
}

pub(super) struct FakeDaemon {
    collections: Mutex<Arc<Collections>>,
    /// What the next reading of the catalog finds.
    pub(super) catalog: Mutex<Catalog>,
    pub(super) readings: Mutex<usize>,
    /// What a flush answers; without it, it waits for ever.
    pub(super) flush: Mutex<Option<Result<Sequence, FlushError>>>,
    pub(super) paused: Mutex<Vec<(LaneId, String, Duration)>>,
    /// What there is of failed saves, oldest first.
    pub(super) failed: Mutex<Vec<FailedRow>>,
    /// How each of them stands at the last moment.
    pub(super) standing: Mutex<FailedStanding>,
    pub(super) probes: Mutex<usize>,
    care: Arc<tokio::sync::Mutex<()>>,
    /// What is known of saves; of all others that they are pending.
    pub(super) outcomes: Mutex<HashMap<Sequence, Result<TicketStatus, Untold>>>,
    pub(super) waiters: Arc<Waiters>,
    /// The newest save that the lane was given.
    pub(super) newest: Mutex<Sequence>,
    /// What a watcher is told next; nothing, if there is none.
    pub(super) told: Mutex<VecDeque<Result<Vec<WatchEvent>, WatchEnd>>>,
    pub(super) telling: Notify,
    /// Those who watch, as they asked.
    pub(super) watches: Mutex<Vec<Watch>>,
}

impl FakeDaemon {
    /// A save has its outcome.
    pub(super) fn settle(&self, sequence: u64, outcome: Result<TicketStatus, Untold>) {
        self.outcomes.lock().expect("no test panics under it").insert(Sequence::from_u64(sequence), outcome);
        self.waiters.settled(Sequence::from_u64(sequence));
    }

    /// A watcher is to be told this.
    pub(super) fn tell(&self, told: Result<Vec<WatchEvent>, WatchEnd>) {
        self.told.lock().expect("no test panics under it").push_back(told);
        self.telling.notify_one();
    }
}

/// Knows one object, and one page without end.
pub(super) struct FakeReads;

#[tonic::async_trait]
impl Reads for FakeReads {
    async fn get(&self, _: &Arc<Collection>, key: &Key, _: Duration) -> Result<ReadObject, ReadError> {
        match key.parts().next() {
            Some("1") => Ok(ReadObject { json: Some(b"{\"id\":1}".to_vec()), pending: true, unknown: vec!["name".to_owned()] }),
            Some("2") => Ok(ReadObject { json: None, pending: false, unknown: Vec::new() }),
            Some("3") => Ok(ReadObject { json: Some(vec![b' '; 9 << 20]), pending: false, unknown: Vec::new() }),
            Some("4") => std::future::pending().await,
            _ => Err(ReadError("it is away".to_owned())),
        }
    }

    fn load(&self, query: LoadQuery) -> Box<dyn Loading> {
        Box::new(FakeLoading(query))
    }
}

struct FakeLoading(LoadQuery);

#[tonic::async_trait]
impl Loading for FakeLoading {
    async fn next(&mut self) -> Result<Option<LoadPage>, ReadError> {
        let object = ReadObject { json: Some(vec![b' '; 100_000]), pending: false, unknown: Vec::new() };
        self.0.after = Some(Key::from_parts(["7"]));
        let rows_loaded = self.0.rows_max;
        Ok(Some(LoadPage { objects: vec![(Key::from_parts(["7"]), object)], after: self.0.after.clone(), rows_loaded, rows_estimated: 9 }))
    }
}

#[tonic::async_trait]
impl Control for FakeDaemon {
    fn collections(&self) -> Arc<Collections> {
        Arc::clone(&self.collections.lock().expect("no test panics under it"))
    }

    async fn refresh_collections(&self) -> Arc<Collections> {
        *self.readings.lock().expect("no test panics under it") += 1;
        let mut collections = self.collections.lock().expect("no test panics under it");
        *collections = Arc::new(fixtures::build(&self.catalog.lock().expect("no test panics under it"), &collections));
        Arc::clone(&collections)
    }

    async fn flush(&self, _: &[LaneId]) -> Result<Sequence, FlushError> {
        let answer = self.flush.lock().expect("no test panics under it").clone();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn pause(&self, lanes: &[LaneId], reason: &str, duration: Duration) -> SystemTime {
        let mut paused = self.paused.lock().expect("no test panics under it");
        paused.extend(lanes.iter().map(|&lane| (lane, reason.to_owned(), duration)));
        SystemTime::UNIX_EPOCH + duration
    }

    async fn resume(&self, lanes: &[LaneId], _: Resume) -> Vec<LaneId> {
        let mut paused = self.paused.lock().expect("no test panics under it");
        let resumed = lanes.iter().filter(|&&lane| paused.iter().any(|one| one.0 == lane)).copied().collect();
        paused.clear();
        resumed
    }

    fn probe(&self) {
        *self.probes.lock().expect("no test panics under it") += 1;
    }

    async fn list_failed(&self, query: &FailedQuery) -> Result<FailedPage, String> {
        let failed = self.failed.lock().expect("no test panics under it").clone();
        let named = |row: &FailedRow| query.filter.sequences.as_ref().is_none_or(|named| named.contains(&row.sequence));
        let in_state = |row: &FailedRow| query.filter.states.is_empty() || query.filter.states.contains(&row.state());
        let mut rows: Vec<_> = failed.into_iter().filter(|row| row.sequence > query.after && named(row) && in_state(row)).collect();
        let more = rows.len() > query.rows_max as usize;
        rows.truncate(query.rows_max as usize);
        Ok(FailedPage { rows, more })
    }

    async fn settle_failed(&self) -> Result<(), SettleError> {
        let flush = self.flush.lock().expect("no test panics under it").clone();
        flush
            .map_or_else(|| Err(SettleError::Unavailable("not counted".to_owned())), |flushed| flushed.map(drop).map_err(SettleError::Lane))
    }

    async fn failed_care(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.care).lock_owned().await
    }

    fn failed_standings(&self, sequences: &[Sequence]) -> Vec<FailedStanding> {
        vec![*self.standing.lock().expect("no test panics under it"); sequences.len()]
    }

    async fn discard_failed(&self, filter: &FailedFilter, _: &str) -> Result<Vec<Sequence>, String> {
        let named = filter.sequences.clone().ok_or("postgres is away")?;
        let known = self.failed.lock().expect("no test panics under it").clone();
        Ok(named.into_iter().filter(|sequence| known.iter().any(|row| row.sequence == *sequence)).collect())
    }

    fn lane_of(&self, _: &str) -> LaneId {
        LaneId(0)
    }

    async fn ticket(&self, ticket: Ticket) -> Result<TicketStatus, Untold> {
        let outcomes = self.outcomes.lock().expect("no test panics under it");
        outcomes.get(&ticket.sequence).cloned().unwrap_or(Ok(TicketStatus::of(State::Pending)))
    }

    fn outcomes(&self, tickets: &[Ticket]) -> Vec<Outcome> {
        let outcomes = self.outcomes.lock().expect("no test panics under it");
        let told = |ticket: &Ticket| match outcomes.get(&ticket.sequence) {
            Some(Ok(TicketStatus { state, superseded, .. })) => Outcome { state: *state, superseded: *superseded },
            _ => Outcome::PENDING,
        };
        tickets.iter().map(told).collect()
    }

    fn newest(&self, lane: LaneId) -> Ticket {
        Ticket { sequence: *self.newest.lock().expect("no test panics under it"), lane }
    }

    fn wait(&self, ticket: Ticket) -> Waiting {
        self.waiters.wait(ticket.sequence)
    }

    async fn watched(&self, watch: &mut Watch) -> Result<Vec<WatchEvent>, WatchEnd> {
        self.watches.lock().expect("no test panics under it").push(watch.clone());
        loop {
            let told = self.told.lock().expect("no test panics under it").pop_front();
            match told {
                Some(told) => return told,
                None => self.telling.notified().await,
            }
        }
    }

    async fn status(&self) -> StatusSnapshot {
        StatusSnapshot {
            version: "0.1.0",
            started_at: SystemTime::UNIX_EPOCH,
            journal_id: JOURNAL.to_string(),
            run: 3,
            accepted_through: Sequence::from_u64(9),
            postgres_up: true,
            lanes: vec![LaneStatus {
                name: "default".to_owned(),
                state: LaneState::Halted,
                reason: "no such column".to_owned(),
                remedy: "add it".to_owned(),
                position: Sequence::from_u64(8),
                backlog_objects: 1,
                backlog_bytes: 2,
                backlog_saves: 3,
                oldest_accepted_at: None,
                pause_ends_at: None,
                rows_written: 4,
                transactions: 5,
                statement_rows: 1_000,
            }],
            collections: Vec::new(),
            journal: JournalStatus { retained: Duration::from_secs(600), ..JournalStatus::default() },
            limits: Vec::new(),
            failed_saves: 0,
            newest_failed_saves: Vec::new(),
            refused_tables: 1,
            endpoints: Vec::new(),
        }
    }
}

/// Listens to no events.
struct Nobody;

impl Events for Nobody {}

pub(super) const JOURNAL: Uuid = Uuid::from_u128(0x0189_d0a2_7c1e_7cc3_98c4_dc0c_0c07_398f);

/// As the front door names saves.
pub(super) fn tickets() -> Tickets {
    Tickets::new(JOURNAL, &[1; Tickets::KEY_BYTES])
}

/// The save that a ticket names.
pub(super) fn sequence(ticket: &str) -> u64 {
    let Named::Save(ticket) = tickets().read(ticket) else { panic!("{ticket} is no ticket of this journal") };
    ticket.sequence.get()
}

/// A running front door.
pub(super) struct Harness {
    pub(super) address: SocketAddr,
    pub(super) journal: Arc<FakeJournal>,
    pub(super) daemon: Arc<FakeDaemon>,
    pub(super) limits: Limits,
    pub(super) streams: Arc<Streams>,
    pub(super) health: Health,
    pub(super) handles: Handles,
    pub(super) stop: CancellationToken,
    pub(super) served: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Starts one that serves.
pub(super) async fn start() -> Harness {
    start_with(|_| ()).await
}

/// Starts one that serves with other settings.
pub(super) async fn start_with(adjust: impl FnOnce(&mut GrpcSettings)) -> Harness {
    let harness = start_unready(adjust).await;
    harness.health.serving();
    harness
}

/// Starts one whose recovery isn't over.
pub(super) async fn start_unready(adjust: impl FnOnce(&mut GrpcSettings)) -> Harness {
    let mut settings = Settings::default();
    adjust(&mut settings.grpc);
    let state = FakeState { conduct: Conduct::Answer, gate: Ok(()), next: Sequence::from_u64(1), saved: Vec::new(), held: VecDeque::new() };
    let journal = Arc::new(FakeJournal { state: Mutex::new(state), handed: watch::Sender::new(0) });
    let daemon = Arc::new(FakeDaemon {
        collections: Mutex::new(Arc::new(fixtures::collections())),
        catalog: Mutex::new(fixtures::catalog()),
        readings: Mutex::new(0),
        flush: Mutex::new(None),
        paused: Mutex::new(Vec::new()),
        failed: Mutex::new(Vec::new()),
        standing: Mutex::new(FailedStanding::Open),
        probes: Mutex::new(0),
        care: Arc::default(),
        outcomes: Mutex::default(),
        waiters: Arc::default(),
        newest: Mutex::default(),
        told: Mutex::default(),
        telling: Notify::new(),
        watches: Mutex::default(),
    });
    let limits = Limits::new(&settings);
    let (health, stop) = (Health::default(), CancellationToken::new());
    let streams = Streams::new(Arc::clone(&limits.request_ids), || Sequence::ZERO);
    let request_ids = RequestIds::new(Arc::clone(&limits.request_ids), settings.request_ids.retention, || Sequence::ZERO);
    let handles = Handles {
        appender: Arc::<FakeJournal>::clone(&journal),
        control: Arc::<FakeDaemon>::clone(&daemon),
        reads: Arc::new(FakeReads),
        limits: limits.clone(),
        lanes: Arc::from(["default".to_owned()]),
        tickets: tickets(),
        endpoints: Arc::from(["shop".to_owned(), "till".to_owned()]),
        streams: Arc::clone(&streams),
        request_ids,
        health: health.clone(),
        events: Arc::new(Nobody),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let served = tokio::spawn(serve(listener, settings.grpc, handles.clone(), stop.clone()));
    Harness { address, journal, daemon, limits, streams, health, handles, stop, served }
}

impl Harness {
    pub(super) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        soon(endpoint.connect()).await.expect("the door is open")
    }

    pub(super) async fn saves(&self) -> SaveServiceClient<Channel> {
        SaveServiceClient::new(self.channel().await)
    }

    pub(super) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// The service itself: what it answers at a deadline never reaches tonic's client, which goes by its own clock.
    pub(super) fn service(&self) -> SaveService {
        SaveService(Door::new(self.handles.clone(), self.stop.clone()))
    }

    /// Opens a save stream.
    pub(super) async fn talk(&self, first: SaveStreamRequest) -> Talk {
        let (tell, requests) = mpsc::channel(64);
        tell.send(first).await.expect("there is room");
        let answers = soon(self.saves().await.save_stream(ReceiverStream::new(requests))).await.expect("the stream opens");
        Talk { tell: Some(tell), answers: answers.into_inner() }
    }

    /// What is taken of the backlog: objects and bytes.
    pub(super) fn room_taken(&self) -> (u64, bool) {
        (self.limits.backlog_objects.used(), self.limits.backlog_bytes.used() > 0)
    }

    /// Stops, and waits for the end of all calls.
    pub(super) async fn stopped(self) {
        self.stop.cancel();
        soon(self.served).await.expect("it doesn't panic").expect("it ends well");
    }
}

/// An open save stream.
pub(super) struct Talk {
    pub(super) tell: Option<mpsc::Sender<SaveStreamRequest>>,
    pub(super) answers: Streaming<SaveStreamResponse>,
}

impl Talk {
    pub(super) async fn send(&self, request: SaveStreamRequest) {
        soon(self.tell.as_ref().expect("it is open").send(request)).await.expect("the stream is open");
    }

    /// Says that there is no more.
    pub(super) fn finish(&mut self) {
        self.tell = None;
    }

    pub(super) async fn event(&mut self) -> Event {
        let answer = soon(self.answers.message()).await.expect("the stream goes on").expect("the stream goes on");
        answer.event.expect("an answer tells something")
    }

    /// The offset up to which everything is acknowledged, once it reaches this.
    pub(super) async fn acknowledged(&mut self, through: u64) {
        loop {
            match self.event().await {
                Event::Acknowledged(acknowledged) if acknowledged.through == through => return,
                Event::Acknowledged(acknowledged) => assert!(acknowledged.through < through),
                other => panic!("expected an acknowledgement, not {other:?}"),
            }
        }
    }

    /// The error that the stream ends with, acknowledgements left out.
    pub(super) async fn error(&mut self) -> Status {
        loop {
            match soon(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(status) => return status,
            }
        }
    }
}

pub(super) fn player(id: u64) -> proto::Save {
    save("players", id, r#"{"name": "x"}"#)
}

pub(super) fn save(collection: &str, id: u64, json: &str) -> proto::Save {
    let change = Some(Change::Json(json.to_owned().into()));
    proto::Save { collection: collection.to_owned(), key: vec![id.to_string()], change, add: Vec::new() }
}

/// One message with players of these numbers, which are their offsets too.
pub(super) fn players(ids: std::ops::RangeInclusive<u64>) -> SaveStreamRequest {
    SaveStreamRequest { offset: *ids.start(), saves: ids.map(player).collect(), ..SaveStreamRequest::default() }
}

/// Checks code and reason, also in the plain trailer, and gives the details.
pub(super) fn assert_error(status: &Status, code: Code, reason: &str) -> ErrorInfo {
    assert_eq!(status.code(), code, "{status:?}");
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("every error has an ErrorInfo: {status:?}"));
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "forebay.dev"), "{status:?}");
    assert_eq!(status.metadata().get("forebay-error-reason").expect("it is always there"), reason);
    info
}
