//! What the ends share: one server, one journal, one source of chance.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    death::Death,
    journal::FakeJournal,
    server::{FakePostgres, Server, Tables},
    truth::{Truth, executed_over},
};
use crate::{
    backlog::model::Model,
    collections::Reaches,
    drain::Ownership,
    journal::simulation::{Disk, Journal},
    limits::{Limit, Limits},
    postgres::{Action, PositionRow},
    save::{Accepted, LaneId, Sequence},
    settings::Settings,
};

#[derive(Clone)]
pub(super) struct World(pub(super) Arc<Mutex<Inner>>);

pub(super) struct Inner {
    pub(super) chance: fastrand::Rng,
    pub(super) server: Server,
    pub(super) disk: Disk,
    pub(super) journal: Option<Journal>,
    /// When drained segments go, and of how many bytes.
    pub(super) retention: (Duration, u64),
    pub(super) truth: Truth,
    /// Saves up to here the journal has removed.
    pub(super) removed: Sequence,
    /// A group that is written and not acknowledged, and whether it is synced.
    pub(super) in_flight: Option<(Vec<Accepted>, bool)>,
    pub(super) death: Death,
    /// Chances in a hundred that a call fails.
    pub(super) trouble: u32,
    /// The last number given.
    pub(super) last: Sequence,
    /// The ledger, by lane.
    pub(super) ledger: Vec<Known>,
    pub(super) reaches: Arc<Reaches>,
    settled: Vec<Sequence>,
}

