//! A database that went back in time: a stale standby was promoted, or a backup restored. What it lost is written again from the
//! journal, in order, each row once.

use crate::support::{
    Backup, Daemon, Database, Replica, Setup,
    audited::{self, Load, more_rows},
    command::cli,
    directory, hosts,
    lanes::halted,
};

const REWOUND: &str = "postgres went back in time: what it lost is written again from the journal";

/// Waits until the daemon has seen it.
async fn rewound(daemon: &Daemon) {
    daemon.logged(REWOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stale_standby_lacks_is_written_again_under_load() {
    let (mut primary, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let replica = Replica::of(&primary).await;
    let daemon = audited::setup(Setup::new(journal.path(), &hosts(&[&primary, replica.database()]))).start().await;
    let load = Load::start(&daemon).await;
    more_rows(&primary, 100).await;
    replica.cut_off().await;
    more_rows(&primary, 300).await;
    primary.stop_postgres();
    replica.promote().await;
    rewound(&daemon).await;
    more_rows(replica.database(), 300).await;
    load.stop().await.is_in(replica.database(), &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_notices_a_stale_standby_by_itself() {
    let (mut primary, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let replica = Replica::of(&primary).await;
    let daemon = audited::setup(Setup::new(journal.path(), &hosts(&[&primary, replica.database()]))).start().await;
    let load = Load::start(&daemon).await;
    more_rows(&primary, 100).await;
    replica.cut_off().await;
    more_rows(&primary, 300).await;
    let acknowledged = load.stop().await;
    acknowledged.is_in(&primary, &daemon).await;
    primary.stop_postgres();
    replica.promote().await;
    rewound(&daemon).await;
    acknowledged.is_in(replica.database(), &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_backup_lacks_is_written_again_under_load() {
    let (mut database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let daemon = audited::setup(Setup::new(journal.path(), &database.url())).start().await;
    let load = Load::start(&daemon).await;
    more_rows(&database, 100).await;
    let backup = Backup::of(&database);
    more_rows(&database, 300).await;
    database.stop_postgres();
    let restored = backup.restore_in_place_of(&database);
    rewound(&daemon).await;
    more_rows(&restored, 300).await;
    load.stop().await.is_in(&restored, &daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_written_only_when_a_person_agrees_if_so_set() {
    let (mut database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let setup = audited::setup(Setup::new(journal.path(), &database.url())).set("drain.on_rewind", "halt").set("log.level", "debug");
    let daemon = setup.expect_in_log("nothing is written until this is repaired").start().await;
    let load = Load::start(&daemon).await;
    more_rows(&database, 100).await;
    let backup = Backup::of(&database);
    more_rows(&database, 300).await;
    database.stop_postgres();
    let restored = backup.restore_in_place_of(&database);
    let seen = halted(&daemon, "default").await;
    assert!(seen.reason.contains("went back in time") && seen.remedy.contains("forebay resume"), "{} {}", seen.reason, seen.remedy);
    let held = "select (select count(*) from log) + (select count(*) from applied) + (select max(through) from forebay.lane_position)";
    let before = restored.number(held).await;
    // A raised limit probes too, and agrees to nothing.
    cli(&daemon, &["limit", "failed.saves_max", "100000"], 0).await;
    daemon.logged("still halted").await;
    let acknowledged = load.stop().await;
    assert_eq!(restored.number(held).await, before, "nothing is written");
    assert_eq!(cli(&daemon, &["resume"], 0).await, "resumed: default\n");
    rewound(&daemon).await;
    acknowledged.is_in(&restored, &daemon).await;
    daemon.stop().await;
}

/// The row in the backup carries the token of an earlier start.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_restored_while_the_daemon_was_down_is_brought_up_to_date_at_its_start() {
    let (mut database, journal) = (Database::alone(audited::SCHEMA).await, directory());
    let setup = audited::setup(Setup::new(journal.path(), &database.url()));
    let daemon = setup.start().await;
    let load = Load::start(&daemon).await;
    more_rows(&database, 100).await;
    let backup = Backup::of(&database);
    more_rows(&database, 300).await;
    let acknowledged = load.stop().await;
    acknowledged.is_in(&database, &daemon).await;
    daemon.stop().await;
    setup.start().await.stop().await;
    database.stop_postgres();
    let restored = backup.restore_in_place_of(&database);
    let daemon = setup.start().await;
    rewound(&daemon).await;
    acknowledged.is_in(&restored, &daemon).await;
    daemon.stop().await;
}
