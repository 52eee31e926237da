//! Postgres as far as folding can show, for tests: what saves do one by one, and what a generation does.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{Fold, Generation};
use crate::save::{Body, Change, CollectionId, Key, LaneId, Save};

pub(crate) const COLUMNS: u16 = 5;
pub(crate) const ROWS: CollectionId = CollectionId(0);
pub(crate) const LOG: CollectionId = CollectionId(1);

pub(crate) type Row = BTreeMap<u16, String>;

/// Rows by key, columns with defaults, and a table that only grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<Key, Row>,
    pub(crate) log: Vec<Row>,
}

fn defaults() -> Row {
    (0..COLUMNS).map(|column| (column, format!("\"default {column}\""))).collect()
}

fn values(body: &Body) -> Row {
    let column = |name: &str| name.strip_prefix('c')?.parse().ok();
    body.members().into_iter().filter_map(|member| Some((column(&member.name)?, member.value.to_owned()))).collect()
}

impl Model {
    pub(crate) fn execute(&mut self, save: &Save) {
        match &save.change {
            Change::Set(body) => self.rows.entry(save.key.clone()).or_insert_with(defaults).extend(values(body)),
            Change::Delete => drop(self.rows.remove(&save.key)),
            Change::Append(body) => {
                self.log.push(defaults().into_iter().chain(values(body)).collect());
            }
        }
    }

    pub(crate) fn apply(&mut self, generation: &Generation) {
        for fold in generation.collections.values() {
            for (key, object) in &fold.objects {
                match &object.fold {
                    Fold::Set { columns, body } => {
                        let named = values(body).into_iter().filter(|(column, _)| columns.contains(*column));
                        self.rows.entry(key.clone()).or_insert_with(defaults).extend(named);
                    }
                    Fold::Replace { body, .. } => {
                        let fresh = defaults().into_iter().chain(values(body)).collect();
                        self.rows.insert(key.clone(), fresh);
                    }
                    Fold::Delete => drop(self.rows.remove(key)),
                }
            }
            self.log.extend(fold.appended.iter().map(|row| defaults().into_iter().chain(values(&row.body)).collect::<Row>()));
        }
    }
}

pub(crate) fn save(key: u8, collection: CollectionId, change: Change) -> Save {
    let columns = change.body().map(|body| values(body).keys().copied().collect()).unwrap_or_default();
    let key = if collection == LOG { Key::none() } else { Key::from_parts([key.to_string().as_str()]) };
    let accepted_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    Save { lane: LaneId(0), collection, key, change, columns, batch_left: 0, origin: None, accepted_at, retries: None }
}
