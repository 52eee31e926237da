//! Reading what was saved, at once: `Get` and `Load` show every acknowledged save and nothing twice, whatever is pending, being
//! applied, halved or lost on the way.

use std::collections::{BTreeMap, BTreeSet};

use forebay::proto::{
    FlushRequest, GetRequest, GetResponse, LoadRequest, PauseRequest, ResumeRequest, Save, save_service_client::SaveServiceClient,
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};

use crate::support::{
    Daemon, Database, Setup, directory, eventually,
    saves::{batch, delete, request, set, set_text},
};

mod model;

type Client = SaveServiceClient<Channel>;

const SCHEMA: &str = "
    create table players (id bigint primary key, name text, score numeric(10,2), level int not null default 7, note jsonb,
        shout text generated always as (upper(name)) stored);
    create table documents (owner text, at timestamptz, version bigint, body text, primary key (owner, at));
    create table events (number bigserial primary key, what text);
";

async fn start(database: &Database, journal: &std::path::Path) -> Daemon {
    let setup = Setup::new(journal, &database.url())
        .set("collections.documents.version_column", "version")
        .set("collections.events.mode", "append")
        .set("drain.retry_wait_max", "200 ms")
        .expect_in_log("postgres");
    setup.start().await
}

fn get_request(collection: &str, key: &[&str]) -> GetRequest {
    GetRequest { collection: collection.to_owned(), key: key.iter().map(|part| (*part).to_owned()).collect() }
}

async fn get(client: &mut Client, collection: &str, key: &[&str]) -> GetResponse {
    client.get(get_request(collection, key)).await.expect("an answer").into_inner()
}

fn row(response: &GetResponse) -> Value {
    serde_json::from_slice(&response.json).expect("JSON")
}

async fn pause(daemon: &Daemon) {
    daemon.admin().await.pause(PauseRequest { reason: "a test".to_owned(), ..Default::default() }).await.expect("paused");
}

async fn resume(daemon: &Daemon) {
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
}

