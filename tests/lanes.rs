//! Several lanes: each drains by itself, none holds up another, and what belongs into one lane is kept there.

use forebay::proto::{
    FlushRequest, GetStatusRequest, LaneState, LaneStatus, ListCollectionsRequest, PauseRequest, ResumeRequest, Save, SaveBatchRequest,
};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Daemon, Database, Setup, directory, eventually, forebay,
    saves::{batch, request, set},
};

/// The trigger logs every row that is written.
const SCHEMA: &str = "
    create table players (id bigint primary key, version bigint, filler text);
    create table scores (id bigint primary key, version bigint, filler text);
    create table events (id bigint primary key, version bigint, filler text);
    create table written (number bigserial primary key, of text, id bigint, version bigint);
    create function note() returns trigger language plpgsql as
        $$ begin insert into written (of, id, version) values (tg_table_name, new.id, new.version); return null; end $$;
    create trigger note after insert or update on players for each row execute function note();
    create trigger note after insert or update on scores for each row execute function note();
    create trigger note after insert or update on events for each row execute function note();
";

fn save(collection: &str, id: u64, version: u64) -> Save {
    set(collection, &[&id.to_string()], json!({"version": version}))
}

/// A lane `hot` for the scores; everything else is in `default`.
fn two_lanes(setup: Setup) -> Setup {
    setup.set("lanes.hot.collections", "scores").set("lanes.hot.window", "0 ms")
}

async fn lanes(daemon: &Daemon) -> Vec<LaneStatus> {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    status.status.expect("a status").lanes
}

async fn lane(daemon: &Daemon, name: &str) -> LaneStatus {
    lanes(daemon).await.into_iter().find(|lane| lane.name == name).unwrap_or_else(|| panic!("there is no lane {name}"))
}

async fn put(daemon: &Daemon, collection: &str, id: u64, version: u64) {
    daemon.client().await.save(request(save(collection, id, version))).await.expect("accepted");
}

async fn flush(daemon: &Daemon, collections: &[&str]) -> Result<u64, Status> {
    let collections = collections.iter().map(|name| (*name).to_owned()).collect();
    Ok(daemon.client().await.flush(FlushRequest { collections }).await?.into_inner().through)
}

async fn names(daemon: &Daemon) -> Vec<String> {
    lanes(daemon).await.into_iter().map(|lane| lane.name).collect()
}