/// What is known of a lane, the most of it by the ledger.
#[derive(Clone, Default)]
pub(super) struct Known {
    owners: Vec<Uuid>,
    had_row: bool,
    /// What Postgres was last heard to say of its position in this life: no more of it may go from the journal.
    heard: Option<Sequence>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_lanes(seed, 1)
    }

    pub(super) fn with_lanes(seed: u64, lanes: usize) -> Self {
        let inner = Inner {
            chance: fastrand::Rng::with_seed(seed),
            server: Server::of(lanes),
            disk: Disk::default(),
            journal: None,
            retention: (Duration::from_secs(3_600), 1 << 30),
            truth: Truth::default(),
            removed: Sequence::ZERO,
            in_flight: None,
            death: Death::default(),
            trouble: 0,
            last: Sequence::ZERO,
            ledger: vec![Known::default(); lanes],
            reaches: Arc::default(),
            settled: vec![Sequence::ZERO],
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panicked")
    }

    pub(super) fn chance(&self) -> fastrand::Rng {
        self.lock().chance.fork()
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lock().ledger.len() as u16).map(LaneId)
    }

    pub(super) fn target(&self, lane: LaneId, owner: Uuid, failed_saves: Arc<Limit>) -> FakePostgres {
        FakePostgres::new(self.clone(), lane, owner, failed_saves)
    }

    pub(super) fn log(&self, lane: LaneId) -> FakeJournal {
        FakeJournal { world: self.clone(), lane }
    }

    /// A start of the one lane that there is.
    pub(super) fn start(&self, take_over: bool) -> Ownership {
        assert!(self.open(&Limits::new(&Settings::default())));
        self.own(LaneId(0), take_over)
    }

    /// A token, and what the ledger knows.
    pub(super) fn own(&self, lane: LaneId, take_over: bool) -> Ownership {
        let mut inner = self.lock();
        let owner = Uuid::from_u128(inner.chance.u128(..));
        let known = &mut inner.ledger[usize::from(lane.0)];
        let ownership = Ownership { owner, known: known.owners.clone(), take_over, had_row: known.had_row };
        known.owners.push(owner);
        ownership
    }

    pub(super) fn lose_ledger(&self) {
        self.lock().ledger.iter_mut().for_each(|known| known.owners.clear());
    }

    pub(super) fn note_row(&self, lane: LaneId) {
        self.lock().ledger[usize::from(lane.0)].had_row = true;
    }

    pub(super) fn note_gap(&self, lane: LaneId, after: Sequence, through: Sequence) {
        let mut inner = self.lock();
        let oldest = inner.journal.as_ref().expect("it is open").oldest();
        let held = inner.truth.between(lane, after.max(oldest), through).next();
        assert_eq!(held, None, "{after} to {through} is given up, but the journal holds this");
        inner.truth.given_up.push((lane, after, through));
    }

    /// Postgres says where a lane is.
    pub(super) fn hear(&self, lane: LaneId, position: Option<Sequence>) {
        self.lock().ledger[usize::from(lane.0)].heard = position;
    }

    /// A lane tells its position.
    pub(super) fn note(&self, lane: LaneId, position: Sequence) {
        let mut inner = self.lock();
        let heard = inner.ledger[usize::from(lane.0)].heard.unwrap_or_default();
        assert_eq!(position, heard, "lane {} tells what postgres has not said", lane.0);
        inner.settled.push(position);
        inner.journal.as_ref().expect("it is open").settled(lane, position);
    }

    /// One of the positions that the journal's chunks noted before a crash.
    pub(super) fn hint(&self) -> Sequence {
        let mut inner = self.lock();
        let back = inner.chance.usize(1..=3).min(inner.settled.len());
        inner.settled[inner.settled.len() - back]
    }

    pub(super) fn last(&self) -> Sequence {
        self.lock().last
    }

    /// A save that this lane never sees.
    pub(super) fn number_for_another_lane(&self) -> Sequence {
        let mut inner = self.lock();
        inner.last = inner.next().plus(1);
        inner.last
    }

    /// What the journal has forgotten never was, for the checks, and Postgres has none of it.
    pub(super) fn lose_what_is_forgotten(&self) {
        let mut inner = self.lock();
        let forgotten = inner.journal.as_ref().expect("it is open").oldest();
        inner.truth.saves.retain(|accepted| accepted.sequence > forgotten);
        inner.server.change(LaneId(0)).rows = Model::default();
    }

    pub(super) fn make_peace(&self) {
        let mut inner = self.lock();
        inner.trouble = 0;
        inner.server.away_until = None;
        inner.server.broken_until = None;
    }

    pub(super) fn break_schema(&self, duration: Duration) {
        self.lock().server.broken_until = Some(Instant::now() + duration);
    }

    /// From now on saves made by [`Self::named`] are refused with that code; `None` repairs it.
    pub(super) fn refuse(&self, what: Option<(&'static str, Action)>) {
        self.lock().server.refuses = what;
    }

    /// From now on a refusal ends the session.
    pub(super) fn make_refusals_fatal(&self) {
        self.lock().server.fatal = true;
    }

    pub(super) fn go_away(&self, duration: Duration) {
        let mut inner = self.lock();
        inner.server.away_until = Some(Instant::now() + duration);
        inner.server.disconnect_all();
    }

    pub(super) fn lock_tables(&self, duration: Duration) {
        self.lock().server.locked_until = Some(Instant::now() + duration);
    }

    pub(super) fn leave_commits_in_doubt(&self) {
        self.lock().server.doubts = true;
    }

    pub(super) fn hang(&self) {
        self.lock().server.hangs = true;
    }

    pub(super) fn go_back(&self) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.server.go_back(&mut inner.chance);
    }

    pub(super) fn catalog_was_read(&self) -> bool {
        self.lock().server.catalog_reads > 0
    }

    pub(super) fn contacts(&self) -> u64 {
        self.lock().server.contacts
    }

    pub(super) fn close_a_failed_save(&self) {
        self.lock().server.closed_failed += 1;
    }

    pub(super) fn take_row(&self) -> Option<PositionRow> {
        self.lock().server.change(LaneId(0)).row.take()
    }

    pub(super) fn put_row(&self, row: Option<PositionRow>) {
        self.lock().server.change(LaneId(0)).row = row;
    }

    pub(super) fn row_through(&self) -> Option<Sequence> {
        self.lock().server.tables(LaneId(0)).row.map(|row| row.through)
    }

    /// What Postgres holds of a lane.
    pub(super) fn tables(&self, lane: LaneId) -> Arc<Tables> {
        Arc::clone(self.lock().server.tables(lane))
    }

    /// Postgres holds everything, as executed one by one, but what is failed.
    pub(super) fn check_everything(&self) {
        for lane in self.lanes() {
            let tables = self.tables(lane);
            let inner = self.lock();
            let last = inner.truth.last_of(lane);
            assert!(tables.row.is_some_and(|row| row.through >= last), "lane {} is not at its end, {last}", lane.0);
            let taken = inner.truth.between(lane, Sequence::ZERO, last).filter(|accepted| !tables.failed.contains(&accepted.sequence));
            let given_up = inner.truth.given_up.iter().any(|&(given_up, ..)| given_up == lane);
            assert!(given_up || tables.rows == executed_over(Model::default(), taken), "lane {}", lane.0);
        }
    }

    /// What of a lane is acknowledged and not in Postgres if that holds everything up to here.
    pub(super) fn pending(&self, lane: LaneId, position: Sequence, through: Sequence) -> Vec<Accepted> {
        self.lock().truth.between(lane, position, through).cloned().collect()
    }

    /// Whether some of what was acknowledged is no longer in the journal.
    pub(super) fn has_trimmed(&self) -> bool {
        let inner = self.lock();
        inner.journal.as_ref().is_some_and(|journal| inner.truth.after(journal.oldest()).len() < inner.truth.saves.len())
    }

    /// Whether none of it is.
    pub(super) fn is_trimmed(&self) -> bool {
        let inner = self.lock();
        inner.truth.after(inner.journal.as_ref().expect("it is open").oldest()).is_empty()
    }

    /// Whether what a lane has given up lies after this position.
    pub(super) fn gives_up_after(&self, lane: LaneId, position: Sequence) -> bool {
        self.lock().truth.given_up.iter().any(|&(given_up, _, to)| given_up == lane && to > position)
    }

    pub(super) fn has_given_up(&self) -> bool {
        !self.lock().truth.given_up.is_empty()
    }

    pub(super) fn acknowledged(&self, lane: LaneId) -> Sequence {
        self.lock().truth.last_of(lane)
    }
}

impl Inner {
    /// A life begins: nothing was heard in it.
    pub(super) fn be_deaf(&mut self) {
        self.ledger.iter_mut().for_each(|known| known.heard = None);
    }

    /// What the journal has removed, now that its oldest save is this one, was heard to be in Postgres.
    pub(super) fn check_removed(&self, before: Sequence, oldest: Sequence) {
        for (lane, known) in (0..).map(LaneId).zip(&self.ledger) {
            let removed = self.truth.between(lane, before, oldest).last().map(|accepted| accepted.sequence);
            assert!(removed <= known.heard, "{removed:?} of lane {} is removed, but postgres has said {:?}", lane.0, known.heard);
        }
    }

    /// The number before the next save's.
    pub(super) fn next(&self) -> Sequence {
        self.last.max(Sequence::before_run(self.disk.run()).expect("few runs"))
    }
}
