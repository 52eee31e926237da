//! Watching and steering the daemon.

use std::time::Duration;

use tonic::transport::Channel;

use super::{Client, Error, retry::Repeat, with_deadline};
use crate::proto::{self, admin_service_client::AdminServiceClient};

impl Client {
    /// How the daemon stands.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn status(&self) -> Result<proto::Status, Error> {
        let answer = self
            .call(Repeat::Always, |mut stub: AdminServiceClient<Channel>, deadline| async move {
                stub.get_status(with_deadline(proto::GetStatusRequest {}, deadline)).await
            })
            .await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Stops writing to Postgres, of all lanes; saves are still accepted. Ends by itself after `duration`, at most one hour.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pause(&self, reason: &str, duration: Duration) -> Result<(), Error> {
        let duration = prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 };
        let request = proto::PauseRequest { lane: String::new(), reason: reason.to_owned(), duration: Some(duration) };
        self.call(Repeat::Always, |mut stub: AdminServiceClient<Channel>, deadline| {
            let request = with_deadline(request.clone(), deadline);
            async move { stub.pause(request).await }
        })
        .await
        .map(drop)
    }

    /// Ends a pause, or probes halted lanes at once; `fail`: what stands in front of a halted lane becomes failed saves.
    /// Returns the lanes that were paused or halted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn resume(&self, fail: bool) -> Result<Vec<String>, Error> {
        let answer = self
            .call(Repeat::Always, |mut stub: AdminServiceClient<Channel>, deadline| async move {
                stub.resume(with_deadline(proto::ResumeRequest { fail, ..proto::ResumeRequest::default() }, deadline)).await
            })
            .await?;
        Ok(answer.lanes)
    }

    /// Gives up the saves of a lane that Postgres has lost and the journal no longer holds, for good. `false`: the lane isn't
    /// halted in front of such a gap.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn accept_gap(&self, lane: &str) -> Result<bool, Error> {
        let request = proto::ResumeRequest { lane: lane.to_owned(), accept_gap: true, ..proto::ResumeRequest::default() };
        let answer = self
            .call(Repeat::IfNotTaken, |mut stub: AdminServiceClient<Channel>, deadline| {
                let request = with_deadline(request.clone(), deadline);
                async move { stub.resume(request).await }
            })
            .await?;
        Ok(!answer.lanes.is_empty())
    }

    /// Changes limits that are live, until the daemon's next start: all of them or none. Returns every limit as it is then.
    ///
    /// # Errors
    /// See [`Error`]; a refusal lists what can't be changed.
    pub async fn set_limits(&self, changes: &[(&str, u64)]) -> Result<Vec<proto::LimitStatus>, Error> {
        let changes: Vec<_> = changes.iter().map(|&(name, max)| proto::LimitChange { name: name.to_owned(), max }).collect();
        let answer = self
            .call(Repeat::Always, |mut stub: AdminServiceClient<Channel>, deadline| {
                let request = with_deadline(proto::SetLimitsRequest { changes: changes.clone() }, deadline);
                async move { stub.set_limits(request).await }
            })
            .await?;
        Ok(answer.limits)
    }

    /// A page of failed saves, oldest first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_failed_saves(&self, request: proto::ListFailedSavesRequest) -> Result<proto::ListFailedSavesResponse, Error> {
        self.call(Repeat::Always, |mut stub: AdminServiceClient<Channel>, deadline| {
            let request = with_deadline(request.clone(), deadline);
            async move { stub.list_failed_saves(request).await }
        })
        .await
    }

    /// Saves a page of failed saves again, as new saves; the answer says which, and why not the others.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::OutcomeUnknown`] call again: what is being retried is not retried twice.
    pub async fn retry_failed_saves(&self, request: proto::RetryFailedSavesRequest) -> Result<proto::RetryFailedSavesResponse, Error> {
        self.call(Repeat::IfNotTaken, |mut stub: AdminServiceClient<Channel>, deadline| {
            let request = with_deadline(request.clone(), deadline);
            async move { stub.retry_failed_saves(request).await }
        })
        .await
    }

    /// Gives failed saves up, for good.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn discard_failed_saves(
        &self,
        request: proto::DiscardFailedSavesRequest,
    ) -> Result<proto::DiscardFailedSavesResponse, Error> {
        self.call(Repeat::IfNotTaken, |mut stub: AdminServiceClient<Channel>, deadline| {
            let request = with_deadline(request.clone(), deadline);
            async move { stub.discard_failed_saves(request).await }
        })
        .await
    }
}
