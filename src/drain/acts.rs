//! What a lane does, step by step, and how what came of it is recorded.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    NotFlushed,
    aside::{DROP_ASIDE_OBJECTS, Droppable, drop_aside},
    judge::{Need, Verdict},
    lane::Lane,
    meet::Meeting,
    plan::{Gap, Hand, HandWork, Settled, Stood},
    rebuild::{Most, PAGE_BYTES_MAX, Rebuild},
    status::{FailedNote, LastError},
    target::{Log, LogError, Target},
};
use crate::{
    backlog::Generation,
    limits::{Limit, LimitReached},
    postgres::{Action, ApplyError, Failure, PositionRow, Written},
    save::{Accepted, Sequence},
};

impl<T: Target, L: Log> Lane<T, L> {
    pub(super) async fn contact(&mut self) {
        let row = match self.target.contact().await {
            Ok(row) => row,
            Err(failure) => return self.contact_failed((&failure).into(), &failure),
        };
        self.keep_lost(row);
        match self.plan.meet(row, |sequence| self.log.knows(sequence)) {
            Meeting::At(position) => self.stand_at(position).await,
            Meeting::Claim(_) => {}
            Meeting::Fenced(by) => self.events.fenced(by),
            Meeting::Missing => self.stand_before(&missing_row()),
            Meeting::Beyond(position) => self.stand_before(&beyond_the_journal(position)),
        }
    }

    /// What Postgres turns out to have lost stays in the journal, whatever becomes of this contact: until a person has been asked, that
    /// may be long.
    fn keep_lost(&mut self, row: Option<PositionRow>) {
        let position = row.map_or(Sequence::ZERO, |row| row.through);
        if position < self.plan.position() {
            (self.settle)(self.id, position);
        }
    }

    pub(super) async fn claim(&mut self, row: Option<PositionRow>) {
        match self.target.claim(row).await {
            Ok(()) => {
                self.events.claimed(row.map(|row| row.owner));
                self.plan.claimed();
            }
            Err(error) => {
                let (need, failure) = complaint(error);
                self.contact_failed(need, &failure);
            }
        }
    }

    pub(super) async fn refresh(&mut self) {
        match self.target.refresh().await {
            Ok(()) => self.plan.refreshed(),
            Err(failure) => self.contact_failed((&failure).into(), &failure),
        }
    }

    async fn stand_at(&mut self, position: Sequence) {
        // Before anything is applied: should the row be missing later, that must not look like a fresh start. And after the
        // row was written: the other way round, a crash between would halt the next start.
        if self.plan.row_is_news() {
            if let Err(error) = self.log.note_row().await {
                return self.contact_failed(Need::Halt, &halting(error.to_string(), "look after the journal's disk"));
            }
            self.plan.row_noted();
        }
        if let Err(error) = self.lose(position).await {
            return self.contact_failed(Need::Halt, &halting(error.to_string(), "look after the journal's disk"));
        }
        // Counted again with every connection: they are rows, and may have gone back in time or been taken care of in SQL.
        if let Err(failure) = self.target.count_failed().await {
            return self.contact_failed((&failure).into(), &failure);
        }
        if self.plan.asks_before_rewriting(position) {
            return self.stand_before(&went_back(self.plan.position(), position));
        }
        self.events.contacted(position);
        let (stood, over) = self.plan.stand_at(position);
        match stood {
            Stood::Here => {}
            Stood::Committed(settled) => {
                self.events.had_committed(position);
                // Its failed saves are among those that were just counted.
                self.record(settled, &Written::default(), Duration::ZERO);
            }
            Stood::Ahead { from, settled } => {
                self.events.moved_ahead(from, position);
                drop_aside(settled.hand);
            }
            Stood::Behind { from } => self.events.rewound(from, position),
        }
        self.go_on(over);
        self.publish();
    }

    /// Less may be in Postgres than was. Noted first: who was told of more must learn of it, also after a crash.
    async fn lose(&mut self, position: Sequence) -> Result<(), LogError> {
        if self.handle.shows_more_than(position) {
            self.log.note_rewind(position).await?;
            self.handle.show_lost(position);
        }
        Ok(())
    }

    pub(super) fn seal(&mut self, allowed: u64) {
        let reaches = self.target.reaches();
        self.backlog.know(&reaches);
        if let Some((generation, room)) = self.backlog.seal() {
            let surplus = self.plan.sealed(generation, room, &reaches, allowed);
            drop_aside(surplus);
            // All of it may be in Postgres already: then nothing else will say that it is settled.
            if !self.plan.has_work() {
                drop_aside(self.backlog.settle(self.plan.position()));
            }
        }
    }

