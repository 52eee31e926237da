//! What is pending of objects whose rows were read: from the lane's memory, or folded again from its journal.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

use super::{
    lane_backlog::{LaneBacklog, Look, Pin},
    rebuild::page_bytes,
    target::{Log, LogError},
};
use crate::{
    backlog::{Fold, Generation},
    save::{Accepted, CollectionId, Key, Sequence},
};

/// Reads a lane's backlog for those who read its rows.
#[derive(Debug)]
pub struct BacklogReader<L> {
    backlog: LaneBacklog,
    log: L,
    /// Whoever holds it reads the journal, for all who ask: reads never slow the lane more than one would.
    reading: tokio::sync::Mutex<()>,
    asks: Mutex<Vec<Ask>>,
}

/// Somebody waits for saves to be folded from the journal.
#[derive(Debug)]
struct Ask {
    collection: CollectionId,
    /// Up to where, of each object.
    wanted: Arc<HashMap<Key, Sequence>>,
    /// Nothing up to here is wanted, or all of it is folded.
    read: Sequence,
    through: Sequence,
    folded: Generation,
    reply: oneshot::Sender<Result<Folds, LogError>>,
}

type Folds = HashMap<Key, Fold>;

/// What is laid over the rows of objects, in the order asked.
#[derive(Debug)]
pub struct Pending {
    /// Every save above the position, as folds in order; none if nothing is pending.
    pub folds: Vec<Vec<Fold>>,
    /// The last save that was looked at.
    pub through: Sequence,
}

/// Why it can't be told what is pending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PendingError {
    /// The position is none of this journal.
    #[error("the row of forebay.lane_position says {0}, which this journal never reached")]
    Beyond(Sequence),
    /// What Postgres has lost the journal doesn't hold any more either, or it can't be read.
    #[error("{0}")]
    Journal(#[from] LogError),
}

impl<L: Log> BacklogReader<L> {
    /// Over a backlog and its journal.
    pub fn new(backlog: LaneBacklog, log: L) -> Self {
        Self { backlog, log, reading: tokio::sync::Mutex::default(), asks: Mutex::default() }
    }

    /// To be had before rows are read.
    pub fn pin(&self) -> Pin {
        self.backlog.pin()
    }

    /// What is pending of these objects above the position that was read together with their rows.
    ///
    /// # Errors
    /// [`PendingError`]
    pub async fn pending(&self, pin: &Pin, collection: CollectionId, keys: &[Key], position: Sequence) -> Result<Pending, PendingError> {
        let Look { mut objects, through, passed } = pin.look(collection, keys, position).await;
        if position > passed {
            return Err(PendingError::Beyond(position));
        }
        let unclear = keys.iter().zip(&objects).filter_map(|(key, found)| Some((key.clone(), found.journal_through?)));
        let unclear: HashMap<Key, Sequence> = unclear.collect();
        if !unclear.is_empty() {
            let mut refolded = self.refold(collection, unclear, position).await?;
            for (key, found) in keys.iter().zip(&mut objects) {
                found.folds.splice(..0, refolded.remove(key));
            }
        }
        Ok(Pending { folds: objects.into_iter().map(|found| found.folds).collect(), through })
    }

    /// The saves of each of these objects after the position, up to the one named with it.
    async fn refold(&self, collection: CollectionId, wanted: HashMap<Key, Sequence>, position: Sequence) -> Result<Folds, LogError> {
        let wanted = Arc::new(wanted);
        loop {
            let mut answer = self.ask(collection, &wanted, position);
            let answered = tokio::select! {
                biased;
                answered = &mut answer => answered,
                _alone = self.reading.lock() => {
                    let asks = std::mem::take(&mut *self.asks());
                    self.serve(asks).await;
                    answer.await
                }
            };
            // Otherwise the one that read for us was given up.
            if let Ok(folds) = answered {
                return folds;
            }
        }
    }

