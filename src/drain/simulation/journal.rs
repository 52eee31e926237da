//! The journal of the simulation, its own pure parts over a disk of memory: as the daemon has it, and as a lane sees it.

use tokio::time::Instant;

use super::world::{Inner, World};
use crate::{
    backlog::model::{LOG, ROWS, adding, save},
    drain::{Log, LogError},
    journal::{Entry, Record, simulation::Journal},
    limits::Limits,
    save::{Accepted, Change, LaneId, Save, Sequence},
};

impl World {
    /// A start: the journal is opened, in a new run. `false`: it died on the way.
    pub(super) fn open(&self, limits: &Limits) -> bool {
        let mut inner = self.lock();
        let lanes = inner.ledger.len() as u16;
        inner.be_deaf();
        let Inner { disk, journal, retention, death, .. } = &mut *inner;
        *journal = Journal::open(disk, lanes, limits, *retention, &mut || death.comes());
        journal.is_some()
    }

    /// What the journal holds, which is what was acknowledged, and what was written last if all of it is there.
    pub(super) fn recover(&self) -> Vec<Accepted> {
        let mut inner = self.lock();
        let Inner { disk, journal, truth, in_flight, removed, .. } = &mut *inner;
        let journal = journal.as_ref().expect("it is open");
        assert!(truth.after(*removed).len() <= truth.after(journal.oldest()).len(), "what was not removed is gone");
        *removed = journal.oldest();
        let mut found = Vec::new();
        let mut after = journal.oldest();
        loop {
            let page = journal.read(disk, after, journal.found(), 1_000).expect("the oldest is held");
            let Some(last) = page.last() else { break };
            after = last.sequence;
            found.extend(saves_of(page));
        }
        let acknowledged = truth.after(journal.oldest()).len();
        if let Some((group, synced)) = in_flight.take() {
            assert!(found.len() > acknowledged || !synced, "what was synced is gone");
            if found.len() > acknowledged {
                truth.saves.extend(group);
            }
        }
        assert_eq!(found, truth.after(journal.oldest()), "what was acknowledged is there, and nothing else");
        found
    }

    /// Up to where the journal knows everything of each lane to be in Postgres.
    pub(super) fn after(&self) -> Vec<Sequence> {
        self.lock().journal.as_ref().expect("it is open").after().to_vec()
    }

    /// Writes a group.
    pub(super) fn write(&self, group: &[Accepted]) {
        let mut inner = self.lock();
        let Inner { disk, journal, in_flight, last, .. } = &mut *inner;
        *last = group[group.len() - 1].sequence;
        *in_flight = Some((group.to_vec(), false));
        journal.as_mut().expect("it is open").write(disk, group, name);
    }

    /// Syncs what was written.
    pub(super) fn sync(&self) {
        let mut inner = self.lock();
        let Inner { disk, journal, in_flight, .. } = &mut *inner;
        journal.as_mut().expect("it is open").sync(disk);
        in_flight.as_mut().expect("something was written").1 = true;
    }

    /// From here on it must never be lost.
    pub(super) fn acknowledge(&self) {
        let mut inner = self.lock();
        let (group, _) = inner.in_flight.take().expect("something was written");
        inner.truth.saves.extend(group);
    }

    pub(super) fn append(&self, batch: &[Accepted]) {
        self.write(batch);
        self.sync();
        self.acknowledge();
    }

    /// The janitor looks around, and while there is trouble its disk may refuse to remove anything. `false`: the daemon died meanwhile.
    pub(super) fn tend(&self) -> bool {
        let mut inner = self.lock();
        let Inner { chance, disk, journal, death, trouble, .. } = &mut *inner;
        disk.keeps = chance.u32(..100) < *trouble;
        let journal = journal.as_mut().expect("it is open");
        let before = journal.oldest();
        let lives = journal.tend(disk, Instant::now().into_std(), &mut || death.comes());
        let oldest = journal.oldest();
        inner.check_removed(before, oldest);
        inner.removed = oldest;
        lives
    }

    /// The power goes, not only the daemon.
    pub(super) fn cut_power(&self) {
        let mut inner = self.lock();
        let Inner { disk, chance, .. } = &mut *inner;
        disk.cut_power(chance);
    }

    pub(super) fn journal_after(&self, hint: Sequence) -> Vec<Accepted> {
        self.lock().truth.after(hint).to_vec()
    }

    pub(super) fn forget_journal(&self) {
        let mut inner = self.lock();
        let Inner { disk, journal, removed, .. } = &mut *inner;
        let journal = journal.as_mut().expect("it is open");
        journal.forget_everything(disk);
        *removed = journal.oldest();
    }
}

pub(super) struct FakeJournal {
    pub(super) world: World,
    pub(super) lane: LaneId,
}

impl FakeJournal {
    /// A page of random size, whole batches of the lane.
    fn page(&self, after: Sequence, through: Sequence) -> Result<Vec<Accepted>, LogError> {
        let mut inner = self.world.lock();
        let inner = &mut *inner;
        let journal = inner.journal.as_ref().expect("it is open");
        let mut after = after;
        loop {
            let bytes_max = inner.chance.usize(0..1_000);
            let page = journal.read(&inner.disk, after, through, bytes_max).map_err(|oldest| LogError::Forgotten { oldest })?;
            let Some(last) = page.last().map(|entry| entry.sequence) else { return Ok(Vec::new()) };
            let own: Vec<_> = saves_of(page).filter(|accepted| accepted.save.lane == self.lane).collect();
            if !own.is_empty() {
                return Ok(own);
            }
            after = last;
        }
    }
}

impl Log for FakeJournal {
    async fn read(&self, after: Sequence, through: Sequence, _bytes_max: u64) -> Result<Vec<Accepted>, LogError> {
        self.world.step().await;
        self.page(after, through)
    }

    fn knows(&self, sequence: Sequence) -> bool {
        sequence <= self.world.last()
    }

    async fn note_row(&self) -> Result<(), LogError> {
        self.world.step().await;
        self.world.note_row(self.lane);
        self.world.step().await;
        Ok(())
    }

    async fn note_gap(&self, after: Sequence, through: Sequence) -> Result<(), LogError> {
        self.world.step().await;
        self.world.note_gap(self.lane, after, through);
        self.world.step().await;
        Ok(())
    }

    async fn note_rewind(&self, _to: Sequence) -> Result<(), LogError> {
        self.world.step().await;
        Ok(())
    }
}

/// The name of a save's collection, as the journal has it.
pub(super) fn name(accepted: &Accepted) -> &'static str {
    if accepted.save.collection == LOG { "log" } else { "rows" }
}

/// Saves as the journal gave them back.
pub(super) fn saves_of(entries: Vec<Entry>) -> impl Iterator<Item = Accepted> {
    entries.into_iter().map(|Entry { sequence, record }| {
        let Record { lane, collection, key, change, adds, batch_left, accepted_at, .. } = record;
        let save = match change {
            Change::Set(body) => adding(0, body, adds),
            other => save(0, if collection == "log" { LOG } else { ROWS }, other),
        };
        Accepted { sequence, save: Save { lane, key, batch_left, accepted_at, ..save } }
    })
}
