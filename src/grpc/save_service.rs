//! `SaveService`: the saving calls, Flush and ListCollections.

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
    request_ids::{Call, Claim, Claimed},
    show, stream,
    validate::{Findings, Path, validate},
    violations::Violations,
    watch,
};
use crate::{
    collections::Collections,
    proto::{self, *},
    save::{LaneId, Sequence},
};

pub(super) struct SaveService(pub(super) Arc<Door>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl save_service_server::SaveService for SaveService {
    async fn save(&self, request: Request<SaveRequest>) -> Result<Response<SaveResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let work = async {
            self.0.check_message(&request, 1)?;
            let SaveRequest { save, durability, request_id, callback } = request;
            Door::check_unimplemented(durability, &callback)?;
            let Some(save) = save else { return Err(errors::invalid_request("save", "is missing")) };
            let saves = [save];
            let accepted = self.0.accept_once(Rpc::Save, &saves, Saves::One, request_id, deadline).await?;
            let [save] = saves;
            Ok((save.collection, accepted))
        };
        let (collection, accepted) = deadline.wait(work).await?;
        let Accepted { first, deduplicated } = accepted;
        let ticket = self.0.ticket(&collection, first);
        Ok(Response::new(SaveResponse { ticket, state: TicketState::Pending.into(), deduplicated, superseded: false }))
    }

    async fn save_batch(&self, request: Request<SaveBatchRequest>) -> Result<Response<SaveBatchResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let work = async {
            Door::check_unimplemented(request.durability, &request.callback)?;
            self.0.check_message(&request, request.saves.len())?;
            if request.saves.is_empty() {
                return Err(errors::invalid_request("saves", "is empty"));
            }
            let saves = if request.atomic { Saves::Atomic } else { Saves::Many };
            self.0.accept_once(Rpc::SaveBatch, &request.saves, saves, request.request_id.clone(), deadline).await
        };
        let Accepted { first, deduplicated } = deadline.wait(work).await?;
        let results = (0..).zip(&request.saves).map(|(n, save)| {
            let ticket = self.0.ticket(&save.collection, first.plus(n));
            SaveResult { ticket, state: TicketState::Pending.into(), ..Default::default() }
        });
        Ok(Response::new(SaveBatchResponse { results: results.collect(), deduplicated }))
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

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(errors::not_implemented("SaveService.Get"))
    }

    type LoadStream = Responses<LoadResponse>;

    async fn load(&self, _: Request<LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        Err(errors::not_implemented("SaveService.Load"))
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

/// What became of the saves of a unary call.
struct Accepted {
    /// The sequence of the first.
    first: Sequence,
    /// An earlier call with the same request id had them accepted.
    deduplicated: bool,
}

impl Door {
    /// Accepts the saves of a unary call, all or none, unless its request id says that they were.
    async fn accept_once(
        &self,
        rpc: Rpc,
        saves: &[proto::Save],
        kind: Saves,
        request_id: String,
        deadline: Deadline,
    ) -> Result<Accepted, Status> {
        let _call = OpenCall::begin(&self.events, rpc);
        self.check_phase()?;
        Self::check_request_id(&request_id)?;
        let _permit = self.limits.calls_in_flight.permit(1).map_err(errors::limit_reached)?;
        let now = SystemTime::now();
        let claim = match request_id.is_empty() {
            true => None,
            false => match self.claim(Call::new(&request_id, kind as u8, saves), now).await? {
                Claimed::Fresh(claim) => Some((claim, request_id)),
                Claimed::Repeated(first) => {
                    self.tell_deduplicated(saves);
                    return Ok(Accepted { first, deduplicated: true });
                }
                Claimed::Reused => {
                    self.tell_refused(saves, ErrorReason::RequestIdReused, &self.catalog.now());
                    return Err(errors::request_id_reused());
                }
            },
        };
        let first = self.accept(rpc, saves, kind, claim, now, deadline).await?;
        Ok(Accepted { first, deduplicated: false })
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
    async fn accept(
        &self,
        rpc: Rpc,
        saves: &[proto::Save],
        kind: Saves,
        claim: Option<(Claim, String)>,
        now: SystemTime,
        deadline: Deadline,
    ) -> Result<Sequence, Status> {
        let began = Instant::now();
        let mut collections = self.catalog.now();
        let mut checked = self.check_all(saves, kind, &collections, now);
        if checked.as_ref().is_err_and(|findings| findings.unknown_name) {
            collections = self.catalog.read_again().await;
            checked = self.check_all(saves, kind, &collections, now);
        }
        let mut checked = checked.map_err(|findings| self.refusal(findings, saves, &collections))?;
        deadline.not_passed()?;
        let claim = claim.map(|(claim, id)| {
            checked[0].request_id = Some(claim.noted(id).into());
            claim
        });
        let first = admission::accept(&self.appender, &self.limits, &self.events, &collections, checked, claim).await?;
        self.events.acknowledged(rpc, began.elapsed());
        Ok(first)
    }

    fn check_all(
        &self,
        saves: &[proto::Save],
        kind: Saves,
        collections: &Collections,
        now: SystemTime,
    ) -> Result<Vec<crate::save::Save>, Findings> {
        let mut findings = Findings::default();
        let rules = self.rules(collections);
        let mut checked = Vec::with_capacity(saves.len());
        for (n, save) in saves.iter().enumerate() {
            let path = if kind == Saves::One { Path::Save } else { Path::Nth(n) };
            let Some(mut save) = validate(save, path, &rules, now, &mut findings) else { continue };
            if kind == Saves::Atomic {
                save.batch_left = u32::try_from(saves.len() - 1 - n).expect("a batch is bounded");
                if let Some(lane) = checked.first().map(|first: &crate::save::Save| first.lane).filter(|&lane| lane != save.lane) {
                    findings.violations.push(format_args!("{path}.collection"), || self.other_lane(save.lane, lane));
                    continue;
                }
            }
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
