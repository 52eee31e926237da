//! Postgres as far as folding can show, for tests: what saves do one by one, and what a generation does.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{Fold, Generation, Guard, Object};
use crate::save::{Accepted, Added, Body, Change, CollectionId, Key, LaneId, NumberForm, Save, Sequence};

pub(crate) const COLUMNS: u16 = 5;
/// From here on columns are numbers.
pub(crate) const NUMBERS: u16 = 3;
/// Where versioned saves have their version.
pub(crate) const VERSION: u16 = 2;
pub(crate) const ROWS: CollectionId = CollectionId(0);
pub(crate) const LOG: CollectionId = CollectionId(1);

pub(crate) type Row = BTreeMap<u16, String>;

/// Rows by key, columns with defaults, and a table that only grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<Key, Row>,
    pub(crate) log: Vec<Row>,
}

/// The fourth column is a plain numeric, the fifth a numeric(6,2).
pub(crate) fn form(column: u16) -> Option<NumberForm> {
    match column {
        3 => Some(NumberForm::Unbounded),
        4 => Some(NumberForm::Numeric { precision: 6, scale: 2 }),
        _ => None,
    }
}

fn defaults() -> Row {
    let default = |column| match column {
        3 => "7.00".to_owned(),
        4 => "null".to_owned(),
        _ => format!("\"default {column}\""),
    };
    (0..COLUMNS).map(|column| (column, default(column))).collect()
}

fn values(body: &Body) -> Vec<(u16, String)> {
    let column = |name: &str| name.strip_prefix('c')?.parse().ok();
    body.members().into_iter().filter_map(|member| Some((column(&member.name)?, held(column(&member.name)?, member.value)))).collect()
}

/// A value as its column holds it: numbers in hundredths of a hundredth, in the last column rounded to hundredths.
fn held(column: u16, json: &str) -> String {
    match units(json).filter(|_| column >= NUMBERS) {
        None => json.to_owned(),
        Some(units) if column == 4 => shown((units.abs() + 50) / 100 * 100 * units.signum()),
        Some(units) => shown(units),
    }
}

fn units(json: &str) -> Option<i64> {
    let text = json.trim_matches('"');
    let (whole, behind) = text.trim_start_matches('-').split_once('.').unwrap_or((text.trim_start_matches('-'), ""));
    let units = whole.parse::<i64>().ok()? * 10_000 + format!("{behind:0<4}").parse::<i64>().ok()?;
    Some(if text.starts_with('-') { -units } else { units })
}

fn shown(units: i64) -> String {
    let sign = if units < 0 { "-" } else { "" };
    format!("{sign}{}.{:04}", units.abs() / 10_000, units.abs() % 10_000)
}

/// `coalesce(column, 0) + amount`, where what is no number stays what it is.
fn plus(stored: &str, amount: &str) -> String {
    match (stored, units(stored)) {
        ("null", _) => amount.to_owned(),
        (_, None) => stored.to_owned(),
        (_, Some(stored)) => shown(stored + units(amount).expect("an amount")),
    }
}

/// Which saves of a generation are told as superseded, by those that are `stale` when they are executed one by one: all but
/// those that a later save hides which is not.
pub(crate) fn superseded(saves: &[Accepted], stale: &[Sequence]) -> Vec<Sequence> {
    let told = |n: usize| stale.contains(&saves[n].sequence) && (is_stale_for_certain(saves, n) || !is_hidden(saves, n, stale));
    (0..saves.len()).filter(|&n| told(n)).map(|n| saves[n].sequence).collect()
}

fn is_same_object(a: &Save, b: &Save) -> bool {
    a.collection == b.collection && a.key == b.key
}

/// Whether an earlier save has a version as high, with no delete and no save without a version between the two.
fn is_stale_for_certain(saves: &[Accepted], n: usize) -> bool {
    let earlier = saves[..n].iter().rev().map(|accepted| &accepted.save).filter(|earlier| is_same_object(earlier, &saves[n].save));
    earlier.map_while(|earlier| earlier.version).any(|version| Some(version) >= saves[n].save.version)
}

/// Whether it is deleted later; or a later save that has an effect adds nothing, and names every column of all from here on that
/// may have had one, each with its version.
fn is_hidden(saves: &[Accepted], n: usize, stale: &[Sequence]) -> bool {
    let (mut columns, mut highest) = (saves[n].save.columns.clone(), saves[n].save.version);
    for Accepted { sequence, save } in saves[n + 1..].iter().filter(|later| is_same_object(&later.save, &saves[n].save)) {
        match (&save.change, save.version) {
            (Change::Delete, _) => return true,
            // What follows is laid over this one, and this one over nothing.
            (_, None) => highest = None,
            (_, version) if highest.is_none() || version <= highest => {}
            _ if save.adds.is_empty() && save.columns.covers(&columns) && !stale.contains(sequence) => return true,
            (_, version) => {
                columns.extend(&save.columns);
                highest = version;
            }
        }
    }
    false
}

