//! Tickets, answered from positions and failed saves: no row for each save, nothing to keep per ticket.
//!
//! A save at or below its lane's position has its outcome: it is one of the failed saves, or was given up with a gap, or it is in
//! Postgres. Before Postgres has been asked in this run the positions are only what the journal noted, and nothing of an earlier
//! run is told (P6).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::task::JoinSet;

use super::{catalog::SharedCollections, failed::FailedSaves, gaps::Gaps};
use crate::{
    drain::{LaneHandle, LaneState},
    failed::FailedRow,
    journal::{Ledger, LedgerError},
    outcomes::{Outcome, Pace, Reason, State, Superseded, Ticket, TicketStatus, Tickets, Untold, Waiters, Waiting},
    save::Sequence,
};

const TICKET_KEY: &str = "ticket-key";

/// The key that this journal's tickets are signed with; drawn at its first start. Blocks.
pub(super) fn ticket_key(ledger: &Ledger) -> Result<[u8; Tickets::KEY_BYTES], LedgerError> {
    if let Some(known) = ledger.get(TICKET_KEY)? {
        return known.try_into().map_err(|_| LedgerError::Damaged(TICKET_KEY.to_owned()));
    }
    let mut key = [0; Tickets::KEY_BYTES];
    // Random UUIDs come from the system's generator; 122 bits of each are random.
    key.chunks_mut(16).for_each(|half| half.copy_from_slice(uuid::Uuid::new_v4().as_bytes()));
    ledger.put(TICKET_KEY, &key)?;
    Ok(key)
}

/// What became of saves. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outcomes(Arc<Shared>);

struct Shared {
    lanes: Vec<Followed>,
    failed: FailedSaves,
    gaps: Gaps,
    superseded: Arc<Superseded>,
    collections: SharedCollections,
    /// This start.
    run: u64,
    /// Where the layout of the lanes begins: what was accepted before was settled before.
    begins: Sequence,
}

/// A lane, and those who wait for it.
struct Followed {
    lane: LaneHandle,
    waiters: Arc<Waiters>,
    pace: Arc<Mutex<Pace>>,
}

impl Outcomes {
    pub(super) fn new(
        lanes: &[LaneHandle],
        failed: FailedSaves,
        (gaps, superseded): (Gaps, Arc<Superseded>),
        collections: SharedCollections,
        (run, begins): (u64, Sequence),
    ) -> Self {
        let followed = |lane: &LaneHandle| Followed { lane: lane.clone(), waiters: Arc::default(), pace: Arc::default() };
        Self(Arc::new(Shared { lanes: lanes.iter().map(followed).collect(), failed, gaps, superseded, collections, run, begins }))
    }

    /// Starts what wakes those who wait, for each lane.
    pub(super) fn follow_lanes(&self, tasks: &mut JoinSet<()>) {
        for Followed { lane, waiters, pace } in &self.0.lanes {
            tasks.spawn(follow(lane.clone(), Arc::clone(waiters), Arc::clone(pace)));
        }
    }

    /// How a save stands.
    pub(super) fn state(&self, ticket: Ticket) -> Result<State, Untold> {
        // The position first: what had failed before it passed is known then.
        if !self.is_settled(ticket)? {
            return Ok(State::Pending);
        }
        if self.0.gaps.hold(ticket.lane, ticket.sequence) {
            return Ok(State::Discarded);
        }
        let state = self.0.failed.outcome(ticket.sequence);
        // Postgres may have gone back in time since: what had failed before that isn't known any more, and its position says so.
        Ok(if self.is_settled(ticket)? { state } else { State::Pending })
    }

    /// How saves stand, as far as it can be told.
    pub(super) fn of_all(&self, tickets: &[Ticket]) -> Vec<Outcome> {
        let outcome = |&ticket: &Ticket| {
            let Ok(state) = self.state(ticket) else { return Outcome::PENDING };
            Outcome { state, superseded: state == State::Persisted && self.0.superseded.holds(ticket.sequence) }
        };
        tickets.iter().map(outcome).collect()
    }

    /// All that is known of a save.
    pub(super) async fn status(&self, ticket: Ticket) -> Result<TicketStatus, Untold> {
        let state = self.state(ticket)?;
        let mut status = TicketStatus::of(state);
        match state {
            State::Pending => {
                status.saves_ahead = self.lane(ticket).map_or(0, |followed| followed.lane.backlog().saves_up_to(ticket.sequence));
                status.estimated_wait = self.estimated_wait(ticket);
            }
            State::Persisted => {
                status.settled_at = self.lane(ticket).and_then(|lane| lock(&lane.pace).settled_at(ticket.sequence));
                status.superseded = self.0.superseded.holds(ticket.sequence);
            }
            State::Failed | State::Discarded => self.tell_failed(ticket, &mut status).await?,
            State::Unknown => {}
        }
        Ok(status)
    }

