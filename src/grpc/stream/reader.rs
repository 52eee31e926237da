//! The reading half of a save stream: opens it, checks saves, takes room for them and hands them to the journal.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    Outcome, Run,
    awaited::Awaited,
    gather::{Gather, Gathered, Numbered},
    unanswered::Unanswered,
};
use crate::{
    collections::Collections,
    grpc::{
        admission::Room,
        append::AppendError,
        door::Door,
        errors,
        events::{Rpc, Tally},
        persisted,
        streams::{Opening, Resumption},
        validate::{Findings, Path},
        violations::Violations,
    },
    limits::LimitReached,
    outcomes::Ticket,
    proto::{ErrorReason, OffsetRange, SaveStreamRequest, StreamOpened},
    save::{Callback, LaneId, Save, Sequence, StreamOrigin},
};

/// How long saves at a limit are held back before they are refused; and how long while nothing has come free since.
const HOLD_BACK: Duration = Duration::from_secs(1);
const HOLD_BACK_AGAIN: Duration = Duration::from_millis(50);
/// Between two looks whether room has come free.
const HOLD_BACK_STEP: Duration = Duration::from_millis(10);

pub(super) struct Reader {
    door: Arc<Door>,
    gather: Gather,
    tell: mpsc::UnboundedSender<Run>,
    window: Arc<Semaphore>,
    /// Cancelled when the daemon stops or a newer call takes the stream over.
    ended: CancellationToken,
    /// If the stream has an id.
    opening: Option<Opening>,
    resumption: Resumption,
    want_tickets: bool,
    callback: Option<Arc<Callback>>,
    /// Saves are acknowledged with their outcome.
    persisted: bool,
    /// The next run's place in the order of answers.
    place: u64,
    /// The last saves found no room.
    at_limit: bool,
}

/// Saves of consecutive offsets, to be appended together.
#[derive(Default)]
struct Growing {
    first: u64,
    saves: Vec<Save>,
}

impl Reader {
    pub(super) fn new(
        door: Arc<Door>,
        requests: Streaming<SaveStreamRequest>,
        tell: mpsc::UnboundedSender<Run>,
        window: Arc<Semaphore>,
        ended: CancellationToken,
    ) -> Self {
        Self {
            door,
            gather: Gather::new(requests),
            tell,
            window,
            ended,
            opening: None,
            resumption: Resumption::default(),
            want_tickets: false,
            callback: None,
            persisted: false,
            place: 0,
            at_limit: false,
        }
    }

