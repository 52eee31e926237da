//! Folding with acting saves against executing one by one, over tables whose foreign keys delete, null and follow.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    collections::{Catalog, CatalogColumn, CatalogTable, CollectionRules, Collections, ForeignKey, Identity, KeyForm, Reaction, TableKind},
    collections::{UniqueIndex, ValueForm},
    save::{Change, LaneId, Save},
};

/// A column's value; rows are small numbers that reference each other.
type Value = Option<u8>;
type Row = BTreeMap<&'static str, Value>;
type Table = BTreeMap<u8, Row>;

/// What every row has, whatever the table; `code` is unique.
const COLUMNS: [&str; 4] = ["up", "also", "code", "note"];

/// Tables by name, parents first, and what they reference: column, table, its column (`id` or `code`), on delete, on update.
type Reference = (&'static str, &'static str, &'static str, Reaction, Reaction);
const TABLES: [(&str, &[Reference]); 5] = [
    ("root", &[]),
    ("kid", &[("up", "root", "id", Reaction::Cascade, Reaction::NoAction), ("also", "root", "code", Reaction::SetNull, Reaction::Cascade)]),
    (
        "grandkid",
        &[("up", "kid", "id", Reaction::Cascade, Reaction::NoAction), ("also", "kid", "code", Reaction::NoAction, Reaction::SetNull)],
    ),
    ("ward", &[("up", "root", "id", Reaction::SetNull, Reaction::NoAction), ("also", "ward", "id", Reaction::Cascade, Reaction::NoAction)]),
    ("bystander", &[("up", "root", "id", Reaction::NoAction, Reaction::NoAction)]),
];

#[derive(Clone, Debug, PartialEq)]
struct Database(BTreeMap<&'static str, Table>);

fn collections() -> Collections {
    let column = |name: &str, key| CatalogColumn {
        name: name.to_owned(),
        cast: "integer".to_owned(),
        form: ValueForm::Scalar,
        key_form: Some(KeyForm::Int4),
        number: None,
        not_null: key,
        identity: Identity::No,
        generated: false,
    };
    let unique = |name: &str| UniqueIndex { columns: vec![name.to_owned()], primary: name == "id", deferrable: false };
    let table = |&(name, _): &(&str, _)| CatalogTable {
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: TableKind::Ordinary,
        unlogged: false,
        columns: std::iter::once(column("id", true)).chain(COLUMNS.map(|name| column(name, false))).collect(),
        unique: vec![unique("id"), unique("code")],
        triggers_skip: false,
        rules: false,
        fingerprint: Default::default(),
    };
    let key = |from: &str, &(column, to, to_column, on_delete, on_update): &Reference| ForeignKey {
        name: format!("{from}_{column}"),
        from: ("public".to_owned(), from.to_owned()),
        from_columns: vec![column.to_owned()],
        to: ("public".to_owned(), to.to_owned()),
        to_columns: vec![to_column.to_owned()],
        on_delete,
        on_update,
        deferrable: true,
    };
    let catalog = Catalog {
        tables: TABLES.iter().map(table).collect(),
        foreign_keys: TABLES.iter().flat_map(|(name, references)| references.iter().map(move |reference| key(name, reference))).collect(),
    };
    let rules = CollectionRules { schemas: vec!["public".to_owned()], ..CollectionRules::default() };
    Collections::build(&catalog, &rules, &Collections::default())
}

impl Database {
    fn empty() -> Self {
        Self(TABLES.iter().map(|(name, _)| (*name, Table::new())).collect())
    }

    fn table(&mut self, name: &str) -> &mut Table {
        self.0.get_mut(name).expect("a table")
    }

    fn set(&mut self, table: &'static str, id: u8, values: &Row) {
        let row = self.table(table).entry(id).or_insert_with(|| COLUMNS.map(|name| (name, None)).into());
        let code = row["code"];
        row.extend(values);
        let now = row["code"];
        if code != now {
            self.react(table, "code", code, Some(now));
        }
    }

    fn delete(&mut self, table: &'static str, id: u8) {
        if let Some(row) = self.table(table).remove(&id) {
            self.react(table, "id", Some(id), None);
            self.react(table, "code", row["code"], None);
        }
    }

    /// The referenced value is gone (`None`) or another.
    fn react(&mut self, table: &str, to_column: &str, value: Value, now: Option<Value>) {
        let Some(value) = value else { return };
        for (from, references) in TABLES {
            for &(column, ..) in references.iter().filter(|reference| reference.1 == table && reference.2 == to_column) {
                let reaction = references
                    .iter()
                    .find(|reference| reference.0 == column)
                    .map(|reference| if now.is_some() { reference.4 } else { reference.3 });
                let hit: Vec<_> = self.table(from).iter().filter(|(_, row)| row[column] == Some(value)).map(|(id, _)| *id).collect();
                for id in hit {
                    match (reaction, now) {
                        (Some(Reaction::Cascade), None) => self.delete(from, id),
                        (Some(Reaction::Cascade), Some(now)) => self.set(from, id, &Row::from([(column, now)])),
                        (Some(Reaction::SetNull), _) => self.set(from, id, &Row::from([(column, None)])),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Whether all constraints hold.
    fn is_sound(&self) -> bool {
        let of = |name: &str| &self.0[name];
        let unique = |name: &str| {
            let mut codes: Vec<_> = of(name).values().filter_map(|row| row["code"]).collect();
            let count = codes.len();
            codes.sort_unstable();
            codes.dedup();
            codes.len() == count
        };
        let found = |to: &str, to_column: &str, value: u8| match to_column {
            "id" => of(to).contains_key(&value),
            _ => of(to).values().any(|row| row["code"] == Some(value)),
        };
        TABLES.iter().all(|(name, references)| {
            let holds = |row: &Row| {
                references.iter().all(|(column, to, to_column, ..)| row[column].is_none_or(|value| found(to, to_column, value)))
            };
            unique(name) && of(name).values().all(holds)
        })
    }

    fn apply(&mut self, collections: &Collections, part: &Part) {
        let name = |id: CollectionId| TABLES.iter().find(|table| *table.0 == *collections.get(id).name).expect("a table").0;
        let fold = |id: &CollectionId| part.collections.get(id).into_iter().flat_map(|fold| &fold.objects);
        let id_of = |key: &Key| key.parts().next().and_then(|part| part.parse().ok()).expect("a number");
        for id in collections.parents_first() {
            for (key, object) in fold(id) {
                match &object.fold {
                    Fold::Set { body, .. } => self.set(name(*id), id_of(key), &values(body)),
                    Fold::Replace { body, .. } => {
                        let others = COLUMNS.map(|name| (name, None)).into_iter().collect::<Row>();
                        self.set(name(*id), id_of(key), &others.into_iter().chain(values(body)).collect());
                    }
                    Fold::Entries(_) => unreachable!("nothing is added, nothing has a version"),
                    Fold::Delete => {}
                }
            }
        }
        for id in collections.parents_first().iter().rev() {
            for (key, _) in fold(id).filter(|(_, object)| object.fold == Fold::Delete) {
                self.delete(name(*id), id_of(key));
            }
        }
    }
}

fn values(body: &Body) -> Row {
    let name = |member: &str| COLUMNS.into_iter().find(|name| *name == member).expect("a column");
    body.members().into_iter().map(|member| (name(&member.name), member.value.parse().ok())).collect()
}

#[derive(Clone, Debug)]
struct Operation {
    table: usize,
    id: u8,
    values: Option<Row>,
}

fn operation() -> impl Strategy<Value = Operation> {
    let value = prop_oneof![1 => Just(None), 3 => (0..3u8).prop_map(Some)];
    let row = prop::collection::btree_map(prop::sample::select(&COLUMNS[..]), value, 1..3);
    (0..TABLES.len(), 0..3u8, prop::option::weighted(0.75, row)).prop_map(|(table, id, values)| Operation { table, id, values })
}

impl Operation {
    fn execute(&self, database: &mut Database) {
        let table = TABLES[self.table].0;
        match &self.values {
            Some(values) => database.set(table, self.id, values),
            None => database.delete(table, self.id),
        }
    }

    fn accepted(&self, collections: &Collections, sequence: u64) -> Accepted {
        let collection = collections.named(TABLES[self.table].0).expect("a collection");
        let json = |value: &Value| value.map_or_else(|| "null".to_owned(), |value| value.to_string());
        let change = self.values.as_ref().map(|values| {
            let members: Vec<_> = values.iter().map(|(name, value)| format!("\"{name}\":{}", json(value))).collect();
            Change::Set(Body::parse(format!("{{{}}}", members.join(",")).as_bytes()).expect("a body"))
        });
        let names = self.values.iter().flatten().map(|(name, _)| collection.column(name).expect("a column").0);
        let save = Save {
            lane: LaneId(0),
            collection: collection.id,
            key: Key::from_parts([self.id.to_string().as_str()]),
            columns: names.collect(),
            change: change.unwrap_or(Change::Delete),
            adds: [].into(),
            version: None,
            request_id: None,
            retries: None,
            callback: None,
            batch_left: 0,
            origin: None,
            accepted_at: SystemTime::UNIX_EPOCH,
        };
        Accepted { sequence: Sequence::from_u64(sequence), save }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn acting_saves_end_as_if_executed_one_by_one(operations in prop::collection::vec(operation(), 1..40), first in 0..10usize, seam in 0..40usize) {
        let collections = collections();
        let (mut direct, mut accepted) = (Database::empty(), Vec::new());
        let mut folded = Database::empty();
        for (n, operation) in operations.iter().enumerate() {
            let mut next = direct.clone();
            operation.execute(&mut next);
            if next.is_sound() {
                direct = next;
                // The first ones are there before.
                if n < first {
                    folded.clone_from(&direct);
                } else {
                    accepted.push(operation.accepted(&collections, n as u64 + 1));
                }
            }
        }
        let later = accepted.split_off(seam.min(accepted.len()));
        let mut generation = Generation::fold(Sequence::ZERO, Arc::clone(collections.reaches()), accepted);
        generation.absorb(Generation::fold(generation.through, Arc::clone(collections.reaches()), later));
        for part in &generation.parts {
            folded.apply(&collections, part);
        }
        // What Postgres refuses is halved; what it takes has to be right.
        if folded.is_sound() {
            prop_assert_eq!(folded, direct);
        }
    }
}