async fn version(database: &Database, table: &str, id: u64) -> u64 {
    database.number(&format!("select coalesce(max(version), 0) from {table} where id = {id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lane_writes_its_collections_and_has_its_own_position() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = two_lanes(Setup::new(journal.path(), &database.url())).start().await;
    let listed = daemon.client().await.list_collections(ListCollectionsRequest::default()).await.expect("a list").into_inner();
    let lane_of = |name: &str| listed.collections.iter().find(|one| one.name == name).expect("listed").lane.clone();
    assert_eq!((&*lane_of("players"), &*lane_of("scores")), ("default", "hot"));
    let mixed: Vec<_> = (0..40).map(|n| save(if n % 2 == 0 { "players" } else { "scores" }, n, 1)).collect();
    daemon.client().await.save_batch(batch(mixed)).await.expect("a batch that is not atomic may hold both");
    let through = flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from written").await, 40);
    assert_eq!(database.number("select count(*) from forebay.lane_position").await, 2);
    assert_eq!(through, database.number("select max(through) from forebay.lane_position").await, "no lane has a save after its own last");
    put(&daemon, "scores", 1, 2).await;
    flush(&daemon, &["scores"]).await.expect("flushed");
    assert!(lane(&daemon, "hot").await.position > lane(&daemon, "default").await.position);
    let metrics = super::support::http_get(daemon.http().await, "/metrics").await;
    for name in ["default", "hot"] {
        assert!(metrics.contains(&format!("forebay_lane_state{{lane=\"{name}\"")), "{metrics}");
        assert!(metrics.contains(&format!("forebay_transactions_total{{lane=\"{name}\"")), "{metrics}");
    }
    assert_eq!(daemon.stop().await.last()["saves_left"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_waits_for_a_row_lock_holds_up_no_other() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("postgres.lock_timeout", "200 ms").set("drain.retry_wait_max", "200 ms");
    let daemon = two_lanes(setup).expect_in_log("trying again").start().await;
    put(&daemon, "players", 1, 1).await;
    flush(&daemon, &[]).await.expect("flushed");
    let holder = database.client().await;
    holder.batch_execute("begin; select * from players where id = 1 for update").await.expect("locked");
    put(&daemon, "players", 1, 2).await;
    for n in 1..=20 {
        put(&daemon, "scores", 7, n).await;
        flush(&daemon, &["scores"]).await.expect("the other lane goes on");
    }
    assert_eq!((version(&database, "scores", 7).await, version(&database, "players", 1).await), (20, 1));
    assert_eq!(lane(&daemon, "default").await.backlog_saves, 1);
    holder.batch_execute("rollback").await.expect("released");
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(version(&database, "players", 1).await, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_can_be_paused() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = two_lanes(Setup::new(journal.path(), &database.url())).start().await;
    let pause = PauseRequest { lane: "hot".to_owned(), reason: "a migration".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(pause).await.expect("paused");
    put(&daemon, "scores", 1, 1).await;
    put(&daemon, "players", 1, 1).await;
    flush(&daemon, &["players"]).await.expect("the other lane goes on");
    let refused = flush(&daemon, &[]).await.expect_err("one lane is paused");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(refused.get_details_error_info().expect("ErrorInfo").metadata["lane"], "hot");
    assert_eq!((lane(&daemon, "hot").await.state(), version(&database, "scores", 1).await), (LaneState::Paused, 0));
    let resumed = daemon
        .admin()
        .await
        .resume(ResumeRequest { lane: "hot".to_owned(), ..ResumeRequest::default() })
        .await
        .expect("resumed")
        .into_inner();
    assert_eq!(resumed.lanes, ["hot"]);
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(version(&database, "scores", 1).await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_shrinks_although_one_lane_never_has_a_save() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("journal.segment_bytes", "1 MiB")
        .set("journal.retention", "100 ms")
        .set("journal.bytes_max", "16 MiB");
    let daemon = two_lanes(setup).start().await;
    let filler = "x".repeat(1_000);
    // More than journal.bytes_max: the idle lane doesn't keep it.
    for version in 1..=40_u64 {
        let saves = (0..1_000).map(|n| set("players", &[&n.to_string()], json!({"version": version, "filler": filler}))).collect();
        daemon.client().await.save_batch(batch(saves)).await.expect("there is room");
        flush(&daemon, &["players"]).await.expect("flushed");
    }
    eventually("the idle lane moves up and the journal shrinks", || async {
        let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.ok()?.into_inner().status?;
        let floor = status.lanes.iter().map(|lane| lane.position).min()?;
        (status.journal?.segments <= 2 && floor == status.accepted_through).then_some(())
    })
    .await;
    assert_eq!(database.number("select count(distinct through) from forebay.lane_position").await, 1, "both are where the journal ends");
    put(&daemon, "scores", 1, 1).await;
    flush(&daemon, &["scores"]).await.expect("flushed");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_batch_across_lanes_is_refused_with_the_setting() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = two_lanes(Setup::new(journal.path(), &database.url())).start().await;
    let mixed = || batch(vec![save("players", 1, 1), save("events", 1, 1), save("scores", 1, 1)]);
    let refused = daemon.client().await.save_batch(SaveBatchRequest { atomic: true, ..mixed() }).await.expect_err("two lanes");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let violations = refused.get_details_bad_request().expect("violations").field_violations;
    assert_eq!((violations.len(), &*violations[0].field), (1, "saves[2].collection"));
    let why = &violations[0].description;
    assert!(why.contains("lane hot") && why.contains("lane default") && why.contains("lanes.NAME.collections"), "{why}");
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from written").await, 0, "nothing of it was accepted");
    daemon.client().await.save_batch(mixed()).await.expect("one by one they may");
    let one_lane = batch(vec![save("players", 2, 1), save("events", 2, 1)]);
    daemon.client().await.save_batch(SaveBatchRequest { atomic: true, ..one_lane }).await.expect("one lane");
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(database.number("select count(*) from written").await, 5);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_the_catalog_forbids_are_refused_at_start() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("error");
    let ended = setup.clone().set("lanes.hot.collections", "score,players").spawn().ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(78), "{text}");
    assert!(text.contains("lanes.hot.collections") && text.contains("did you mean") && text.contains("scores"), "{text}");

    database.execute("alter table scores add constraint of_player foreign key (id) references players").await;
    let ended = two_lanes(setup.clone()).spawn().ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(78), "{text}");
    for part in ["of_player", "scores (lane hot)", "players (lane default)", "lanes.NAME.collections"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let mut check = forebay();
    let check = check.args(["check", "--connect", "--set", "lanes.hot.collections=scores"]).env("DATABASE_URL", database.url());
    let output = check.output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("of_player"), "{output:?}");
    let daemon = setup.set("lanes.hot.collections", "scores, players").start().await;
    put(&daemon, "players", 1, 1).await;
    put(&daemon, "scores", 1, 1).await;
    flush(&daemon, &[]).await.expect("both in one lane");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_that_ddl_puts_across_two_lanes_halts_both_until_it_is_gone() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("lanes.cold.collections", "events");
    let daemon = two_lanes(setup).expect_in_log("halted").start().await;
    database.execute("alter table scores add constraint of_player foreign key (id) references players").await;
    // An unknown column makes it read the catalog again.
    daemon.client().await.save(request(set("players", &["1"], json!({"nothing": 1})))).await.expect_err("there is no such column");
    for collection in ["players", "scores", "events"] {
        put(&daemon, collection, 1, 1).await;
    }
    flush(&daemon, &["events"]).await.expect("the third lane has no part in it");
    for name in ["default", "hot"] {
        let halted = eventually("the lane halts", || async {
            let lane = lane(&daemon, name).await;
            (lane.state() == LaneState::Halted).then_some(lane)
        })
        .await;
        assert!(halted.reason.contains("of_player") && halted.reason.contains("scores (lane hot)"), "{}", halted.reason);
        assert!(halted.remedy.contains("lanes.NAME.collections"), "{}", halted.remedy);
    }
    let refused = flush(&daemon, &["scores"]).await.expect_err("halted");
    assert!(refused.message().contains("of_player"), "{refused:?}");
    assert_eq!(database.number("select count(*) from written").await, 1, "only the third lane wrote");
    database.execute("alter table scores drop constraint of_player").await;
    eventually("both lanes go on", || async {
        daemon.admin().await.resume(ResumeRequest::default()).await.ok()?;
        flush(&daemon, &[]).await.ok()
    })
    .await;
    assert_eq!(database.number("select count(*) from written").await, 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_layout_takes_effect_when_nothing_waits() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let one = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let layouts = [one.clone(), two_lanes(one.clone()), two_lanes(one.clone()).set("lanes.cold.collections", "events"), one.clone()];
    for (n, setup) in (1..).zip(layouts.iter().chain([&layouts[2], &layouts[1]])) {
        let daemon = setup.start().await;
        let expected = 1 + setup.sets.keys().filter(|key| key.ends_with(".collections")).count();
        assert_eq!(lanes(&daemon).await.len(), expected, "start {n}");
        for collection in ["players", "scores", "events"] {
            put(&daemon, collection, 1, n).await;
        }
        flush(&daemon, &[]).await.expect("flushed");
        for table in ["players", "scores", "events"] {
            assert_eq!(version(&database, table, 1).await, n, "{table}, start {n}");
        }
        daemon.stop().await;
    }
    assert_eq!(database.number("select count(*) from written").await, 18, "every save once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_drained_by_the_old_lanes_before_new_ones_take_over() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let one = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let daemon = one.start().await;
    daemon.admin().await.pause(PauseRequest { reason: "test".to_owned(), ..PauseRequest::default() }).await.expect("paused");
    for n in 1..=5 {
        put(&daemon, "scores", n, 1).await;
        put(&daemon, "players", n, 1).await;
    }
    daemon.kill().await;
    let daemon = two_lanes(one).start().await;
    assert_eq!(names(&daemon).await, ["default", "hot"]);
    assert_eq!(database.number("select count(*) from written").await, 10, "before it serves");
    put(&daemon, "scores", 1, 2).await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(version(&database, "scores", 1).await, 2);
    daemon.stop().await;
    assert_eq!(database.number("select count(*) from written").await, 11, "every save once");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_lanes_stay_in_force_while_postgres_is_away() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let one = Setup::new(journal.path(), &database.url()).set("drain.retry_wait_max", "200 ms").expect_in_log("postgres");
    let daemon = one.start().await;
    database.stop_postgres();
    put(&daemon, "scores", 1, 1).await;
    daemon.kill().await;
    let two = two_lanes(one);
    let daemon = two.start().await;
    daemon.logged("the lanes stay as they were: a start that finds them drained changes them").await;
    assert_eq!(names(&daemon).await, ["default"]);
    put(&daemon, "scores", 1, 2).await;
    database.start_postgres();
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(version(&database, "scores", 1).await, 2);
    daemon.stop().await;
    let daemon = two.start().await;
    assert_eq!(names(&daemon).await, ["default", "hot"]);
    put(&daemon, "scores", 1, 3).await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(version(&database, "scores", 1).await, 3);
    daemon.stop().await;
}

/// The rows of new lanes can't be inserted: the layout is in the ledger and not in Postgres.
const NO_NEW_ROWS: &str = "
    create function no_row() returns trigger language plpgsql as $$ begin raise exception 'no row' using errcode = '55P03'; end $$;
    create trigger no_row before insert on forebay.lane_position for each row execute function no_row();
";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_lanes_that_is_cut_short_is_completed_by_the_next_start() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let one = Setup::new(journal.path(), &database.url()).set("drain.retry_wait_max", "200 ms").expect_in_log("postgres");
    let daemon = one.start().await;
    put(&daemon, "scores", 1, 1).await;
    flush(&daemon, &[]).await.expect("flushed");
    daemon.stop().await;
    database.execute(NO_NEW_ROWS).await;
    let two = two_lanes(one.clone());
    let daemon = two.start().await;
    assert_eq!(names(&daemon).await, ["default", "hot"], "the ledger decides");
    put(&daemon, "scores", 1, 2).await;
    put(&daemon, "players", 1, 2).await;
    daemon.logged("postgres failed: trying again").await;
    daemon.kill().await;
    assert_eq!(database.number("select count(*) from forebay.lane_position").await, 1, "not a part of it");
    database.stop_postgres();
    let daemon = two.start().await;
    put(&daemon, "scores", 1, 3).await;
    daemon.kill().await;
    database.start_postgres();
    // The settings have changed back meanwhile: the saves under the new lanes are theirs.
    database.execute("drop trigger no_row on forebay.lane_position").await;
    let daemon = one.start().await;
    assert_eq!(names(&daemon).await, ["default"]);
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!((version(&database, "scores", 1).await, version(&database, "players", 1).await), (3, 2));
    let twice = "select count(*) from (select version <= lag(version) over (partition by of, id order by number) as wrong from written) a where wrong";
    assert_eq!(database.number(twice).await, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_before_a_change_of_lanes_halts_every_lane() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let one = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let daemon = one.start().await;
    put(&daemon, "scores", 1, 1).await;
    flush(&daemon, &[]).await.expect("flushed");
    daemon.stop().await;
    database.execute("create table earlier as select * from forebay.lane_position").await;
    let two = two_lanes(one).expect_in_log("halted");
    let daemon = two.start().await;
    flush(&daemon, &[]).await.expect("flushed");
    daemon.stop().await;
    database.execute("delete from forebay.lane_position; insert into forebay.lane_position select * from earlier").await;
    let daemon = two.start().await;
    put(&daemon, "players", 1, 2).await;
    put(&daemon, "scores", 1, 2).await;
    for name in ["default", "hot"] {
        eventually("the lane halts", || async { (lane(&daemon, name).await.state() == LaneState::Halted).then_some(()) }).await;
    }
    assert_eq!(database.number("select count(*) from written").await, 1, "nothing is written over what may be older");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_several_lanes_is_drained_without_their_settings() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = two_lanes(Setup::new(journal.path(), &database.url())).expect_in_log("postgres");
    let daemon = setup.start().await;
    database.stop_postgres();
    for n in 1..=10 {
        put(&daemon, "scores", n, 1).await;
        put(&daemon, "players", n, 1).await;
    }
    daemon.kill().await;
    database.start_postgres();
    let mut drain = forebay();
    drain
        .args(["drain", "--journal"])
        .arg(journal.path())
        .args(["--set", "postgres.allow_fsync_off=true"])
        .env("DATABASE_URL", database.url());
    let output = drain.output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(database.number("select count(*) from written").await, 20);
    assert_eq!(database.number("select count(*) from forebay.lane_position").await, 2, "the lanes are those of the journal");
}
