//! Saves of a stream with durability PERSISTED, from their acceptance to their outcome.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    grpc::{door::Door, persisted::Told},
    outcomes::{State, Ticket},
    proto::{Failure, StreamFailed},
};

/// How long a stream is held up by reading why saves failed, once that is not kept in mind any more.
const REASONS_WAIT: Duration = Duration::from_secs(5);

/// Saves of consecutive offsets that are acknowledged with their outcome.
pub(super) enum Awaited {
    /// This call had them accepted.
    New(Vec<Ticket>),
    /// One that was accepted before the stream was resumed.
    Known(Ticket),
    /// The same, so long ago that its own ticket is not remembered: it has its outcome once this one, of the same lane, has.
    Before(Ticket),
}

/// `None` if the stream has ended.
pub(super) type Settling = Pin<Box<dyn Future<Output = Option<Settled>> + Send>>;

/// They have their outcome.
pub(super) struct Settled {
    /// Of those that this call had accepted.
    pub(super) tickets: Vec<Ticket>,
    /// Still to be told.
    pub(super) failed: VecDeque<StreamFailed>,
    /// Offsets.
    pub(super) superseded: Vec<u64>,
}

/// Waits for the outcome, unless the stream ends.
pub(super) fn settle(door: Arc<Door>, awaited: Awaited, first: u64, ended: CancellationToken) -> Settling {
    Box::pin(async move {
        tokio::select! {
            biased;
            settled = settled(&door, awaited, first) => Some(settled),
            () = ended.cancelled() => None,
        }
    })
}

async fn settled(door: &Door, awaited: Awaited, first: u64) -> Settled {
    let (tickets, known) = match awaited {
        Awaited::New(tickets) => (tickets, false),
        Awaited::Known(ticket) => (vec![ticket], true),
        Awaited::Before(later) => {
            door.settled(&[later]).await;
            return Settled { tickets: Vec::new(), failed: VecDeque::new(), superseded: Vec::new() };
        }
    };
    let outcomes = door.settled(&tickets).await;
    let (mut failed, mut superseded) = (VecDeque::new(), Vec::new());
    let told = door.told(&tickets, &outcomes, Instant::now() + REASONS_WAIT).await;
    for ((offset, told), &ticket) in (first..).zip(told).zip(&tickets) {
        superseded.extend(told.superseded.then_some(offset));
        let ticket = || door.tickets.show(ticket);
        failed.extend(failure(told).map(|failure| StreamFailed { offset, ticket: ticket(), failure: Some(failure) }));
    }
    Settled { tickets: if known { Vec::new() } else { tickets }, failed, superseded }
}

/// Why a save must not be acknowledged as persisted, if it must not.
fn failure(told: Told) -> Option<Failure> {
    let unknown = || Failure { message: "too old to be told: it may have failed".to_owned(), ..Failure::default() };
    told.failure.or_else(|| (told.state == State::Unknown).then(unknown))
}