impl Model {
    /// Gives whether the save was stale.
    pub(crate) fn execute(&mut self, save: &Save) -> bool {
        let stale = matches!(save.change, Change::Set(_)) && self.is_stale(&save.key, save.version);
        match &save.change {
            Change::Set(_) if stale => {}
            Change::Set(body) => self.set(&save.key, body, save.adds.len()),
            Change::Delete => drop(self.rows.remove(&save.key)),
            Change::Append(body) => {
                self.log.push(defaults().into_iter().chain(values(body)).collect());
            }
        }
        stale
    }

    /// Whether the row has a version as high as this. The version is the third column; what is no number there is none.
    fn is_stale(&self, key: &Key, version: Option<i64>) -> bool {
        let stored = self.rows.get(key).and_then(|row| row[&VERSION].parse::<i64>().ok());
        version.is_some_and(|version| stored.is_some_and(|stored| stored >= version))
    }

    /// Updates a row, adding the first so many values, or inserts it.
    fn set(&mut self, key: &Key, body: &Body, adds: usize) {
        let Some(row) = self.rows.get_mut(key) else {
            self.rows.insert(key.clone(), defaults().into_iter().chain(values(body)).collect());
            return;
        };
        for (place, (column, value)) in values(body).into_iter().enumerate() {
            let value = if place < adds { held(column, &plus(&row[&column], &value)) } else { value };
            row.insert(column, value);
        }
    }

    /// Does to one row what a fold does.
    pub(crate) fn lay(&mut self, key: &Key, fold: &Fold) {
        let rounds = if let Fold::Entries(entries) = fold { entries.len() } else { 1 };
        let object = Object { fold: fold.clone(), last: Sequence::ZERO, saves: 1, batched: false };
        (0..rounds).for_each(|round| self.apply_entry(key, &object, round, &mut Vec::new()));
    }

    /// Gives the saves that were superseded.
    pub(crate) fn apply(&mut self, generation: &Generation) -> Vec<Sequence> {
        let mut superseded = Vec::new();
        for fold in generation.parts.iter().flat_map(|part| part.collections.values()) {
            for round in 0..=fold.later_rounds {
                fold.objects.iter().for_each(|(key, object)| self.apply_entry(key, object, round, &mut superseded));
            }
            superseded.extend(&fold.stale);
            self.log.extend(fold.appended.iter().map(|row| defaults().into_iter().chain(values(&row.body)).collect::<Row>()));
        }
        superseded.sort_unstable();
        superseded
    }

    fn apply_entry(&mut self, key: &Key, object: &Object, round: usize, superseded: &mut Vec<Sequence>) {
        match &object.fold {
            Fold::Entries(entries) => {
                let Some(entry) = entries.get(round) else { return };
                assert!(round == 0 || !entry.replaces, "only a first entry replaces");
                if entry.replaces {
                    self.rows.remove(key);
                }
                let guard = entry.guard.as_deref();
                if self.is_stale(key, guard.map(|guard| guard.version)) {
                    superseded.extend(guard.into_iter().flat_map(Guard::saves));
                    return;
                }
                assert!(round == 0 || self.rows.contains_key(key), "a later entry finds the row there");
                self.set(key, &entry.body, entry.adds.len());
            }
            _ if round > 0 => {}
            Fold::Set { body, .. } => self.set(key, body, 0),
            Fold::Replace { body, .. } => {
                self.rows.remove(key);
                self.set(key, body, 0);
            }
            Fold::Delete => drop(self.rows.remove(key)),
        }
    }
}

pub(crate) fn save(key: u8, collection: CollectionId, change: Change) -> Save {
    let columns = change.body().map(|body| values(body).into_iter().map(|(column, _)| column).collect()).unwrap_or_default();
    let key = if collection == LOG { Key::none() } else { Key::from_parts([key.to_string().as_str()]) };
    let accepted_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    Save {
        lane: LaneId(0),
        collection,
        key,
        change,
        columns,
        adds: [].into(),
        version: None,
        batch_left: 0,
        origin: None,
        request_id: None,
        accepted_at,
        retries: None,
        callback: None,
    }
}

/// A set whose first members are added to their columns.
pub(crate) fn adding(key: u8, body: Body, adds: usize) -> Save {
    let added = values(&body).into_iter().take(adds).map(|(column, _)| Added { column, form: form(column) }).collect();
    Save { adds: added, ..save(key, ROWS, Change::Set(body)) }
}
