//! `version_column`: a row is only overwritten by a higher version, folded or not.

use std::collections::BTreeMap;

use super::*;
use crate::save::{Change, Save};

const TABLE: &str = "(id int8 primary key, v int8, a text default 'a', b int4 default 2)";

fn versioned(names: &[&str]) -> CollectionRules {
    let settings = CollectionSettings { version_column: Some("v".to_owned()), ..CollectionSettings::default() };
    let named = names.iter().map(|name| ((*name).to_owned(), settings.clone())).collect();
    CollectionRules { schemas: vec!["public".to_owned()], named, ..CollectionRules::default() }
}

#[tokio::test]
async fn only_a_higher_version_overwrites_and_what_is_stale_is_counted() {
    let fixture = Fixture::new(&format!(
        "create table t {TABLE}; insert into t values (1, 5, 'old', 0), (2, 5, 'old', 0), (3, 5, 'old', 0), (4, null, 'old', 0)"
    ))
    .await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let saves =
        [("1", 4), ("2", 5), ("3", 6), ("4", -7), ("5", 1)].map(|(key, v)| lane.save("t", key, &format!(r#"{{"v":{v},"a":"new"}}"#), 0));
    let written = lane.apply_saves(saves).await.expect("applied");
    let rows = written.collections.into_values().next().expect("rows");
    assert_eq!((rows.updated, rows.inserted, rows.superseded), (2, 1, 2));
    let expected = ["1|5|old|0", "2|5|old|0", "3|6|new|0", "4|-7|new|0", "5|1|new|2"];
    assert_eq!(fixture.rows("select * from t order by id").await, expected);
}

#[tokio::test]
async fn a_delete_takes_the_version_with_the_row() {
    let fixture = Fixture::new(&format!("create table t {TABLE}; insert into t values (1, 9, 'old', 0)")).await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let save = |lane: &Lane<'_>, v: i64| lane.save("t", "1", &format!(r#"{{"v":{v},"a":"v{v}"}}"#), 0);
    let delete = Save { change: Change::Delete, columns: ColumnSet::EMPTY, version: None, ..save(&lane, 0) };
    let saves = [save(&lane, 10), delete, save(&lane, 3), save(&lane, 2)];
    lane.apply_saves(saves).await.expect("applied");
    assert_eq!(fixture.rows("select * from t").await, ["1|3|v3|2"]);
}

#[tokio::test]
async fn a_row_that_a_trigger_takes_out_is_not_taken_for_stale() {
    let fixture = Fixture::new(&format!(
        "create table t {TABLE}; insert into t values (1, 1, 'old', 0);
         create function swallow() returns trigger language plpgsql as 'begin return null; end';
         create trigger swallow before update on t for each row execute function swallow()"
    ))
    .await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let save = lane.save("t", "1", r#"{"v":2}"#, 0);
    let written = lane.apply_saves([save]).await.expect("executed, as a direct write would be");
    assert_eq!(written.collections.into_values().collect::<Vec<_>>(), [RowsWritten::default()]);
}

#[tokio::test]
async fn a_row_that_another_writer_may_have_made_first_is_tried_again() {
    let fixture = Fixture::new("create table t (id int8 primary key, v int8, a text unique); insert into t values (1, 1, 'x')").await;
    let save = |lane: &Lane<'_>| lane.save("t", "2", r#"{"v":2,"a":"x"}"#, 0);
    for (rules, action) in [(versioned(&["t"]), Action::RetryThenHalve), (rules(&[]), Action::Halve)] {
        let mut lane = fixture.lane_with(&rules).await;
        let Err(ApplyError::Failed(failure)) = lane.apply_saves([save(&lane)]).await else { panic!("the name is taken") };
        assert_eq!((failure.action, failure.sqlstate.as_deref()), (action, Some("23505")));
    }
}

#[tokio::test]
async fn random_versions_fold_to_what_they_do_one_by_one() {
    let fixture = Fixture::new(&format!("create table direct {TABLE}; create table folded {TABLE}")).await;
    let (seed, rules) = (2_026, versioned(&["direct", "folded"]));
    let (mut chance, mut lane) = (fastrand::Rng::with_seed(seed), fixture.lane_with(&rules).await);
    for round in 0..20 {
        let mut fold = Vec::new();
        for _ in 0..chance.usize(1..30) {
            let (key, delete) = (chance.u8(1..5).to_string(), chance.u8(..10) == 0);
            let (json, adds) = random_body(&mut chance, round);
            let [direct, folded] = ["direct", "folded"].map(|name| match delete {
                false => lane.save(name, &key, &json, adds),
                true => Save { change: Change::Delete, columns: ColumnSet::EMPTY, ..lane.save(name, &key, "{}", 0) },
            });
            lane.apply_saves([direct]).await.expect("taken");
            fold.push(folded);
        }
        lane.apply_saves(fold).await.expect("what was taken one by one");
        let [direct, folded] = ["direct", "folded"].map(|name| format!("select t::text from {name} t order by id"));
        assert_eq!(fixture.rows(&folded).await, fixture.rows(&direct).await, "round {round}, seed {seed}");
    }
}

/// Versions that rise from round to round, and how many members are added.
fn random_body(chance: &mut fastrand::Rng, round: i64) -> (String, usize) {
    let version = chance.i64(round..round + 8);
    let mut members = BTreeMap::from([("v", version.to_string())]);
    if chance.bool() {
        members.insert("a", format!("\"{}\"", chance.u8(..9)));
    }
    let adds = usize::from(chance.u8(..4) == 0);
    if adds == 1 || chance.bool() {
        members.insert("b", chance.u8(..9).to_string());
    }
    let mut list: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    list.sort_by_key(|member| !(adds == 1 && member.starts_with("\"b\"")));
    (format!("{{{}}}", list.join(",")), adds)
}
