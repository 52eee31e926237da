//! Every type that a column may have: what is saved reads exactly as what a direct write of the same literal leaves, to the last
//! digit; and what Postgres would not take fails as the direct write does.
//!
//! The list of types is the server's own: one that nobody gave samples for fails the test.

use forebay::proto::{FlushRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tokio_postgres::Client;
use tonic::{Code, transport::Channel};

use crate::support::{
    Daemon, Database, Setup, directory,
    samples::{Column, OWN_TYPES, Sample, columns, text},
    saves::{batch, request, set, set_text},
};

/// Every type of the server's own that a column may have; arrays come with their elements, composites are row types of its tables.
const TYPES: &str = "
    select format_type(oid, null) from pg_type
    where typisdefined and typtype not in ('p', 'c') and typnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        and not (typcategory = 'A' and typname like '\\_%')
    order by oid";

/// Types whose input functions take no value at all: saves may name such a column with null only.
const INTERNAL: [&str; 7] = [
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

/// Three tables of the same columns: written by the daemon as objects and as appended rows, and by hand.
/// (One of the domains has a default that differs with every row.)
fn schema(columns: &[Column]) -> String {
    let list = |n: usize, column: &Column| match column.in_arrays {
        true => format!("v{n} {0} default null, a{n} {0}[]", column.of),
        false => format!("v{n} {0}", column.of),
    };
    let list: Vec<_> = columns.iter().enumerate().map(|(n, column)| list(n, column)).collect();
    let table = |name: &str, key: &str| format!("create table {name} (id int {key}, {});", list.join(", "));
    format!("{OWN_TYPES} {} {} {}", table("saved", "primary key"), table("added", ""), table("direct", "primary key"))
}

/// Every column's every sample: the column's name, the value as JSON and as SQL.
fn cells(columns: &[Column]) -> Vec<(String, String, String)> {
    let mut cells = Vec::new();
    for (n, column) in columns.iter().enumerate() {
        cells.extend(column.samples.iter().map(|sample| (format!("v{n}"), sample.json.clone(), sample.sql.clone())));
        let arrays = if column.in_arrays { arrays(column) } else { Vec::new() };
        cells.extend(arrays.into_iter().map(|sample| (format!("a{n}"), sample.json, sample.sql)));
    }
    cells
}

/// No elements, all samples and a null, two dimensions, three.
fn arrays(column: &Column) -> Vec<Sample> {
    let of = &column.of;
    let typed = |sample: &Sample| format!("{}::{of}", sample.sql);
    let json: Vec<_> = column.samples.iter().map(|sample| sample.json.as_str()).collect();
    let sql: Vec<_> = column.samples.iter().map(typed).collect();
    let pair = (format!("[{}, null]", json[0]), format!("array[{}, null]", sql[0]));
    let (json, sql) = (json.join(", "), sql.join(", "));
    let sample = |json: String, sql: String| Sample { json, sql: format!("({sql})::{of}[]") };
    let mut arrays = vec![
        sample("[]".to_owned(), "'{}'".to_owned()),
        sample(format!("[{json}, null]"), format!("array[{sql}, null]")),
        sample(format!("[{0}, {0}]", pair.0), format!("array[{0}, {0}]", pair.1)),
        sample(format!("[[{0}], [{0}]]", pair.0), format!("array[array[{0}], array[{0}]]", pair.1)),
    ];
    arrays.push(Sample { json: "\"{NULL}\"".to_owned(), sql: format!("'{{NULL}}'::{of}[]") });
    arrays
}

async fn flush(client: &mut SaveServiceClient<Channel>) {
    client.flush(FlushRequest::default()).await.expect("flushed");
}

async fn save_all(client: &mut SaveServiceClient<Channel>, saves: impl Iterator<Item = forebay::proto::Save>) {
    client.save_batch(batch(saves.collect())).await.expect("accepted");
    flush(client).await;
}

/// A connection that reads what depends on the session as the daemon's do.
async fn direct(database: &Database) -> Client {
    let client = database.client().await;
    client.batch_execute("set timezone = 'UTC'; set datestyle = 'ISO'; set intervalstyle = 'postgres'").await.expect("set");
    client
}

/// Rows of two tables that don't read the same.
async fn differences(database: &Database, ours: &str, theirs: &str) -> Vec<Vec<Option<String>>> {
    let sql = format!(
        "select o.id, o::text, d::text from {ours} o full join {theirs} d using (id) where o::text is distinct from d::text limit 3"
    );
    database.rows(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_the_server_has_samples_or_takes_no_value() {
    let database = Database::with("create table internal (id int primary key)").await;
    let known: Vec<_> = columns().into_iter().map(|column| column.of).collect();
    let found: Vec<_> = database.rows(TYPES).await.into_iter().map(|mut row| row.remove(0).expect("a name")).collect();
    for name in &found {
        assert!(known.contains(name) || INTERNAL.contains(&name.as_str()), "no samples of {name}");
    }
    let journal = directory();
    let internal: Vec<_> = INTERNAL.into_iter().filter(|name| found.iter().any(|found| found == name)).collect();
    for (n, name) in internal.iter().enumerate() {
        database.execute(&format!("alter table internal add v{n} {name}")).await;
    }
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    for (n, name) in internal.iter().enumerate() {
        let save = set_text("internal", &["1"], &format!(r#"{{"v{n}": "x"}}"#));
        let status = client.save(request(save)).await.expect_err("no value");
        assert!(status.code() == Code::InvalidArgument && status.message().contains("reads no value"), "{name}: {status:?}");
        let written = database.client().await.batch_execute(&format!("insert into internal (id, v{n}) values (9, 'x')")).await;
        let refused = written.expect_err("Postgres says the same");
        assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("0A000"), "{name}");
        client.save(request(set_text("internal", &["1"], &format!(r#"{{"v{n}": null}}"#)))).await.expect("null is a value");
    }
    flush(&mut client).await;
    assert_eq!(database.number("select count(*) from internal").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_value_reads_as_if_it_had_been_written_directly() {
    let columns = columns();
    let (database, journal, cells) = (Database::with(&schema(&columns)).await, directory(), cells(&columns));
    let client = direct(&database).await;
    for (id, (column, _, sql)) in cells.iter().enumerate() {
        let written = client.batch_execute(&format!("insert into direct (id, {column}) values ({id}, {sql})")).await;
        written.unwrap_or_else(|error| panic!("{} takes {sql}: {error:?}", columns[column[1..].parse::<usize>().expect("a number")].of));
    }
    let daemon = Setup::new(journal.path(), &database.url()).set("collections.added.mode", "append").start().await;
    let mut client = daemon.client().await;
    let body = |cell: &(String, String, String)| format!(r#"{{"{}": {}}}"#, cell.0, cell.1);
    let sets = || cells.iter().enumerate().map(|(id, cell)| set_text("saved", &[&id.to_string()], &body(cell)));

    save_all(&mut client, sets()).await;
    assert_eq!(differences(&database, "saved", "direct").await, [] as [Vec<_>; 0], "as new rows");

    let nulls = cells.iter().enumerate().map(|(id, cell)| set_text("saved", &[&id.to_string()], &format!(r#"{{"{}": null}}"#, cell.0)));
    save_all(&mut client, nulls).await;
    database.execute("create table nothing (like saved including defaults); insert into nothing (id) select id from direct").await;
    assert_eq!(differences(&database, "saved", "nothing").await, [] as [Vec<_>; 0], "as NULL");

    save_all(&mut client, sets()).await;
    assert_eq!(differences(&database, "saved", "direct").await, [] as [Vec<_>; 0], "as updates");

    let appends = cells.iter().enumerate().map(|(id, cell)| set_text("added", &[], &format!(r#"{{"id": {id}, {}"#, &body(cell)[1..])));
    save_all(&mut client, appends).await;
    assert_eq!(differences(&database, "added", "direct").await, [] as [Vec<_>; 0], "as appended rows");
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 0);
    println!("types: {} values of {} types", cells.len(), columns.len());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_character_of_unicode_arrives_unchanged() {
    const PART: u32 = 0x4000;
    let (database, journal) = (Database::with("create table texts (id int primary key, t text, j jsonb, l text[])").await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let writer = database.client().await;
    writer.batch_execute("create table direct (like texts)").await.expect("a table");
    for part in 0..=u32::from(char::MAX) / PART {
        let all: String = (part * PART..(part + 1) * PART).filter_map(char::from_u32).filter(|&letter| letter != '\0').collect();
        let (id, body) = (i32::try_from(part).expect("few parts"), json!({"t": all, "j": {"x": all}, "l": [all, ""]}));
        client.save(request(set("texts", &[&part.to_string()], body))).await.expect("accepted");
        let sql = "insert into direct values ($1, $2, jsonb_build_object('x', $2::text), array[$2, ''])";
        writer.execute(sql, &[&id, &all]).await.expect("written");
    }
    flush(&mut client).await;
    assert_eq!(
        database.number("select count(*) from texts join direct using (id, t, j, l)").await,
        u64::from(u32::from(char::MAX) / PART) + 1
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_times_are_refused_at_the_door_wherever_they_stand() {
    let schema = "create type event as (note text, at timestamptz); create domain days as date[]; create domain moment as timestamptz;
        create type events as (list event[], slot tsrange);
        create table t (id int primary key, d date, t time, tz timetz, ts timestamp, tstz timestamptz, m moment, l timestamptz[], ds days,
            r tstzrange, dr daterange, mr datemultirange, rs daterange[], e event, es event[], nested events, note text, notes text[], i interval)";
    let (database, journal) = (Database::with(schema).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let refused = [
        json!({"d": "today"}),
        json!({"t": "NOW"}),
        json!({"tz": "now"}),
        json!({"ts": "Tomorrow 10:00"}),
        json!({"tstz": " yesterday allballs"}),
        json!({"m": "now"}),
        json!({"l": ["2024-01-01", "now"]}),
        json!({"l": [["now"]]}),
        json!({"l": "{now}"}),
        json!({"ds": ["today"]}),
        json!({"r": "[now,)"}),
        json!({"dr": "[2024-01-01, tomorrow]"}),
        json!({"mr": "{[2024-01-01,today]}"}),
        json!({"rs": ["[today,)"]}),
        json!({"e": {"note": "x", "at": "now"}}),
        json!({"e": "(x,now)"}),
        json!({"es": [{"at": "epoch"}, {"at": "today"}]}),
        json!({"nested": {"list": [{"at": "tomorrow"}]}}),
        json!({"nested": {"slot": "[now,)"}}),
    ];
    for body in refused {
        let status = client.save(request(set("t", &["1"], body.clone()))).await.expect_err("relative");
        assert!(status.code() == Code::InvalidArgument && status.message().contains("time of writing"), "{body}: {status:?}");
    }
    let taken = json!({"note": "now", "notes": ["today"], "e": {"note": "tomorrow", "at": "epoch"}, "d": "infinity", "t": "allballs",
        "r": "[-infinity,infinity]", "i": "1 day"});
    client.save(request(set("t", &["1"], taken))).await.expect("fixed");
    flush(&mut client).await;
    assert_eq!(
        database.rows("select note, (e).note, notes[1] from t").await.concat(),
        ["now", "tomorrow", "today"].map(|text| Some(text.to_owned()))
    );
    daemon.stop().await;
}

/// Values that Postgres would not take: the column's type, the value as JSON, the value as SQL.
fn refused() -> Vec<(&'static str, Sample)> {
    let ragged = Sample { json: "[[1], [1, 2]]".to_owned(), sql: "'{{1},{1,2}}'".to_owned() };
    let long_member = Sample { json: r#"["abcd"]"#.to_owned(), sql: "'{abcd}'".to_owned() };
    let attribute = Sample { json: r#"{"x": "one"}"#.to_owned(), sql: "'(one,)'".to_owned() };
    let null = Sample { json: "null".to_owned(), sql: "null".to_owned() };
    let texts = [
        ("varchar(3)", "abcd"),
        ("char(3)", "abcd"),
        ("bit(3)", "1010"),
        ("bit(3)", "10"),
        ("varbit(3)", "1010"),
        ("bit(3)", "2"),
        ("numeric(6,2)", "10000"),
        ("numeric(6,2)", "9999.999"),
        ("smallint", "32768"),
        ("int", "1.5"),
        ("int", "one"),
        ("int", ""),
        ("bigint", "9223372036854775808"),
        ("real", "1e39"),
        ("double precision", "1e400"),
        ("bool", "maybe"),
        ("uuid", "0189d0a2"),
        ("inet", "300.0.0.1"),
        ("cidr", "192.168.0.1/8"),
        ("macaddr", "08:00"),
        ("bytea", "\\xabc"),
        ("date", "2024-02-30"),
        ("date", "5874898-01-01"),
        ("timestamptz", "2024-01-01 25:00:01"),
        ("timestamptz", "2024-01-01 10:00 Nowhere/City"),
        ("time", "25:00"),
        ("interval", "1 lightyear"),
        ("int4range", "[2,1]"),
        ("int4multirange", "{[1,2}"),
        ("mood", "happy"),
        ("short", "abcd"),
        ("price", "-1"),
        ("point", "(1)"),
        ("tsquery", "a &"),
        ("tsquery", "a b"),
        ("tsvector", "'a"),
        ("jsonpath", "@"),
        ("regclass", "nowhere"),
        ("regtype", "nothing"),
        ("regproc", "lower"),
        ("regoperator", "@@@@(int,int)"),
        ("regrole", "nobody"),
        ("regconfig", "nothing"),
        ("aclitem", "nobody=r/nobody"),
        ("xml", "<a>"),
        ("jsonpath", "$."),
        ("money", "lots"),
        ("pg_lsn", "x"),
        ("int[]", "{1"),
    ];
    let mut refused: Vec<_> = texts.into_iter().map(|(of, value)| (of, text(value))).collect();
    refused.extend([("int[]", ragged), ("varchar(3)[]", long_member), ("pair", attribute), ("int not null", null)]);
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_direct_write_would_be_refused_fails_with_the_same_code() {
    let refused = refused();
    let list: Vec<_> = refused.iter().enumerate().map(|(n, (of, _))| format!("create table t{n} (id int primary key, v {of});")).collect();
    let (database, journal) = (Database::with(&format!("{OWN_TYPES} {}", list.concat())).await, directory());
    let writer = direct(&database).await;
    let mut expected = Vec::new();
    for (n, (of, sample)) in refused.iter().enumerate() {
        let written = writer.batch_execute(&format!("insert into t{n} values (1, {})", sample.sql)).await;
        let error = written.expect_err(of);
        expected.push(vec![Some(format!("t{n}")), error.code().map(|code| code.code().to_owned())]);
    }
    let daemon =
        Setup::new(journal.path(), &database.url()).expect_in_log("postgres would not take").expect_in_log("trying again").start().await;
    let saves =
        refused.iter().enumerate().map(|(n, (_, sample))| set_text(&format!("t{n}"), &["1"], &format!(r#"{{"v": {}}}"#, sample.json)));
    save_all(&mut daemon.client().await, saves).await;
    let failed = database.rows("select collection, sqlstate from forebay.failed_save order by sequence").await;
    for (n, (failed, expected)) in failed.iter().zip(&expected).enumerate() {
        assert_eq!(failed, expected, "{:?}", refused[n].0);
    }
    assert_eq!(failed.len(), expected.len());
    stop(daemon).await;
}

async fn stop(daemon: Daemon) {
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0), "{:#?}", ended.last());
}
