//! A lane's outside: what others may ask of it and see of it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    events::Events,
    flush::NotFlushed,
    lane_backlog::LaneBacklog,
    status::{FailedNote, LaneState, LaneStatus, LastError},
};
use crate::save::{LaneId, Sequence};

/// Asks a lane and looks at it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneHandle(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    id: LaneId,
    name: Arc<str>,
    backlog: LaneBacklog,
    events: Events,
    pub(super) control: watch::Sender<Control>,
    pub(super) position: watch::Sender<Sequence>,
    /// Postgres has said where it stands. Until then the position is what the journal noted, and Postgres may have gone back.
    pub(super) confirmed: watch::Sender<bool>,
    state: watch::Sender<LaneState>,
    /// Why a Flush can't wait, but for a pause, which is in `control`. Apart from `state`, which changes with every transaction and would wake all who wait.
    pub(super) stuck: watch::Sender<Option<NotFlushed>>,
    recent: Mutex<Recent>,
}

/// What is asked of a lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Control {
    pub(super) pause: Option<Pause>,
    /// Stop, at the latest then.
    pub(super) stop: Option<Instant>,
    /// Somebody waits for everything up to here: the window doesn't count.
    pub(super) wanted: Sequence,
    /// Counts requests to try again at once.
    pub(super) probes: u64,
    /// Counts persons who said that it may go on.
    pub(super) resumes: u64,
    /// Counts requests to make failed saves of what stands in front.
    pub(super) fails: u64,
    /// Counts requests to give up what neither Postgres nor the journal holds.
    pub(super) gaps: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Pause {
    pub(super) reason: Arc<str>,
    pub(super) until: Instant,
}

#[derive(Debug, Default)]
struct Recent {
    last_error: Option<LastError>,
    failed: VecDeque<FailedNote>,
}

impl LaneHandle {
    /// A pause without a duration ends after so long.
    pub const PAUSE_DURATION_DEFAULT: Duration = Duration::from_secs(3600);
    /// Failed saves that status lists.
    pub const FAILED_NOTES_MAX: usize = 100;
    /// A pause's longest duration: a century, which clocks can hold.
    const PAUSE_DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    pub(super) fn new(id: LaneId, name: Arc<str>, backlog: LaneBacklog, events: Events, position: Sequence) -> Self {
        Self(Arc::new(Shared {
            id,
            name,
            backlog,
            events,
            control: watch::Sender::default(),
            position: watch::Sender::new(position),
            confirmed: watch::Sender::default(),
            state: watch::Sender::default(),
            stuck: watch::Sender::default(),
            recent: Mutex::default(),
        }))
    }

    /// The lane's number.
    pub fn id(&self) -> LaneId {
        self.0.id
    }

    /// The lane's name.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Its backlog.
    pub fn backlog(&self) -> &LaneBacklog {
        &self.0.backlog
    }

    /// Up to where Postgres holds everything, as it moves.
    pub fn position(&self) -> watch::Receiver<Sequence> {
        self.0.position.subscribe()
    }

    /// The same, once Postgres has said so in this run.
    pub fn confirmed_position(&self) -> Option<Sequence> {
        // In this order: the first position that counts is there before it is confirmed.
        self.0.confirmed.borrow().then(|| *self.0.position.borrow())
    }

    /// Up to where every save of the lane has its outcome, once Postgres has said in this run where it stands.
    pub fn settled(&self) -> Option<Sequence> {
        self.confirmed_position().map(|position| self.backlog().settled(position))
    }

    /// Returns once Postgres has said where it stands.
    pub async fn confirmed(&self) {
        // The sender lives in what `self` holds.
        let _ = self.0.confirmed.subscribe().wait_for(|confirmed| *confirmed).await;
    }

    /// Somebody waits for everything up to here: the window doesn't count.
    pub fn want(&self, through: Sequence) {
        let through = through.min(self.backlog().through());
        self.0.control.send_if_modified(|control| {
            let more = control.wanted < through;
            control.wanted = control.wanted.max(through);
            more
        });
    }

    /// What it is doing, as it changes.
    pub fn state(&self) -> watch::Receiver<LaneState> {
        self.0.state.subscribe()
    }

    /// Whether Postgres has said since the start that it holds everything offered so far.
    pub fn is_drained(&self) -> bool {
        self.holds(self.backlog().through())
    }

    /// Whether Postgres has said since the start that it holds everything up to `through`.
    pub(super) fn holds(&self, through: Sequence) -> bool {
        self.confirmed_position().is_some_and(|position| position >= through)
    }

    /// Whether Postgres was shown to hold more than this.
    pub(super) fn shows_more_than(&self, position: Sequence) -> bool {
        *self.0.position.borrow() > position
    }

