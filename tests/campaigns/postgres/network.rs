//! What lies between the daemon and its Postgres: a network, a pooler, and the choice of the server.

use std::time::Duration;

use crate::support::{Replica, pooler::Pooler};

use super::{road::Condition, run::Run};

/// What the daemon says when the server it met lacks what another had.
const REWOUND: &str = "postgres went back in time: what it lost is written again from the journal";

/// Everything arrives late, in small pieces.
pub(super) async fn slow_down(run: &mut Run) {
    let slow = Condition::Slow { bytes_max: run.random.usize(200..4_000), wait_max: Duration::from_millis(run.random.u64(1..20)) };
    println!("postgres: {slow:?}");
    run.road().set_condition(slow);
    run.pass_time(1_000..3_000).await;
    run.road().set_condition(Condition::Clear);
}

/// Nothing arrives for a while, mostly longer than the daemon waits for an answer. Then the server gets what is long given up.
pub(super) async fn block(run: &mut Run) {
    for _ in 0..run.random.u8(1..3) {
        run.road().set_condition(Condition::Blocked);
        run.pass_time(500..5_000).await;
        run.road().set_condition(Condition::Clear);
        run.pass_time(0..500).await;
    }
}

/// Connections are reset in the middle of whatever they carry.
pub(super) async fn cut(run: &mut Run) {
    for _ in 0..run.random.u8(3..20) {
        run.road().cut();
        run.pass_time(0..150).await;
    }
}

/// To a standby that has everything that was committed.
pub(super) async fn fail_over_to_current(run: &mut Run) {
    let replica = Replica::of(&run.database).await;
    replica.synchronous(&run.database).await;
    run.flows().await;
    take_over(run, replica).await;
}

/// To one that has not heard of the last commits.
pub(super) async fn fail_over_to_stale(run: &mut Run) {
    let replica = Replica::of(&run.database).await;
    replica.cut_off().await;
    run.flows().await;
    let mark = run.mark();
    take_over(run, replica).await;
    run.told(mark, REWOUND).await;
}

/// The standby may be seen before it is the primary, or after.
async fn take_over(run: &mut Run, replica: Replica) {
    let seen_before = run.random.bool();
    if seen_before {
        run.side_road().lead_to(Some(replica.database().port()));
    }
    run.database.stop_postgres();
    run.pass_time(0..500).await;
    replica.promote().await;
    run.side_road().lead_to(Some(replica.database().port()));
    run.moved_to(replica.into_database());
}

/// The road leads through PgBouncer for a while, which restarts again and again.
pub(super) async fn restart_the_pooler(run: &mut Run) {
    let mut pooler =
        Pooler::before(&run.database, "default_pool_size = 6\nserver_reset_query = DISCARD ALL\nserver_reset_query_always = 1").await;
    run.road().lead_to(Some(pooler.port()));
    run.road().cut();
    run.flows().await;
    for _ in 0..run.random.u8(1..4) {
        pooler.stop();
        run.pass_time(0..300).await;
        pooler.start().await;
        run.flows().await;
    }
    run.road().lead_to(Some(run.database.port()));
    run.road().cut();
}
