//! Callbacks: who is to be told the outcome of which save, kept until it has been told (P6, P7).
//!
//! On its way a callback is three things, and durable as each. *Awaited*: its save is in the journal, which holds what lies above
//! the first awaited save ([`Monitor::hold`]). *Noted*: once its lane's position covers the save, a [`Follower`] asks Postgres what
//! became of it and puts the message into the journal's ledger, together with how far the lane is noted; only then the journal may
//! forget the save. *Delivered* or given up: it leaves the ledger. A kill anywhere between finds it again: at least once. The
//! failures that `collections.NAME.on_failed` tells of come from the rows of `forebay.failed_save`, with a mark of how far they are
//! told: they wait there while there is no room.
//!
//! Nothing waits for any of this: the journal's thread and the drain only leave word. `callbacks.pending_max` bounds all of it.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{catalog::SharedCollections, failed::FailedSaves, layout::Layout, rewinds::Rewinds};
use crate::{
    drain::LaneHandle,
    journal::{Entry, Ledger, LedgerError, Monitor},
    limits::Limit,
    outcomes::Tickets,
    save::{Accepted, LaneId, Sequence},
    settings::Settings,
    status::EndpointStatus,
    webhooks::{Delivery, Endpoints, Targets},
};

mod follow;
mod kept;
mod message;

use self::{
    follow::Follower,
    kept::{Kept, Mark},
    message::{Awaited, Messages},
};

/// Ended deliveries that leave the ledger under one sync.
const ENDED_AT_ONCE: usize = 1_000;

/// The callbacks of this daemon. Cheap to clone.
#[derive(Clone)]
pub(super) struct Callbacks(Arc<Shared>);

struct Shared {
    ledger: Ledger,
    messages: Messages,
    collections: SharedCollections,
    rewinds: Rewinds,
    /// `callbacks.pending_max`
    limit: Arc<Limit>,
    monitor: OnceLock<Monitor>,
    endpoints: OnceLock<Endpoints>,
    state: Mutex<State>,
    /// Every save up to here has been looked at.
    seen: AtomicU64,
    /// Counts when room in the limit has come free.
    room: watch::Sender<u64>,
    /// Counts when awaited saves have been noted.
    noted: watch::Sender<u64>,
}

/// Per lane, by its number.
struct State {
    awaited: Vec<VecDeque<Arc<Awaited>>>,
    /// Lanes with failures to be told: up to where all are.
    told: Vec<Option<Sequence>>,
}

/// What starts and ends with the daemon.
pub(super) struct Tasks {
    endpoints: JoinSet<()>,
    /// The lanes' followers, and who takes from the ledger what has ended.
    notes: JoinSet<Result<(), LedgerError>>,
    stop: CancellationToken,
}

/// What only a start needs.
pub(super) struct Opening {
    targets: Targets,
    kept: Kept,
    known: HashSet<String>,
}

impl Callbacks {
    /// Reads what the ledger keeps. `after` says for each lane up to where the journal knows it to be settled: failures of a
    /// lane that tells them for the first time are told from there.
    pub(super) async fn open(
        (settings, layout): (&Settings, &Layout),
        targets: Targets,
        (ledger, tickets, rewinds): (&Ledger, &Tickets, &Rewinds),
        (collections, limit): (&SharedCollections, &Arc<Limit>),
        after: &[Sequence],
    ) -> Result<(Self, Opening), LedgerError> {
        let lanes = kept::Lane::all(settings, layout, after);
        let (from, known) = (ledger.clone(), rewinds.since(u32::MAX).count);
        let kept = tokio::task::spawn_blocking(move || Kept::read(&from, lanes, known)).await.expect("the ledger doesn't panic")?;
        let state = State {
            awaited: kept.lanes.iter().map(|_| VecDeque::new()).collect(),
            told: kept.lanes.iter().map(|lane| Some(lane.told?.through)).collect(),
        };
        limit.take_anyway(kept.deliveries.len() as u64);
        let shared = Shared {
            ledger: ledger.clone(),
            messages: Messages(tickets.clone()),
            collections: collections.clone(),
            rewinds: rewinds.clone(),
            limit: Arc::clone(limit),
            monitor: OnceLock::new(),
            endpoints: OnceLock::new(),
            state: Mutex::new(state),
            seen: AtomicU64::new(0),
            room: watch::Sender::default(),
            noted: watch::Sender::default(),
        };
        let known = kept.deliveries.iter().map(|delivery| delivery.id.clone()).collect();
        Ok((Self(Arc::new(shared)), Opening { targets, kept, known }))
    }

