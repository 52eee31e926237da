use super::*;
use crate::sandbox::StopMode;

#[tokio::test]
async fn a_poison_row_is_named_by_collection_code_and_constraint_and_nothing_is_written() {
    let fixture = Fixture::new(
        "create table parent (id int4 primary key);
         create table t (id int4 primary key, a int4 not null check (a > 0), u int4 unique, p int4 references parent)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let cases = [
        (r#"{"a": 0}"#, Action::RowsOwn, "23514", Some("t_a_check")),
        (r#"{"a": null}"#, Action::RowsOwn, "23502", None),
        (r#"{"a": 1, "u": 7}"#, Action::Halve, "23505", Some("t_u_key")),
        (r#"{"a": 1, "p": 7}"#, Action::Halve, "23503", Some("t_p_fkey")),
        (r#"{"a": "secret"}"#, Action::RowsOwn, "22P02", None),
    ];
    for (poison, action, sqlstate, constraint) in cases {
        let good = [Set("parent", &["1"], "{}"), Set("t", &["1"], r#"{"a": 1, "u": 7}"#)];
        let failure = lane.refused(&good.into_iter().chain([Set("t", &["2"], poison)]).collect::<Vec<_>>()).await;
        assert_eq!((failure.action, failure.sqlstate.as_deref(), failure.constraint.as_deref()), (action, Some(sqlstate), constraint));
        assert!(!failure.to_string().contains("secret"));
        // A foreign key is checked after the statement.
        assert_eq!(failure.collection.as_deref(), Some("t"));
    }
    assert!(fixture.rows("select id from t union all select id from parent").await.is_empty());
}

#[tokio::test]
async fn rows_that_a_trigger_leaves_out_are_noticed_unless_the_catalog_knows_of_it() {
    let fixture = Fixture::new("create table t (id int4 primary key)").await;
    let mut lane = fixture.lane(&[]).await;
    let trigger =
        "create function swallow() returns trigger language plpgsql as 'begin if new.id = 2 then return null; end if; return new; end';
                   create trigger swallow before insert on t for each row execute function swallow()";
    fixture.database.run(trigger).await.expect("a trigger");
    let saves = [Set("t", &["1"], "{}"), Set("t", &["2"], "{}")];
    lane.is_outdated(&saves).await;
    let mut catalog = fixture.postgres.read_catalog().await.expect("a catalog");
    catalog.tables.iter_mut().for_each(|table| table.triggers_skip = false);
    lane.collections = Collections::build(&catalog, &rules(&[]), &lane.collections);
    let failure = lane.refused(&saves).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halve, None));
    assert!(failure.to_string().contains("2 rows were sent, 1 arrived"), "{failure}");
    lane.collections = fixture.collections(&rules(&[])).await;
    assert_eq!(lane.apply(&saves).await.expect("applied").inserted, 1);
}

#[tokio::test]
async fn a_changed_schema_halts() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4); create table u (id int4 primary key, a text)").await;
    let mut lane = fixture.lane(&[]).await;
    fixture.database.run("alter table t drop column a; alter table u rename to v").await.expect("DDL");
    let of = |name| [Set(name, &["1"], r#"{"a": 1}"#)];
    lane.is_outdated(&of("t")).await;
    lane.is_outdated(&of("u")).await;
    let generations = [("t", "42703"), ("u", "42P01")].map(|(name, sqlstate)| (name, sqlstate, lane.generation(&of(name))));
    let catalog = fixture.postgres.read_catalog().await.expect("a catalog");
    lane.collections = Collections::build(&catalog, &rules(&[]), &lane.collections);
    for (name, sqlstate, generation) in generations {
        let work = Work {
            collections: &lane.collections,
            after: generation.after,
            through: generation.through,
            generation: Some(&generation),
            failed: &[],
            closes: &[],
            statement_rows: steady(1),
            aside: None,
        };
        let Err(ApplyError::Failed(failure)) = lane.writer.apply(&work).await else { panic!("{name} is not what it was") };
        assert_eq!(
            (failure.action, failure.sqlstate.as_deref(), failure.collection.as_deref()),
            (Action::Halt, Some(sqlstate), Some(name))
        );
        assert!(!failure.remedy.is_empty() && lane.writer.is_usable());
    }
}

/// What a cast says of a value is no verdict if the column has another type by now.
#[tokio::test]
async fn a_value_that_fits_the_column_as_it_is_now_is_not_refused_by_what_it_was() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4)").await;
    let mut lane = fixture.lane(&[]).await;
    fixture.database.run("alter table t alter a type int8").await.expect("DDL");
    let saves = [Set("t", &["1"], r#"{"a": 3000000000}"#)];
    lane.is_outdated(&saves).await;
    lane.collections = fixture.collections(&rules(&[])).await;
    lane.apply(&saves).await.expect("applied");
    let failure = lane.refused(&[Set("t", &["1"], r#"{"a": 1e20}"#)]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::RowsOwn, Some("22P02")));
}

/// Its plan of the trigger was made for the type as it was, and Postgres refuses it for as long as the session lasts.
#[tokio::test]
async fn a_session_that_has_planned_for_another_type_is_replaced() {
    let sql = "create table t (id int4 primary key, n int8); create table noted (n int8);
         create function note() returns trigger language plpgsql as $$ begin insert into noted values (new.n); return null; end $$;
         create trigger note after insert or update on t for each row execute function note()";
    let fixture = Fixture::new(sql).await;
    let mut lane = fixture.lane(&[]).await;
    lane.apply(&[Set("t", &["1"], r#"{"n":1}"#)]).await.expect("written");
    fixture.database.run("alter table t alter n type int4").await.expect("changed");
    assert_eq!(lane.apply(&[Set("t", &["1"], r#"{"n":2}"#)]).await, Err(ApplyError::Catalog));
    assert!(!lane.writer.is_usable(), "nobody gets this session again");
    drop(lane.writer);
    lane.collections = fixture.collections(&rules(&[])).await;
    lane.writer = fixture.postgres.writer(lane.journal, "default", lane.owner).await.expect("another one");
    lane.apply(&[Set("t", &["1"], r#"{"n":2}"#)]).await.expect("written");
    assert_eq!(fixture.rows("select string_agg(n::text, ',') from noted").await, ["1,2"]);
}

#[tokio::test]
async fn a_lock_is_waited_for_as_long_as_set_and_then_tried_again() {
    let mut fixture = Fixture::new("create table t (id int4 primary key, a int4); insert into t values (1, 1)").await;
    fixture.settings.lock_timeout = Duration::from_millis(50);
    fixture.postgres = Postgres::new(&fixture.settings, 1).expect("a URL");
    let mut lane = fixture.lane(&[]).await;
    fixture.database.run("begin").await.expect("a transaction");
    fixture.database.run("select * from t for update").await.expect("a lock");
    let failure = lane.refused(&[Set("t", &["1"], r#"{"a": 2}"#)]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Retry, Some("55P03")));
    fixture.database.run("rollback").await.expect("released");
    lane.apply(&[Set("t", &["1"], r#"{"a": 2}"#)]).await.expect("applied");
}

/// Whoever breaks a transaction before COMMIT is sent has certainly committed nothing; at COMMIT nobody knows.
#[tokio::test]
async fn a_session_that_ends_before_commit_has_committed_nothing_and_at_commit_is_in_doubt() {
    let fixture = Fixture::new(
        "create table t (id int4 primary key);
         create function die() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); return null; end';
         create constraint trigger die after insert on t deferrable initially deferred for each row execute function die();
         create table at_commit (id int4 primary key)",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let Err(ApplyError::Failed(failure)) = lane.apply(&[Set("t", &["1"], "{}")]).await else { panic!("the session is over") };
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Reconnect, Some("57P01")));
    assert!(!lane.writer.is_usable());

    // Deferred again by the last statement before COMMIT, the trigger ends the session in COMMIT itself.
    fixture
        .database
        .run(
            "create function later() returns trigger language plpgsql as 'begin set constraints die deferred; insert into t values (2); return null; end';
             create trigger later after update on forebay.lane_position for each row execute function later()",
        )
        .await
        .expect("a trigger");
    let journal = lane.journal;
    let (owner, collections) = (lane.owner, lane.collections.clone());
    drop(lane);
    let mut writer = fixture.postgres.writer(journal, "default", owner).await.expect("a new connection");
    let work = Work {
        collections: &collections,
        after: Sequence::ZERO,
        through: Sequence::from_u64(1),
        generation: None,
        failed: &[],
        closes: &[],
        statement_rows: steady(1),
        aside: None,
    };
    let Err(ApplyError::InDoubt(failure)) = writer.apply(&work).await else { panic!("the session is over") };
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::InDoubt, Some("57P01")));
    drop(writer);
    let mut writer = fixture.postgres.writer(journal, "default", owner).await.expect("a new connection");
    assert_eq!(writer.read_position().await.expect("an answer").map(|row| row.through), Some(Sequence::ZERO));
}

#[tokio::test]
async fn a_server_that_goes_away_is_reconnected_to() {
    let sandbox = SandboxOptions { fsync: false, ..SandboxOptions::default() };
    let mut sandbox = tokio::task::spawn_blocking(|| Sandbox::create(sandbox)).await.expect("no panic").expect("a private Postgres");
    let settings = PostgresSettings { url: Some(sandbox.url().into()), allow_fsync_off: true, ..Settings::default().postgres };
    let postgres = Postgres::new(&settings, 1).expect("a URL");
    postgres.ensure_schema().await.expect("a schema");
    let (journal, owner) = (Uuid::new_v4(), Uuid::new_v4());
    let mut writer = postgres.writer(journal, "default", owner).await.expect("a writer");
    writer.claim(None, Sequence::from_u64(1)).await.expect("a claim");
    sandbox.stop(StopMode::Immediate).expect("stopped");
    assert_eq!(writer.read_position().await.expect_err("nobody is there").action, Action::Reconnect);
    assert!(!writer.is_usable());
    drop(writer);
    assert_eq!(postgres.writer(journal, "default", owner).await.expect_err("nobody is there").action, Action::Reconnect);
    sandbox.start().expect("started");
    let mut writer = postgres.writer(journal, "default", owner).await.expect("a writer");
    assert_eq!(writer.read_position().await, Ok(Some(PositionRow { owner, through: Sequence::from_u64(1) })));
}

#[tokio::test]
async fn row_level_security_is_about_the_data_and_a_missing_privilege_is_not() {
    let fixture = Fixture::new("create table t (id int4 primary key, a int4); create table forbidden (id int4 primary key)").await;
    fixture.postgres.ensure_schema().await.expect("a schema");
    let limited = fixture
        .as_role(
            "limited",
            "grant all on schema forebay to limited; grant all on all tables in schema forebay to limited; grant all on t to limited;
             alter table t enable row level security; create policy own on t using (true) with check (a > 0)",
        )
        .await;
    let (journal, owner) = (Uuid::new_v4(), Uuid::new_v4());
    let mut writer = limited.writer(journal, "default", owner).await.expect("a writer");
    writer.claim(None, Sequence::ZERO).await.expect("a claim");
    let collections = fixture.collections(&rules(&[])).await;
    let mut lane = Lane { fixture: &fixture, writer, collections, journal, owner, position: Sequence::ZERO };
    let failure = lane.refused(&[Set("t", &["1"], r#"{"a": 0}"#)]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halve, Some("42501")));
    let failure = lane.refused(&[Set("forbidden", &["1"], "{}")]).await;
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::Halt, Some("42501")));
    lane.apply(&[Set("t", &["1"], r#"{"a": 1}"#)]).await.expect("applied");
}

#[tokio::test]
async fn a_change_of_the_tables_is_noticed_before_commit_and_nothing_else_is() {
    let fixture =
        Fixture::new("create table t (id int4 primary key, a int4, b text default 'x'); create table other (id int4 primary key)").await;
    let mut lane = fixture.lane(&[]).await;
    let kept = ["analyze t", "vacuum t", "insert into t values (7, 7)", "create table more (id int4)", "alter table other add c int4"];
    for statement in kept {
        fixture.database.run(statement).await.expect(statement);
        lane.apply(&[Set("t", &["1"], r#"{"a":1}"#)]).await.expect(statement);
    }
    let changes = [
        "alter table t add c int4",
        "alter table t alter b type varchar(9)",
        "alter table t alter b set default 'y'",
        "alter table t add check (a < 100)",
        "create unique index on t (a)",
        "alter table other add up int4 references t on delete cascade",
        "create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger f before insert on t for each row execute function f()",
        "alter table t drop c",
    ];
    for statement in changes {
        fixture.database.run(statement).await.expect(statement);
        let refused = lane.apply(&[Set("t", &["1"], r#"{"a":2}"#)]).await;
        assert_eq!(refused, Err(ApplyError::Catalog), "{statement}");
        assert_eq!(fixture.rows("select a from t where id = 1").await, ["1"], "{statement}");
        lane.collections = fixture.collections(&rules(&[])).await;
        lane.apply(&[Set("t", &["1"], r#"{"a":1}"#)]).await.expect(statement);
    }
}

#[tokio::test]
async fn what_is_wrong_between_rows_points_at_a_save() {
    let fixture = Fixture::new(
        "create table guild (id int4 primary key, tag text);
         create table t (id int4 primary key, guild int4 references guild, name text unique); insert into t values (100, null, 'taken')",
    )
    .await;
    let mut lane = fixture.lane(&[]).await;
    let sound = |lane: &Lane<'_>, n: u32| lane.save("t", &n.to_string(), &format!(r#"{{"name":"n{n}"}}"#), 0);
    let wrong = [(r#"{"guild":77}"#, "23503"), (r#"{"name":"taken"}"#, "23505")];
    for (json, code) in wrong {
        let saves: Vec<_> = (0..9).map(|n| if n == 5 { lane.save("t", "5", json, 0) } else { sound(&lane, n) }).collect();
        let Err(ApplyError::Failed(failure)) = lane.apply_saves(saves).await else { panic!("it is refused") };
        assert_eq!((failure.sqlstate.as_deref(), failure.suspect), (Some(code), Some(lane.position.plus(6))));
        let batch = [Save { batch_left: 1, ..lane.save("t", "5", json, 0) }, sound(&lane, 6)];
        let Err(ApplyError::Failed(failure)) = lane.apply_saves(batch).await else { panic!("it is refused") };
        assert_eq!(failure.suspect, None, "a batch is never split");
    }
}
