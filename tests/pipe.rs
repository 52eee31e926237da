//! The main job: saves go in over gRPC, rows come out in Postgres.

use forebay::proto::{FlushRequest, GetStatusRequest, ListCollectionsRequest, SaveBatchRequest, TicketState};
use serde_json::json;

use crate::support::{
    Database, Setup, database_rows as rows, directory, eventually,
    saves::{batch, delete, request, set},
};

const SCHEMA: &str = r#"
    create table guilds (id int primary key, name text not null, motto text default 'none');
    create table players (
        id bigint primary key,
        guild_id int references guilds (id),
        name text not null,
        level int not null default 1,
        tags text[],
        extra jsonb,
        score numeric(20, 5),
        seen timestamptz,
        shout text generated always as (upper(name)) stored
    );
    create table log (line text not null, at int);
    create table "Odd Table" ("Key Part" text, "select" uuid, value text, primary key ("Key Part", "select"));
    create table keyless (a int);
    create view everyone as select * from players;
    create unlogged table scratch (id int primary key);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_save_becomes_a_row() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let body = json!({"name": "Ann", "score": 12.5, "tags": ["a", "b\"c"], "extra": {"k": [1, 2]}, "seen": "2026-01-02T03:04:05+02"});
    let answer = client.save(request(set("players", &["42"], body))).await.expect("accepted").into_inner();
    assert_eq!(answer.state(), TicketState::Pending);
    assert!(!answer.ticket.is_empty());
    client.flush(FlushRequest::default()).await.expect("flushed");
    let sql = "set timezone to utc; select id, name, level, score, tags, extra, seen, shout from players";
    let expected = [[
        Some("42"),
        Some("Ann"),
        Some("1"),
        Some("12.50000"),
        Some(r#"{a,"b\"c"}"#),
        Some(r#"{"k": [1, 2]}"#),
        Some("2026-01-02 01:04:05+00"),
        Some("ANN"),
    ]];
    assert_eq!(database.rows(sql).await, rows(expected));
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.last()["saves_left"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_fold_and_columns_not_named_keep_their_values() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into guilds values (1, 'Old', 'keep')").await;
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let saves = vec![
        set("players", &["1"], json!({"name": "A", "guild_id": 1, "level": 5})),
        set("guilds", &["1"], json!({"name": "New"})),
        set("players", &["1"], json!({"level": 6})),
        set("players", &["2"], json!({"name": "B", "level": 9})),
        delete("players", &["2"]),
        set("players", &["3"], json!({"name": "C", "level": 9})),
        delete("players", &["3"]),
        set("players", &["3"], json!({"name": "D"})),
        set("players", &["4"], json!({"name": "E", "score": null})),
    ];
    client.save_batch(batch(saves)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let players = database.rows("select id, guild_id, name, level from players order by id").await;
    let expected =
        [[Some("1"), Some("1"), Some("A"), Some("6")], [Some("3"), None, Some("D"), Some("1")], [Some("4"), None, Some("E"), Some("1")]];
    assert_eq!(players, rows(expected));
    assert_eq!(database.rows("select name, motto from guilds").await, rows([[Some("New"), Some("keep")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_and_children_may_come_in_any_order() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("lanes.default.window", "1 s").start().await;
    let mut client = daemon.client().await;
    // One transaction: the parent of a later save stands before its child, whatever the order of the saves.
    let saves = vec![set("players", &["1"], json!({"name": "A", "guild_id": 7})), set("guilds", &["7"], json!({"name": "G"}))];
    let request = SaveBatchRequest { atomic: true, ..batch(saves) };
    client.save_batch(request).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players join guilds on guilds.id = guild_id").await, 1);
    let gone = vec![delete("guilds", &["7"]), delete("players", &["1"])];
    client.save_batch(SaveBatchRequest { atomic: true, ..batch(gone) }).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await + database.number("select count(*) from guilds").await, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn append_collections_keep_every_save_in_order() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.log.mode", "append");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let saves = (0..50).map(|n| set("log", &[], json!({"line": "same", "at": n}))).collect();
    client.save_batch(batch(saves)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let expected: Vec<_> = (0..50).map(|n| vec![Some(n.to_string())]).collect();
    assert_eq!(database.rows("select at from log order by ctid").await, expected);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_and_composite_keys_work() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let id = "6F9619FF-8B86-D011-B42D-00C04FC964FF";
    client.save(request(set("Odd Table", &["it's \"odd\"", id], json!({"value": "x"})))).await.expect("accepted");
    client
        .save(request(set("Odd Table", &[], json!({"Key Part": "it's \"odd\"", "select": id.to_lowercase(), "value": "y"}))))
        .await
        .expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let found = database.rows(r#"select "Key Part", "select", value from "Odd Table""#).await;
    assert_eq!(found, rows([[Some("it's \"odd\""), Some("6f9619ff-8b86-d011-b42d-00c04fc964ff"), Some("y")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_and_refused_tables_are_listed() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let list = daemon.client().await.list_collections(ListCollectionsRequest::default()).await.expect("listed").into_inner();
    let names: Vec<_> = list.collections.iter().map(|collection| collection.name.as_str()).collect();
    assert_eq!(names, ["Odd Table", "guilds", "players"]);
    let reason =
        |name: &str| list.refused_tables.iter().find(|table| table.name == name).map(|table| table.reason.clone()).unwrap_or_default();
    assert!(reason("keyless").contains("no primary key"), "{}", reason("keyless"));
    assert!(reason("everyone").contains("view"), "{}", reason("everyone"));
    assert!(reason("scratch").contains("unlogged"), "{}", reason("scratch"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_postgres_refuses_fails_alone_and_is_kept() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("23503").expect_in_log("22P02");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let mut saves: Vec<_> = (0..500).map(|n| set("players", &[&n.to_string()], json!({"name": "fine"}))).collect();
    saves.insert(123, set("players", &["1001"], json!({"name": "orphan", "guild_id": 99})));
    saves.insert(321, set("players", &["1002"], json!({"name": "wrong", "level": "high"})));
    client.save_batch(batch(saves)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await, 500);
    let failed = database.rows("select collection, key, sqlstate, constraint_name from forebay.failed_save order by sequence").await;
    let expected = [
        [Some("players"), Some("{1001}"), Some("23503"), Some("players_guild_id_fkey")],
        [Some("players"), Some("{1002}"), Some("22P02"), None],
    ];
    assert_eq!(failed, rows(expected));
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("status").into_inner().status.expect("a status");
    assert_eq!(status.failed_saves, 2);
    let newest: Vec<_> = status.newest_failed_saves.iter().map(|failed| failed.key.join("/")).collect();
    assert_eq!(newest, ["1002", "1001"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_fails_as_one() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log("23503").start().await;
    let mut client = daemon.client().await;
    let good = |n: u32| set("players", &[&n.to_string()], json!({"name": "fine"}));
    client.save(request(good(1))).await.expect("accepted");
    let saves = vec![good(2), set("players", &["3"], json!({"name": "orphan", "guild_id": 99})), good(4)];
    client.save_batch(SaveBatchRequest { atomic: true, ..batch(saves) }).await.expect("accepted");
    client.save(request(good(5))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.rows("select id from players order by id").await, rows([[Some("1")], [Some("5")]]));
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_while_it_runs_can_be_saved() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    database.execute("alter table guilds add column colour text").await;
    // The catalog is read again for an unknown column, at most once a second.
    eventually("the new column is known", || {
        let mut client = client.clone();
        async move { client.save(request(set("guilds", &["1"], json!({"name": "G", "colour": "red"})))).await.ok() }
    })
    .await;
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.rows("select colour from guilds").await, rows([[Some("red")]]));
    daemon.stop().await;
}
