//! Room for saves: taken before the journal sees them, owned by the append from then on (P7).
//!
//! A call that is cancelled or times out drops only its wait: the append goes on, keeps its room if it is accepted and
//! gives it back if it is refused.

use std::sync::Arc;

use tokio::sync::oneshot;
use tonic::Status;

use super::{
    append::{Append, AppendError},
    errors,
    events::{Events, Tally},
    request_ids::Claim,
};
use crate::{
    collections::Collections,
    limits::{LimitReached, Limits, Permit, Taker},
    save::{Save, Sequence},
};

/// Room in the backlog and for callbacks, given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Permit,
    objects: Permit,
    callbacks: Option<Permit>,
}

impl Room {
    /// Takes what these saves may need: every save counts as an object until folding shows otherwise.
    pub(super) fn take(limits: &Limits, saves: &[Save]) -> Result<Self, LimitReached> {
        let taker = if Save::are_retries(saves) { Taker::Operator } else { Taker::Caller };
        let objects = limits.backlog_objects.permit_for(taker, saves.len() as u64)?;
        let bytes = limits.backlog_bytes.permit_for(taker, saves.iter().map(Save::bytes).sum())?;
        let callbacks = Some(Save::callbacks(saves)).filter(|&count| count > 0);
        let callbacks = callbacks.map(|count| limits.callbacks_pending.permit(count)).transpose()?;
        Ok(Self { bytes, objects, callbacks })
    }

    /// Leaves the room to the backlog, and to whoever delivers the callbacks, if the saves are, or may be, in the journal.
    pub(super) fn settle(self, result: Result<Sequence, AppendError>) {
        if matches!(result, Ok(_) | Err(AppendError::OutcomeUnknown)) {
            self.bytes.keep();
            self.objects.keep();
            self.callbacks.into_iter().for_each(Permit::keep);
        }
    }
}

/// Takes room for saves, appends them, and waits for the sync; gives the sequence of the first. `claim` is the call's request id.
pub(super) async fn accept(
    appender: &Arc<dyn Append>,
    limits: &Limits,
    events: &Arc<dyn Events>,
    collections: &Collections,
    saves: Vec<Save>,
    claim: Option<Claim>,
) -> Result<Sequence, Status> {
    let tally = Tally::of(&saves);
    let room = match Room::take(limits, &saves) {
        Ok(room) => room,
        Err(reached) => {
            tally.refused(&**events, errors::append_reason_name(AppendError::Full(reached)));
            return Err(errors::limit_reached(reached));
        }
    };
    let (tell, answer) = oneshot::channel();
    let events = Arc::clone(events);
    let done = Box::new(move |result: Result<Sequence, AppendError>| {
        room.settle(result);
        match result {
            Ok(first) => {
                tally.accepted(&*events);
                claim.into_iter().for_each(|claim| claim.accepted(first));
            }
            Err(error) => tally.refused(&*events, errors::append_reason_name(error)),
        }
        // Nobody listens any more when the call was cancelled.
        let _ = tell.send(result);
    });
    appender.append_with(collections, saves, done);
    let result = answer.await.unwrap_or(Err(AppendError::OutcomeUnknown));
    result.map_err(errors::append)
}
