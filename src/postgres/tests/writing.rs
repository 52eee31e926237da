use super::*;

const PLAYER: &str = "create table player (id int8 primary key, name text not null default 'nobody', gold int4 not null default 5,
    note varchar(3), made timestamptz not null default '2020-01-01Z')";

#[tokio::test]
async fn sets_update_what_is_there_and_insert_what_is_not() {
    let fixture = Fixture::new(PLAYER).await;
    fixture.database.run("insert into player (id, name, gold, note) values (1, 'one', 1, 'a'), (2, 'two', 2, 'b')").await.expect("rows");
    let mut lane = fixture.lane(&[]).await;
    let written = lane
        .apply(&[
            Set("player", &["1"], r#"{"gold": 10}"#),
            Set("player", &["3"], r#"{"gold": 30}"#),
            Set("player", &["2"], r#"{"gold": 20, "note": null}"#),
            Set("player", &["10"], r#"{"name": "ten", "gold": 100, "note": "x"}"#),
            Set("player", &["11"], r#"{"id": 11, "gold": 110}"#),
        ])
        .await
        .expect("applied");
    assert_eq!(written, RowsWritten { updated: 2, inserted: 3, ..RowsWritten::default() });
    let expected = ["1|one|10|a", "2|two|20|NULL", "3|nobody|30|NULL", "10|ten|100|x", "11|nobody|110|NULL"];
    assert_eq!(fixture.rows("select id, name, gold, note from player order by id").await, expected);
    assert_eq!(lane.position().await.map(|row| (row.owner, row.through)), Some((lane.owner, lane.position)));
}

#[tokio::test]
async fn a_partial_set_of_a_new_row_takes_defaults_and_of_an_old_one_checks_only_what_it_changes() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4 not null, b int4 not null default 2)").await;
    fixture.database.run("insert into t values (1, 1, 1)").await.expect("rows");
    let mut lane = fixture.lane(&[]).await;
    // `insert ... on conflict` would refuse this one for its missing `a`.
    lane.apply(&[Set("t", &["1"], r#"{"b": 7}"#)]).await.expect("applied");
    assert_eq!(fixture.rows("select * from t").await, ["1|1|7"]);
    let failure = lane.refused(&[Set("t", &["2"], r#"{"b": 7}"#)]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref(), failure.column.as_deref()), (Action::RowsOwn, Some("23502"), Some("a")));
}

#[tokio::test]
async fn a_replace_returns_every_other_column_to_its_default() {
    let fixture = Fixture::new(PLAYER).await;
    fixture.database.run("insert into player values (1, 'one', 1, 'a', now()), (2, 'two', 2, 'b', now())").await.expect("rows");
    let mut lane = fixture.lane(&[]).await;
    let written = lane
        .apply(&[
            Replace("player", &["1"], r#"{"gold": 10}"#),
            Replace("player", &["2"], "{}"),
            Replace("player", &["3"], r#"{"note": "c"}"#),
        ])
        .await
        .expect("applied");
    assert_eq!(written, RowsWritten { updated: 2, inserted: 1, ..RowsWritten::default() });
    let made = "2020-01-01 00:00:00+00";
    let expected = [format!("1|nobody|10|NULL|{made}"), format!("2|nobody|5|NULL|{made}"), format!("3|nobody|5|c|{made}")];
    fixture.database.run("set timezone = utc").await.expect("a setting");
    assert_eq!(fixture.rows("select * from player order by id").await, expected);
}

#[tokio::test]
async fn deletes_take_what_is_there_and_children_go_before_their_parents() {
    let fixture = Fixture::new(
        "create table parent (id int4 primary key); create table a_child (id int4 primary key, parent int4 not null references parent)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("a_child", &["1"], r#"{"parent": 7}"#), Set("parent", &["7"], "{}")]).await.expect("parents first");
    let written =
        lane.apply(&[Delete("parent", &["7"]), Delete("a_child", &["1"]), Delete("a_child", &["2"])]).await.expect("children first");
    assert_eq!(written, RowsWritten { deleted: 2, ..RowsWritten::default() });
    assert!(fixture.rows("select id from parent union all select id from a_child").await.is_empty());
}

#[tokio::test]
async fn a_set_without_columns_inserts_the_missing_row_and_leaves_the_other_alone() {
    let fixture = Fixture::new(PLAYER).await;
    fixture.database.run("insert into player (id, name) values (1, 'one')").await.expect("rows");
    let mut lane = fixture.lane(&[]).await;
    let written = lane.apply(&[Set("player", &["1"], "{}"), Set("player", &["2"], "{}")]).await.expect("applied");
    assert_eq!(written, RowsWritten { updated: 1, inserted: 1, ..RowsWritten::default() });
    assert_eq!(fixture.rows("select id, name from player order by id").await, ["1|one", "2|nobody"]);
}

#[tokio::test]
async fn appended_rows_arrive_in_sequence_order_whatever_columns_they_name() {
    let fixture = Fixture::new("create table event (n serial, kind text default 'none', size int4)").await;
    let mut lane = fixture.lane(&["event"]).await;
    let bodies =
        [r#"{"kind": "a"}"#, r#"{"kind": "b", "size": 2}"#, r#"{"kind": "c"}"#, "{}", "{}", "{}", r#"{"size": 7}"#, r#"{"size": 8}"#];
    let entries: Vec<_> = bodies.iter().map(|body| Append("event", body)).collect();
    let written = lane.apply(&entries).await.expect("applied");
    assert_eq!(written, RowsWritten { appended: 8, ..RowsWritten::default() });
    let expected = ["1|a|NULL", "2|b|2", "3|c|NULL", "4|none|NULL", "5|none|NULL", "6|none|NULL", "7|none|7", "8|none|8"];
    assert_eq!(fixture.rows("select * from event order by n").await, expected);
}

#[tokio::test]
async fn a_generation_larger_than_any_window_is_one_transaction() {
    const ROWS: usize = 5_000;
    let fixture = Fixture::new(PLAYER).await;
    let mut lane = fixture.lane(&[]).await;
    let (keys, body): (Vec<_>, _) = ((0..ROWS).map(|n| n.to_string()).collect(), r#"{"gold": 1}"#);
    let parts: Vec<_> = keys.iter().map(|key| [key.as_str()]).collect();
    let entries: Vec<_> = parts.iter().map(|part| Set("player", part, body)).collect();
    let written = lane.apply_in_portions(&entries, 10).await.expect("applied");
    assert_eq!(written.inserted, ROWS as u64);
    assert_eq!(fixture.rows("select count(*), count(distinct xmin::text) from player").await, [format!("{ROWS}|1")]);
    let written = lane.apply_in_portions(&entries, 1_000).await.expect("applied");
    assert_eq!(written.updated, ROWS as u64);
}

#[tokio::test]
async fn names_are_quoted_whatever_they_are() {
    let fixture = Fixture::new(
        r#"create table "Select ""Me""" ("Key;" text, "group" int4, "a'b\" text, "ord.er" text[], primary key ("Key;", "group"))"#,
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let name = r#"Select "Me""#;
    let body = r#"{"a'b\\": "it's", "ord.er": ["x", "y z"]}"#;
    lane.apply(&[Set(name, &["k'", "1"], body)]).await.expect("inserted");
    let written = lane.apply(&[Set(name, &["k'", "1"], body), Replace(name, &["l", "2"], body)]).await.expect("updated");
    assert_eq!((written.updated, written.inserted), (1, 1));
    lane.apply(&[Delete(name, &["l", "2"])]).await.expect("deleted");
    assert_eq!(fixture.rows(r#"select * from "Select ""Me""""#).await, [r#"k'|1|it's|{x,"y z"}"#]);
}

#[tokio::test]
async fn identity_and_generated_columns_are_written_as_direct_writes_would() {
    let fixture = Fixture::new(
        "create table t (id int4 generated always as identity primary key, n int4 generated always as identity (start 100), a int4,
            twice int4 generated always as (a * 2) stored)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["7"], r#"{"a": 1}"#)]).await.expect("inserted");
    assert_eq!(fixture.rows("select * from t").await, ["7|100|1|2"]);
    lane.apply(&[Set("t", &["7"], r#"{"a": 2}"#)]).await.expect("updated");
    assert_eq!(fixture.rows("select * from t").await, ["7|100|2|4"]);
    lane.apply(&[Replace("t", &["7"], r#"{"a": 3}"#)]).await.expect("replaced");
    assert_eq!(fixture.rows("select * from t").await, ["7|101|3|6"]);
}

#[tokio::test]
async fn partitioned_tables_and_triggers_with_unqualified_names_work() {
    let fixture = Fixture::new(
        "create table audit (id int4, gold int4);
         create table p (id int4 primary key, gold int4) partition by range (id);
         create table p1 partition of p for values from (0) to (10);
         create table p2 partition of p for values from (10) to (20);
         create function log() returns trigger language plpgsql as 'begin insert into audit values (new.id, new.gold); return new; end';
         create trigger log before insert or update on p for each row execute function log()",
    )
    .await;
    let mut lane = fixture.lane(&["audit"]).await;
    lane.apply(&[Set("p", &["1"], r#"{"gold": 1}"#), Set("p", &["11"], r#"{"gold": 2}"#)]).await.expect("inserted");
    lane.apply(&[Set("p", &["1"], r#"{"gold": 3}"#)]).await.expect("updated");
    assert_eq!(fixture.rows("select tableoid::regclass, * from p order by id").await, ["p1|1|3", "p2|11|2"]);
    assert_eq!(fixture.rows("select * from audit order by id, gold").await, ["1|1", "1|3", "11|2"], "the trigger fires once a write");
    let failure = lane.refused(&[Set("p", &["99"], r#"{"gold": 1}"#)]).await;
    assert_eq!(failure.sqlstate.as_deref(), Some("23514"), "no partition");
}

#[tokio::test]
async fn deferrable_constraints_are_checked_at_the_end() {
    let fixture = Fixture::new(
        "create table node (id int4 primary key, next int4 references node deferrable);
         create table seat (id int4 primary key, place int4 unique deferrable)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[
        Set("node", &["1"], r#"{"next": 2}"#),
        Set("node", &["2"], r#"{"next": 1}"#),
        Set("seat", &["1"], r#"{"place": 1}"#),
        Set("seat", &["2"], r#"{"place": 2}"#),
    ])
    .await
    .expect("a cycle");
    lane.apply(&[Set("seat", &["1"], r#"{"place": 2}"#), Set("seat", &["2"], r#"{"place": 1}"#)]).await.expect("a swap");
    let failure = lane.refused(&[Set("node", &["3"], r#"{"next": 4}"#)]).await;
    let told = (failure.action, failure.sqlstate.as_deref(), failure.constraint.as_deref());
    assert_eq!(told, (Action::Halve, Some("23503"), Some("node_next_fkey")));
}
