//! What the ends share: one server, one journal, one source of chance.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    journal::FakeJournal,
    server::{FakePostgres, Server},
};
use crate::{
    backlog::model::{COLUMNS, LOG, Model, ROWS, adding, save},
    collections::Reaches,
    drain::Ownership,
    limits::Limit,
    postgres::{Action, PositionRow},
    save::{Accepted, Body, Change, Save, Sequence},
};

#[derive(Clone)]
pub(super) struct World(pub(super) Arc<Mutex<Inner>>);

pub(super) struct Inner {
    pub(super) chance: fastrand::Rng,
    pub(super) server: Server,
    pub(super) journal: Vec<Accepted>,
    /// Everything up to here is gone from the journal.
    pub(super) forgotten: Sequence,
    /// Chances in a hundred that a call fails.
    pub(super) trouble: u32,
    run: u64,
    last: Sequence,
    owners: Vec<Uuid>,
    pub(super) had_row: bool,
    pub(super) reaches: Arc<Reaches>,
    settled: Vec<Sequence>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let inner = Inner {
            chance: fastrand::Rng::with_seed(seed),
            server: Server::default(),
            journal: Vec::new(),
            forgotten: Sequence::ZERO,
            trouble: 0,
            run: 0,
            last: Sequence::ZERO,
            owners: Vec::new(),
            had_row: false,
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

    pub(super) fn target(&self, owner: Uuid, failed_saves: Arc<Limit>) -> FakePostgres {
        FakePostgres::new(self.clone(), owner, failed_saves)
    }

    pub(super) fn log(&self) -> FakeJournal {
        FakeJournal(self.clone())
    }

    /// A start: a run number, a token, and what the ledger knows.
    pub(super) fn start(&self, take_over: bool) -> Ownership {
        let mut inner = self.lock();
        inner.run += 1;
        let known = inner.owners.clone();
        let owner = Uuid::from_u128(inner.chance.u128(..));
        inner.owners.push(owner);
        Ownership { owner, known, take_over, had_row: inner.had_row }
    }

    pub(super) fn lose_ledger(&self) {
        self.lock().owners.clear();
    }

    pub(super) fn note(&self, position: Sequence) {
        let mut inner = self.lock();
        let row = inner.server.row.map(|row| row.through);
        assert!(inner.trouble > 0 || row >= Some(position), "read back {position}, but the row says {row:?}");
        inner.settled.push(position);
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
        inner.last = inner.last.max(Sequence::before_run(inner.run).expect("few runs")).plus(1);
        inner.last
    }

    pub(super) fn append(&self, batch: &[Accepted]) {
        let mut inner = self.lock();
        inner.last = batch[batch.len() - 1].sequence;
        inner.journal.extend_from_slice(batch);
    }

    pub(super) fn journal_after(&self, hint: Sequence) -> Vec<Accepted> {
        self.lock().journal.iter().filter(|accepted| accepted.sequence > hint).cloned().collect()
    }

    pub(super) fn forget_journal(&self) {
        let mut inner = self.lock();
        inner.forgotten = inner.last;
    }

    /// What the journal has forgotten never was, for the checks, and Postgres has none of it.
    pub(super) fn lose_what_is_forgotten(&self) {
        let mut inner = self.lock();
        let forgotten = inner.forgotten;
        inner.journal.retain(|accepted| accepted.sequence > forgotten);
        inner.server.tables = Model::default();
    }

    pub(super) fn batch(&self) -> Vec<Accepted> {
        let mut chance = self.chance();
        let length = if chance.u8(..4) == 0 { chance.usize(2..4) } else { 1 };
        let poisoned = chance.u8(..12) == 0;
        self.numbered((0..length).map(|n| random_save(&mut chance, poisoned && n == 0)).collect())
    }

    pub(super) fn batch_without_poison(&self, length: usize) -> Vec<Accepted> {
        let mut chance = self.chance();
        self.numbered((0..length).map(|_| append(&format!("\"{}\"", chance.u32(..)))).collect())
    }

    pub(super) fn batch_with_poison(&self, length: usize) -> Vec<Accepted> {
        self.numbered((0..length).map(|n| append(if n == 0 { "\"poison\"" } else { "1" })).collect())
    }

    fn numbered(&self, mut saves: Vec<Save>) -> Vec<Accepted> {
        let inner = self.lock();
        let first = inner.last.max(Sequence::before_run(inner.run).expect("few runs"));
        for (left, save) in saves.iter_mut().rev().enumerate() {
            save.batch_left = left as u32;
        }
        saves.into_iter().zip(1..).map(|(save, n)| Accepted { sequence: first.plus(n), save }).collect()
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

    /// A save that is refused with this code if the server is told to.
    pub(super) fn named(&self, code: &str) -> Vec<Accepted> {
        self.numbered(vec![append(&format!("\"{code}\""))])
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
        self.lock().server.row.take()
    }

    pub(super) fn put_row(&self, row: Option<PositionRow>) {
        self.lock().server.row = row;
    }

    pub(super) fn row_through(&self) -> Option<Sequence> {
        self.lock().server.row.map(|row| row.through)
    }

    /// Postgres holds everything, as executed one by one, but what is failed.
    pub(super) fn check_everything(&self) {
        let inner = self.lock();
        assert_eq!(inner.server.row.map(|row| row.through), Some(inner.last));
        assert_eq!(inner.server.tables, executed(&inner.journal, inner.last, &inner.server.failed));
    }
}

/// What the saves up to `through` make of these tables, executed one by one.
pub(super) fn executed_over(mut tables: Model, saves: &[Accepted], through: Sequence) -> Model {
    saves.iter().filter(|accepted| accepted.sequence <= through).for_each(|accepted| {
        tables.execute(&accepted.save);
    });
    tables
}

/// What the saves up to `through` make, executed one by one, without those that failed.
pub(super) fn executed(journal: &[Accepted], through: Sequence, failed: &[Sequence]) -> Model {
    let mut model = Model::default();
    for accepted in journal.iter().filter(|accepted| accepted.sequence <= through && !failed.contains(&accepted.sequence)) {
        model.execute(&accepted.save);
    }
    model
}

fn random_save(chance: &mut fastrand::Rng, poisoned: bool) -> Save {
    let key = chance.u8(..8);
    if poisoned {
        return if chance.bool() { append("\"poison\"") } else { set(key, r#"{"c2":"poison"}"#) };
    }
    match chance.u8(..10) {
        0 => save(key, ROWS, Change::Delete),
        1..3 => append(&chance.u32(..).to_string()),
        // The model's unique column: values collide now and then, and are swapped.
        3 if chance.bool() => adding(key, Body::parse(br#"{"c3":1.5}"#).expect("a body"), 1),
        3..5 => set(key, &format!(r#"{{"c1":{}}}"#, chance.u8(..24))),
        _ => set(key, &format!(r#"{{"c{}":{},"c0":0}}"#, chance.u16(2..COLUMNS), chance.u8(..))),
    }
}

fn set(key: u8, json: &str) -> Save {
    save(key, ROWS, Change::Set(Body::parse(json.as_bytes()).expect("a body")))
}

fn append(value: &str) -> Save {
    save(0, LOG, Change::Append(Body::parse(format!("{{\"c0\":{value}}}").as_bytes()).expect("a body")))
}
