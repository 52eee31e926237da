//! How often Postgres went back in time (a failover, a restored backup), and to where: what was told of later saves no longer
//! holds. Those who were told and are not there any more learn of it when they come back, also after restarts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{
    journal::{Ledger, LedgerError},
    outcomes::Rewound,
    save::Sequence,
};

const LEDGER_KEY: &str = "rewinds";
/// Steps that are remembered apart. What is too much is joined: then more is said to be lost than was.
const STEPS_MAX: usize = 64;

/// Every rewind of this journal. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Rewinds(Arc<Mutex<Noted>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    count: u32,
    /// Their ends rise with their numbers: what went further back later says more than what came before.
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    number: u32,
    to: u64,
}

impl Noted {
    fn with(&self, to: u64) -> Self {
        let count = self.count.saturating_add(1);
        let mut steps: Vec<_> = self.steps.iter().copied().filter(|step| step.to < to).collect();
        steps.push(Step { number: count, to });
        if steps.len() > STEPS_MAX {
            let oldest = steps.remove(0);
            steps[0].to = oldest.to;
        }
        Self { count, steps }
    }

    fn since(&self, count: u32) -> Option<u64> {
        self.steps.iter().find(|step| step.number > count).map(|step| step.to)
    }
}

impl Rewinds {
    /// As the ledger has them. Blocks.
    pub(super) fn recall(ledger: &Ledger) -> Result<Self, LedgerError> {
        let known = ledger.get(LEDGER_KEY)?.unwrap_or_default();
        let noted = if known.is_empty() { Ok(Noted::default()) } else { serde_json::from_slice(&known) };
        let noted = noted.map_err(|_| LedgerError::Damaged(LEDGER_KEY.to_owned()))?;
        Ok(Self(Arc::new(Mutex::new(noted))))
    }

    /// Another one; durable when this returns. Blocks.
    pub(super) fn note(&self, ledger: &Ledger, to: Sequence) -> Result<(), LedgerError> {
        // Held while it is written: two lanes don't overwrite each other's.
        let mut noted = self.lock();
        let more = noted.with(to.get());
        ledger.put(LEDGER_KEY, &serde_json::to_vec(&more).expect("numbers are JSON"))?;
        *noted = more;
        Ok(())
    }

    /// What happened since there were so many.
    pub(super) fn since(&self, count: u32) -> Rewound {
        let noted = self.lock();
        Rewound { count: noted.count, to: noted.since(count).map(Sequence::from_u64) }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_of_those_since_counts() {
        let noted = [50, 90, 70].iter().fold(Noted::default(), |noted, &to| noted.with(to));
        let since: Vec<_> = (0..=4).map(|count| noted.since(count)).collect();
        assert_eq!((noted.count, since), (3, vec![Some(50), Some(70), Some(70), None, None]));
    }

    #[test]
    fn they_are_bounded_and_what_is_joined_says_more_rather_than_less() {
        let all: Vec<u64> = (1..=200).collect();
        let noted = all.iter().fold(Noted::default(), |noted, &to| noted.with(to));
        assert_eq!(noted.steps.len(), STEPS_MAX);
        for count in 0..200 {
            let least = all[count as usize..].iter().min().copied();
            assert!(noted.since(count) <= least && noted.since(count).is_some(), "{count}");
        }
        assert_eq!(noted.since(199), Some(200));
    }
}
