//! The loop of a lane: decide, act, record.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    aside::drop_aside,
    events::Events,
    handle::{Control, LaneHandle},
    lane_backlog::LaneBacklog,
    meet::Ownership,
    plan::{Plan, Seen, Step},
    row_rate::RowRate,
    status::LaneState,
    target::{Log, Target},
};
use crate::{
    limits::Limit,
    save::{LaneId, Sequence},
    settings::DrainSettings,
};

/// Tells the journal what a lane has settled: the lane, and its position as it was just read from the row.
pub type Settle = Box<dyn FnMut(LaneId, Sequence) + Send>;

/// What a lane is made of.
#[expect(missing_debug_implementations, reason = "its ends are connections and closures")]
pub struct LaneParts<T, L> {
    /// Its number.
    pub id: LaneId,
    /// Its name in the settings, which its position row carries.
    pub name: Arc<str>,
    /// `lanes.NAME.window`
    pub window: Duration,
    /// `drain.*`
    pub drain: DrainSettings,
    /// Whose token counts.
    pub ownership: Ownership,
    /// What is accepted and not in Postgres; it begins at the position that the journal noted last.
    pub backlog: LaneBacklog,
    /// `failed.saves_max`
    pub failed_saves: Arc<Limit>,
    /// `drain.statement_target`
    pub statement_target: Arc<Limit>,
    /// `drain.rows_per_second_max`, of all lanes together.
    pub row_rate: RowRate,
    /// Postgres.
    pub target: T,
    /// The journal.
    pub log: L,
    /// Where settled positions go.
    pub settle: Settle,
}

/// Why a lane ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to. What is left is in the journal.
    Stopped,
    /// Another daemon owns its position row: this one must accept nothing more and exit non-zero.
    Fenced {
        /// The other's token.
        by: Uuid,
    },
    /// The journal can't be read: fail stop.
    JournalUnreadable(String),
}

/// One writer: the task that takes generations from its backlog to Postgres.
#[expect(missing_debug_implementations, reason = "its ends are connections and closures")]
pub struct Lane<T, L> {
    pub(super) plan: Plan,
    pub(super) id: LaneId,
    pub(super) backlog: LaneBacklog,
    pub(super) failed_saves: Arc<Limit>,
    statement_target: Arc<Limit>,
    pub(super) row_rate: RowRate,
    pub(super) target: T,
    pub(super) log: L,
    pub(super) settle: Settle,
    pub(super) events: Events,
    pub(super) handle: LaneHandle,
    pub(super) control: watch::Receiver<Control>,
}

impl<T: Target, L: Log> Lane<T, L> {
    /// A lane that does nothing until it is run, and its handle.
    pub fn new(parts: LaneParts<T, L>) -> (Self, LaneHandle) {
        let LaneParts { id, name, window, drain, .. } = parts;
        let events = Events::new(Arc::clone(&name));
        let position = parts.backlog.after();
        let handle = LaneHandle::new(id, name, parts.backlog.clone(), events.clone(), position);
        let lane = Self {
            plan: Plan::new(parts.ownership, drain, window, position),
            id,
            backlog: parts.backlog,
            failed_saves: parts.failed_saves,
            statement_target: parts.statement_target,
            row_rate: parts.row_rate,
            target: parts.target,
            log: parts.log,
            settle: parts.settle,
            events,
            control: handle.0.control.subscribe(),
            handle: handle.clone(),
        };
        (lane, handle)
    }

    /// Runs until [`LaneHandle::stop`] or a fatal end.
    pub async fn run(mut self) -> End {
        loop {
            let step = self.decide();
            if matches!(step, Step::End) {
                return self.plan.fenced().map_or(End::Stopped, |by| End::Fenced { by });
            }
            // A stop waits for what is being written, but not for Postgres to come back.
            let cut = cut_short(self.handle.0.control.subscribe(), self.plan.is_away());
            tokio::select! {
                biased;
                ended = self.act(step) => if let Err(unreadable) = ended {
                    self.events.journal_unreadable(&unreadable);
                    return End::JournalUnreadable(unreadable);
                },
                () = cut => {
                    self.target.disconnect();
                    self.plan.lost();
                }
            }
        }
    }

    fn decide(&mut self) -> Step {
        let now = Instant::now();
        self.handle.end_pause(now);
        // Held until the decision shows: whoever asks for something sees a state that comes either before or of it.
        let control = self.control.borrow_and_update();
        self.plan.hear(&control, now);
        self.plan.aim(Duration::from_millis(self.statement_target.max()));
        let seen = Seen { now, control: &control, backlog: self.backlog.view(), allowance: self.row_rate.allows(self.id, now) };
        let step = self.plan.next(seen);
        self.handle.show(self.plan.state(&step, seen));
        self.handle.0.statement_rows.store(self.plan.statement_rows(), Relaxed);
        step
    }

    /// Does a step and records what came of it. The error: the journal can't be read.
    async fn act(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Contact => self.contact().await,
            Step::Claim(row) => self.claim(row).await,
            Step::Refresh => self.refresh().await,
            Step::Seal(allowed) => self.seal(allowed),
            Step::Extend(allowed) => self.extend(allowed).await,
            Step::MoveUp => self.move_up(),
            Step::SkipGap(gap) => self.skip_gap(gap).await,
            Step::PutBack => drop_aside(self.plan.put_back()),
            Step::Fold { after, through, most } => return self.fold(after, through, most).await,
            Step::Condemn { after, through } => return self.condemn(after, through).await,
            Step::Apply => self.apply().await,
            Step::Rest(until) => self.rest(until).await,
            Step::Hold(until) => self.rest(Some(until)).await,
            Step::End => {}
        }
        Ok(())
    }

    async fn rest(&mut self, until: Option<Instant>) {
        let watched = self.plan.in_contact();
        tokio::select! {
            biased;
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            Ok(()) = self.control.changed() => {}
            () = self.backlog.woken() => {}
            () = self.target.lost(), if watched => {
                self.events.connection_lost();
                self.target.disconnect();
                self.plan.lost();
            }
        }
    }
}

/// However a lane ends, nobody goes on waiting for it.
impl<T, L> Drop for Lane<T, L> {
    fn drop(&mut self) {
        self.handle.show(self.plan.fenced().map_or(LaneState::Stopped, |by| LaneState::Fenced { by }));
    }
}

/// Returns when a stop must not wait any longer.
async fn cut_short(mut control: watch::Receiver<Control>, at_once: bool) {
    let asked = control.wait_for(|control| control.stop.is_some()).await.map(|control| control.stop);
    match asked {
        Ok(Some(deadline)) if !at_once => sleep_until(deadline).await,
        Ok(_) => {}
        Err(_) => std::future::pending().await,
    }
}
