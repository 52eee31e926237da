//! Messages while they arrive: what is not whole yet counts towards a limit, and what could never be accepted is refused by its first
//! bytes, before it is held.
//!
//! A message is read for what every one has: the prefix of gRPC (a flag and the length), and the tags of the outermost fields. An empty
//! save takes two bytes of it and a hundred once it is decoded, so there may be no more fields than saves are let through.
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

use super::errors;
use crate::{
    limits::{Limit, Limits},
    proto,
    settings::GrpcSettings,
};

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
        let scanner = Scanner { streaming: rules.streaming.contains(path), ..Scanner::default() };
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
        // Between the messages of a stream.
        if unfinished == 0 && self.scanner.streaming { Poll::Pending } else { self.keeps_still(cx) }
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
            let came = match self.scanner.at {
                At::Prefix(0) => "no message came".to_owned(),
                _ => format!("{} bytes of a message came and nothing after them", self.scanner.unfinished()),
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
        if let At::End = this.scanner.at {
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
        self.refusal.is_none() && (matches!(self.scanner.at, At::End) || self.body.is_end_stream())
    }
}

/// Where in the messages of a call the next byte stands.
#[derive(Debug, Default)]
struct Scanner {
    /// Whether there may be more than one message.
    streaming: bool,
    at: At,
    /// Of the message.
    length: u32,
    /// Bytes of the message, without its prefix, that are to come.
    left: u32,
    /// Outermost fields of the message so far.
    fields: u64,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// So many bytes of the prefix have come.
    Prefix(u8),
    /// A number of protobuf, and how many of its bits have come.
    Tag(u64, u32),
    Length(u64, u32),
    /// A value that is a number.
    Number,
    /// So many bytes that don't matter.
    Skip(u64),
    /// Behind the one message of a call.
    End,
}

impl Default for At {
    fn default() -> Self {
        Self::Prefix(0)
    }
}

impl Scanner {
    const PREFIX_BYTES: u8 = 5;

    /// Bytes of a message that is not whole.
    fn unfinished(&self) -> u64 {
        match self.at {
            At::Prefix(read) => read.into(),
            At::End => 0,
            _ => u64::from(Self::PREFIX_BYTES) + u64::from(self.length - self.left),
        }
    }

    /// How many of the bytes are to be kept (those before a message that is refused, and those that are read), and the refusal.
    fn scan(&mut self, bytes: &[u8], rules: &Rules) -> (usize, Result<(), Status>) {
        let (mut first, mut next) = (0, 0);
        while next < bytes.len() && !matches!(self.at, At::End) {
            if let At::Prefix(0) = self.at {
                first = next;
            }
            match self.step(&bytes[next..], rules) {
                Ok(taken) => next += taken,
                Err(refusal) => return (first, Err(refusal)),
            }
        }
        (next, Ok(()))
    }

    /// Takes at least one of the bytes; how many.
    fn step(&mut self, bytes: &[u8], rules: &Rules) -> Result<usize, Status> {
        let taken = match self.at {
            At::Prefix(read) => {
                self.prefix(read, bytes[0], rules)?;
                return Ok(1);
            }
            At::Skip(skip) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(self.left.into());
                let taken = skip.min(here);
                self.at = if taken == skip { At::TAG } else { At::Skip(skip - taken) };
                u32::try_from(taken).expect("no more than is left")
            }
            _ => {
                self.field(bytes[0], rules)?;
                1
            }
        };
        self.left -= taken;
        if self.left == 0 {
            self.at = self.behind_a_message();
        }
        Ok(taken as usize)
    }

    fn behind_a_message(&self) -> At {
        if self.streaming { At::Prefix(0) } else { At::End }
    }

    fn prefix(&mut self, read: u8, byte: u8, rules: &Rules) -> Result<(), Status> {
        // The first byte is a flag.
        self.length = if read == 0 { 0 } else { self.length << 8 | u32::from(byte) };
        self.at = At::Prefix(read + 1);
        if read + 1 == Self::PREFIX_BYTES {
            rules.check_length(self.length)?;
            (self.left, self.fields) = (self.length, 0);
            self.at = if self.length == 0 { self.behind_a_message() } else { At::TAG };
        }
        Ok(())
    }

    fn field(&mut self, byte: u8, rules: &Rules) -> Result<(), Status> {
        self.at = match self.at {
            At::Tag(value, bits) => match number(value, bits, byte) {
                Number::More(value, bits) => At::Tag(value, bits),
                Number::Whole(tag) => {
                    self.fields += 1;
                    rules.check_fields(self.fields)?;
                    At::value(tag)
                }
                Number::TooLong => At::REFUSED,
            },
            At::Length(value, bits) => match number(value, bits, byte) {
                Number::More(value, bits) => At::Length(value, bits),
                Number::Whole(0) => At::TAG,
                Number::Whole(length) => At::Skip(length),
                Number::TooLong => At::REFUSED,
            },
            At::Number if byte & 0x80 == 0 => At::TAG,
            at => at,
        };
        Ok(())
    }
}

impl At {
    const TAG: Self = Self::Tag(0, 0);
    /// What protobuf doesn't allow is told when it is decoded.
    const REFUSED: Self = Self::Skip(u64::MAX);

    /// The value that follows a tag. Of a group only its end is marked: what is in it counts like what is around it.
    fn value(tag: u64) -> Self {
        match tag & 7 {
            0 => Self::Number,
            1 => Self::Skip(8),
            2 => Self::Length(0, 0),
            3 | 4 => Self::TAG,
            5 => Self::Skip(4),
            _ => Self::REFUSED,
        }
    }
}

