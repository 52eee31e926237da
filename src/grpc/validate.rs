//! From a save of the contract to one of the vocabulary, or to everything that is wrong with it. Pure,
//! but for the sizes that the limits remember.
//!
//! Past this door nobody asks again: names are known, values have the JSON kind of their column, the key is canonical.

use std::{borrow::Cow, fmt, time::SystemTime};

use super::violations::Violations;
use crate::{
    collections::{Collection, Collections, Column, KeyForm, Mode, nearest},
    limits::Limit,
    proto::{self, save::Change as ProtoChange},
    save::{Added, Body, Change, ColumnSet, Key, Member, Save},
};

mod add;
mod locate;

pub(super) use locate::locate;

/// What saves are held against.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) collections: &'a Collections,
    /// `grpc.body_bytes_max`
    pub(super) body_bytes: &'a Limit,
    /// `grpc.key_bytes_max`
    pub(super) key_bytes: &'a Limit,
}

/// Where a save stands in its request.
#[derive(Clone, Copy)]
pub(super) enum Path {
    /// The one of a `SaveRequest`.
    Save,
    /// One of `saves`.
    Nth(usize),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Save => f.write_str("save"),
            Self::Nth(n) => write!(f, "saves[{n}]"),
        }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Violations,
    /// A collection, a column or an enum's label is unknown: a newer catalog may have it.
    pub(super) unknown_name: bool,
}

/// Checks one save; `None` after adding to `findings`.
pub(super) fn validate(
    save: &proto::Save,
    path: Path,
    rules: &Rules<'_>,
    accepted_at: SystemTime,
    findings: &mut Findings,
) -> Option<Save> {
    let before = findings.violations.total();
    let mut check = Check { path, rules, findings };
    let collection = check.collection(&save.collection)?;
    let Checked { key, change, columns, adds, version } = match &save.change {
        Some(ProtoChange::Json(json)) => check.body(collection, &save.key, json, &save.add)?,
        Some(ProtoChange::Delete(_)) => check.delete(collection, &save.key, &save.add)?,
        None => return check.refuse("change", || "is empty: set `json` or `delete`".to_owned()),
    };
    let save = Save {
        lane: collection.lane,
        collection: collection.id,
        key,
        change,
        columns,
        adds,
        version,
        batch_left: 0,
        origin: None,
        request_id: None,
        accepted_at,
        retries: None,
        callback: None,
    };
    (findings.violations.total() == before).then_some(save)
}

/// What a save's own fields say.
struct Checked {
    key: Key,
    change: Change,
    columns: ColumnSet,
    adds: Box<[Added]>,
    version: Option<i64>,
}

struct Check<'a, 'f> {
    path: Path,
    rules: &'a Rules<'a>,
    findings: &'f mut Findings,
}

