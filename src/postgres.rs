//! The Postgres side: connections, catalog, statements, the position row, failed saves, judgement. The only place that knows
//! tokio-postgres.
//!
//! One generation is one transaction, sent as one flight: the position row is compared by the server first and advanced
//! last (P3), every row count is compared with what was sent (P6), and what COMMIT did is read back. Postgres never sees more
//! connections than `lanes` + `postgres.readers` (P9).

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Pool, PoolError, Runtime, Timeouts};
use uuid::Uuid;

use crate::{
    collections::{Collection, Collections},
    failed::{FailedFilter, FailedPage, FailedQuery},
    save::{Key, Sequence},
    settings::PostgresSettings,
};

mod answers;
mod array;
mod careful;
mod catalog;
mod connect;
mod encode;
mod failed_saves;
mod failure;
mod fingerprint;
mod flight;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lane_rows;
mod lease;
mod plan;
mod position;
mod privileges;
mod quote;
mod reading;
mod rows;
mod schema;
mod session;
mod sqlstate;
mod statement_rows;
mod statements;
mod suspect;
mod writer;

pub use careful::{Aside, TakenOut};
pub use connect::UrlError;
pub use failed_saves::{
    FailedSave,
    list::{ClosedFailed, KnownFailed, OpenFailed},
    outcomes::{FailedOutcome, LaneOutcomes, Which},
};
pub use failure::Failure;
pub use lane_rows::{LaneChange, LaneRows, earlier_remedy};
pub use position::PositionRow;
pub use rows::{KeyRange, LaneRow, PageSize, Rows, RowsError, StoredRow, TableSize};
pub use schema::schema_sql;
pub use session::Server;
pub use sqlstate::Action;
pub use statement_rows::StatementRows;
pub use writer::{ApplyError, RowsWritten, Work, Writer, Written};

use self::{lease::Lease, reading::Reading, session::Session, sqlstate::Phase};

/// The way to one Postgres database: a pool for the lanes' writers and one for everything that only reads, so that no number
/// of readers keeps a writer from coming back.
#[derive(Clone, Debug)]
pub struct Postgres {
    writers: Pool,
    readers: Pool,
    session: Arc<Session>,
}

impl Postgres {
    /// Reads the settings; connects to nothing.
    ///
    /// # Errors
    /// [`UrlError`] says what is wrong with `postgres.url`, without showing its password.
    pub fn new(settings: &PostgresSettings, lanes: usize) -> Result<Self, UrlError> {
        let hosts = connect::Hosts::parse(settings)?;
        let session = Arc::new(Session::new(settings));
        let create = settings.connect_timeout * hosts.count();
        let timeouts = Timeouts { wait: Some(session.call_timeout()), create: Some(create), recycle: Some(settings.connect_timeout) };
        let pool = |size: usize| {
            let builder = Pool::builder(hosts.manager()).max_size(size.max(1)).timeouts(timeouts).runtime(Runtime::Tokio1);
            builder.build().expect("a pool with a runtime can be built")
        };
        Ok(Self { writers: pool(lanes), readers: pool(usize::from(settings.readers)), session })
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.writers.status().size + self.readers()
    }

    /// How many of them only read.
    pub fn readers(&self) -> usize {
        self.readers.status().size
    }

    /// Connects and says what kind of server it is.
    ///
    /// # Errors
    /// [`Failure`] if there is no connection.
    pub async fn server(&self) -> Result<Server, Failure> {
        session::server(&*self.reader().await?, &self.session).await
    }

    /// A lane's connection. Checks that the server is one that we work with.
    ///
    /// # Errors
    /// [`Failure`] if there is no connection, or a server that would break the promises (`fsync = off`, read only, too old).
    pub async fn writer(&self, journal: Uuid, lane: &str, owner: Uuid) -> Result<Writer, Failure> {
        let lease = lease(&self.writers).await?;
        let server = session::server(&lease, &self.session).await?;
        server.check_writable(&self.session)?;
        Ok(Writer::new(lease, Arc::clone(&self.session), journal, lane, owner))
    }

    /// Every table, view and whatever else can be named in the schemas of the settings, as of one moment.
    ///
    /// # Errors
    /// [`Failure`] of the connection or a statement.
    pub async fn read_catalog(&self) -> Result<crate::collections::Catalog, Failure> {
        let lease = self.reader().await?;
        let reading = Reading::begin(lease, &self.session).await?;
        let catalog = catalog::read(&reading, self.session.schemas()).await?;
        reading.end().await?;
        Ok(catalog)
    }

    /// Makes what is missing of the schema `forebay`. To be called only by a journal that has never settled a save: for any
    /// other, a missing position row is a reason to halt.
    ///
    /// # Errors
    /// [`Failure`]; without the privilege its remedy names the statements that help.
    pub async fn ensure_schema(&self) -> Result<(), Failure> {
        schema::ensure(self.reader().await?, &self.session).await
    }

    /// Puts the rows of a new layout of lanes in the place of the old ones, in one transaction, unless that has been done.
    ///
    /// # Errors
    /// [`Failure`]: of the connection or a statement, then it may have happened or not; or the rows are older than they were.
    pub async fn change_lanes(&self, change: &LaneChange<'_>) -> Result<LaneRows, Failure> {
        lane_rows::change(self.reader().await?, &self.session, change).await
    }

