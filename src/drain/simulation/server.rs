//! The Postgres of the simulation, and a lane's way to it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    truth::{Truth, executed_over},
    world::World,
};
use crate::{
    backlog::{Generation, model::Model},
    collections::Reaches,
    drain::{Target, What, Work},
    limits::Limit,
    postgres::{Action, ApplyError, Failure, PositionRow, StatementRows, Written},
    save::{Accepted, LaneId, Sequence},
};

#[derive(Default)]
pub(super) struct Server {
    /// By lane.
    pub(super) lanes: Vec<Arc<Tables>>,
    pub(super) away_until: Option<Instant>,
    pub(super) broken_until: Option<Instant>,
    /// What saves that name it are refused with: a column that was dropped, a parent that is missing.
    pub(super) refuses: Option<(&'static str, Action)>,
    /// Refusals end the session.
    pub(super) fatal: bool,
    /// It takes transactions and never answers.
    pub(super) hangs: bool,
    /// How long a row takes.
    pub(super) row_time: Duration,
    /// When each transaction began, and rows of its statements.
    pub(super) transactions: Vec<(Instant, Vec<u64>)>,
    /// No COMMIT's answer arrives.
    pub(super) doubts: bool,
    /// Somebody holds a lock on the tables.
    pub(super) locked_until: Option<Instant>,
    pub(super) catalog_reads: u64,
    pub(super) contacts: u64,
    /// Failed saves that somebody took care of.
    pub(super) closed_failed: u64,
    /// Connections of earlier epochs are closed.
    epoch: u64,
    closed: Arc<Notify>,
    /// Every state that there was.
    backups: Vec<Vec<Arc<Tables>>>,
}

/// What Postgres holds of one lane.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Tables {
    pub(super) row: Option<PositionRow>,
    pub(super) rows: Model,
    pub(super) failed: Vec<Sequence>,
}

/// A transaction that outlives the call that began it.
enum Owned {
    Generation(Generation),
    Failed(Vec<Accepted>),
}

struct Transaction {
    lane: LaneId,
    owner: Uuid,
    after: Sequence,
    through: Sequence,
    what: Owned,
}

impl Server {
    pub(super) fn of(lanes: usize) -> Self {
        Self { lanes: vec![Arc::default(); lanes], ..Self::default() }
    }

    pub(super) fn disconnect_all(&mut self) {
        self.epoch += 1;
        self.closed.notify_waiters();
    }

    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| until > Instant::now())
    }

    /// An earlier state, as a restored backup or a promoted standby has it, but not from before a lane's first contact.
    pub(super) fn go_back(&mut self, chance: &mut fastrand::Rng) {
        let rows = |lanes: &[Arc<Tables>]| lanes.iter().map(|lane| lane.row).collect::<Vec<_>>();
        let now = rows(&self.lanes);
        let had = |rows: &[Option<PositionRow>]| rows.iter().zip(&now).all(|(before, now)| before.is_some() || now.is_none());
        // Some are how things are: the newest, and those of where it has been twice.
        let others: Vec<_> = self.backups.iter().filter(|backup| rows(backup) != now && had(&rows(backup))).collect();
        let Some(backup) = chance.choice(others).cloned() else { return };
        self.lanes = backup;
        self.disconnect_all();
    }

    pub(super) fn tables(&self, lane: LaneId) -> &Arc<Tables> {
        &self.lanes[usize::from(lane.0)]
    }

    pub(super) fn change(&mut self, lane: LaneId) -> &mut Tables {
        Arc::make_mut(&mut self.lanes[usize::from(lane.0)])
    }

    fn open_failed(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.failed.len() as u64).sum::<u64>() - self.closed_failed
    }

    /// A code that rows have as a value is refused with that code.
    fn refuse(&self, tables: &Model) -> Result<(), Failure> {
        let Some((code, action)) = self.refuses else { return Ok(()) };
        let named = tables.log.iter().any(|row| row[&0] == format!("\"{code}\""));
        if named { Err(Failure { collection: Some("log".into()), ..failure(action, code) }) } else { Ok(()) }
    }

    fn check_tables(&self) -> Result<(), Failure> {
        let lies_ahead = |until: Option<Instant>| until.is_some_and(|until| until > Instant::now());
        match () {
            () if lies_ahead(self.broken_until) => Err(failure(Action::Halt, "42703")),
            () if lies_ahead(self.locked_until) => Err(failure(Action::Retry, "55P03")),
            () => Ok(()),
        }
    }

    fn back_up(&mut self) {
        self.backups.push(self.lanes.clone());
    }

    /// One transaction, with the comparison first and everything checked at the end.
    ///
    /// It must do to the tables what its saves do one by one, and before it they were as all saves before make them: so they are
    /// after it.
    fn commit(&mut self, transaction: &Transaction, truth: &Truth) -> Result<Written, ApplyError> {
        let Transaction { lane, owner, after, through, what } = transaction;
        let before = self.tables(*lane);
        if before.row != Some(PositionRow { owner: *owner, through: *after }) {
            return Err(ApplyError::Fence);
        }
        let mut tables = Tables::clone(before);
        tables.row = Some(PositionRow { owner: *owner, through: *through });
        match what {
            Owned::Generation(generation) => {
                tables.rows.apply(generation);
                check(&tables.rows)?;
                self.refuse(&tables.rows)?;
                let gives_up = generation.saves == 0 && truth.is_given_up(*lane, *after, *through);
                let saves = truth.between(*lane, *after, *through).filter(|_| !gives_up);
                let direct = executed_over(before.rows.clone(), saves);
                assert_eq!(tables.rows, direct, "after {after} to {through}");
            }
            Owned::Failed(saves) => {
                for accepted in saves {
                    assert_eq!(accepted.save.batch_left == 0, accepted.sequence == *through, "a batch fails as a whole");
                }
                let tried = executed_over(before.rows.clone(), saves);
                assert!(check(&tried).is_err() || self.refuse(&tried).is_err(), "{through} was given up without need");
                assert!(truth.between(*lane, *after, *through).eq(saves), "what fails is what comes next");
                tables.failed.extend(saves.iter().map(|accepted| accepted.sequence));
            }
        }
        *self.change(*lane) = tables;
        self.back_up();
        Ok(Written::default())
    }
}

