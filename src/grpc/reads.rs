//! What is asked of the daemon to read objects, and `Get`.

use std::{sync::Arc, time::Duration};

use tonic::Status;

use super::{deadline::Deadline, door::Door, errors, events::OpenCall, events::Rpc, validate};
use crate::{
    collections::Collection,
    proto::{GetRequest, GetResponse},
    save::Key,
};

/// Objects as they will be: what is pending laid over what is stored. `daemon` implements it.
#[tonic::async_trait]
pub trait Reads: Send + Sync + 'static {
    /// One object; never older than what was offered to its lane before the call. Without an answer of Postgres within
    /// `patience`, what is pending alone.
    ///
    /// # Errors
    /// [`ReadError`]
    async fn get(&self, collection: &Arc<Collection>, key: &Key, patience: Duration) -> Result<ReadObject, ReadError>;

    /// Begins to read many; nothing is read before the first page is asked for.
    fn load(&self, query: LoadQuery) -> Box<dyn Loading>;
}

/// A load under way. Holds nothing of Postgres between two pages.
#[tonic::async_trait]
pub trait Loading: Send {
    /// The next page; `None`: that was all.
    ///
    /// # Errors
    /// [`ReadError`]; what came before stays true.
    async fn next(&mut self) -> Result<Option<LoadPage>, ReadError>;
}

/// An object as it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadObject {
    /// The row as JSON; `None`: there is none.
    pub json: Option<Vec<u8>>,
    /// Something of it is not in Postgres yet.
    pub pending: bool,
    /// Columns whose value can't be told.
    pub unknown: Vec<String>,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadQuery {
    /// The collection.
    pub collection: Arc<Collection>,
    /// The first key of the range, if it has one.
    pub from: Option<Key>,
    /// The last, too.
    pub to: Option<Key>,
    /// By key, only what comes after this one.
    pub after: Option<Key>,
    /// Rows of a page, at the most.
    pub rows_max: u64,
}

/// Some of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPage {
    /// The objects.
    pub objects: Vec<(Key, ReadObject)>,
    /// By key, all up to here have come.
    pub after: Option<Key>,
    /// How many have come by key.
    pub rows_loaded: u64,
    /// How many rows the table has, as far as Postgres knows.
    pub rows_estimated: u64,
}

/// Why nothing can be told. `Display` is a sentence for the caller, who may try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// A `Get` waits no longer for Postgres, whatever its deadline.
const PATIENCE_MAX: Duration = Duration::from_secs(5);
const NOT_READ: &str = "the deadline came before the object was read";

impl Door {
    pub(super) async fn get(&self, GetRequest { collection, key }: GetRequest, deadline: Deadline) -> Result<GetResponse, Status> {
        let _call = OpenCall::begin(&self.events, Rpc::Get);
        self.check_phase()?;
        let _permit = self.limits.calls_in_flight.permit(1).map_err(errors::limit_reached)?;
        let (collection, mut keys) = self.locate(&collection, &[("key", &key)]).await?;
        let key = keys.pop().expect("as many keys as were asked for");
        let read = tokio::select! {
            read = self.reads.get(&collection, &key, deadline.patience(PATIENCE_MAX)) => read,
            () = self.stop.cancelled() => return Err(errors::stopping()),
            () = deadline.passed() => return Err(errors::deadline(NOT_READ)),
        };
        let ReadObject { json, pending, unknown } = read.map_err(|error| errors::postgres_unavailable(error.to_string()))?;
        check_size(&key, json.as_deref())?;
        Ok(GetResponse { found: json.is_some(), json: json.unwrap_or_default(), pending, unknown_columns: unknown })
    }

    /// The collection of this name and keys of it, each under the name of its field.
    pub(super) async fn locate(&self, name: &str, keys: &[(&str, &[String])]) -> Result<(Arc<Collection>, Vec<Key>), Status> {
        let located = validate::locate(name, keys, &self.rules(&self.catalog.now()));
        let located = match located {
            Err(findings) if findings.unknown_name => validate::locate(name, keys, &self.rules(&*self.catalog.read_again().await)),
            located => located,
        };
        located.map_err(|findings| errors::invalid_fields(findings.violations))
    }
}

/// Refuses a row that no answer can hold: tonic would, without a reason.
pub(super) fn check_size(key: &Key, json: Option<&[u8]>) -> Result<(), Status> {
    /// What every answer may have, less what comes beside the row.
    const ROW_BYTES_MAX: usize = (8 << 20) - (128 << 10);
    match json.map_or(0, <[u8]>::len) {
        bytes if bytes > ROW_BYTES_MAX => Err(errors::row_too_large(&key.parts().collect::<Vec<_>>().join(", "), bytes, ROW_BYTES_MAX)),
        _ => Ok(()),
    }
}
