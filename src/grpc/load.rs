//! `Load`: pages that are read as fast as the caller takes them.
//!
//! A page is read when HTTP/2 has room for it: a slow caller holds back nothing but itself, and one page of memory.

use std::sync::Arc;

use futures_util::stream::try_unfold;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{
    deadline::Deadline,
    door::Door,
    errors,
    events::{OpenCall, Rpc},
    reads::{LoadPage, LoadQuery, Loading, check_size},
    save_service::Responses,
};
use crate::{
    collections::Collection,
    limits::Permit,
    proto::{LoadRequest, LoadResponse, LoadedRow},
    save::Key,
};

const PAGE_SIZE_DEFAULT: u64 = 1_000;
const PAGE_SIZE_MAX: u64 = 10_000;

/// A call under way.
struct Call {
    door: Arc<Door>,
    loading: Box<dyn Loading>,
    token: Token,
    deadline: Deadline,
    _call: OpenCall,
    _permit: Permit,
}

pub(super) async fn open(door: Arc<Door>, request: LoadRequest, deadline: Deadline) -> Result<Responses<LoadResponse>, Status> {
    let call = OpenCall::begin(&door.events, Rpc::Load);
    door.check_phase()?;
    let permit = door.limits.awaiting_calls.permit(1).map_err(errors::limit_reached)?;
    let rows_max = page_size(request.page_size)?;
    let ends = [("from_key", &request.from_key[..]), ("to_key", &request.to_key[..])];
    let named: Vec<_> = ends.into_iter().filter(|(_, key)| !key.is_empty()).collect();
    let (collection, mut keys) = door.locate(&request.collection, &named).await?;
    let to = if request.to_key.is_empty() { None } else { keys.pop() };
    let from = keys.pop();
    let token = Token::of(&collection, from.as_ref(), to.as_ref());
    let after = token.read(&request.resume_token, &collection)?;
    let loading = door.reads.load(LoadQuery { collection, from, to, after, rows_max });
    let call = Call { door, loading, token, deadline, _call: call, _permit: permit };
    Ok(Box::pin(try_unfold(call, |mut call| async move { Ok(call.next().await?.map(|response| (response, call))) })))
}

fn page_size(asked: i32) -> Result<u64, Status> {
    match u64::try_from(asked) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size @ 1..=PAGE_SIZE_MAX) => Ok(size),
        _ => Err(errors::invalid_request("page_size", format!("is {asked}: ask for 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"))),
    }
}

impl Call {
    async fn next(&mut self) -> Result<Option<LoadResponse>, Status> {
        let page = async {
            tokio::select! {
                page = self.loading.next() => page.map_err(|error| errors::postgres_unavailable(error.to_string())),
                () = self.door.stop.cancelled() => Err(errors::stopping()),
            }
        };
        let Some(LoadPage { objects, after, rows_loaded, rows_estimated }) = self.deadline.wait(page).await? else { return Ok(None) };
        objects.iter().try_for_each(|(key, object)| check_size(key, object.json.as_deref()))?;
        let rows = objects.into_iter().map(|(key, object)| LoadedRow {
            key: key.parts().map(str::to_owned).collect(),
            json: object.json,
            pending: object.pending,
            unknown_columns: object.unknown,
        });
        Ok(Some(LoadResponse { rows: rows.collect(), resume_token: self.token.at(after.as_ref()), rows_loaded, rows_estimated }))
    }
}

/// Where a load stands, as text: what it loads, as a hash, and the last key.
struct Token(String);

impl Token {
    /// Hex digits of the hash.
    const DIGITS: usize = 16;

    fn of(collection: &Collection, from: Option<&Key>, to: Option<&Key>) -> Self {
        let mut hash = Sha256::new();
        hash.update(collection.name.len().to_be_bytes());
        hash.update(collection.name.as_bytes());
        for key in [from, to] {
            let bytes = key.map_or(&[][..], Key::as_bytes);
            hash.update(bytes.len().to_be_bytes());
            hash.update(bytes);
        }
        let mut digits = hex(&hash.finalize());
        digits.truncate(Self::DIGITS);
        Self(digits)
    }

    fn at(&self, after: Option<&Key>) -> String {
        format!("{}{}", self.0, after.map(|key| hex(key.as_bytes())).unwrap_or_default())
    }

    /// The last key of a token that is one of this load's.
    fn read(&self, token: &str, collection: &Collection) -> Result<Option<Key>, Status> {
        let refuse = |why: &str| errors::invalid_request("resume_token", why);
        if token.is_empty() {
            return Ok(None);
        }
        let no_token = || refuse("is no token of a Load: pass one as it came");
        let (of, after) = token.split_at_checked(Self::DIGITS).ok_or_else(no_token)?;
        let after = unhex(after).ok_or_else(no_token)?;
        if of != self.0 {
            return Err(refuse("is of another Load: pass it with the same collection, from_key and to_key"));
        }
        if after.is_empty() {
            return Ok(None);
        }
        let key = Key::from_bytes(&after).filter(|key| is_key_of(key, collection));
        key.map(Some).ok_or_else(no_token)
    }
}

fn is_key_of(key: &Key, collection: &Collection) -> bool {
    let mut columns = collection.key_columns().zip(key.parts());
    let canonical = columns.all(|(column, part)| column.key_form.as_ref().is_some_and(|form| form.canonical(part).as_deref() == Ok(part)));
    canonical && key.parts().count() == collection.key.len()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<_>> = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    bytes.filter(|_| rest.is_empty())
}