    /// Waits for a save's outcome; its lane no longer waits for its window.
    pub(super) fn wait(&self, ticket: Ticket) -> Waiting {
        let unasked = self.0.lanes.iter().find(|followed| followed.lane.confirmed_position().is_none());
        let own = if ticket.sequence <= self.0.begins { unasked } else { self.lane(ticket) };
        let followed = own.unwrap_or(&self.0.lanes[0]);
        let waiting = followed.waiters.wait(ticket.sequence);
        followed.lane.want(ticket.sequence);
        waiting
    }

    fn is_settled(&self, ticket: Ticket) -> Result<bool, Untold> {
        if ticket.sequence <= self.0.begins {
            let asked = self.0.lanes.iter().all(|followed| followed.lane.confirmed_position().is_some());
            return if asked { Ok(true) } else { Err(Untold::NotAsked) };
        }
        match self.lane(ticket).and_then(|followed| followed.lane.confirmed_position()) {
            Some(position) => Ok(ticket.sequence <= position),
            // What was accepted since the start can't have been written without a contact.
            None if ticket.sequence.run() == self.0.run => Ok(false),
            None => Err(Untold::NotAsked),
        }
    }

    fn lane(&self, ticket: Ticket) -> Option<&Followed> {
        self.0.lanes.get(usize::from(ticket.lane.0))
    }

    /// How long a pending save may take, at the pace of late; `None` while its lane writes nothing.
    pub(super) fn estimated_wait(&self, ticket: Ticket) -> Option<Duration> {
        let Followed { lane, pace, .. } = self.lane(ticket)?;
        let writes = matches!(*lane.state().borrow(), LaneState::Idle | LaneState::Waiting { .. } | LaneState::Applying { .. });
        if writes { lock(pace).time_for(lane.backlog().saves_up_to(ticket.sequence), SystemTime::now()) } else { None }
    }

    async fn tell_failed(&self, ticket: Ticket, status: &mut TicketStatus) -> Result<(), Untold> {
        if self.0.gaps.hold(ticket.lane, ticket.sequence) {
            let message = "postgres had lost it, the journal no longer held it, and an operator gave it up".to_owned();
            status.reason = Some(Reason { message, ..Reason::default() });
            return Ok(());
        }
        if let Some(refusal) = self.0.failed.recent_refusal(ticket.sequence) {
            (status.reason, status.settled_at) = (Some(refusal.reason), Some(refusal.failed_at));
            status.accepted_at = Some(refusal.accepted_at);
            return Ok(());
        }
        let row = self.0.failed.row_of(ticket.sequence).await.map_err(|failure| Untold::Unavailable(failure.to_string()))?;
        match row {
            Some(row) => self.tell_row(row, status),
            // Removed a moment ago, closed and too old to be kept; or Postgres went back in time, which its lane has yet to notice.
            None if self.state(ticket)? == State::Unknown => *status = TicketStatus::of(State::Unknown),
            None => return Err(Untold::Unavailable("the row of the failed save is not there".to_owned())),
        }
        Ok(())
    }

    fn tell_row(&self, row: FailedRow, status: &mut TicketStatus) {
        let retried = row.closed.as_ref().filter(|closed| closed.state == crate::failed::FailedState::Retried);
        status.retry = retried
            .and_then(|closed| closed.by)
            .map(|by| Ticket { sequence: by, lane: self.0.collections.lanes().lane_of(&row.collection) });
        status.settled_at =
            Some(row.closed.as_ref().filter(|_| status.state == State::Discarded).map_or(row.failed_at, |closed| closed.at));
        status.accepted_at = Some(row.accepted_at);
        status.reason = Some(Reason { sqlstate: row.sqlstate, constraint: row.constraint, message: row.message });
    }
}

/// Wakes those whose saves a lane has settled, as its position moves.
async fn follow(lane: LaneHandle, waiters: Arc<Waiters>, pace: Arc<Mutex<Pace>>) {
    lane.confirmed().await;
    let mut position = lane.position();
    loop {
        let through = *position.borrow_and_update();
        lock(&pace).step(through, lane.saves_settled(), SystemTime::now());
        waiters.settled(through);
        if position.changed().await.is_err() {
            return;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
