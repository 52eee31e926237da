//! `SaveService`: the saving calls, Flush and ListCollections; the reading ones are in [`reads`](super::reads) and [`load`].

use std::{
    pin::Pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    admission,
    control::FlushError,
    deadline::Deadline,
    door::Door,
    errors,
    events::{OpenCall, Rpc},
    load,
    persisted::{self, Told},
    request_ids::{Call, Claim, Claimed},
    show, stream,
    validate::{Findings, Path, validate},
    violations::Violations,
    watch,
};
use crate::{
    collections::Collections,
    limits::Permit,
    outcomes::Ticket,
    proto::{self, *},
    save::{Callback, LaneId, Sequence},
};

pub(super) struct SaveService(pub(super) Arc<Door>);

pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl save_service_server::SaveService for SaveService {
    async fn save(&self, request: Request<SaveRequest>) -> Result<Response<SaveResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let _call = OpenCall::begin(&self.0.events, Rpc::Save);
        let work = async {
            let SaveRequest { save, durability, request_id, callback } = request;
            let persisted = Door::is_persisted(durability)?;
            let callback = self.0.callback(&callback, &request_id)?;
            let Some(save) = save else { return Err(errors::invalid_request("save", "is missing")) };
            let saves = [save];
            let (kind, callback, request_id) = (Saves::One, callback.as_ref(), &*request_id);
            let accepted =
                self.0.accept_once(Asked { rpc: Rpc::Save, saves: &saves, kind, request_id, callback, persisted, deadline }).await?;
            let [save] = saves;
            Ok((save.collection, accepted))
        };
        let (collection, accepted) = deadline.wait(work).await?;
        let ticket = self.0.ticket_of(&collection, accepted.first);
        let mut told = self.0.told_if_waiting(&accepted, &[ticket], deadline).await;
        let told = told.pop().expect("one for each ticket");
        Ok(Response::new(told.response(self.0.tickets.show(ticket), accepted.deduplicated)?))
    }

    async fn save_batch(&self, request: Request<SaveBatchRequest>) -> Result<Response<SaveBatchResponse>, Status> {
        let deadline = Deadline::of(&request);
        let SaveBatchRequest { durability, ref callback, atomic, ref saves, ref request_id } = *request.get_ref();
        let _call = OpenCall::begin(&self.0.events, Rpc::SaveBatch);
        let work = async {
            let persisted = Door::is_persisted(durability)?;
            let callback = self.0.callback(callback, request_id)?;
            self.0.check_count(saves.len())?;
            if saves.is_empty() {
                return Err(errors::invalid_request("saves", "is empty"));
            }
            let (kind, callback) = (if atomic { Saves::Atomic } else { Saves::Many }, callback.as_ref());
            self.0.accept_once(Asked { rpc: Rpc::SaveBatch, saves, kind, request_id, callback, persisted, deadline }).await
        };
        let accepted = deadline.wait(work).await?;
        let numbered = (0..).zip(saves);
        let tickets: Vec<_> = numbered.map(|(n, save)| self.0.ticket_of(&save.collection, accepted.first.plus(n))).collect();
        let told = self.0.told_if_waiting(&accepted, &tickets, deadline).await;
        let results = tickets.into_iter().zip(told).map(|(ticket, told)| told.result(self.0.tickets.show(ticket)));
        Ok(Response::new(SaveBatchResponse { results: results.collect(), deduplicated: accepted.deduplicated }))
    }

    type SaveStreamStream = stream::Answers;

    async fn save_stream(&self, request: Request<Streaming<SaveStreamRequest>>) -> Result<Response<stream::Answers>, Status> {
        self.0.check_phase()?;
        let permit = self.0.limits.save_streams.permit(1).map_err(errors::limit_reached)?;
        Ok(Response::new(stream::open(Arc::clone(&self.0), request.into_inner(), permit)))
    }

    async fn get_ticket(&self, request: Request<GetTicketRequest>) -> Result<Response<GetTicketResponse>, Status> {
        let deadline = Deadline::of(&request);
        let _call = OpenCall::begin(&self.0.events, Rpc::GetTicket);
        self.0.check_phase()?;
        let _permit = self.0.limits.calls_in_flight.permit(1).map_err(errors::limit_reached)?;
        let status = deadline.wait(self.0.get_ticket(&request.get_ref().ticket)).await?;
        Ok(Response::new(GetTicketResponse { status: Some(status) }))
    }

    async fn await_ticket(&self, request: Request<AwaitTicketRequest>) -> Result<Response<AwaitTicketResponse>, Status> {
        let deadline = Deadline::of(&request);
        let _call = OpenCall::begin(&self.0.events, Rpc::AwaitTicket);
        self.0.check_phase()?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        // Not held while it waits: headers and all, it is the most of what a waiting call takes.
        let ticket = self.0.named_ticket(&request.into_inner().ticket)?;
        let status = self.0.await_ticket(ticket, deadline).await?;
        Ok(Response::new(AwaitTicketResponse { status: Some(status) }))
    }

    type WatchOutcomesStream = Responses<WatchOutcomesResponse>;

    async fn watch_outcomes(&self, request: Request<WatchOutcomesRequest>) -> Result<Response<Self::WatchOutcomesStream>, Status> {
        let call = OpenCall::begin(&self.0.events, Rpc::WatchOutcomes);
        self.0.check_phase()?;
        let permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        let watch = self.0.new_watch(request.into_inner())?;
        Ok(Response::new(Box::pin(watch::watch(Arc::clone(&self.0), watch, (permit, call)))))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = Deadline::of(&request);
        deadline.wait(self.0.get(request.into_inner(), deadline)).await.map(Response::new)
    }

    type LoadStream = Responses<LoadResponse>;

    async fn load(&self, request: Request<LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let deadline = Deadline::of(&request);
        deadline.wait(load::open(Arc::clone(&self.0), request.into_inner(), deadline)).await.map(Response::new)
    }

    async fn flush(&self, request: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
        let deadline = Deadline::of(&request);
        let _call = OpenCall::begin(&self.0.events, Rpc::Flush);
        self.0.check_phase()?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        let lanes = self.0.lanes_of(&request.into_inner().collections)?;
        let flushed = async {
            tokio::select! {
                flushed = self.0.control.flush(&lanes) => flushed.map_err(|error| self.0.flush_status(error)),
                () = self.0.stop.cancelled() => Err(errors::stopping()),
            }
        };
        let through = deadline.wait(flushed).await?;
        Ok(Response::new(FlushResponse { through: through.get() }))
    }

    async fn list_collections(&self, _: Request<ListCollectionsRequest>) -> Result<Response<ListCollectionsResponse>, Status> {
        Ok(Response::new(show::collections(&self.0.catalog.now(), &self.0.lanes)))
    }
}

