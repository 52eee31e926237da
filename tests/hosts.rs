//! Several hosts in `postgres.url`: the one that writes is found, and found again after a failover.

use crate::support::{
    Database, Replica, Setup,
    audited::{self, Load, more_rows},
    directory, hosts,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    PrimaryFirst,
    StandbyFirst,
}

/// With synchronous replication a failover loses nothing: every acknowledged save is there once, whatever COMMIT was under way.
async fn fails_over(order: Order) {
    let (mut primary, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let replica = Replica::of(&primary).await;
    replica.synchronous(&primary).await;
    let mut list = [&primary, replica.database()];
    if order == Order::StandbyFirst {
        list.reverse();
    }
    let daemon = audited::setup(Setup::new(journal.path(), &hosts(&list))).start().await;
    let load = Load::start(&daemon).await;
    more_rows(&primary, 200).await;
    primary.stop_postgres();
    replica.promote().await;
    more_rows(replica.database(), 200).await;
    load.stop().await.is_in(replica.database(), &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_the_second_host_loses_and_doubles_nothing() {
    fails_over(Order::PrimaryFirst).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_the_first_host_loses_and_doubles_nothing() {
    fails_over(Order::StandbyFirst).await;
}
