//! Saves, one by one and in batches.

use bytes::Bytes;
use prost::Message;
use tonic::transport::Channel;

use super::{Client, Error, Failure, Ticket, TicketState, retry::Repeat, with_deadline};
use crate::proto::{self, save_service_client::SaveServiceClient};

/// One save: sets columns of an object, deletes it, or appends a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save(proto::Save);

impl Save {
    /// Sets the columns that `json` names, a JSON object; the others keep their values, on a new row their defaults.
    ///
    /// The key is the parts of the primary key as text, in primary-key order: `["42"]`, or `[] as [&str; 0]` when the body
    /// holds the key columns.
    pub fn set<K: Into<String>>(collection: impl Into<String>, key: impl IntoIterator<Item = K>, json: impl Into<Bytes>) -> Self {
        Self::new(collection, key, proto::save::Change::Json(json.into()))
    }

    /// Deletes the object, if there is one.
    pub fn delete<K: Into<String>>(collection: impl Into<String>, key: impl IntoIterator<Item = K>) -> Self {
        Self::new(collection, key, proto::save::Change::Delete(proto::Delete {}))
    }

    /// Adds a row to an append collection.
    pub fn append(collection: impl Into<String>, json: impl Into<Bytes>) -> Self {
        Self::new(collection, [] as [&str; 0], proto::save::Change::Json(json.into()))
    }

    /// Members of the body that are added to their columns instead of set.
    #[must_use]
    pub fn adding<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.0.add.extend(columns.into_iter().map(Into::into));
        self
    }

    fn new<K: Into<String>>(collection: impl Into<String>, key: impl IntoIterator<Item = K>, change: proto::save::Change) -> Self {
        let key = key.into_iter().map(Into::into).collect();
        Self(proto::Save { collection: collection.into(), key, add: Vec::new(), change: Some(change) })
    }

    /// The collection.
    pub fn collection(&self) -> &str {
        &self.0.collection
    }

    /// The parts of the key.
    pub fn key(&self) -> &[String] {
        &self.0.key
    }

    pub(super) fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    pub(super) fn into_proto(self) -> proto::Save {
        self.0
    }
}

impl From<proto::Save> for Save {
    fn from(save: proto::Save) -> Self {
        Self(save)
    }
}

/// When a save is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the journal's disk: it survives a killed process and a power cut, and will be in Postgres.
    #[default]
    Synced,
    /// When it has its outcome in Postgres.
    Persisted,
}

impl Durability {
    pub(super) fn to_proto(self) -> i32 {
        match self {
            Self::Synced => proto::Durability::Synced,
            Self::Persisted => proto::Durability::Persisted,
        }
        .into()
    }
}

/// How to save.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// When to answer. Default: [`Durability::Synced`].
    pub durability: Durability,
    /// Makes the call count once: the daemon recognises the id, so that what may have been accepted is repeated without harm.
    /// Draw a new one (a UUID) for every call. It belongs to the collection of the (first) save; the daemon remembers it for
    /// `request_ids.retention`. Required where saves that append or add are to be persisted. Empty: none.
    pub request_id: String,
    /// The endpoint of the daemon's settings (`endpoints.NAME`) that is told the outcome, by a webhook. Empty: none.
    pub callback: String,
    /// Of a batch: committed or failed as one, in one transaction. (Accepted as one it is in any case.)
    pub atomic: bool,
}

/// The answer to a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Names the save.
    pub ticket: Ticket,
    /// Pending if synced; also if it was to be persisted and the call's deadline came first: go on with
    /// [`Client::await_ticket`].
    pub state: TicketState,
    /// Of a batch: why this save failed. (A single one that fails is [`Error::Failed`].)
    pub failure: Option<Failure>,
    /// Persisted without effect: the row had a version as high.
    pub superseded: bool,
    /// The call had been accepted before, under its request id.
    pub deduplicated: bool,
}

