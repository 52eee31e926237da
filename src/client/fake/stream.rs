//! Streams of saves to the fake.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use super::State;
use crate::proto::{
    Failure, SaveStreamRequest, SaveStreamResponse, StreamAcknowledged, StreamFailed, StreamRefused, save_stream_response::Event,
};

pub(super) type Answer = mpsc::UnboundedSender<Result<SaveStreamResponse, Status>>;

/// Serves one stream until it breaks.
pub(super) async fn take_stream(state: Arc<Mutex<State>>, mut messages: Streaming<SaveStreamRequest>, answer: Answer) {
    let Some(Ok(first)) = messages.next().await else { return };
    let stream_id = first.stream_id.clone();
    state.lock().expect("no holder panics").stream_opened = first.clone();
    // Nobody may be left to hear an answer.
    let tell = |event| drop(answer.send(Ok(SaveStreamResponse { event: Some(event) })));
    if !stream_id.is_empty() {
        tell(Event::Opened(state.lock().expect("no holder panics").open(&stream_id)));
    }
    let mut next = Some(first);
    while let Some(message) = next {
        let through = message.offset + message.saves.len() as u64;
        let (told, quiet) = take_saves(&mut state.lock().expect("no holder panics"), &stream_id, message);
        told.into_iter().for_each(tell);
        if !quiet && through > 0 {
            tell(Event::Acknowledged(StreamAcknowledged { through: through - 1, ..Default::default() }));
        }
        next = messages.next().await.and_then(Result::ok);
    }
}

/// Accepts, refuses and fails; whether to keep quiet about it.
fn take_saves(state: &mut State, stream_id: &str, message: SaveStreamRequest) -> (Vec<Event>, bool) {
    let mut told = Vec::new();
    for (offset, save) in (message.offset..).zip(message.saves) {
        let key = save.key.concat();
        if state.refused_keys.contains(&key) {
            state.refused.entry(stream_id.to_owned()).or_default().push(offset);
            told.extend(refused(offset).filter(|_| !quiet(state)));
            continue;
        }
        // Else a connection that broke is still being read while the next one sends the same again.
        if stream_id.is_empty() || state.streams.get(stream_id).is_none_or(|&through| offset > through) {
            state.accepted.push(key.clone());
            state.streams.insert(stream_id.to_owned(), offset);
        }
        if state.failing_keys.contains(&key) {
            told.extend(failed(offset).filter(|_| !quiet(state)));
        }
    }
    (told, quiet(state))
}

fn quiet(state: &State) -> bool {
    state.answer_saves_max.is_some_and(|max| state.accepted.len() as u64 > max)
}

fn refused(offset: u64) -> Option<Event> {
    let code = Code::InvalidArgument.into();
    Some(Event::Refused(StreamRefused { offset, code, message: "as told".to_owned(), details: Vec::new() }))
}

fn failed(offset: u64) -> Option<Event> {
    let failure = Failure { sqlstate: "23514".to_owned(), ..Failure::default() };
    Some(Event::Failed(StreamFailed { offset, ticket: format!("ticket-{offset}"), failure: Some(failure) }))
}
