//! `SaveStream`: saves in order, many in flight, answered in the order of their offsets.
//!
//! Two halves share one task, the one that sends the response: the [`Reader`](reader::Reader) turns messages into appends,
//! [`Answers`] turns what the journal said into coalesced acknowledgements. So a client that doesn't read its
//! acknowledgements isn't read from either (P7), nothing is spawned that could outlive the call, and a dropped call stops
//! reading while what is in the journal's inbox goes on.
//!
//! Consecutive saves that are accepted together are a [`Run`]: one append, one answer, whatever their number. With durability
//! PERSISTED the run whose turn it is waits for its outcome; what it waits for, those after it need not.

use std::{
    collections::VecDeque,
    future::Future,
    iter, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use self::awaited::{Awaited, Settled, Settling};
use super::{
    append::AppendError,
    door::Door,
    errors,
    events::{OpenCall, Rpc},
};
use crate::{
    limits::Permit,
    outcomes::Ticket,
    proto::{SaveStreamRequest, SaveStreamResponse, StreamAcknowledged, StreamOpened, StreamRefused, save_stream_response::Event},
};

mod awaited;
mod gather;
mod reader;
mod unanswered;

/// Consecutive offsets that share their answer.
struct Run {
    /// Its place in the order of answers.
    place: u64,
    first: u64,
    count: u64,
    /// Whether the client asked for tickets.
    tickets: bool,
    outcome: Outcome,
}

enum Outcome {
    /// The stream is open (no offsets).
    Opened(StreamOpened),
    /// In the journal.
    Accepted {
        appended_at: Instant,
        /// If the client asked for them.
        tickets: Vec<Ticket>,
    },
    /// Accepted before the stream was resumed.
    Known,
    /// Accepted; to be acknowledged with the outcome.
    Awaited(Awaited),
    /// The same, once it is its turn.
    Settling(Settling),
    /// It has its outcome.
    Settled(Settled),
    /// Nobody waits for its outcome any more: the stream ends here, and the client sends again what has no answer.
    Ended,
    /// Not accepted; the stream goes on.
    Refused(Status),
    /// Not acknowledged, and nothing after it will be: the stream ends here, and the client sends again what has no answer.
    Broken(AppendError),
}

/// Opens the stream of a call.
pub(super) fn open(door: Arc<Door>, requests: Streaming<SaveStreamRequest>, permit: Permit) -> Answers {
    let call = OpenCall::begin(&door.events, Rpc::SaveStream);
    let (tell, runs) = mpsc::unbounded_channel();
    let window = Arc::new(Semaphore::new(door.unacknowledged_max()));
    let ended = door.stop.child_token();
    let reader = reader::Reader::new(Arc::clone(&door), requests, tell, Arc::clone(&window), ended.clone());
    let reading: Reading = Box::pin(reader.run());
    Answers {
        door,
        reading: Some(reading),
        verdict: Ok(()),
        runs,
        order: Order::default(),
        window,
        ended,
        refusing: None,
        _permit: permit,
        _call: call,
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// The response stream.
pub(super) struct Answers {
    door: Arc<Door>,
    /// The reading half, until it ends.
    reading: Option<Reading>,
    /// How it ended: told when everything is answered.
    verdict: Result<(), Status>,
    /// From the reading half and the journal's thread; bounded by the window.
    runs: mpsc::UnboundedReceiver<Run>,
    order: Order,
    /// `grpc.stream_unacknowledged_max`: the reading half takes, an answer gives back.
    window: Arc<Semaphore>,
    /// Cancelled when the daemon stops or a newer call takes the stream over: nothing is waited for any more.
    ended: CancellationToken,
    /// A refused run that is being told, save by save.
    refusing: Option<Run>,
    _permit: Permit,
    _call: OpenCall,
}

impl Stream for Answers {
    type Item = Result<SaveStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(reading) = &mut this.reading
            && let Poll::Ready(verdict) = reading.as_mut().poll(cx)
        {
            this.reading = None;
            this.verdict = verdict;
        }
        let all_told = loop {
            match this.runs.poll_recv(cx) {
                Poll::Ready(Some(run)) => this.order.insert(run),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        match this.next_event(cx) {
            Some(Ok(event)) => Poll::Ready(Some(Ok(SaveStreamResponse { event: Some(event) }))),
            Some(Err(status)) => Poll::Ready(Some(Err(this.end(status)))),
            // Every run is told, even by being dropped: nothing is left, unless one waits for its outcome.
            None if all_told && this.order.is_empty() => Poll::Ready(mem::replace(&mut this.verdict, Ok(())).err().map(Err)),
            None => Poll::Pending,
        }
    }
}

impl Answers {
    /// The next answer that is due: as many acknowledgements as are ready become one.
    fn next_event(&mut self, cx: &mut Context<'_>) -> Option<Result<Event, Status>> {
        if let Some(event) = self.next_refusal() {
            return Some(Ok(event));
        }
        let mut acknowledged: Option<StreamAcknowledged> = None;
        while let Some(run) = self.order.due() {
            run.settle(cx, &self.door, &self.ended);
            match &mut run.outcome {
                Outcome::Awaited(_) | Outcome::Settling(_) => break,
                Outcome::Accepted { .. } | Outcome::Known => {}
                Outcome::Settled(settled) if settled.failed.is_empty() => {}
                // What is due before it is told first.
                _ if acknowledged.is_some() => break,
                Outcome::Settled(settled) => return settled.failed.pop_front().map(|failed| Ok(Event::Failed(failed))),
                Outcome::Broken(error) => return Some(Err(errors::append(*error))),
                Outcome::Ended => return Some(Err(self.door.why_ended())),
                Outcome::Opened(_) | Outcome::Refused(_) => return self.tell_alone(),
            }
            let run = self.order.take();
            self.acknowledge(run, acknowledged.get_or_insert_default());
        }
        acknowledged.map(|acknowledged| Ok(Event::Acknowledged(acknowledged)))
    }

    /// Tells the run whose turn it is, which is no acknowledgement.
    fn tell_alone(&mut self) -> Option<Result<Event, Status>> {
        let run = self.order.take();
        if let Outcome::Opened(opened) = run.outcome {
            return Some(Ok(Event::Opened(opened)));
        }
        self.refusing = Some(run);
        self.next_refusal().map(Ok)
    }

    fn acknowledge(&mut self, run: Run, told: &mut StreamAcknowledged) {
        told.through = run.first + (run.count - 1);
        self.window.add_permits(run.count as usize);
        let tickets = match run.outcome {
            Outcome::Accepted { appended_at, tickets } => {
                self.door.events.acknowledged(Rpc::SaveStream, appended_at.elapsed());
                tickets
            }
            Outcome::Settled(settled) => {
                told.superseded.extend(settled.superseded);
                settled.tickets
            }
            _ => Vec::new(),
        };
        if run.tickets {
            let shown = tickets.into_iter().map(|ticket| self.door.tickets.show(ticket));
            told.tickets.extend(shown.chain(iter::repeat(String::new())).take(run.count as usize));
        }
    }

    fn next_refusal(&mut self) -> Option<Event> {
        let run = self.refusing.as_mut()?;
        let Outcome::Refused(status) = &run.outcome else { return None };
        let refused = StreamRefused {
            offset: run.first,
            code: status.code().into(),
            message: status.message().to_owned(),
            details: errors::details(status),
        };
        run.first += 1;
        run.count -= 1;
        if run.count == 0 {
            self.refusing = None;
        }
        self.window.add_permits(1);
        Some(Event::Refused(refused))
    }

    /// Ends the stream at a run that is not acknowledged.
    fn end(&mut self, status: Status) -> Status {
        self.reading = None;
        self.verdict = Ok(());
        self.order = Order::default();
        self.runs.close();
        status
    }
}

impl Run {
    /// If it has to wait for its outcome: begins to wait, and looks whether that is over.
    fn settle(&mut self, cx: &mut Context<'_>, door: &Arc<Door>, ended: &CancellationToken) {
        self.outcome = match mem::replace(&mut self.outcome, Outcome::Ended) {
            Outcome::Awaited(awaited) => Outcome::Settling(awaited::settle(Arc::clone(door), awaited, self.first, ended.clone())),
            other => other,
        };
        if let Outcome::Settling(settling) = &mut self.outcome
            && let Poll::Ready(settled) = settling.as_mut().poll(cx)
        {
            self.outcome = settled.map_or(Outcome::Ended, Outcome::Settled);
        }
    }
}

/// Runs by their place: the journal answers in order, but a refusal may overtake.
#[derive(Default)]
struct Order {
    next: u64,
    runs: VecDeque<Option<Run>>,
}

impl Order {
    fn insert(&mut self, run: Run) {
        let at = usize::try_from(run.place - self.next).expect("the window bounds how far answers are apart");
        if at >= self.runs.len() {
            self.runs.resize_with(at + 1, || None);
        }
        self.runs[at] = Some(run);
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The run whose turn it is, if it is answered.
    fn due(&mut self) -> Option<&mut Run> {
        self.runs.front_mut()?.as_mut()
    }

    fn take(&mut self) -> Run {
        self.next += 1;
        self.runs.pop_front().flatten().expect("it is due")
    }
}
