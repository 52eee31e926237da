//! What the services share: handles of the daemon, limits, and the checks that every saving call goes through.

use std::{sync::Arc, time::SystemTime};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Handles,
    append::Append,
    catalog::Catalog,
    control::Control,
    errors,
    events::Events,
    health::{Health, Phase},
    reads::Reads,
    request_ids::{Call, Claimed, RequestIds},
    streams::Streams,
    validate::{Findings, Path, Rules, validate},
};
use crate::{
    collections::Collections,
    limits::Limits,
    outcomes::Tickets,
    proto::{self, Durability, ErrorReason},
    save::{Callback, RequestId, Save},
    settings::Settings,
};

pub(super) struct Door {
    pub(super) appender: Arc<dyn Append>,
    pub(super) control: Arc<dyn Control>,
    pub(super) catalog: Catalog,
    pub(super) reads: Arc<dyn Reads>,
    pub(super) limits: Limits,
    pub(super) lanes: Arc<[String]>,
    pub(super) tickets: Tickets,
    pub(super) endpoints: Arc<[String]>,
    pub(super) streams: Arc<Streams>,
    pub(super) request_ids: Arc<RequestIds>,
    pub(super) health: Health,
    pub(super) events: Arc<dyn Events>,
    /// Cancelled when the stop begins.
    pub(super) stop: CancellationToken,
}

impl Door {
    pub(super) fn new(handles: Handles, stop: CancellationToken) -> Arc<Self> {
        let Handles { appender, control, reads, limits, lanes, tickets, endpoints, streams, request_ids, health, events } = handles;
        let catalog = Catalog::new(Arc::clone(&control));
        Arc::new(Self { appender, control, catalog, reads, limits, lanes, tickets, endpoints, streams, request_ids, health, events, stop })
    }

    /// Refuses saves before the recovery is over. During a stop they are still taken: the journal is, as long as calls are.
    pub(super) fn check_phase(&self) -> Result<(), Status> {
        if self.health.phase() == Phase::Starting { Err(errors::starting()) } else { Ok(()) }
    }

    /// Whether the answer waits for the outcome. A number that is none is a client of another version.
    pub(super) fn is_persisted(durability: i32) -> Result<bool, Status> {
        match Durability::try_from(durability) {
            Ok(Durability::Unspecified | Durability::Synced) => Ok(false),
            Ok(Durability::Persisted) => Ok(true),
            Err(_) => Err(errors::invalid_request("durability", format!("is {durability}, which this version doesn't know"))),
        }
    }

    /// Who is to be told the outcomes of a call's saves, if the call says so.
    pub(super) fn callback(&self, endpoint: &str, request_id: &str) -> Result<Option<Arc<Callback>>, Status> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        if !self.endpoints.iter().any(|known| known == endpoint) {
            let there_are = Settings::endpoints_there_are(self.endpoints.iter().map(String::as_str));
            return Err(errors::invalid_request("callback", format!("names no endpoint: {there_are}")));
        }
        Ok(Some(Arc::new(Callback { endpoint: endpoint.into(), request_id: request_id.into() })))
    }

    /// Why a stream was ended from this side.
    pub(super) fn why_ended(&self) -> Status {
        if self.stop.is_cancelled() { errors::stopping() } else { errors::taken_over() }
    }

    /// Refuses request ids that are too long to be kept.
    pub(super) fn check_request_id(id: &str) -> Result<(), Status> {
        let (bytes, max) = (id.len(), RequestId::BYTES_MAX);
        if bytes <= max { Ok(()) } else { Err(errors::invalid_request("request_id", format!("has {bytes} bytes, more than {max}"))) }
    }

    /// Takes a request id, or tells what was accepted under it.
    pub(super) async fn claim(&self, call: Call) -> Result<Claimed, Status> {
        let now = self.request_ids.now();
        if let Ok(claimed) = self.request_ids.claim(call, now).await {
            return Ok(claimed);
        }
        // Streams count towards the same limit.
        self.streams.forget_given_up();
        self.request_ids.claim(call, now).await.map_err(errors::limit_reached)
    }

    /// Refuses messages of so many saves.
    pub(super) fn check_count(&self, saves: usize) -> Result<(), Status> {
        let limit = &self.limits.batch_saves;
        if !limit.lets_through(saves as u64) {
            let why = format!("holds {saves} saves, more than {} = {}: send fewer at a time", limit.name(), limit.max());
            return Err(errors::invalid_request("saves", why));
        }
        Ok(())
    }

    /// Checks one save.
    pub(super) fn check(&self, save: &proto::Save, path: Path, collections: &Collections, now: SystemTime) -> Result<Save, Findings> {
        let mut findings = Findings::default();
        validate(save, path, &self.rules(collections), now, &mut findings).ok_or(findings)
    }

    pub(super) fn rules<'a>(&'a self, collections: &'a Collections) -> Rules<'a> {
        Rules { collections, body_bytes: &self.limits.body_bytes, key_bytes: &self.limits.key_bytes }
    }

    /// The error for saves that were found wrong; counts them.
    pub(super) fn refusal<'s>(
        &self,
        findings: Findings,
        saves: impl IntoIterator<Item = &'s proto::Save>,
        collections: &Collections,
    ) -> Status {
        self.tell_refused(saves, ErrorReason::InvalidSave, collections);
        errors::invalid_save(findings.violations)
    }

    pub(super) fn tell_refused<'s>(
        &self,
        saves: impl IntoIterator<Item = &'s proto::Save>,
        reason: ErrorReason,
        collections: &Collections,
    ) {
        for save in saves {
            let known = collections.named(&save.collection).map(|collection| collection.id);
            self.events.saves_refused(known, errors::name(reason), 1);
        }
    }

    /// `grpc.stream_unacknowledged_max`, as a count of permits.
    pub(super) fn unacknowledged_max(&self) -> usize {
        usize::try_from(self.limits.stream_unacknowledged.max()).unwrap_or(usize::MAX).clamp(1, u32::MAX as usize)
    }

    pub(super) fn lane_name(&self, lane: crate::save::LaneId) -> &str {
        self.lanes.get(usize::from(lane.0)).map_or("", String::as_str)
    }
}
