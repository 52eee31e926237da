//! Failed saves: the rows in Postgres, what is kept in mind of the open ones, and who takes care of the closed ones.
//!
//! A lane counts its rows with every connection; from then on its transactions say what is added and closed. Whoever closes
//! rows or saves them again from outside holds [`FailedSaves::care`], so that nobody does so twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{Notify, OwnedMutexGuard, watch};
use uuid::Uuid;

use super::catalog::SharedCollections;
use crate::{
    backlog::{Generation, Retry},
    drain::LaneBacklog,
    failed::{Close, FailedFilter, FailedPage, FailedQuery, FailedRow, FailedState},
    grpc::FailedStanding,
    limits::Limit,
    outcomes::{Reason, Recent, State},
    postgres::{ClosedFailed, Failure, KnownFailed, LaneOutcomes, OpenFailed, Postgres, Which},
    save::{Accepted, CollectionId, Key, LaneId, Sequence},
    status::StatusSnapshot,
};

mod index;

use self::index::{Index, Reloaded, Row};

/// The failed saves of this journal. Cheap to clone.
#[derive(Clone)]
pub(super) struct FailedSaves(Arc<Shared>);

struct Shared {
    postgres: Postgres,
    journal: Uuid,
    collections: SharedCollections,
    /// `failed.saves_max`: what is in use is how many are open.
    limit: Arc<Limit>,
    open: Mutex<Open>,
    newest: Mutex<Vec<FailedRow>>,
    /// Why those failed that failed of late: their callers ask soon.
    reasons: Mutex<Recent<Refusal>>,
    care: Arc<tokio::sync::Mutex<()>>,
    /// Some were closed.
    closed: Notify,
    /// Counts when there may be more rows.
    added: watch::Sender<u64>,
}

#[derive(Default)]
struct Open {
    index: Index,
    /// Lanes whose rows were counted in this run, and up to where saves had been handed on to them then.
    counted: BTreeMap<LaneId, Sequence>,
}

/// Why a save failed, and when.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) key: Key,
    pub(super) reason: Reason,
    pub(super) accepted_at: SystemTime,
    pub(super) failed_at: SystemTime,
}

/// A failed save, as far as it is kept in mind.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) sequence: Sequence,
    pub(super) collection: String,
    /// Why, if it failed of late.
    pub(super) refusal: Option<Refusal>,
}

/// Texts of rows that are read at a time for whoever watches.
const ROWS_BYTES_MAX: u64 = 1 << 20;
/// Reasons that are kept in mind, some 500 bytes each: as many as callers may wait for at once.
const REASONS_MAX: usize = 100_000;
/// A status is asked for now: what is remembered must do if Postgres takes longer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// From one look for closed rows beyond those that are kept to the next.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);

impl FailedSaves {
    pub(super) fn new(postgres: Postgres, journal: Uuid, collections: SharedCollections, limit: Arc<Limit>) -> Self {
        Self(Arc::new(Shared {
            postgres,
            journal,
            collections,
            limit,
            open: Mutex::default(),
            newest: Mutex::default(),
            reasons: Mutex::new(Recent::new(REASONS_MAX)),
            care: Arc::default(),
            closed: Notify::new(),
            added: watch::Sender::default(),
        }))
    }

    /// Counts those of a lane. From then on its transactions count.
    pub(super) async fn count(&self, lane: LaneId, backlog: &LaneBacklog) -> Result<(), Failure> {
        // Nothing is closed from outside between reading the rows and taking them over.
        let _care = self.care().await;
        let known = self.reloaded(lane, self.0.postgres.known_failed(self.0.journal).await?);
        // The journal's thread takes this lock for every group: nothing long under it.
        let mut open = self.open();
        let collections = self.0.collections.now();
        let through = backlog.through();
        let before = open.index.reload(lane, |id| collections.get(id).lane == lane, known, through);
        open.counted.entry(lane).or_insert(through);
        self.recount(&open);
        drop(open);
        drop(before);
        self.0.added.send_modify(|count| *count += 1);
        self.0.closed.notify_one();
        Ok(())
    }

