use super::*;
use crate::{
    collections::{CollectionRules, CollectionSettings},
    grpc::fixtures,
    limits::LimitKind,
    proto::save::Change as ProtoChange,
};

fn save(collection: &str, key: &[&str], json: &str) -> proto::Save {
    proto::Save {
        collection: collection.to_owned(),
        key: key.iter().map(|&part| part.to_owned()).collect(),
        change: Some(ProtoChange::Json(json.to_owned().into())),
        add: Vec::new(),
    }
}

fn delete(collection: &str, key: &[&str]) -> proto::Save {
    proto::Save { change: Some(ProtoChange::Delete(proto::Delete {})), ..save(collection, key, "") }
}

fn check(save: &proto::Save) -> Result<Save, Findings> {
    check_against(&fixtures::collections(), save)
}

fn check_against(collections: &Collections, save: &proto::Save) -> Result<Save, Findings> {
    let limit = |name, max| Limit::new(LimitKind::Size, name, max);
    let (body_bytes, key_bytes) = (limit("grpc.body_bytes_max", 200), limit("grpc.key_bytes_max", 40));
    let rules = Rules { collections, body_bytes: &body_bytes, key_bytes: &key_bytes };
    let mut findings = Findings::default();
    let checked = validate(save, Path::Nth(3), &rules, SystemTime::UNIX_EPOCH, &mut findings);
    checked.ok_or(findings)
}

fn accepted(save: &proto::Save) -> Save {
    check(save).unwrap_or_else(|findings| panic!("{save:?} is refused: {}", findings.violations))
}

/// The first violation.
fn refused(save: &proto::Save) -> (String, String) {
    let findings = check(save).expect_err("it must be refused");
    let first = findings.violations.into_list().swap_remove(0);
    (first.field, first.description)
}

fn assert_refused(save: &proto::Save, field: &str, part_of_why: &str) {
    let (at, why) = refused(save);
    assert_eq!(at, field, "{why}");
    assert!(why.contains(part_of_why), "{why:?} must contain {part_of_why:?}");
}

fn parts(save: &Save) -> Vec<&str> {
    save.key.parts().collect()
}

