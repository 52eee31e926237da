//! One save as bytes.
//!
//! Names instead of numbers, because numbers of lanes' collections end with the process. Varints are LEB128.
//!
//! | field       | form                   |                                                              |
//! |-------------|------------------------|--------------------------------------------------------------|
//! | length      | varint                 | bytes that follow                                            |
//! | flags       | u8                     | bits 0-1: set, delete, append; bit 2: has an origin;         |
//! |             |                        | bit 3: has a request id; bit 4: has a callback;              |
//! |             |                        | bit 5: has adds; bit 6: retries a failed save                |
//! | lane        | varint                 |                                                              |
//! | batch left  | varint                 | saves of the same atomic batch that follow                   |
//! | accepted at | varint                 | milliseconds since 1970                                      |
//! | origin      | 16 bytes, varint       | stream id, offset; if flagged                                |
//! | adds        | varint                 | so many first members of the body are added; if flagged      |
//! | retries     | varint                 | sequence of the failed save; if flagged                      |
//! | request id  | varint, bytes,         | UTF-8; the fingerprint of the whole call; if flagged         |
//! |             | 16 bytes               |                                                              |
//! | callback    | varint, bytes, twice   | UTF-8; the endpoint, the request id to be told; if flagged   |
//! | collection  | varint, bytes          | UTF-8                                                        |
//! | key         | varint, bytes          | as [`Key::as_bytes`]                                         |
//! | body        | the rest               | JSON; none for a delete                                      |
//!
//! A flag that this version doesn't know makes the record unreadable, never half read.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::save::{Body, Callback, Change, Key, LaneId, RequestId, Save, Sequence, StreamOrigin};

const KIND: u8 = 0b11;
const SET: u8 = 0;
const DELETE: u8 = 1;
const APPEND: u8 = 2;
const ORIGIN: u8 = 1 << 2;
const REQUEST_ID: u8 = 1 << 3;
const CALLBACK: u8 = 1 << 4;
const ADDS: u8 = 1 << 5;
const RETRIES: u8 = 1 << 6;

/// A save as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The lane that it was accepted for.
    pub lane: LaneId,
    /// The collection's name.
    pub collection: String,
    /// The canonical key; empty for an append.
    pub key: Key,
    /// What to do.
    pub change: Change,
    /// So many first members of the body are added to their columns.
    pub adds: usize,
    /// Saves of the same atomic batch that follow this one.
    pub batch_left: u32,
    /// Where it came from, if its stream has an id.
    pub origin: Option<StreamOrigin>,
    /// The request id of its call, whose first save this is.
    pub request_id: Option<Box<RequestId>>,
    /// When the front door took it, to the millisecond.
    pub accepted_at: SystemTime,
    /// The failed save that it saves again.
    pub retries: Option<Sequence>,
    /// Who is told its outcome.
    pub callback: Option<Arc<Callback>>,
}

/// A record and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub sequence: Sequence,
    /// The save.
    pub record: Record,
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("a record ends early")]
    Short,
    #[error("a record holds a number that is too large")]
    Number,
    #[error("a record has flags {0:#010b}, which this version doesn't know")]
    Flags(u8),
    #[error("a record holds text that is no UTF-8")]
    Text,
    #[error("a record holds a key that is none")]
    Key,
}

/// Adds a save to `out`.
pub(super) fn encode(save: &Save, collection: &str, out: &mut Vec<u8>) {
    let body = save.change.body().map_or(&[][..], Body::as_bytes);
    let mut head = [0; HEAD_BYTES_MAX];
    let head = write_head(save, &mut head);
    let key = save.key.as_bytes();
    let request_id = save.request_id.as_deref().map_or(0, |request| with_length(request.id.len()) + 16);
    let callback = save.callback.as_deref();
    let callback_length = callback.map_or(0, |callback| with_length(callback.endpoint.len()) + with_length(callback.request_id.len()));
    let length = head.len() + request_id + callback_length + with_length(collection.len()) + with_length(key.len()) + body.len();
    out.reserve(length + VARINT_BYTES_MAX);
    put_varint(length as u64, out);
    out.extend_from_slice(head);
    if let Some(RequestId { id, fingerprint }) = save.request_id.as_deref() {
        put_text(id.as_bytes(), out);
        out.extend_from_slice(fingerprint);
    }
    if let Some(Callback { endpoint, request_id }) = callback {
        put_text(endpoint.as_bytes(), out);
        put_text(request_id.as_bytes(), out);
    }
    put_text(collection.as_bytes(), out);
    put_text(key, out);
    out.extend_from_slice(body);
}

const VARINT_BYTES_MAX: usize = 10;
const HEAD_BYTES_MAX: usize = 1 + 6 * VARINT_BYTES_MAX + 16;