    fn ask(
        &self,
        collection: CollectionId,
        wanted: &Arc<HashMap<Key, Sequence>>,
        position: Sequence,
    ) -> oneshot::Receiver<Result<Folds, LogError>> {
        let (reply, answer) = oneshot::channel();
        let through = wanted.values().copied().max().unwrap_or(position);
        let (wanted, folded) = (Arc::clone(wanted), Generation::empty(position, Arc::default()));
        self.asks().push(Ask { collection, wanted, read: position, through, folded, reply });
        answer
    }

    /// Answers them all, reading nothing twice.
    async fn serve(&self, mut asks: Vec<Ask>) {
        asks.sort_by_key(|ask| ask.read);
        loop {
            asks.extract_if(.., |ask| ask.read >= ask.through).for_each(Ask::done);
            asks.retain(|ask| !ask.reply.is_closed());
            let Some(read) = asks.first().map(|ask| ask.read) else { return };
            let through = asks.iter().fold(read, |through, ask| if ask.read <= through { through.max(ask.through) } else { through });
            match self.log.read(read, through, page_bytes(through.get() - read.get())).await {
                Ok(page) => {
                    let last = page.last().map_or(through, |last| last.sequence);
                    asks.iter_mut().for_each(|ask| ask.take(&page, last));
                }
                // What others asked for may lie where it can be read.
                Err(error) => asks.extract_if(.., |ask| ask.read == read).for_each(|ask| ask.fail(error.clone())),
            }
        }
    }

    fn asks(&self) -> MutexGuard<'_, Vec<Ask>> {
        self.asks.lock().expect("nothing panics under it")
    }
}

impl Ask {
    /// Folds in what is wanted of all saves up to `last`.
    fn take(&mut self, page: &[Accepted], last: Sequence) {
        for accepted in page.iter().filter(|accepted| accepted.sequence > self.read && accepted.save.collection == self.collection) {
            if self.wanted.get(&accepted.save.key).is_some_and(|through| accepted.sequence <= *through) {
                self.folded.fold_in(accepted.clone());
            }
        }
        self.read = self.read.max(last);
    }

    fn done(self) {
        let folds = self.folded.parts.into_iter().filter_map(|mut part| part.collections.remove(&self.collection));
        let objects = folds.flat_map(|fold| fold.objects).map(|(key, object)| (key, object.fold));
        // Nobody may be waiting any more.
        let _ = self.reply.send(Ok(objects.collect()));
    }

    fn fail(self, error: LogError) {
        let _ = self.reply.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Semaphore, task::JoinHandle};

    use super::*;
    use crate::{
        backlog::model::{ROWS, save},
        limits::Limits,
        save::{Body, Change},
        settings::Settings,
    };

    /// Saves 1 to 9 of the objects 1 to 9, the first two of them forgotten. Every read waits to be let through.
    struct Held {
        saves: Vec<Accepted>,
        reads: Mutex<Vec<(u64, u64)>>,
        gate: Semaphore,
    }

    const OLDEST: Sequence = Sequence::from_u64(3);

    impl Log for Arc<Held> {
        async fn read(&self, after: Sequence, through: Sequence, _: u64) -> Result<Vec<Accepted>, LogError> {
            self.reads.lock().expect("no panic").push((after.get(), through.get()));
            self.gate.acquire().await.expect("never closed").forget();
            if after.plus(1) < OLDEST {
                return Err(LogError::Forgotten { oldest: OLDEST });
            }
            Ok(self.saves.iter().filter(|accepted| accepted.sequence > after && accepted.sequence <= through).cloned().collect())
        }

        fn knows(&self, _: Sequence) -> bool {
            true
        }

        async fn note_row(&self) -> Result<(), LogError> {
            Ok(())
        }

        async fn note_gap(&self, _: Sequence, _: Sequence) -> Result<(), LogError> {
            Ok(())
        }

        async fn note_rewind(&self, _: Sequence) -> Result<(), LogError> {
            Ok(())
        }
    }

