use std::sync::Arc;

use super::*;
use crate::{
    backlog::Generation,
    collections::{
        Catalog, CatalogColumn, CatalogTable, CollectionRules, CollectionSettings, Collections, Identity, KeyForm, TableKind, UniqueIndex,
        ValueForm,
    },
    save::{Accepted, Change, LaneId, NumberForm, Save, Sequence},
};

fn column(name: &str, number: Option<NumberForm>, key_form: Option<KeyForm>) -> CatalogColumn {
    CatalogColumn {
        name: name.to_owned(),
        cast: "text".to_owned(),
        form: ValueForm::Scalar,
        not_null: key_form.is_some(),
        key_form,
        number,
        identity: Identity::No,
        generated: name == "made",
    }
}

/// `t (at timestamptz, id int, name, total numeric(8,2), made generated, version int)`, the first two of them the key.
fn collections() -> Collections {
    let int = Some(NumberForm::Integer { bits: 32 });
    let columns = vec![
        column("at", None, Some(KeyForm::TimestampTz)),
        column("id", int, Some(KeyForm::Int4)),
        column("name", None, None),
        column("total", Some(NumberForm::Numeric { precision: 8, scale: 2 }), None),
        column("made", None, None),
        column("version", int, Some(KeyForm::Int4)),
    ];
    let table = CatalogTable {
        schema: "public".to_owned(),
        name: "t".to_owned(),
        kind: TableKind::Ordinary,
        unlogged: false,
        columns,
        unique: vec![UniqueIndex { columns: vec!["at".to_owned(), "id".to_owned()], primary: true, deferrable: false }],
        triggers_skip: false,
        rules: false,
        fingerprint: Default::default(),
    };
    let versioned = CollectionSettings { version_column: Some("version".to_owned()), ..CollectionSettings::default() };
    let rules =
        CollectionRules { schemas: vec!["public".to_owned()], named: [("t".to_owned(), versioned)].into(), ..CollectionRules::default() };
    Collections::build(&Catalog { tables: vec![table], foreign_keys: Vec::new() }, &rules, &Collections::default())
}

/// A save: a body of which the first so many members are added, or a delete.
type Sent<'a> = Option<(&'a str, usize)>;

const KEY: [&str; 2] = ["2024-02-29 12:00:00.5+00", "7"];
const STORED: &str =
    r#"{"at":"2024-02-29T12:00:00.5+00:00","id":7,"name":"a, \"b\"","total":1.50,"made":"x","version":null,"deep":[{"a":","}]}"#;

fn shown(stored: Stored<'_>, defaulted: Option<&[&str]>, saves: &[Sent<'_>]) -> (Option<String>, Vec<String>) {
    let collections = collections();
    let collection = collections.named("t").expect("a collection");
    let accepted = saves.iter().zip(1..).map(|(sent, n)| {
        let body = sent.map(|(json, adds)| (Body::parse(json.as_bytes()).expect("a body"), adds));
        let numbers = body.as_ref().map(|(body, adds)| collections.numbers("t", Some(body), *adds).expect("known names"));
        let save = Save {
            lane: LaneId(0),
            collection: collection.id,
            key: Key::from_parts(KEY),
            columns: numbers.as_ref().map(|numbers| numbers.columns.clone()).unwrap_or_default(),
            adds: numbers.as_ref().map(|numbers| numbers.adds.clone()).unwrap_or_default(),
            version: numbers.and_then(|numbers| numbers.version),
            change: body.map_or(Change::Delete, |(body, _)| Change::Set(body)),
            batch_left: 0,
            origin: None,
            request_id: None,
            callback: None,
            accepted_at: std::time::SystemTime::UNIX_EPOCH,
            retries: None,
        };
        Accepted { sequence: Sequence::from_u64(n), save }
    });
    let generation = Generation::fold(Sequence::ZERO, Arc::default(), accepted);
    let folds = generation.parts.into_iter().flat_map(|part| part.collections.into_values()).flat_map(|fold| fold.objects.into_values());
    let folds: Vec<_> = folds.map(|object| object.fold).collect();
    let defaulted: Option<Vec<String>> = defaulted.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let shown = lay(collection, &Key::from_parts(KEY), stored, defaulted.as_deref(), &folds);
    (shown.json.map(|json| String::from_utf8(json).expect("JSON")), shown.unknown)
}

