//! How saves become rows: added to what is there, guarded by a version, recognised when they are repeated.

use forebay::proto::{FlushRequest, SaveBatchRequest, SaveRequest};
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    Daemon, Database, Setup, directory, http_get,
    saves::{batch, delete, request, set},
};

const SCHEMA: &str = "
    create table players (id bigint primary key, name text default 'nobody', gold int default 5, gems numeric(6,2), version int);
    create table log (at int, line text);
";

/// The value of a counter.
async fn counter(daemon: &Daemon, series: &str) -> String {
    let metrics = http_get(daemon.http().await, "/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series}: {metrics}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_arrives_once_however_it_is_folded_and_whenever_it_is_killed() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into players (id, gold) values (1, null)").await;
    let setup = Setup::new(journal.path(), &database.url());
    let add = |key: &str, gold: i32| {
        let save = set("players", &[key], json!({"gems": "1.005", "gold": gold}));
        forebay::proto::Save { add: vec!["gold".to_owned(), "gems".to_owned()], ..save }
    };
    for _ in 0..3 {
        let daemon = setup.start().await;
        let mut client = daemon.client().await;
        for n in 0..20 {
            client.save(request(add(["1", "2"][n % 2], 1))).await.expect("accepted");
        }
        daemon.kill().await;
    }
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let saves = vec![
        set("players", &["3"], json!({"name": "new"})),
        add("3", 1),
        set("players", &["2"], json!({"gold": 100})),
        add("2", -1),
        delete("players", &["1"]),
        add("1", 7),
    ];
    client.flush(FlushRequest::default()).await.expect("flushed");
    let sums = database.rows("select id, gold, gems from players order by id").await;
    assert_eq!(format!("{sums:?}"), r#"[[Some("1"), Some("30"), Some("30.30")], [Some("2"), Some("30"), Some("30.30")]]"#);
    client.save_batch(SaveBatchRequest { atomic: true, ..batch(saves) }).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let rows = database.rows("select id, name, gold, gems from players order by id").await;
    let rows: Vec<_> = rows.iter().map(|row| row.iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["1 nobody 7 1.01", "2 nobody 99 31.31", "3 new 6 1.01"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_version_wins_and_a_stale_save_is_no_failure() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    database.execute("insert into players (id, name, version) values (1, 'newest', 9)").await;
    let daemon = Setup::new(journal.path(), &database.url()).set("collections.players.version_column", "version").start().await;
    let mut client = daemon.client().await;
    let save = |key: &str, version: i32, name: &str| set("players", &[key], json!({"version": version, "name": name}));
    let saves = vec![save("1", 7, "folded"), save("1", 8, "stale"), save("2", 5, "five"), save("2", 4, "four"), save("2", 5, "again")];
    client.save_batch(batch(saves)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let rows = database.rows("select name, version from players order by id").await;
    assert_eq!(format!("{rows:?}"), r#"[[Some("newest"), Some("9")], [Some("five"), Some("5")]]"#);
    assert_eq!(counter(&daemon, "forebay_saves_superseded_total{collection=\"players\"}").await, "4");
    assert_eq!(counter(&daemon, "forebay_saves_persisted_total{collection=\"players\"}").await, "5");
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 0);
    let status = client.save(request(set("players", &["1"], json!({"name": "x"})))).await.expect_err("it has no version");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("lacks version, the version column"), "{}", status.message());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_failed_save_made_stale_is_not_superseded() {
    let schema = format!("{SCHEMA} create table guilds (id int primary key); alter table players add guild int references guilds");
    let (database, journal) = (Database::with(&schema).await, directory());
    database.execute("insert into players (id, name, version) values (1, 'newest', 9)").await;
    let setup = Setup::new(journal.path(), &database.url()).set("collections.players.version_column", "version").expect_in_log("23503");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let save = |key: &str, version: i32, name: &str| set("players", &[key], json!({"version": version, "name": name}));
    let orphan = set("players", &["3"], json!({"version": 2, "guild": 404}));
    let saves = vec![save("1", 8, "stale"), save("2", 5, "five"), save("2", 4, "four"), orphan, save("3", 1, "one"), save("3", 1, "again")];
    client.save_batch(batch(saves)).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let rows = database.rows("select name, version from players order by id").await;
    assert_eq!(format!("{rows:?}"), r#"[[Some("newest"), Some("9")], [Some("five"), Some("5")], [Some("one"), Some("1")]]"#);
    assert_eq!(counter(&daemon, "forebay_saves_failed_total{collection=\"players\"}").await, "1");
    assert_eq!(counter(&daemon, "forebay_saves_superseded_total{collection=\"players\"}").await, "3");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_recognised_across_a_kill_and_a_stop() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.log.mode", "append");
    let line = |n: i32| set("log", &[], json!({"at": n, "line": "x"}));
    let one = SaveRequest { request_id: "one".to_owned(), ..request(line(1)) };
    let many = SaveBatchRequest { request_id: "many".to_owned(), ..batch(vec![line(2), line(3)]) };
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let first = client.save(one.clone()).await.expect("accepted").into_inner();
    let firsts = client.save_batch(many.clone()).await.expect("accepted").into_inner();
    assert!(!first.deduplicated && !firsts.deduplicated);
    daemon.kill().await;
    for stop in [true, false] {
        let daemon = setup.start().await;
        let mut client = daemon.client().await;
        let again = client.save(one.clone()).await.expect("recognised").into_inner();
        assert_eq!((again.ticket, again.deduplicated), (first.ticket.clone(), true));
        let again = client.save_batch(many.clone()).await.expect("recognised").into_inner();
        assert_eq!((again.results, again.deduplicated), (firsts.results.clone(), true));
        assert_eq!(counter(&daemon, "forebay_saves_deduplicated_total{collection=\"log\"}").await, "3");
        let other = client.save(SaveRequest { request_id: "one".to_owned(), ..request(line(9)) }).await.expect_err("other content");
        let reason = other.get_details_error_info().expect("every error has ErrorInfo").reason;
        assert_eq!((other.code(), reason.as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));
        client.flush(FlushRequest::default()).await.expect("flushed");
        assert_eq!(database.number("select count(*) from log").await, 3);
        if stop {
            daemon.stop().await
        } else {
            daemon.kill().await
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_one_request_id_at_once_save_once() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("collections.log.mode", "append").start().await;
    let client = daemon.client().await;
    let call = |id: &str| {
        let (mut client, request_id) = (client.clone(), id.to_owned());
        let save = SaveRequest { request_id, ..request(set("log", &[], json!({"at": 1}))) };
        tokio::spawn(async move { client.save(save).await.expect("accepted").into_inner() })
    };
    let (mut tickets, mut fresh) = (Vec::new(), 0);
    for answer in (0..32).map(|_| call("same")).collect::<Vec<_>>() {
        let answer = answer.await.expect("no panic");
        fresh += u32::from(!answer.deduplicated);
        tickets.push(answer.ticket);
    }
    tickets.dedup();
    assert_eq!((tickets.len(), fresh), (1, 1));
    client.clone().flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from log").await, 1);
    daemon.stop().await;
}
