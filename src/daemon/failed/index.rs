//! The open failed saves, kept in mind: which objects have some, and whether they have been saved since. Pure.
//!
//! It tells two things without asking Postgres. Which rows a transaction closes: those of the objects that it writes with a
//! later save, and those that it saves again. And whether a row may be retried: every save that the journal hands on is
//! compared with the rows that are known then. Saves that were handed on before are in Postgres once the lane's position has
//! reached the row's `since`; each of them that is later than the row has closed it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
};

use crate::{
    backlog::{Generation, Retry},
    failed::{Close, FailedState},
    grpc::FailedStanding,
    outcomes::State,
    save::{Accepted, CollectionId, Key, LaneId, Sequence},
};

/// An open row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) sequence: Sequence,
    pub(super) collection: CollectionId,
    /// None for an append.
    pub(super) key: Key,
}

#[derive(Debug)]
struct Known {
    collection: CollectionId,
    key: Key,
    /// Saves above this one were seen since the row is known.
    since: Sequence,
    /// The object was saved since.
    saved: bool,
}

/// What Postgres holds.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    pub(super) open: Vec<Row>,
    pub(super) closed: ClosedRows,
    pub(super) horizon: Sequence,
}

/// What one collection has.
#[derive(Debug, Default)]
struct Collection {
    count: u64,
    objects: HashMap<Key, Vec<Sequence>, foldhash::fast::RandomState>,
}

/// Closed rows, and how they ended.
pub(super) type ClosedRows = BTreeMap<Sequence, (CollectionId, FailedState)>;

/// All of them; `failed.saves_max` bounds the open ones, `failed.closed_kept` the others.
#[derive(Debug, Default)]
pub(super) struct Index {
    known: BTreeMap<Sequence, Known>,
    /// Closed ones, for their tickets: by lane, so that those of one can be exchanged at once, however many they are.
    closed: BTreeMap<LaneId, ClosedRows>,
    /// Up to here closed ones were forgotten.
    horizon: Sequence,
    /// What is saved again, by which save; also what was overtaken and is retried by force.
    retrying: BTreeMap<Sequence, Sequence>,
    collections: HashMap<CollectionId, Collection>,
}

impl Index {
    /// Another one; every save of its lane up to `since` was handed on before.
    pub(super) fn add(&mut self, Row { sequence, collection, key }: Row, since: Sequence) {
        let of_collection = self.collections.entry(collection).or_default();
        of_collection.count += 1;
        if key != Key::none() {
            of_collection.objects.entry(key.clone()).or_default().push(sequence);
        }
        self.known.insert(sequence, Known { collection, key, since, saved: false });
        // A row that failed again is open again.
        self.closed.values_mut().for_each(|rows| {
            rows.remove(&sequence);
        });
    }

    /// What Postgres holds of a lane's collections. What is known of a row already stays known. Gives back the closed rows of
    /// before: there may be a million, to be dropped where nobody waits.
    pub(super) fn reload(
        &mut self,
        lane: LaneId,
        ours: impl Fn(CollectionId) -> bool,
        Reloaded { open: rows, closed, horizon }: Reloaded,
        since: Sequence,
    ) -> Option<ClosedRows> {
        let closed_before = self.closed.insert(lane, closed);
        self.horizon = horizon;
        let mut before: BTreeMap<Sequence, Known> = self.known.extract_if(.., |_, known| ours(known.collection)).collect();
        self.collections.retain(|&collection, _| !ours(collection));
        for row in rows.into_iter().filter(|row| ours(row.collection)) {
            let sequence = row.sequence;
            self.add(row, since);
            if let (Some(known), Some(before)) = (self.known.get_mut(&sequence), before.remove(&sequence)) {
                (known.since, known.saved) = (before.since, before.saved);
            }
        }
        closed_before
    }

    /// The journal hands a save on.
    pub(super) fn see(&mut self, Accepted { sequence, save }: &Accepted) {
        self.retrying.extend(save.retries.map(|failed| (failed, *sequence)));
        let Some(collection) = self.collections.get(&save.collection) else { return };
        // A retry is as old as what it saves again: of two failed saves of an object both can be retried, in order.
        let age = save.retries.unwrap_or(*sequence);
        for failed in collection.objects.get(&save.key).into_iter().flatten().filter(|&&failed| failed < age) {
            self.known.get_mut(failed).expect("both maps hold the same rows").saved = true;
        }
    }