/// A check constraint, and a unique one that is checked at the end.
fn check(tables: &Model) -> Result<(), Failure> {
    let poisoned = tables.rows.values().chain(&tables.log).any(|row| row.values().any(|value| value == "\"poison\""));
    if poisoned {
        return Err(failure(Action::Halve, "23514"));
    }
    let mut seen = BTreeSet::new();
    let mut named = tables.rows.values().map(|row| &row[&1]).filter(|value| !value.starts_with("\"default"));
    if named.all(|value| seen.insert(value)) { Ok(()) } else { Err(failure(Action::Halve, "23505")) }
}

fn failure(action: Action, sqlstate: &str) -> Failure {
    let message = format!("a failure with {sqlstate}");
    Failure { sqlstate: Some(sqlstate.into()), remedy: "a remedy".into(), ..Failure::local(action, message) }
}

fn doubt() -> ApplyError {
    ApplyError::InDoubt(failure(Action::InDoubt, "08007"))
}

fn lost() -> Failure {
    Failure::local(Action::Reconnect, "a lost connection")
}

/// A lane's connection.
pub(super) struct FakePostgres {
    world: World,
    lane: LaneId,
    owner: Uuid,
    /// `failed.saves_max`
    failed_saves: Arc<Limit>,
    /// The epoch in which it was made.
    connected: Option<u64>,
}

impl FakePostgres {
    pub(super) fn new(world: World, lane: LaneId, owner: Uuid, failed_saves: Arc<Limit>) -> Self {
        Self { world, lane, owner, failed_saves, connected: None }
    }

    /// The way to the server, which takes its time.
    async fn travel(&self) {
        let wait = self.world.lock().chance.u64(0..20);
        sleep(Duration::from_millis(wait)).await;
        self.world.step().await;
    }

    fn check_connection(&self) -> Result<(), Failure> {
        let inner = self.world.lock();
        if inner.server.is_away() || self.connected != Some(inner.server.epoch) { Err(lost()) } else { Ok(()) }
    }

    /// Whether something goes wrong that has to do with nothing.
    fn in_trouble(&self) -> bool {
        let mut inner = self.world.lock();
        let trouble = inner.trouble;
        inner.chance.u32(..100) < trouble
    }

    fn commit(&self, transaction: &Transaction) -> Result<Written, ApplyError> {
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        inner.server.commit(transaction, &inner.truth)
    }

    /// The statements of a transaction, which take their time; the rows of the next one.
    async fn write(&self, transaction: &Transaction, mut statement_rows: StatementRows) -> StatementRows {
        let (row_time, began) = (self.world.lock().server.row_time, Instant::now());
        let mut left = match &transaction.what {
            Owned::Generation(generation) => generation.footprint.objects,
            Owned::Failed(saves) => saves.len() as u64,
        };
        let mut statements = Vec::new();
        while left > 0 {
            let rows = left.min(statement_rows.get());
            let time = row_time * u32::try_from(rows).expect("few rows");
            sleep(time).await;
            statement_rows.took(rows, time);
            statements.push(rows);
            left -= rows;
        }
        self.world.lock().server.transactions.push((began, statements));
        statement_rows
    }

    /// Postgres' words point at a save now and then: rightly or not.
    fn point_at_something(&self, error: ApplyError, transaction: &Transaction) -> ApplyError {
        let ApplyError::Failed(mut failure) = error else { return error };
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        let mut inside_batch = false;
        let mut alone = Vec::new();
        for Accepted { sequence, save } in inner.truth.between(transaction.lane, transaction.after, transaction.through) {
            let batched = std::mem::replace(&mut inside_batch, save.batch_left > 0) || save.batch_left > 0;
            if !batched {
                alone.push(*sequence);
            }
        }
        if failure.action == Action::Halve && inner.chance.bool() {
            failure.suspect = inner.chance.choice(alone);
        }
        failure.into()
    }