    /// The journal runs: from now on it holds what is awaited.
    pub(super) fn attach(&self, monitor: Monitor) {
        self.0.monitor.set(monitor).expect("there is one journal");
    }

    /// Saves that the journal hands on, before the lanes get them. On its thread.
    pub(super) fn see(&self, group: &[Accepted]) {
        if group.iter().any(|accepted| accepted.save.callback.is_some()) {
            let collections = self.0.collections.now();
            let awaited = group.iter().filter_map(|accepted| Awaited::of(accepted, &collections));
            self.wait(awaited.collect());
        }
        if let Some(last) = group.last() {
            self.0.seen.store(last.sequence.get(), Ordering::Release);
        }
    }

    /// Entries of the journal that the last run may not have noted.
    pub(super) fn recall(&self, opening: &Opening, entries: &[Entry]) {
        let found = entries.iter().filter_map(|entry| {
            let lane = self.0.collections.lane_of(entry);
            let noted = opening.kept.lanes[usize::from(lane.0)].noted;
            let awaited = Awaited::found(entry).filter(|awaited| awaited.sequence > noted)?;
            (!opening.known.contains(&self.0.messages.id_of_save(&awaited))).then_some((lane, awaited))
        });
        let found: Vec<_> = found.collect();
        self.0.limit.take_anyway(found.len() as u64);
        self.wait(found);
    }

    fn wait(&self, awaited: Vec<(LaneId, Awaited)>) {
        let mut state = self.state();
        for (lane, awaited) in awaited {
            state.awaited[usize::from(lane.0)].push_back(Arc::new(awaited));
        }
        self.hold(&state);
    }

    fn hold(&self, state: &State) {
        let first = state.first_awaited().map(|first| Sequence::from_u64(first.get() - 1));
        self.0.monitor.get().expect("attached before anything is awaited").hold(first);
    }

    /// Recovery is over: follows the lanes, whose tokens are `owners`, and delivers what waits. Where there is no endpoint, nothing
    /// runs.
    pub(super) fn start(
        &self,
        (settings, opening): (&Settings, Opening),
        last: Sequence,
        failed: &FailedSaves,
        (lanes, owners): (&[LaneHandle], &[Uuid]),
    ) -> Tasks {
        self.0.seen.fetch_max(last.get(), Ordering::Release);
        let Opening { targets, kept, .. } = opening;
        let (ended, ids) = mpsc::unbounded_channel();
        let mut names: BTreeSet<String> = kept.deliveries.iter().map(|delivery| delivery.endpoint.clone()).collect();
        names.extend(self.state().awaited.iter().flatten().map(|awaited| awaited.callback.endpoint.to_string()));
        let (endpoints, runs) = Endpoints::new(settings, targets, names, &ended);
        for delivery in kept.deliveries {
            let age = delivery.age();
            endpoints.deliver(delivery, age);
        }
        self.0.endpoints.set(endpoints).expect("started once");

        let mut tasks = Tasks { endpoints: JoinSet::new(), notes: JoinSet::new(), stop: CancellationToken::new() };
        if runs.is_empty() {
            return tasks;
        }
        for endpoint in runs {
            tasks.endpoints.spawn(endpoint.run());
        }
        tasks.notes.spawn(self.clone().sweep(ids));
        for ((lane, &owner), kept) in lanes.iter().zip(owners).zip(kept.lanes) {
            let follower = Follower::new(self.clone(), lane.clone(), owner, failed.clone(), kept, tasks.stop.clone());
            tasks.notes.spawn(follower.run());
        }
        tasks
    }

