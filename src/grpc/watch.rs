//! `WatchOutcomes`: a stream of outcomes for as long as the client reads it.
//!
//! The response is made as it is sent: nothing is spawned and nothing waits but the few outcomes that were found last, so a
//! client that doesn't read costs no more than one that does (P7).

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{door::Door, errors, events::OpenCall, tickets::shown_reason};
use crate::{
    limits::Permit,
    outcomes::{Mark, Watch, WatchEnd, WatchEvent},
    proto::{
        ErrorReason, FailedOutcome, SupersededOutcome, WatchOutcomesRequest, WatchOutcomesResponse, Watermark,
        watch_outcomes_response::Event,
    },
};

/// A watcher hears of commits at most this often: many of them are one watermark.
const HEAR_INTERVAL: Duration = Duration::from_millis(20);
/// A watcher that doesn't read for so long is ended, as soon as it reads again: before that, HTTP/2 asks this stream for nothing.
/// Until then it holds its place among the waiting calls, and nothing is gathered for it.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// So often a stream looks whether it is still being read.
const READ_CHECK: Duration = Duration::from_secs(15);

/// Somebody watches.
struct Watching {
    door: Arc<Door>,
    watch: Watch,
    /// Found and not sent yet.
    told: VecDeque<WatchEvent>,
    /// The last watermark that was sent, or the one to go on from.
    sent: Option<Mark>,
    /// When outcomes were found last.
    heard_at: Option<Instant>,
    /// When the response was asked for more; always before long, while it is being read.
    read_at: Instant,
    _held: (Permit, OpenCall),
}

/// The response stream.
pub(super) fn watch(
    door: Arc<Door>,
    watch: Watch,
    held: (Permit, OpenCall),
) -> impl Stream<Item = Result<WatchOutcomesResponse, Status>> + Send {
    let sent = watch.mark();
    let watching = Watching { door, watch, told: VecDeque::new(), sent, heard_at: None, read_at: Instant::now(), _held: held };
    stream::unfold(Some(watching), |watching| async {
        let mut watching = watching?;
        match watching.next().await {
            Ok(outcome) => {
                let event = Some(watching.door.shown_outcome(outcome));
                Some((Ok(WatchOutcomesResponse { event }), Some(watching)))
            }
            Err(end) => Some((Err(end), None)),
        }
    })
}

impl Watching {
    async fn next(&mut self) -> Result<WatchEvent, Status> {
        loop {
            check_read(&mut self.read_at, self.sent).map_err(|end| self.door.watch_end(end))?;
            match self.told.pop_front() {
                Some(outcome) => {
                    if let WatchEvent::Watermark(mark) = outcome {
                        self.sent = Some(mark);
                    }
                    return Ok(outcome);
                }
                None => self.told = self.hear().await?.into(),
            }
        }
    }

    /// Waits for outcomes.
    async fn hear(&mut self) -> Result<Vec<WatchEvent>, Status> {
        if let Some(heard_at) = self.heard_at {
            tokio::time::sleep_until(heard_at + HEAR_INTERVAL).await;
        }
        let mut outcomes = pin!(self.door.control.watched(&mut self.watch));
        let told = loop {
            tokio::select! {
                biased;
                () = self.door.stop.cancelled() => return Err(errors::stopping()),
                told = &mut outcomes => break told,
                () = tokio::time::sleep(READ_CHECK) => if let Err(end) = check_read(&mut self.read_at, self.sent) {
                    break Err(end);
                },
            }
        };
        self.heard_at = Some(Instant::now());
        told.map_err(|end| self.door.watch_end(end))
    }
}

/// The response is asked for more. (While nothing is to be told, it is woken for that.)
fn check_read(read_at: &mut Instant, sent: Option<Mark>) -> Result<(), WatchEnd> {
    let unread = read_at.elapsed();
    *read_at = Instant::now();
    match sent {
        Some(mark) if unread > UNREAD_MAX => Err(WatchEnd::TooSlow(mark)),
        _ => Ok(()),
    }
}

impl Door {
    /// What is to be watched, and from where.
    pub(super) fn new_watch(&self, request: WatchOutcomesRequest) -> Result<Watch, Status> {
        let WatchOutcomesRequest { collections, resume_token } = request;
        let lanes = self.lanes_of(&collections)?;
        let resume = match resume_token.is_empty() {
            true => None,
            false => Some(self.tickets.read_mark(&resume_token).ok_or_else(|| {
                errors::invalid_request(
                    "resume_token",
                    "is none of this journal's: pass that of a watermark as it came, or none, and read first what was saved before",
                )
            })?),
        };
        Ok(Watch::new(collections, &lanes, resume))
    }

    fn shown_outcome(&self, outcome: WatchEvent) -> Event {
        match outcome {
            WatchEvent::Watermark(mark) => Event::Watermark(Watermark { resume_token: self.tickets.show_mark(mark) }),
            WatchEvent::Failed { ticket, collection, key, reason } => {
                let failure = Some(shown_reason(reason));
                Event::Failed(FailedOutcome { ticket: self.tickets.show(ticket), collection, key, failure })
            }
            WatchEvent::Superseded { ticket, collection } => {
                Event::Superseded(SupersededOutcome { ticket: self.tickets.show(ticket), collection })
            }
        }
    }

    fn watch_end(&self, end: WatchEnd) -> Status {
        let (code, reason, message, mark) = match end {
            WatchEnd::Rewound(mark) => {
                let message = "postgres went back in time: outcomes told after the resume token may no longer hold, go on from there";
                (Code::Aborted, ErrorReason::PostgresRewound, message, mark)
            }
            WatchEnd::Gone(mark) => {
                let message = "outcomes before the resume token can't be told any more: failed saves among them are forgotten, or some \
                               were given up; read what was saved before, then go on from there";
                (Code::OutOfRange, ErrorReason::OutcomesGone, message, mark)
            }
            WatchEnd::TooSlow(mark) => {
                (Code::ResourceExhausted, ErrorReason::WatcherTooSlow, "the watcher is too slow: go on from the resume token", mark)
            }
        };
        errors::watch_ended(code, reason, message, self.tickets.show_mark(mark))
    }
}
