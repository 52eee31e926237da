//! The Node client, against the real daemon: every method, and the example. What it does about errors, its own tests show.

use std::{path::Path, process::Stdio};

use forebay::proto::FlushRequest;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    programs::{DEV_ROWS, succeeds},
    support::{Daemon, Database, Setup, database_rows as rows, directory, free_port},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text, level int check (level < 100)); \
                      create table events (id bigint generated always as identity, kind text)";

/// What every script begins with.
const PRELUDE: &str = r#"
    import assert from "node:assert/strict";
    import { randomUUID } from "node:crypto";
    import { Refused, SaveFailed, connect } from "./forebay.js";
    const client = connect(process.argv[1]);
"#;

/// Node beside the client.
fn node<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("node");
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node")).kill_on_drop(true);
    command
}

/// Node with a script that has a `client` of this address.
fn scripted(address: &str, script: &str) -> Command {
    node(["--input-type=module", "--eval", &format!("{PRELUDE}{script}\nclient.close();"), address])
}

/// Runs a script; panics with what it wrote unless it succeeds.
async fn script(daemon: &Daemon, script: &str) {
    succeeds(&mut scripted(&daemon.grpc().await.to_string(), script)).await;
}

#[tokio::test]
async fn the_node_client_passes_its_own_tests() {
    succeeds(&mut node(["--test"])).await;
}

