//! Tables that change while saves flow. What no longer fits halts its lane in front of the save until it is repaired or given up;
//! what still fits is noticed in the transaction and disturbs nobody.

use std::path::Path;

use forebay::proto::{ListCollectionsRequest, Save};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{
    Daemon, Database, Setup,
    command::{cli, lines},
    database_rows, directory, eventually, http_get,
    lanes::{flush, goes_on, halted, lane, pause, resume},
    saves::{batch, delete, request, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text, level int);
     create table scores (id bigint primary key, points int)";
const HALTED: &str = "halted: nothing is written until this is repaired";

/// Scores have a lane of their own, `hot`; everything else is in `default`.
fn setup(journal: &Path, url: &str) -> Setup {
    Setup::new(journal, url).set("lanes.hot.collections", "scores").set("lanes.hot.window", "0 ms")
}

fn player(id: u64, body: Value) -> Save {
    set("players", &[&id.to_string()], body)
}

async fn save(daemon: &Daemon, saves: Vec<Save>) {
    daemon.client().await.save_batch(batch(saves)).await.expect("accepted");
}

/// Saves that become one generation, with this DDL between acceptance and writing.
async fn save_around(daemon: &Daemon, database: &Database, saves: Vec<Save>, ddl: &str) {
    flush(daemon, &[]).await.expect("flushed");
    pause(daemon).await;
    save(daemon, saves).await;
    database.execute(ddl).await;
    resume(daemon).await;
}

async fn ids(database: &Database) -> String {
    database.rows("select coalesce(string_agg(id::text, ',' order by id), '') from players").await.remove(0).remove(0).expect("text")
}

/// Two players that any table takes, one with a level, and one that stands behind it.
fn four_players() -> Vec<Save> {
    vec![player(1, json!({"name": "a"})), player(2, json!({"name": "b"})), player(3, json!({"level": 7})), player(4, json!({"name": "d"}))]
}

/// The lane stands in front of the third player, everybody is told so, and the other lane goes on.
async fn stands_in_front_of_the_third(daemon: &Daemon, database: &Database, sqlstate: &str, remedy: &str) {
    let halted = halted(daemon, "default").await;
    assert_eq!(ids(database).await, "1,2", "what came before it is in Postgres, and nothing else");
    assert!(halted.reason.contains("players") && halted.reason.contains(sqlstate), "{}", halted.reason);
    assert!(halted.remedy.contains(remedy), "{}", halted.remedy);
    let shown = cli(daemon, &["status"], 0).await;
    assert!(shown.contains("lane default: halted") && shown.contains(&halted.reason) && shown.contains(&halted.remedy), "{shown}");
    let metrics = http_get(daemon.http().await, "/metrics").await;
    assert!(metrics.contains("forebay_lane_state{lane=\"default\",state=\"halted\"} 1"), "{metrics}");
    let logged = daemon.logged(HALTED).await;
    assert_eq!((&logged["level"], &logged["lane"], &logged["sqlstate"]), (&json!("ERROR"), &json!("default"), &json!(sqlstate)));
    assert_eq!((logged["reason"].as_str(), logged["remedy"].as_str()), (Some(&*halted.reason), Some(&*halted.remedy)));
    let refused = flush(daemon, &["players"]).await.expect_err("it is halted");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains(sqlstate), "{refused:?}");
    daemon.client().await.save(request(set("scores", &["1"], json!({"points": 1})))).await.expect("accepted");
    flush(daemon, &["scores"]).await.expect("the other lane goes on");
}