    /// What a transaction that writes this generation closes.
    pub(super) fn closes(&self, generation: &Generation) -> Vec<Close> {
        let mut closes: Vec<_> = generation.retries.iter().copied().map(retried).collect();
        for (id, fold) in generation.parts.iter().flat_map(|part| &part.collections) {
            let Some(collection) = self.collections.get(id) else { continue };
            // By the smaller of the two.
            if collection.objects.len() < fold.objects.len() {
                let written = collection.objects.iter().filter_map(|(key, rows)| Some((rows, fold.objects.get(key)?.last)));
                written.for_each(|(rows, last)| overtake(rows, last, &generation.retries, &mut closes));
            } else {
                let written = fold.objects.iter().filter_map(|(key, object)| Some((collection.objects.get(key)?, object.last)));
                written.for_each(|(rows, last)| overtake(rows, last, &generation.retries, &mut closes));
            }
        }
        // An object may be in several parts.
        let mut seen = HashSet::new();
        closes.retain(|close| seen.insert(close.sequence));
        closes
    }

    /// It is closed. What was overtaken before an operator insisted on its retry is retried.
    pub(super) fn close(&mut self, sequence: Sequence, state: FailedState, lane_of: impl Fn(CollectionId) -> LaneId) {
        self.retrying.remove(&sequence);
        let Some(Known { collection, key, .. }) = self.known.remove(&sequence) else {
            let mut closed = self.closed.values_mut().filter_map(|rows| rows.get_mut(&sequence));
            if let Some((_, known)) = closed.next().filter(|_| state == FailedState::Retried) {
                *known = state;
            }
            return;
        };
        self.closed.entry(lane_of(collection)).or_default().insert(sequence, (collection, state));
        let of_collection = self.collections.get_mut(&collection).expect("both maps hold the same rows");
        of_collection.count -= 1;
        if let Some(rows) = of_collection.objects.get_mut(&key) {
            rows.retain(|&row| row != sequence);
            if rows.is_empty() {
                of_collection.objects.remove(&key);
            }
        }
        if of_collection.count == 0 {
            self.collections.remove(&collection);
        }
    }

    /// Every lane has come so far: the new saves up to here have their outcome, and what they saved again is closed.
    pub(super) fn settled(&mut self, through: Sequence) {
        self.retrying.retain(|_, by| *by > through);
    }

    /// Closed ones were removed.
    pub(super) fn forget(&mut self, removed: &[Sequence]) {
        for sequence in removed {
            self.closed.values_mut().for_each(|rows| {
                rows.remove(sequence);
            });
            self.horizon = self.horizon.max(*sequence);
        }
    }

    pub(super) fn is_open(&self, sequence: Sequence) -> bool {
        self.known.contains_key(&sequence)
    }

    /// How a save stands that Postgres holds or has refused.
    pub(super) fn outcome(&self, sequence: Sequence) -> State {
        match self.closed.values().find_map(|rows| rows.get(&sequence)) {
            Some((_, FailedState::Discarded)) => State::Discarded,
            Some(_) => State::Failed,
            None if self.known.contains_key(&sequence) => State::Failed,
            None if sequence <= self.horizon => State::Unknown,
            None => State::Persisted,
        }
    }

    /// Those that failed after `after`, whatever became of them later: some `max` that are `ours`, and up to where that is all.
    pub(super) fn between(
        &self,
        lane: LaneId,
        (after, through): (Sequence, Sequence),
        max: usize,
        ours: impl Fn(CollectionId) -> bool,
    ) -> (Vec<(Sequence, CollectionId)>, Sequence) {
        let span = (Bound::Excluded(after), Bound::Included(through));
        let open = self.known.range(span).map(|(&sequence, known)| (sequence, known.collection));
        let closed = self.closed.get(&lane).into_iter().flat_map(|rows| rows.range(span));
        let closed = closed.map(|(&sequence, &(collection, _))| (sequence, collection));
        // Some of either, and up to where they are all.
        let (mut failed, mut surplus): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        for (n, one) in open.take(max + 1).enumerate().chain(closed.take(max + 1).enumerate()) {
            if n < max { failed.push(one) } else { surplus.push(one.0.previous()) }
        }
        let ends = surplus.into_iter().fold(through, Sequence::min);
        failed.retain(|&(sequence, collection)| sequence <= ends && ours(collection));
        failed.sort_unstable_by_key(|&(sequence, _)| sequence);
        (failed, ends)
    }

    /// Up to here closed ones were forgotten.
    pub(super) fn horizon(&self) -> Sequence {
        self.horizon
    }

    pub(super) fn standing(&self, sequence: Sequence) -> FailedStanding {
        match self.known.get(&sequence) {
            _ if self.retrying.contains_key(&sequence) => FailedStanding::Retrying,
            None => FailedStanding::Closed,
            Some(Known { saved: true, .. }) => FailedStanding::SavedSince,
            Some(_) => FailedStanding::Open,
        }
    }

    /// Those that are being retried.
    pub(super) fn retrying(&self) -> Vec<Sequence> {
        self.retrying.keys().copied().collect()
    }

