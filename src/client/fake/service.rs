//! The rpcs of the fake.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Script, State, error_with, stream::take_stream};
use crate::proto::{
    self, Durability, LoadResponse, SaveStreamRequest, SaveStreamResponse, TicketState, TicketStatus, WatchOutcomesResponse,
    save_service_server::SaveService,
};

const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Service {
    state: Arc<Mutex<State>>,
}

impl Service {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn unary(&self, deadline: bool, request_id: String, saves: &[proto::Save]) -> Result<Vec<String>, Status> {
        let mut state = self.state();
        state.unary_calls += 1;
        state.deadlines.push(deadline);
        state.request_ids.extend(Some(request_id).filter(|id| !id.is_empty()));
        if let Some(status) = state.errors.pop_front() {
            return Err(status);
        }
        state.accepted.extend(saves.iter().map(|save| save.key.concat()));
        Ok(saves.iter().map(|save| format!("ticket-{}", save.key.concat())).collect())
    }

    /// The outcome of a save, as its durability has it told.
    fn outcome(&self, save: &proto::Save, durability: i32) -> TicketState {
        match durability == i32::from(Durability::Persisted) {
            true if self.state().failing_keys.contains(&save.key.concat()) => TicketState::Failed,
            true => TicketState::Persisted,
            false => TicketState::Pending,
        }
    }

    fn ticket(&self, ticket: &str) -> TicketStatus {
        let unknown = || TicketStatus { state: TicketState::Unknown.into(), ..TicketStatus::default() };
        self.state().tickets.get(ticket).cloned().unwrap_or_else(unknown)
    }

    /// What a call of a stream of answers tells; says nothing if there is no script left.
    fn next_script<T>(
        &self,
        scripts: impl FnOnce(&mut State) -> &mut VecDeque<Script<T>>,
        resume_token: String,
    ) -> Result<Script<T>, Status> {
        let mut state = self.state();
        if let Some(status) = state.errors.pop_front() {
            return Err(status);
        }
        state.resumed_from.push(resume_token);
        Ok(scripts(&mut state).pop_front().unwrap_or_default())
    }
}

fn failure() -> proto::Failure {
    proto::Failure { sqlstate: "23514".to_owned(), constraint: "players_level_check".to_owned(), message: "as told".to_owned() }
}

fn has_deadline<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key("grpc-timeout")
}

/// A moment before the call's deadline, which the client writes in microseconds or coarser.
fn deadline<T>(request: &Request<T>) -> Duration {
    let text = request.metadata().get("grpc-timeout").and_then(|text| text.to_str().ok()).expect("it has a deadline");
    let (digits, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "n" => Duration::from_nanos(1),
        "u" => Duration::from_micros(1),
        "m" => Duration::from_millis(1),
        _ => Duration::from_secs(1),
    };
    (unit * digits.parse().expect("digits")).mul_f64(0.9)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SaveService for Service {
    async fn save(&self, request: Request<proto::SaveRequest>) -> Result<Response<proto::SaveResponse>, Status> {
        let (deadline, peer) = (has_deadline(&request), request.remote_addr());
        let proto::SaveRequest { save, request_id, durability, .. } = request.into_inner();
        let save = save.expect("a save");
        let ticket = self.unary(deadline, request_id, std::slice::from_ref(&save))?.remove(0);
        let mute = {
            let mut state = self.state();
            state.peers.extend(peer);
            state.mute
        };
        if mute {
            std::future::pending::<()>().await;
        }
        let state = self.outcome(&save, durability);
        if state == TicketState::Failed {
            let proto::Failure { sqlstate, constraint, .. } = failure();
            let metadata = [("ticket", ticket.as_str()), ("sqlstate", &sqlstate), ("constraint", &constraint)];
            return Err(error_with(Code::FailedPrecondition, "SAVE_FAILED", &metadata));
        }
        Ok(Response::new(proto::SaveResponse { ticket, state: state.into(), ..Default::default() }))
    }

    async fn save_batch(&self, request: Request<proto::SaveBatchRequest>) -> Result<Response<proto::SaveBatchResponse>, Status> {
        let deadline = has_deadline(&request);
        let batch = request.into_inner();
        let tickets = self.unary(deadline, batch.request_id, &batch.saves)?;
        let result = |(ticket, save): (String, &proto::Save)| {
            let state = self.outcome(save, batch.durability);
            let failure = (state == TicketState::Failed).then(failure);
            proto::SaveResult { ticket, state: state.into(), failure, superseded: false }
        };
        let results = tickets.into_iter().zip(&batch.saves).map(result).collect();
        Ok(Response::new(proto::SaveBatchResponse { results, deduplicated: false }))
    }

    type SaveStreamStream = Answers<SaveStreamResponse>;

    async fn save_stream(&self, request: Request<Streaming<SaveStreamRequest>>) -> Result<Response<Self::SaveStreamStream>, Status> {
        {
            let mut state = self.state();
            state.stream_calls += 1;
            if let Some(status) = state.errors.pop_front() {
                return Err(status);
            }
        }
        let (answer, answers) = mpsc::unbounded_channel();
        tokio::spawn(take_stream(Arc::clone(&self.state), request.into_inner(), answer));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn get_ticket(&self, request: Request<proto::GetTicketRequest>) -> Result<Response<proto::GetTicketResponse>, Status> {
        self.unary(has_deadline(&request), String::new(), &[])?;
        let status = self.ticket(&request.get_ref().ticket);
        Ok(Response::new(proto::GetTicketResponse { status: Some(status) }))
    }

    async fn await_ticket(&self, request: Request<proto::AwaitTicketRequest>) -> Result<Response<proto::AwaitTicketResponse>, Status> {
        self.state().await_calls += 1;
        self.unary(has_deadline(&request), String::new(), &[])?;
        let (end, ticket) = (tokio::time::Instant::now() + deadline(&request), request.into_inner().ticket);
        loop {
            let (status, mute) = (self.ticket(&ticket), self.state().mute);
            let over = status.state != i32::from(TicketState::Pending) || tokio::time::Instant::now() >= end;
            if over && !mute {
                return Ok(Response::new(proto::AwaitTicketResponse { status: Some(status) }));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    type WatchOutcomesStream = Answers<WatchOutcomesResponse>;

    async fn watch_outcomes(&self, request: Request<proto::WatchOutcomesRequest>) -> Result<Response<Self::WatchOutcomesStream>, Status> {
        let script = self.next_script(|state| &mut state.watches, request.into_inner().resume_token)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(script).chain(tokio_stream::pending()))))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        self.unary(has_deadline(&request), String::new(), &[])?;
        let object = self.state().objects.get(&request.into_inner().key.concat()).cloned();
        Ok(Response::new(object.unwrap_or_default()))
    }

    type LoadStream = Answers<LoadResponse>;

    async fn load(&self, request: Request<proto::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let script = self.next_script(|state| &mut state.loads, request.into_inner().resume_token)?;
        Ok(Response::new(Box::pin(tokio_stream::iter(script))))
    }

    async fn flush(&self, request: Request<proto::FlushRequest>) -> Result<Response<proto::FlushResponse>, Status> {
        self.unary(has_deadline(&request), String::new(), &[])?;
        Ok(Response::new(proto::FlushResponse { through: 7 }))
    }

    async fn list_collections(
        &self,
        _: Request<proto::ListCollectionsRequest>,
    ) -> Result<Response<proto::ListCollectionsResponse>, Status> {
        Ok(Response::new(proto::ListCollectionsResponse::default()))
    }
}