    /// What is in hand has waited for Postgres to come back: it takes along what came meanwhile.
    pub(super) async fn extend(&mut self, allowed: u64) {
        let sealed = self.backlog.seal();
        let Some((earlier, later, room)) = self.plan.begin_extension(sealed) else { return };
        let objects = earlier.footprint.objects + later.footprint.objects;
        let refolding = self.backlog.refold();
        let together = move || {
            // The lane alone has them now, but for a read that is looking at them just then.
            let mut earlier = Arc::unwrap_or_clone(earlier);
            earlier.absorb(Arc::unwrap_or_clone(later));
            Arc::new(earlier)
        };
        // Folding many takes longer than a thread of the runtime should be kept.
        let folded = match objects > DROP_ASIDE_OBJECTS {
            true => tokio::task::spawn_blocking(together).await.expect("folding doesn't panic"),
            false => together(),
        };
        refolding.done(&folded);
        self.plan.extended(folded, room, allowed);
    }

    pub(super) fn move_up(&mut self) {
        if let Some(through) = self.backlog.move_up() {
            self.plan.move_up(through, self.target.reaches());
        }
    }

    pub(super) async fn skip_gap(&mut self, gap: Gap) {
        // Before the position passes them: their tickets must not say that they are in Postgres.
        if let Err(error) = self.log.note_gap(gap.after, gap.through).await {
            return self.cannot_prepare(&halting(error.to_string(), "look after the journal's disk"));
        }
        self.events.gave_up(gap.after, gap.through);
        self.plan.skip_gap(gap, self.target.reaches());
    }

    pub(super) async fn fold(&mut self, after: Sequence, through: Sequence, most: Most) -> Result<(), String> {
        let began = Instant::now();
        match self.rebuild(after, through, most).await {
            Ok((generation, single)) => {
                self.events.rebuilt(&generation, began.elapsed());
                let generation = Arc::new(generation);
                self.backlog.refolded(&generation);
                let room = self.backlog.take_anyway(self.plan.room_missing(&generation));
                self.plan.folded(generation, single, room, most.objects);
                Ok(())
            }
            Err(error) => self.cannot_read(error),
        }
    }

    async fn rebuild(&mut self, after: Sequence, through: Sequence, most: Most) -> Result<(Generation, bool), LogError> {
        let mut rebuild = Rebuild::new(after, through, self.target.reaches(), most);
        while let Some(read) = rebuild.reads_after() {
            rebuild.take(self.log.read(read, through, rebuild.page_bytes()).await?)?;
        }
        rebuild.finish()
    }

    pub(super) async fn condemn(&mut self, after: Sequence, through: Sequence) -> Result<(), String> {
        let saves = match self.read_all(after, through).await {
            Ok(saves) => saves,
            Err(error) => return self.cannot_read(error),
        };
        match room_for(&self.failed_saves, saves.len() as u64) {
            Ok(()) => self.plan.condemn(saves),
            Err(reached) => {
                self.cannot_prepare(&halting(
                    reached.to_string(),
                    "raise it (`forebay limit failed.saves_max COUNT`), or give failed saves up (`forebay failed discard`)",
                ));
            }
        }
        Ok(())
    }

    async fn read_all(&mut self, after: Sequence, through: Sequence) -> Result<Vec<Accepted>, LogError> {
        let mut saves = self.log.read(after, through, PAGE_BYTES_MAX).await?;
        while let Some(last) = saves.last().map(|accepted| accepted.sequence).filter(|&last| last < through) {
            let more = self.log.read(last, through, PAGE_BYTES_MAX).await?;
            if more.is_empty() {
                break;
            }
            saves.extend(more);
        }
        match saves.last() {
            Some(last) if last.sequence == through => Ok(saves),
            _ => Err(LogError::Missing { after, through }),
        }
    }

    pub(super) async fn apply(&mut self) {
        let began = Instant::now();
        if !self.row_rate.begin(self.id, self.plan.rows_in_hand(), began) {
            return;
        }
        match self.target.apply(self.plan.work()).await {
            Ok(written) => {
                let (settled, over) = self.plan.applied(&written);
                self.record(settled, &written, began.elapsed());
                self.go_on(over);
                self.publish();
            }
            Err(error) => {
                let (need, failure) = complaint(error);
                let (verdict, dropped) = self.plan.apply_failed(need, &failure, Instant::now(), fastrand::f64());
                self.judged(&failure, verdict);
                // Whatever the failure asks for, it took the session along: tried over nothing, it could not repeat itself.
                if !self.target.is_connected() {
                    self.plan.lost();
                }
                drop_aside(dropped);
            }
        }
    }

    /// What was in hand is in Postgres.
    fn record(&mut self, mut settled: Settled, written: &Written, took: Duration) {
        match settled.hand.take().map(|hand| hand.work) {
            Some(HandWork::Generation { generation, room, .. }) => {
                self.events.applied(&generation, written, took);
                let notes: Vec<_> = written.failed.iter().map(|(accepted, why)| FailedNote::new(accepted, why)).collect();
                notes.iter().for_each(|note| self.events.failed(std::slice::from_ref(note)));
                self.handle.note_failed(&notes);
                drop_aside(Some(generation));
                drop(room);
            }
            Some(HandWork::Failed { saves, why }) => {
                let notes: Vec<_> = saves.iter().map(|accepted| FailedNote::new(accepted, &why)).collect();
                self.events.condemned(&notes);
                self.handle.note_failed(&notes);
            }
            None => {}
        }
    }

