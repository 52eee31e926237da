//! Rows at fault by themselves are taken out, the others written, in one transaction.

use std::pin::Pin;

use super::*;
use crate::failed::SaveKind;

const TABLE: &str = "create table t (id int8 primary key, n int4 not null check (n < 1000), a text unique); \
                     create table log (n int4 not null check (n < 1000))";

/// A journal of these saves.
struct Journal {
    saves: Vec<Accepted>,
    room: u64,
}

impl Aside for Journal {
    fn saves<'a>(&'a self, taken: &'a [TakenOut]) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, Failure>> + Send + 'a>> {
        let behind = |accepted: &&Accepted, taken: &TakenOut| match &taken.key {
            Some(key) => accepted.save.collection == taken.collection && accepted.save.key == *key,
            None => accepted.sequence == taken.last,
        };
        let found = self.saves.iter().filter(|accepted| taken.iter().any(|taken| behind(accepted, taken))).cloned().collect();
        Box::pin(async move { Ok(found) })
    }

    fn failed(&self, accepted: &Accepted, why: &Failure) -> FailedSave {
        FailedSave {
            sequence: accepted.sequence,
            collection: "t".to_owned(),
            key: accepted.save.key.parts().map(str::to_owned).collect(),
            kind: SaveKind::Set,
            body: None,
            added: Vec::new(),
            sqlstate: why.sqlstate.as_deref().map(str::to_owned),
            constraint: why.constraint.as_deref().map(str::to_owned),
            message: why.message.to_string(),
            detail: None,
            accepted_at: accepted.save.accepted_at,
        }
    }

    fn room(&self) -> u64 {
        self.room
    }
}

impl Lane<'_> {
    async fn carefully(&mut self, saves: Vec<Save>, room: u64) -> Result<Vec<u64>, ApplyError> {
        let after = self.position;
        let written = self.carefully_written(saves, room).await?;
        Ok(written.failed.iter().map(|(accepted, _)| accepted.sequence.get() - after.get()).collect())
    }

    async fn carefully_written(&mut self, saves: Vec<Save>, room: u64) -> Result<Written, ApplyError> {
        let after = self.position;
        let saves: Vec<_> = (1..).zip(saves).map(|(n, save)| Accepted { sequence: after.plus(n), save }).collect();
        let generation = Generation::fold(after, Arc::default(), saves.clone());
        let (through, journal) = (generation.through, Journal { saves, room });
        let work = Work {
            collections: &self.collections,
            after,
            through,
            generation: Some(&generation),
            failed: &[],
            closes: &[],
            statement_rows: steady(16),
            aside: Some(&journal),
        };
        let written = self.writer.apply(&work).await?;
        self.position = through;
        Ok(written)
    }
}

#[tokio::test]
async fn rows_at_fault_fail_alone_and_all_others_are_written_with_them() {
    let fixture = Fixture::new(TABLE).await;
    let mut lane = fixture.lane(&["log"]).await;
    let bodies = ["99999999999", "null", "5000", "\"x\""];
    let faulty = |n: usize| (n % 10 == 7).then(|| bodies[n / 10 % bodies.len()]);
    let save = |lane: &Lane<'_>, n: usize| lane.save("t", &n.to_string(), &format!(r#"{{"n":{}}}"#, faulty(n).unwrap_or("1")), 0);
    let saves: Vec<_> = (0..100).map(|n| save(&lane, n)).collect();
    let failed = lane.carefully(saves, 100).await.expect("applied");
    assert_eq!(failed, (0..100).filter(|&n| faulty(n).is_some()).map(|n| n as u64 + 1).collect::<Vec<_>>());
    assert_eq!(fixture.rows("select count(*), count(*) filter (where id % 10 = 7) from t").await, ["90|0"]);
    let codes = "select sqlstate, count(*) from forebay.failed_save group by 1 order by 1";
    assert_eq!(fixture.rows(codes).await, ["22003|3", "22P02|2", "23502|3", "23514|2"]);
    assert_eq!(lane.position().await.map(|row| row.through), Some(lane.position));
}