    /// Whether the rows of every lane were counted in this run.
    pub(super) fn is_counted(&self, mut lanes: impl Iterator<Item = LaneId>) -> bool {
        let open = self.open();
        lanes.all(|lane| open.counted.contains_key(&lane))
    }

    /// Looks at saves that the journal hands on, and offers them: for whoever counts rows meanwhile it is one act.
    pub(super) fn hand_on(&self, group: Vec<Accepted>, offer: impl FnOnce(Vec<Accepted>)) {
        let mut open = self.open();
        group.iter().for_each(|accepted| open.index.see(accepted));
        offer(group);
    }

    /// What a transaction that writes this generation closes.
    pub(super) fn closes(&self, generation: &Generation) -> Vec<Close> {
        self.open().index.closes(generation)
    }

    /// What a transaction that gives these saves up closes: what they saved again.
    pub(super) fn closes_given_up(saves: &[Accepted]) -> Vec<Close> {
        let retries = saves.iter().filter_map(|accepted| Some(Retry { failed: accepted.save.retries?, by: accepted.sequence }));
        retries.map(index::retried).collect()
    }

    /// A transaction of a lane was committed: these saves failed, those are closed.
    pub(super) fn settled(&self, failed: &[(Accepted, Failure)], closes: &[Close], backlog: &LaneBacklog) {
        if failed.is_empty() && closes.is_empty() {
            return;
        }
        // Also of what failed and was overtaken in one transaction.
        self.0.added.send_modify(|count| *count += 1);
        let (mut open, mut reasons) = (self.open(), lock(&self.0.reasons));
        for (Accepted { sequence, save }, why) in failed {
            let reason = Reason {
                sqlstate: why.sqlstate.as_deref().map(str::to_owned),
                constraint: why.constraint.as_deref().map(str::to_owned),
                message: why.message.to_string(),
            };
            let (key, accepted_at) = (save.key.clone(), save.accepted_at);
            reasons.note(*sequence, Refusal { key, reason, accepted_at, failed_at: SystemTime::now() });
            open.index.add(Row { sequence: *sequence, collection: save.collection, key: save.key.clone() }, backlog.through());
        }
        // After those that failed: a save may overtake one of its own transaction.
        let collections = self.0.collections.now();
        closes.iter().for_each(|close| open.index.close(close.sequence, close.state, |id| collections.get(id).lane));
        self.recount(&open);
        if !closes.is_empty() {
            self.0.closed.notify_one();
        }
    }

    /// Changes when there may be rows that there were not: some failed, or those of a lane were counted.
    pub(super) fn added(&self) -> watch::Receiver<u64> {
        self.0.added.subscribe()
    }

    /// What became of saves of a lane that is `owner`'s.
    pub(super) async fn outcomes(&self, lane: (&str, Uuid), which: Which<'_>) -> Result<LaneOutcomes, Failure> {
        self.0.postgres.outcomes(self.0.journal, lane, which).await
    }

    /// How a save stands that a lane has settled; the lane's rows were counted.
    pub(super) fn outcome(&self, sequence: Sequence) -> State {
        self.open().index.outcome(sequence)
    }

    /// Why one failed that nobody has taken care of, if that is kept in mind.
    pub(super) fn recent_refusal(&self, sequence: Sequence) -> Option<Refusal> {
        let open = self.open().index.is_open(sequence);
        lock(&self.0.reasons).get(sequence).filter(|_| open).cloned()
    }

    /// The row of a failed save.
    pub(super) async fn row_of(&self, sequence: Sequence) -> Result<Option<FailedRow>, Failure> {
        let filter = FailedFilter { sequences: Some(vec![sequence]), ..FailedFilter::default() };
        let query = FailedQuery { filter, after: Sequence::ZERO, newest_first: false, bodies: false, rows_max: 1, bytes_max: u64::MAX };
        Ok(self.list(&query).await?.rows.pop())
    }

