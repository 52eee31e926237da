//! Refusal mode: what Forebay made of a run in which everything was sent, held to the words of P2.
//!
//! **Check 1.** "The tables equal those after executing, in order, exactly the saves that ended PERSISTED, with constraints checked
//! at the end." They are executed in the schema `relaxed`, where referential actions act and nothing is checked (even malformed
//! values can be held, as every column is text), then cast into the empty tables of `public`, which check everything.
//!
//! **Check 2.** "Every FAILED save, executed at its place in that run, fails with the SQLSTATE and constraint it was given." At its
//! place the rows so far are put into `public`, and the save is executed there as it would be directly: a save with constraints at
//! their own times, a batch with them deferred to its end. What is owed by saves *before* that place is not held against it: rows
//! are loaded with foreign keys unchecked, and a row that `public` can't hold yet, because a later save repairs it, is left out. That
//! is fair: a save that fails because of other rows does so when all before it is committed and nothing is owed; one that
//! fails by itself (its values, NOT NULL, CHECK) fails whatever other rows there are.
//!
//! An atomic batch is judged as one: all of it failed or none (P5).

use tokio_postgres::Client;

use super::{
    behind::Ended,
    compare::{self, Rows, difference},
    direct::{Refusal, apply, outcomes, run},
    generator::{Knobs, plan},
    operations::{Step, save},
    schema::{self, TABLES, Table},
};

/// What is wrong with the end of a run; `None` if nothing is.
pub(super) async fn judge(reference: &Client, steps: &[Step], ended: &Ended) -> Option<String> {
    run(reference, &format!("{} {}", schema::empty("public"), schema::reset("relaxed"))).await;
    run(reference, "begin; set local search_path = relaxed").await;
    let wrong = replay(reference, steps, ended).await;
    run(reference, "rollback").await;
    wrong
}

async fn replay(reference: &Client, steps: &[Step], ended: &Ended) -> Option<String> {
    let mut failures = &ended.failures[..];
    for step in steps {
        let (of_this, rest) = failures.split_at(step.operations().len());
        failures = rest;
        let wrong = match of_this {
            [] => None,
            [first, others @ ..] if others.iter().any(|other| other != first) => {
                Some(format!("one failed and another did not: {of_this:?}"))
            }
            [Some(given), ..] => fails(reference, step, given).await,
            [None, ..] => {
                apply(reference, step.operations()).await.err().map(|why| format!("ended PERSISTED and can't be replayed: {why}"))
            }
        };
        if let Some(wrong) = wrong {
            return Some(format!("    {step}\n    {wrong}\n"));
        }
    }
    if let Err(why) = settle(reference).await {
        return Some(format!("    what ended PERSISTED leaves rows that no table can hold: {why}\n"));
    }
    difference(&compare::rows(reference).await, &ended.rows)
}

/// Check 2.
async fn fails(reference: &Client, step: &Step, given: &Refusal) -> Option<String> {
    run(reference, "savepoint place").await;
    load(reference).await;
    run(reference, "set local search_path = public").await;
    let directly = execute(reference, step).await;
    run(reference, "rollback to savepoint place").await;
    match directly {
        Err(told) if told == *given => None,
        Err(told) => Some(format!("ended FAILED with {given}; at its place it fails with {told}")),
        Ok(()) => Some(format!("ended FAILED with {given}; at its place Postgres takes it")),
    }
}

async fn execute(reference: &Client, step: &Step) -> Result<(), Refusal> {
    if step.is_batch() {
        run(reference, "set constraints all deferred").await;
    }
    apply(reference, step.operations()).await?;
    check(reference).await
}

/// What a commit would check of `public`, and of nothing else.
async fn check(reference: &Client) -> Result<(), Refusal> {
    let check = "do $$ begin execute (select 'set constraints ' || string_agg(format('public.%I', conname), ', ') || ' immediate' \
                 from pg_constraint where connamespace = 'public'::regnamespace and condeferrable); end $$";
    reference.batch_execute(check).await.map_err(|error| Refusal::of(&error))
}

/// Fills `public` with the rows so far, checked by the end of it.
async fn settle(reference: &Client) -> Result<(), Refusal> {
    run(reference, "set constraints all deferred").await;
    let inserts: String = TABLES.iter().map(insert).map(|insert| insert + ";").collect();
    reference.batch_execute(&inserts).await.map_err(|error| Refusal::of(&error))?;
    check(reference).await
}

/// Fills `public` with the rows so far that it can hold, foreign keys unchecked.
async fn load(reference: &Client) {
    let blocks = TABLES.iter().map(|table| {
        let insert = insert(table);
        format!(
            "begin {insert}; exception when others then for r in select ctid as place from relaxed.{} loop \
             begin {insert} where ctid = r.place; exception when others then null; end; end loop; end; ",
            table.name
        )
    });
    let blocks: String = blocks.collect();
    let load = format!(
        "set local session_replication_role = replica; do $$ declare r record; begin {blocks} end $$; set local session_replication_role = origin"
    );
    run(reference, &load).await;
}