/// How the saves of a unary call belong together.
#[derive(Clone, Copy, PartialEq)]
enum Saves {
    One,
    Many,
    Atomic,
}

/// What a unary call asks for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    rpc: Rpc,
    saves: &'a [proto::Save],
    kind: Saves,
    /// May be empty.
    request_id: &'a str,
    /// Who is told the outcomes.
    callback: Option<&'a Arc<Callback>>,
    /// The answer waits for the outcome.
    persisted: bool,
    deadline: Deadline,
}

/// What became of the saves of a unary call.
struct Accepted {
    /// The sequence of the first.
    first: Sequence,
    /// An earlier call with the same request id had them accepted.
    deduplicated: bool,
    /// Room to wait in, if the answer waits for the outcome.
    waits: Option<Permit>,
}

impl Door {
    /// Accepts the saves of a unary call, all or none, unless its request id says that they were.
    async fn accept_once(&self, asked: Asked<'_>) -> Result<Accepted, Status> {
        let Asked { saves, kind, request_id, callback, .. } = asked;
        let told = callback.map_or("", |callback| &callback.endpoint);
        self.check_phase()?;
        Self::check_request_id(request_id)?;
        // Before anything is accepted. The room of calls in flight is given back with the acceptance: who waits takes none of it.
        let waits = asked.persisted.then(|| self.limits.awaiting_calls.permit(1)).transpose().map_err(errors::limit_reached)?;
        let _permit = self.limits.calls_in_flight.permit(1).map_err(errors::limit_reached)?;
        let now = SystemTime::now();
        let claim = match request_id.is_empty() {
            true => None,
            false => match self.claim(Call::new(request_id, kind as u8, told, saves)).await? {
                Claimed::Fresh(claim) => Some(claim),
                Claimed::Repeated(first) => {
                    self.tell_deduplicated(saves);
                    return Ok(Accepted { first, deduplicated: true, waits });
                }
                Claimed::Reused => {
                    self.tell_refused(saves, ErrorReason::RequestIdReused, &self.catalog.now());
                    return Err(errors::request_id_reused());
                }
            },
        };
        let first = self.accept(asked, claim, now).await?;
        Ok(Accepted { first, deduplicated: false, waits })
    }

    /// What the caller is told of the saves: their outcomes, if it waits for them.
    async fn told_if_waiting(&self, accepted: &Accepted, tickets: &[Ticket], deadline: Deadline) -> Vec<Told> {
        match accepted.waits {
            Some(_) => self.told_by(tickets, deadline).await,
            None => vec![Told::PENDING; tickets.len()],
        }
    }

