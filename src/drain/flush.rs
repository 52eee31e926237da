//! Waiting for Postgres to hold everything up to a save.

use std::sync::Arc;

use super::{handle::LaneHandle, status::LaneState};
use crate::save::Sequence;

/// Why waiting makes no sense. `Display` is a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFlushed {
    /// Somebody has to act first.
    #[error("the lane is halted: {0}")]
    Halted(String),
    /// An operator said so.
    #[error("the lane is paused: {0}")]
    Paused(Arc<str>),
    /// Another daemon owns the lane.
    #[error("another daemon owns the lane's position row")]
    Fenced,
    /// The daemon is stopping; the journal keeps what is left.
    #[error("the daemon is stopping")]
    Stopped,
}

impl NotFlushed {
    /// Not for a pause: what was asked tells of it. The lane still shows one when it is over, until it hears of that.
    pub(super) fn because(state: &LaneState) -> Option<Self> {
        match state {
            LaneState::Halted(halt) => Some(Self::Halted(halt.reason.clone())),
            LaneState::Fenced { .. } => Some(Self::Fenced),
            LaneState::Stopped => Some(Self::Stopped),
            _ => None,
        }
    }
}

impl LaneHandle {
    /// Ends the window and returns once Postgres holds everything up to `through` (or every save offered so far): each of
    /// these saves has its outcome. After a start that takes a first contact, whatever the journal noted. Returns the save
    /// it waited for.
    ///
    /// # Errors
    /// [`NotFlushed`], at once, if the lane is halted, paused, fenced or has stopped. An absent Postgres is none: the
    /// caller's deadline is.
    pub async fn flush(&self, through: Option<Sequence>) -> Result<Sequence, NotFlushed> {
        let offered = self.backlog().through();
        let through = through.map_or(offered, |through| through.min(offered));
        let (mut position, mut confirmed) = (self.0.position.subscribe(), self.0.confirmed.subscribe());
        let (mut stuck, mut control) = (self.0.stuck.subscribe(), self.0.control.subscribe());
        self.want(through);
        loop {
            position.mark_unchanged();
            confirmed.mark_unchanged();
            if self.holds(through) {
                return Ok(through);
            }
            // The pause as it was asked for: a lane hears of it, and of its end, only after its transaction.
            if let Some(pause) = &control.borrow_and_update().pause {
                return Err(NotFlushed::Paused(Arc::clone(&pause.reason)));
            }
            if let Some(why) = stuck.borrow_and_update().clone() {
                return Err(why);
            }
            tokio::select! {
                biased;
                Ok(()) = position.changed() => {}
                Ok(()) = confirmed.changed() => {}
                Ok(()) = stuck.changed() => {}
                Ok(()) = control.changed() => {}
            }
        }
    }
}
