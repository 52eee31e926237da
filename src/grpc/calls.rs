//! What holds for every call before a service sees it: how many its connection has open, and how large its headers may be.
//!
//! HTTP/2 holds clients to both limits and names neither. Calls beyond `grpc.streams_per_connection_max` wait in the client's
//! library, and are reset if it doesn't know to wait: here they are only counted. For headers, HTTP/2 is given twice
//! `grpc.header_bytes_max`: what lies between is refused here, with the limit's name.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, Request, Response},
    },
};
use tower_layer::Layer;

use super::{
    errors,
    receive::{Received, Rules},
};
use crate::{
    limits::{Limit, Limits},
    settings::GrpcSettings,
};

/// The open calls of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionCalls(Arc<AtomicU64>);

/// One of them, until its answer has been sent or dropped.
struct Counted(ConnectionCalls);

impl ConnectionCalls {
    fn begin(&self, limit: &Limit) -> Counted {
        let open = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        // HTTP/2 lets no more through. A call that was reset it forgets at once, we when its answer is dropped.
        limit.saw(open.min(limit.max()));
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Puts [`Calls`] in front of the services.
#[derive(Clone)]
pub(super) struct CallsLayer {
    connection_calls: Arc<Limit>,
    header_bytes: Arc<Limit>,
    rules: Arc<Rules>,
}

impl CallsLayer {
    pub(super) fn new(limits: &Limits, settings: &GrpcSettings) -> Self {
        let (connection_calls, header_bytes) = (Arc::clone(&limits.connection_calls), Arc::clone(&limits.header_bytes));
        Self { connection_calls, header_bytes, rules: Rules::new(limits, settings) }
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, services: S) -> Calls<S> {
        Calls { layer: self.clone(), services }
    }
}

/// What every call goes through.
#[derive(Clone)]
pub(super) struct Calls<S> {
    layer: CallsLayer,
    services: S,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let CallsLayer { connection_calls, header_bytes, rules } = &self.layer;
        let calls = request.extensions().get::<ConnectionCalls>();
        let counted = calls.map(|calls| calls.begin(connection_calls));
        if let Err(refusal) = check_headers(request.headers(), header_bytes) {
            return Box::pin(ready(Ok(refusal.into_http())));
        }
        let (head, body) = request.into_parts();
        let body = Body::new(Received::new(head.uri.path(), body, Arc::clone(rules)));
        let answered = self.services.call(Request::from_parts(head, body));
        Box::pin(async move { Ok(answered.await?.map(|body| Answer { body, _counted: counted })) })
    }
}

fn check_headers(headers: &HeaderMap, limit: &Limit) -> Result<(), Status> {
    /// As HTTP/2 counts: what a table of them costs beside the text.
    const HEADER_OVERHEAD_BYTES: usize = 32;
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    if limit.lets_through(bytes as u64) {
        return Ok(());
    }
    let why = format!("has {bytes} bytes, 32 for each entry included, more than {} = {}: send less", limit.name(), limit.max());
    Err(errors::invalid_request("metadata", why))
}

/// The body of an answer. As long as it is there, its call is open.
#[derive(Default)]
pub(super) struct Answer {
    body: Body,
    _counted: Option<Counted>,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
