//! `AdminService`: GetStatus, Pause, Resume, SetLimits, and what is done about failed saves.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::{control::Resume, deadline::Deadline, door::Door, errors, show};
use crate::{proto::*, save::LaneId};

pub(super) struct AdminService(pub(super) Arc<Door>);

/// Default and longest: nobody remembers a pause for longer.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A reason is shown in status, metrics and log.
const REASON_BYTES_MAX: usize = 500;

#[tonic::async_trait]
impl admin_service_server::AdminService for AdminService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let status = show::status(self.0.control.status().await, |row| self.0.shown_failed(row));
        Ok(Response::new(GetStatusResponse { status: Some(status) }))
    }

    type WatchStatusStream = Pin<Box<dyn Stream<Item = Result<WatchStatusResponse, Status>> + Send>>;

    async fn watch_status(&self, _: Request<WatchStatusRequest>) -> Result<Response<Self::WatchStatusStream>, Status> {
        Err(errors::not_implemented("AdminService.WatchStatus"))
    }

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseResponse>, Status> {
        let PauseRequest { lane, reason, duration } = request.into_inner();
        let lanes = self.0.lanes_named(&lane)?;
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(errors::invalid_request("reason", format!("is required, up to {REASON_BYTES_MAX} bytes")));
        }
        let duration = pause_duration(duration)?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        let ends_at = tokio::select! {
            ends_at = self.0.control.pause(&lanes, &reason, duration) => ends_at,
            // A transaction that hangs must not hold up the stop.
            () = self.0.stop.cancelled() => return Err(errors::stopping()),
        };
        Ok(Response::new(PauseResponse { end_time: Some(ends_at.into()) }))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        let ResumeRequest { lane, fail, accept_gap } = request.into_inner();
        let how = match (fail, accept_gap) {
            (false, false) => Resume::GoOn,
            (true, false) => Resume::Fail,
            (false, true) if lane.is_empty() => return Err(errors::invalid_request("lane", "is required with accept_gap".to_owned())),
            (false, true) => Resume::AcceptGap,
            (true, true) => return Err(errors::invalid_request("accept_gap", "goes without fail".to_owned())),
        };
        let resumed = self.0.control.resume(&self.0.lanes_named(&lane)?, how).await;
        let lanes = resumed.into_iter().map(|lane| self.0.lane_name(lane).to_owned()).collect();
        Ok(Response::new(ResumeResponse { lanes }))
    }

    async fn set_limits(&self, request: Request<SetLimitsRequest>) -> Result<Response<SetLimitsResponse>, Status> {
        self.0.set_limits(&request.into_inner().changes).map(Response::new)
    }

    async fn list_failed_saves(&self, request: Request<ListFailedSavesRequest>) -> Result<Response<ListFailedSavesResponse>, Status> {
        let deadline = Deadline::of(&request);
        self.0.check_phase()?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        deadline.wait(self.0.list_failed(request.into_inner())).await.map(Response::new)
    }

    async fn retry_failed_saves(&self, request: Request<RetryFailedSavesRequest>) -> Result<Response<RetryFailedSavesResponse>, Status> {
        let deadline = Deadline::of(&request);
        self.0.check_phase()?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        deadline.wait(self.0.retry_failed(request.into_inner())).await.map(Response::new)
    }

    async fn discard_failed_saves(
        &self,
        request: Request<DiscardFailedSavesRequest>,
    ) -> Result<Response<DiscardFailedSavesResponse>, Status> {
        let deadline = Deadline::of(&request);
        self.0.check_phase()?;
        let _permit = self.0.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
        deadline.wait(self.0.discard_failed(request.into_inner())).await.map(Response::new)
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(errors::not_implemented("AdminService.Drain"))
    }
}

fn pause_duration(duration: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(duration) = duration else { return Ok(PAUSE_MAX) };
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() && duration <= PAUSE_MAX => Ok(duration),
        _ => Err(errors::invalid_request("duration", format!("must be above 0 and at most {} s", PAUSE_MAX.as_secs()))),
    }
}

impl Door {
    /// The lane of this name; of none, all.
    fn lanes_named(&self, name: &str) -> Result<Vec<LaneId>, Status> {
        let all = self.all_lanes();
        if name.is_empty() {
            return Ok(all);
        }
        let found = all.into_iter().find(|&lane| self.lane_name(lane) == name);
        found.map(|lane| vec![lane]).ok_or_else(|| errors::unknown_lane(name, &self.lanes))
    }

    pub(super) fn all_lanes(&self) -> Vec<LaneId> {
        let count = u16::try_from(self.lanes.len()).expect("the settings bound the lanes");
        (0..count).map(LaneId).collect()
    }
}
