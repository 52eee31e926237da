//! What of the backlog reads see: every save of an object above the position that they read with its row.
//!
//! A read pins the backlog, reads row and position in one statement, and then looks what waits above that position. What was
//! settled in between is kept as long as anybody has a pin. Whatever isn't there any more, or covers the position in a way that
//! can't be told apart, is read from the journal: so what is kept is a matter of speed alone.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
};

use super::{Inner, LaneBacklog};
use crate::{
    backlog::{Fold, Generation},
    drain::aside::drop_aside,
    save::{CollectionId, Key, Sequence},
};

/// Keeps what is settled within reach of a read that began before.
#[derive(Debug)]
pub struct Pin {
    backlog: LaneBacklog,
    /// What was settled by then is in the rows that it goes with.
    since: Sequence,
}

/// Generations that were settled while somebody had a pin, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How many pins there are since when.
    pins: BTreeMap<Sequence, usize>,
    generations: VecDeque<Arc<Generation>>,
    bytes: u64,
}

impl Kept {
    /// Takes these over if somebody may look for them; returns what nobody will, and the oldest that there is no room for.
    pub(super) fn keep(&mut self, settled: Vec<Arc<Generation>>, bytes_max: u64) -> Vec<Arc<Generation>> {
        self.bytes += settled.iter().map(|generation| kept_bytes(generation)).sum::<u64>();
        self.generations.extend(settled);
        self.release(bytes_max)
    }

    fn release(&mut self, bytes_max: u64) -> Vec<Arc<Generation>> {
        let oldest_pin = self.pins.keys().next().copied();
        let mut released = Vec::new();
        while let Some(oldest) = self.generations.front() {
            if self.bytes <= bytes_max && oldest_pin.is_some_and(|since| oldest.through > since) {
                break;
            }
            self.bytes -= kept_bytes(oldest);
            released.extend(self.generations.pop_front());
        }
        released
    }

    fn unpin(&mut self, since: Sequence) -> Vec<Arc<Generation>> {
        let pins = self.pins.get_mut(&since).expect("it is counted");
        *pins -= 1;
        if *pins == 0 {
            self.pins.remove(&since);
        }
        self.release(u64::MAX)
    }
}

/// An empty one takes something, too.
fn kept_bytes(generation: &Generation) -> u64 {
    generation.footprint.bytes + size_of::<Generation>() as u64
}

/// What waits of the objects asked for, in the order asked.
#[derive(Debug)]
pub(in crate::drain) struct Look {
    pub(in crate::drain) objects: Vec<Found>,
    /// The last save of the lane that was there to be seen.
    pub(in crate::drain) through: Sequence,
    /// The lane was given everything up to here, by itself or by others that passed it.
    pub(in crate::drain) passed: Sequence,
}

/// What waits of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::drain) struct Found {
    /// First, what the journal has of it after the position, up to here.
    pub(in crate::drain) journal_through: Option<Sequence>,
    /// Then these, in order.
    pub(in crate::drain) folds: Vec<Fold>,
}

impl Found {
    fn from_journal(through: Sequence) -> Self {
        Self { journal_through: Some(through), folds: Vec::new() }
    }

    fn then(&mut self, later: Self) {
        match later.journal_through {
            Some(_) => *self = later,
            None => self.folds.extend(later.folds),
        }
    }
}

/// What a generation says of an object to somebody who knows everything up to `covered`.
fn found_in(generation: &Generation, covered: Sequence, collection: CollectionId, key: &Key) -> Found {
    if generation.after > covered {
        // In between nothing is in memory.
        let mut found = Found::from_journal(generation.after);
        found.then(found_in(generation, generation.after, collection, key));
        return found;
    }
    let mut folds = Vec::new();
    let folded = generation.parts.iter().filter_map(|part| part.collections.get(&collection)?.objects.get(key));
    // What was folded in up to `covered` can't be taken out of a fold again.
    for object in folded.filter(|object| object.last > covered) {
        if generation.after < covered && object.saves > 1 {
            return Found::from_journal(generation.through);
        }
        folds.push(object.fold.clone());
    }
    Found { journal_through: None, folds }
}