async fn all_four_are_there(daemon: &Daemon, database: &Database) {
    assert_eq!(ids(database).await, "1,2,3,4");
    assert_eq!(database.number("select level from players where id = 3").await, 7);
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 0);
    daemon.logged("going on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_column_halts_its_lane_in_front_of_the_save_until_it_is_back() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log(HALTED).start().await;
    save_around(&daemon, &database, four_players(), "alter table players drop column level").await;
    stands_in_front_of_the_third(&daemon, &database, "42703", "bring the column back").await;
    assert_eq!(cli(&daemon, &["resume"], 0).await, "resumed: default\n");
    halted(&daemon, "default").await;
    database.execute("alter table players add column level int").await;
    goes_on(&daemon).await;
    all_four_are_there(&daemon, &database).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_halts_its_lane_which_goes_on_by_itself_when_it_is_back() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log(HALTED).start().await;
    save_around(&daemon, &database, four_players(), "alter table players rename to people").await;
    let halted = halted(&daemon, "default").await;
    assert!(halted.reason.contains("players") && halted.reason.contains("42P01"), "{}", halted.reason);
    assert!(halted.remedy.contains("bring the table back"), "{}", halted.remedy);
    let refused = daemon.client().await.save(request(player(5, json!({"name": "e"})))).await.expect_err("there is no such table");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    database.execute("alter table people rename to players").await;
    eventually("it probes by itself", || async { flush(&daemon, &[]).await.ok() }).await;
    all_four_are_there(&daemon, &database).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_privilege_halts_its_lane_until_it_is_granted() {
    let (database, journal) = (Database::alone(SCHEMA).await, directory());
    let grant = "grant select, insert, update, delete on all tables in schema public to writer";
    database.execute(&format!("create role writer login; grant create on database postgres to writer; {grant}")).await;
    let daemon = setup(journal.path(), &database.url_as("writer")).expect_in_log(HALTED).start().await;
    // Of one column: other saves of the collection are taken.
    let revoke = "revoke insert, update on players from writer; grant insert (id, name), update (id, name) on players to writer";
    save_around(&daemon, &database, four_players(), revoke).await;
    stands_in_front_of_the_third(&daemon, &database, "42501", "grant what is missing").await;
    database.execute(grant).await;
    goes_on(&daemon).await;
    all_four_are_there(&daemon, &database).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_halts_its_lane_until_it_is_changed_back() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log(HALTED).start().await;
    save_around(&daemon, &database, four_players(), "alter table players alter id type double precision").await;
    let halted = halted(&daemon, "default").await;
    assert!(halted.reason.contains("players") && halted.reason.contains("is no collection any more"), "{}", halted.reason);
    assert_eq!(ids(&database).await, "", "no save fits");
    database.execute("alter table players alter id type bigint").await;
    goes_on(&daemon).await;
    all_four_are_there(&daemon, &database).await;
    daemon.stop().await;
}

/// A type that takes the value is no obstacle; one that doesn't makes it an error about data: a failed save, which is retried
/// when the type is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_takes_what_fits_it_and_fails_the_rest() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log("22P02").start().await;
    // As it was accepted it wouldn't fit: neither the old cast nor the old type may decide.
    let wide = player(1, json!({"level": 3_000_000_000_u64}));
    save_around(&daemon, &database, vec![wide], "alter table players alter level type bigint").await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select level from players").await, 3_000_000_000);
    let saves = vec![player(2, json!({"name": "12"})), player(3, json!({"name": "twelve"})), player(4, json!({"name": "13"}))];
    save_around(&daemon, &database, saves, "alter table players alter name type int using null").await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(
        database.rows("select id, name from players where id > 1 order by id").await,
        database_rows([[Some("2"), Some("12")], [Some("4"), Some("13")]])
    );
    let failed = lines(&daemon, &["failed", "list", "--json"], 0).await;
    assert_eq!((failed.len(), &failed[0]["sqlstate"], &failed[0]["key"]), (1, &json!("22P02"), &json!(["3"])));
    database.execute("alter table players alter name type text").await;
    cli(&daemon, &["failed", "retry", "--collection", "players"], 0).await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.rows("select name from players where id = 3").await, database_rows([[Some("twelve")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_front_for_longer_than_halt_wait_fails_and_is_retried_in_bulk() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url()).set("drain.halt_wait", "1 s");
    let daemon = setup.expect_in_log(HALTED).expect_in_log("42703").start().await;
    let saves = (1..=20).map(|id| player(id, if id % 2 == 0 { json!({"level": id}) } else { json!({"name": "odd"}) })).collect();
    save_around(&daemon, &database, saves, "alter table players drop column level").await;
    eventually("the lane goes on by itself", || async { flush(&daemon, &[]).await.ok() }).await;
    assert_eq!(ids(&database).await, "1,3,5,7,9,11,13,15,17,19");
    assert_eq!(database.number("select count(*) from forebay.failed_save where sqlstate = '42703'").await, 10);
    database.execute("alter table players add column level int").await;
    let retried = lines(&daemon, &["failed", "retry", "--collection", "players", "--json"], 0).await;
    assert_eq!(retried.len(), 10);
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players where level = id").await, 10);
    assert_eq!(cli(&daemon, &["failed", "list"], 0).await, "no failed saves\n");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_gives_up_fails_and_is_retried_without_the_column_that_is_gone() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log(HALTED).expect_in_log("42703").start().await;
    let saves = (1..=6).map(|id| player(id, json!({"name": "n", "level": id}))).collect();
    save_around(&daemon, &database, saves, "alter table players drop column level").await;
    halted(&daemon, "default").await;
    assert_eq!(cli(&daemon, &["resume", "--fail"], 0).await, "resumed: default\n");
    eventually("the lane goes on", || async { flush(&daemon, &[]).await.ok() }).await;
    assert_eq!(ids(&database).await, "", "all of them name it");
    cli(&daemon, &["failed", "retry", "--collection", "players"], 1).await;
    let retry = ["failed", "retry", "--collection", "players", "--without-column", "level"];
    assert_eq!(cli(&daemon, &retry, 0).await.lines().last(), Some("6 retried, 0 not"));
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(ids(&database).await, "1,2,3,4,5,6");
    // The collection was taken since: its lane halts again for what is new.
    let more = vec![player(7, json!({"name": "n"}))];
    save_around(&daemon, &database, more, "alter table players drop column name").await;
    assert!(halted(&daemon, "default").await.reason.contains("42703"));
    database.execute("alter table players add column name text").await;
    goes_on(&daemon).await;
    daemon.stop().await;
}

/// Folded by the catalog of before, the deletes would be overtaken by the sets after them, and reach nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_that_is_added_while_deletes_wait_takes_along_what_direct_execution_would() {
    let tables = "create table parents (id int primary key, name text); create table children (id int primary key, parent int)";
    let cascade = "alter table children add foreign key (parent) references parents on delete cascade";
    let (database, journal) = (Database::with(tables).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let parent = |id: u64, name: &str| set("parents", &[&id.to_string()], json!({"name": name}));
    let child = |id: u64, of: u64| set("children", &[&id.to_string()], json!({"parent": of}));
    let mut saves = Vec::new();
    for n in 1..=50_u64 {
        saves.extend([parent(n, "old"), child(n, n), delete("parents", &[&n.to_string()]), parent(n, "new"), child(100 + n, n)]);
    }
    save_around(&daemon, &database, saves, cascade).await;
    flush(&daemon, &[]).await.expect("flushed");
    let direct = Database::with(&format!("{tables}; {cascade};")).await;
    for n in 1..=50 {
        direct
            .execute(&format!(
                "insert into parents values ({n}, 'old'); insert into children values ({n}, {n}); delete from parents where id = {n};
                 insert into parents values ({n}, 'new'); insert into children values (100 + {n}, {n})"
            ))
            .await;
    }
    for table in ["parents", "children"] {
        let query = format!("select * from {table} order by id");
        assert_eq!(database.rows(&query).await, direct.rows(&query).await, "{table}");
    }
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 0);
    daemon.stop().await;
}

/// What a session has planned for a column of another type, Postgres refuses for as long as that session lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_was_planned_for_another_type_halts_nobody() {
    let trigger = "create table noted (level int);
         create function note() returns trigger language plpgsql as $$ begin insert into noted values (new.level); return null; end $$;
         create trigger note after insert or update on players for each row execute function note()";
    let (database, journal) = (Database::with(&format!("{SCHEMA}; {trigger}")).await, directory());
    let daemon = setup(journal.path(), &database.url()).start().await;
    for (level, kind) in [(1, "bigint"), (2, "smallint"), (3, "int")] {
        let change = format!("alter table players alter level type {kind}");
        save_around(&daemon, &database, vec![player(1, json!({"level": level}))], &change).await;
        flush(&daemon, &[]).await.expect("flushed");
    }
    assert_eq!(database.rows("select string_agg(level::text, ',') from noted").await, database_rows([[Some("1,2,3")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_is_usable_at_once_and_a_new_default_disturbs_nothing() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).start().await;
    save_around(&daemon, &database, vec![player(1, json!({"name": "a"}))], "alter table players alter level set default 5").await;
    flush(&daemon, &[]).await.expect("flushed");
    database.execute("alter table players add column title text").await;
    save(&daemon, vec![player(2, json!({"title": "queen"}))]).await;
    flush(&daemon, &[]).await.expect("flushed");
    let expected = database_rows([[Some("1"), Some("a"), Some("5"), None], [Some("2"), None, Some("5"), Some("queen")]]);
    assert_eq!(database.rows("select * from players order by id").await, expected);
    assert_eq!(lane(&daemon, "default").await.reason, "");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_catalog_again_and_tells_what_is_new_and_gone() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).expect_in_log("postgres").expect_in_log("catalog").start().await;
    database.execute("alter table players drop column level, add column title text; create table news (id int primary key)").await;
    daemon.signal(Signal::HUP);
    let read = daemon.logged("catalog read again").await;
    assert_eq!((read["new"].as_str(), read["gone"].as_str()), (Some("news, players.title"), Some("players.level")));
    let listed = daemon.client().await.list_collections(ListCollectionsRequest::default()).await.expect("a list").into_inner();
    assert_eq!(listed.collections.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["news", "players", "scores"]);
    database.stop_postgres();
    daemon.signal(Signal::HUP);
    let failed = daemon.logged("the catalog can't be read again: going on with the one that is known").await;
    assert_eq!(failed["level"], "WARN");
    save(&daemon, vec![player(1, json!({"title": "king"}))]).await;
    database.start_postgres();
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(ids(&database).await, "1");
    daemon.stop().await;
}