    /// Reads until the client has sent everything, something ends the stream, or the call is dropped.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let Some(first) = self.gather.first(&self.ended).await? else {
            return if self.ended.is_cancelled() { Err(self.door.why_ended()) } else { Ok(()) };
        };
        self.open(&first).await?;
        let mut piece = Vec::with_capacity(Gather::PIECE_SAVES);
        let door = Arc::clone(&self.door);
        self.gather.take(&door, first, &mut piece)?;
        loop {
            self.accept(&mut piece).await?;
            // Answers get their turn, however fast saves come.
            tokio::task::yield_now().await;
            match self.gather.more(&door, &self.ended, &mut piece).await? {
                Gathered::Saves => {}
                Gathered::End => return Ok(()),
                Gathered::Cancelled => return Err(self.door.why_ended()),
            }
        }
    }

    async fn open(&mut self, first: &SaveStreamRequest) -> Result<(), Status> {
        self.persisted = Door::is_persisted(first.durability)?;
        self.callback = self.door.callback(&first.callback, "")?;
        self.want_tickets = first.want_tickets;
        if first.stream_id.is_empty() {
            return Ok(());
        }
        let Ok(id) = Uuid::try_parse(&first.stream_id) else {
            return Err(errors::invalid_request(
                "stream_id",
                "is no UUID: draw one for the stream, like 0189d0a2-7c1e-7cc3-98c4-dc0c0c07398f",
            ));
        };
        // They count towards the same limit.
        self.door.request_ids.forget(self.door.request_ids.now());
        let opening = self.door.streams.open(id.into_bytes(), self.ended.clone(), self.persisted).map_err(errors::limit_reached)?;
        self.resumption = tokio::select! {
            biased;
            () = self.ended.cancelled() => return Err(self.door.why_ended()),
            resumption = opening.settled() => resumption,
        };
        self.opening = Some(opening);
        let missing = self.resumption.missing().map(|(first, last)| OffsetRange { first, last }).collect();
        let through = self.resumption.through();
        let opened = StreamOpened { known: through.is_some(), acknowledged_through: through.unwrap_or(0), missing };
        self.tell(0, 0, Outcome::Opened(opened));
        Ok(())
    }

    /// Takes a piece, as much at a time as may be unacknowledged.
    async fn accept(&mut self, piece: &mut Vec<Numbered>) -> Result<(), Status> {
        let at_once = self.door.unacknowledged_max().min(Gather::PIECE_SAVES);
        let mut left = piece.drain(..);
        while left.len() > 0 {
            let count = left.len().min(at_once);
            self.take_window(count).await?;
            self.accept_some(left.by_ref().take(count)).await?;
        }
        Ok(())
    }

    /// Waits until so many more may be unacknowledged. Meanwhile nothing is read: flow control holds the client back.
    async fn take_window(&self, count: usize) -> Result<(), Status> {
        let count = u32::try_from(count).expect("a piece is small");
        let permits = match self.window.try_acquire_many(count) {
            Ok(permits) => permits,
            Err(_) => tokio::select! {
                biased;
                () = self.ended.cancelled() => return Err(self.door.why_ended()),
                permits = self.window.acquire_many(count) => permits.expect("the window is never closed"),
            },
        };
        permits.forget();
        let free = self.window.available_permits();
        self.door.limits.stream_unacknowledged.saw(self.door.unacknowledged_max().saturating_sub(free) as u64);
        Ok(())
    }

    async fn accept_some(&mut self, saves: impl ExactSizeIterator<Item = Numbered>) -> Result<(), Status> {
        let mut collections = self.door.catalog.now();
        let now = SystemTime::now();
        let mut growing = Growing::default();
        let (mut left, mut read_again) = (saves.len(), false);
        for numbered in saves {
            let offset = numbered.offset;
            left -= 1;
            if let Some(outcome) = self.answered_before(&numbered, &collections) {
                self.append_run(&mut growing, &collections).await?;
                self.tell(offset, 1, outcome);
                continue;
            }
            let mut checked = self.check(&numbered, &collections, now);
            if !read_again && checked.as_ref().is_err_and(|findings| findings.unknown_name) {
                read_again = true;
                self.append_run(&mut growing, &collections).await?;
                collections = self.door.catalog.read_again().await;
                checked = self.check(&numbered, &collections, now);
            }
            match checked {
                Ok(save) => {
                    if growing.first + growing.saves.len() as u64 != offset {
                        self.append_run(&mut growing, &collections).await?;
                    }
                    growing.push(offset, save, left);
                }
                Err(findings) => {
                    self.append_run(&mut growing, &collections).await?;
                    let refusal = self.door.refusal(findings, [&numbered.save], &collections);
                    self.tell(offset, 1, Outcome::Refused(refusal));
                }
            }
        }
        self.append_run(&mut growing, &collections).await
    }

    /// Of a resumed stream: what this offset came to before.
    fn answered_before(&self, numbered: &Numbered, collections: &Collections) -> Option<Outcome> {
        let offset = numbered.offset;
        self.resumption.through().filter(|&through| offset <= through)?;
        let collection = collections.named(&numbered.save.collection).map(|collection| collection.id);
        Some(if self.resumption.was_accepted(offset) {
            if let Some(collection) = collection {
                self.door.events.saves_deduplicated(collection, 1);
            }
            self.known(offset, &numbered.save.collection)
        } else {
            self.door.events.saves_refused(collection, errors::name(ErrorReason::Overtaken), 1);
            Outcome::Refused(errors::overtaken())
        })
    }

    /// A save that was accepted before the stream was resumed.
    fn known(&self, offset: u64, collection: &str) -> Outcome {
        if !self.persisted {
            return Outcome::Known;
        }
        let control = &self.door.control;
        Outcome::Awaited(match self.resumption.sequence(offset) {
            Some(sequence) => Awaited::Known(self.door.ticket_of(collection, sequence)),
            None => Awaited::Before(control.newest(control.lane_of(collection))),
        })
    }

    fn check(&self, numbered: &Numbered, collections: &Collections, now: SystemTime) -> Result<Save, Findings> {
        let mut save = self.door.check(&numbered.save, Path::Nth(numbered.nth), collections, now)?;
        if self.persisted && self.opening.is_none() && persisted::counts_twice(&save) {
            let why = persisted::needs_id("the save", "one for the stream");
            return Err(Findings { violations: Violations::one("stream_id", why), ..Findings::default() });
        }
        save.callback.clone_from(&self.callback);
        save.origin = self.opening.as_ref().map(|opening| StreamOrigin { stream_id: opening.id(), offset: numbered.offset });
        Ok(save)
    }

    /// Appends what has grown; at a limit holds it back for a while, then refuses it save by save.
    async fn append_run(&mut self, growing: &mut Growing, collections: &Collections) -> Result<(), Status> {
        let Growing { first, saves } = std::mem::take(growing);
        if saves.is_empty() {
            return Ok(());
        }
        if let Ok(room) = self.room_in_time(&saves).await? {
            return self.append(first, saves, room, collections);
        }
        for (offset, save) in (first..).zip(saves) {
            let save = vec![save];
            match self.room(&save) {
                Ok(room) => self.append(offset, save, room, collections)?,
                Err(error) => {
                    Tally::of(&save).refused(&*self.door.events, errors::append_reason_name(error));
                    self.tell(offset, 1, Outcome::Refused(errors::append(error)));
                }
            }
        }
        Ok(())
    }

    /// Whether the journal has room as well: it would refuse at once what a stream can wait for. Streams leave a quarter of its
    /// inbox to unary calls, which can't wait.
    fn journal_room(&self, saves: &[Save]) -> Result<(), AppendError> {
        let bytes: u64 = saves.iter().map(Save::bytes).sum();
        let limits = &self.door.limits;
        for (limit, share) in [(&limits.journal_bytes, 1.0), (&limits.journal_inbox_bytes, 0.75)] {
            let (name, max, used) = (limit.name(), limit.max(), limit.used());
            if used.saturating_add(bytes) as f64 > max as f64 * share {
                return Err(AppendError::Full(LimitReached { name, max, used }));
            }
        }
        Ok(())
    }

    fn room(&self, saves: &[Save]) -> Result<Room, AppendError> {
        self.door.appender.gate()?;
        Room::take(&self.door.limits, saves).map_err(AppendError::Full)
    }

    /// Room for all of these saves, waited for. What no waiting changes ends the stream.
    async fn room_in_time(&mut self, saves: &[Save]) -> Result<Result<Room, AppendError>, Status> {
        let began = Instant::now();
        let patience = if self.at_limit { HOLD_BACK_AGAIN } else { HOLD_BACK };
        loop {
            let room = self.journal_room(saves).and_then(|()| self.room(saves));
            match room {
                Err(error @ (AppendError::Stopped | AppendError::OutcomeUnknown)) => return Err(errors::append(error)),
                Err(_) if began.elapsed() < patience => {}
                room => {
                    self.at_limit = room.is_err();
                    return Ok(room);
                }
            }
            tokio::select! {
                biased;
                () = self.ended.cancelled() => return Err(self.door.why_ended()),
                () = tokio::time::sleep(HOLD_BACK_STEP) => {}
            }
        }
    }

    /// Hands saves and their room to the journal. From here on the call may end: the answer finds its way alone.
    fn append(&mut self, first: u64, saves: Vec<Save>, room: Room, collections: &Collections) -> Result<(), Status> {
        let in_flight = match self.opening.as_ref().map(Opening::begin) {
            Some(None) => return Err(errors::taken_over()),
            begun => begun.flatten(),
        };
        let (tally, events) = (Tally::of(&saves), Arc::clone(&self.door.events));
        let (count, appended_at) = (saves.len() as u64, Instant::now());
        let unanswered = self.unanswered(first, count);
        let persisted = self.persisted;
        let named = Named::of(&saves, self.want_tickets || persisted);
        let done = move |result: Result<Sequence, AppendError>| {
            room.settle(result);
            match result {
                Ok(sequence) => {
                    tally.accepted(&*events);
                    if let Some(in_flight) = in_flight {
                        in_flight.accepted(first, count, sequence);
                    }
                    let tickets = named.tickets(sequence);
                    unanswered.tell(if persisted {
                        events.acknowledged(Rpc::SaveStream, appended_at.elapsed());
                        Outcome::Awaited(Awaited::New(tickets))
                    } else {
                        Outcome::Accepted { appended_at, tickets }
                    });
                }
                Err(error) => {
                    tally.refused(&*events, errors::append_reason_name(error));
                    unanswered.tell(match error {
                        AppendError::Full(_) | AppendError::FreeSpace { .. } => Outcome::Refused(errors::append(error)),
                        AppendError::Stopped | AppendError::OutcomeUnknown => Outcome::Broken(error),
                    });
                }
            }
        };
        self.door.appender.append_with(collections, saves, Box::new(done));
        Ok(())
    }

    fn tell(&mut self, first: u64, count: u64, outcome: Outcome) {
        self.unanswered(first, count).tell(outcome);
    }

    /// The next run in the order of answers.
    fn unanswered(&mut self, first: u64, count: u64) -> Unanswered {
        let run =
            Run { place: self.place, first, count, tickets: self.want_tickets, outcome: Outcome::Broken(AppendError::OutcomeUnknown) };
        self.place += 1;
        Unanswered::new(run, self.tell.clone())
    }
}

/// The lanes of saves, if tickets are needed.
struct Named(Vec<LaneId>);

impl Named {
    fn of(saves: &[Save], needed: bool) -> Self {
        Self(saves.iter().filter(|_| needed).map(|save| save.lane).collect())
    }

    fn tickets(self, first: Sequence) -> Vec<Ticket> {
        (0..).zip(self.0).map(|(n, lane)| Ticket { sequence: first.plus(n), lane }).collect()
    }
}

impl Growing {
    /// Adds a save; so many may follow.
    fn push(&mut self, offset: u64, save: Save, left: usize) {
        if self.saves.is_empty() {
            self.first = offset;
            self.saves.reserve_exact(1 + left);
        }
        self.saves.push(save);
    }
}