    /// What failed in a part of a lane, of the collections that are wanted: some of it, oldest first, and up to where that is all.
    pub(super) fn between(
        &self,
        lane: LaneId,
        span: (Sequence, Sequence),
        max: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> (Vec<Told>, Sequence) {
        let open = self.open();
        // After the rows: it knows the number of every collection in them.
        let collections = self.0.collections.now();
        let (failed, ends) = open.index.between(lane, span, max, |id| wanted(&collections.get(id).name));
        drop(open);
        let reasons = lock(&self.0.reasons);
        let told = failed.into_iter().map(|(sequence, collection)| Told {
            sequence,
            collection: collections.get(collection).name.to_string(),
            refusal: reasons.get(sequence).cloned(),
        });
        (told.collect(), ends)
    }

    /// Up to here outcomes can't be told any more: closed rows were forgotten.
    pub(super) fn horizon(&self) -> Sequence {
        self.open().index.horizon()
    }

    /// The rows of failed saves, as far as they are there; without bodies.
    pub(super) async fn rows_of(&self, mut sequences: Vec<Sequence>) -> Result<Vec<FailedRow>, Failure> {
        let mut rows = Vec::with_capacity(sequences.len());
        while !sequences.is_empty() {
            let filter = FailedFilter { sequences: Some(sequences.clone()), ..FailedFilter::default() };
            let rows_max = u32::try_from(sequences.len()).unwrap_or(u32::MAX);
            let query =
                FailedQuery { filter, after: Sequence::ZERO, newest_first: false, bodies: false, rows_max, bytes_max: ROWS_BYTES_MAX };
            let page = self.list(&query).await?;
            let last = page.rows.last().filter(|_| page.more).map(|row| row.sequence);
            sequences.retain(|&sequence| last.is_some_and(|last| sequence > last));
            rows.extend(page.rows);
        }
        Ok(rows)
    }

    /// How many are open, by collection.
    pub(super) fn counts(&self) -> Vec<(CollectionId, u64)> {
        self.open().index.counts()
    }

    /// The newest open ones, newest first.
    pub(super) async fn newest(&self) -> Vec<FailedRow> {
        let query = FailedQuery {
            filter: FailedFilter { states: vec![FailedState::Open], ..FailedFilter::default() },
            after: Sequence::ZERO,
            newest_first: true,
            bodies: false,
            rows_max: StatusSnapshot::FAILED_SAVES_SHOWN as u32,
            bytes_max: u64::MAX,
        };
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.list(&query));
        let asked = if self.0.limit.used() == 0 { Ok(Ok(FailedPage::default())) } else { asked.await };
        let mut newest = lock(&self.0.newest);
        if let Ok(Ok(page)) = asked {
            *newest = page.rows;
        }
        newest.clone()
    }

    /// A page of them.
    pub(super) async fn list(&self, query: &FailedQuery) -> Result<FailedPage, Failure> {
        self.0.postgres.list_failed(self.0.journal, query).await
    }

