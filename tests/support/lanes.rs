//! How a daemon's lanes stand, and what is asked of them.

use forebay::proto::{FlushRequest, GetStatusRequest, LaneState, LaneStatus, PauseRequest, ResumeRequest};
use tonic::Status;

use super::{Daemon, eventually};

/// The status of every lane.
pub(crate) async fn all(daemon: &Daemon) -> Vec<LaneStatus> {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    status.status.expect("a status").lanes
}

/// The status of a lane.
pub(crate) async fn lane(daemon: &Daemon, name: &str) -> LaneStatus {
    all(daemon).await.into_iter().find(|lane| lane.name == name).unwrap_or_else(|| panic!("there is no lane {name}"))
}

/// Waits until a lane is halted.
pub(crate) async fn halted(daemon: &Daemon, name: &str) -> LaneStatus {
    eventually("the lane halts", || async {
        let lane = lane(daemon, name).await;
        (lane.state() == LaneState::Halted).then_some(lane)
    })
    .await
}

/// Flushes these collections, or all.
pub(crate) async fn flush(daemon: &Daemon, collections: &[&str]) -> Result<(), Status> {
    let collections = collections.iter().map(|name| (*name).to_owned()).collect();
    daemon.client().await.flush(FlushRequest { collections }).await.map(drop)
}

/// Nothing is written until [`resume`].
pub(crate) async fn pause(daemon: &Daemon) {
    let request = PauseRequest { reason: "a test".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(request).await.expect("paused");
}

/// Ends a pause; halted lanes probe.
pub(crate) async fn resume(daemon: &Daemon) {
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
}

/// Resumes until everything is flushed: what stood in the way is repaired.
pub(crate) async fn goes_on(daemon: &Daemon) {
    eventually("the lanes go on", || async {
        resume(daemon).await;
        flush(daemon, &[]).await.ok()
    })
    .await;
}
