//! Collections for tests.

use std::collections::BTreeMap;

use crate::{
    collections::{
        Catalog, CatalogColumn, CatalogTable, CollectionRules, CollectionSettings, Collections, Identity, KeyForm, Mode, TableKind,
        UniqueIndex, ValueForm,
    },
    save::NumberForm,
};

fn column(name: &str, cast: &str, form: ValueForm, key_form: Option<KeyForm>) -> CatalogColumn {
    CatalogColumn {
        name: name.to_owned(),
        cast: cast.to_owned(),
        form,
        not_null: key_form.is_some(),
        number: match cast {
            "smallint" => Some(NumberForm::Integer { bits: 16 }),
            "integer" => Some(NumberForm::Integer { bits: 32 }),
            "bigint" => Some(NumberForm::Integer { bits: 64 }),
            "numeric" => Some(NumberForm::Numeric { precision: 6, scale: 2 }),
            _ => None,
        },
        key_form,
        identity: Identity::No,
        generated: false,
    }
}

fn table(name: &str, key: &[&str], columns: Vec<CatalogColumn>) -> CatalogTable {
    let unique = UniqueIndex { columns: key.iter().map(|&name| name.to_owned()).collect(), primary: true, deferrable: false };
    CatalogTable {
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: TableKind::Ordinary,
        unlogged: false,
        columns,
        unique: if key.is_empty() { Vec::new() } else { vec![unique] },
        fingerprint: Default::default(),
        triggers_skip: false,
        rules: false,
    }
}

fn players() -> CatalogTable {
    let scalar = |name, cast| column(name, cast, ValueForm::Scalar, None);
    let columns = vec![
        CatalogColumn { identity: Identity::Always, ..column("id", "bigint", ValueForm::Scalar, Some(KeyForm::Int8)) },
        scalar("name", "text"),
        scalar("level", "numeric"),
        column("note", "jsonb", ValueForm::Json, None),
        CatalogColumn { generated: true, ..scalar("total", "bigint") },
        CatalogColumn { identity: Identity::Always, ..scalar("number", "bigint") },
    ];
    table("players", &["id"], columns)
}

/// `players` (id), `items` (owner, slot), `events` (append), and a view `summary` that is refused.
pub(super) fn catalog() -> Catalog {
    let items = vec![
        column("owner", "uuid", ValueForm::Scalar, Some(KeyForm::Uuid)),
        column("slot", "smallint", ValueForm::Scalar, Some(KeyForm::Int2)),
        CatalogColumn { not_null: false, ..column("count", "integer", ValueForm::Scalar, Some(KeyForm::Int4)) },
    ];
    let events = vec![column("at", "timestamptz", ValueForm::Time, None), column("what", "text", ValueForm::Scalar, None)];
    let view = CatalogTable { kind: TableKind::View, ..table("summary", &[], Vec::new()) };
    Catalog {
        tables: vec![players(), table("items", &["owner", "slot"], items), table("events", &[], events), view],
        foreign_keys: Vec::new(),
    }
}

/// What that catalog makes.
pub(super) fn collections() -> Collections {
    build(&catalog(), &Collections::default())
}

/// What a catalog makes, after another one.
pub(super) fn build(catalog: &Catalog, before: &Collections) -> Collections {
    let events = CollectionSettings { mode: Mode::Append, ..CollectionSettings::default() };
    let rules = CollectionRules {
        schemas: vec!["public".to_owned()],
        named: BTreeMap::from([("events".to_owned(), events)]),
        ..CollectionRules::default()
    };
    Collections::build(catalog, &rules, before)
}
