//! Objects as they will be: rows with the position of their moment, and what waits above it laid over them.
//!
//! Never older than what was offered to the lane before the read, and nothing counts twice: the position that came with the row
//! says which saves are in it (P3). A read holds a connection for one statement, never for longer.

use std::{ops::Range, slice, sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    time::{error::Elapsed, timeout},
};
use uuid::Uuid;

use super::{catalog::SharedCollections, lanes::Started, log::LaneLog};
use crate::{
    backlog::{Fold, Shown, Stored, lay},
    collections::Collection,
    drain::{BacklogReader, LaneHandle, LaneState, PendingError, Pin},
    grpc::{self, LoadQuery, Loading, ReadError, ReadObject},
    postgres::{KeyRange, LaneRow, PageSize, Postgres, Rows, RowsError, StoredRow},
    save::Key,
};

mod load;

use self::load::Load;

/// Reads for the front door. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reads(Arc<Shared>);

struct Shared {
    postgres: Postgres,
    collections: SharedCollections,
    lanes: Vec<ReadLane>,
    /// Pages that may be read at once: one of the readers, if there are more, is always left to those who want a single row.
    pages: Semaphore,
}

/// A lane whose rows are read.
struct ReadLane {
    handle: LaneHandle,
    row: LaneRow,
    backlog: BacklogReader<LaneLog>,
}

