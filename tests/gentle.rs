//! P9, beyond connections: statements are as long as the target says, and no more rows a second are written than allowed.

use forebay::proto::{FlushRequest, GetStatusRequest, LaneStatus, LimitChange, LimitKind, LimitStatus, SetLimitsRequest};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Database, Setup, command, directory, eventually, forebay, http_get,
    saves::{batch, set},
};

const SCHEMA: &str = "
    create table players (id bigint primary key, name text, statement timestamptz default clock_timestamp());
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.001); return new; end $$";
const SLOW: &str = "create trigger slow before insert on players for each row execute function slow()";

/// Written in generations as large as they come: the drain is held meanwhile.
async fn save(daemon: &Daemon, keys: std::ops::Range<u64>) {
    command::cli(daemon, &["pause", "--reason", "a test"], 0).await;
    let keys: Vec<u64> = keys.collect();
    for keys in keys.chunks(1_000) {
        let saves = keys.iter().map(|key| set("players", &[&key.to_string()], json!({"name": "x"}))).collect();
        daemon.client().await.save_batch(batch(saves)).await.expect("accepted");
    }
    command::cli(daemon, &["resume"], 0).await;
}

async fn flush(daemon: &Daemon) {
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
}

async fn status(daemon: &Daemon) -> (LaneStatus, Vec<LimitStatus>) {
    let answer = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    let mut status = answer.status.expect("a status");
    (status.lanes.pop().expect("a lane"), status.limits)
}

async fn set_limit(daemon: &Daemon, name: &str, max: u64) {
    let changes = vec![LimitChange { name: name.to_owned(), max }];
    let limits = daemon.admin().await.set_limits(SetLimitsRequest { changes }).await.expect("changed").into_inner().limits;
    assert_eq!(limits.iter().find(|limit| limit.name == name).map(|limit| limit.max), Some(max));
}

/// A sample of the metrics page.
async fn metric(daemon: &Daemon, name: &str) -> f64 {
    let page = http_get(daemon.http().await, "/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} is not in\n{page}"));
    line.trim().parse().expect("a number")
}

const STATEMENT_ROWS: &str = "forebay_statement_rows{lane=\"default\"}";

#[tokio::test(flavor = "multi_thread")]
async fn statements_shrink_until_a_slow_postgres_takes_the_target_for_each() {
    let (database, journal) = (Database::with(&format!("{SCHEMA};{SLOW}")).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("drain.statement_target", "400 ms").start().await;
    eventually("they start with a thousand", || async { (metric(&daemon, STATEMENT_ROWS).await == 1_000.0).then_some(()) }).await;
    save(&daemon, 0..5_000).await;
    flush(&daemon).await;
    // Nothing sleeps for less than it is told: a row takes a millisecond and what the machine adds.
    let rows = metric(&daemon, STATEMENT_ROWS).await;
    assert!((100.0..=400.0).contains(&rows), "{rows}");
    assert_eq!(database.number("select count(distinct xmin::text) from players").await, 1, "within one transaction");
    // An eighth of it would be below the least.
    set_limit(&daemon, "drain.statement_target", 50).await;
    save(&daemon, 5_000..6_000).await;
    flush(&daemon).await;
    let (lane, limits) = status(&daemon).await;
    assert_eq!((lane.statement_rows, metric(&daemon, STATEMENT_ROWS).await), (100, 100.0));
    let target = limits.iter().find(|limit| limit.name == "drain.statement_target").expect("it is shown");
    assert!(target.max == 50 && target.used >= 1_000, "the first statement had 1,000 rows of a millisecond: {target:?}");
    let statements = metric(&daemon, "forebay_statement_seconds_count{lane=\"default\"}").await;
    assert!(statements >= 11.0, "{statements}");
    database.execute("drop trigger slow on players").await;
    save(&daemon, 6_000..14_000).await;
    flush(&daemon).await;
    eventually("a fast Postgres gets more again", || async { (status(&daemon).await.0.statement_rows > 100).then_some(()) }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transaction_has_more_rows_than_a_second_allows_until_the_limit_is_lifted() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    command::cli(&daemon, &["limit", "drain.rows_per_second_max", "300"], 0).await;
    save(&daemon, 0..100_000).await;
    let reason = "drain.rows_per_second_max lets it write no more for now";
    eventually("the lane says what it waits for", || async { (status(&daemon).await.0.reason == reason).then_some(()) }).await;
    eventually("it goes on by itself", || async { (status(&daemon).await.0.transactions >= 3).then_some(()) }).await;
    let sizes = "select max(count) from (select count(*) from players group by xmin::text) as transaction";
    // A batch of a thousand isn't atomic: it is cut.
    assert_eq!(database.number(sizes).await, 300);
    let (lane, limits) = status(&daemon).await;
    assert!(lane.backlog_objects > 50_000, "{lane:?}");
    let rate = limits.iter().find(|limit| limit.name == "drain.rows_per_second_max").expect("it is shown");
    assert_eq!((rate.kind(), rate.max), (LimitKind::Rate, 300));
    assert_eq!(metric(&daemon, "forebay_limit{name=\"drain.rows_per_second_max\",kind=\"rate\"}").await, 300.0);
    let client = daemon.client().await;
    client.clone().save_batch(batch(vec![set("players", &["1"], json!({"name": "y"}))])).await.expect("admission knows nothing of it");
    command::cli(&daemon, &["limit", "drain.rows_per_second_max", "0"], 0).await;
    flush(&daemon).await;
    assert_eq!(database.number("select count(*) from players").await, 100_000);
    assert!(database.number(sizes).await > 50_000, "what was left went at once");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_setting_out_of_range_is_refused_with_its_range() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    for (name, max, says) in [("drain.statement_target", "0", "1 ms"), ("drain.rows_per_second_max", "100000001", "at most 100000000")] {
        let refused = command::run(&daemon, &["limit", name, max]).await;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(name) && text.contains(says), "{text}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_of_readers_prints_what_they_noticed() {
    let arguments = ["bench", "readers", "--rows", "3000", "--rows-per-second", "500", "--seconds", "2", "--json"];
    let output = forebay().args(arguments).output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["statement_target_ms"], 50);
    for phase in ["idle", "draining", "limited", "throttled"] {
        let seen = &report[phase];
        assert!(seen["reads"].as_u64().is_some_and(|reads| reads > 0), "{phase}: {report}");
        assert!(seen["p50_us"].as_u64() <= seen["p99_us"].as_u64(), "{phase}: {report}");
        assert_eq!(seen["statement_p99_ms"].is_null(), phase == "idle", "{phase}: {report}");
    }
    assert!(report["limited"]["rows"].as_u64().is_some_and(|rows| (1..3_000).contains(&rows)), "{report}");
}
