//! What is remembered of unary calls that carried a request id, so that a repeated one saves nothing twice (P3).
//!
//! Remembered are, for `request_ids.retention`, those that the journal retains: at a start `daemon` feeds every recovered save
//! through [`RequestIds::observe`]. An id belongs to who calls and to the collection of the call's first save; while a call is
//! under way, others with its id wait for what becomes of it, so that never two are accepted. At the limit new ids are refused:
//! one that was acknowledged is never forgotten early.
//!
//! Ids and contents are held as the first 128 bits of their SHA-256, so that an id takes about 100 bytes however long it is. By
//! chance no two are alike; who makes two contents alike on purpose, at 2^64 tries, deceives nobody but himself.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{Limit, LimitReached},
    proto::{self, save::Change},
    save::{RequestId, Sequence},
};

type Hash = [u8; 16];

/// Request ids by their scope.
pub struct RequestIds {
    known: Mutex<Known>,
    /// `request_ids.count_max`: shared with the streams.
    limit: Arc<Limit>,
    /// `request_ids.retention`
    retention: Duration,
    started: (SystemTime, Instant),
    retained_from: Box<dyn Fn() -> Sequence + Send + Sync>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<Hash, State>,
    /// Accepted ones, oldest first.
    accepted: VecDeque<Hash>,
}

enum State {
    /// Cancelled when it is known what became of the call.
    UnderWay(CancellationToken),
    Accepted(RememberedId),
}

/// A request id as it is kept between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedId {
    /// Who called, the collection, the id.
    scope: Hash,
    /// What was saved.
    fingerprint: Hash,
    /// The first save.
    sequence: u64,
    /// When, in milliseconds since 1970.
    accepted_at: u64,
}

/// A call that wants to be recognised when it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Who calls, the collection, the id.
    pub(super) scope: Hash,
    /// What is saved.
    pub(super) fingerprint: Hash,
}

/// What is known of a call's id.
pub(super) enum Claimed {
    /// Nothing: it is this call's now.
    Fresh(Claim),
    /// The same call was accepted; its first save.
    Repeated(Sequence),
    /// Another call was accepted under it.
    Reused,
}

/// Who calls, as long as nobody has to say so.
const PRINCIPAL: &str = "";

impl Call {
    /// The call of these saves; `kind` tells apart what is saved one by one, together, and atomically, and `callback` who is told.
    pub(super) fn new(id: &str, kind: u8, callback: &str, saves: &[proto::Save]) -> Self {
        let mut hash = Sha256::new_with_prefix([kind]);
        for save in saves {
            put(&mut hash, [save.collection.as_bytes()]);
            put(&mut hash, save.key.iter().map(String::as_bytes));
            match &save.change {
                Some(Change::Json(json)) => put(&mut hash, [&b"json"[..], json]),
                Some(Change::Delete(_)) => put(&mut hash, [&b"delete"[..]]),
                None => put(&mut hash, []),
            }
            put(&mut hash, save.add.iter().map(String::as_bytes));
        }
        // Nothing where nobody is told: so it was before there were callbacks.
        if !callback.is_empty() {
            put(&mut hash, [&b"callback"[..], callback.as_bytes()]);
        }
        let collection = saves.first().map_or("", |save| &save.collection);
        Self { scope: scope(collection, id), fingerprint: first_half(hash) }
    }
}

/// The first 128 bits.
fn first_half(hash: Sha256) -> Hash {
    hash.finalize()[..16].try_into().expect("half of 256 bits")
}

fn scope(collection: &str, id: &str) -> Hash {
    let mut hash = Sha256::new();
    put(&mut hash, [PRINCIPAL, collection, id].map(str::as_bytes));
    first_half(hash)
}

/// A list of texts, told apart from every other list.
fn put<'a>(hash: &mut Sha256, texts: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>) {
    let texts = texts.into_iter();
    hash.update((texts.len() as u64).to_le_bytes());
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
}

impl RequestIds {
    /// Remembers up to the limit; `retained_from` tells the oldest sequence that the journal still has.
    pub fn new(limit: Arc<Limit>, retention: Duration, retained_from: impl Fn() -> Sequence + Send + Sync + 'static) -> Arc<Self> {
        let started = (SystemTime::now(), Instant::now());
        Arc::new(Self { known: Mutex::default(), limit, retention, started, retained_from: Box::new(retained_from) })
    }

    /// What ids are aged by: the system's clock at the start and what has passed since. Set forward meanwhile, that makes no id older:
    /// one forgotten early would let its call be saved twice.
    pub(super) fn now(&self) -> SystemTime {
        let (at, since) = self.started;
        at + since.elapsed()
    }