#[tokio::test]
async fn the_node_client_has_the_types_that_it_says() {
    succeeds(&mut node(["node_modules/typescript/bin/tsc"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_saves_and_tells_errors() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.events.mode", "append");
    let daemon = setup.start().await;
    let saves = r#"
        await client.save("players", 42, { name: "Ann", level: 3 });
        const requestId = randomUUID();
        const first = await client.save("players", 42, { level: 2 }, { add: ["level"], requestId });
        const again = await client.save("players", 42, { level: 2 }, { add: ["level"], requestId });
        assert.deepEqual([first.deduplicated, again.deduplicated, again.ticket], [false, true, first.ticket]);
        const many = Array.from({ length: 100 }, (_, id) => ({ collection: "players", key: id, values: { name: "B" } }));
        const batch = await client.saveBatch([...many, { collection: "players", key: 8, delete: true }], { atomic: true });
        assert.deepEqual([batch.length, batch[0].state], [101, "PENDING"]);
        await client.delete("players", [7]);
        await client.append("events", { kind: "login" });
        await assert.rejects(client.save("players", 1, { nam: 1, leve: 2 }), (error) => {
            assert(error instanceof Refused);
            assert.equal(error.reason, "INVALID_SAVE");
            assert.equal(error.violations.length, 2);
            assert.equal(error.metadata.violations, "2");
            assert.match(error.message, /did you mean "name"\?/);
            return true;
        });
        assert(await client.flush() > 0n);
    "#;
    script(&daemon, saves).await;
    let players = "select count(*), max(level), max(name) filter (where id = 42), (select string_agg(kind, ',') from events) from players";
    assert_eq!(database.rows(players).await, rows([[Some("98"), Some("5"), Some("B"), Some("login")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_values_arrive_exactly() {
    let schema = "create table samples (part bytea, n bigint, at timestamptz, day date, id uuid, raw bytea, f float8, doc jsonb, flag bool, \
                  ids int[], exact numeric, primary key (part, n))";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let saves = r#"
        await client.save("samples", [Buffer.from([0, 255]), 9007199254740993n], {
            at: new Date(Date.UTC(2026, 0, 31, 10, 0, 0, 500)),
            day: "2026-01-31",
            id: "00000000-0000-0000-0000-00000000000a",
            raw: new Uint8Array([0xde, 0xad]),
            f: -Infinity,
            doc: { n: 12345678901234567890n, it: ["é\"", null, 0.1] },
            flag: true,
            ids: [1, 2],
            exact: "12345678901234567890.1234567890123456789000",
        });
        await client.flush();
    "#;
    script(&daemon, saves).await;
    let row = database.rows("select part, n, at at time zone 'UTC', day, id, raw, f, doc, flag, ids, exact from samples").await;
    let expected = [
        "\\x00ff",
        "9007199254740993",
        "2026-01-31 10:00:00.5",
        "2026-01-31",
        "00000000-0000-0000-0000-00000000000a",
        "\\xdead",
        "-Infinity",
        r#"{"n": 12345678901234567890, "it": ["é\"", null, 0.1]}"#,
        "t",
        "{1,2}",
        "12345678901234567890.1234567890123456789000",
    ];
    assert_eq!(row, rows([expected.map(Some)]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_learns_what_became_of_a_save() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log("postgres").expect_in_log("failed").start().await;
    database.stop_postgres();
    let pending = r#"
        const { ticket } = await client.save("players", 1, { level: 1 });
        const status = await client.ticket(ticket);
        assert.deepEqual([status.state, status.failure, status.outcomeTime], ["PENDING", null, null]);
        assert(status.savesAhead >= 1);
        assert.equal((await client.awaitTicket(ticket, { timeoutMs: 300 })).state, "PENDING");
    "#;
    script(&daemon, pending).await;
    database.start_postgres();
    let outcomes = r#"
        const { ticket } = await client.save("players", 2, { level: 2 });
        assert.equal((await client.awaitTicket(ticket)).state, "PERSISTED");
        const bad = await client.save("players", 3, { level: 100 });
        const { state, failure, outcomeTime } = await client.awaitTicket(bad.ticket);
        assert.deepEqual([state, failure.sqlstate, failure.constraint], ["FAILED", "23514", "players_level_check"]);
        assert(outcomeTime instanceof Date);
        assert.deepEqual((await client.ticket(bad.ticket)).failure, failure);
    "#;
    script(&daemon, outcomes).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stream_tells_each_save_that_is_refused() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let streams = r#"
        const errors = [];
        const stream = client.saveStream({ onError: (error, save) => errors.push([error, save.key]) });
        for (let id = 1; id <= 5_000; id++) await stream.send({ collection: "players", key: id, values: id === 7 ? { nam: 1 } : { level: 1 } });
        await stream.send({ collection: "players", key: 1, delete: true });
        await stream.finish();
        assert.equal(errors.length, 1);
        const [[error, key]] = errors;
        assert(error instanceof Refused);
        assert.deepEqual([error.reason, error.violations.length, key], ["INVALID_SAVE", 1, 7]);
        await client.flush();
    "#;
    script(&daemon, streams).await;
    assert_eq!(database.number("select count(*) from players").await, 4_998);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stream_outlives_kills_and_saves_nothing_twice() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let address = format!("127.0.0.1:{}", free_port());
    let setup = Setup::new(journal.path(), &database.url())
        .set("collections.events.mode", "append")
        .set("grpc.listen", &address)
        .expect_in_log("torn");
    let mut daemon = setup.start().await;
    let streams = r#"
        const stream = client.saveStream({ timeoutMs: 60_000 });
        for (let n = 0; n < 20_000; n++) {
            await stream.send({ collection: "events", values: { kind: String(n) } });
            if (n % 5_000 === 2_500) console.log("kill it now");
        }
        await stream.finish();
    "#;
    let mut node = scripted(&address, streams).stdout(Stdio::piped()).spawn().expect("node starts");
    let mut lines = BufReader::new(node.stdout.take().expect("piped")).lines();
    let mut kills = 0;
    while lines.next_line().await.expect("text").is_some() {
        daemon.kill().await;
        daemon = setup.start().await;
        kills += 1;
    }
    assert!(node.wait().await.expect("it ends").success(), "see what it wrote");
    assert_eq!(kills, 4);
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.rows("select count(*), count(distinct kind) from events").await, rows([[Some("20000"), Some("20000")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_is_told_outcomes_with_the_answer() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log("failed").start().await;
    let persisted = r#"
        const durability = "PERSISTED";
        assert.equal((await client.save("players", 1, { level: 1 }, { durability })).state, "PERSISTED");
        await assert.rejects(client.save("players", 2, { level: 100 }, { durability }), (error) => {
            assert(error instanceof SaveFailed, error);
            assert.deepEqual([error.sqlstate, error.constraint], ["23514", "players_level_check"]);
            assert.notEqual(error.ticket, "");
            return true;
        });
        const saves = [1, 100].map((level) => ({ collection: "players", key: level, values: { level } }));
        const [stored, failed] = await client.saveBatch(saves, { durability });
        assert.deepEqual([stored.state, stored.failure, failed.state, failed.failure.sqlstate], ["PERSISTED", null, "FAILED", "23514"]);
    "#;
    script(&daemon, persisted).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_reads_its_writes() {
    let schema = "create table players (id bigint primary key, name text, exact numeric); \
                  insert into players select n, 'p' || n, 0.5 from generate_series(1, 2500) n";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("lanes.default.window", "1 h").start().await;
    let reads = r#"
        await client.save("players", 7, { name: "Ann", exact: "1.00000000000000000001" });
        await client.delete("players", 8);
        const { found, row, raw, pending } = await client.get("players", 7);
        assert.deepEqual([found, row, pending], [true, { id: 7, name: "Ann", exact: "1.00000000000000000001" }, true]);
        assert.equal(JSON.parse(raw).name, "Ann");
        assert.deepEqual((await client.get("players", 9)).row, { id: 9, name: "p9", exact: 0.5 });
        assert.equal((await client.get("players", 8)).found, false);

        const players = new Map();
        const progress = [];
        for await (const { key, row } of client.load("players", { pageSize: 100, onPage: (told) => progress.push(told) })) {
            if (row) players.set(key[0], row.name);
            else players.delete(key[0]);
        }
        assert.deepEqual([players.size, players.get("7"), players.has("8")], [2499, "Ann", false]);
        assert(progress.length >= 25 && progress.at(-1).rowsLoaded >= 2499, JSON.stringify(progress.at(-1)));

        const some = new Set();
        for await (const { key } of client.load("players", { from: 100, to: [199] })) some.add(key[0]);
        assert.equal(some.size, 100);
    "#;
    script(&daemon, reads).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_watches_outcomes() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log("failed").start().await;
    let watches = r#"
        const outcomes = client.watch({ collections: ["players"] });
        const first = (await outcomes.next()).value;
        assert.equal(first.type, "watermark");
        const { ticket } = await client.save("players", 1, { level: 100 });
        let resumeToken = first.resumeToken;
        const failed = [];
        for await (const outcome of outcomes) {
            if (outcome.type === "failed") failed.push(outcome);
            if (outcome.type === "watermark") resumeToken = outcome.resumeToken;
            if (resumeToken > ticket) break;
        }
        assert.deepEqual(failed.map(({ ticket, key, failure }) => [ticket, key, failure.sqlstate]), [[ticket, ["1"], "23514"]]);
        for await (const outcome of client.watch({ resumeToken: first.resumeToken })) {
            if (outcome.type !== "failed") continue;
            assert.equal(outcome.ticket, ticket, "a watch that resumes is told again");
            break;
        }
    "#;
    script(&daemon, watches).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_example_lives_a_whole_life() {
    let (database, journal) = (Database::with(forebay::dev::TABLES).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    succeeds(&mut node(["example.js", &daemon.grpc().await.to_string()])).await;
    let expected = ["The Fourth", "Cleo", "3", "7.50", r#"{"pets": 2}"#, "sword,shield"];
    assert_eq!(database.rows(DEV_ROWS).await, rows([expected.map(Some)]));
    daemon.stop().await;
}