    fn tell_deduplicated(&self, saves: &[proto::Save]) {
        let collections = self.catalog.now();
        for save in saves {
            if let Some(collection) = collections.named(&save.collection) {
                self.events.saves_deduplicated(collection.id, 1);
            }
        }
    }

    /// Accepts saves, all or none; gives the sequence of the first.
    async fn accept(&self, asked: Asked<'_>, claim: Option<Claim>, now: SystemTime) -> Result<Sequence, Status> {
        let began = Instant::now();
        let mut collections = self.catalog.now();
        let mut checked = self.check_all(asked, &collections, now);
        if checked.as_ref().is_err_and(|findings| findings.unknown_name) {
            collections = self.catalog.read_again().await;
            checked = self.check_all(asked, &collections, now);
        }
        let mut checked = checked.map_err(|findings| self.refusal(findings, asked.saves, &collections))?;
        asked.deadline.not_passed()?;
        if let Some(claim) = &claim {
            checked[0].request_id = Some(claim.noted(asked.request_id.to_owned()).into());
        }
        let first = admission::accept(&self.appender, &self.limits, &self.events, &collections, checked, claim).await?;
        self.events.acknowledged(asked.rpc, began.elapsed());
        Ok(first)
    }

    fn check_all(&self, asked: Asked<'_>, collections: &Collections, now: SystemTime) -> Result<Vec<crate::save::Save>, Findings> {
        let Asked { saves, kind, callback, .. } = asked;
        let mut needs_id = asked.persisted && asked.request_id.is_empty();
        let mut findings = Findings::default();
        let rules = self.rules(collections);
        let mut checked = Vec::with_capacity(saves.len());
        for (n, save) in saves.iter().enumerate() {
            let path = if kind == Saves::One { Path::Save } else { Path::Nth(n) };
            let Some(mut save) = validate(save, path, &rules, now, &mut findings) else { continue };
            if needs_id && persisted::counts_twice(&save) {
                needs_id = false;
                findings.violations.push(format_args!("request_id"), || persisted::needs_id(path, "one for the call"));
                continue;
            }
            if kind == Saves::Atomic {
                save.batch_left = u32::try_from(saves.len() - 1 - n).expect("a batch is bounded");
                if let Some(lane) = checked.first().map(|first: &crate::save::Save| first.lane).filter(|&lane| lane != save.lane) {
                    findings.violations.push(format_args!("{path}.collection"), || self.other_lane(save.lane, lane));
                    continue;
                }
            }
            save.callback = callback.cloned();
            checked.push(save);
        }
        if checked.len() == saves.len() { Ok(checked) } else { Err(findings) }
    }

    /// An atomic batch is one transaction, and every lane has transactions of its own.
    fn other_lane(&self, lane: LaneId, first: LaneId) -> String {
        let (lane, first) = (self.lane_name(lane), self.lane_name(first));
        format!(
            "is written by lane {lane}, saves before it by lane {first}: name both collections in the same `lanes.NAME.collections`, \
             or don't ask for atomic"
        )
    }

    /// The lanes of these collections; of none, all.
    pub(super) fn lanes_of(&self, names: &[String]) -> Result<Vec<LaneId>, Status> {
        if names.is_empty() {
            return Ok(self.all_lanes());
        }
        let collections = self.catalog.now();
        let mut violations = Violations::default();
        let mut lanes = Vec::new();
        for (n, name) in names.iter().enumerate() {
            match collections.named(name) {
                Some(collection) if lanes.contains(&collection.lane) => {}
                Some(collection) => lanes.push(collection.lane),
                None => violations.push(format_args!("collections[{n}]"), || "is unknown: see ListCollections".to_owned()),
            }
        }
        if violations.is_empty() { Ok(lanes) } else { Err(errors::invalid_fields(violations)) }
    }

    pub(super) fn flush_status(&self, error: FlushError) -> Status {
        match error {
            FlushError::Paused { lane, reason } => {
                let lane = self.lane_name(lane);
                errors::lane(ErrorReason::LanePaused, lane, format!("lane {lane} is paused: {reason}; resume it first"))
            }
            FlushError::Halted { lane, reason, remedy } => {
                let lane = self.lane_name(lane);
                errors::lane(ErrorReason::LaneHalted, lane, format!("lane {lane} is halted: {reason}; {remedy}"))
            }
            FlushError::Fenced { lane } => {
                let lane = self.lane_name(lane);
                errors::lane(ErrorReason::LaneFenced, lane, format!("another daemon writes lane {lane}"))
            }
            FlushError::Stopping => errors::stopping(),
        }
    }
}