    /// Up to where a lane must have come for [`Self::standing`] to be the whole truth of its rows.
    pub(super) fn since(&self, ours: impl Fn(CollectionId) -> bool) -> Sequence {
        self.known.values().filter(|known| ours(known.collection)).map(|known| known.since).max().unwrap_or_default()
    }

    pub(super) fn len(&self) -> u64 {
        self.known.len() as u64
    }

    /// How many, by collection.
    pub(super) fn counts(&self) -> Vec<(CollectionId, u64)> {
        self.collections.iter().map(|(&id, collection)| (id, collection.count)).collect()
    }
}

/// Closes what a retry saves again.
pub(super) fn retried(Retry { failed, by }: Retry) -> Close {
    Close { sequence: failed, state: FailedState::Retried, by }
}

/// Closes the rows of an object that is written and whose last save is `last`.
fn overtake(rows: &[Sequence], last: Sequence, retries: &[Retry], closes: &mut Vec<Close>) {
    let age = retries.iter().find(|retry| retry.by == last).map_or(last, |retry| retry.failed);
    let overtaken = rows.iter().filter(|&&row| row < age && retries.iter().all(|retry| retry.failed != row));
    closes.extend(overtaken.map(|&sequence| Close { sequence, state: FailedState::Overtaken, by: last }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backlog::model::{LOG, ROWS, save},
        save::{Body, Change},
    };

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    fn key(n: u8) -> Key {
        Key::from_parts([n.to_string().as_str()])
    }

    fn row(sequence: u64, object: u8) -> Row {
        Row { sequence: seq(sequence), collection: ROWS, key: key(object) }
    }

    fn accepted(sequence: u64, object: u8, retries: Option<u64>) -> Accepted {
        let body = Body::parse(b"{\"c0\": 1}").expect("a body");
        let mut save = save(object, ROWS, Change::Set(body));
        save.retries = retries.map(seq);
        Accepted { sequence: seq(sequence), save }
    }

    fn index(rows: &[(u64, u8)]) -> Index {
        let mut index = Index::default();
        rows.iter().for_each(|&(sequence, object)| index.add(row(sequence, object), seq(9)));
        index
    }

    fn closes(index: &Index, saves: Vec<Accepted>) -> Vec<(u64, FailedState, u64)> {
        let closes = index.closes(&Generation::fold(seq(9), Default::default(), saves));
        let mut closes: Vec<_> = closes.into_iter().map(|close| (close.sequence.get(), close.state, close.by.get())).collect();
        closes.sort_unstable_by_key(|close| close.0);
        closes
    }

    #[test]
    fn a_later_save_overtakes_and_a_retry_closes_what_it_saves_again() {
        let index = index(&[(3, 1), (4, 1), (5, 2)]);
        assert_eq!(
            closes(&index, vec![accepted(10, 1, None), accepted(11, 3, None), accepted(12, 4, None)]),
            [(3, FailedState::Overtaken, 10), (4, FailedState::Overtaken, 10)]
        );
        assert_eq!(closes(&index, vec![accepted(10, 2, Some(5))]), [(5, FailedState::Retried, 10)]);
        assert_eq!(closes(&index, vec![accepted(10, 7, None)]), []);
    }

    #[test]
    fn a_retry_overtakes_only_what_failed_before_the_save_that_it_repeats() {
        let index = index(&[(3, 1), (4, 1)]);
        assert_eq!(closes(&index, vec![accepted(10, 1, Some(3))]), [(3, FailedState::Retried, 10)]);
        assert_eq!(closes(&index, vec![accepted(10, 1, Some(4))]), [(3, FailedState::Overtaken, 10), (4, FailedState::Retried, 10)]);
        let both = vec![accepted(10, 1, Some(3)), accepted(11, 1, Some(4))];
        assert_eq!(closes(&index, both), [(3, FailedState::Retried, 10), (4, FailedState::Retried, 11)]);
    }

    #[test]
    fn what_is_handed_on_is_seen() {
        let mut index = index(&[(3, 1), (4, 1), (5, 2)]);
        index.see(&accepted(10, 1, Some(3)));
        index.see(&accepted(11, 2, None));
        assert_eq!(index.standing(seq(3)), FailedStanding::Retrying);
        assert_eq!(index.standing(seq(4)), FailedStanding::Open, "the retry of an older one is no save since");
        assert_eq!(index.standing(seq(5)), FailedStanding::SavedSince);
        assert_eq!((index.standing(seq(6)), index.retrying()), (FailedStanding::Closed, vec![seq(3)]));
        index.see(&accepted(12, 1, None));
        assert_eq!(index.standing(seq(4)), FailedStanding::SavedSince);
        // What is closed can be retried by force, once at a time.
        index.see(&accepted(13, 1, Some(2)));
        assert_eq!((index.standing(seq(2)), index.retrying()), (FailedStanding::Retrying, vec![seq(2), seq(3)]));
        index.settled(seq(12));
        assert_eq!(index.retrying(), vec![seq(2)]);
        index.settled(seq(13));
        assert_eq!(index.standing(seq(2)), FailedStanding::Closed);
    }

    #[test]
    fn appended_rows_have_no_object_in_common() {
        let mut index = Index::default();
        index.add(Row { sequence: seq(3), collection: LOG, key: Key::none() }, seq(9));
        let append = |sequence, retries: Option<u64>| {
            let mut save = save(0, LOG, Change::Append(Body::parse(b"{\"c0\": 1}").expect("a body")));
            save.retries = retries.map(seq);
            Accepted { sequence: seq(sequence), save }
        };
        index.see(&append(10, None));
        assert_eq!((index.standing(seq(3)), closes(&index, vec![append(10, None)])), (FailedStanding::Open, vec![]));
        index.see(&append(11, Some(3)));
        assert_eq!(index.standing(seq(3)), FailedStanding::Retrying);
        assert_eq!(closes(&index, vec![append(11, Some(3))]), [(3, FailedState::Retried, 11)]);
    }

    #[test]
    fn what_is_read_again_keeps_what_is_known_of_it() {
        let mut index = index(&[(3, 1), (4, 2)]);
        index.add(Row { sequence: seq(6), collection: LOG, key: Key::none() }, seq(20));
        index.see(&accepted(10, 1, None));
        let open = vec![row(3, 1), row(7, 3)];
        index.reload(LaneId(0), |collection| collection == ROWS, Reloaded { open, ..Reloaded::default() }, seq(15));
        assert_eq!((index.len(), index.standing(seq(4))), (3, FailedStanding::Closed));
        assert_eq!(index.standing(seq(3)), FailedStanding::SavedSince);
        assert_eq!((index.since(|id| id == ROWS), index.since(|_| true)), (seq(15), seq(20)));
        let mut counts = index.counts();
        counts.sort_unstable();
        assert_eq!(counts, [(ROWS, 2), (LOG, 1)]);
        [3, 6, 7].into_iter().for_each(|sequence| index.close(seq(sequence), FailedState::Retried, |_| LaneId(0)));
        assert!(index.len() == 0 && index.counts().is_empty() && index.collections.is_empty());
    }

    #[test]
    fn what_failed_is_found_by_pages_whatever_became_of_it() {
        let mut index = index(&[(3, 1), (4, 1), (6, 2), (8, 2)]);
        index.add(Row { sequence: seq(5), collection: LOG, key: Key::none() }, seq(9));
        index.close(seq(4), FailedState::Discarded, |_| LaneId(0));
        index.close(seq(6), FailedState::Overtaken, |_| LaneId(0));
        let found = |after, through, max, of: Option<CollectionId>| {
            let (failed, ends) = index.between(LaneId(0), (seq(after), seq(through)), max, |id| of.is_none_or(|of| of == id));
            (failed.iter().map(|(sequence, _)| sequence.get()).collect::<Vec<_>>(), ends.get())
        };
        assert_eq!(found(0, 9, 9, None), (vec![3, 4, 5, 6, 8], 9));
        assert_eq!(found(3, 7, 9, Some(ROWS)), (vec![4, 6], 7));
        assert_eq!(found(0, 9, 1, None), (vec![3, 4], 4), "the second open one is the fifth");
        assert_eq!(found(4, 9, 1, Some(ROWS)), (vec![6], 7), "what is another's counts too");
        assert_eq!(found(8, 9, 1, None), (vec![], 9));
    }

    #[test]
    fn outcomes_are_told_from_what_is_open_closed_and_forgotten() {
        let mut index = index(&[(3, 1), (4, 1), (5, 2), (6, 2)]);
        index.close(seq(4), FailedState::Discarded, |_| LaneId(0));
        index.close(seq(5), FailedState::Overtaken, |_| LaneId(0));
        let outcomes = |index: &Index| (2..=7).map(|n| index.outcome(seq(n))).collect::<Vec<_>>();
        use State::*;
        assert_eq!(outcomes(&index), [Persisted, Failed, Discarded, Failed, Failed, Persisted]);
        index.forget(&[seq(4)]);
        assert_eq!(outcomes(&index), [Unknown, Failed, Unknown, Failed, Failed, Persisted]);
        index.close(seq(5), FailedState::Retried, |_| LaneId(0));
        index.add(row(5, 2), seq(9));
        assert_eq!(index.outcome(seq(5)), Failed, "failed again");
        let closed = ClosedRows::from([(seq(6), (ROWS, FailedState::Discarded))]);
        let reloaded = Reloaded { open: vec![row(3, 1)], closed, horizon: seq(2) };
        index.reload(LaneId(0), |collection| collection == ROWS, reloaded, seq(9));
        assert_eq!(outcomes(&index), [Unknown, Failed, Persisted, Persisted, Discarded, Persisted]);
    }
}
