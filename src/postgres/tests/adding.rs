//! `add`: what the fold sums is what Postgres would have summed.

use super::*;
use crate::save::{Change, NumberForm, Save};

const TABLE: &str = "(id int8 primary key, name text default 'nobody', gold int4 default 5, gems numeric(6,2) default 1.5,
    dust numeric, odd numeric(4,-2) default 300)";

#[tokio::test]
async fn an_add_changes_the_row_that_is_there_and_is_the_value_of_a_new_one() {
    let fixture =
        Fixture::new(&format!("create table t {TABLE}; insert into t values (1, 'one', 1, 1, null, null), (2, 'two', 2, 2, 2, 'NaN')"))
            .await;
    let mut lane = fixture.lane(&[]).await;
    let saves = ["1", "2", "3"].map(|key| lane.save("t", key, r#"{"gold":-3,"gems":0.50,"dust":7,"odd":100,"name":"x"}"#, 4));
    lane.apply_saves(saves).await.expect("applied");
    let expected = ["1|x|-2|1.50|7|100", "2|x|-1|2.50|9|NaN", "3|x|-3|0.50|7|100"];
    assert_eq!(fixture.rows("select * from t order by id").await, expected);
}

#[tokio::test]
async fn entries_of_an_object_are_applied_one_after_the_other() {
    let fixture = Fixture::new(&format!("create table t {TABLE}; insert into t values (1, 'one', 1, 1, null, null)")).await;
    let mut lane = fixture.lane(&[]).await;
    let mut saves = Vec::new();
    for key in ["1", "2"] {
        saves.push(lane.save("t", key, r#"{"name":"named"}"#, 0));
        saves.push(lane.save("t", key, r#"{"gold":10}"#, 1));
        saves.push(lane.save("t", key, r#"{"dust":"NaN"}"#, 0));
        saves.push(lane.save("t", key, r#"{"dust":1}"#, 1));
    }
    let written = lane.apply_saves(saves).await.expect("applied");
    let rows = written.collections.into_values().next().expect("rows");
    assert_eq!((rows.updated, rows.inserted, written.statement_times.len()), (5, 1, 3));
    assert_eq!(fixture.rows("select id, name, gold, dust from t order by id").await, ["1|named|11|NaN", "2|named|15|NaN"]);
}

#[tokio::test]
async fn a_sum_beyond_its_column_is_refused_as_the_rows_own_fault() {
    let fixture = Fixture::new(&format!("create table t {TABLE}")).await;
    let mut lane = fixture.lane(&[]).await;
    let most = [1, 2].map(|_| lane.save("t", "1", r#"{"gold":2147483647}"#, 1));
    let Err(ApplyError::Failed(failure)) = lane.apply_saves(most.clone()).await else { panic!("it doesn't fit") };
    assert_eq!((failure.action, failure.sqlstate.as_deref()), (Action::RowsOwn, Some("22003")));
    let [first, second] = most;
    lane.apply_saves([first]).await.expect("halved");
    assert!(lane.apply_saves([second]).await.is_err());
}

#[tokio::test]
async fn amounts_and_sums_are_those_of_postgres() {
    let fixture = Fixture::new("").await;
    let seed = 20_260_731;
    let mut chance = fastrand::Rng::with_seed(seed);
    let forms = [
        (NumberForm::Integer { bits: 32 }, "int4"),
        (NumberForm::Numeric { precision: 9, scale: 2 }, "numeric(9,2)"),
        (NumberForm::Numeric { precision: 5, scale: -3 }, "numeric(5,-3)"),
        (NumberForm::Numeric { precision: 3, scale: 5 }, "numeric(3,5)"),
        (NumberForm::Unbounded, "numeric"),
    ];
    for (form, declared) in forms {
        let mut expressions = Vec::new();
        let mut ours = Vec::new();
        while ours.len() < 200 {
            let (one, other) = (number(&mut chance, form), number(&mut chance, form));
            let Ok(amount) = form.amount(&one) else { continue };
            let Some(sum) = form.sum(&other, &amount) else { continue };
            if form.amount(&other).is_err() {
                continue;
            }
            expressions.push(format!(
                "(({one}::numeric::{declared})::text || ' ' || ('{other}'::{declared} + {amount}::numeric::{declared})::text)"
            ));
            ours.push(format!("{amount} {sum}"));
        }
        let told = fixture.rows(&format!("select unnest(array[{}])", expressions.join(", "))).await;
        for ((ours, told), expression) in ours.iter().zip(&told).zip(&expressions) {
            assert_eq!(ours, told, "{expression}, seed {seed}");
        }
    }
}

/// Often where rounding is decided.
fn number(chance: &mut fastrand::Rng, form: NumberForm) -> String {
    let sign = if chance.bool() { "-" } else { "" };
    let end = if chance.bool() { 100_000 } else { 10 };
    let whole = chance.u32(..end);
    match form {
        NumberForm::Integer { .. } => format!("{sign}{whole}"),
        NumberForm::Numeric { scale: 5, .. } => format!("{sign}0.00{:04}{}", chance.u32(..1_000), chance.u8(..10)),
        NumberForm::Numeric { scale: -3, .. } => format!("{sign}{}", whole * 500),
        _ if chance.bool() => format!("{sign}{whole}.{:02}5", chance.u32(..100)),
        _ => format!("{sign}{whole}.{}", chance.u32(..10_000)),
    }
}

#[tokio::test]
async fn random_sets_adds_and_deletes_fold_to_what_they_do_one_by_one() {
    let fixture = Fixture::new(&format!("create table direct {TABLE}; create table folded {TABLE}")).await;
    let seed = 7_420;
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut lane = fixture.lane(&[]).await;
    for round in 0..25 {
        let mut fold = Vec::new();
        for _ in 0..chance.usize(1..40) {
            let (key, json, adds) = random_change(&mut chance);
            let [direct, folded] = ["direct", "folded"].map(|name| match adds {
                Some(adds) => lane.save(name, &key, &json, adds),
                None => Save { change: Change::Delete, columns: ColumnSet::EMPTY, ..lane.save(name, &key, "{}", 0) },
            });
            // What Postgres doesn't take alone isn't folded either.
            if lane.apply_saves([direct]).await.is_ok() {
                fold.push(folded);
            }
        }
        if fold.is_empty() {
            continue;
        }
        lane.apply_saves(fold).await.expect("what was taken one by one");
        let [direct, folded] = ["direct", "folded"].map(|name| format!("select t::text from {name} t order by id"));
        assert_eq!(fixture.rows(&folded).await, fixture.rows(&direct).await, "round {round}, seed {seed}");
    }
}

/// A key, a body and how many of its members are added; none: a delete.
fn random_change(chance: &mut fastrand::Rng) -> (String, String, Option<usize>) {
    let key = chance.u8(1..6).to_string();
    if chance.u8(..12) == 0 {
        return (key, String::new(), None);
    }
    let (mut added, mut set) = (Vec::new(), Vec::new());
    let forms = [
        ("gold", NumberForm::Integer { bits: 32 }),
        ("gems", NumberForm::Numeric { precision: 6, scale: 2 }),
        ("dust", NumberForm::Unbounded),
        ("odd", NumberForm::Numeric { precision: 4, scale: -2 }),
    ];
    for (name, form) in forms {
        let number = match form {
            NumberForm::Integer { .. } => chance.i32(-50..50).to_string(),
            NumberForm::Numeric { scale: -2, .. } => (chance.i32(-50..50) * 50).to_string(),
            _ => format!("{}.{:03}", chance.i32(-5..50), chance.u16(..200) * 5),
        };
        match chance.u8(..6) {
            0 | 1 => added.push(format!("\"{name}\":{}", form.amount(&number).expect("a small number"))),
            2 => set.push(format!("\"{name}\":{number}")),
            3 if chance.bool() => set.push(format!("\"{name}\":null")),
            3 if name != "gold" => set.push(format!("\"{name}\":\"NaN\"")),
            _ => {}
        }
    }
    if chance.bool() {
        set.push(format!("\"name\":\"{}\"", chance.u8(..10)));
    }
    let adds = added.len();
    added.append(&mut set);
    (key, format!("{{{}}}", added.join(",")), Some(adds))
}
