//! What of the backlog reads see: every save of an object above the position that they read with its row.
//!
//! A read pins the backlog, reads row and position in one statement, and then looks what waits above that position. What was
//! settled in between is kept as long as anybody has a pin. Whatever isn't there any more, or covers the position in a way that
//! can't be told apart, is read from the journal: so what is kept is a matter of speed alone.

use std::{
    collections::VecDeque,
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
pub struct Pin(LaneBacklog);

/// Generations that were settled while somebody had a pin, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pins: usize,
    generations: VecDeque<Arc<Generation>>,
    bytes: u64,
}

impl Kept {
    /// Takes these over if somebody may look for them; returns those, the oldest first, that there is no room for.
    pub(super) fn keep(&mut self, settled: Vec<Arc<Generation>>, bytes_max: u64) -> Vec<Arc<Generation>> {
        if self.pins == 0 {
            return settled;
        }
        self.bytes += settled.iter().map(|generation| generation.footprint.bytes).sum::<u64>();
        self.generations.extend(settled);
        let mut surplus = Vec::new();
        while self.bytes > bytes_max {
            let oldest = self.generations.pop_front().expect("its bytes are counted");
            self.bytes -= oldest.footprint.bytes;
            surplus.push(oldest);
        }
        surplus
    }
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
    /// What changes no more, oldest first.
    fn shared(&self) -> impl Iterator<Item = &Arc<Generation>> {
        let out = self.out.iter().filter_map(|out| out.generation.as_ref());
        self.kept.generations.iter().chain(&self.refolded).chain(out).chain(self.backlog.sealed())
    }
}

impl LaneBacklog {
    /// To be had before reading a row that is then looked for here.
    pub fn pin(&self) -> Pin {
        self.lock().kept.pins += 1;
        Pin(self.clone())
    }

    /// Ends the generation in the making, so that what has been offered changes no more: for [`Self::next_keys`], from the
    /// cursor that this gives.
    pub fn cut(&self) -> Cursor {
        let mut inner = self.lock();
        inner.backlog.cut();
        if inner.backlog.making().saves == 0 {
            inner.since = None;
        }
        let cursor = Cursor { through: inner.backlog.through(), ..Cursor::default() };
        drop(inner);
        self.0.wake.notify_one();
        cursor
    }

    /// Keys of a collection that wait, at most so many, going on where the cursor stands; a key may come more than once, and
    /// what is settled meanwhile doesn't come. None: there are no more.
    pub async fn next_keys(&self, cursor: &mut Cursor, collection: CollectionId, keys_max: usize) -> Vec<Key> {
        loop {
            let next = self.unless_refolding(|inner| cursor.next(inner)).await;
            let Some(generation) = next else { return Vec::new() };
            let keys = cursor.take(&generation, collection, keys_max);
            drop_aside(generation);
            if !keys.is_empty() {
                return keys;
            }
        }
    }

    async fn unless_refolding<T>(&self, mut see: impl FnMut(&Inner) -> T) -> T {
        loop {
            let folded = self.0.folded.notified();
            tokio::pin!(folded);
            folded.as_mut().enable();
            {
                let inner = self.lock();
                if !inner.is_refolding() {
                    return see(&inner);
                }
            }
            folded.await;
        }
    }
}

impl Pin {
    /// What waits of these objects above the position that was read after the pin was had.
    pub(in crate::drain) async fn look(&self, collection: CollectionId, keys: &[Key], position: Sequence) -> Look {
        let look = self.0.unless_refolding(|inner| {
            let shared: Vec<_> = inner.shared().filter(|generation| generation.through > position).cloned().collect();
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
            for generation in shared.iter().filter(|generation| generation.through > position) {
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
        let mut inner = self.0.lock();
        inner.kept.pins -= 1;
        if inner.kept.pins == 0 {
            inner.kept.bytes = 0;
            let kept = Vec::from(std::mem::take(&mut inner.kept.generations));
            drop(inner);
            drop_aside(kept);
        }
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
    fn next(&mut self, inner: &Inner) -> Option<Arc<Generation>> {
        let wanted = |generation: &&Arc<Generation>| generation.through > self.done && generation.after < self.through;
        let next = inner.shared().find(wanted).cloned();
        let begins = next.as_ref().map_or(self.through, |generation| generation.after);
        if begins > self.done {
            (self.settled, self.done) = (begins, begins);
        }
        next
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
