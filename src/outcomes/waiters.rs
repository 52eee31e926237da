//! Those who wait for outcomes. However many there are, a commit wakes those whose saves it settled and no others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::save::Sequence;

/// Everybody who waits for saves of one lane.
#[derive(Debug, Default)]
pub struct Waiters(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By what they wait for; many may wait for one save.
    waiting: BTreeMap<(Sequence, u64), oneshot::Sender<()>>,
    count: u64,
}

/// Somebody waits. Dropped, nobody does any more.
#[derive(Debug)]
pub struct Waiting {
    waiters: Arc<Waiters>,
    key: (Sequence, u64),
    settled: oneshot::Receiver<()>,
}

impl Waiters {
    /// Waits for a save. Whoever looks at the position after this call misses nothing.
    pub fn wait(self: &Arc<Self>, sequence: Sequence) -> Waiting {
        let (tell, settled) = oneshot::channel();
        let mut inner = self.lock();
        inner.count += 1;
        let key = (sequence, inner.count);
        inner.waiting.insert(key, tell);
        drop(inner);
        Waiting { waiters: Arc::clone(self), key, settled }
    }

    /// Every save up to here has its outcome.
    pub fn settled(&self, through: Sequence) {
        let mut inner = self.lock();
        let later = inner.waiting.split_off(&(through.plus(1), 0));
        let due = std::mem::replace(&mut inner.waiting, later);
        drop(inner);
        for tell in due.into_values() {
            // Whoever has just gone away needs no answer.
            let _ = tell.send(());
        }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Returns once the save has its outcome; at once if it was told before.
    pub async fn settled(&mut self) {
        // The sender is dropped only with the waiters themselves: then nothing more is told.
        if !self.settled.is_terminated() && (&mut self.settled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    #[test]
    fn a_commit_wakes_those_whose_saves_it_settled() {
        let waiters = Arc::new(Waiters::default());
        let mut all: Vec<_> = [5, 3, 3, 9].into_iter().map(|n| waiters.wait(seq(n))).collect();
        waiters.settled(seq(5));
        let woken: Vec<_> = all.iter_mut().map(|waiting| waiting.settled().now_or_never().is_some()).collect();
        assert_eq!((woken, waiters.count()), (vec![true, true, true, false], 1));
        assert!(all[0].settled().now_or_never().is_some(), "asked again it says so again");
        waiters.settled(seq(u64::MAX - 1));
        assert!(all[3].settled().now_or_never().is_some());
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::default());
        let (first, second) = (waiters.wait(seq(1)), waiters.wait(seq(1)));
        drop(first);
        assert_eq!(waiters.count(), 1);
        drop(second);
        assert_eq!(waiters.count(), 0);
    }
}
