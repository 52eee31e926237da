//! Keys: every type that a key may have, every spelling of it one object; and tables whose keys have no canonical form are refused.

use forebay::proto::{FlushRequest, ListCollectionsRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tonic::{Code, transport::Channel};

use crate::support::{
    Database, Setup, directory,
    saves::{batch, delete, request, set},
};

const TYPES: &str = "
    create type mood as enum ('sad', 'so so', '{x}');
    create domain code as varchar(4) check (value <> 'bad'); create domain codes as code;
    create domain amount as numeric(8, 2); create domain moods as mood;
    create collation folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false);";

/// A key's type, two spellings of one value, and how Postgres prints it.
const SPELLINGS: [(&str, &str, &str, &str); 20] = [
    ("int2", "-32768", "-0032768", "-32768"),
    ("int4", "7", "+7", "7"),
    ("int8", "9223372036854775807", "09223372036854775807", "9223372036854775807"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bool", "true", "t", "true"),
    ("text", "", "", ""),
    ("text", " x\n", " x\n", " x\n"),
    ("varchar", "e\u{301}", "e\u{301}", "e\u{301}"),
    ("varchar(3)", "\u{1F600}\u{1F600}\u{1F600}", "\u{1F600}\u{1F600}\u{1F600}", "\u{1F600}\u{1F600}\u{1F600}"),
    ("bytea", "\\xDEADBEEF", "\\xdeadbeef", "\\xdeadbeef"),
    ("bytea", "\\x", "\\x", "\\x"),
    ("date", "2024-02-29", "2024-02-29", "2024-02-29"),
    ("timestamp", "2024-02-29 12:00:00.500000", "2024-02-29T12:00:00.5", "2024-02-29 12:00:00.5"),
    ("timestamptz", "2024-02-29T12:00:00Z", "2024-02-29 14:00:00+02:00", "2024-02-29 12:00:00+00"),
    ("mood", "so so", "so so", "so so"),
    ("numeric(8,2)", "1.5", "001.500", "1.50"),
    ("codes", "a\"b'", "a\"b'", "a\"b'"),
    ("amount", "-0", "0.00", "0.00"),
    ("moods", "{x}", "{x}", "{x}"),
    ("text", "NULL", "NULL", "NULL"),
];

async fn flush(client: &mut SaveServiceClient<Channel>) {
    client.flush(FlushRequest::default()).await.expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_spellings_of_a_key_are_one_object_in_every_key_type() {
    let tables: String = (0..).zip(SPELLINGS).map(|(n, (of, ..))| format!("create table k{n} (k {of} primary key, v int);")).collect();
    let (database, journal) = (Database::with(&format!("{TYPES}{tables}")).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    for (n, (of, one, other, printed)) in SPELLINGS.into_iter().enumerate() {
        let (table, check) = (format!("k{n}"), format!("set timezone = 'UTC'; select k::text, v from k{n}"));
        let row = |v: &str| vec![vec![Some(printed.to_owned()), Some(v.to_owned())]];
        // Folded together, then found again, then given in the body.
        client
            .save_batch(batch(vec![set(&table, &[one], json!({"v": 1})), set(&table, &[other], json!({"v": 2}))]))
            .await
            .expect("accepted");
        flush(&mut client).await;
        assert_eq!(database.rows(&check).await, row("2"), "{of}");
        client.save(request(set(&table, &[other], json!({"v": 3, "k": one})))).await.expect("accepted");
        flush(&mut client).await;
        assert_eq!(database.rows(&check).await, row("3"), "{of}");
        client.save(request(set(&table, &[], json!({"k": other, "v": 4})))).await.expect("accepted");
        flush(&mut client).await;
        assert_eq!(database.rows(&check).await, row("4"), "{of}");
        client.save(request(delete(&table, &[one]))).await.expect("accepted");
        flush(&mut client).await;
        assert_eq!(database.rows(&check).await, [] as [Vec<_>; 0], "{of}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_only_look_alike_are_different_objects() {
    let odd =
        ["", " ", "  ", "\u{e9}", "e\u{301}", "E", "e", "{}", "{a,b}", "\"", "'", "\\", "\\\\", "NULL", "null", "\u{1}", "\n", "\r\n"];
    let more = ["\u{1F600}", "\u{200d}", "\u{feff}x", "x", "\u{202e}x", "\u{ff58}", "\u{10ffff}", "\u{ffff}", "%s", "$1", "--", ";"];
    let long = "\u{e9}".repeat(512);
    let texts: Vec<_> = odd.into_iter().chain(more).chain([long.as_str()]).collect();
    let schema = "create table alone (k text primary key, v text); create table pairs (b text, v text, a varchar, primary key (a, b))";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    for round in 0..2 {
        let mut saves: Vec<_> = texts.iter().map(|text| set("alone", &[text], json!({"v": format!("{round}{text}")}))).collect();
        for a in &texts[..texts.len() - 1] {
            saves.extend(texts[..texts.len() - 1].iter().map(|b| set("pairs", &[a, b], json!({"v": format!("{round}{a}|{b}")}))));
        }
        client.save_batch(batch(saves)).await.expect("accepted");
        flush(&mut client).await;
        let counts = [texts.len(), (texts.len() - 1) * (texts.len() - 1)].map(|count| count as u64);
        assert_eq!(database.number(&format!("select count(*) from alone where v = '{round}' || k")).await, counts[0]);
        assert_eq!(database.number(&format!("select count(*) from pairs where v = '{round}' || a || '|' || b")).await, counts[1]);
    }
    client.save(request(set("alone", &["a\u{0}"], json!({"v": "x"})))).await.expect_err("NUL is no text");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_was_added_since_is_a_key_at_once() {
    let (database, journal) = (Database::with(&format!("{TYPES} create table t (k mood primary key, v int)")).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let save = |label: &str| request(set("t", &[label], json!({"v": 1})));
    let status = client.save(save("new")).await.expect_err("no label");
    assert!(status.code() == Code::InvalidArgument && status.message().contains("\"sad\", \"so so\""), "{status:?}");
    database.execute("alter type mood add value 'new'").await;
    // The catalog is read again at most once a second.
    crate::support::eventually("the new label is known", || {
        let mut client = client.clone();
        let request = save("new");
        async move { client.save(request).await.ok() }
    })
    .await;
    flush(&mut client).await;
    assert_eq!(database.number("select count(*) from t where k = 'new'").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_whose_keys_have_no_canonical_form_are_refused_with_the_reason() {
    let types = [
        "float8",
        "real",
        "numeric",
        "numeric(2,-1)",
        "char(3)",
        "bpchar",
        "name",
        "\"char\"",
        "text collate folding",
        "codes collate folding",
        "timestamp(3)",
        "timestamptz(0)",
        "time",
        "timetz",
        "interval",
        "inet",
        "cidr",
        "macaddr",
        "jsonb",
        "int4[]",
        "int4range",
        "int4multirange",
        "bit(3)",
        "varbit",
        "money",
        "oid",
        "pg_lsn",
        "tsvector",
        "regclass",
        "whole",
    ];
    let tables: String =
        (0..).zip(types).map(|(n, of)| format!("create table k{n} (id int, k {of}, v int, primary key (id, k));")).collect();
    let rest = "create type whole as (a int); create table keyless (id int, v int); create table maybe (id int unique, v int);
                create table made (id int generated always as (v + 1) stored primary key, v int);";
    let schema = format!("{TYPES}{rest}{tables}");
    let (database, journal) = (Database::with(&schema).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.maybe.key", "id").expect_in_log("table is no collection");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let refused = client.list_collections(ListCollectionsRequest::default()).await.expect("listed").into_inner().refused_tables;
    let reason = |name: &str| {
        let found = refused.iter().find(|table| table.name == name);
        found.unwrap_or_else(|| panic!("{name} is refused: {refused:?}")).reason.clone()
    };
    for (n, of) in types.iter().enumerate() {
        assert!(reason(&format!("k{n}")).contains("has no canonical form"), "{of}: {}", reason(&format!("k{n}")));
    }
    for (name, expected) in [("keyless", "no primary key"), ("maybe", "may be null"), ("made", "is generated")] {
        assert!(reason(name).contains(expected), "{name}: {}", reason(name));
    }
    let status = client.save(request(set("k0", &["1", "1.5"], json!({"v": 1})))).await.expect_err("no collection");
    assert!(status.message().contains("has no canonical form"), "{status:?}");
    daemon.stop().await;
}