    /// Deliveries that have ended leave the ledger, then the limit.
    async fn sweep(self, mut ended: mpsc::UnboundedReceiver<String>) -> Result<(), LedgerError> {
        let mut ids = Vec::new();
        while ended.recv_many(&mut ids, ENDED_AT_ONCE).await > 0 {
            let (ledger, gone) = (self.0.ledger.clone(), std::mem::take(&mut ids));
            let count = gone.len() as u64;
            tokio::task::spawn_blocking(move || kept::remove(&ledger, &gone)).await.expect("the ledger doesn't panic")?;
            self.0.limit.give_back(count);
            self.0.room.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// The first awaited saves of a lane up to `position`.
    fn covered(&self, lane: LaneId, position: Sequence, count: usize) -> Vec<Arc<Awaited>> {
        let state = self.state();
        let awaited = &state.awaited[usize::from(lane.0)];
        awaited.iter().take_while(|awaited| awaited.sequence <= position).take(count).cloned().collect()
    }

    /// Makes messages durable, and how far their lane has come with them; then hands them over. Their room is taken.
    async fn note(&self, lane: &LaneHandle, deliveries: Vec<Delivery>, mark: Mark) -> Result<(), LedgerError> {
        let (ledger, name) = (self.0.ledger.clone(), Arc::clone(lane.name()));
        let put = move || kept::put(&ledger, &deliveries, &name, mark).map(|()| deliveries);
        let deliveries = tokio::task::spawn_blocking(put).await.expect("the ledger doesn't panic")?;
        if let Mark::Noted(through) = mark {
            self.noted_through(lane.id(), through);
        }
        let endpoints = self.0.endpoints.get().expect("followers start after the endpoints");
        // Just known: a clock that was set since then says otherwise.
        deliveries.into_iter().for_each(|delivery| endpoints.deliver(delivery, Duration::ZERO));
        Ok(())
    }

    fn noted_through(&self, lane: LaneId, through: Sequence) {
        let mut state = self.state();
        let awaited = &mut state.awaited[usize::from(lane.0)];
        while awaited.front().is_some_and(|first| first.sequence <= through) {
            awaited.pop_front();
        }
        self.hold(&state);
        drop(state);
        self.0.noted.send_modify(|count| *count += 1);
    }

    /// How many failures may be told now. Half of the limit is left to saves, whose callers would be refused; one may
    /// always be told.
    fn room_for_failures(&self) -> u64 {
        (self.0.limit.max() / 2).max(1).saturating_sub(self.0.limit.used())
    }

    fn take_room(&self, count: u64) -> bool {
        self.0.limit.try_take(count).is_ok()
    }

    /// All failures of a lane up to here are told.
    fn told_through(&self, lane: LaneId, through: Sequence) {
        self.state().told[usize::from(lane.0)] = Some(through);
    }

    /// Up to here nobody will ask any more which saves failed: their rows may go.
    pub(super) fn asked_through(&self) -> Sequence {
        // First: later saves may be awaited after this look, and only above it.
        let seen = Sequence::from_u64(self.0.seen.load(Ordering::Acquire));
        let state = self.state();
        let awaited = state.first_awaited().map(|first| Sequence::from_u64(first.get() - 1));
        state.told.iter().copied().flatten().chain(awaited).fold(seen, Sequence::min)
    }

    /// Saves whose outcome is to be told and is not noted yet.
    pub(super) fn awaited(&self) -> u64 {
        self.state().awaited.iter().map(|lane| lane.len() as u64).sum()
    }

    /// Waits until there are none.
    pub(super) async fn all_noted(&self) {
        let mut noted = self.0.noted.subscribe();
        noted.wait_for(|_| self.awaited() == 0).await.expect("its sender is ours");
    }

    /// How each endpoint stands.
    pub(super) fn statuses(&self) -> Vec<EndpointStatus> {
        self.0.endpoints.get().map(Endpoints::statuses).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn first_awaited(&self) -> Option<Sequence> {
        self.awaited.iter().filter_map(|lane| Some(lane.front()?.sequence)).min()
    }
}

impl Tasks {
    /// Ends only with an error: the ledger can't be written, or one of us ended by itself.
    pub(super) async fn broken(&mut self) -> String {
        let ended = tokio::select! {
            Some(ended) = self.notes.join_next() => ended,
            Some(ended) = self.endpoints.join_next() => ended.map(Ok),
            else => std::future::pending().await,
        };
        match ended {
            Ok(Err(error)) => format!("note callbacks: {error}"),
            Ok(Ok(())) => "a task of the callbacks ended by itself".to_owned(),
            Err(error) => format!("a task of the callbacks ended badly: {error}"),
        }
    }

    /// The lanes have ended: notes what they have covered, and leaves the rest to the next start.
    pub(super) async fn end(&mut self) {
        self.stop.cancel();
        self.endpoints.shutdown().await;
        // The sweeper ends with the last endpoint, having taken out what was delivered.
        while self.notes.join_next().await.is_some() {}
    }

    /// The same at once.
    pub(super) fn abort(&mut self) {
        self.endpoints.abort_all();
        self.notes.abort_all();
    }
}