#[test]
fn a_save_is_taken_with_its_key_canonical_and_its_body_as_sent() {
    let taken = accepted(&save("players", &["007"], r#"{"name": "a\n", "level": 1.0, "note": {"b": [1]}}"#));
    assert_eq!(parts(&taken), ["7"]);
    assert_eq!(taken.change, Change::Set(Body::parse(br#"{"name": "a\n", "level": 1.0, "note": {"b": [1]}}"#).expect("a body")));
    let collections = fixtures::collections();
    assert_eq!(collections.get(taken.collection).column_names(&taken.columns), ["name", "level", "note"]);
    assert!(taken.origin.is_none() && taken.batch_left == 0);
}

#[test]
fn a_key_may_stand_in_the_body_alone_or_in_both() {
    for json in [r#"{"id": 7, "name": "x"}"#, r#"{"name": "x", "id": "+7"}"#] {
        let taken = accepted(&save("players", &[], json));
        assert_eq!(parts(&taken), ["7"]);
        assert_eq!(taken.columns.iter().count(), 1, "key columns are left out");
    }
    assert_eq!(parts(&accepted(&save("players", &["7"], r#"{"id": "07", "name": "x"}"#))), ["7"]);
    let taken = accepted(&save("items", &[], r#"{"slot": 2, "owner": "A0EEBC999C0B4EF8BB6D6BB9BD380A11"}"#));
    assert_eq!(parts(&taken), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "2"], "in the order of the key, a link alone is enough");
}

#[test]
fn a_delete_needs_the_key_only() {
    let taken = accepted(&delete("players", &["7"]));
    assert_eq!((taken.change.clone(), parts(&taken)), (Change::Delete, vec!["7"]));
    assert_refused(&delete("players", &[]), "saves[3].key", "is missing: give id");
}

#[test]
fn rows_of_an_append_collection_have_no_key_and_stay() {
    let taken = accepted(&save("events", &[], r#"{"at": "2026-01-31 12:00:00", "what": "x"}"#));
    assert_eq!(taken.change, Change::Append(Body::parse(br#"{"at": "2026-01-31 12:00:00", "what": "x"}"#).expect("a body")));
    assert_eq!(taken.key, Key::none());
    assert_refused(&save("events", &["1"], r#"{"what": "x"}"#), "saves[3].key", "only added");
    assert_refused(&delete("events", &["1"]), "saves[3].delete", "only added");
}

#[test]
fn an_unknown_collection_is_answered_with_the_known_ones() {
    let (field, why) = refused(&save("player", &["1"], "{}"));
    assert_eq!(field, "saves[3].collection");
    assert_eq!(why, r#""player" is unknown: did you mean "players"? there are events, items, players"#);
    assert_refused(&save("", &["1"], "{}"), "saves[3].collection", "\"\" is unknown: there are events");
    assert_refused(&save(&"x".repeat(10_000), &["1"], "{}"), "saves[3].collection", "there are events");
    assert_refused(&save("summary", &["1"], "{}"), "saves[3].collection", "it is a view");
    assert!(check(&save("player", &["1"], "{}")).expect_err("refused").unknown_name);
}

#[test]
fn an_unknown_column_is_answered_with_the_nearest_one() {
    assert_refused(&save("players", &["1"], r#"{"nmae": 1}"#), "saves[3].json.nmae", "is no column of players: did you mean \"name\"?");
    assert_refused(&save("players", &["1"], r#"{"": 1}"#), "saves[3].json.", "is no column of players");
    let (_, why) = refused(&save("players", &["1"], r#"{"zzzzzzzz": 1}"#));
    assert_eq!(why, "is no column of players");
    assert!(check(&save("players", &["1"], r#"{"nmae": 1}"#)).expect_err("refused").unknown_name);
}

#[test]
fn columns_that_postgres_generates_are_refused_outside_of_the_key() {
    assert_refused(&save("players", &["1"], r#"{"total": 1}"#), "saves[3].json.total", "is a generated column: leave it out");
    assert_refused(&save("players", &["1"], r#"{"number": 1}"#), "saves[3].json.number", "identity");
    accepted(&save("players", &[], r#"{"id": 1, "name": "x"}"#));
}

#[test]
fn bodies_that_are_no_object_of_distinct_members_are_refused() {
    for (json, why) in [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("[1]", "is an array"),
        ("\"x\"", "is a string"),
        ("null", "is null"),
        ("{}", "is empty"),
        (r#"{"name": 1, "name": 2}"#, "names \"name\" more than once"),
        (r#"{"name": "a\u0000"}"#, "NUL"),
        (r#"{"name": "\ud800"}"#, "surrogate"),
        ("{\"name\": \"\u{0}\"}", "no valid JSON"),
    ] {
        assert_refused(&save("players", &["1"], json), "saves[3].json", why);
    }
    let utf16 = proto::Save { change: Some(ProtoChange::Json(vec![0xff, 0xfe, b'{', 0].into())), ..save("players", &["1"], "") };
    assert_refused(&utf16, "saves[3].json", "no valid JSON");
    assert_refused(
        &save("players", &["1"], &format!(r#"{{"name": "{}"}}"#, "x".repeat(200))),
        "saves[3].json",
        "grpc.body_bytes_max = 200",
    );
}

#[test]
fn values_that_their_column_can_not_take_are_refused() {
    assert_refused(&save("players", &["1"], r#"{"name": ["x"]}"#), "saves[3].json.name", "takes a single value");
    assert_refused(&save("events", &[], r#"{"at": "now"}"#), "saves[3].json.at", "relative");
    accepted(&save("players", &["1"], r#"{"name": null, "note": [1, 2]}"#));
}

#[test]
fn a_change_has_to_be_named() {
    assert_refused(&proto::Save { change: None, ..save("players", &["1"], "") }, "saves[3].change", "set `json` or `delete`");
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    for (key, json, field, why) in [
        (&[][..], r#"{"name": "x"}"#, "saves[3].key", "is missing: give id in `key` or in the body"),
        (&["1", "2"], r#"{"name": "x"}"#, "saves[3].key", "has 2 parts of one character: pass a list like [\"42\"]"),
        (&["10", "2"], r#"{"name": "x"}"#, "saves[3].key", "has 2 parts, but the key has 1: id"),
        (&["x"], r#"{"name": "x"}"#, "saves[3].key[0]", "is no id: it must be a whole number from"),
        (&["9223372036854775808"], r#"{"name": "x"}"#, "saves[3].key[0]", "must be a whole number"),
        (&["1"], r#"{"id": 2, "name": "x"}"#, "saves[3].json.id", "contradicts the key, which says \"1\""),
        (&["1"], r#"{"id": "x", "name": "x"}"#, "saves[3].json.id", "must be a whole number"),
        (&[], r#"{"id": null, "name": "x"}"#, "saves[3].json.id", "can't be null"),
        (&[], r#"{"id": [1], "name": "x"}"#, "saves[3].json.id", "takes a single value"),
        (&[], r#"{"id": 1.5, "name": "x"}"#, "saves[3].json.id", "must be a whole number"),
    ] {
        assert_refused(&save("players", key, json), field, why);
    }
    assert_refused(
        &save("items", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], r#"{"count": 1}"#),
        "saves[3].key",
        "but the key has 2: owner, slot",
    );
    assert_refused(&save("players", &[&"1".repeat(41)], r#"{"name": "x"}"#), "saves[3].key", "grpc.key_bytes_max = 40");
    let in_body = format!(r#"{{"id": {}, "name": "x"}}"#, "1".repeat(41));
    assert_refused(&save("players", &[], &in_body), "saves[3].json", "grpc.key_bytes_max = 40");
}

#[test]
fn everything_wrong_with_a_save_is_told_at_once() {
    let findings = check(&save("players", &["x"], r#"{"nmae": 1, "total": 2, "name": {}}"#)).expect_err("refused");
    let fields: Vec<_> = findings.violations.list().iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["saves[3].json.nmae", "saves[3].json.total", "saves[3].json.name", "saves[3].key[0]"]);
}

fn adding(key: &[&str], json: &str, add: &[&str]) -> proto::Save {
    proto::Save { add: add.iter().map(|&name| name.to_owned()).collect(), ..save("players", key, json) }
}

#[test]
fn what_is_added_stands_in_front_of_the_body_as_its_column_holds_it() {
    let taken = accepted(&adding(&["1"], r#"{ "name" : "x", "level": 1.005 }"#, &["level"]));
    assert_eq!(taken.change.body().map(Body::as_str), Some(r#"{"level":1.01,"name":"x"}"#));
    let (collections, players) = (fixtures::collections(), taken.collection);
    let (level, column) = collections.get(players).column("level").expect("a column");
    assert_eq!(*taken.adds, [Added { column: level, form: column.number }]);
    assert_eq!(taken.columns.len(), 2);
    let items = proto::Save {
        collection: "items".to_owned(),
        ..adding(&[], r#"{"slot": 1, "owner": "A0EEBC999C0B4EF8BB6D6BB9BD380A11", "count": "1e2"}"#, &["count"])
    };
    assert!(accepted(&items).change.body().is_some_and(|body| body.as_str().starts_with(r#"{"count":100,"#)));
}

#[test]
fn what_can_not_be_added_is_refused() {
    let json = r#"{"level": 1, "name": "x", "note": 1}"#;
    assert_refused(&adding(&["1"], json, &["levle"]), "saves[3].add[0]", "is \"levle\", which is no member of `json`");
    assert_refused(&adding(&["1"], json, &["level", "level"]), "saves[3].add[1]", "or is named twice");
    assert_refused(&adding(&["1"], json, &["level", "name", "note", "level"]), "saves[3].add", "more names than `json` has members");
    assert_refused(&adding(&["1"], json, &["name"]), "saves[3].json.name", "is text: only integer and numeric columns are added to");
    assert_refused(&adding(&["1"], json, &["note"]), "saves[3].json.note", "is jsonb");
    assert_refused(&adding(&[], r#"{"id": 1, "level": 1}"#, &["id"]), "saves[3].json.id", "is a key column");
    assert_refused(&adding(&["1"], r#"{"total": 1}"#, &["total"]), "saves[3].json.total", "is a generated column");
    for (value, why) in
        [("null", "finite number"), ("\"NaN\"", "finite number"), ("10000", "takes numeric(6,2)"), ("1e1001", "more than 1000 digits")]
    {
        assert_refused(&adding(&["1"], &format!("{{\"level\": {value}}}"), &["level"]), "saves[3].json.level", why);
    }
    assert_refused(&proto::Save { add: vec!["level".to_owned()], ..delete("players", &["1"]) }, "saves[3].add", "not for a delete");
    let event = proto::Save { add: vec!["what".to_owned()], ..save("events", &[], r#"{"what": "1"}"#) };
    assert_refused(&event, "saves[3].add", "only added");
}

/// Collections of which `items` has its column `count` as the version.
fn versioned(column: &str) -> Collections {
    let settings = CollectionSettings { version_column: Some(column.to_owned()), ..CollectionSettings::default() };
    let rules = CollectionRules {
        schemas: vec!["public".to_owned()],
        named: [("items".to_owned(), settings)].into(),
        ..CollectionRules::default()
    };
    Collections::build(&fixtures::catalog(), &rules, &Collections::default())
}

#[test]
fn a_save_of_a_versioned_collection_names_its_version() {
    let collections = versioned("count");
    let key = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "2"];
    let version = |json: &str| check_against(&collections, &save("items", &key, json)).map(|save| save.version);
    assert_eq!(version(r#"{"count": 7}"#).ok(), Some(Some(7)));
    assert_eq!(version(r#"{"count": "-8"}"#).ok(), Some(Some(-8)));
    assert_eq!(check_against(&collections, &delete("items", &key)).ok().map(|save| save.version), Some(None));
    for (json, field, why) in [
        (r#"{"slot": 2}"#, "saves[3].json", "lacks count, the version column"),
        (r#"{"count": null}"#, "saves[3].json.count", "can't be null"),
        (r#"{"count": 1.0}"#, "saves[3].json.count", "takes an integer"),
        (r#"{"count": 2147483648}"#, "saves[3].json.count", "takes an integer"),
        (r#"{"count": true}"#, "saves[3].json.count", "takes an integer"),
    ] {
        let told = version(json).expect_err("refused").violations.into_list().swap_remove(0);
        assert_eq!(told.field, field);
        assert!(told.description.contains(why), "{}", told.description);
    }
    let added = proto::Save { add: vec!["count".to_owned()], ..save("items", &key, r#"{"count": 1}"#) };
    let told = check_against(&collections, &added).expect_err("refused").violations.into_list().swap_remove(0);
    assert_eq!(told.description, "is the version column, which is only set");
}

#[test]
fn a_version_column_that_is_none_makes_no_collection() {
    for (column, why) in [("amount", "it has no column \"amount\""), ("slot", "is part of the key")] {
        let collections = versioned(column);
        let refused = collections.refused().iter().find(|table| table.name == "items").expect("refused");
        assert!(refused.named && refused.reason.contains(why), "{}", refused.reason);
    }
}