/// A row as Postgres has it, or none.
struct ReadRow {
    /// Had before it was read.
    pin: Pin,
    collection: Arc<Collection>,
    rows: Rows,
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("{0}")]
    Rows(#[from] RowsError),
    #[error("{0}")]
    Pending(#[from] PendingError),
    #[error("it did not answer in time")]
    Late(#[from] Elapsed),
    #[error("{0}")]
    Changed(String),
}

impl From<Unread> for ReadError {
    fn from(why: Unread) -> Self {
        Self(why.to_string())
    }
}

/// How long Postgres is waited for while the lane has trouble with it.
const TROUBLED_PATIENCE: Duration = Duration::from_secs(1);
/// A single row has what size it has.
const ONE_ROW: PageSize = PageSize { rows_max: 1, bytes_max: 0 };
/// Rows of which is asked at a time what is pending, at first and later: it is held until they are laid over, and may be large.
const LAID_ROWS: Range<usize> = 16..256;

impl Reads {
    pub(super) fn new(postgres: Postgres, collections: SharedCollections, journal: Uuid, readers: u16, lanes: Vec<Started>) -> Self {
        let lanes = lanes.into_iter().map(|Started { handle, owner, log }| ReadLane {
            row: LaneRow { journal, lane: Arc::clone(handle.name()), owner },
            backlog: BacklogReader::new(handle.backlog().clone(), log),
            handle,
        });
        let pages = Semaphore::new(usize::from(readers).saturating_sub(1).max(1));
        Self(Arc::new(Shared { postgres, collections, lanes: lanes.collect(), pages }))
    }
}

#[tonic::async_trait]
impl grpc::Reads for Reads {
    async fn get(&self, collection: &Arc<Collection>, key: &Key, patience: Duration) -> Result<ReadObject, ReadError> {
        let lane = self.0.lane(collection);
        // Postgres alone: what the journal is read for, when it has answered, would be read for without it again.
        match timeout(lane.patience(patience), self.0.row(collection, key)).await.unwrap_or_else(|late| Err(late.into())) {
            Ok(row) => Ok(self.0.object(row).await?),
            Err(why @ (Unread::Rows(RowsError::Failed(_)) | Unread::Late(_))) => lane.pending_alone(collection, key, &why).await,
            Err(why) => Err(why.into()),
        }
    }

    fn load(&self, query: LoadQuery) -> Box<dyn Loading> {
        Box::new(Load::new(Arc::clone(&self.0), query))
    }
}

impl Shared {
    fn lane(&self, collection: &Collection) -> &ReadLane {
        &self.lanes[usize::from(collection.lane.0)]
    }

    async fn row(&self, collection: &Arc<Collection>, key: &Key) -> Result<ReadRow, Unread> {
        match self.row_once(collection, key).await {
            Err(Unread::Rows(error)) if error.may_be_outdated() => {
                let now = self.reread(collection, error).await?;
                self.row_once(&now, key).await
            }
            read => read,
        }
    }

    async fn row_once(&self, collection: &Arc<Collection>, key: &Key) -> Result<ReadRow, Unread> {
        let lane = self.lane(collection);
        lane.handle.confirmed().await;
        let pin = lane.backlog.pin();
        let keys = (slice::from_ref(key), &KeyRange::default());
        let rows = self.postgres.rows_by_keys(&lane.row, collection, keys, ONE_ROW).await?;
        Ok(ReadRow { pin, collection: Arc::clone(collection), rows })
    }

    async fn object(&self, ReadRow { pin, collection, rows }: ReadRow) -> Result<ReadObject, Unread> {
        let objects = self.lane(&collection).laid_over(&pin, &collection, rows, ONE_ROW.bytes_max).await?;
        objects.into_iter().next().map(|(_, object)| object).ok_or_else(|| Unread::Changed("the row did not come".to_owned()))
    }

    /// The collection as it is now, if its objects are still named alike.
    async fn reread(&self, collection: &Collection, error: RowsError) -> Result<Arc<Collection>, Unread> {
        let now = self.collections.refresh().await.map_err(RowsError::from)?;
        let key = |of: &Collection| of.key_columns().map(|column| (column.name.clone(), column.key_form.clone())).collect::<Vec<_>>();
        match now.named(&collection.name).filter(|now| key(now) == key(collection)) {
            Some(now) => Ok(Arc::clone(now)),
            None => Err(Unread::Changed(format!("the table has changed ({error}): try again"))),
        }
    }
}

impl ReadLane {
    /// What is known to be in trouble isn't waited for as long.
    fn patience(&self, patience: Duration) -> Duration {
        match *self.handle.state().borrow() {
            LaneState::Retrying { .. } => patience.min(TROUBLED_PATIENCE),
            _ => patience,
        }
    }

    /// The rows as they will be, as many as have no more bytes than these, but at least one. The pin was had before they were read.
    async fn laid_over(
        &self,
        pin: &Pin,
        collection: &Collection,
        Rows { position, defaulted, rows, .. }: Rows,
        bytes_max: u64,
    ) -> Result<Vec<(Key, ReadObject)>, PendingError> {
        let (mut rows, mut objects, mut bytes, mut count) = (rows.into_iter(), Vec::new(), 0, LAID_ROWS.start);
        loop {
            let chunk: Vec<_> = rows.by_ref().take(count).collect();
            if chunk.is_empty() {
                return Ok(objects);
            }
            let keys: Vec<_> = chunk.iter().map(|row| row.key.clone()).collect();
            let pending = self.backlog.pending(pin, collection.id, &keys, position).await?;
            for (row, folds) in chunk.into_iter().zip(pending.folds) {
                let (key, object) = laid(collection, &defaulted, row, &folds);
                bytes += bytes_of(&key, &object);
                if bytes > bytes_max && !objects.is_empty() {
                    return Ok(objects);
                }
                objects.push((key, object));
            }
            count = (count * 2).min(LAID_ROWS.end);
        }
    }

    /// Without Postgres: what waits above the position that is known, over a row of which nothing is.
    async fn pending_alone(&self, collection: &Collection, key: &Key, why: &Unread) -> Result<ReadObject, ReadError> {
        let pin = self.backlog.pin();
        let position = *self.handle.position().borrow();
        let pending = self.backlog.pending(&pin, collection.id, slice::from_ref(key), position).await;
        let folds = pending.map_err(|error| ReadError(error.to_string()))?.folds.pop().unwrap_or_default();
        if folds.is_empty() {
            return Err(ReadError(why.to_string()));
        }
        let Shown { json, unknown } = lay(collection, key, Stored::Unknown, None, &folds);
        Ok(ReadObject { json, pending: true, unknown })
    }
}

/// A row as it will be.
fn laid(collection: &Collection, defaulted: &[String], StoredRow { key, json }: StoredRow, folds: &[Fold]) -> (Key, ReadObject) {
    if folds.is_empty() {
        let object = ReadObject { json: json.map(String::into_bytes), pending: false, unknown: Vec::new() };
        return (key, object);
    }
    let stored = json.as_deref().map_or(Stored::Missing, Stored::Row);
    let Shown { json, unknown } = lay(collection, &key, stored, Some(defaulted), folds);
    (key, ReadObject { json, pending: true, unknown })
}

/// What an object adds to an answer.
fn bytes_of(key: &Key, ReadObject { json, unknown, .. }: &ReadObject) -> u64 {
    let unknown: usize = unknown.iter().map(String::len).sum();
    (key.as_bytes().len() + json.as_ref().map_or(0, Vec::len) + unknown) as u64
}