/// Everything before the request id: of bounded size, so that the record's length is known before it is written.
fn write_head<'a>(save: &Save, head: &'a mut [u8; HEAD_BYTES_MAX]) -> &'a [u8] {
    let kind = match save.change {
        Change::Set(_) => SET,
        Change::Delete => DELETE,
        Change::Append(_) => APPEND,
    };
    let mut cursor = Cursor { bytes: head, length: 0 };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let (origin, request_id) = (flag(save.origin.is_some(), ORIGIN), flag(save.request_id.is_some(), REQUEST_ID));
    let (adds, retries) = (flag(!save.adds.is_empty(), ADDS), flag(save.retries.is_some(), RETRIES));
    let callback = flag(save.callback.is_some(), CALLBACK);
    cursor.push(&[kind | origin | request_id | callback | adds | retries]);
    cursor.varint(u64::from(save.lane.0));
    cursor.varint(u64::from(save.batch_left));
    cursor.varint(milliseconds(save.accepted_at));
    if let Some(origin) = &save.origin {
        cursor.push(&origin.stream_id);
        cursor.varint(origin.offset);
    }
    if !save.adds.is_empty() {
        cursor.varint(save.adds.len() as u64);
    }
    if let Some(failed) = save.retries {
        cursor.varint(failed.get());
    }
    let Cursor { bytes, length } = cursor;
    &bytes[..length]
}

struct Cursor<'a> {
    bytes: &'a mut [u8; HEAD_BYTES_MAX],
    length: usize,
}

impl Cursor<'_> {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push(&[number as u8 | 0x80]);
            number >>= 7;
        }
        self.push(&[number as u8]);
    }
}

/// Reads the record at the front of `bytes` and moves past it.
pub(super) fn decode(bytes: &mut &[u8]) -> Result<Record, RecordError> {
    let length = take_length(bytes)?;
    let mut rest = take(bytes, length)?;
    let flags = take(&mut rest, 1)?[0];
    if flags & !(KIND | ORIGIN | REQUEST_ID | CALLBACK | ADDS | RETRIES) != 0 || flags & KIND > APPEND {
        return Err(RecordError::Flags(flags));
    }
    let lane = take_varint(&mut rest)?.try_into().map_err(|_| RecordError::Number)?;
    let batch_left = take_varint(&mut rest)?.try_into().map_err(|_| RecordError::Number)?;
    let accepted_at = UNIX_EPOCH.checked_add(Duration::from_millis(take_varint(&mut rest)?)).ok_or(RecordError::Number)?;
    let origin = if flags & ORIGIN != 0 { Some(take_origin(&mut rest)?) } else { None };
    let adds = if flags & ADDS != 0 { take_length(&mut rest)? } else { 0 };
    let retries = if flags & RETRIES != 0 { Some(Sequence::from_u64(take_varint(&mut rest)?)) } else { None };
    let request_id = if flags & REQUEST_ID != 0 { Some(take_request_id(&mut rest)?.into()) } else { None };
    let callback = if flags & CALLBACK != 0 { Some(take_callback(&mut rest)?.into()) } else { None };
    let collection = take_text(&mut rest)?.to_owned();
    let length = take_length(&mut rest)?;
    let key = Key::from_bytes(take(&mut rest, length)?).ok_or(RecordError::Key)?;
    let change = match flags & KIND {
        SET => Change::Set(take_body(rest)?),
        APPEND => Change::Append(take_body(rest)?),
        _ => Change::Delete,
    };
    Ok(Record { lane: LaneId(lane), collection, key, change, adds, batch_left, origin, request_id, accepted_at, retries, callback })
}

/// The front door has checked the JSON, and the chunk's checksum says that these are its bytes.
fn take_body(bytes: &[u8]) -> Result<Body, RecordError> {
    std::str::from_utf8(bytes).map_err(|_| RecordError::Text)?;
    Ok(Body::from_checked(bytes))
}

fn take_origin(bytes: &mut &[u8]) -> Result<StreamOrigin, RecordError> {
    let stream_id = take(bytes, 16)?.try_into().map_err(|_| RecordError::Short)?;
    Ok(StreamOrigin { stream_id, offset: take_varint(bytes)? })
}

fn take_request_id(bytes: &mut &[u8]) -> Result<RequestId, RecordError> {
    let id = take_text(bytes)?.into();
    let fingerprint = take(bytes, 16)?.try_into().map_err(|_| RecordError::Short)?;
    Ok(RequestId { id, fingerprint })
}

fn take_callback(bytes: &mut &[u8]) -> Result<Callback, RecordError> {
    Ok(Callback { endpoint: take_text(bytes)?.into(), request_id: take_text(bytes)?.into() })
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, RecordError> {
    let length = take_length(bytes)?;
    std::str::from_utf8(take(bytes, length)?).map_err(|_| RecordError::Text)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], RecordError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(RecordError::Short)?;
    *bytes = rest;
    Ok(taken)
}

