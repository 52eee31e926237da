//! The application holds what the daemon's transactions need: rows, a table, the other half of a deadlock, or their time.

use tokio_postgres::Client;

use crate::support::{HANG, eventually};

use super::run::Run;

/// So many rows are not all deleted at once.
const FEW: u64 = 5;

/// A transaction of the application's keeps some rows.
pub(super) async fn lock_rows(run: &mut Run) {
    let rows = format!("{} where id like '{}-%'", run.draw_table(), run.random.u8(..4));
    are_there(run, &rows).await;
    hold(run, &format!("select * from {rows} for update")).await;
}

/// A transaction of the application's keeps a whole table: nobody may even look at it.
pub(super) async fn lock_a_table(run: &mut Run) {
    let table = run.draw_table();
    hold(run, &format!("lock table {table} in access exclusive mode")).await;
}

/// Until the daemon has been told that it waits in vain, and then for a while.
async fn hold(run: &mut Run, sql: &str) {
    println!("postgres: {sql}");
    let application = run.database.client().await;
    // The application may meet the daemon's transaction in the middle: it isn't to be the one that gives way.
    application.batch_execute("set deadlock_timeout = '1 min'; begin").await.expect("begun");
    application.batch_execute(sql).await.expect("locked");
    let mark = run.mark();
    run.told(mark, "55P03").await;
    run.pass_time(0..1_000).await;
    application.batch_execute("rollback").await.expect("let go");
}

/// The application locks rows in the opposite order: it has the last one of a table, waits until the daemon waits for it, and then
/// asks for those before, some of which the daemon has by then. Again, until the daemon has been the one to give way.
pub(super) async fn deadlock(run: &mut Run) {
    let (application, observer) = (run.database.client().await, run.database.client().await);
    application.batch_execute("set deadlock_timeout = '1 min'").await.expect("set");
    let table = run.draw_table();
    are_there(run, table).await;
    let mark = run.mark();
    let last = format!("select * from {table} where id = (select max(id) from {table}) for update");
    let others = format!("select * from {table} order by id desc for update");
    let until_told = async {
        while !run.has_told(mark, "40P01") {
            application.batch_execute("begin").await.expect("begun");
            // None if the daemon has just deleted it.
            if !application.query(&last, &[]).await.expect("locked").is_empty() {
                eventually("the daemon waits", || async { (waiting(&observer).await > 0).then_some(()) }).await;
                application.batch_execute(&others).await.expect("locked when the daemon has let go");
            }
            application.batch_execute("rollback").await.expect("let go");
        }
    };
    tokio::time::timeout(HANG, until_told).await.expect("the daemon gives way");
}

/// Waits until there is something to lock: a run may have just begun.
async fn are_there(run: &Run, rows: &str) {
    let count = format!("select count(*) from {rows}");
    eventually(&format!("there are {rows}"), || async { (run.database.number(&count).await >= FEW).then_some(()) }).await;
}

/// How many of the daemon's transactions wait for a lock.
async fn waiting(observer: &Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity where application_name = 'forebay' and wait_event_type = 'Lock'";
    observer.query_one(sql, &[]).await.expect("Postgres answers").get(0)
}

/// Every row of a table takes so long that a statement of some is given up.
pub(super) async fn slow_down(run: &mut Run) {
    let table = run.draw_table();
    let mark = run.mark();
    run.alter(&format!(
        "create or replace function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return new; end $$;
         create trigger slow before insert or update on {table} for each row execute function slow()"
    ))
    .await;
    run.told(mark, "57014").await;
    run.pass_time(0..1_000).await;
    run.alter(&format!("drop trigger slow on {table}")).await;
}
