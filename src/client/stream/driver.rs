//! Keeps a stream going: opens it, reads the answers, opens it again.

use std::{sync::Arc, time::Instant};

use tokio::time::timeout;
use tonic::{Streaming, transport::Channel};

use super::{
    NotSaved, OPEN_TIMEOUT, Shared,
    buffer::{Answered, Buffer},
    requests::Requests,
};
use crate::{
    client::{
        Client, Durability, Error,
        retry::{Repeat, Waits},
    },
    proto::{SaveStreamResponse, StreamOpened, save_service_client::SaveServiceClient, save_stream_response::Event},
};

/// Runs until every save is answered after `finish`, or an error that trying again doesn't cure.
pub(super) async fn drive(client: Client, shared: Arc<Shared>) {
    let _ending = Ending(Arc::clone(&shared));
    let mut waits = client.shared.retry.waits();
    loop {
        let end = match connection(&client, &shared, &mut waits).await {
            Ok(()) => Ok(()),
            Err(Broken::Passing(error)) => match waits.next(&error, Repeat::Always) {
                Some(wait) => {
                    tracing::debug!(stream_id = shared.id, %error, wait_ms = wait.as_millis(), "opening the stream again");
                    tokio::time::sleep(wait).await;
                    continue;
                }
                None => Err(error),
            },
            Err(Broken::Final(error)) => Err(error),
        };
        return shared.end(end);
    }
}

/// However the driver ends, nobody waits for it: also if a listener panics, or the runtime goes.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Err(Error::unavailable("the task of the stream has ended")));
    }
}

/// How a connection ended.
enum Broken {
    /// A later one may go on: whatever was sent is recognised.
    Passing(Error),
    Final(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Passing(error)
    }
}

async fn connection(client: &Client, shared: &Arc<Shared>, waits: &mut Waits) -> Result<(), Broken> {
    let number = shared.buffer().connect();
    let mut stub: SaveServiceClient<Channel> = client.stub();
    let requests = Requests::new(Arc::clone(shared), number);
    let mut answers = in_time(stub.save_stream(requests)).await?.into_inner();
    let opened = match in_time(answers.message()).await?.and_then(|answer| answer.event) {
        Some(Event::Opened(opened)) => opened,
        _ => return Err(Error::unavailable("the stream ended before it was opened").into()),
    };
    resume(client, shared, opened)?;
    if shared.buffer().unanswered() == 0 {
        waits.idle();
    }
    let since = Instant::now();
    let read = read(shared, &mut answers, waits).await;
    waits.lasted(since.elapsed());
    read
}

/// Opening must not hang: keepalive tells a dead connection, this a daemon that says nothing.
async fn in_time<T>(answer: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Error> {
    match timeout(OPEN_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(Error::from_status),
        Err(_) => Err(Error::unavailable("the daemon doesn't answer")),
    }
}

/// Begins where the daemon says.
fn resume(client: &Client, shared: &Shared, opened: StreamOpened) -> Result<(), Broken> {
    let (answered, through) = {
        let mut buffer = shared.buffer();
        if !opened.known && buffer.repeats_count() && !client.shared.retry.repeat_unknown {
            let error = Error::unknown("the daemon doesn't remember the stream, and saves sent before would count twice");
            return Err(Broken::Final(error));
        }
        // Saves that were refused without our having heard are sent again with the rest, to be told why; so are those that were
        // accepted and are to be answered when they are persisted.
        let accepted = opened.known && opened.missing.is_empty() && shared.options.durability == Durability::Synced;
        let answered = buffer.resume(accepted.then_some(opened.acknowledged_through));
        (answered, buffer.through())
    };
    shared.answered(answered, through);
    Ok(())
}

/// Notes an answer, and tells of it.
fn take(shared: &Shared, note: impl FnOnce(&mut Buffer) -> (Option<NotSaved>, Answered)) -> Result<(), Broken> {
    let (not_saved, answered, through) = {
        let mut buffer = shared.buffer();
        let (not_saved, answered) = note(&mut buffer);
        (not_saved, answered, buffer.through())
    };
    // Before the saves count as answered: who waits for that finds those that were not saved.
    let rejected = not_saved.map_or(Ok(()), |not_saved| shared.reject(not_saved));
    shared.answered(answered, through);
    rejected.map_err(Broken::Final)
}

/// Reads answers until the stream is finished or breaks.
async fn read(shared: &Shared, answers: &mut Streaming<SaveStreamResponse>, waits: &mut Waits) -> Result<(), Broken> {
    while !shared.buffer().is_finished() {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer.event,
            Ok(None) => return Err(Error::unavailable("the daemon closed the stream").into()),
            Err(status) => return Err(Error::from_status(status).into()),
        };
        match answer {
            Some(Event::Acknowledged(acknowledged)) => {
                waits.reset();
                take(shared, |buffer| (None, buffer.acknowledge(acknowledged.through, acknowledged.tickets, &acknowledged.superseded)))?;
            }
            Some(Event::Refused(refused)) => take(shared, |buffer| buffer.refuse(refused.offset, Error::from_refused(refused)))?,
            Some(Event::Failed(failed)) => {
                take(shared, |buffer| (buffer.fail(failed.offset, Error::from_failed(failed)), Answered::default()))?;
            }
            // Of a later version of the contract.
            Some(Event::Opened(_)) | None => tracing::debug!(stream_id = shared.id, "ignored an answer"),
        }
    }
    // Let the daemon end the call: giving it up would look like a cancelled one there.
    let _ = in_time(answers.message()).await;
    Ok(())
}