impl<'a> Check<'a, '_> {
    fn refuse<T>(&mut self, field: impl fmt::Display, description: impl FnOnce() -> String) -> Option<T> {
        self.findings.violations.push(format_args!("{}.{field}", self.path), description);
        None
    }

    fn collection(&mut self, name: &str) -> Option<&'a Collection> {
        let collections = self.rules.collections;
        if let Some(collection) = collections.named(name) {
            return Some(collection);
        }
        self.findings.unknown_name = true;
        self.refuse("collection", || unknown_collection(name, collections))
    }

    fn delete(&mut self, collection: &Collection, key: &[String], add: &[String]) -> Option<Checked> {
        if collection.mode == Mode::Append {
            return self.refuse("delete", || format!("is not for {}, whose rows are only added", collection.name));
        }
        if !add.is_empty() {
            return self.refuse("add", || "is not for a delete".to_owned());
        }
        let key = self.key(collection, key, &[])?;
        Some(Checked { key, change: Change::Delete, columns: ColumnSet::EMPTY, adds: [].into(), version: None })
    }

    fn body(&mut self, collection: &Collection, key: &[String], json: &[u8], add: &[String]) -> Option<Checked> {
        let limit = self.rules.body_bytes;
        if !limit.lets_through(json.len() as u64) {
            return self.refuse("json", || format!("has {} bytes, more than {} = {}", json.len(), limit.name(), limit.max()));
        }
        let members = match Body::check(json) {
            Ok(members) if members.is_empty() => {
                return self.refuse("json", || "is empty: name at least one column (a key column is enough)".to_owned());
            }
            Ok(members) => members,
            Err(error) => return self.refuse("json", || error.to_string()),
        };
        let columns = self.columns(collection, &members);
        let key = match collection.mode {
            Mode::Upsert => self.key(collection, key, &members)?,
            Mode::Append if key.is_empty() => Key::none(),
            Mode::Append => return self.refuse("key", || format!("is not for {}, whose rows are only added", collection.name)),
        };
        let version = match collection.version {
            Some(index) => Some(self.version(&collection.columns[usize::from(index)], &members)?),
            None => None,
        };
        let (body, adds) = match add {
            [] => (Body::from_checked(json), [].into()),
            add => self.added(collection, members, add)?,
        };
        if !limit.lets_through(body.as_bytes().len() as u64) {
            return self
                .refuse("json", || format!("is longer than {} = {} with the numbers of `add` written out", limit.name(), limit.max()));
        }
        let change = if collection.mode == Mode::Append { Change::Append(body) } else { Change::Set(body) };
        Some(Checked { key, change, columns, adds, version })
    }

    /// The columns that the members name, key columns left out.
    fn columns(&mut self, collection: &Collection, members: &[Member<'_>]) -> ColumnSet {
        let mut columns = ColumnSet::default();
        for member in members {
            let Some((index, column)) = collection.column(&member.name) else {
                self.findings.unknown_name = true;
                self.refuse::<()>(InJson(&member.name), || unknown_column(&member.name, collection));
                continue;
            };
            if collection.is_key(index) {
                continue;
            }
            if let Some(why) = column.read_only {
                self.refuse::<()>(InJson(&member.name), || format!("is {why}: leave it out"));
            } else if let Err(error) = column.form.check(member.value) {
                self.refuse::<()>(InJson(&member.name), || error.to_string());
            }
            columns.insert(index);
        }
        columns
    }

    fn version(&mut self, column: &Column, members: &[Member<'_>]) -> Option<i64> {
        let Some(member) = find(members, column) else {
            return self.refuse("json", || format!("lacks {}, the version column", column.name));
        };
        match Collection::version_of(column, member.value) {
            Ok(version) => Some(version),
            Err(error) => self.refuse(InJson(&column.name), || error.to_string()),
        }
    }

    fn key(&mut self, collection: &Collection, parts: &[String], members: &[Member<'_>]) -> Option<Key> {
        if parts.is_empty() {
            return self.key_of_body(collection, members);
        }
        if parts.len() != collection.key.len() {
            return self.refuse("key", || wrong_part_count(collection, parts));
        }
        let key = self.key_of_parts(collection, parts)?;
        for (column, canonical) in collection.key_columns().zip(key.parts()) {
            let Some(member) = find(members, column) else { continue };
            let in_body = self.part_in_body(column, member)?;
            if in_body != canonical {
                return self.refuse(InJson(&column.name), || format!("contradicts the key, which says {}", quoted(canonical)));
            }
        }
        Some(key)
    }

    fn key_of_parts(&mut self, collection: &Collection, parts: &[String]) -> Option<Key> {
        self.bounded(parts.iter().map(String::as_str), "key")?;
        let mut canonical = Vec::with_capacity(parts.len());
        for (n, (column, part)) in collection.key_columns().zip(parts).enumerate() {
            match canonical_part(column, part) {
                Ok(part) => canonical.push(part),
                Err(why) => {
                    self.may_be_new_label(column);
                    return self.refuse(format_args!("key[{n}]"), || format!("is no {}: it {why}", column.name));
                }
            }
        }
        Some(Key::from_parts(canonical.iter().map(|part| &**part)))
    }

    fn key_of_body(&mut self, collection: &Collection, members: &[Member<'_>]) -> Option<Key> {
        let mut canonical = Vec::with_capacity(collection.key.len());
        for column in collection.key_columns() {
            let Some(member) = find(members, column) else {
                return self.refuse("key", || format!("is missing: give {} in `key` or in the body", key_names(collection)));
            };
            canonical.push(self.part_in_body(column, member)?);
        }
        self.bounded(canonical.iter().map(|part| &**part), "json")?;
        Some(Key::from_parts(canonical.iter().map(|part| &**part)))
    }

    /// The canonical form of a key column's value in the body.
    fn part_in_body(&mut self, column: &Column, member: &Member<'_>) -> Option<String> {
        let text = match column.form.text(member.value) {
            Ok(Some(text)) => text,
            Ok(None) => return self.refuse(InJson(&column.name), || "is a key column and can't be null".to_owned()),
            Err(error) => return self.refuse(InJson(&column.name), || error.to_string()),
        };
        self.bounded([&*text], "json")?;
        match canonical_part(column, &text) {
            Ok(part) => Some(part.into_owned()),
            Err(why) => {
                self.may_be_new_label(column);
                self.refuse(InJson(&column.name), || why.into_owned())
            }
        }
    }

    /// A newer catalog may have more labels of an enum.
    fn may_be_new_label(&mut self, column: &Column) {
        self.findings.unknown_name |= matches!(column.key_form, Some(KeyForm::Enum { .. }));
    }

    /// Refuses keys over the limit. (No allocation, no work on them before.)
    fn bounded<'p>(&mut self, parts: impl IntoIterator<Item = &'p str>, field: &str) -> Option<()> {
        let (mut bytes, mut longest) = (0, 0);
        for part in parts {
            bytes += part.len() as u64;
            longest = longest.max(part.len());
        }
        let limit = self.rules.key_bytes;
        if !limit.lets_through(bytes) {
            return self.refuse(field, || format!("has a key of {bytes} bytes, more than {} = {}", limit.name(), limit.max()));
        }
        if longest > Key::PART_BYTES_MAX {
            return self.refuse(field, || format!("has a key part of {longest} bytes, more than {}", Key::PART_BYTES_MAX));
        }
        Some(())
    }
}

/// `json.COLUMN`
struct InJson<'a>(&'a str);

impl fmt::Display for InJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "json.{:.64}", self.0)
    }
}

