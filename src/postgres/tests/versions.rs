//! `version_column`: a row is only overwritten by a higher version, folded or not.

use std::collections::BTreeMap;

use super::*;
use crate::backlog::model;

const TABLE: &str = "(id int8 primary key, v int8, a text default 'a', b int4 default 2)";

fn versioned(names: &[&str]) -> CollectionRules {
    let settings = CollectionSettings { version_column: Some("v".to_owned()), ..CollectionSettings::default() };
    let named = names.iter().map(|name| ((*name).to_owned(), settings.clone())).collect();
    CollectionRules { schemas: vec!["public".to_owned()], named, ..CollectionRules::default() }
}

#[tokio::test]
async fn only_a_higher_version_overwrites_and_what_is_stale_is_told() {
    let fixture = Fixture::new(&format!(
        "create table t {TABLE}; insert into t values (1, 5, 'old', 0), (2, 5, 'old', 0), (3, 5, 'old', 0), (4, null, 'old', 0)"
    ))
    .await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let saves =
        [("1", 4), ("2", 5), ("3", 6), ("4", -7), ("5", 1)].map(|(key, v)| lane.save("t", key, &format!(r#"{{"v":{v},"a":"new"}}"#), 0));
    let written = lane.apply_saves(saves).await.expect("applied");
    let rows = written.collections.values().next().expect("rows");
    assert_eq!((rows.updated, rows.inserted, told(&written, 0)), (2, 1, vec![1, 2]));
    let expected = ["1|5|old|0", "2|5|old|0", "3|6|new|0", "4|-7|new|0", "5|1|new|2"];
    assert_eq!(fixture.rows("select * from t order by id").await, expected);
}

/// The superseded saves of all collections, numbered from 1 after this position.
fn told(written: &Written, after: u64) -> Vec<u64> {
    written.superseded.values().flatten().map(|save| save.get() - after).collect()
}

#[tokio::test]
async fn of_an_entry_that_is_not_written_all_saves_are_told_and_of_one_that_is_none() {
    let fixture = Fixture::new(&format!(
        "create table t {TABLE}; create table other {TABLE}; insert into t values (1, 5, 'old', 0), (2, 5, 'old', 0); insert into other select * from t"
    ))
    .await;
    let mut lane = fixture.lane_with(&versioned(&["t", "other"])).await;
    let save = |lane: &Lane<'_>, name: &str, key: &str, v: i64| lane.save(name, key, &format!(r#"{{"v":{v},"a":"v{v}"}}"#), 0);
    let saves = [
        save(&lane, "other", "2", 3),
        save(&lane, "t", "1", 3),
        save(&lane, "t", "1", 5),
        save(&lane, "t", "2", 3),
        save(&lane, "t", "2", 6),
        save(&lane, "t", "2", 6),
        lane.save("t", "1", r#"{"v":7,"b":7}"#, 0),
        save(&lane, "other", "1", 5),
    ];
    let written = lane.apply_saves(saves).await.expect("applied");
    let of = |name: &str| written.superseded[&lane.collections.named(name).expect("a collection").id].iter().map(|save| save.get());
    assert_eq!((of("t").collect::<Vec<_>>(), of("other").collect::<Vec<_>>()), (vec![2, 3, 6], vec![1, 8]));
    assert_eq!(fixture.rows("select * from t order by id").await, ["1|7|old|7", "2|6|v6|0"]);
}

#[tokio::test]
async fn a_batch_executed_save_by_save_tells_what_each_of_them_met() {
    let fixture = Fixture::new(&format!("create table t {TABLE}; insert into t values (1, 5, 'old', 0)")).await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let saves = [4, 6, 6, 5, 7].map(|v| lane.save("t", "1", &format!(r#"{{"v":{v}}}"#), 0));
    let delete = Save { change: Change::Delete, columns: ColumnSet::EMPTY, version: None, ..saves[0].clone() };
    let accepted = (1..).zip(saves.into_iter().chain([delete])).map(|(n, save)| Accepted { sequence: Sequence::from_u64(n), save });
    let generation = Generation::one_by_one(lane.position, Arc::default(), accepted);
    let written = lane.apply_generation(&generation).await.expect("applied");
    assert_eq!(told(&written, 0), [1, 3, 4], "none hides another, nor does the delete");
}

#[tokio::test]
async fn a_delete_takes_the_version_with_the_row() {
    let fixture = Fixture::new(&format!("create table t {TABLE}; insert into t values (1, 9, 'old', 0)")).await;
    let mut lane = fixture.lane_with(&versioned(&["t"])).await;
    let save = |lane: &Lane<'_>, v: i64| lane.save("t", "1", &format!(r#"{{"v":{v},"a":"v{v}"}}"#), 0);
    let delete = Save { change: Change::Delete, columns: ColumnSet::EMPTY, version: None, ..save(&lane, 0) };
    let saves = [save(&lane, 8), delete, save(&lane, 3), save(&lane, 2)];
    let written = lane.apply_saves(saves).await.expect("applied");
    assert_eq!(told(&written, 0), [4], "a delete hides what it follows");
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
    assert_eq!((told(&written, 0), written.collections.into_values().collect::<Vec<_>>()), (vec![], vec![RowsWritten::default()]));
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
async fn random_versions_fold_to_what_they_do_one_by_one_and_tell_what_was_superseded() {
    let fixture = Fixture::new(&format!("create table direct {TABLE}; create table folded {TABLE}")).await;
    let (seed, rules) = (2_026, versioned(&["direct", "folded"]));
    let (mut chance, mut lane) = (fastrand::Rng::with_seed(seed), fixture.lane_with(&rules).await);
    for round in 0..20 {
        let (mut fold, mut stale) = (Vec::new(), Vec::new());
        for n in 1..chance.u64(2..30) {
            let (key, delete) = (chance.u8(1..5).to_string(), chance.u8(..10) == 0);
            let (json, adds) = random_body(&mut chance, round);
            let [direct, folded] = ["direct", "folded"].map(|name| match delete {
                false => lane.save(name, &key, &json, adds),
                true => Save { change: Change::Delete, columns: ColumnSet::EMPTY, ..lane.save(name, &key, "{}", 0) },
            });
            let written = lane.apply_saves([direct]).await.expect("taken");
            stale.extend((!written.superseded.is_empty()).then_some(Sequence::from_u64(n)));
            fold.push(folded);
        }
        let accepted = |(n, save): (_, &Save)| Accepted { sequence: Sequence::from_u64(n), save: save.clone() };
        let saves: Vec<_> = (1..).zip(&fold).map(accepted).collect();
        let (after, expected) = (lane.position.get(), model::superseded(&saves, &stale));
        let written = lane.apply_saves(fold).await.expect("what was taken one by one");
        assert_eq!(told(&written, after), expected.into_iter().map(Sequence::get).collect::<Vec<_>>(), "round {round}, seed {seed}");
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
