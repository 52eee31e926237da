//! Health of every service: true only after recovery, false from the stop on. Limits, Postgres, pauses and halts never change it.
//!
//! Not tonic-health's own reporter: it begins with SERVING, and its watches never end, which holds up a stop.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, future, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

/// The services that have a health; empty is the daemon as a whole.
const SERVICES: [&str; 3] = ["", "forebay.v1.SaveService", "forebay.v1.AdminService"];

/// What the daemon is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Recovering the journal: nothing is accepted.
    Starting,
    /// Everything works.
    Serving,
    /// Calls in flight are finished.
    Stopping,
}

/// The switch: `daemon` turns it, everyone reads it.
#[derive(Clone, Debug)]
pub struct Health(watch::Sender<Phase>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Health {
    /// Recovery is over: SERVING, unless the stop has begun.
    pub fn serving(&self) {
        self.0.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Serving;
            }
            starting
        });
    }

    /// The stop has begun: NOT_SERVING for good.
    pub fn stopping(&self) {
        self.0.send_replace(Phase::Stopping);
    }

    /// Whether it is SERVING.
    pub fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    pub(super) fn phase(&self) -> Phase {
        *self.0.borrow()
    }
}

/// The health of a service, by name.
fn response(service: &str, phase: Phase) -> HealthCheckResponse {
    let status = match phase {
        _ if !SERVICES.contains(&service) => ServingStatus::ServiceUnknown,
        Phase::Serving => ServingStatus::Serving,
        Phase::Starting | Phase::Stopping => ServingStatus::NotServing,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let response = response(&request.get_ref().service, self.phase());
        match response.status() {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no service of this name")),
            _ => Ok(Response::new(response)),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Tells every change, and ends after the last: NOT_SERVING at the stop.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let told = WatchStream::new(self.0.subscribe()).flat_map(move |phase| {
            let end = (phase == Phase::Stopping).then_some(None);
            stream::iter([Some(response(&service, phase))].into_iter().chain(end))
        });
        let until_stop = told.take_while(|response| future::ready(response.is_some()));
        Ok(Response::new(Box::pin(until_stop.filter_map(|response| future::ready(response.map(Ok))))))
    }
}
