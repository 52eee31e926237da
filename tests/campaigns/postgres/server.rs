//! The server stops, crashes, ends sessions, takes no more of them, or becomes read-only.

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::NoTls;

use crate::support::{HANG, eventually};

use super::run::{Run, sessions};

/// What the daemon says of every failure that passes.
const AGAIN: &str = "postgres failed: trying again";

const TERMINATE: &str = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'forebay'";

/// The daemon's, and ours.
const FEW_CONNECTIONS: i64 = 8;

pub(super) async fn stop_at_once(run: &mut Run) {
    run.database.stop_postgres();
    come_back(run).await;
}

pub(super) async fn restart(run: &mut Run) {
    run.database.shut_postgres_down();
    come_back(run).await;
}

pub(super) async fn crash(run: &mut Run) {
    run.database.kill_postgres();
    come_back(run).await;
}

/// At once, or after it was missed for a while.
async fn come_back(run: &mut Run) {
    if run.random.bool() {
        run.pass_time(0..1_500).await;
    }
    run.database.start_postgres();
}

/// The postmaster ends all others, too, and recovers.
pub(super) async fn kill_a_backend(run: &mut Run) {
    let session = run.database.client().await;
    let backend = eventually("the daemon is connected", || async { sessions(&session).await.pop() }).await;
    let pid = Pid::from_raw(backend).expect("a process id");
    kill_process(pid, Signal::KILL).expect("a backend is ours to kill");
    eventually("all sessions are ended", || async { session.is_closed().then_some(()) }).await;
    let url = run.database.url();
    eventually("Postgres has recovered", || async { tokio_postgres::connect(&url, NoTls).await.ok().map(drop) }).await;
}

pub(super) async fn terminate_backends(run: &mut Run) {
    let session = run.database.client().await;
    for _ in 0..run.random.u8(1..10) {
        session.batch_execute(TERMINATE).await.expect("terminated");
        run.pass_time(0..100).await;
    }
}

/// Others take every connection, those of the daemon among them, until it has been turned away.
pub(super) async fn take_all_connections(run: &mut Run) {
    let mark = run.mark();
    let admin = run.database.client().await;
    let (url, mut taken) = (run.database.url(), Vec::new());
    let until_told = async {
        while !run.has_told(mark, "53300") {
            admin.batch_execute(TERMINATE).await.expect("terminated");
            while let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                tokio::spawn(connection);
                taken.push(client);
            }
            // Those who were taken away come back now, and find nothing.
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, until_told).await.expect("the daemon is turned away");
    assert!(!taken.is_empty(), "somebody else has them");
    run.pass_time(0..500).await;
    drop(taken);
    eventually("there is room again", || async {
        let row = admin.query_one("select count(*) from pg_stat_activity where backend_type = 'client backend'", &[]).await;
        (row.expect("Postgres answers").get::<_, i64>(0) <= FEW_CONNECTIONS).then_some(())
    })
    .await;
}

/// By default only: who says `begin read write` still writes. But `target_session_attrs` looks at it with every new connection.
pub(super) async fn make_read_only(run: &mut Run) {
    let admin = run.database.client().await;
    admin.batch_execute("alter system set default_transaction_read_only = on").await.expect("set");
    admin.batch_execute("select pg_reload_conf()").await.expect("reloaded");
    let mark = run.mark();
    if run.random.bool() {
        eventually("new sessions are read-only", || async {
            let row = run.database.rows("show default_transaction_read_only").await.remove(0).remove(0);
            (row.as_deref() == Some("on")).then_some(())
        })
        .await;
        admin.batch_execute(TERMINATE).await.expect("terminated");
        run.told(mark, AGAIN).await;
    } else {
        run.flows().await;
    }
    admin.batch_execute("alter system reset default_transaction_read_only").await.expect("reset");
    admin.batch_execute("select pg_reload_conf()").await.expect("reloaded");
}