    /// A COMMIT that arrives late, when nobody counts on it any more; a lock or a full socket held it up.
    fn commit_late(&self, transaction: Transaction) {
        let (world, epoch) = (self.world.clone(), self.connected);
        let wait = Duration::from_millis(self.world.lock().chance.u64(0..2_000));
        tokio::spawn(async move {
            sleep(wait).await;
            let mut inner = world.lock();
            let inner = &mut *inner;
            if Some(inner.server.epoch) == epoch && !inner.server.is_away() {
                let _ = inner.server.commit(&transaction, &inner.truth);
            }
        });
    }

    async fn fail(&self, transaction: Transaction) -> ApplyError {
        let kind = self.world.lock().chance.u8(..9);
        match kind {
            0 => failure(Action::Retry, "55P03").into(),
            1 => failure(Action::RetryThenShrink, "40P01").into(),
            2 => failure(Action::Unclear, "99999").into(),
            3 => failure(Action::Shrink, "57014").into(),
            4 => doubt(),
            5 => self.commit(&transaction).map_or_else(|error| error, |_| doubt()),
            6 => {
                self.commit_late(transaction);
                doubt()
            }
            7 => {
                sleep(Duration::from_secs(35)).await;
                lost().into()
            }
            _ => lost().into(),
        }
    }
}

impl Target for FakePostgres {
    async fn contact(&mut self) -> Result<Option<PositionRow>, Failure> {
        self.world.lock().server.contacts += 1;
        self.travel().await;
        if self.connected.is_none() {
            self.connected = Some(self.world.lock().server.epoch);
        }
        self.check_connection()?;
        self.world.step().await;
        if self.in_trouble() {
            return Err(lost());
        }
        let row = self.world.lock().server.tables(self.lane).row;
        self.world.hear(self.lane, row.map(|row| row.through));
        Ok(row)
    }

    async fn count_failed(&mut self) -> Result<(), Failure> {
        self.check_connection()?;
        self.world.step().await;
        self.failed_saves.set_used(self.world.lock().server.open_failed());
        Ok(())
    }

    async fn claim(&mut self, from: Option<PositionRow>) -> Result<(), ApplyError> {
        self.travel().await;
        self.check_connection()?;
        let (in_doubt, happened) = (self.in_trouble(), self.world.lock().chance.bool());
        {
            let server = &mut self.world.lock().server;
            if server.tables(self.lane).row == from && (!in_doubt || happened) {
                let through = from.map_or(Sequence::ZERO, |row| row.through);
                server.change(self.lane).row = Some(PositionRow { owner: self.owner, through });
                server.back_up();
            }
        }
        self.world.step().await;
        if in_doubt { Err(doubt()) } else { Ok(()) }
    }

    fn reaches(&self) -> Arc<Reaches> {
        Arc::clone(&self.world.lock().reaches)
    }

    async fn refresh(&mut self) -> Result<(), Failure> {
        self.travel().await;
        self.check_connection()?;
        self.world.lock().server.catalog_reads += 1;
        if self.in_trouble() { Err(lost()) } else { Ok(()) }
    }

    async fn apply(&mut self, work: Work<'_>) -> Result<Written, ApplyError> {
        self.travel().await;
        self.check_connection()?;
        self.world.lock().server.check_tables()?;
        if self.world.lock().server.hangs {
            std::future::pending::<()>().await;
        }
        let what = match work.what {
            What::Generation(generation) => Owned::Generation(generation.clone()),
            What::Failed(saves, _) => Owned::Failed(saves.to_vec()),
        };
        let transaction = Transaction { lane: self.lane, owner: self.owner, after: work.after, through: work.through, what };
        let statement_rows = self.write(&transaction, work.statement_rows).await;
        if self.world.dies() {
            if self.world.lock().chance.bool() {
                // Its COMMIT was on the way: it may yet arrive.
                self.commit_late(transaction);
            }
            return std::future::pending().await;
        }
        if self.in_trouble() {
            return Err(self.fail(transaction).await);
        }
        let committed = self.commit(&transaction).map_err(|error| self.point_at_something(error, &transaction));
        if committed.is_err() && self.world.lock().server.fatal {
            self.connected = None;
        }
        self.world.step().await;
        let written = committed?;
        if let Owned::Failed(saves) = &transaction.what {
            self.failed_saves.take_anyway(saves.len() as u64);
        }
        if self.world.lock().server.doubts {
            return Err(doubt());
        }
        self.world.hear(self.lane, Some(transaction.through));
        Ok(Written { statement_rows, ..written })
    }

    fn is_connected(&self) -> bool {
        self.check_connection().is_ok()
    }

    fn disconnect(&mut self) {
        self.connected = None;
    }

    async fn lost(&mut self) {
        let closed = {
            let inner = self.world.lock();
            if self.connected != Some(inner.server.epoch) {
                return;
            }
            Arc::clone(&inner.server.closed)
        };
        closed.notified().await;
    }
}
