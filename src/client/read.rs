//! Reading: one object as it will be, or a whole collection, as a server does at start that keeps its state in memory.

use std::{mem, time::Duration, vec};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tonic::transport::Channel;

use super::{Client, Error, resuming::Resuming, retry::Repeat, with_deadline};
use crate::proto::{self, save_service_client::SaveServiceClient};

/// Between two pages: the daemon's own limit for a statement is 30 s.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// An object as it will be when all that is pending is in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The row as a JSON object, column to value, without the columns that are unknown. Pending values come as they were sent,
    /// stored ones as Postgres prints them.
    pub json: Bytes,
    /// Whether part of it is not in Postgres yet.
    pub pending: bool,
    /// Columns whose value can't be told: a pending save doesn't name them and Postgres is away, or they get a default that it
    /// has not computed yet.
    pub unknown_columns: Vec<String>,
}

/// One object of a [`Load`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedRow {
    /// Its key.
    pub key: Vec<String>,
    /// The object; `None` if there is none (any more).
    pub object: Option<Object>,
}

impl From<proto::LoadedRow> for LoadedRow {
    fn from(proto::LoadedRow { key, json, pending, unknown_columns }: proto::LoadedRow) -> Self {
        Self { key, object: json.map(|json| Object { json: json.into(), pending, unknown_columns }) }
    }
}

/// What to load, and how.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The first key; empty for the first there is. Both ends are part of the range, in the order of Postgres.
    pub from_key: Vec<String>,
    /// The last key; empty for the last there is.
    pub to_key: Vec<String>,
    /// Rows a page: 0 for 1,000, at most 10,000.
    pub page_size: u16,
    /// Where an earlier load of the same range stopped, see [`Load::resume_token`]; empty: from the beginning.
    pub resume_token: String,
}

/// How far a [`Load`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that came by key.
    pub rows_loaded: u64,
    /// How many rows the whole table has, as Postgres estimated it last; 0 if it never did.
    pub rows_estimated: u64,
}

/// A collection being read, a page at a time.
#[derive(Debug)]
pub struct Load {
    pages: Resuming<proto::LoadResponse>,
    /// Its token is that of the page last read.
    request: proto::LoadRequest,
    rows: vec::IntoIter<proto::LoadedRow>,
    /// The token of the page before it.
    token_before: String,
    progress: Progress,
    /// Rows of the calls that broke.
    rows_before: u64,
    ended: bool,
}

impl Client {
    /// Reads one object: what is pending laid over the stored row, never older than what was acknowledged before the call.
    /// `None`: there is no such object, or it will be deleted.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if nothing of it is pending and Postgres is away; else see [`Error`].
    pub async fn get<K: Into<String>>(
        &self,
        collection: impl Into<String>,
        key: impl IntoIterator<Item = K>,
    ) -> Result<Option<Object>, Error> {
        let request = proto::GetRequest { collection: collection.into(), key: key.into_iter().map(Into::into).collect() };
        let proto::GetResponse { found, json, pending, unknown_columns } = self
            .call(Repeat::Always, |mut stub: SaveServiceClient<Channel>, deadline| {
                let request = with_deadline(request.clone(), deadline);
                async move { stub.get(request).await }
            })
            .await?;
        Ok(found.then(|| Object { json: json.into(), pending, unknown_columns }))
    }

    /// Reads the objects of a collection: first those with something pending, then all by key. An object may come twice: the
    /// later one counts.
    ///
    /// ```no_run
    /// # async fn example(client: &forebay::client::Client) -> Result<(), forebay::client::Error> {
    /// use std::collections::HashMap;
    /// use forebay::client::LoadOptions;
    ///
    /// let (mut players, mut load) = (HashMap::new(), client.load("players", LoadOptions::default()));
    /// while let Some(row) = load.next().await? {
    ///     match row.object {
    ///         Some(object) => drop(players.insert(row.key, object.json)),
    ///         None => drop(players.remove(&row.key)),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(&self, collection: impl Into<String>, options: LoadOptions) -> Load {
        let LoadOptions { from_key, to_key, page_size, resume_token } = options;
        let token_before = resume_token.clone();
        let request = proto::LoadRequest { collection: collection.into(), from_key, to_key, page_size: page_size.into(), resume_token };
        Load {
            pages: Resuming::new(self.clone(), Some(PAGE_TIMEOUT)),
            request,
            rows: vec::IntoIter::default(),
            token_before,
            progress: Progress::default(),
            rows_before: 0,
            ended: false,
        }
    }
}

impl Load {
    /// The next row; `None` after the last. Goes on by itself after restarts and broken connections. May be given up and called
    /// again without a loss.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such collection, or its rows have no keys; what the last attempt ended with, if the
    /// daemon or Postgres stays away for longer than the policy tries. Called again, it tries again.
    pub async fn next(&mut self) -> Result<Option<LoadedRow>, Error> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row.into()));
            }
            if self.ended {
                return Ok(None);
            }
            let request = self.request.clone();
            match self.pages.next(|mut stub| async move { stub.load(request).await }).await {
                Ok(Some(page)) => self.take(page),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.rows_before = self.progress.rows_loaded;
                    self.pages.pause(error).await?;
                }
            }
        }
    }

    /// As a stream, which ends with the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<LoadedRow, Error>> + Send {
        stream::try_unfold(self, |mut load| async move { Ok(load.next().await?.map(|row| (row, load))) })
    }

    /// How far it is, in whole pages.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Where a later load of the same range can go on without missing a row that has not been returned yet.
    pub fn resume_token(&self) -> &str {
        if self.rows.len() == 0 { &self.request.resume_token } else { &self.token_before }
    }

    fn take(&mut self, page: proto::LoadResponse) {
        self.token_before = mem::replace(&mut self.request.resume_token, page.resume_token);
        self.rows = page.rows.into_iter();
        self.progress = Progress { rows_loaded: self.rows_before + page.rows_loaded, rows_estimated: page.rows_estimated };
    }
}
