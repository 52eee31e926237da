//! What may be saved, shared: read from Postgres, kept in the ledger for starts without it, numbered for the journal's names.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    collections::{Catalog, CollectionRules, Collections, Lanes, Numbers},
    journal::{Entry, Ledger, LedgerError},
    metrics::Metrics,
    postgres::{Failure, Postgres},
    save::{Accepted, CollectionId, LaneId, Save},
};

/// The collections of this daemon. Cheap to clone.
#[derive(Clone)]
pub(super) struct SharedCollections(Arc<Shared>);

struct Shared {
    now: RwLock<Arc<Collections>>,
    /// What they were made of.
    last: Mutex<Option<Catalog>>,
    /// Held while a new one is made, so that numbers given meanwhile are not lost.
    change: Mutex<()>,
    /// Postgres has been read in this run.
    fresh: AtomicBool,
    rules: CollectionRules,
    postgres: Postgres,
    ledger: Ledger,
    metrics: Metrics,
}

const LEDGER_KEY: &str = "catalog";

impl SharedCollections {
    /// What the journal's ledger remembers of the catalog; nothing at the very first start.
    pub(super) fn new(rules: CollectionRules, postgres: Postgres, ledger: Ledger, metrics: Metrics) -> Self {
        let (now, last, change, fresh) = (RwLock::default(), Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Shared { now, last, change, fresh, rules, postgres, ledger, metrics }))
    }

    /// What may be saved now.
    pub(super) fn now(&self) -> Arc<Collections> {
        Arc::clone(&self.0.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the catalog that the ledger remembers; false if it remembers none.
    pub(super) async fn recall(&self) -> Result<bool, LedgerError> {
        let ledger = self.0.ledger.clone();
        let remembered = tokio::task::spawn_blocking(move || ledger.get(LEDGER_KEY)).await.expect("the ledger doesn't panic")?;
        // A catalog that an older version wrote differently is as good as none: Postgres is asked.
        let catalog = remembered.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(catalog.map(|catalog| self.take(catalog)).is_some())
    }

    /// Reads the catalog from Postgres unless this run has done so.
    pub(super) async fn ensure_fresh(&self) -> Result<(), Failure> {
        if self.0.fresh.load(Ordering::Relaxed) { Ok(()) } else { self.refresh().await.map(drop) }
    }

    /// Reads the catalog from Postgres and remembers it.
    pub(super) async fn refresh(&self) -> Result<Arc<Collections>, Failure> {
        let catalog = self.0.postgres.read_catalog().await?;
        let ledger = self.0.ledger.clone();
        let bytes = serde_json::to_vec(&catalog).expect("a catalog is plain data");
        let remember = move || match ledger.get(LEDGER_KEY) {
            Ok(Some(known)) if known == bytes => Ok(()),
            _ => ledger.put(LEDGER_KEY, &bytes),
        };
        if let Err(error) = tokio::task::spawn_blocking(remember).await.expect("the ledger doesn't panic") {
            tracing::warn!(%error, "the catalog can't be kept for starts without postgres");
        }
        self.0.fresh.store(true, Ordering::Relaxed);
        Ok(self.take(catalog))
    }

    /// Reads the catalog again because somebody asks, and says what came of it.
    pub(super) async fn reread(&self) {
        let before = self.now();
        match self.refresh().await {
            Ok(now) => {
                let (new, gone) = (lacking(&before, &now).join(", "), lacking(&now, &before).join(", "));
                tracing::info!(new, gone, "catalog read again");
            }
            Err(error) => tracing::warn!(%error, "the catalog can't be read again: going on with the one that is known"),
        }
    }

    /// A catalog that is as before changes nothing: what was folded by it stays as it is.
    fn take(&self, catalog: Catalog) -> Arc<Collections> {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&catalog) {
            return self.now();
        }
        let taken = self.change(|before| Collections::build(&catalog, &self.0.rules, before));
        *last = Some(catalog);
        taken
    }

    /// Entries of the journal as saves: names become numbers. Names that the catalog doesn't have get numbers too.
    pub(super) fn number(&self, entries: Vec<Entry>) -> Vec<Accepted> {
        let numbered = |known: &Collections| {
            let records = entries.iter().map(|entry| &entry.record);
            records.map(|record| known.numbers(&record.collection, record.change.body(), record.adds)).collect()
        };
        let numbers: Option<Vec<_>> = numbered(&self.now());
        let numbers = numbers.unwrap_or_else(|| {
            let known = self.change(|before| {
                let mut extended = before.clone();
                for entry in &entries {
                    extended.give_numbers(&entry.record.collection, entry.record.change.body());
                }
                extended
            });
            numbered(&known).expect("every name was given a number")
        });
        let numbered = entries.into_iter().zip(numbers);
        numbered.map(|(entry, numbers)| accepted(self.lane_of(&entry), entry, numbers)).collect()
    }

    /// The lane of an entry of the journal: by its collection, whichever layout gave it the number that it holds.
    pub(super) fn lane_of(&self, entry: &Entry) -> LaneId {
        self.0.rules.lanes.lane_of(&entry.record.collection)
    }

    /// Which lane writes which collection.
    pub(super) fn lanes(&self) -> &Lanes {
        &self.0.rules.lanes
    }

    /// The number of a collection; one that the catalog doesn't have gets one too.
    pub(super) fn number_name(&self, name: &str) -> CollectionId {
        self.now().number(name).unwrap_or_else(|| {
            let known = self.change(|before| {
                let mut extended = before.clone();
                extended.give_numbers(name, None);
                extended
            });
            known.number(name).expect("the name was given a number")
        })
    }

    fn change(&self, make: impl FnOnce(&Collections) -> Collections) -> Arc<Collections> {
        let _held = self.0.change.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Arc::new(make(&self.now()));
        self.0.metrics.know_collections(made.numbered().map(|collection| &*collection.name));
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&made);
        made
    }
}

/// Collections and columns that are in `there` and not in `here`.
fn lacking(here: &Collections, there: &Collections) -> Vec<String> {
    let mut lacking = Vec::new();
    for collection in there.iter() {
        let Some(known) = here.named(&collection.name) else {
            lacking.push(collection.name.to_string());
            continue;
        };
        let columns = collection.columns.iter().filter(|column| !column.gone && known.column(&column.name).is_none());
        lacking.extend(columns.map(|column| format!("{}.{}", collection.name, column.name)));
    }
    lacking
}

fn accepted(lane: LaneId, entry: Entry, Numbers { collection, columns, adds, version }: Numbers) -> Accepted {
    let record = entry.record;
    let save = Save {
        lane,
        collection,
        key: record.key,
        change: record.change,
        columns,
        adds,
        version,
        batch_left: record.batch_left,
        origin: record.origin,
        request_id: record.request_id,
        accepted_at: record.accepted_at,
        retries: record.retries,
        callback: record.callback,
    };
    Accepted { sequence: entry.sequence, save }
}