/// Puts what `relaxed` holds of a table into `public`, in the types that it has there.
fn insert(table: &Table) -> String {
    let names = table.columns_shown(|column| column.name.to_owned());
    let values = table.columns_shown(|column| format!("{}::{}", column.name, column.cast));
    format!("insert into public.{0} ({names}) overriding system value select {values} from relaxed.{0}", table.name)
}

/// What direct execution ends with is right by definition: with everything that a run may hold.
#[tokio::test(flavor = "multi_thread")]
async fn the_judge_finds_nothing_wrong_with_direct_execution() {
    let database = crate::support::Database::with(&format!("{} {}", schema::tables(true), schema::relaxed(true))).await;
    let reference = database.client().await;
    let first = crate::support::seed("judge");
    for seed in (0..20).map(|n| first.wrapping_add(n)) {
        let knobs = Knobs { acting: true, batches: true, adds: true, lanes: true, unfit: true };
        let steps = plan(seed, knobs).steps;
        run(&reference, &schema::reset("public")).await;
        let outcomes = outcomes(&reference, &steps).await;
        let rows = compare::rows(&reference).await;
        let failures = steps.iter().zip(outcomes).flat_map(|(step, why)| vec![why; step.operations().len()]).collect();
        if let Some(wrong) = judge(&reference, &steps, &Ended { rows, failures }).await {
            panic!("seed {seed}: {wrong}");
        }
    }
}

/// A judge that finds nothing wrong must have looked.
#[tokio::test(flavor = "multi_thread")]
async fn the_judge_knows_what_p2_allows_and_what_it_does_not() {
    let database = crate::support::Database::with(&format!("{} {}", schema::tables(true), schema::relaxed(true))).await;
    let reference = database.client().await;
    let level = |key, level| save("players", key, &[("level", level)]);
    let (ann, too_high, ann_again) = (save("players", "1", &[("name", "Ann"), ("level", "21")]), level("1", "x"), level("1", "2"));
    let (bo, second_bo) = (save("players", "2", &[("name", "Bo")]), save("players", "3", &[("name", "Bo")]));
    let steps = [ann, bo, second_bo, too_high, level("2", "22"), ann_again];
    let given = |sqlstate: &str, constraint: &str| Some(Refusal { sqlstate: sqlstate.to_owned(), constraint: Some(constraint.to_owned()) });
    let taken = given("23505", "players_name_key");
    let check = given("23514", "players_level_check");
    // The first and the fourth are made good by the last: rescued, and not held against those between.
    let failures = [None, None, taken.clone(), None, check.clone(), None];
    let row = |id, name, level| {
        format!("{{\"id\": {id}, \"name\": \"{name}\", \"rank\": null, \"guild\": null, \"level\": {level}, \"mentor\": null}}")
    };
    let guild = r#"{"id": 0, "tag": "none", "motto": "onward", "leader": null, "points": 0}"#.to_owned();
    let mut rows: Rows = vec![Vec::new(); TABLES.len()];
    (rows[0], rows[1]) = (vec![guild], vec![row(1, "Ann", 2), row(2, "Bo", 1)]);
    let judged = async |rows: &Rows, failures: &[Option<Refusal>]| {
        judge(&reference, &steps, &Ended { rows: rows.clone(), failures: failures.to_vec() }).await
    };
    assert_eq!(judged(&rows, &failures).await, None);
    let with = |place: usize, failure: Option<Refusal>| {
        let mut failures = failures.clone();
        failures[place] = failure;
        failures
    };
    let mut lost = rows.clone();
    lost[1].pop();
    for (rows, failures, told) in [
        (&lost, failures.clone(), "directly players"),
        (&rows, with(1, check.clone()), "at its place Postgres takes it"),
        (&rows, with(2, check), "at its place it fails with 23505 (players_name_key)"),
        (&rows, with(2, None), "leaves rows that no table can hold: 23505 (players_name_key)"),
        (&rows, with(4, None), "leaves rows that no table can hold: 23514 (players_level_check)"),
    ] {
        let wrong = judged(rows, &failures).await.expect(told);
        assert!(wrong.contains(told), "{told}: {wrong}");
    }
    let torn = [Step::Batch(steps.iter().flat_map(|step| step.operations().to_vec()).collect())];
    let wrong = judge(&reference, &torn, &Ended { rows, failures: failures.to_vec() }).await;
    assert!(wrong.is_some_and(|wrong| wrong.contains("another did not")));
}