fn is(json: &str, unknown: &[&str]) -> (Option<String>, Vec<String>) {
    (Some(json.to_owned()), unknown.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn without_folds_it_is_what_postgres_says() {
    assert_eq!(shown(Stored::Row(STORED), Some(&[]), &[]), is(STORED, &[]));
    assert_eq!(shown(Stored::Missing, Some(&[]), &[]), (None, Vec::new()));
}

#[test]
fn a_set_replaces_members_and_keeps_every_other_as_it_is() {
    let expected = r#"{"at":"2024-02-29T12:00:00.5+00:00","id":7,"name":"c","total":1.50,"version":null,"deep":[{"a":","}]}"#;
    assert_eq!(shown(Stored::Row(STORED), Some(&[]), &[Some((r#"{"name": "c", "id": "007"}"#, 0))]), is(expected, &["made"]));
}

#[test]
fn a_new_row_has_its_key_as_postgres_prints_it_and_nulls_where_there_is_no_default() {
    let sent = [Some((r#"{"total": 2.50}"#, 0))];
    let head = r#"{"at":"2024-02-29T12:00:00.5+00:00","id":7"#;
    let known = format!(r#"{head},"name":null,"total":2.50}}"#);
    assert_eq!(shown(Stored::Missing, Some(&["made", "version"]), &sent), is(&known, &["made", "version"]));
    let bare = format!(r#"{head},"total":2.50}}"#);
    assert_eq!(shown(Stored::Missing, None, &sent), is(&bare, &["name", "made", "version"]));
    assert_eq!(shown(Stored::Unknown, None, &sent), is(&bare, &["name", "made", "version"]));
    // A row that is replaced is a new one.
    assert_eq!(shown(Stored::Row(STORED), Some(&["made", "version"]), &[None, sent[0]]), is(&known, &["made", "version"]));
}

#[test]
fn a_delete_leaves_nothing() {
    for stored in [Stored::Row(STORED), Stored::Missing, Stored::Unknown] {
        assert_eq!(shown(stored, Some(&[]), &[Some((r#"{"name": "c"}"#, 0)), None]), (None, Vec::new()));
    }
}

#[test]
fn what_is_added_is_summed_to_the_last_digit() {
    let add = [Some((r#"{"total": 0.75}"#, 1))];
    let total = |stored: Stored<'_>| {
        let (json, unknown) = shown(stored, Some(&["made"]), &add);
        let json = json.expect("a row");
        let value = members(&json).into_iter().find(|(name, _)| name == "total").map(|(_, value)| value.to_owned());
        (value, unknown.contains(&"total".to_owned()))
    };
    assert_eq!(total(Stored::Row(STORED)), (Some("2.25".to_owned()), false));
    assert_eq!(total(Stored::Row(r#"{"total":null}"#)), (Some("0.75".to_owned()), false));
    assert_eq!(total(Stored::Row(r#"{"total":"NaN"}"#)), (Some("\"NaN\"".to_owned()), false));
    assert_eq!(total(Stored::Missing), (Some("0.75".to_owned()), false));
    assert_eq!(total(Stored::Unknown), (None, true));
}

#[test]
fn a_version_that_is_not_higher_changes_nothing() {
    let sent = [Some((r#"{"version": 5, "name": "c"}"#, 0))];
    let name = |stored: Stored<'_>| {
        let (json, unknown) = shown(stored, Some(&[]), &sent);
        let json = json.expect("a row");
        let name = members(&json).into_iter().find(|(name, _)| name == "name").map(|(_, value)| value.to_owned());
        (name, unknown)
    };
    assert_eq!(name(Stored::Row(r#"{"version":5,"name":"b"}"#)), (Some("\"b\"".to_owned()), Vec::new()));
    assert_eq!(name(Stored::Row(r#"{"version":4,"name":"b"}"#)).0.as_deref(), Some("\"c\""));
    assert_eq!(name(Stored::Row(r#"{"version":null,"name":"b"}"#)).0.as_deref(), Some("\"c\""));
    assert_eq!(name(Stored::Missing).0.as_deref(), Some("\"c\""));
    let (told, unknown) = name(Stored::Unknown);
    assert!(told.is_none() && unknown.contains(&"name".to_owned()), "only Postgres knows which of them is newer: {unknown:?}");
}

#[test]
fn members_are_found_in_whatever_postgres_prints() {
    let deep = format!("{{\"a\\\"b\":{}{},\"c\" : \"x,}}\\\\\"}}", "[".repeat(1_000), "]".repeat(1_000));
    let found = members(&deep);
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a\"b", "c"]);
    assert_eq!((found[0].1.len(), found[1].1), (2_000, r#""x,}\\""#));
    assert_eq!(members("{}"), Vec::new());
}