fn find<'m, 'j>(members: &'m [Member<'j>], column: &Column) -> Option<&'m Member<'j>> {
    members.iter().find(|member| member.name == column.name)
}

fn canonical_part<'a>(column: &Column, text: &'a str) -> Result<Cow<'a, str>, Cow<'static, str>> {
    let form = column.key_form.as_ref().ok_or("has no canonical form")?;
    form.canonical(text).map_err(|error| Cow::Owned(error.to_string()))
}

fn key_names(collection: &Collection) -> String {
    let names: Vec<_> = collection.key_columns().map(|column| column.name.as_str()).collect();
    names.join(", ")
}

fn wrong_part_count(collection: &Collection, parts: &[String]) -> String {
    let (expected, sent) = (collection.key.len(), parts.len());
    let is_string = sent > 1 && parts.iter().all(|part| part.chars().count() == 1);
    if is_string {
        return format!("has {sent} parts of one character: pass a list like [\"42\"], not a string; the key is {}", key_names(collection));
    }
    let parts = if sent == 1 { "part" } else { "parts" };
    format!("has {sent} {parts}, but the key has {expected}: {}", key_names(collection))
}

fn unknown_collection(name: &str, collections: &Collections) -> String {
    const TOLD_MAX: usize = 20;
    if let Some(refused) = collections.refused().iter().find(|table| table.name == name) {
        return format!("{name:?} can't be saved: {}", refused.reason);
    }
    let known: Vec<_> = collections.iter().map(|collection| &*collection.name).collect();
    let told = known[..known.len().min(TOLD_MAX)].join(", ");
    let more = if known.len() > TOLD_MAX { format!(" and {} more (see ListCollections)", known.len() - TOLD_MAX) } else { String::new() };
    let near = nearest(name, known.iter().copied());
    let name = quoted(name);
    match near {
        Some(near) => format!("{name} is unknown: did you mean {near:?}? there are {told}{more}"),
        None if known.is_empty() => format!("{name} is unknown: there are no collections yet"),
        None => format!("{name} is unknown: there are {told}{more}"),
    }
}

fn unknown_column(name: &str, collection: &Collection) -> String {
    let known = collection.columns.iter().filter(|column| !column.gone).map(|column| column.name.as_str());
    match nearest(name, known) {
        Some(near) => format!("is no column of {}: did you mean {near:?}?", collection.name),
        None => format!("is no column of {}", collection.name),
    }
}

/// A client's text, shortened.
pub(super) fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests;
