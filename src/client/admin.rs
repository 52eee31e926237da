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
                stub.resume(with_deadline(proto::ResumeRequest { lane: String::new(), fail }, deadline)).await
            })
            .await?;
        Ok(answer.lanes)
    }
}
