//! Failed saves as status shows them: asked of Postgres, remembered for when it is away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    limits::Limit,
    postgres::{FailedSaveRow, Failure, Postgres},
    status::{FailedSaveStatus, StatusSnapshot},
};

/// The open failed saves of this journal. Cheap to clone.
#[derive(Clone)]
pub(super) struct FailedSaves {
    postgres: Postgres,
    journal: Uuid,
    /// `failed.saves_max`: what is in use is how many are open.
    limit: Arc<Limit>,
    newest: Arc<Mutex<Vec<FailedSaveStatus>>>,
    open: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// A status is asked for now: what is remembered must do if Postgres takes longer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

impl FailedSaves {
    pub(super) fn new(postgres: Postgres, journal: Uuid, limit: Arc<Limit>) -> Self {
        Self { postgres, journal, limit, newest: Arc::default(), open: Arc::default() }
    }

    /// Counts them. From then on the lanes count.
    pub(super) async fn count(&self) -> Result<u64, Failure> {
        let open = match self.postgres.count_open_failed(self.journal).await {
            // A journal that has never settled a save has no table yet.
            Err(failure) if matches!(failure.sqlstate.as_deref(), Some("42P01" | "3F000")) => BTreeMap::new(),
            counted => counted?,
        };
        let count = open.values().sum();
        *lock(&self.open) = open;
        Ok(count)
    }

    /// Another one of this collection.
    pub(super) fn add(&self, collection: &str) {
        *lock(&self.open).entry(collection.to_owned()).or_default() += 1;
    }

    /// How many are open, by collection.
    pub(super) fn open(&self) -> BTreeMap<String, u64> {
        lock(&self.open).clone()
    }

    /// The newest, newest first.
    pub(super) async fn newest(&self) -> Vec<FailedSaveStatus> {
        let asked = self.postgres.list_failed(self.journal, StatusSnapshot::FAILED_SAVES_SHOWN as u32);
        let asked = if self.limit.used() == 0 { Ok(Ok(Vec::new())) } else { tokio::time::timeout(ASK_TIMEOUT, asked).await };
        let mut newest = lock(&self.newest);
        if let Ok(Ok(rows)) = asked {
            *newest = rows.into_iter().map(shown).collect();
        }
        newest.clone()
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shown(row: FailedSaveRow) -> FailedSaveStatus {
    FailedSaveStatus {
        sequence: row.sequence,
        collection: row.collection,
        key: row.key,
        sqlstate: row.sqlstate.unwrap_or_default(),
        constraint: row.constraint.unwrap_or_default(),
        message: row.message,
        accepted_at: row.accepted_at,
        failed_at: row.failed_at,
    }
}
