use super::*;
use crate::{
    collections::{
        Catalog, CatalogColumn, CatalogTable, CollectionRules, Collections, Identity, KeyForm, TableKind, UniqueIndex, ValueForm,
    },
    save::ColumnIndex,
};

fn column(name: &str, cast: &str, form: ValueForm) -> CatalogColumn {
    let (name, cast) = (name.to_owned(), cast.to_owned());
    CatalogColumn {
        name,
        cast,
        form,
        key_form: Some(KeyForm::Int8),
        number: None,
        not_null: false,
        identity: Identity::No,
        generated: false,
    }
}

/// `t (k, a, b, "c""d")` with the key `k`.
fn collections(identity: Identity) -> Collections {
    let mut key = column("k", "bigint", ValueForm::Scalar);
    key.identity = identity;
    let columns = vec![
        key,
        column("a", "character varying", ValueForm::Scalar),
        column("b", "jsonb", ValueForm::Json),
        column("c\"d", "integer[]", ValueForm::Array(Box::new(ValueForm::Scalar))),
    ];
    of_table("s", "t", columns)
}

/// A table whose key is its first column.
fn of_table(schema: &str, name: &str, columns: Vec<CatalogColumn>) -> Collections {
    let unique = vec![UniqueIndex { columns: vec![columns[0].name.clone()], primary: true, deferrable: false }];
    let table = CatalogTable {
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: TableKind::Ordinary,
        unlogged: false,
        columns,
        unique,
        triggers_skip: false,
        rules: false,
        fingerprint: Default::default(),
    };
    let rules = CollectionRules { schemas: vec![schema.to_owned()], ..CollectionRules::default() };
    Collections::build(&Catalog { tables: vec![table], foreign_keys: Vec::new() }, &rules, &Collections::default())
}

fn set(columns: &[ColumnIndex]) -> ColumnSet {
    columns.iter().copied().collect()
}

fn upsert_of(collection: &Collection, columns: &[ColumnIndex], replace: bool) -> String {
    upsert(collection, Upsert { set: &set(columns), adds: &ColumnSet::EMPTY, replace, version: None })
}

#[test]
fn an_upsert_updates_and_inserts_what_is_missing() {
    let collections = collections(Identity::No);
    let expected = r#"with u as materialized (select p.n, p.c1::bigint as c1, p.c2::character varying as c2 from unnest($1, $2) with ordinality as p(c1, c2, n)), changed as (update "s"."t" as t set "a" = u.c2 from u where t."k" = u.c1 returning u.n), added as (insert into "s"."t" ("k", "a") select u.c1, u.c2 from u where not exists (select from changed as c where c.n = u.n) order by u.n returning 1) select (select count(*) from changed), (select count(*) from added)"#;
    assert_eq!(upsert_of(collections.named("t").expect("a collection"), &[1], false), expected);
}

#[test]
fn the_bare_loop_of_the_bench_sends_what_we_send() {
    let columns = [
        ("id", "bigint", ValueForm::Scalar),
        ("name", "text", ValueForm::Scalar),
        ("level", "integer", ValueForm::Scalar),
        ("score", "bigint", ValueForm::Scalar),
        ("seen_at", "timestamp with time zone", ValueForm::Time),
        ("inventory", "jsonb", ValueForm::Json),
    ];
    let collections = of_table("public", "players", columns.into_iter().map(|(name, cast, form)| column(name, cast, form)).collect());
    let ours = upsert_of(collections.named("players").expect("a collection"), &[1, 2, 3, 4, 5], false);
    assert_eq!(crate::bench::UNNEST.replace("::text[]", ""), ours);
}

#[test]
fn a_replace_gives_every_other_column_its_default() {
    let collections = collections(Identity::No);
    let collection = collections.named("t").expect("a collection");
    assert!(upsert_of(collection, &[2], true).contains(r#"set "b" = u.c2, "a" = default, "c""d" = default from u"#));
    assert!(upsert_of(collection, &[], true).contains(r#"set "a" = default, "b" = default, "c""d" = default from u"#));
    assert!(!upsert_of(collection, &[], false).contains("update"));
}

#[test]
fn what_is_added_is_added_to_the_row_that_is_there_and_inserted_as_it_is() {
    let collections = collections(Identity::No);
    let sql = upsert(
        collections.named("t").expect("a collection"),
        Upsert { set: &set(&[1, 3]), adds: &set(&[3]), replace: false, version: None },
    );
    assert!(sql.contains(r#"set "a" = u.c2, "c""d" = coalesce(t."c""d", 0) + u.c3 from u"#), "{sql}");
    assert!(sql.contains(r#"("k", "a", "c""d") select u.c1, u.c2, u.c3 from u"#), "{sql}");
}

#[test]
fn a_version_guards_the_row_that_is_there() {
    let collections = collections(Identity::No);
    let sql = upsert(
        collections.named("t").expect("a collection"),
        Upsert { set: &set(&[1, 2]), adds: &ColumnSet::EMPTY, replace: false, version: Some(2) },
    );
    assert!(sql.contains(r#"from u where t."k" = u.c1 and (t."b" is null or t."b" < u.c3) returning u.n"#), "{sql}");
    assert!(sql.contains(r#"from u where not exists (select from "s"."t" as t where t."k" = u.c1) order by"#), "{sql}");
    assert!(
        sql.ends_with(r#"array(select u.n from u where exists (select from "s"."t" as t where t."k" = u.c1 and t."b" >= u.c3))"#),
        "{sql}"
    );
}

#[test]
fn a_key_column_in_the_set_is_named_once() {
    let collections = collections(Identity::No);
    let collection = collections.named("t").expect("a collection");
    for replace in [false, true] {
        assert_eq!(upsert_of(collection, &[0, 2], replace), upsert_of(collection, &[2], replace));
        assert_eq!(upsert_of(collection, &[0], replace), upsert_of(collection, &[], replace));
    }
}

#[test]
fn structured_columns_are_read_as_the_member_of_a_record() {
    let collections = collections(Identity::No);
    let sql = upsert_of(collections.named("t").expect("a collection"), &[3], false);
    let expected = "(select v from json_to_record(json_build_object('v', p.c2::json)) as r(v integer[])) as c2 from unnest";
    assert!(sql.contains(expected), "{sql}");
}

#[test]
fn a_row_that_a_trigger_may_leave_out_of_the_update_is_not_missing() {
    let mut collection = Collection::clone(collections(Identity::No).named("t").expect("a collection"));
    collection.triggers_skip = true;
    let expected =
        r#"where not exists (select from changed as c where c.n = u.n) and not exists (select from "s"."t" as t where t."k" = u.c1)"#;
    let sql = upsert_of(&collection, &[1], false);
    assert!(sql.contains(expected), "{sql}");
}

#[test]
fn a_key_that_postgres_would_generate_is_written_as_it_is() {
    let insert = "insert into \"s\".\"t\" (\"k\", \"a\")";
    for (identity, expected) in [(Identity::Always, " overriding system value select"), (Identity::ByDefault, " select")] {
        let collections = collections(identity);
        let sql = upsert_of(collections.named("t").expect("a collection"), &[1], false);
        assert!(sql.contains(&format!("{insert}{expected}")), "{sql}");
    }
}
