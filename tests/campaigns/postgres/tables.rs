//! The application's tables are changed under load. What no longer fits halts its lane until the change is undone, or fails and is
//! retried; what still fits disturbs nobody.

use crate::{campaigns::TABLES, support::eventually};

use super::run::Run;

/// What a lane says that is halted for want of a column.
const BRING_BACK: &str = "bring the column back";

pub(super) async fn add_a_column(run: &mut Run) {
    let table = run.draw_table();
    let kind = [
        "text",
        "int not null default 7",
        "timestamptz not null default clock_timestamp()",
        "bigint generated always as (version + 1) stored",
    ];
    let kind = kind[run.random.usize(..kind.len())];
    run.alter(&format!("alter table {table} add column fault {kind}")).await;
    run.flows().await;
    run.alter(&format!("alter table {table} drop column fault")).await;
}

/// With a copy of what was in it, from which an operator brings it back.
pub(super) async fn drop_a_column(run: &mut Run) {
    let table = run.draw_table();
    run.load.set_tables_change(true);
    let copy = format!("create table copy as select id, filler from {table}");
    run.alter(&format!("lock table {table} in access exclusive mode; {copy}; alter table {table} drop column filler")).await;
    run.halted("42703", BRING_BACK).await;
    // An operator's repair is no save: its triggers stay out of it.
    run.alter(&format!(
        "set local session_replication_role = replica; lock table {table} in access exclusive mode;
         alter table {table} add column filler text;
         update {table} set filler = copy.filler from copy where copy.id = {table}.id;
         alter table {table} alter column filler set not null; drop table copy"
    ))
    .await;
    undone(run).await;
}

pub(super) async fn rename_a_column(run: &mut Run) {
    let table = run.draw_table();
    run.load.set_tables_change(true);
    run.alter(&format!("alter table {table} rename column filler to contents")).await;
    run.halted("42703", BRING_BACK).await;
    run.alter(&format!("alter table {table} rename column contents to filler")).await;
    undone(run).await;
}

async fn undone(run: &mut Run) {
    run.repaired().await;
    // From then on the door, too, knows the column again.
    run.no_lane_is_halted().await;
    run.load.set_tables_change(false);
}

/// To one that takes every value, and back.
pub(super) async fn change_a_type(run: &mut Run) {
    let table = run.draw_table();
    let changes = [
        ("checksum", "bigint", "numeric"),
        ("checksum", "bigint", "double precision"),
        ("version", "bigint", "int"),
        ("filler", "text", "varchar(4000)"),
        ("id", "text", "varchar(100)"),
    ];
    let (column, from, to) = changes[run.random.usize(..changes.len())];
    run.alter(&format!("alter table {table} alter column {column} type {to}")).await;
    run.flows().await;
    run.alter(&format!("alter table {table} alter column {column} type {from}")).await;
}

/// Which some saves violate.
pub(super) async fn add_a_check(run: &mut Run) {
    let table = run.draw_table();
    add_until_saves_fail(run, table, "check (length(filler) < 200) not valid", "23514").await;
}

/// Which saves violate on both sides of it. Between two lanes no save goes on before it is gone.
pub(super) async fn add_a_foreign_key(run: &mut Run) {
    let mut tables = TABLES;
    run.random.shuffle(&mut tables);
    let [child, parent, _] = tables;
    let deferred = if run.random.bool() { "deferrable initially deferred" } else { "" };
    let key = format!("foreign key (id) references {parent} {deferred} not valid");
    if !run.has_lanes() {
        return add_until_saves_fail(run, child, &key, "23503").await;
    }
    run.alter(&format!("alter table {child} add constraint fault {key}")).await;
    run.halted("the foreign key fault joins", "lanes.NAME.collections").await;
    run.pass_time(0..500).await;
    run.alter(&format!("alter table {child} drop constraint fault")).await;
    run.repaired().await;
}

/// What fails is retried without the constraint.
async fn add_until_saves_fail(run: &mut Run, table: &str, constraint: &str, sqlstate: &'static str) {
    run.may_fail_with(sqlstate);
    let failed = format!("select count(*) from forebay.failed_save where sqlstate = '{sqlstate}'");
    let before = run.database.number(&failed).await;
    run.alter(&format!("alter table {table} add constraint fault {constraint}")).await;
    eventually("a save fails", || async { (run.database.number(&failed).await > before).then_some(()) }).await;
    run.pass_time(0..500).await;
    run.alter(&format!("alter table {table} drop constraint fault")).await;
}
