//! Messages while they arrive: what is not whole yet counts towards a limit, and what could never be accepted is refused by its first
//! bytes, before it is held.
//!
//! A call that takes one message has it as soon as it is whole, whether or not the client ends its side: what follows is not read.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::Frame;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use self::scanner::Scanner;
use super::errors;
use crate::{
    limits::{Limit, Limits},
    proto,
    settings::GrpcSettings,
};

mod scanner;

/// What messages are held to, all calls together.
#[derive(Debug)]
pub(super) struct Rules {
    message_bytes: Arc<Limit>,
    receiving_bytes: Arc<Limit>,
    batch_saves: Arc<Limit>,
    timeout: Duration,
    /// Paths of the methods that take any number of messages in one call.
    streaming: HashSet<String>,
}

impl Rules {
    /// Outermost fields that a message may have beside its saves.
    const OTHER_FIELDS_MAX: u64 = 64;

    pub(super) fn new(limits: &Limits, settings: &GrpcSettings) -> Arc<Self> {
        Arc::new(Self {
            message_bytes: Arc::clone(&limits.message_bytes),
            receiving_bytes: Arc::clone(&limits.receiving_bytes),
            batch_saves: Arc::clone(&limits.batch_saves),
            timeout: settings.message_timeout,
            streaming: streaming_methods(),
        })
    }

    fn check_length(&self, bytes: u32) -> Result<(), Status> {
        let limit = &self.message_bytes;
        if limit.lets_through(bytes.into()) {
            return Ok(());
        }
        let why = format!("has {bytes} bytes, more than {} = {}: send less at a time", limit.name(), limit.max());
        Err(errors::invalid_request("message", why))
    }

    fn check_fields(&self, fields: u64) -> Result<(), Status> {
        let limit = &self.batch_saves;
        if fields <= limit.max().saturating_add(Self::OTHER_FIELDS_MAX) {
            return Ok(());
        }
        let why = format!("holds more entries than {} = {}: send fewer at a time", limit.name(), limit.max());
        Err(errors::invalid_request("message", why))
    }
}

/// Of all services that are served.
fn streaming_methods() -> HashSet<String> {
    let reflection = [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];
    let sets = [&[proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET][..], &reflection].concat();
    let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).expect("the descriptors are whole").file);
    let paths = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let path = format!("/{package}.{}/", service.name());
            service.method.into_iter().filter(|method| method.client_streaming()).map(move |method| path.clone() + method.name())
        })
    });
    paths.collect()
}

/// The body of a request.
pub(super) struct Received {
    body: Body,
    rules: Arc<Rules>,
    scanner: Scanner,
    /// Taken of `grpc.receiving_bytes_max`.
    held: u64,
    /// How long the rest of a message may keep still.
    silence: Option<Pin<Box<Sleep>>>,
    /// Ends the call, after what came before it.
    refusal: Option<Box<Status>>,
}

impl Received {
    /// `path` is that of the call.
    pub(super) fn new(path: &str, body: Body, rules: Arc<Rules>) -> Self {
        let scanner = Scanner::new(rules.streaming.contains(path));
        Self { body, rules, scanner, held: 0, silence: None, refusal: None }
    }

    /// Cuts off what is refused, from the message's beginning on, and what is not read.
    fn take(&mut self, mut bytes: Bytes) -> Bytes {
        let (kept, scanned) = self.scanner.scan(&bytes, &self.rules);
        self.refusal = scanned.err().map(Box::new);
        bytes.truncate(kept);
        bytes
    }

    /// What has come so far is not all: a message that came at once is never held.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let unfinished = self.scanner.unfinished();
        if let Err(refusal) = self.hold(unfinished) {
            return Poll::Ready(refusal);
        }
        if self.scanner.may_rest() { Poll::Pending } else { self.keeps_still(cx) }
    }

    fn hold(&mut self, bytes: u64) -> Result<(), Status> {
        let limit = &self.rules.receiving_bytes;
        match bytes.checked_sub(self.held) {
            Some(more) => limit.try_take(more).map_err(errors::limit_reached)?,
            None => limit.give_back(self.held - bytes),
        }
        self.held = bytes;
        Ok(())
    }

    fn keeps_still(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let timeout = self.rules.timeout;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(timeout)));
        silence.as_mut().poll(cx).map(|()| {
            let came = match self.scanner.unfinished() {
                0 => "no message came".to_owned(),
                bytes => format!("{bytes} bytes of a message came and nothing after them"),
            };
            errors::deadline(&format!("{came} for grpc.message_timeout = {timeout:?}"))
        })
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.rules.receiving_bytes.give_back(self.held);
    }
}

impl hyper::body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(refusal) = this.refusal.take() {
            return Poll::Ready(Some(Err(*refusal)));
        }
        if this.scanner.is_over() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.silence = None;
                Poll::Ready(Some(Ok(match frame.into_data() {
                    Ok(bytes) => Frame::data(this.take(bytes)),
                    Err(trailers) => trailers,
                })))
            }
            Poll::Pending => this.wait(cx).map(|refusal| Some(Err(refusal))),
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.refusal.is_none() && (self.scanner.is_over() || self.body.is_end_stream())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_take_many_messages_are_known() {
        let streaming = streaming_methods();
        let streaming: HashSet<&str> = streaming.iter().map(String::as_str).collect();
        let reflection = ["v1", "v1alpha"].map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
        assert_eq!(streaming, HashSet::from(["/forebay.v1.SaveService/SaveStream", &reflection[0], &reflection[1]]));
    }
}
