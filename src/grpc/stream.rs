//! `SaveStream`: saves in order, many in flight, answered in the order of their offsets.
//!
//! Two halves share one task, the one that sends the response: the [`Reader`](reader::Reader) turns messages into appends,
//! [`Answers`] turns what the journal said into coalesced acknowledgements. So a client that doesn't read its
//! acknowledgements isn't read from either (P7), nothing is spawned that could outlive the call, and a dropped call stops
//! reading while what is in the journal's inbox goes on.
//!
//! Consecutive saves that are accepted together are a [`Run`]: one append, one answer, whatever their number.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

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

mod gather;
mod reader;

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
    let reader = reader::Reader::new(Arc::clone(&door), requests, tell, Arc::clone(&window));
    let reading: Reading = Box::pin(reader.run());
    Answers {
        door,
        reading: Some(reading),
        verdict: Ok(()),
        runs,
        order: Order::default(),
        window,
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
        match this.next_event() {
            Some(Ok(event)) => Poll::Ready(Some(Ok(SaveStreamResponse { event: Some(event) }))),
            Some(Err(broken)) => Poll::Ready(Some(Err(this.broken(broken)))),
            // Every run is told, even by being dropped: nothing is left.
            None if all_told => Poll::Ready(std::mem::replace(&mut this.verdict, Ok(())).err().map(Err)),
            None => Poll::Pending,
        }
    }
}

impl Answers {
    /// The next answer that is due: as many acknowledgements as are ready become one.
    fn next_event(&mut self) -> Option<Result<Event, AppendError>> {
        if let Some(event) = self.next_refusal() {
            return Some(Ok(event));
        }
        let mut acknowledged: Option<StreamAcknowledged> = None;
        while let Some(run) = self.order.due() {
            let told = match &run.outcome {
                Outcome::Accepted { .. } | Outcome::Known => {
                    let run = self.order.take();
                    self.acknowledge(run, acknowledged.get_or_insert_default());
                    continue;
                }
                // What is due before it is told first.
                _ if acknowledged.is_some() => break,
                Outcome::Broken(error) => Err(*error),
                Outcome::Opened(_) | Outcome::Refused(_) => Ok(self.order.take()),
            };
            return match told {
                Err(broken) => Some(Err(broken)),
                Ok(Run { outcome: Outcome::Opened(opened), .. }) => Some(Ok(Event::Opened(opened))),
                Ok(refused) => {
                    self.refusing = Some(refused);
                    self.next_refusal().map(Ok)
                }
            };
        }
        acknowledged.map(|acknowledged| Ok(Event::Acknowledged(acknowledged)))
    }

    fn acknowledge(&mut self, run: Run, told: &mut StreamAcknowledged) {
        told.through = run.first + (run.count - 1);
        self.window.add_permits(run.count as usize);
        if let Outcome::Accepted { appended_at, .. } = run.outcome {
            self.door.events.acknowledged(Rpc::SaveStream, appended_at.elapsed());
        }
        if run.tickets {
            match run.outcome {
                Outcome::Accepted { tickets, .. } => told.tickets.extend(tickets.into_iter().map(|ticket| self.door.tickets.show(ticket))),
                _ => told.tickets.extend((0..run.count).map(|_| String::new())),
            }
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

    /// Ends the stream at an append that was not acknowledged.
    fn broken(&mut self, error: AppendError) -> Status {
        self.reading = None;
        self.verdict = Ok(());
        self.order = Order::default();
        self.runs.close();
        errors::append(error)
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

    /// The run whose turn it is, if it is answered.
    fn due(&self) -> Option<&Run> {
        self.runs.front()?.as_ref()
    }

    fn take(&mut self) -> Run {
        self.next += 1;
        self.runs.pop_front().flatten().expect("it is due")
    }
}
