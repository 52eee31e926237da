//! What may be saved: collections, their columns, keys and lanes. Pure: filled by `postgres` from the catalog (or by the
//! journal's ledger when Postgres is away), read by `grpc` (validation), `drain` and `postgres` (statements).
//!
//! A [`Collections`] never changes; a re-read catalog makes a new one in which every collection and column known before
//! keeps its number, so that saves in flight and folded objects stay meaningful.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::save::{Added, Body, CollectionId, ColumnIndex, ColumnSet, LaneId, NumberForm};

mod catalog;
mod key_form;
mod lanes;
mod nearest;
mod order;
mod reach;
mod value;

pub use catalog::{Catalog, CatalogColumn, CatalogTable, Fingerprint, ForeignKey, Identity, Reaction, TableKind, UniqueIndex};
pub use key_form::{KeyForm, KeyPartError};
pub use lanes::{Across, Lanes};
pub use nearest::nearest;
pub use reach::Reaches;
pub use value::{ValueError, ValueForm};

/// Settings of one collection: `[collections.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionSettings {
    /// The table, `table` or `schema.table`; without it the collection's name.
    pub table: Option<String>,
    /// Columns of a unique index of NOT NULL columns; without it the primary key.
    pub key: Option<Vec<String>>,
    /// Objects that are updated, or rows that are only added.
    pub mode: Mode,
    /// An integer column: a row is only overwritten by a higher version.
    pub version_column: Option<String>,
    /// The endpoint that is told of failed saves.
    pub on_failed: Option<String>,
}

/// How saves of a collection become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// One row an object, updated by key, inserted if missing.
    #[default]
    Upsert,
    /// Every save is a new row.
    Append,
}

/// Which tables are collections and under which names: `collections.*` and `postgres.schemas`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionRules {
    /// Schemas that are searched; a table of the first is named `table`, of another `schema.table`.
    pub schemas: Vec<String>,
    /// Settings by collection name.
    pub named: BTreeMap<String, CollectionSettings>,
    /// Which lane writes which.
    pub lanes: Lanes,
}

/// A table that is no collection, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedTable {
    /// The name that the collection would have.
    pub name: String,
    /// A sentence: what is wrong and what would help.
    pub reason: String,
    /// Whether the settings name it: then the daemon says so loudly.
    pub named: bool,
}

/// Looked up for every member of every save. The names are the catalog's own: no flood of alike ones to fear.
type Names<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// One collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Collection {
    /// Its number in this process.
    pub id: CollectionId,
    /// The name that saves use.
    pub name: Arc<str>,
    /// The schema of its table.
    pub schema: String,
    /// Its table.
    pub table: String,
    /// Upsert or append.
    pub mode: Mode,
    /// The lane that writes it.
    pub lane: LaneId,
    /// Every column, key columns too. Columns that are gone keep their place ([`Column::gone`]).
    pub columns: Vec<Column>,
    /// The key columns, in primary-key order; empty for an append collection without a key.
    pub key: Vec<ColumnIndex>,
    /// The column whose higher value wins; every save names it.
    pub version: Option<ColumnIndex>,
    /// The endpoint that is told of failed saves.
    pub on_failed: Option<String>,
    /// What its table was when the catalog was read.
    pub fingerprint: Fingerprint,
    /// Whether a trigger may leave a row out of an insert or update without an error.
    pub triggers_skip: bool,
    /// Set when the journal names it but the catalog doesn't: its saves can't be applied.
    pub gone: bool,
    by_name: Names<String, ColumnIndex>,
}

/// One column of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type to cast text to: the base type, schema-qualified where needed, ready for SQL ([`CatalogColumn::cast`]).
    pub cast: String,
    /// How a JSON value becomes text for it.
    pub form: ValueForm,
    /// The canonical form of its values as part of a key; `None` if it can't be one.
    pub key_form: Option<KeyForm>,
    /// What numbers it holds; `None` if nothing can be added to it.
    pub number: Option<NumberForm>,
    /// NOT NULL.
    pub not_null: bool,
    /// Why a save may not name it (generated, identity always), if it may not.
    pub read_only: Option<&'static str>,
    /// Set when the journal or an earlier catalog names it but the present catalog doesn't.
    pub gone: bool,
}

/// What the names of a journal record mean in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The collection.
    pub collection: CollectionId,
    /// The columns that the body names, key columns left out.
    pub columns: ColumnSet,
    /// Those that are added to, in the body's order.
    pub adds: Box<[Added]>,
    /// The version, if the collection has such a column and the body an integer for it.
    pub version: Option<i64>,
}

/// Every collection known, at one reading of the catalog.
#[derive(Clone, Debug, Default)]
pub struct Collections {
    list: Vec<Arc<Collection>>,
    by_name: Names<Arc<str>, CollectionId>,
    refused: Vec<RefusedTable>,
    parents_first: Vec<CollectionId>,
    reaches: Arc<Reaches>,
    links: Vec<lanes::Link>,
}

impl Column {
    /// Whether Postgres computes it from other columns.
    pub fn is_generated(&self) -> bool {
        self.read_only == Some(Self::GENERATED)
    }

    const GENERATED: &str = "a generated column";
}

impl Collection {
    /// The column of this name, unless it is gone.
    pub fn column(&self, name: &str) -> Option<(ColumnIndex, &Column)> {
        let index = *self.by_name.get(name)?;
        let column = &self.columns[usize::from(index)];
        (!column.gone).then_some((index, column))
    }

    /// Whether this column is part of the key.
    pub fn is_key(&self, column: ColumnIndex) -> bool {
        self.key.contains(&column)
    }