fn adding(collection: &str, key: &[&str], json: &str, add: &[&str]) -> Save {
    Save { add: add.iter().map(|name| (*name).to_owned()).collect(), ..set_text(collection, key, json) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_shows_what_is_pending_over_what_is_stored_as_it_will_be() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    let at = "2024-02-29 12:00:00+00";
    let stored = vec![
        set("players", &["1"], json!({"name": "Ann", "score": 1.5, "note": {"a": [1, 2]}})),
        set("players", &["2"], json!({"name": "Bo"})),
        set("players", &["3"], json!({"name": "Cy", "level": 9, "score": 3})),
        set("documents", &["a", at], json!({"version": 5, "body": "five"})),
    ];
    client.save_batch(batch(stored)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let first = get(&mut client, "players", &["1"]).await;
    assert_eq!((first.found, first.pending, first.unknown_columns.len()), (true, false, 0));
    let text = r#"{"id":1,"name":"Ann","score":1.50,"level":7,"note":{"a": [1, 2]},"shout":"ANN"}"#;
    assert_eq!(String::from_utf8_lossy(&first.json), text, "as Postgres prints it");
    pause(&daemon).await;
    let pending = vec![
        set("players", &["1"], json!({"name": "Anna"})),
        adding("players", &["1"], r#"{"score": 2.25}"#, &["score"]),
        delete("players", &["2"]),
        delete("players", &["3"]),
        set("players", &["3"], json!({"name": "Cyd"})),
        set("players", &["4"], json!({"name": "Di"})),
        set("documents", &["a", at], json!({"version": 4, "body": "four"})),
        set("documents", &["b", "2024-02-29T13:00:00+01:00"], json!({"version": 1})),
    ];
    client.save_batch(batch(pending)).await.expect("accepted");
    let keys: [(&str, &[&str]); 6] = [
        ("players", &["1"]),
        ("players", &["2"]),
        ("players", &["3"]),
        ("players", &["4"]),
        ("documents", &["a", at]),
        ("documents", &["b", at]),
    ];
    let mut before = Vec::new();
    for (collection, key) in keys {
        before.push(get(&mut client, collection, key).await);
    }
    assert!(before.iter().all(|response| response.pending));
    assert_eq!(before[0].unknown_columns, ["shout"], "what Postgres computes from what is set");
    assert_eq!(before[3].unknown_columns, ["level", "shout"], "what has a default");
    assert_eq!((before[1].found, before[1].json.len()), (false, 0));
    resume(&daemon).await;
    for ((collection, key), before) in keys.into_iter().zip(before) {
        let after = get(&mut client, collection, key).await;
        assert!(!after.pending && after.unknown_columns.is_empty());
        assert_eq!(after.found, before.found, "{collection} {key:?}");
        if after.found {
            let (mut after, before_row) = (row(&after), row(&before));
            after.as_object_mut().expect("an object").retain(|name, _| !before.unknown_columns.contains(name));
            assert_eq!(after, before_row, "{collection} {key:?}");
        }
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_key_is_shown_as_postgres_prints_it() {
    let keys = [
        ("smallint", &["-32768", "007"][..]),
        ("bigint", &["9223372036854775807"]),
        ("numeric(12,3)", &["1.5", "-0", "NaN"]),
        ("boolean", &["t", "false"]),
        ("uuid", &["{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"]),
        ("text", &["", "a \"quoted\" \\ key\u{7}\u{1F600}"]),
        ("bytea", &["\\xDEAD", "\\x"]),
        ("date", &["2024-02-29", "infinity"]),
        ("timestamp", &["2024-02-29 12:00:00.5", "-infinity"]),
        ("timestamptz", &["2024-02-29 12:00:00+02", "infinity"]),
        ("mood", &["so so"]),
    ];
    let tables: String = (0..).zip(&keys).map(|(n, (kind, _))| format!("create table t{n} (k {kind} primary key, v int);")).collect();
    let (database, journal) = (Database::with(&format!("create type mood as enum ('sad', 'so so'); {tables}")).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let parts: Vec<_> = (0..).zip(&keys).flat_map(|(n, (_, parts))| parts.iter().map(move |part| (format!("t{n}"), *part))).collect();
    client.flush(FlushRequest::default()).await.expect("the lane knows its position");
    pause(&daemon).await;
    let mut pending = Vec::new();
    for (table, part) in &parts {
        client.save(request(set(table, &[part], json!({"v": 1})))).await.unwrap_or_else(|error| panic!("{table} {part:?}: {error:?}"));
        pending.push(row(&get(&mut client, table, &[part]).await));
    }
    resume(&daemon).await;
    for ((table, part), pending) in parts.iter().zip(pending) {
        assert_eq!(pending, row(&get(&mut client, table, &[part]).await), "{table} {part:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_a_get_tells_what_is_pending_and_what_it_cannot() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["1"], json!({"name": "Ann", "score": 1})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    database.stop_postgres();
    let away = client.get(get_request("players", &["1"])).await.expect_err("nothing is pending");
    assert_eq!((away.code(), reason(&away)), (Code::Unavailable, "POSTGRES_UNAVAILABLE"));
    let saves = vec![adding("players", &["1"], r#"{"score": 2, "level": 3}"#, &["score"]), delete("players", &["2"])];
    client.save_batch(batch(saves)).await.expect("accepted");
    let one = get(&mut client, "players", &["1"]).await;
    assert_eq!((row(&one), one.pending), (json!({"id": 1, "level": 3}), true));
    assert_eq!(one.unknown_columns, ["name", "score", "note", "shout"]);
    let two = get(&mut client, "players", &["2"]).await;
    assert_eq!((two.found, two.pending), (false, true));
    let load = client.load(LoadRequest { collection: "players".to_owned(), ..Default::default() }).await.expect("a stream");
    let refused = load.into_inner().message().await.expect_err("it needs Postgres");
    assert_eq!(reason(&refused), "POSTGRES_UNAVAILABLE");
    // After a restart without Postgres the journal alone tells it.
    daemon.kill().await;
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    let mut soon = tonic::Request::new(get_request("players", &["1"]));
    soon.set_timeout(std::time::Duration::from_secs(2));
    let one = client.get(soon).await.expect("an answer before the deadline").into_inner();
    assert_eq!(row(&one), json!({"id": 1, "level": 3}));
    database.start_postgres();
    client.flush(FlushRequest::default()).await.expect("flushed");
    let one = get(&mut client, "players", &["1"]).await;
    assert_eq!((row(&one)["score"].as_f64(), row(&one)["level"].as_i64()), (Some(3.0), Some(3)));
    daemon.stop().await;
}

fn reason(status: &Status) -> &str {
    status.metadata().get("forebay-error-reason").and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_by_its_field() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    for (collection, key, words) in [
        ("player", &["1"][..], "did you mean \"players\""),
        ("events", &["1"], "mode append"),
        ("players", &["x"], "key[0] is no id"),
        ("players", &["10", "20"], "the key has 1: id"),
        ("documents", &["a"], "the key has 2: owner, at"),
    ] {
        let refused = client.get(get_request(collection, key)).await.expect_err("refused");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert!(refused.message().contains(words), "{refused:?}");
    }
    for (load, words) in [
        (LoadRequest { collection: "events".to_owned(), ..Default::default() }, "mode append"),
        (LoadRequest { page_size: 10_001, ..players() }, "page_size is 10001"),
        (LoadRequest { page_size: -1, ..players() }, "page_size is -1"),
        (LoadRequest { to_key: vec!["y".to_owned()], ..players() }, "to_key[0] is no id"),
        (LoadRequest { resume_token: "x".to_owned(), ..players() }, "resume_token is no token"),
        (LoadRequest { resume_token: "0".repeat(16), ..players() }, "resume_token is of another Load"),
    ] {
        let refused = client.load(load).await.expect_err("refused");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID_REQUEST"));
        assert!(refused.message().contains(words), "{refused:?}");
    }
    daemon.stop().await;
}

fn players() -> LoadRequest {
    LoadRequest { collection: "players".to_owned(), ..Default::default() }
}

/// Every row of a load by key, the later counting; and the tokens that came.
async fn load(client: &mut Client, request: LoadRequest) -> (BTreeMap<i64, Option<Value>>, Vec<String>) {
    let mut pages = client.load(request).await.expect("a stream").into_inner();
    let (mut rows, mut tokens) = (BTreeMap::new(), Vec::new());
    while let Some(page) = pages.message().await.expect("a page") {
        for row in page.rows {
            rows.insert(row.key[0].parse().expect("a number"), row.json.map(|json| serde_json::from_slice(&json).expect("JSON")));
        }
        tokens.push(page.resume_token);
    }
    (rows, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_gives_everything_and_goes_on_from_every_token() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into players (id, name) select n, 'stored' from generate_series(1, 250) n; analyze players").await;
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    client.flush(FlushRequest::default()).await.expect("in contact with Postgres");
    pause(&daemon).await;
    let mut saves = vec![delete("players", &["10"]), set("players", &["999"], json!({"name": "new"}))];
    saves.extend((1..=5).map(|n| set("players", &[&n.to_string()], json!({"name": "pending"}))));
    client.save_batch(batch(saves)).await.expect("accepted");
    let request = LoadRequest { page_size: 20, ..players() };
    let (rows, tokens) = load(&mut client, request.clone()).await;
    let name = |row: &Option<Value>| row.as_ref().map(|row| row["name"].as_str().expect("a name").to_owned());
    assert_eq!((rows.len(), name(&rows[&10]), name(&rows[&999]).as_deref()), (251, None, Some("new")));
    assert!((1..=5).all(|id| name(&rows[&id]).as_deref() == Some("pending")) && name(&rows[&250]).as_deref() == Some("stored"));
    assert!(tokens.len() >= 14, "pages of 20: {}", tokens.len());
    for (n, token) in tokens.iter().enumerate() {
        let (rest, _) = load(&mut client, LoadRequest { resume_token: token.clone(), ..request.clone() }).await;
        // What is pending comes first again, the rest after the page.
        let expected = (n as i64) * 20;
        assert!((6..=250).filter(|id| *id > expected && *id != 10).all(|id| rest.contains_key(&id)), "from page {n}: {:?}", rest.keys());
        assert!(rest.contains_key(&999) && rest.contains_key(&1));
        assert!(n == 0 || !rest.contains_key(&(expected.min(250) - 1).max(6)) || expected <= 20, "page {n} doesn't come again");
    }
    let range = LoadRequest { from_key: vec!["4".to_owned()], to_key: vec!["7".to_owned()], ..players() };
    let (rows, tokens) = load(&mut client, range).await;
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [4, 5, 6, 7]);
    let refused = client.load(LoadRequest { resume_token: tokens[0].clone(), ..players() }).await.expect_err("another range");
    assert!(refused.message().contains("another Load"), "{refused:?}");
    let mut pages = client.load(request).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(page) = pages.message().await.expect("a page") {
        assert!(page.rows.len() <= 20);
        last = Some((page.rows_loaded, page.rows_estimated));
    }
    assert_eq!(last, Some((250, 250)));
    resume(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_make_small_pages_and_a_caller_that_does_not_read_holds_nobody_up() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into players (id, name) select n, repeat('x', 300000) from generate_series(1, 60) n").await;
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    // Their pages wait in sockets and windows; nothing of Postgres waits with them.
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(daemon.client().await.load(players()).await.expect("a stream").into_inner());
    }
    get(&mut client, "players", &["1"]).await;
    let open =
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'forebay' and state <> 'idle'";
    eventually("no connection is held between pages", || async { (database.number(open).await == 0).then_some(()) }).await;
    let mut pages = client.load(players()).await.expect("a stream").into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await.expect("a page") {
        assert!(page.rows.iter().map(|row| row.json().len()).sum::<usize>() <= 1 << 20, "about a megabyte");
        count += page.rows.len();
    }
    assert_eq!(count, 60);
    drop(idle);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_that_are_pending_make_small_pages_too() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into players (id, name) select n, 'stored' from generate_series(1, 600) n; analyze players").await;
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    client.flush(FlushRequest::default()).await.expect("in contact with Postgres");
    pause(&daemon).await;
    let name = "x".repeat(9_000);
    for first in (1..=1_000).step_by(200) {
        let saves = (first..first + 200).map(|n| set("players", &[&n.to_string()], json!({"name": name})));
        client.save_batch(batch(saves.collect())).await.expect("accepted");
    }
    // What is pending comes first; then by key, where every row is counted once.
    let (mut seen, mut resume_token, mut counted) = (BTreeSet::new(), String::new(), 0);
    for pages_max in [3, usize::MAX] {
        let mut pages = client.load(LoadRequest { resume_token: resume_token.clone(), ..players() }).await.expect("a stream").into_inner();
        let (mut by_key, mut loaded) = (0, 0);
        while by_key < pages_max {
            let Some(page) = pages.message().await.expect("a message that a client takes") else { break };
            let bytes: usize = page.rows.iter().map(|row| row.json().len()).sum();
            assert!(bytes <= 1 << 20 && page.rows.iter().all(|row| row.json().len() > 9_000 && row.pending), "{bytes}");
            seen.extend(page.rows.iter().map(|row| row.key[0].clone()));
            (by_key, loaded, resume_token) = (by_key + usize::from(page.rows_loaded > 0), page.rows_loaded, page.resume_token);
        }
        assert!(by_key >= 3, "{by_key}");
        counted += loaded;
    }
    assert_eq!((seen.len(), counted), (1_000, 600));
    resume(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_is_read_as_it_is() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["1"], json!({"name": "Ann"})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    database.execute("alter table players add column extra int default 5").await;
    assert_eq!(row(&get(&mut client, "players", &["1"]).await)["extra"], 5);
    database.execute("alter table players rename column id to number").await;
    let changed = client.get(get_request("players", &["1"])).await.expect_err("its key is another");
    assert_eq!(reason(&changed), "POSTGRES_UNAVAILABLE");
    assert_eq!(row(&get(&mut client, "players", &["1"]).await)["number"], 1, "the catalog was read again");
    database.execute("alter table players rename to others; create schema aside; alter table others set schema aside").await;
    client.get(get_request("players", &["1"])).await.expect_err("it is gone");
    let unknown = client.get(get_request("players", &["1"])).await.expect_err("it is gone");
    assert_eq!(unknown.code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemons_rows_are_not_read() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["1"], json!({"name": "Ann"})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    database.execute("update forebay.lane_position set owner = '00000000-0000-0000-0000-000000000001'").await;
    let foreign = client.get(get_request("players", &["1"])).await.expect_err("another daemon writes");
    assert_eq!(reason(&foreign), "POSTGRES_UNAVAILABLE");
    assert!(foreign.message().contains("another daemon"), "{foreign:?}");
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_does_not_wait_for_later_saves() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = start(&database, journal.path()).await;
    let mut client = daemon.client().await;
    let mut later = daemon.client().await;
    let saving = tokio::spawn(async move {
        for n in 0.. {
            later.save(request(set("players", &[&n.to_string()], json!({"name": "later"})))).await.expect("accepted");
        }
    });
    for _ in 0..5 {
        client.save(request(set("players", &["-1"], json!({"name": "before"})))).await.expect("accepted");
        tokio::time::timeout(crate::support::HANG, client.flush(FlushRequest::default()))
            .await
            .expect("saves never stop")
            .expect("flushed");
        assert!(!get(&mut client, "players", &["-1"]).await.pending);
    }
    saving.abort();
    let _ = saving.await;
    daemon.stop().await;
}