enum Number {
    More(u64, u32),
    Whole(u64),
    TooLong,
}

/// One more byte of a number: seven bits, the lowest first, and whether there are more.
fn number(value: u64, bits: u32, byte: u8) -> Number {
    if bits > 63 {
        return Number::TooLong;
    }
    let value = value | u64::from(byte & 0x7f) << bits;
    if byte & 0x80 == 0 { Number::Whole(value) } else { Number::More(value, bits + 7) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        proto::{Save, SaveBatchRequest},
        settings::Settings,
    };

    fn rules(message_bytes_max: u64, batch_saves_max: u64) -> Arc<Rules> {
        let mut settings = Settings::default();
        (settings.grpc.message_bytes_max, settings.grpc.batch_saves_max) = (message_bytes_max, batch_saves_max);
        Rules::new(&Limits::new(&settings), &settings.grpc)
    }

    fn prefixed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).expect("a message").to_be_bytes(), message].concat()
    }

    impl Scanner {
        fn of_a_stream() -> Self {
            Self { streaming: true, ..Self::default() }
        }
    }

    fn drawn_batch(random: &mut fastrand::Rng) -> (u64, Vec<u8>) {
        let saves = random.u64(..20);
        let mut batch = SaveBatchRequest::default();
        for _ in 0..saves {
            let collection = "x".repeat(random.usize(..300));
            batch.saves.push(Save { collection, ..Save::default() });
        }
        let mut message = batch.encode_to_vec();
        // What nobody knows: numbers of both lengths, and a group with a number in it.
        message.extend([15 << 3 | 5, 1, 2, 3, 4, 14 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8, 13 << 3 | 3, 12 << 3, 0x80, 1, 13 << 3 | 4]);
        (saves + 5, message)
    }

    #[test]
    fn messages_are_read_alike_in_whatever_pieces_they_come() {
        let rules = rules(1 << 20, 1_000);
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let drawn: Vec<_> = (0..random.usize(1..6)).map(|_| drawn_batch(random)).collect();
            let bytes: Vec<u8> = drawn.iter().flat_map(|(_, message)| prefixed(message)).collect();
            let ends: Vec<usize> =
                drawn.iter().scan(0, |end, (_, message)| Some(std::mem::replace(end, *end + 5 + message.len()))).collect();
            let (mut scanner, mut at) = (Scanner::of_a_stream(), 0);
            while at < bytes.len() {
                let piece = &bytes[at..bytes.len().min(at + random.usize(1..400))];
                let (kept, scanned) = scanner.scan(piece, &rules);
                scanned.expect("all of it is within the limits");
                assert_eq!(kept, piece.len());
                at += piece.len();
                let begun = *ends.iter().rfind(|&&end| end < at).expect("the first begins at 0");
                let whole = at == bytes.len() || ends.contains(&at);
                assert_eq!(scanner.unfinished(), if whole { 0 } else { (at - begun) as u64 }, "seed {seed}, at {at}");
            }
            assert_eq!(scanner.fields, drawn.last().expect("there is one").0, "seed {seed}");
        }
    }

    #[test]
    fn what_is_refused_is_known_by_its_first_bytes() {
        let rules = rules(1_000, 10);
        let whole = prefixed(&[0; 100]);
        let empty_saves = prefixed(&[1 << 3 | 2, 0].repeat(80));
        let too_long = prefixed(&[0; 1_001]);
        for (bad, told_at, says) in
            [(&too_long, 5, "has 1001 bytes, more than grpc.message_bytes_max = 1000"), (&empty_saves, 154, "grpc.batch_saves_max = 10")]
        {
            let bytes = [&whole[..], &whole, &bad[..told_at]].concat();
            let (kept, scanned) = Scanner::of_a_stream().scan(&bytes, &rules);
            let refusal = scanned.expect_err("refused");
            assert!(refusal.message().contains(says), "{refusal:?}");
            assert_eq!(kept, 2 * whole.len());
            Scanner::of_a_stream().scan(&bytes[..bytes.len() - 1], &rules).1.expect("nothing is known before");
        }
    }

    #[test]
    fn a_call_takes_one_message_unless_it_is_a_stream() {
        let rules = rules(1_000, 10);
        let streaming: HashSet<&str> = rules.streaming.iter().map(String::as_str).collect();
        let reflection = ["v1", "v1alpha"].map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
        assert_eq!(streaming, HashSet::from(["/forebay.v1.SaveService/SaveStream", &reflection[0], &reflection[1]]));
        for message in [prefixed(b""), prefixed(&[0; 100])] {
            let mut scanner = Scanner::default();
            let (kept, scanned) = scanner.scan(&message.repeat(2), &rules);
            scanned.expect("one is taken");
            assert_eq!(kept, message.len(), "the other one is not read");
            assert_eq!(scanner.unfinished(), 0);
        }
    }

    #[test]
    fn what_protobuf_does_not_allow_is_left_to_be_refused() {
        let rules = rules(1 << 20, 10);
        let endless_number = [0xff; 40];
        let longer_than_the_message = [1 << 3 | 2, 0xff, 0xff, 0x7f, 1];
        let unknown_type = [1 << 3 | 7, 1, 1];
        for bad in [&endless_number[..], &longer_than_the_message, &unknown_type] {
            let mut scanner = Scanner::of_a_stream();
            scanner.scan(&[prefixed(bad), prefixed(b"")].concat(), &rules).1.expect("nothing is said");
            assert_eq!(scanner.unfinished(), 0);
        }
    }
}