fn take_length(bytes: &mut &[u8]) -> Result<usize, RecordError> {
    usize::try_from(take_varint(bytes)?).map_err(|_| RecordError::Number)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, RecordError> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = take(bytes, 1)?[0];
        let low = u64::from(byte & 0x7f);
        if low << shift >> shift != low {
            return Err(RecordError::Number);
        }
        number |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(RecordError::Number)
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Bytes after their length, as many as [`with_length`] says.
fn put_text(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn with_length(bytes: usize) -> usize {
    varint_length(bytes) + bytes
}

fn varint_length(number: usize) -> usize {
    let bits = (usize::BITS - number.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::save::{Added, CollectionId, ColumnSet};

    fn change() -> impl Strategy<Value = Change> {
        let body = "[a-z]{0,300}".prop_map(|text| Body::from_checked(format!("{{\"a\":\"{text}\"}}").as_bytes()));
        prop_oneof![body.clone().prop_map(Change::Set), Just(Change::Delete), body.prop_map(Change::Append)]
    }

    prop_compose! {
        fn save()(
            lane: u16,
            parts in prop::collection::vec(".{0,20}", 0..4),
            change in change(),
            batch_left: u32,
            adds in prop_oneof![Just(0), 0..1_600_u16],
            origin in prop::option::of(any::<([u8; 16], u64)>()),
            request_id in prop::option::of(("\\PC{0,80}", any::<[u8; 16]>())),
            at in 0..1u64 << 45,
            retries in prop::option::of(any::<u64>()),
            callback in prop::option::of(("\\PC{0,40}", "\\PC{0,80}")),
        ) -> Save {
            Save {
                lane: LaneId(lane),
                collection: CollectionId(0),
                key: Key::from_parts(parts.iter().map(String::as_str)),
                change,
                columns: ColumnSet::default(),
                adds: (0..adds).map(|column| Added { column, form: None }).collect(),
                version: None,
                batch_left,
                origin: origin.map(|(stream_id, offset)| StreamOrigin { stream_id, offset }),
                request_id: request_id.map(|(id, fingerprint)| RequestId { id: id.into(), fingerprint }.into()),
                accepted_at: UNIX_EPOCH + Duration::from_millis(at),
                retries: retries.map(Sequence::from_u64),
                callback: callback.map(|(endpoint, id)| Callback { endpoint: endpoint.into(), request_id: id.into() }.into()),
            }
        }
    }

    proptest! {
        #[test]
        fn a_save_comes_back_as_it_went_in(saves in prop::collection::vec((save(), "\\PC{0,80}"), 1..5)) {
            let mut bytes = Vec::new();
            for (save, name) in &saves {
                encode(save, name, &mut bytes);
            }
            let mut rest = &bytes[..];
            for (save, name) in saves {
                let Save { lane, key, change, adds, batch_left, origin, request_id, accepted_at, retries, callback, .. } = save;
                let (adds, collection) = (adds.len(), name);
                let expected =
                    Record { lane, collection, key, change, adds, batch_left, origin, request_id, accepted_at, retries, callback };
                prop_assert_eq!(decode(&mut rest), Ok(expected));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_panic(save in save(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut: prop::sample::Index) {
            let mut bytes = Vec::new();
            encode(&save, "players", &mut bytes);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = decode(&mut &bytes[..]);
            let _ = decode(&mut &bytes[..cut.index(bytes.len())]);
        }

        #[test]
        fn random_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&mut &bytes[..]);
        }
    }

    #[test]
    fn the_bytes_of_what_is_added_under_a_request_id_and_called_back_stay_as_they_are() {
        let callback = Callback { endpoint: "shop".into(), request_id: "id".into() };
        let request_id = RequestId { id: "id".into(), fingerprint: [7; 16] };
        let save = Save {
            lane: LaneId(1),
            collection: CollectionId(0),
            key: Key::from_parts(["1"]),
            change: Change::Set(Body::from_checked(br#"{"n":1}"#)),
            columns: ColumnSet::EMPTY,
            adds: [Added { column: 0, form: None }].into(),
            version: None,
            batch_left: 2,
            origin: None,
            request_id: Some(request_id.into()),
            accepted_at: UNIX_EPOCH + Duration::from_millis(300),
            retries: None,
            callback: Some(callback.into()),
        };
        let (mut bytes, mut without) = (Vec::new(), Vec::new());
        encode(&save, "t", &mut bytes);
        let head = [46, 0b11_1000, 1, 2, 0xac, 2, 1];
        let expected = [&head[..], b"\x02id", &[7; 16], b"\x04shop\x02id", b"\x01t\x03\x00\x011", br#"{"n":1}"#].concat();
        assert_eq!(bytes, expected);
        encode(&Save { callback: None, ..save }, "t", &mut without);
        let head = [38, 0b10_1000, 1, 2, 0xac, 2, 1];
        let expected = [&head[..], b"\x02id", &[7; 16], b"\x01t\x03\x00\x011", br#"{"n":1}"#].concat();
        assert_eq!(without, expected, "a save without a callback takes no byte more");
    }

    #[test]
    fn flags_of_a_later_version_are_refused() {
        assert_eq!(decode(&mut &[5, 0b1000_0000, 0, 0, 0, 0][..]), Err(RecordError::Flags(0b1000_0000)));
        assert_eq!(decode(&mut &[5, 3, 0, 0, 0, 0][..]), Err(RecordError::Flags(3)));
    }
}