#[tokio::test]
async fn of_an_object_only_the_saves_at_fault_fail_and_they_keep_their_order() {
    let fixture = Fixture::new(TABLE).await;
    let mut lane = fixture.lane(&["log"]).await;
    let save = |lane: &Lane<'_>, json: &str| lane.save("t", "1", json, 0);
    let saves = [r#"{"n":1,"a":"first"}"#, r#"{"n":5000}"#, r#"{"a":"third"}"#, r#"{"n":6000}"#].map(|json| save(&lane, json));
    let saves = saves.into_iter().chain([lane.save("t", "2", r#"{"n":2}"#, 0)]).collect();
    assert_eq!(lane.carefully(saves, 100).await.expect("applied"), [2, 4]);
    assert_eq!(fixture.rows("select * from t order by id").await, ["1|1|third", "2|2|NULL"]);
    let closed = "select sequence, closed_reason, closed_by from forebay.failed_save order by 1";
    assert_eq!(fixture.rows(closed).await, ["2|overtaken|3", "4|NULL|NULL"], "what a later save has overtaken is no longer open");
}

#[tokio::test]
async fn what_a_save_at_fault_made_stale_has_an_effect_without_it() {
    let fixture = Fixture::new(&format!("{TABLE}; alter table t add v int8; insert into t values (3, 1, 'old', 9)")).await;
    let settings = CollectionSettings { version_column: Some("v".to_owned()), ..CollectionSettings::default() };
    let rules = CollectionRules { named: [("t".to_owned(), settings)].into(), ..rules(&[]) };
    let mut lane = fixture.lane_with(&rules).await;
    let save = |lane: &Lane<'_>, key: &str, v: i64, n: i64| lane.save("t", key, &format!(r#"{{"v":{v},"n":{n}}}"#), 0);
    let saves = [
        save(&lane, "1", 5, 5_000),
        save(&lane, "1", 3, 3),
        save(&lane, "1", 2, 2),
        save(&lane, "1", 3, 6_000),
        save(&lane, "2", 5, 5),
        save(&lane, "2", 4, 4),
        save(&lane, "3", 7, 7),
        save(&lane, "3", 8, 8),
    ];
    let written = lane.carefully_written(saves.to_vec(), 100).await.expect("applied");
    let failed: Vec<_> = written.failed.iter().map(|(accepted, _)| accepted.sequence.get()).collect();
    let superseded: Vec<_> = written.superseded.values().flatten().map(|save| save.get()).collect();
    assert_eq!(fixture.rows("select id, n, v from t order by id").await, ["1|3|3", "2|5|5", "3|1|9"]);
    assert_eq!((failed, superseded), (vec![1], vec![3, 4, 6, 7, 8]));
}

#[tokio::test]
async fn words_that_fit_another_row_write_none_twice() {
    let schema = "create table log (number int8 generated always as identity, n int4, note text);
                  create table t (id int8 primary key, n int4 check (n >= 0), m int4 default 1)";
    let fixture = Fixture::new(schema).await;
    let mut lane = fixture.lane(&["log"]).await;
    let append = |lane: &Lane<'_>, json: &str| {
        let save = lane.save("log", "", json, 0);
        let Change::Set(body) = save.change.clone() else { unreachable!() };
        Save { key: Key::none(), change: Change::Append(body), ..save }
    };
    let bodies = [r#"{"n":1,"note":"abc corp"}"#, r#"{"n":2,"note":"x"}"#, r#"{"n":"abc","note":"x"}"#, r#"{"n":4,"note":"x"}"#];
    let saves = bodies.map(|json| append(&lane, json)).to_vec();
    assert_eq!(lane.carefully(saves, 9).await.expect("applied"), [3]);
    assert_eq!(fixture.rows("select n from log order by number").await, ["1", "2", "4"]);
    // The row that Postgres shows has the key of another row among its values.
    let adds = [("1", 5), ("12", -4), ("13", 6)].map(|(key, n)| lane.save("t", key, &format!(r#"{{"n":{n}}}"#), 1)).to_vec();
    assert_eq!(lane.carefully(adds, 9).await.expect("applied"), [2]);
    assert_eq!(fixture.rows("select id, n from t order by id").await, ["1|5", "13|6"]);
}

#[tokio::test]
async fn what_is_at_fault_between_rows_or_in_a_batch_or_has_no_room_refuses_all() {
    let fixture = Fixture::new(TABLE).await;
    let mut lane = fixture.lane(&["log"]).await;
    let sound = |lane: &Lane<'_>| lane.save("t", "1", r#"{"n":1,"a":"x"}"#, 0);
    let poison = |lane: &Lane<'_>| lane.save("t", "2", r#"{"n":5000}"#, 0);
    let twice = lane.save("t", "3", r#"{"n":1,"a":"x"}"#, 0);
    let batch = Save { batch_left: 1, ..sound(&lane) };
    let cases = [
        (vec![sound(&lane), poison(&lane), twice], 100, "23505"),
        (vec![batch, poison(&lane)], 100, "23514"),
        (vec![sound(&lane), poison(&lane)], 0, "23514"),
    ];
    for (saves, room, code) in cases {
        let Err(ApplyError::Failed(failure)) = lane.carefully(saves, room).await else { panic!("all of it is refused") };
        assert_eq!(failure.sqlstate.as_deref(), Some(code));
        assert!(lane.writer.is_usable(), "rolled back");
        assert_eq!(fixture.rows("select count(*) from t").await, ["0"]);
    }
}

#[tokio::test]
async fn appended_rows_at_fault_are_left_out_and_the_others_keep_their_order() {
    let fixture = Fixture::new("create table log (number int8 generated always as identity, n int4 not null check (n < 1000))").await;
    let mut lane = fixture.lane(&["log"]).await;
    let append = |lane: &Lane<'_>, n: u32| {
        let save = lane.save("log", "", &format!(r#"{{"n":{n}}}"#), 0);
        let Change::Set(body) = save.change.clone() else { unreachable!() };
        Save { key: Key::none(), change: Change::Append(body), ..save }
    };
    let saves = (0..20).map(|n| append(&lane, if n % 8 == 3 { 5_000 } else { n })).collect();
    assert_eq!(lane.carefully(saves, 100).await.expect("applied"), [4, 12, 20]);
    let expected: Vec<_> = (0..20).filter(|n| n % 8 != 3).map(|n: u32| n.to_string()).collect();
    assert_eq!(fixture.rows("select n from log order by number").await, expected);
}
