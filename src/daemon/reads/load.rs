//! A load: first what waits when it begins, then page by page what Postgres holds, each laid over as a single row is.
//!
//! Nothing is held between pages: what waited first and is in Postgres meanwhile comes by its key. So a position that is lower
//! than one that was relied on (a database that went back in time) ends the load.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Shared, Unread};
use crate::{
    collections::Collection,
    drain::Cursor,
    grpc::{LoadPage, LoadQuery, Loading, ReadError, ReadObject},
    postgres::{KeyRange, PageSize, Rows, RowsError, TableSize},
    save::{Key, Sequence},
};

/// Bytes of a page's rows, as Postgres has them and as they will be; one may be larger.
const PAGE_BYTES: u64 = 1 << 20;
/// So many times as many rows are asked for as fill a page on average.
const ROWS_SLACK: u64 = 4;
/// Keys that are taken out of the backlog at a time: it is looked through for them anew each time.
const KEYS_MAX: usize = 16_384;
/// A lane that is paused, or halted, since before its first contact tells nothing of what Postgres holds.
const MET_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Load {
    reads: Arc<Shared>,
    collection: Arc<Collection>,
    range: KeyRange,
    rows_max: u64,
    size: TableSize,
    stage: Stage,
    /// The highest position that was relied on.
    least: Sequence,
    rows_loaded: u64,
    /// About so many rows as they will be fill a page, as far as the last pages tell.
    rows_fitting: u64,
}

enum Stage {
    Begin,
    /// What waited at the beginning.
    Waiting {
        cursor: Cursor,
        keys: VecDeque<Key>,
    },
    ByKey,
    End,
}

impl Load {
    pub(super) fn new(reads: Arc<Shared>, LoadQuery { collection, from, to, after, rows_max }: LoadQuery) -> Self {
        Self {
            reads,
            collection,
            range: KeyRange { from, to, after },
            rows_max,
            size: TableSize::default(),
            stage: Stage::Begin,
            least: Sequence::ZERO,
            rows_loaded: 0,
            rows_fitting: u64::MAX,
        }
    }

    async fn page(&mut self) -> Result<Option<Vec<(Key, ReadObject)>>, Unread> {
        loop {
            match &mut self.stage {
                Stage::Begin => self.begin().await?,
                Stage::Waiting { cursor, keys } => {
                    if keys.is_empty() {
                        let backlog = self.reads.lane(&self.collection).handle.backlog();
                        keys.extend(backlog.next_keys(cursor, self.collection.id, KEYS_MAX).await);
                        self.least = self.least.max(cursor.settled());
                    }
                    match keys.is_empty() {
                        true => self.stage = Stage::ByKey,
                        false => {
                            let objects = self.waiting().await?;
                            if !objects.is_empty() {
                                return Ok(Some(objects));
                            }
                        }
                    }
                }
                Stage::ByKey => {
                    let objects = self.by_key().await?;
                    return Ok(Some(objects).filter(|objects| !objects.is_empty()));
                }
                Stage::End => return Ok(None),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Unread> {
        let lane = self.reads.lane(&self.collection);
        timeout(MET_PATIENCE, lane.handle.confirmed()).await?;
        // Before the generation in the making may be ended for us: without Postgres that would be for nothing.
        self.size = self.reads.postgres.table_size(&self.collection).await.map_err(RowsError::from)?;
        self.stage = Stage::Waiting { cursor: lane.handle.backlog().cut(), keys: VecDeque::new() };
        Ok(())
    }

    /// A page of what waited.
    async fn waiting(&mut self) -> Result<Vec<(Key, ReadObject)>, Unread> {
        let size = self.page_size();
        let Stage::Waiting { keys, .. } = &mut self.stage else { return Ok(Vec::new()) };
        let count = keys.len().min(usize::try_from(size.rows_max).unwrap_or(usize::MAX));
        let range = KeyRange { after: None, ..self.range.clone() };
        let asked = &keys.make_contiguous()[..count];
        let lane = self.reads.lane(&self.collection);
        let page = self.reads.pages.acquire().await.expect("nobody closes it");
        let pin = lane.backlog.pin();
        let rows = self.reads.postgres.rows_by_keys(&lane.row, &self.collection, (asked, &range), size).await?;
        drop(page);
        check(&mut self.least, &rows)?;
        let (found, mut done) = (rows.rows.len(), rows.keys_done);
        let objects = lane.laid_over(&pin, &self.collection, rows, PAGE_BYTES).await?;
        if let Some((last, _)) = objects.last().filter(|_| objects.len() < found) {
            done = asked.iter().position(|key| key == last).map_or(done, |place| place + 1);
        }
        keys.drain(..done);
        self.fitted(objects.len(), found);
        Ok(objects)
    }

    /// The next page by key.
    async fn by_key(&mut self) -> Result<Vec<(Key, ReadObject)>, Unread> {
        let size = self.page_size();
        let lane = self.reads.lane(&self.collection);
        let page = self.reads.pages.acquire().await.expect("nobody closes it");
        let pin = lane.backlog.pin();
        let rows = self.reads.postgres.rows_by_range(&lane.row, &self.collection, &self.range, size).await?;
        drop(page);
        check(&mut self.least, &rows)?;
        let (found, more) = (rows.rows.len(), rows.more);
        let objects = lane.laid_over(&pin, &self.collection, rows, PAGE_BYTES).await?;
        self.rows_loaded += objects.len() as u64;
        if let Some((last, _)) = objects.last() {
            self.range.after = Some(last.clone());
        }
        if !more && objects.len() == found {
            self.stage = Stage::End;
        }
        self.fitted(objects.len(), found);
        Ok(objects)
    }

    /// So many of the rows found went into a page.
    fn fitted(&mut self, shown: usize, found: usize) {
        self.rows_fitting = if shown < found { shown as u64 } else { self.rows_fitting.saturating_mul(ROWS_SLACK) };
    }

    /// No more rows are asked for than about fit: Postgres would print them for nothing.
    fn page_size(&self) -> PageSize {
        let average = self.size.bytes.checked_div(self.size.rows).unwrap_or_default().max(1);
        let stored = if self.size.rows == 0 { u64::MAX } else { (PAGE_BYTES * ROWS_SLACK / average).max(1) };
        let rows_max = self.rows_max.min(stored).min(self.rows_fitting.saturating_mul(ROWS_SLACK));
        PageSize { rows_max, bytes_max: PAGE_BYTES }
    }
}

/// What came before relied on Postgres up to `least`.
fn check(least: &mut Sequence, rows: &Rows) -> Result<(), Unread> {
    if rows.position < *least {
        let (at, before) = (rows.position, *least);
        return Err(Unread::Changed(format!(
            "postgres went back in time, from {before} to {at}, and is repaired: go on with the resume_token"
        )));
    }
    *least = rows.position;
    Ok(())
}

#[tonic::async_trait]
impl Loading for Load {
    async fn next(&mut self) -> Result<Option<LoadPage>, ReadError> {
        let page = match self.page().await {
            Err(Unread::Rows(error)) if error.may_be_outdated() => {
                self.collection = self.reads.reread(&self.collection, error).await?;
                self.page().await
            }
            page => page,
        };
        Ok(page?.map(|objects| LoadPage {
            objects,
            after: self.range.after.clone(),
            rows_loaded: self.rows_loaded,
            rows_estimated: self.size.rows,
        }))
    }
}
