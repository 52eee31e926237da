//! Sends a run: saves on one stream, many in flight, and between them atomic batches as calls of their own.
//!
//! A stream is reopened under its id when its daemon was killed: what had no answer and was not accepted is sent again. Batches are
//! never in flight at a kill, as nothing would tell whether they were accepted.

use std::collections::VecDeque;

use forebay::proto::{
    FlushRequest, SaveBatchRequest, SaveStreamRequest, SaveStreamResponse, StreamOpened, save_service_client::SaveServiceClient,
    save_stream_response::Event,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::operations::Operation;
use crate::support::{Daemon, HANG, saves::batch};

/// The client of one run.
pub(super) struct Sender<'s> {
    stream_id: String,
    line: Line,
    /// Offset and save of what has no answer yet.
    pending: VecDeque<(u64, &'s Operation)>,
    next_offset: u64,
    sequences: Vec<u64>,
    /// The daemon that runs now has answered: from its last answer on, sequences are counted.
    heard: bool,
}

/// One connection to one daemon.
struct Line {
    client: SaveServiceClient<Channel>,
    requests: mpsc::Sender<SaveStreamRequest>,
    answers: Streaming<SaveStreamResponse>,
}

impl<'s> Sender<'s> {
    pub(super) async fn new(daemon: &Daemon) -> Self {
        let stream_id = uuid::Uuid::new_v4().to_string();
        let (line, _) = Line::open(daemon, &stream_id).await;
        Self { stream_id, line, pending: VecDeque::new(), next_offset: 1, sequences: Vec::new(), heard: false }
    }

    /// Of every operation sent, in order.
    pub(super) fn sequences(&self) -> &[u64] {
        assert!(self.sequences.is_sorted_by(|a, b| a < b), "sequences rise in the order of sending: {:?}", self.sequences);
        &self.sequences
    }

    /// Puts a save on the stream.
    pub(super) async fn save(&mut self, operation: &'s Operation) {
        let offset = self.next_offset;
        self.next_offset += 1;
        self.pending.push_back((offset, operation));
        self.line.send(offset, operation).await;
    }

    /// After all before it: an atomic batch.
    pub(super) async fn batch(&mut self, operations: &[Operation]) {
        self.answered().await;
        let saves = operations.iter().map(Operation::save).collect();
        let answer = self.line.client.save_batch(SaveBatchRequest { atomic: true, ..batch(saves) }).await;
        let answer = answer.unwrap_or_else(|status| panic!("a batch is refused: {status:?}: {operations:#?}"));
        self.sequences.extend(answer.into_inner().results.iter().map(|result| sequence(&result.ticket)));
        self.heard = true;
    }

    /// After all before it: everything gets its outcome.
    pub(super) async fn flush(&mut self) {
        self.answered().await;
        let flushed = tokio::time::timeout(HANG, self.line.client.flush(FlushRequest::default())).await;
        flushed.expect("a flush ends").expect("nothing stands in front of the lanes");
    }

    /// Whatever is in flight may stay there, as long as the sequences of what was accepted can be counted.
    pub(super) async fn ready_for_a_kill(&mut self) {
        if !self.heard && !self.pending.is_empty() {
            self.hear().await;
        }
    }

    /// Goes on with the daemon that follows a killed one.
    pub(super) async fn reopen(&mut self, daemon: &Daemon) {
        let (line, opened) = Line::open(daemon, &self.stream_id).await;
        self.line = line;
        let accepted = if opened.known { opened.acknowledged_through } else { 0 };
        let answered = self.pending.front().map_or(self.next_offset, |(offset, _)| *offset) - 1;
        assert!(accepted >= answered, "acknowledged through {answered}, and after the kill only {accepted} is known");
        while self.pending.front().is_some_and(|(offset, _)| *offset <= accepted) {
            self.pending.pop_front();
            // Nobody else saves, and within a run sequences are consecutive.
            self.sequences.push(self.sequences.last().expect("the killed daemon had answered") + 1);
        }
        for (offset, operation) in &self.pending {
            self.line.send(*offset, operation).await;
        }
        self.heard = false;
    }

    async fn answered(&mut self) {
        while !self.pending.is_empty() {
            self.hear().await;
        }
    }

    /// Takes one answer.
    async fn hear(&mut self) {
        match self.line.hear().await {
            Event::Acknowledged(acknowledged) => {
                for ticket in &acknowledged.tickets {
                    self.pending.pop_front().expect("only what was sent is acknowledged");
                    self.sequences.push(sequence(ticket));
                }
                let left = self.pending.front().map_or(self.next_offset, |(offset, _)| *offset);
                assert_eq!(acknowledged.through + 1, left, "a ticket for each save");
                self.heard = true;
            }
            Event::Refused(refused) => panic!("the front door refused {}: {refused:?}", self.pending[0].1),
            Event::Failed(failed) => panic!("nobody asked for outcomes: {failed:?}"),
            Event::Opened(opened) => panic!("opened twice: {opened:?}"),
        }
    }
}

impl Line {
    async fn open(daemon: &Daemon, stream_id: &str) -> (Self, StreamOpened) {
        let mut client = daemon.client().await;
        let (requests, receiver) = mpsc::channel(1_024);
        let first = SaveStreamRequest { stream_id: stream_id.to_owned(), want_tickets: true, ..SaveStreamRequest::default() };
        requests.send(first).await.expect("the receiver is here");
        let answers = client.save_stream(ReceiverStream::new(receiver)).await.expect("the stream opens").into_inner();
        let mut line = Self { client, requests, answers };
        match line.hear().await {
            Event::Opened(opened) => (line, opened),
            other => panic!("the first answer tells where the stream stands: {other:?}"),
        }
    }

    async fn send(&self, offset: u64, operation: &Operation) {
        let request = SaveStreamRequest { offset, saves: vec![operation.save()], ..SaveStreamRequest::default() };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn hear(&mut self) -> Event {
        let answer = tokio::time::timeout(HANG, self.answers.message()).await.expect("saves are answered");
        answer.expect("the stream goes on").and_then(|answer| answer.event).expect("the stream ends only with the daemon")
    }
}

/// The number in a ticket: its first sixteen digits.
fn sequence(ticket: &str) -> u64 {
    u64::from_str_radix(&ticket[..16], 16).expect("a ticket begins with its sequence")
}
