//! What a catalog may call things, given any text.

use std::fmt::Write;

use super::statements::{self, Upsert};
use crate::{
    collections::{
        Catalog, CatalogColumn, CatalogTable, CollectionRules, Collections, Identity, KeyForm, TableKind, UniqueIndex, ValueForm,
    },
    save::ColumnSet,
};

/// Schema, table, key and column, parted by NUL: whatever they are, statements differ in nothing but these names.
pub(crate) fn names(text: &str) {
    let mut parts = text.splitn(4, '\0');
    let mut next = |otherwise: &str| parts.next().unwrap_or(otherwise).to_owned();
    let names = [next("schema"), next("table"), next("key"), next("column")];
    let plain = ["s", "t", "k", "c"].map(str::to_owned);
    if names[2] == names[3] {
        return;
    }
    let [(skeleton, named), (plain_skeleton, plain_named)] = [&names, &plain].map(|names| parted(&sql(names)));
    assert_eq!(skeleton, plain_skeleton);
    let expected: Vec<_> = plain_named.iter().map(|name| plain.iter().position(|plain| plain == name).map(|at| &names[at])).collect();
    assert!(named.iter().map(Some).eq(expected), "{named:?} for {names:?}");
}

/// Every statement about a table of these names.
fn sql(names: &[String; 4]) -> String {
    let [schema, table, key, column] = names.clone();
    let field = |name: &str, key_form: Option<KeyForm>| CatalogColumn {
        name: name.to_owned(),
        cast: "text".to_owned(),
        form: ValueForm::Scalar,
        not_null: key_form.is_some(),
        number: None,
        key_form,
        identity: Identity::No,
        generated: false,
    };
    let unique = UniqueIndex { columns: vec![key.clone()], primary: true, deferrable: false };
    let found = CatalogTable {
        schema: schema.clone(),
        name: table,
        kind: TableKind::Ordinary,
        unlogged: false,
        columns: vec![field(&key, Some(KeyForm::Text { chars_max: None })), field(&column, None)],
        unique: vec![unique],
        fingerprint: Default::default(),
        triggers_skip: true,
        rules: false,
    };
    let catalog = Catalog { tables: vec![found], foreign_keys: Vec::new() };
    let rules = CollectionRules { schemas: vec![schema], ..CollectionRules::default() };
    let collections = Collections::build(&catalog, &rules, &Collections::default());
    let mut text = String::new();
    for collection in collections.iter() {
        let (mut set, none) = (ColumnSet::default(), ColumnSet::default());
        set.insert(1);
        for replace in [false, true] {
            let upsert = Upsert { set: &set, adds: &none, replace, version: None };
            writeln!(text, "{}", statements::upsert(collection, upsert)).expect("text grows");
        }
        let versioned = Upsert { set: &set, adds: &none, replace: false, version: Some(1) };
        writeln!(text, "{}", statements::upsert(collection, versioned)).expect("text grows");
        writeln!(text, "{}", statements::delete(collection)).expect("text grows");
        writeln!(text, "{}", statements::append(collection, &set)).expect("text grows");
    }
    text
}

/// What stands outside of quoted names, and the names.
fn parted(sql: &str) -> (String, Vec<String>) {
    let (mut outside, mut names) = (String::new(), Vec::new());
    let mut rest = sql;
    while let Some((before, quoted)) = rest.split_once('"') {
        outside.push_str(before);
        outside.push('"');
        let mut name = String::new();
        rest = quoted;
        loop {
            let (part, after) = rest.split_once('"').expect("a quote is closed");
            name.push_str(part);
            rest = after;
            let Some(after) = rest.strip_prefix('"') else { break };
            name.push('"');
            rest = after;
        }
        names.push(name);
    }
    outside.push_str(rest);
    (outside, names)
}
