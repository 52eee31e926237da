//! What a caller hands in, and what it gets for it.

use std::fmt;

use bytes::Bytes;

use crate::proto;

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

    pub(super) fn into_proto(self) -> proto::Save {
        self.0
    }
}

/// Names an accepted save. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(String);

impl Ticket {
    pub(super) fn new(ticket: String) -> Self {
        Self(ticket)
    }

    /// As the daemon gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<proto::Save> for Save {
    fn from(save: proto::Save) -> Self {
        Self(save)
    }
}