    /// Remembers a call whose first save recovery found in the journal. In sequence order.
    pub fn observe(&self, id: &RequestId, collection: &str, sequence: Sequence, accepted_at: SystemTime) {
        let (scope, sequence, accepted_at) = (scope(collection, &id.id), sequence.get(), milliseconds(accepted_at));
        self.recall(vec![RememberedId { scope, fingerprint: id.fingerprint, sequence, accepted_at }]);
    }

    /// Remembers what an earlier run remembered at its end.
    pub fn recall(&self, remembered: Vec<RememberedId>) {
        let now = milliseconds(self.now());
        let mut known = self.lock();
        for mut id in remembered {
            // The clock has been set back since.
            id.accepted_at = id.accepted_at.min(now);
            // What the journal holds is remembered, whatever the limit is now.
            if known.ids.insert(id.scope, State::Accepted(id)).is_none() {
                self.limit.take_anyway(1);
                known.accepted.push_back(id.scope);
            }
        }
    }

    /// What is remembered, for the next start.
    pub fn remembered(&self) -> Vec<RememberedId> {
        let known = self.lock();
        known.accepted.iter().filter_map(|scope| known.ids.get(scope)?.accepted()).collect()
    }

    /// How many ids are remembered.
    pub fn count(&self) -> usize {
        self.lock().accepted.len()
    }

    /// Takes an id for a call, once no other call with this id is under way.
    pub(super) async fn claim(self: &Arc<Self>, call: Call, now: SystemTime) -> Result<Claimed, LimitReached> {
        loop {
            let under_way = {
                let mut known = self.lock();
                self.forget_old(&mut known, now);
                match known.ids.get(&call.scope) {
                    Some(State::Accepted(id)) if id.fingerprint == call.fingerprint => {
                        return Ok(Claimed::Repeated(Sequence::from_u64(id.sequence)));
                    }
                    Some(State::Accepted(_)) => return Ok(Claimed::Reused),
                    Some(State::UnderWay(ended)) => ended.clone(),
                    None => {
                        self.limit.try_take(1)?;
                        let ended = CancellationToken::new();
                        known.ids.insert(call.scope, State::UnderWay(ended.clone()));
                        return Ok(Claimed::Fresh(Claim { ids: Arc::clone(self), call, now, ended }));
                    }
                }
            };
            under_way.cancelled().await;
        }
    }

    /// Drops what is too old, or no longer in the journal.
    pub(super) fn forget(&self, now: SystemTime) {
        self.forget_old(&mut self.lock(), now);
    }

