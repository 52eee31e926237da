//! Postgres away, slow or back: saves are accepted, nothing is lost, and the longer it was away the better the folding.

use std::time::Duration;

use forebay::proto::{FlushRequest, GetStatusRequest, LaneState, PauseRequest};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Daemon, Database, Setup, directory, eventually, runs,
    saves::{batch, request, set},
};

const SCHEMA: &str = "
    create table players (id bigint primary key, version bigint not null, filler text);
    create table writes (number bigserial primary key);
    create function note() returns trigger language plpgsql as $$ begin insert into writes default values; return null; end $$;
    create trigger note after insert or update on players for each row execute function note();
";

async fn lane_state(daemon: &Daemon) -> LaneState {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    status.status.expect("a status").lanes[0].state()
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_during_an_outage_are_folded_and_written_once_after_it() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("journal.segment_bytes", "4 MiB")
        .set("journal.retention", "100 ms")
        .set("drain.retry_wait_max", "200 ms")
        .expect_in_log("postgres");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["0"], json!({"version": 0})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    database.stop_postgres();
    let (objects, rounds) = (1_000_u64, runs("FOREBAY_OUTAGE_ROUNDS", 100));
    for version in 1..=rounds {
        let saves = (0..objects).map(|n| set("players", &[&n.to_string()], json!({"version": version, "filler": "x".repeat(200)})));
        client.save_batch(batch(saves.collect())).await.expect("accepted without Postgres");
    }
    database.start_postgres();
    // A flush fails at once only if a lane is halted, paused or fenced: an outage is waited for.
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number(&format!("select count(*) from players where version = {rounds}")).await, objects);
    let writes = database.number("select count(*) from writes").await;
    println!("outage: {writes} rows written for {objects} objects saved {rounds} times");
    assert_eq!(writes, objects + 1, "one row before the outage, and afterwards each object once");
    // Once the retention has passed the journal is small again.
    let segments = journal.path().join("segments");
    let count = || std::fs::read_dir(&segments).expect("a directory").count();
    eventually("the current segment and the next are left", || async { (count() == 2).then_some(()) }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_without_postgres_from_the_second_time_on() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("drain.retry_wait_max", "200 ms").expect_in_log("postgres");
    let daemon = setup.start().await;
    daemon.stop().await;
    database.stop_postgres();
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["1"], json!({"version": 1})))).await.expect("accepted");
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.last()["saves_left"], 1, "{:#?}", ended.log);
    let daemon = setup.start().await;
    assert_eq!(daemon.logged("recovered what may not be in postgres yet").await["saves"], 1);
    database.start_postgres();
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select version from players where id = 1").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_first_start_says_what_it_waits_for() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    database.stop_postgres();
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("postgres").expect_in_log("waiting");
    let daemon = setup.spawn();
    daemon.logged("waiting for postgres: the first start needs its catalog").await;
    database.start_postgres();
    daemon.serving().await;
    daemon.stop().await;
    let other = directory();
    database.stop_postgres();
    let setup = Setup { journal: other.path().to_owned(), ..setup }.set("postgres.first_wait", "300 ms");
    let ended = setup.spawn().ended().await;
    assert_eq!(ended.code, Some(69), "{:#?}", ended.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_backend_is_replaced() {
    let (database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("drain.retry_wait_max", "100 ms").expect_in_log("postgres");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    for version in 1..=20_u64 {
        client.save(request(set("players", &["1"], json!({"version": version})))).await.expect("accepted");
        database.rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'forebay' and datname = current_database()").await;
        client.flush(FlushRequest::default()).await.expect("flushed");
        assert_eq!(database.number("select version from players").await, version);
    }
    assert_eq!(database.number("select count(*) from writes").await, 20, "each version once");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_the_drain_and_ends_by_itself() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let (mut client, mut admin) = (daemon.client().await, daemon.admin().await);
    let duration = Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 });
    admin.pause(PauseRequest { reason: "maintenance".to_owned(), duration, ..Default::default() }).await.expect("paused");
    client.save(request(set("players", &["1"], json!({"version": 1})))).await.expect("accepted");
    let status = client.flush(FlushRequest::default()).await.expect_err("a paused lane can't be flushed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("maintenance"), "{status:?}");
    assert_eq!(lane_state(&daemon).await, LaneState::Paused);
    eventually("the pause ends and the save is written", || async {
        (database.number("select count(*) from players").await == 1).then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_is_waited_for() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("postgres.lock_timeout", "100 ms")
        .set("drain.retry_wait_max", "100 ms")
        .expect_in_log("55P03");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.save(request(set("players", &["1"], json!({"version": 1})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    let holder = database.client().await;
    holder.batch_execute("begin; select * from players for update").await.expect("locked");
    client.save(request(set("players", &["1"], json!({"version": 2})))).await.expect("accepted");
    daemon.logged("postgres failed: trying again").await;
    holder.batch_execute("commit").await.expect("unlocked");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select version from players").await, 2);
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_sees_no_more_connections_than_writers_and_readers() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut clients = Vec::new();
    for n in 0..50_u64 {
        let mut client = daemon.client().await;
        clients.push(tokio::spawn(async move {
            for version in 0..20_u64 {
                client.save(request(set("players", &[&n.to_string()], json!({"version": version})))).await.expect("accepted");
            }
        }));
    }
    let watcher = database.client().await;
    let mut most = 0_u64;
    while clients.iter().any(|client| !client.is_finished()) {
        let row = watcher
            .query_one("select count(*) from pg_stat_activity where application_name = 'forebay' and datname = current_database()", &[])
            .await
            .expect("counted");
        most = most.max(row.get::<_, i64>(0).unsigned_abs());
    }
    for client in clients {
        client.await.expect("the client ends");
    }
    assert!((1..=3).contains(&most), "{most} connections");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_backlog_without_postgres_costs_next_to_nothing() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    database.stop_postgres();
    for n in 0..20_u64 {
        let saves = (0..5_000).map(|i| set("players", &[&(n * 5_000 + i).to_string()], json!({"version": 1}))).collect();
        client.save_batch(batch(saves)).await.expect("accepted");
    }
    let before = cpu_ticks(daemon.pid());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ticks = cpu_ticks(daemon.pid()) - before;
    // A hundred ticks a second: one percent of a core over five seconds is five.
    assert!(ticks < 5, "{ticks} ticks of CPU in 5 s with 100,000 objects pending");
    daemon.kill().await;
}

/// User and system time of a process, in ticks of 10 ms (`/proc/PID/stat`, fields 14 and 15).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
    after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}