    /// What the role lacks to write these collections, as `grant` statements; empty if nothing.
    ///
    /// # Errors
    /// [`Failure`] of the connection or a statement.
    pub async fn privileges(&self, collections: &Collections) -> Result<Vec<String>, Failure> {
        let reading = Reading::begin(self.reader().await?, &self.session).await?;
        let missing = privileges::missing(&reading, collections).await?;
        reading.end().await?;
        Ok(missing)
    }

    /// Every failed save of this journal; none where there is no table yet.
    ///
    /// # Errors
    /// [`Failure`] of the connection or a statement.
    pub async fn known_failed(&self, journal: Uuid) -> Result<KnownFailed, Failure> {
        let reading = Reading::begin(self.reader().await?, &self.session).await?;
        match failed_saves::list::known(&reading, journal).await {
            Err(failure) if is_missing(&failure) => Ok(KnownFailed::default()),
            Err(failure) => Err(failure),
            Ok(known) => reading.end().await.map(|()| known),
        }
    }

    /// A page of the failed saves of this journal; none where there is no table yet.
    ///
    /// # Errors
    /// [`Failure`] of the connection or a statement.
    pub async fn list_failed(&self, journal: Uuid, query: &FailedQuery) -> Result<FailedPage, Failure> {
        let reading = Reading::begin(self.reader().await?, &self.session).await?;
        match failed_saves::list::page(&reading, journal, query).await {
            Err(failure) if is_missing(&failure) => Ok(FailedPage::default()),
            Err(failure) => Err(failure),
            Ok(page) => reading.end().await.map(|()| page),
        }
    }

    /// Gives up a chunk of the open failed saves that the filter chooses, but none of `except`: number and collection of each.
    /// Empty: there are no more.
    ///
    /// # Errors
    /// [`Failure`]; after a lost connection they may be closed.
    pub async fn discard_failed(
        &self,
        journal: Uuid,
        filter: &FailedFilter,
        except: &[Sequence],
        reason: &str,
    ) -> Result<Vec<(Sequence, String)>, Failure> {
        match failed_saves::care::discard(self.reader().await?, &self.session, journal, filter, except, reason).await {
            Err(failure) if is_missing(&failure) => Ok(Vec::new()),
            discarded => discarded,
        }
    }

    /// What became of saves of a lane, and up to where it can be told: one snapshot. Nothing while the lane is not `owner`'s.
    ///
    /// # Errors
    /// [`Failure`] of the connection or a statement.
    pub async fn outcomes(&self, journal: Uuid, lane: (&str, Uuid), which: Which<'_>) -> Result<LaneOutcomes, Failure> {
        let reading = Reading::begin(self.reader().await?, &self.session).await?;
        let outcomes = failed_saves::outcomes::read(&reading, journal, lane, which).await?;
        reading.end().await.map(|()| outcomes)
    }

    /// Removes a chunk of the closed failed saves beyond the newest `kept` by sequence, and notes the horizon with them. Those
    /// above `told` stay: somebody has to be told of them. Gives their numbers. Empty: there are no more.
    ///
    /// # Errors
    /// [`Failure`]; after a lost connection they may have been removed.
    pub async fn forget_failed(&self, journal: Uuid, kept: u64, told: Sequence) -> Result<Vec<Sequence>, Failure> {
        match failed_saves::care::forget(self.reader().await?, &self.session, journal, kept, told).await {
            Err(failure) if is_missing(&failure) => Ok(Vec::new()),
            forgotten => forgotten,
        }
    }

    /// The rows of these keys and what belongs to them, as of one moment.
    ///
    /// # Errors
    /// [`RowsError`]
    pub async fn rows_by_keys(
        &self,
        lane: &LaneRow,
        collection: &Collection,
        keys: (&[Key], &KeyRange),
        size: PageSize,
    ) -> Result<Rows, RowsError> {
        rows::by_keys(self.reader().await?, &self.session, lane, collection, keys, size).await
    }

    /// The next rows of a range and what belongs to them, as of one moment.
    ///
    /// # Errors
    /// [`RowsError`]
    pub async fn rows_by_range(
        &self,
        lane: &LaneRow,
        collection: &Collection,
        range: &KeyRange,
        size: PageSize,
    ) -> Result<Rows, RowsError> {
        rows::by_range(self.reader().await?, &self.session, lane, collection, range, size).await
    }

    /// How large a collection's table is.
    ///
    /// # Errors
    /// [`Failure`] of the connection or the statement.
    pub async fn table_size(&self, collection: &Collection) -> Result<TableSize, Failure> {
        rows::size(self.reader().await?, &self.session, collection).await
    }

    async fn reader(&self) -> Result<Lease, Failure> {
        lease(&self.readers).await
    }
}

/// Nothing has been made in this database yet.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure.sqlstate.as_deref(), Some("42P01" | "3F000"))
}

async fn lease(pool: &Pool) -> Result<Lease, Failure> {
    use deadpool_postgres::TimeoutType;
    match pool.get().await {
        Ok(object) => Ok(Lease::new(object)),
        Err(PoolError::Backend(error)) => Err(Failure::from_error(&error, Phase::BeforeCommit)),
        Err(PoolError::Timeout(TimeoutType::Wait)) => Err(Failure::local(Action::Retry, "every connection of the pool is in use")),
        Err(PoolError::Timeout(_)) => {
            let limit = pool.timeouts().create.unwrap_or(Duration::ZERO);
            Err(Failure::timed_out(Phase::BeforeCommit, limit, "connect to Postgres"))
        }
        Err(error) => Err(Failure::local(Action::Reconnect, error.to_string())),
    }
}

#[cfg(test)]
mod tests;