    /// Postgres holds less than it did: that is true before anything is done about it.
    pub(super) fn show_lost(&self, position: Sequence) {
        self.0.position.send_if_modified(|shown| {
            let lost = position < *shown;
            *shown = position.min(*shown);
            lost
        });
    }

    pub(super) fn show_position(&self, position: Sequence) {
        self.0.position.send_if_modified(|shown| std::mem::replace(shown, position) != position);
        self.0.confirmed.send_if_modified(|confirmed| !std::mem::replace(confirmed, true));
    }

    /// Saves that got their outcome in this run.
    pub fn saves_settled(&self) -> u64 {
        let counts = self.0.events.counts();
        counts.saves_persisted + counts.saves_failed
    }

    /// Everything about it.
    pub fn status(&self) -> LaneStatus {
        let recent = self.recent();
        let (last_error, failed) = (recent.last_error.clone(), recent.failed.iter().cloned().collect());
        drop(recent);
        LaneStatus {
            id: self.0.id,
            name: Arc::clone(&self.0.name),
            state: self.0.state.borrow().clone(),
            position: *self.0.position.borrow(),
            backlog: self.0.backlog.summary(),
            last_error,
            failed,
            counts: self.0.events.counts(),
        }
    }

    /// Writes nothing more, once the transaction under way has ended, until [`Self::resume`] or for `duration`.
    pub fn pause(&self, reason: &str, duration: Option<Duration>) {
        let duration = duration.unwrap_or(Self::PAUSE_DURATION_DEFAULT).min(Self::PAUSE_DURATION_MAX);
        let pause = Pause { reason: reason.into(), until: Instant::now() + duration };
        self.0.events.paused(reason, duration);
        self.0.control.send_modify(|control| control.pause = Some(pause));
    }

    /// Returns once a pause holds: the transaction under way has ended, the one of a retry or a probe too. Returns as well
    /// when the pause is over or the lane has ended.
    pub async fn paused(&self) {
        let (mut state, mut control) = (self.state(), self.0.control.subscribe());
        let holds = |state: &LaneState| matches!(state, LaneState::Paused { .. } | LaneState::Fenced { .. } | LaneState::Stopped);
        tokio::select! {
            _ = state.wait_for(holds) => {}
            _ = control.wait_for(|control| control.pause.is_none()) => {}
        }
    }

    /// Ends a pause; a lane that is halted or waits to try again tries at once. With `fail`, what a lane is halted in front of
    /// becomes failed saves if it still isn't taken, and so does what is refused for the same reason after it.
    pub fn resume(&self, fail: bool) {
        self.0.control.send_modify(|control| {
            control.fails += u64::from(fail);
            if control.pause.take().is_some() {
                self.0.events.resumed();
            }
            control.resumes += 1;
            control.probes += 1;
        });
    }

    /// A lane that is halted because the journal no longer holds what Postgres has lost gives that up, and goes on with the
    /// oldest save that the journal holds.
    pub fn accept_gap(&self) {
        self.0.control.send_modify(|control| {
            control.gaps += 1;
            control.probes += 1;
        });
    }

    /// Something has changed: a lane that is halted or waits to try again tries at once. Nobody has agreed to anything.
    pub fn probe(&self) {
        self.0.control.send_modify(|control| control.probes += 1);
    }

    /// Ends the lane: it goes on until nothing waits or until `deadline`, and ends at once if Postgres is away or the lane
    /// is paused or halted. The journal keeps what is left.
    pub fn stop(&self, deadline: Instant) {
        self.0.control.send_modify(|control| control.stop = Some(control.stop.map_or(deadline, |earlier| earlier.min(deadline))));
    }

    /// A pause whose time is over.
    pub(super) fn end_pause(&self, now: Instant) {
        self.0.control.send_if_modified(|control| {
            let over = control.pause.as_ref().is_some_and(|pause| pause.until <= now);
            if over {
                control.pause = None;
                self.0.events.resumed();
            }
            over
        });
    }

    pub(super) fn show(&self, state: LaneState) {
        let stuck = NotFlushed::because(&state);
        self.0.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
        self.0.stuck.send_if_modified(|shown| {
            let changed = *shown != stuck;
            *shown = stuck;
            changed
        });
    }

    pub(super) fn note_error(&self, error: LastError) {
        self.recent().last_error = Some(error);
    }

    pub(super) fn note_failed(&self, notes: &[FailedNote]) {
        let mut recent = self.recent();
        recent.failed.extend(notes.iter().cloned());
        let surplus = recent.failed.len().saturating_sub(Self::FAILED_NOTES_MAX);
        recent.failed.drain(..surplus);
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().expect("taking notes doesn't panic")
    }
}