impl Client {
    /// Saves one object: returns when the save is on the journal's disk.
    ///
    /// Of two calls in flight at once either may come first: await the first, or use a [`SaveStream`](super::SaveStream).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn save(&self, save: Save) -> Result<Ticket, Error> {
        Ok(self.save_with(save, SaveOptions::default()).await?.ticket)
    }

    /// Saves one object: once, until it is in Postgres, or with a callback, as the options say.
    ///
    /// ```no_run
    /// # async fn example(client: &forebay::client::Client) -> Result<(), forebay::client::Error> {
    /// use forebay::client::{Durability, Error, Save, SaveOptions};
    ///
    /// let order = Save::set("orders", ["7"], r#"{"paid":true}"#);
    /// let options = SaveOptions { durability: Durability::Persisted, ..SaveOptions::default() };
    /// match client.save_with(order, options).await {
    ///     Ok(saved) => println!("{}: {:?}", saved.ticket, saved.state),
    ///     Err(Error::Failed(failed)) => println!("Postgres would not take it: {}", failed.failure),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Failed`] if it was to be persisted and Postgres would not take it; else see [`Error`].
    pub async fn save_with(&self, save: Save, options: SaveOptions) -> Result<Saved, Error> {
        let repeat = self.repeat(&options);
        let SaveOptions { durability, request_id, callback, atomic: _ } = options;
        let request = proto::SaveRequest { save: Some(save.0), durability: durability.to_proto(), request_id, callback };
        self.check_size(request.encoded_len())?;
        let answer = self
            .call(repeat, |mut stub: SaveServiceClient<Channel>, deadline| {
                let request = with_deadline(request.clone(), deadline);
                async move { stub.save(request).await }
            })
            .await?;
        let proto::SaveResponse { ticket, state, deduplicated, superseded } = answer;
        Ok(Saved { ticket: ticket.into(), state: TicketState::of(state), failure: None, superseded, deduplicated })
    }

    /// Saves many objects in order; accepted all or none. `atomic`: also committed or failed as one.
    ///
    /// Returns a ticket for each, in order.
    ///
    /// # Errors
    /// See [`Error`]; a refusal lists every violation.
    pub async fn save_batch(&self, saves: impl IntoIterator<Item = Save>, atomic: bool) -> Result<Vec<Ticket>, Error> {
        let saved = self.save_batch_with(saves, SaveOptions { atomic, ..SaveOptions::default() }).await?;
        Ok(saved.into_iter().map(|saved| saved.ticket).collect())
    }

    /// Saves many objects in order, as the options say. Returns an answer for each, in order.
    ///
    /// # Errors
    /// See [`Error`]; a refusal lists every violation. A save that failed is told in its answer.
    pub async fn save_batch_with(&self, saves: impl IntoIterator<Item = Save>, options: SaveOptions) -> Result<Vec<Saved>, Error> {
        let repeat = self.repeat(&options);
        let SaveOptions { durability, request_id, callback, atomic } = options;
        let saves = saves.into_iter().map(Save::into_proto).collect();
        let batch = proto::SaveBatchRequest { saves, atomic, durability: durability.to_proto(), request_id, callback };
        self.check_size(batch.encoded_len())?;
        let answer = self
            .call(repeat, |mut stub: SaveServiceClient<Channel>, deadline| {
                let request = with_deadline(batch.clone(), deadline);
                async move { stub.save_batch(request).await }
            })
            .await?;
        let deduplicated = answer.deduplicated;
        let saved = |proto::SaveResult { ticket, state, failure, superseded }| Saved {
            ticket: Ticket::from(ticket),
            state: TicketState::of(state),
            failure: failure.map(Failure::from),
            superseded,
            deduplicated,
        };
        Ok(answer.results.into_iter().map(saved).collect())
    }

    /// What the daemon recognises may be repeated.
    fn repeat(&self, options: &SaveOptions) -> Repeat {
        if options.request_id.is_empty() { self.shared.retry.repeat_saves() } else { Repeat::Always }
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        let max = self.shared.message_bytes_max;
        if bytes <= max { Ok(()) } else { Err(Error::too_large(bytes, max)) }
    }
}