    /// The position is told to everybody: those who wait, and the journal.
    fn publish(&mut self) {
        let position = self.plan.position();
        drop_aside(self.backlog.settle(position));
        (self.settle)(self.id, position);
        self.handle.show_position(position);
    }

    fn contact_failed(&mut self, need: Need, failure: &Failure) {
        self.target.disconnect();
        let verdict = self.plan.contact_failed(need, failure, Instant::now(), fastrand::f64());
        self.judged(failure, verdict);
    }

    /// The row says what must not be: the connection is sound.
    fn stand_before(&mut self, failure: &Failure) {
        let verdict = self.plan.contact_failed(Need::Halt, failure, Instant::now(), fastrand::f64());
        self.judged(failure, verdict);
    }

    fn cannot_prepare(&mut self, failure: &Failure) {
        let verdict = self.plan.cannot_prepare(failure, Instant::now(), fastrand::f64());
        self.judged(failure, verdict);
    }

    fn cannot_read(&mut self, error: LogError) -> Result<(), String> {
        let failure = match error {
            LogError::Broken(what) => return Err(what),
            LogError::Forgotten { oldest } => {
                self.plan.ask_for_gap(oldest);
                forgotten(self.plan.position(), oldest, self.handle.name())
            }
            LogError::Missing { .. } => halting(error.to_string(), "stop the daemon and run `forebay journal verify`"),
        };
        self.cannot_prepare(&failure);
        Ok(())
    }

    fn judged(&mut self, failure: &Failure, verdict: Verdict) {
        if matches!(verdict, Verdict::Reconnect(_)) {
            self.target.disconnect();
        }
        self.events.judged(failure, verdict);
        if let (Verdict::Halt(_), Some(halt)) = (verdict, self.plan.halt()) {
            let probe = matches!(*self.handle.0.stuck.borrow(), Some(NotFlushed::Halted(_)));
            self.events.halted(halt, probe);
        }
        let (sqlstate, message) = (failure.sqlstate.clone(), failure.to_string());
        self.handle.note_error(LastError { at: Instant::now(), sqlstate, message });
    }

    fn go_on(&self, was_halted: bool) {
        if was_halted {
            self.events.goes_on();
        }
    }
}

impl Droppable for Hand {
    fn objects(&self) -> u64 {
        match &self.work {
            HandWork::Generation { generation, .. } => generation.footprint.objects,
            HandWork::Failed { saves, .. } => saves.len() as u64,
        }
    }
}

fn complaint(error: ApplyError) -> (Need, Failure) {
    match error {
        ApplyError::Fence => (Need::Reread, Failure { sqlstate: Some("22012".into()), ..Failure::local(Action::Retry, error.to_string()) }),
        ApplyError::Catalog => (Need::Refold, Failure::local(Action::Retry, error.to_string())),
        ApplyError::Failed(failure) => ((&failure).into(), failure),
        ApplyError::InDoubt(failure) => (Need::InDoubt, failure),
    }
}

fn room_for(limit: &Limit, count: u64) -> Result<(), LimitReached> {
    let (max, used) = (limit.max(), limit.used());
    if used + count <= max { Ok(()) } else { Err(LimitReached { name: limit.name(), max, used }) }
}

fn halting(message: String, remedy: &str) -> Failure {
    Failure { remedy: remedy.into(), ..Failure::local(Action::Halt, message) }
}

fn went_back(from: Sequence, to: Sequence) -> Failure {
    halting(
        format!("postgres went back in time, from {from} to {to}, and drain.on_rewind is halt"),
        "look at what was restored; `forebay resume` writes what it lost again from the journal",
    )
}

fn forgotten(after: Sequence, oldest: Sequence, lane: &str) -> Failure {
    let message = format!("the journal no longer holds the saves after {after} and before {oldest}, which postgres has lost");
    let remedy = format!(
        "restore a newer state of the database; or, if the tables hold them, set the row of forebay.lane_position; or give them up \
         (`forebay lane accept-gap {lane}`)"
    );
    halting(message, &remedy)
}

fn missing_row() -> Failure {
    halting(
        "the row of forebay.lane_position is missing, though there was one: this is another database, or an older state of it".to_owned(),
        "correct `postgres.url`, or insert the row with the sequence up to which the tables are known to hold everything",
    )
}

fn beyond_the_journal(position: Sequence) -> Failure {
    halting(
        format!("the row of forebay.lane_position says {position}, which this journal never reached: it is an older state of the journal"),
        "bring the newest journal back",
    )
}