impl Inner {
    /// What changes no more and ends above this save, oldest first.
    fn shared(&self, above: Sequence) -> impl Iterator<Item = &Arc<Generation>> {
        let kept = &self.kept.generations;
        // After Postgres went back in time they are out of order: what is passed over then is read from the journal.
        let kept = kept.range(kept.partition_point(|generation| generation.through <= above)..);
        let out = self.out.iter().filter_map(|out| out.generation.as_ref());
        kept.chain(&self.refolded).chain(out).chain(self.backlog.sealed()).filter(move |generation| generation.through > above)
    }

    /// Ends the generation in the making.
    fn cut(&mut self) {
        self.backlog.cut();
        if self.backlog.making().saves == 0 {
            self.since = None;
        }
    }
}

impl LaneBacklog {
    /// To be had before reading a row that is then looked for here.
    pub fn pin(&self) -> Pin {
        let mut inner = self.lock();
        let since = inner.settled;
        *inner.kept.pins.entry(since).or_default() += 1;
        drop(inner);
        Pin { backlog: self.clone(), since }
    }

    /// Where [`Self::next_keys`] begins, for what has been offered until now.
    pub fn cut(&self) -> Cursor {
        Cursor { through: self.through(), ..Cursor::default() }
    }

    /// Keys of a collection that wait, at most so many, going on where the cursor stands; a key may come more than once, and
    /// what is settled meanwhile doesn't come. None: there are no more.
    ///
    /// Ends the generation in the making if it has any of them, so that they change no more.
    pub async fn next_keys(&self, cursor: &mut Cursor, collection: CollectionId, keys_max: usize) -> Vec<Key> {
        loop {
            let next = self.unless_refolding(|inner| {
                let sealed = inner.backlog.sealed().len();
                let next = cursor.next(inner, collection);
                (next, inner.backlog.sealed().len() > sealed)
            });
            let (next, filled) = next.await;
            if filled {
                self.0.wake.notify_one();
            }
            let Some(generation) = next else { return Vec::new() };
            let keys = cursor.take(&generation, collection, keys_max);
            drop_aside(generation);
            if !keys.is_empty() {
                return keys;
            }
        }
    }

    async fn unless_refolding<T>(&self, mut see: impl FnMut(&mut Inner) -> T) -> T {
        loop {
            let folded = self.0.folded.notified();
            tokio::pin!(folded);
            folded.as_mut().enable();
            {
                let mut inner = self.lock();
                if !inner.is_refolding() {
                    return see(&mut inner);
                }
            }
            folded.await;
        }
    }
}

impl Pin {
    /// What waits of these objects above the position that was read after the pin was had.
    pub(in crate::drain) async fn look(&self, collection: CollectionId, keys: &[Key], position: Sequence) -> Look {
        let look = self.backlog.unless_refolding(|inner| {
            let shared: Vec<_> = inner.shared(position).cloned().collect();
            let (making, passed) = (inner.backlog.making(), inner.passed.through.max(inner.backlog.through()));
            let covered = shared.iter().map(|generation| generation.through).fold(position, Sequence::max);
            let waits = making.through > covered;
            let last: Vec<_> =
                keys.iter().map(|key| if waits { found_in(making, covered, collection, key) } else { Found::default() }).collect();
            (shared, last, making.through, passed)
        });
        let (shared, last, through, passed) = look.await;
        // What is shared is looked through without holding anybody up.
        let objects = keys.iter().zip(last).map(|(key, last)| {
            let (mut found, mut covered) = (Found::default(), position);
            for generation in &shared {
                if generation.through > covered {
                    found.then(found_in(generation, covered, collection, key));
                    covered = generation.through;
                }
            }
            found.then(last);
            found
        });
        let look = Look { objects: objects.collect(), through, passed };
        drop_aside(shared);
        look
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let released = self.backlog.lock().kept.unpin(self.since);
        drop_aside(released);
    }
}

/// Where an iteration over what waits stands. Holds nothing back: what is settled meanwhile is in Postgres.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// What is accepted later doesn't belong to it.
    through: Sequence,
    /// Everything up to here has come, or is in Postgres.
    done: Sequence,
    /// What didn't come because it is in Postgres lies up to here.
    settled: Sequence,
    /// The generation that is under way, and how many of its keys have come.
    at: Option<(Weak<Generation>, usize)>,
}

impl Cursor {
    /// Up to where Postgres was relied on. A position read since that is lower tells of a database that went back in time.
    pub fn settled(&self) -> Sequence {
        self.settled
    }

