//! What stands around the daemon: the tools, the examples and the contract.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use forebay::proto::FlushRequest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{
    Database, Setup, database_rows as rows, directory, forebay,
    saves::{batch, delete, set},
};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python");
const SCHEMA: &str = "create table players (id bigint primary key, name text, level int)";

/// What the examples leave: a guild, a player and the items that were not deleted.
pub(crate) const DEV_ROWS: &str = "select guilds.name, players.name, level, gold, extra, \
     (select string_agg(kind, ',' order by slot) from items where player_id = players.id) \
     from players join guilds on guilds.id = guild_id";

/// The last line of what a program printed, as JSON; panics with all of it unless the program succeeded.
fn last_line(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The fields of an object, sorted.
fn fields(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_loses_nothing() {
    let report = last_line(&forebay().args(["demo", "--json"]).output().await.expect("it runs"));
    let mut expected = [
        "acknowledged",
        "rows_written",
        "ack_p50_us",
        "ack_p99_us",
        "ack_p99_us_outage",
        "recovered_saves",
        "recovery_ms",
        "lost",
        "stale",
    ];
    expected.sort_unstable();
    assert_eq!(fields(&report), expected);
    assert_eq!((&report["lost"], &report["stale"]), (&json!(0), &json!(0)), "{report}");
    assert!(report["acknowledged"].as_u64().is_some_and(|count| count >= 200_000), "{report}");
    assert!(report["rows_written"].as_u64() < report["acknowledged"].as_u64(), "saves are folded: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_benches_print_what_they_measured() {
    for mode in ["unary", "batch", "stream"] {
        let arguments = ["bench", "save", "--mode", mode, "--load", "hot", "--callers", "4", "--seconds", "1", "--json"];
        let result = last_line(&forebay().args(arguments).output().await.expect("it runs"));
        assert_eq!(fields(&result), with_cost(["callers", "errors", "load", "mode", "p50_us", "p99_us", "saves_per_second"]));
        assert_eq!((&result["mode"], &result["errors"]), (&json!(mode), &json!(0)), "{result}");
        assert!(result["saves_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{result}");
        assert_eq!(result["p50_us"].is_null(), mode == "stream", "{result}");
        assert!(result["cpu_seconds_per_100k"].as_f64().is_some_and(|seconds| seconds > 0.0), "{result}");
    }
    let result = last_line(&forebay().args(["bench", "drain", "--rows", "2000", "--json"]).output().await.expect("it runs"));
    assert_eq!(fields(&result), with_cost(["commits", "rows", "rows_per_second"]));
    assert_eq!(result["rows"], 2_000);
}

/// What every bench of our own tells of its cost, with the fields given, sorted.
fn with_cost<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let cost = ["cpu_seconds_per_100k", "disk_bytes_per_byte", "peak_memory_bytes", "server_cpu_seconds_per_100k"];
    let mut fields: Vec<_> = fields.into_iter().chain(cost).collect();
    fields.sort_unstable();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_doesnt_count_the_cost_of_a_daemon_that_is_anothers() {
    let schema = "create table players (id bigint primary key, name text, level int, score bigint, seen_at timestamptz, inventory jsonb)";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let address = daemon.grpc().await.to_string();
    let arguments = ["bench", "save", "--callers", "300", "--objects", "5000", "--seconds", "1", "--target", &address, "--json"];
    let result = last_line(&forebay().args(arguments).output().await.expect("it runs"));
    assert_eq!((&result["load"], &result["callers"], &result["errors"]), (&json!({"objects": 5_000}), &json!(300), &json!(0)));
    for field in with_cost([]) {
        assert!(result[field].is_null(), "{field}: {result}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_comparison_is_of_what_the_same_run_measured() {
    let subjects = ["stream-64", "direct-64", "direct-batched-1", "unary-64-paused", "redis-64"];
    let mut command = forebay();
    command.args(["bench", "compare", "--rounds", "1", "--seconds", "1", "--json", "--only"]).args(subjects);
    let output = command.output().await.expect("it runs");
    let (report, progress) = (last_line(&output), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "one object and nothing else");
    assert_eq!(fields(&report), ["machine", "ratios", "rows", "worst"]);
    assert_eq!(fields(&report["machine"]), ["cores", "memory_bytes", "postgres"]);
    let row = |name: &str| report["rows"].as_array().expect("rows").iter().find(|row| row["name"] == name);
    for name in &subjects[..4] {
        let row = row(name).unwrap_or_else(|| panic!("{name} is missing: {report}"));
        assert_eq!(fields(row), with_cost(["name", "p50_us", "p99_us", "per_second", "runs"]));
        assert!(row["per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
        assert_eq!(row["runs"], json!([row["per_second"]]), "{row}");
        assert!(row["peak_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{row}");
    }
    match row("redis-64") {
        Some(row) => assert!(row["p99_us"].as_f64().is_some_and(|p99| p99 > 0.0), "{row}"),
        None => assert!(progress.contains("redis-64 is not measured: no `redis-server`"), "{progress}"),
    }
    let rate = |name| row(name).expect("measured")["per_second"].as_f64().expect("a number");
    let ratio = report["ratios"]["stream-64/direct-64"].as_f64().expect("both were measured");
    assert!((ratio - rate("stream-64") / rate("direct-64")).abs() < 0.001, "{report}");
    assert_eq!(report["ratios"], report["worst"], "of one round");
    assert!(report["ratios"].get("unary-64-paused/ceiling-unary-64").is_none(), "the ceiling was not asked for: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_names_what_is_missing_and_the_remedy() {
    let mut command = forebay();
    // Nothing of this system is found there but the server of Postgres, which has its place.
    let compare = ["bench", "compare", "--rounds", "1", "--seconds", "1", "--only", "redis-64"];
    let output = command.args(compare).env("PATH", "/nowhere").output().await.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("redis-64 is not measured: no `redis-server` on PATH: install it"), "{text}");
}

/// What a bench prints as JSON.
async fn bench(arguments: &[&str]) -> Value {
    last_line(&forebay().arg("bench").args(arguments).arg("--json").output().await.expect("it runs"))
}

/// A figure of a report.
fn figure(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_of_recovery_kills_the_daemon_and_gets_every_save_back() {
    let report = bench(&["recover", "--saves", "3000", "--rounds", "2"]).await;
    let expected = [
        "empty_start_ms",
        "journal_bytes",
        "ratio",
        "ratio_worst",
        "recovered_per_second",
        "recovered_per_second_own",
        "rounds",
        "saves",
        "stream_per_second",
    ];
    assert_eq!(fields(&report), expected);
    assert_eq!(report["saves"], 3_000);
    assert!(figure(&report, "journal_bytes") > 3_000.0 * 300.0, "the bodies are in the journal: {report}");
    assert!(figure(&report, "recovered_per_second_own") >= figure(&report, "recovered_per_second"), "a start is more: {report}");
    assert!(figure(&report, "ratio") >= figure(&report, "ratio_worst") && figure(&report, "ratio_worst") > 0.0, "{report}");
    let rounds = report["rounds"].as_array().expect("rounds");
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!(fields(round), ["empty_start_ms", "journal_bytes", "ratio", "recovery_ms", "start_ms", "stream_ms"]);
        let ratio = figure(round, "stream_ms") / figure(round, "start_ms");
        assert!((figure(round, "ratio") / ratio - 1.0).abs() < 0.05, "but for rounding: {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_of_an_outage_times_calls_before_it_and_during_it() {
    let report = bench(&["outage", "--rounds", "1", "--seconds", "1"]).await;
    let expected = ["before", "callers", "capacity_per_second", "during", "rate_per_second", "ratio", "ratio_worst", "rounds"];
    assert_eq!(fields(&report), expected);
    assert!((figure(&report, "capacity_per_second") - 2.0 * figure(&report, "rate_per_second")).abs() <= 1.0, "{report}");
    assert_eq!(report["rounds"], json!([{"before": report["before"], "during": report["during"], "ratio": report["ratio"]}]));
    for latency in [&report["before"], &report["during"]] {
        assert_eq!(fields(latency), ["p50_us", "p99_us"]);
        assert!(figure(latency, "p99_us") >= figure(latency, "p50_us") && figure(latency, "p50_us") > 0.0, "{report}");
    }
    assert_eq!(report["ratio"], report["ratio_worst"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bench_of_memory_weighs_the_objects_of_a_backlog() {
    let report = bench(&["memory", "--objects", "2000"]).await;
    let expected = [
        "beyond",
        "beyond_accounted",
        "beyond_after_three_saves",
        "key_and_body",
        "objects",
        "resident_bytes",
        "resident_bytes_before",
        "without_objects",
        "without_objects_after_three_saves",
    ];
    assert_eq!(fields(&report), expected);
    assert_eq!((&report["objects"], &report["key_and_body"]), (&json!(2_000), &json!(305.0)));
    assert!(figure(&report, "beyond_accounted") > 0.0, "{report}");
    let grown = figure(&report, "resident_bytes") - figure(&report, "resident_bytes_before");
    assert!((figure(&report, "beyond") + 305.0 - grown / 2_000.0).abs() < 0.1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capacity_is_told_with_both_sides_of_littles_law() {
    let arguments =
        ["bench", "capacity", "--p95", "30s", "--connections", "1,4", "--slow", "3", "--step-seconds", "1", "--rate-max", "300"];
    let report = last_line(&forebay().args(arguments).arg("--json").output().await.expect("it runs"));
    assert_eq!(fields(&report), ["drain", "ingest", "p95_bound_us"]);
    assert_eq!(report["p95_bound_us"], 30_000_000);
    let ingest = report["ingest"].as_array().expect("one for each search");
    let searches: Vec<_> = ingest.iter().map(|search| (search["connections"].as_u64(), search["slow_clients"].as_u64())).collect();
    assert_eq!(searches, [(Some(1), Some(0)), (Some(4), Some(0)), (Some(1), Some(3)), (Some(4), Some(3))]);
    for search in ingest {
        let own = ["connections", "late_p95_us", "p50_us", "p95_us", "p99_us", "slow_answered", "slow_clients", "slow_ended"];
        check_capacity(search, &own);
        assert_eq!(
            (&search["capacity_per_second"], &search["broken_by"]),
            (&json!(300.0), &json!(null)),
            "the bound is never met: {search}"
        );
        assert!(search["p50_us"].as_u64() <= search["p95_us"].as_u64() && search["p95_us"].as_u64() <= search["p99_us"].as_u64());
        assert_eq!(search["slow_ended"], 0, "the daemon keeps slow clients: {search}");
    }
    let drain = &report["drain"];
    let own = ["drift_per_second", "lane_busy", "persist_p50_us", "persist_p95_us", "persist_p99_us"];
    check_capacity(drain, &own);
    assert!(drain["persist_p50_us"].as_u64().is_some_and(|time| time > 0), "{drain}");
    assert!(drain["lane_busy"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{drain}");
}

/// What every search tells, beside fields of its own: relations that hold on any machine.
fn check_capacity(search: &Value, own: &[&str]) {
    let mut expected = [own, &["broken_by", "capacity_per_second", "little", "utilisation"]].concat();
    expected.sort_unstable();
    assert_eq!(fields(search), expected);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number: {search}"));
    assert!((0.0..=300.0).contains(&number(&search["capacity_per_second"])), "{search}");
    let utilisation = &search["utilisation"];
    assert_eq!(fields(utilisation), ["callers", "cores", "daemon"]);
    assert!(number(&utilisation["daemon"]) > 0.0 && number(&utilisation["callers"]) > 0.0, "{search}");
    let little = &search["little"];
    assert_eq!(fields(little), ["expected", "observed", "rate", "ratio", "time_seconds"]);
    let product = number(&little["rate"]) * number(&little["time_seconds"]);
    assert!(product > 0.0 && (number(&little["expected"]) - product).abs() < 1e-6 * product, "{search}");
    assert!((number(&little["ratio"]) * product - number(&little["observed"])).abs() < 1e-6 * product.max(1.0), "{search}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_benches_refuse_what_they_can_not_measure() {
    for (wrong, word) in
        [(["--p95", "20"], "no unit"), (["--slow", "4000"], "grpc.connections_max"), (["--connections", "1,0"], "1..=4000")]
    {
        let output = forebay().args(["bench", "capacity"]).args(wrong).output().await.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(word), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_saves_and_tells_errors() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let script = format!(
        "import forebay\n\
         client = forebay.Client('{}')\n\
         client.save('players', 42, {{'name': 'Ann', 'level': 3}})\n\
         client.save_batch([forebay.Save('players', [n], {{'name': 'B'}}) for n in range(100)], atomic=True)\n\
         client.delete('players', 7)\n\
         try:\n    client.save('players', 1, {{'nam': 1}})\n    raise SystemExit('not refused')\n\
         except forebay.Refused as error:\n    assert 'name' in str(error), error\n    assert error.reason == 'INVALID_SAVE', error.reason\n\
         client.flush()\n",
        daemon.grpc().await
    );
    python(["-c", &script]).await;
    assert_eq!(database.rows("select count(*), max(level) from players").await, rows([[Some("99"), Some("3")]]));
    daemon.stop().await;
}

/// Runs Python beside the client; panics with what it wrote unless it succeeds.
async fn python<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    succeeds(Command::new("python3").args(arguments).current_dir(PYTHON)).await;
}

/// Runs a program; panics with what it wrote unless it succeeds.
pub(crate) async fn succeeds(command: &mut Command) {
    let output = command.kill_on_drop(true).output().await.expect("it runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
}

#[tokio::test]
async fn the_clients_to_copy_hold_this_contract() {
    python(["embed.py", "--check"]).await;
}

#[tokio::test]
async fn the_python_clients_pass_their_own_tests() {
    python(["test_forebay.py"]).await;
}

/// What `test_daemon.py` saves to.
const PYTHON_SCHEMA: &str = "
    create table guilds (id int primary key);
    create table players (id bigint primary key, guild_id int references guilds, name text, level int default 1, gold numeric(20, 2));
    create table notes (id bigint primary key, version int not null);
    create table log (id bigint generated always as identity primary key, line text)";

/// Runs a part of `test_daemon.py`, with both clients, against a daemon that writes nothing before someone waits for it.
async fn python_against_the_daemon(part: &str, failures: bool) {
    let (database, journal) = (Database::with(PYTHON_SCHEMA).await, directory());
    let mut setup = Setup::new(journal.path(), &database.url())
        .set("lanes.default.window", "1 h")
        .set("collections.log.mode", "append")
        .set("collections.notes.version_column", "version");
    if failures {
        setup = setup.expect_in_log("23503");
    }
    let daemon = setup.start().await;
    python(["test_daemon.py", &daemon.grpc().await.to_string(), part, &format!("Async{part}")]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_clients_save() {
    python_against_the_daemon("Saving", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_clients_follow_tickets() {
    python_against_the_daemon("Tickets", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_awaits_an_outcome_while_the_daemon_is_killed() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("postgres").expect_in_log("torn");
    let daemon = setup.start().await;
    let address = daemon.grpc().await.to_string();
    database.stop_postgres();
    let script = format!(
        "import forebay\n\
         with forebay.Client('{address}', timeout=60) as client:\n    \
             ticket = client.save('players', 1, {{'name': 'Ann'}}).ticket\n    \
             print(client.ticket(ticket).state.name, flush=True)\n    \
             print(client.await_ticket(ticket).state.name)\n"
    );
    let mut python = Command::new("python3");
    let mut python = python.args(["-c", &script]).current_dir(PYTHON).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it runs");
    let mut lines = BufReader::new(python.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next_line().await.expect("readable").as_deref(), Some("PENDING"));
    daemon.kill().await;
    let daemon = setup.set("grpc.listen", &address).start().await;
    database.start_postgres();
    assert_eq!(lines.next_line().await.expect("readable").as_deref(), Some("PERSISTED"));
    assert!(python.wait().await.expect("it ends").success());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_values_arrive_exactly() {
    let schema = "create table samples (part bytea, day date, n numeric, at timestamptz, id uuid, raw bytea, f float8, doc jsonb, \
                  flag bool, ids int[], primary key (part, day))";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let script = format!(
        "import datetime, forebay, uuid\n\
         from decimal import Decimal\n\
         at = datetime.datetime(2026, 1, 31, 12, 0, 0, 500000, datetime.timezone(datetime.timedelta(hours=2)))\n\
         n = Decimal('12345678901234567890.1234567890123456789000')\n\
         with forebay.Client('{}') as client:\n    \
             client.save('samples', [b'\\x00\\xff', datetime.date(2026, 1, 31)], {{'n': n, 'at': at, 'id': uuid.UUID(int=10),\n        \
                 'raw': b'\\xde\\xad', 'f': float('-inf'), 'doc': {{'n': n, 'it': ['\\u00e9\"', None]}}, 'flag': True, 'ids': [1, 2]}})\n    \
             client.flush()\n    assert client.status().lanes[0].rows_written == 1\n",
        daemon.grpc().await
    );
    python(["-c", &script]).await;
    let row = database.rows("select part, day, n, at at time zone 'UTC', id, raw, f, doc, flag, ids from samples").await;
    let expected = [
        "\\x00ff",
        "2026-01-31",
        "12345678901234567890.1234567890123456789000",
        "2026-01-31 10:00:00.5",
        "00000000-0000-0000-0000-00000000000a",
        "\\xdead",
        "-Infinity",
        r#"{"n": 12345678901234567890.1234567890123456789000, "it": ["é\"", null]}"#,
        "t",
        "{1,2}",
    ];
    assert_eq!(row, rows([expected.map(Some)]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_saves() {
    let (database, journal) = (Database::with(forebay::dev::TABLES).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    python(["example.py", &daemon.grpc().await.to_string()]).await;
    let expected = ["The Second", "Ann", "1", "7.50", r#"{"pets": 2}"#, "sword,shield"];
    assert_eq!(database.rows(DEV_ROWS).await, rows([expected.map(Some)]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_saves() {
    let (database, journal) = (Database::with(forebay::dev::TABLES).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut example = Command::new(env!("CARGO"));
    example.args(["run", "--locked", "--quiet", "--example", "save", "--", &daemon.grpc().await.to_string()]);
    succeeds(example.current_dir(env!("CARGO_MANIFEST_DIR"))).await;
    let expected = [Some("The Third"), Some("Bo"), Some("1000"), Some("0.00"), None, Some("sword,shield")];
    assert_eq!(database.rows(DEV_ROWS).await, rows([expected]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_example_of_a_whole_life_keeps_its_state() {
    let (database, journal) = (Database::with(forebay::dev::TABLES).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log("23503").start().await;
    let mut example = Command::new(env!("CARGO"));
    example.args(["run", "--locked", "--quiet", "--example", "life", "--", &daemon.grpc().await.to_string()]);
    succeeds(example.current_dir(env!("CARGO_MANIFEST_DIR"))).await;
    let expected = [Some("The Third"), Some("Ann"), Some("1000"), Some("7.50"), None, Some("sword")];
    assert_eq!(database.rows(DEV_ROWS).await, rows([expected]));
    assert_eq!(database.number("select count(*) from forebay.failed_save where sqlstate = '23503'").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_can_be_verified_exported_and_salvaged_offline() {
    let (mut database, parent) = (Database::alone(SCHEMA).await, directory());
    let journal = parent.path().join("journal");
    let setup = Setup::new(&journal, &database.url()).expect_in_log("postgres");
    let daemon = setup.start().await;
    database.stop_postgres();
    let mut saves: Vec<_> = (0..10).map(|n| set("players", &[&n.to_string()], json!({"name": "x"}))).collect();
    saves.push(delete("players", &["3"]));
    // One group each: the later ones call the first synced, so its damage is none that a crash leaves.
    for save in saves {
        daemon.client().await.save_batch(batch(vec![save])).await.expect("accepted");
    }
    daemon.kill().await;
    let run = |arguments: Vec<String>| async move { forebay().arg("journal").args(arguments).output().await.expect("it runs") };
    let path = journal.display().to_string();
    let verified = run(vec!["verify".to_owned(), path.clone()]).await;
    assert!(verified.status.success(), "{verified:?}");
    let exported = run(vec!["export".to_owned(), path.clone()]).await;
    let lines: Vec<Value> =
        String::from_utf8_lossy(&exported.stdout).lines().map(|line| serde_json::from_str(line).expect("NDJSON")).collect();
    assert_eq!(lines.len(), 11, "{exported:?}");
    assert_eq!((&lines[0]["collection"], &lines[0]["key"], &lines[0]["body"]["name"]), (&json!("players"), &json!(["0"]), &json!("x")));
    assert_eq!(lines[10]["kind"], "delete");
    damage(&journal.join("segments"));
    let verified = run(vec!["verify".to_owned(), path.clone()]).await;
    assert_eq!(verified.status.code(), Some(65), "{verified:?}");
    let refused =
        setup.clone().expect_in_log("damaged").expect_in_log("- segment").expect_in_log("nothing was changed").spawn().ended().await;
    assert_eq!(refused.code, Some(65), "{:#?}", refused.log);
    let rescued = parent.path().join("rescued");
    let salvaged = run(vec!["salvage".to_owned(), path, rescued.display().to_string()]).await;
    assert!(salvaged.status.success(), "{salvaged:?}");
    assert!(run(vec!["verify".to_owned(), rescued.display().to_string()]).await.status.success());
    database.start_postgres();
    let daemon = Setup { journal: rescued, ..setup }.start().await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("a salvaged journal is a journal");
    daemon.stop().await;
}

/// Flips every byte of the middle of each saved body that is found in the segments.
fn damage(segments: &Path) {
    let mut damaged = 0;
    for segment in fs::read_dir(segments).expect("segments") {
        let log = segment.expect("an entry").path().join("db");
        let mut bytes = fs::read(&log).expect("the log can be read");
        let found: Vec<_> = bytes.windows(8).enumerate().filter(|(_, window)| *window == b"\"name\":\"").map(|(at, _)| at).collect();
        for at in found.iter().take(3) {
            bytes[*at] ^= 0xff;
            damaged += 1;
        }
        fs::write(&log, bytes).expect("the log can be written");
    }
    assert!(damaged > 0, "there was something to damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_lint_clean_and_reflected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("buf").arg("lint").current_dir(root.join("proto")).output().await.expect("buf is installed by tests/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(daemon.channel().await);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection answers").into_inner();
    let answer = format!("{:?}", answers.message().await.expect("an answer"));
    for service in ["forebay.v1.SaveService", "forebay.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(answer.contains(service), "{answer}");
    }
    daemon.stop().await;
}