    struct Rig {
        log: Arc<Held>,
        reader: Arc<BacklogReader<Arc<Held>>>,
    }

    type Refolding = JoinHandle<Result<Vec<Key>, LogError>>;

    impl Rig {
        fn new() -> Self {
            let body = || Body::parse(b"{\"c0\": 1}").expect("a body");
            let saves = (1..10).map(|n| Accepted { sequence: Sequence::from_u64(n.into()), save: save(n, ROWS, Change::Set(body())) });
            let log = Arc::new(Held { saves: saves.collect(), reads: Mutex::default(), gate: Semaphore::new(0) });
            let backlog = LaneBacklog::new(1_000, Sequence::ZERO, Arc::default(), &Limits::new(&Settings::default()));
            Self { reader: Arc::new(BacklogReader::new(backlog, Arc::clone(&log))), log }
        }

        /// All objects after a position, up to a save. Returns when that is asked.
        async fn ask(&self, position: u64, through: u64) -> Refolding {
            let (reader, keys) = (Arc::clone(&self.reader), self.log.saves.iter().map(|accepted| accepted.save.key.clone()));
            let wanted = keys.map(|key| (key, Sequence::from_u64(through))).collect();
            let refolding = tokio::spawn(async move {
                let folds = reader.refold(ROWS, wanted, Sequence::from_u64(position)).await?;
                let mut keys: Vec<_> = folds.into_keys().collect();
                keys.sort_unstable();
                Ok(keys)
            });
            tokio::task::yield_now().await;
            refolding
        }

        fn keys(&self, after: usize, through: usize) -> Vec<Key> {
            self.log.saves[after..through].iter().map(|accepted| accepted.save.key.clone()).collect()
        }

        fn reads(&self) -> Vec<(u64, u64)> {
            self.log.reads.lock().expect("no panic").clone()
        }
    }

    #[tokio::test]
    async fn those_who_wait_share_one_scan() {
        let rig = Rig::new();
        let first = rig.ask(2, 4).await;
        let others = [rig.ask(4, 6).await, rig.ask(3, 5).await, rig.ask(8, 9).await];
        rig.log.gate.add_permits(9);
        assert_eq!(first.await.expect("no panic"), Ok(rig.keys(2, 4)));
        for (other, (after, through)) in others.into_iter().zip([(4, 6), (3, 5), (8, 9)]) {
            assert_eq!(other.await.expect("no panic"), Ok(rig.keys(after, through)));
        }
        assert_eq!(rig.reads(), [(2, 4), (3, 6), (8, 9)], "what nobody wants in between is not read");
    }

    #[tokio::test]
    async fn what_is_forgotten_fails_those_alone_who_want_it() {
        let rig = Rig::new();
        let first = rig.ask(2, 4).await;
        let (old, newer) = (rig.ask(1, 6).await, rig.ask(5, 7).await);
        rig.log.gate.add_permits(9);
        assert_eq!(first.await.expect("no panic"), Ok(rig.keys(2, 4)));
        assert_eq!(old.await.expect("no panic"), Err(LogError::Forgotten { oldest: OLDEST }));
        assert_eq!(newer.await.expect("no panic"), Ok(rig.keys(5, 7)));
    }

    #[tokio::test]
    async fn whoever_reads_for_others_may_be_given_up() {
        let rig = Rig::new();
        let first = rig.ask(2, 4).await;
        let (second, third) = (rig.ask(3, 5).await, rig.ask(4, 6).await);
        rig.log.gate.add_permits(1);
        assert_eq!(first.await.expect("no panic"), Ok(rig.keys(2, 4)));
        while rig.reads().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(rig.reader.asks().is_empty(), "the second reads for the third");
        second.abort();
        assert!(second.await.is_err_and(|error| error.is_cancelled()));
        rig.log.gate.add_permits(1);
        assert_eq!(third.await.expect("no panic"), Ok(rig.keys(4, 6)));
        assert_eq!(rig.reads(), [(2, 4), (3, 6), (4, 6)]);
    }
}