    /// The key columns, in primary-key order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|&index| &self.columns[usize::from(index)])
    }

    /// What a JSON value is as a version.
    ///
    /// # Errors
    /// A sentence that begins with the column.
    pub fn version_of(column: &Column, json: &str) -> Result<i64, ValueError> {
        let text = column.form.text(json)?.ok_or_else(|| ValueError("is the version column and can't be null".to_owned()))?;
        let canonical = column.key_form.as_ref().map(|form| form.canonical(&text));
        let version = canonical.and_then(Result::ok).and_then(|text| text.parse().ok());
        version.ok_or_else(|| ValueError(format!("is the version column and takes an integer ({})", column.cast)))
    }

    /// The names of the columns of a set.
    pub fn column_names(&self, set: &ColumnSet) -> Vec<&str> {
        set.iter().map(|index| self.columns[usize::from(index)].name.as_str()).collect()
    }

    /// A column that only a journal record names.
    fn push_gone(&mut self, name: &str) {
        self.push_column(Column {
            name: name.to_owned(),
            cast: "text".to_owned(),
            form: ValueForm::Scalar,
            key_form: None,
            number: None,
            not_null: false,
            read_only: None,
            gone: true,
        });
    }

    fn push_column(&mut self, column: Column) -> ColumnIndex {
        let index = ColumnIndex::try_from(self.columns.len()).expect("Postgres allows 1,600 columns; a journal names few others");
        self.by_name.insert(column.name.clone(), index);
        self.columns.push(column);
        index
    }
}

impl Collections {
    /// What the catalog and the rules make collections; numbers of `before` are kept.
    pub fn build(catalog: &Catalog, rules: &CollectionRules, before: &Self) -> Self {
        catalog::build(catalog, rules, before)
    }

    /// The collection of this name that saves may use.
    pub fn named(&self, name: &str) -> Option<&Arc<Collection>> {
        self.by_name.get(name).map(|&id| self.get(id)).filter(|collection| !collection.gone)
    }

    /// The collection of this number.
    pub fn get(&self, id: CollectionId) -> &Arc<Collection> {
        &self.list[id.0 as usize]
    }

    /// Every collection that saves may use, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Collection>> {
        let mut list: Vec<_> = self.list.iter().filter(|collection| !collection.gone).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.into_iter()
    }

    /// Tables that are no collections, and why.
    pub fn refused(&self) -> &[RefusedTable] {
        &self.refused
    }

    /// Every collection, tables that others reference before those others (cycles broken anywhere).
    pub fn parents_first(&self) -> &[CollectionId] {
        &self.parents_first
    }

    /// What saves change beside their own row.
    pub fn reaches(&self) -> &Arc<Reaches> {
        &self.reaches
    }

    /// Every collection in the order of its number, those that are gone too.
    pub fn numbered(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.list.iter()
    }

    /// The number of a collection that the catalog or the journal names.
    pub fn number(&self, name: &str) -> Option<CollectionId> {
        self.by_name.get(name).copied()
    }

    /// The numbers of a collection and of what a body names, of which the first `adds` columns are added to; `None` if one
    /// of the names has no number yet.
    pub fn numbers(&self, name: &str, body: Option<&Body>, adds: usize) -> Option<Numbers> {
        let id = self.number(name)?;
        let known = self.get(id);
        let mut numbers = Numbers { collection: id, columns: ColumnSet::default(), adds: [].into(), version: None };
        let mut added = Vec::with_capacity(adds);
        for (place, member) in body.map(Body::members).unwrap_or_default().iter().enumerate() {
            let index = *known.by_name.get(&*member.name)?;
            if !known.is_key(index) {
                numbers.columns.insert(index);
            }
            if known.version == Some(index) {
                // What was saved before the column was made the version may be anything.
                numbers.version = Collection::version_of(&known.columns[usize::from(index)], member.value).ok();
            }
            if place < adds {
                added.push(Added { column: index, form: known.columns[usize::from(index)].number });
            }
        }
        numbers.adds = added.into();
        Some(numbers)
    }

    /// Gives numbers to the names of a journal record that the catalog doesn't have, marked gone: the journal is never
    /// dropped because a table is.
    pub fn give_numbers(&mut self, name: &str, body: Option<&Body>) {
        let id = match self.by_name.get(name) {
            Some(&id) => id,
            None => self.push(Collection::missing(name)),
        };
        for member in body.map(Body::members).unwrap_or_default() {
            if !self.get(id).by_name.contains_key(&*member.name) {
                Arc::make_mut(&mut self.list[id.0 as usize]).push_gone(&member.name);
            }
        }
    }

    fn push(&mut self, mut collection: Collection) -> CollectionId {
        let id = CollectionId(u32::try_from(self.list.len()).expect("fewer tables than Postgres has oids"));
        collection.id = id;
        self.by_name.insert(Arc::clone(&collection.name), id);
        self.list.push(Arc::new(collection));
        self.parents_first.push(id);
        id
    }
}

impl Collection {
    /// A collection that only the journal knows.
    fn missing(name: &str) -> Self {
        Self {
            id: CollectionId(u32::MAX),
            name: name.into(),
            schema: String::new(),
            table: String::new(),
            mode: Mode::Upsert,
            lane: LaneId(0),
            columns: Vec::new(),
            key: Vec::new(),
            version: None,
            on_failed: None,
            fingerprint: Fingerprint::default(),
            triggers_skip: false,
            gone: true,
            by_name: Names::default(),
        }
    }
}
