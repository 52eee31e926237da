use super::*;

#[tokio::test]
async fn the_schema_is_made_once_by_whoever_comes_first() {
    let fixture = Fixture::new("").await;
    let second = Postgres::new(&fixture.settings, 1).expect("a URL");
    let (one, two) = tokio::join!(fixture.postgres.ensure_schema(), second.ensure_schema());
    assert_eq!((one, two), (Ok(()), Ok(())));
    fixture.postgres.ensure_schema().await.expect("there already");
    let tables = "select table_name from information_schema.tables where table_schema = 'forebay' order by 1";
    assert_eq!(fixture.rows(tables).await, ["failed_horizon", "failed_save", "lane_position"]);
}

#[tokio::test]
async fn the_printed_schema_is_the_one_that_is_made() {
    let (made, printed) = (Fixture::new("").await, Fixture::new(&schema_sql()).await);
    made.postgres.ensure_schema().await.expect("a schema");
    let columns = "select table_name, column_name, data_type, column_default, is_nullable from information_schema.columns
         where table_schema = 'forebay' order by table_name, ordinal_position";
    assert_eq!(made.rows(columns).await, printed.rows(columns).await);
    assert_eq!(made.rows(columns).await.len(), 26);
    printed.postgres.ensure_schema().await.expect("there already");
}

#[tokio::test]
async fn without_the_privilege_the_statements_that_help_are_named_and_help() {
    let fixture = Fixture::new("create table t (id serial primary key, a int4); create table event (n serial)").await;
    let plain = fixture.as_role("plain", "").await;
    let failure = plain.ensure_schema().await.expect_err("not allowed");
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halt, Some("42501")));
    for part in ["grant create on database", "forebay schema", "grant select, insert, update on forebay.lane_position to \"plain\""] {
        assert!(failure.remedy.contains(part), "{}", failure.remedy);
    }
    fixture.database.run(&schema_sql()).await.expect("a schema");
    let collections = fixture.collections(&rules(&["event"])).await;
    let missing = plain.privileges(&collections).await.expect("a list");
    let wanted = [
        "grant insert on public.event to plain",
        "grant delete on public.t to plain",
        "grant usage on sequence public.t_id_seq to plain",
        "grant usage on schema forebay to plain",
        "grant select, insert, update, delete on forebay.failed_save to plain",
        "grant select, insert, update on forebay.failed_horizon to plain",
    ];
    for grant in wanted {
        assert!(missing.iter().any(|line| line == grant), "{grant}: {missing:?}");
    }
    fixture.database.run(&missing.join("; ")).await.expect("the grants");
    assert_eq!(plain.privileges(&collections).await, Ok(Vec::new()));
    plain.ensure_schema().await.expect("there already");
}