    /// Whoever holds it is the only one who closes rows or saves them again from outside.
    pub(super) async fn care(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.0.care).lock_owned().await
    }

    /// How each stands to what was accepted after it; every lane has come to `settled`.
    pub(super) fn standings(&self, sequences: &[Sequence], settled: Sequence) -> Vec<FailedStanding> {
        let mut open = self.open();
        open.index.settled(settled);
        sequences.iter().map(|&sequence| open.index.standing(sequence)).collect()
    }

    /// Up to where a lane must have come for the standings of its rows to be the whole truth.
    pub(super) fn since(&self, lane: LaneId) -> Sequence {
        let open = self.open();
        // After the rows: it knows the number of every collection in them.
        let collections = self.0.collections.now();
        // Retries that were recovered were never seen: at least what was handed on before the first count is waited for.
        let recovered = open.counted.get(&lane).copied().unwrap_or_default();
        open.index.since(|id| collections.get(id).lane == lane).max(recovered)
    }

    /// Gives open ones up, but none that is being retried; gives their numbers.
    pub(super) async fn discard(&self, filter: &FailedFilter, reason: &str) -> Result<Vec<Sequence>, Failure> {
        let mut discarded = Vec::new();
        loop {
            let _care = self.care().await;
            let retrying = self.open().index.retrying();
            let chunk = self.0.postgres.discard_failed(self.0.journal, filter, &retrying, reason).await?;
            if chunk.is_empty() {
                return Ok(discarded);
            }
            tell_discarded(&chunk, reason);
            let mut open = self.open();
            let collections = self.0.collections.now();
            let lane_of = |id| collections.get(id).lane;
            chunk.iter().for_each(|(sequence, _)| open.index.close(*sequence, FailedState::Discarded, lane_of));
            self.recount(&open);
            discarded.extend(chunk.into_iter().map(|(sequence, _)| sequence));
            self.0.closed.notify_one();
        }
    }

    /// Removes closed rows beyond the newest `kept`, after some were closed, but none that somebody is still to be told of. Never
    /// ends.
    pub(super) async fn forget(self, kept: u64, told: impl Fn() -> Sequence) {
        loop {
            self.0.closed.notified().await;
            match self.forget_surplus(kept, told()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, kept, "forgot closed failed saves: the oldest beyond failed.closed_kept"),
                Err(error) => tracing::debug!(%error, "closed failed saves can't be forgotten now"),
            }
            tokio::time::sleep(FORGET_INTERVAL).await;
        }
    }

    async fn forget_surplus(&self, kept: u64, told: Sequence) -> Result<usize, Failure> {
        let mut count = 0;
        loop {
            // What a lane reads meanwhile is the truth of before.
            let _care = self.care().await;
            let removed = self.0.postgres.forget_failed(self.0.journal, kept, told).await?;
            self.open().index.forget(&removed);
            count += removed.len();
            if removed.is_empty() {
                return Ok(count);
            }
        }
    }

    /// What is known of a lane; the open rows of others stay in it.
    fn reloaded(&self, lane: LaneId, KnownFailed { open, closed, horizon }: KnownFailed) -> Reloaded {
        let lanes = self.0.collections.lanes();
        let closed = closed.into_iter().filter(|alike| lanes.lane_of(&alike.collection) == lane);
        let closed = closed.flat_map(|ClosedFailed { collection, state, sequences }| {
            let id = self.0.collections.number_name(&collection);
            sequences.into_iter().map(move |sequence| (sequence, (id, state)))
        });
        Reloaded { closed: closed.collect(), open: open.into_iter().map(|row| self.row(row)).collect(), horizon }
    }

    fn row(&self, row: OpenFailed) -> Row {
        let collection = self.0.collections.number_name(&row.collection);
        // Longer parts are none of ours, and no save can name them.
        let fits = row.key.iter().all(|part| part.len() <= Key::PART_BYTES_MAX);
        let key = if fits { Key::from_parts(row.key.iter().map(String::as_str)) } else { Key::none() };
        Row { sequence: row.sequence, collection, key }
    }

    fn recount(&self, open: &Open) {
        self.0.limit.set_used(open.index.len());
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        lock(&self.0.open)
    }
}

fn tell_discarded(discarded: &[(Sequence, String)], reason: &str) {
    let mut names: Vec<_> = discarded.iter().map(|(_, collection)| collection.as_str()).collect();
    names.sort_unstable();
    for alike in names.chunk_by(|a, b| a == b) {
        tracing::info!(collection = alike[0], count = alike.len(), reason, "failed saves discarded");
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