    /// The generation to go on with.
    fn next(&mut self, inner: &mut Inner, collection: CollectionId) -> Option<Arc<Generation>> {
        if self.done >= self.through {
            return None;
        }
        let next = inner.shared(self.done).find(|generation| generation.after < self.through).cloned();
        let begins = next.as_ref().map_or(inner.backlog.making().after, |generation| generation.after).min(self.through);
        if begins > self.done {
            (self.settled, self.done) = (begins, begins);
        }
        if next.is_some() || self.done == self.through {
            return next;
        }
        // All that is left is in the making.
        if !inner.backlog.making().parts.iter().any(|part| part.collections.contains_key(&collection)) {
            self.done = self.through;
            return None;
        }
        inner.cut();
        inner.backlog.sealed().last().cloned()
    }

    fn take(&mut self, generation: &Arc<Generation>, collection: CollectionId, keys_max: usize) -> Vec<Key> {
        let this = Arc::downgrade(generation);
        // Another than before: it was folded together with the next, or again, and has its keys in another order.
        let taken = self.at.take().filter(|(at, _)| at.ptr_eq(&this)).map_or(0, |(_, taken)| taken);
        let folds = generation.parts.iter().filter_map(|part| part.collections.get(&collection));
        let mut keys: Vec<_> = folds.flat_map(|fold| fold.objects.keys()).skip(taken).take(keys_max).cloned().collect();
        match keys.len() < keys_max {
            true => self.done = generation.through,
            false => self.at = Some((this, taken + keys.len())),
        }
        // An object may be in several parts.
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{backlog, offer, seq},
        *,
    };
    use crate::backlog::model::{LOG, ROWS};

    /// A save that is offered, written and settled.
    fn settle(backlog: &LaneBacklog, sequence: u64) {
        offer(backlog, sequence);
        let _written = backlog.seal().expect("a generation");
        drop(backlog.settle(seq(sequence)));
    }

    fn kept(backlog: &LaneBacklog) -> Vec<u64> {
        backlog.lock().kept.generations.iter().map(|generation| generation.through.get()).collect()
    }

    #[test]
    fn what_is_settled_is_kept_as_long_as_a_read_that_began_before_may_look_for_it() {
        let backlog = backlog();
        settle(&backlog, 4);
        assert_eq!(kept(&backlog), [0; 0], "nobody reads");
        let first = backlog.pin();
        settle(&backlog, 5);
        let (second, third) = (backlog.pin(), backlog.pin());
        settle(&backlog, 6);
        assert_eq!(kept(&backlog), [5, 6]);
        drop(second);
        assert_eq!(kept(&backlog), [5, 6]);
        drop(first);
        assert_eq!(kept(&backlog), [6], "reads that overlap don't add up");
        let fourth = backlog.pin();
        drop(third);
        assert_eq!((kept(&backlog), backlog.lock().kept.bytes), (vec![], 0));
        drop(fourth);
        assert!(backlog.lock().kept.pins.is_empty());
    }

    #[test]
    fn an_empty_generation_takes_room_of_what_is_kept() {
        let mut kept = Kept { pins: BTreeMap::from([(seq(0), 1)]), ..Kept::default() };
        let empty = |n| Arc::new(Generation { through: seq(n), ..Generation::empty(seq(n - 1), Arc::default()) });
        let bytes_max = 2 * size_of::<Generation>() as u64;
        let surplus: Vec<_> =
            (1..=5).flat_map(|n| kept.keep(vec![empty(n)], bytes_max)).map(|generation| generation.through.get()).collect();
        assert_eq!((surplus, kept.generations.len()), (vec![1, 2, 3], 2));
    }

    #[tokio::test]
    async fn a_load_ends_no_generation_that_has_nothing_for_it() {
        let backlog = backlog();
        offer(&backlog, 4);
        let mut cursor = backlog.cut();
        assert_eq!((backlog.next_keys(&mut cursor, LOG, 9).await, cursor.settled()), (vec![], seq(3)));
        assert!(!backlog.view().full);
        let mut cursor = backlog.cut();
        offer(&backlog, 5);
        assert_eq!((backlog.next_keys(&mut cursor, ROWS, 9).await.len(), cursor.settled()), (1, seq(3)));
        assert!(backlog.view().full && backlog.next_keys(&mut cursor, ROWS, 9).await.is_empty());
    }
}
