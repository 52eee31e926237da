//! The front door: gRPC in, saves out.
//!
//! It checks what clients send (the contract is `proto/forebay/v1`), takes room against the limits, hands saves to the
//! journal and answers once they are synced (P1, P7). It holds no save itself and knows neither backlog nor Postgres:
//! what it needs of them it asks through [`Control`]. A call that is cancelled or times out cancels nothing that the
//! journal has taken. After a failure of the journal nothing is acknowledged (P8).
//!
//! In the order of a call: `accept` (connections) → `calls` (every call) → `receive` (messages as they arrive) → `save_service`, `stream`,
//! `admin` (calls) → `validate` (checks) → `admission` (room) → [`Append`] (the journal).

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tower_layer::{Identity, Stack};

use crate::{
    limits::Limits,
    outcomes::Tickets,
    proto::{self, admin_service_server::AdminServiceServer, save_service_server::SaveServiceServer},
    settings::GrpcSettings,
};

mod accept;
mod admin;
mod admission;
mod append;
mod calls;
mod catalog;
mod control;
mod deadline;
mod door;
mod errors;
mod events;
mod failed;
#[cfg(any(test, feature = "fuzzing"))]
mod fixtures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod live;
mod load;
mod persisted;
mod reads;
mod receive;
mod request_ids;
mod save_service;
mod show;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod tickets;
mod validate;
mod violations;
mod watch;

pub use append::{Append, AppendDone, AppendError};
pub use control::{Control, FailedStanding, FlushError, Resume, SettleError};
pub use events::{Events, Rpc};
pub use health::Health;
pub use reads::{LoadPage, LoadQuery, Loading, ReadError, ReadObject, Reads};
pub use request_ids::{RememberedId, RequestIds};
pub use streams::{Remembered, Streams};

/// The ends of the other stages, given by `daemon`.
#[derive(Clone)]
pub struct Handles {
    /// The journal.
    pub appender: Arc<dyn Append>,
    /// The daemon.
    pub control: Arc<dyn Control>,
    /// Reads objects.
    pub reads: Arc<dyn Reads>,
    /// Every limit.
    pub limits: Limits,
    /// Names of the lanes, by [`LaneId`](crate::save::LaneId).
    pub lanes: Arc<[String]>,
    /// Names saves.
    pub tickets: Tickets,
    /// The endpoints that saves may name in `callback`.
    pub endpoints: Arc<[String]>,
    /// Save streams by id; fed by recovery.
    pub streams: Arc<Streams>,
    /// Request ids of unary calls; fed by recovery.
    pub request_ids: Arc<RequestIds>,
    /// Turned to serving by `daemon` after recovery.
    pub health: Health,
    /// Told what happens.
    pub events: Arc<dyn Events>,
}

/// How long open calls have to end after the stop; then connections are cut. Saves are answered within a sync and streams
/// end at once, so this is for clients that don't read their answers.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// HTTP/2: what a client may send ahead on one stream, and on one connection. What nobody has read of it counts towards no limit but the
/// number of connections; on a link of 10 ms, a stream carries 6 MiB a second, and a connection 200.
///
/// Their ratio matters. While a stream is held back, its frames wait unread, and h2 ends the whole connection
/// (`too_many_data_frames`) when the sum of `256 - length` over the small ones exceeds half the connection's window. With
/// 1:32, a stream of frames as short as 16 bytes fits: shorter than any save.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// HTTP/2: resets that a client provokes (CVE-2025-8671) or sends early (CVE-2023-44487) before it is cut off.
const LOCAL_ERROR_RESETS_MAX: usize = 256;
const PENDING_ACCEPT_RESETS_MAX: usize = 20;

/// Serves until `stop` and every open call has ended.
///
/// Health is NOT_SERVING until [`Health::serving`] is called, and again from `stop` on. Then the listener closes, streams are
/// answered and ended, calls in flight are finished, and what is left after three seconds is cut.
///
/// # Errors
/// None that the transport reports today: connections fail alone.
pub async fn serve(
    listener: TcpListener,
    settings: GrpcSettings,
    handles: Handles,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let connections = Arc::clone(&handles.limits.connections);
    let accept = accept::Accept::new(listener, &settings, connections, cut.clone());
    let health = handles.health.clone();
    let stopped = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            health.stopping();
        }
    };
    let router = router(&settings, handles, stop.clone());
    let serving = router.serve_with_incoming_shutdown(accept.connections(), stopped);
    let cutting = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
        cut.cancel();
    };
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = cutting => tracing::warn!("calls were still open at the end of the stop and are cut"),
    }
    serving.await
}

fn router(settings: &GrpcSettings, handles: Handles, stop: CancellationToken) -> Router<Stack<calls::CallsLayer, Identity>> {
    let mut server = server(settings).layer(calls::CallsLayer::new(&handles.limits, settings));
    let health = tonic_health::pb::health_server::HealthServer::new(handles.health.clone());
    // Refused by its prefix before: see `receive`.
    let decoded_max = usize::try_from(settings.message_bytes_max).unwrap_or(usize::MAX);
    // Tickets are about as long as the smallest saves.
    let encoded_max = decoded_max.saturating_mul(2).max(8 << 20);
    let door = door::Door::new(handles, stop);
    let saves = SaveServiceServer::new(save_service::SaveService(Arc::clone(&door)))
        .max_decoding_message_size(decoded_max)
        .max_encoding_message_size(encoded_max);
    let admin =
        AdminServiceServer::new(admin::AdminService(door)).max_decoding_message_size(decoded_max).max_encoding_message_size(encoded_max);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    server
        .add_service(saves)
        .add_service(admin)
        .add_service(health)
        .add_service(reflection().build_v1().expect("the descriptors are whole"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are whole"))
}

/// Every knob is set here, whatever the libraries' defaults are or become.
fn server(settings: &GrpcSettings) -> Server {
    Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(settings.streams_per_connection_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .max_frame_size(FRAME_BYTES_MAX)
        // Ours fires first, and says what the limit is.
        .http2_max_header_list_size(settings.header_bytes_max.saturating_mul(2))
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .http2_max_local_error_reset_streams(Some(LOCAL_ERROR_RESETS_MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_ACCEPT_RESETS_MAX))
}