    fn forget_old(&self, known: &mut Known, now: SystemTime) {
        if known.accepted.is_empty() {
            return;
        }
        let retained_from = (self.retained_from)().get();
        let accepted_after = milliseconds(now.checked_sub(self.retention).unwrap_or(UNIX_EPOCH));
        while let Some(scope) = known.accepted.front() {
            let oldest = known.ids.get(scope).and_then(State::accepted).expect("what is in the queue is in the map");
            if oldest.sequence >= retained_from && oldest.accepted_at > accepted_after {
                return;
            }
            known.ids.remove(scope);
            known.accepted.pop_front();
            self.limit.give_back(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics under this lock")
    }
}

impl State {
    fn accepted(&self) -> Option<RememberedId> {
        match self {
            Self::UnderWay(_) => None,
            Self::Accepted(id) => Some(*id),
        }
    }
}

/// An id whose call is under way. Dropped without being accepted, it is free again.
pub(super) struct Claim {
    ids: Arc<RequestIds>,
    call: Call,
    now: SystemTime,
    ended: CancellationToken,
}

impl Claim {
    /// What the journal has to hold.
    pub(super) fn noted(&self, id: String) -> RequestId {
        RequestId { id: id.into(), fingerprint: self.call.fingerprint }
    }

    /// The call is in the journal.
    pub(super) fn accepted(self, first: Sequence) {
        let Call { scope, fingerprint } = self.call;
        let id = RememberedId { scope, fingerprint, sequence: first.get(), accepted_at: milliseconds(self.now) };
        let mut known = self.ids.lock();
        known.ids.insert(scope, State::Accepted(id));
        known.accepted.push_back(scope);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut known = self.ids.lock();
        if matches!(known.ids.get(&self.call.scope), Some(State::UnderWay(_))) {
            known.ids.remove(&self.call.scope);
            self.ids.limit.give_back(1);
        }
        drop(known);
        self.ended.cancel();
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::limits::LimitKind;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ids(max: u64) -> Arc<RequestIds> {
        RequestIds::new(Limit::new(LimitKind::Amount, "request_ids.count_max", max), MINUTE, || Sequence::from_u64(100))
    }

    fn call(id: &str, json: &str) -> Call {
        let change = Some(Change::Json(json.to_owned().into()));
        Call::new(id, 0, "", &[proto::Save { collection: "players".to_owned(), key: vec!["1".to_owned()], change, add: Vec::new() }])
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000 + seconds)
    }

    fn claim(ids: &Arc<RequestIds>, call: Call, now: SystemTime) -> Option<Claimed> {
        ids.claim(call, now).now_or_never().map(|claimed| claimed.expect("room"))
    }

    fn fresh(ids: &Arc<RequestIds>, call: Call, now: SystemTime) -> Claim {
        let Some(Claimed::Fresh(claim)) = claim(ids, call, now) else { panic!("it is known") };
        claim
    }

    #[test]
    fn a_repeated_call_is_known_and_another_one_under_its_id_is_told() {
        let ids = ids(10);
        fresh(&ids, call("a", "{}"), at(0)).accepted(Sequence::from_u64(200));
        let Some(Claimed::Repeated(first)) = claim(&ids, call("a", "{}"), at(1)) else { panic!("it is known") };
        assert_eq!(first, Sequence::from_u64(200));
        assert!(matches!(claim(&ids, call("a", "{ }"), at(1)), Some(Claimed::Reused)));
        drop(fresh(&ids, call("b", "{}"), at(1)));
        assert_eq!((ids.count(), ids.limit.used()), (1, 1));
    }

    #[tokio::test]
    async fn a_second_call_waits_for_what_becomes_of_the_first() {
        let ids = ids(10);
        for accepted in [false, true] {
            let first = fresh(&ids, call("a", "{}"), at(0));
            let mut second = Box::pin(ids.claim(call("a", "{}"), at(0)));
            assert!(second.as_mut().now_or_never().is_none(), "it waits");
            if accepted {
                first.accepted(Sequence::from_u64(200));
                assert!(matches!(second.await, Ok(Claimed::Repeated(_))));
            } else {
                drop(first);
                assert!(matches!(second.await, Ok(Claimed::Fresh(_))));
            }
        }
    }

    #[test]
    fn ids_are_kept_for_the_retention_and_none_is_given_up_for_another() {
        let ids = ids(2);
        fresh(&ids, call("a", "{}"), at(0)).accepted(Sequence::from_u64(200));
        fresh(&ids, call("b", "{}"), at(30)).accepted(Sequence::from_u64(201));
        let full = ids.claim(call("c", "{}"), at(59)).now_or_never().expect("at once");
        assert!(full.is_err_and(|reached| reached.name == "request_ids.count_max"));
        drop(fresh(&ids, call("c", "{}"), at(60)));
        assert_eq!(ids.count(), 1);
        assert!(matches!(claim(&ids, call("b", "{}"), at(89)), Some(Claimed::Repeated(_))));
    }

    #[test]
    fn ids_that_the_journal_has_given_up_are_forgotten() {
        let ids = ids(1);
        fresh(&ids, call("a", "{}"), at(0)).accepted(Sequence::from_u64(99));
        drop(fresh(&ids, call("b", "{}"), at(1)));
        assert_eq!((ids.count(), ids.limit.used()), (0, 0));
    }

    #[test]
    fn what_is_recovered_or_recalled_is_known_again() {
        let (before, after) = (ids(10), ids(0));
        let noted = fresh(&before, call("a", "{}"), at(0)).noted("a".to_owned());
        for _ in 0..2 {
            before.observe(&noted, "players", Sequence::from_u64(300), at(0));
        }
        before.observe(&noted, "items", Sequence::from_u64(301), at(0));
        after.recall(before.remembered());
        assert_eq!((after.count(), after.limit.used()), (2, 2));
        assert!(matches!(claim(&after, call("a", "{}"), at(1)), Some(Claimed::Repeated(first)) if first.get() == 300));
    }

    #[test]
    fn contents_that_differ_anywhere_have_other_fingerprints() {
        let save = |key: &[&str], add: &[&str]| proto::Save {
            collection: "players".to_owned(),
            key: key.iter().map(|&part| part.to_owned()).collect(),
            change: Some(Change::Json("{}".into())),
            add: add.iter().map(|&name| name.to_owned()).collect(),
        };
        let delete = proto::Save { change: Some(Change::Delete(proto::Delete {})), ..save(&["1"], &[]) };
        let contents = [
            (0, "", vec![save(&["1"], &[])]),
            (1, "", vec![save(&["1"], &[])]),
            (0, "", vec![save(&["1", ""], &[])]),
            (0, "", vec![save(&["11"], &[])]),
            (0, "", vec![save(&["1"], &["a"])]),
            (0, "", vec![save(&["1"], &[]), save(&["1"], &[])]),
            (0, "", vec![delete]),
            (0, "shop", vec![save(&["1"], &[])]),
            (0, "till", vec![save(&["1"], &[])]),
        ];
        let print = |(kind, callback, saves): &(u8, &str, Vec<proto::Save>)| Call::new("a", *kind, callback, saves).fingerprint;
        let prints: std::collections::HashSet<_> = contents.iter().map(print).collect();
        assert_eq!(prints.len(), contents.len());
    }
}
