//! P8: after a failed write, a failed sync, or a sync that hangs, nothing is acknowledged any more, the process ends with 74,
//! and a restart recovers everything that was acknowledged.

use std::path::Path;

use forebay::proto::FlushRequest;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Daemon, Database, Load, Setup, directory, load, strace};

/// The file of the first segment.
const SEGMENT: &str = "segments/0000000001/db";

/// A stop because of a failed journal is short, whatever these say; longer than any test waits. (A busy Postgres may be slow
/// to tell a restart its catalog.)
fn setup(journal: &Path, database: &Database) -> Setup {
    Setup::new(journal, &database.url())
        .set("stop.timeout", "5 min")
        .set("stop.drain_timeout", "5 min")
        .expect_in_log("journal failed")
        .expect_in_log("postgres")
}

/// The daemon under strace, with faults injected into the system calls on one file of its journal.
fn spawn(setup: &Setup, trace: &Path, file: &str, fault: &str) -> Daemon {
    // Without the dot of the directory itself: before it is there, strace knows it by name alone.
    let path: std::path::PathBuf = setup.journal.join(file).components().collect();
    strace::spawn(setup, trace, &["-P", path.to_str().expect("a path of ours"), "-e", &format!("inject={fault}")])
}

/// The call's outcome is unknown: neither acknowledged nor refused.
fn outcome_unknown(status: &Status) -> bool {
    status.code() == Code::Internal && status.get_details_error_info().is_some_and(|info| info.reason == "OUTCOME_UNKNOWN")
}

/// The daemon ended itself, in time, because of its journal.
async fn has_failed(daemon: Daemon) {
    let ended = daemon.ended().await;
    assert_eq!(ended.code, Some(74), "{:#?}", ended.log);
}

/// A start on a sound disk gives back everything that was acknowledged.
async fn is_recovered(setup: &Setup, database: &Database, load: &Load) {
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.flush(FlushRequest::default()).await.expect("everything recovered is written");
    load.is_in(database).await;
    load.save(&mut client, 0).await.expect("saves are accepted again");
    assert_eq!(daemon.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_save_whose_sync_fails_is_not_acknowledged_nor_any_after_it() {
    // Saves one after the other are groups of one. Only this sync fails: those after it would succeed, and prove nothing.
    for nth in [2, 9] {
        let (database, home, load) = (Database::with(load::SCHEMA).await, directory(), Load::new(1, 300));
        let setup = setup(&home.path().join("journal"), &database);
        let daemon = spawn(&setup, &home.path().join("trace"), SEGMENT, &format!("fdatasync:error=EIO:when={nth}"));
        daemon.serving().await;
        let mut client = daemon.client().await;
        for _ in 1..nth {
            load.save(&mut client, 0).await.expect("its sync succeeds");
        }
        let failure = load.save(&mut client, 0).await.expect_err("its sync fails");
        assert!(outcome_unknown(&failure), "{failure:?}");
        load.save(&mut client, 0).await.expect_err("nothing is acknowledged any more");
        has_failed(daemon).await;
        is_recovered(&setup, &database, &load).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_call_on_the_disk_that_fails_under_load_stops_the_daemon() {
    let closed = "segments/0000000001/closed";
    let opened_ahead = "segments/0000000003/db";
    let faults = [
        (SEGMENT, "fdatasync:error=EIO:when=20"),
        (SEGMENT, "sync_file_range:error=EIO:when=5"),
        (SEGMENT, "pwrite64:error=EIO:when=5"),
        (SEGMENT, "pwrite64:error=ENOSPC:when=5"),
        (closed, "fsync:error=EIO"),
        (closed, "write:error=ENOSPC"),
        (opened_ahead, "fsync:error=EIO"),
        ("watermark", "fsync:error=EIO:when=2"),
    ];
    for (file, fault) in faults {
        println!("{fault} on {file}");
        let (database, home, load) = (Database::with(load::SCHEMA).await, directory(), Load::new(8, 4_000));
        let setup = setup(&home.path().join("journal"), &database).set("journal.segment_bytes", "1 MiB");
        let daemon = spawn(&setup, &home.path().join("trace"), file, fault);
        daemon.serving().await;
        let failures = load.start(&daemon).await.join_all().await;
        assert!(failures.iter().any(outcome_unknown), "{failures:?}");
        has_failed(daemon).await;
        is_recovered(&setup, &database, &load).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_can_not_be_synced_as_a_segment_goes_stops_the_daemon() {
    // A start syncs the journal's directory, too, the last time as it begins to serve: the first call behind all those is of a
    // segment that is drained.
    for nth in 1.. {
        let (database, home, load) = (Database::with(load::SCHEMA).await, directory(), Load::new(8, 4_000));
        let setup = setup(&home.path().join("journal"), &database)
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", "100 ms")
            .expect_in_log("error: serve");
        let daemon = spawn(&setup, &home.path().join("trace"), ".", &format!("fsync:error=EIO:when={nth}+"));
        if !daemon.serves().await {
            daemon.ended().await;
            continue;
        }
        load.start(&daemon).await.join_all().await;
        has_failed(daemon).await;
        if load.acknowledged() > 0 {
            return is_recovered(&setup, &database, &load).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_hangs_stops_the_daemon() {
    let (database, home, load) = (Database::with(load::SCHEMA).await, directory(), Load::new(8, 300));
    let setup = setup(&home.path().join("journal"), &database)
        .set("journal.sync_warn", "500 ms")
        .set("journal.sync_timeout", "1 s")
        .expect_in_log("did not end before")
        .expect_in_log("strace: dispatch_event");
    let daemon = spawn(&setup, &home.path().join("trace"), SEGMENT, "fdatasync:delay_enter=600s:when=5");
    daemon.serving().await;
    let failures = load.start(&daemon).await.join_all().await;
    assert!(failures.iter().any(outcome_unknown), "{failures:?}");
    // The daemon leaves its hanging thread behind; strace, which lets it hang, would hold the process until the delay is over.
    daemon.logged_like("error: serve: the journal failed").await;
    strace::let_go(&daemon);
    has_failed(daemon).await;
    is_recovered(&setup, &database, &load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_failing_disk_ends_and_damages_nothing() {
    let (mut database, home, load) = (Database::alone(load::SCHEMA).await, directory(), Load::new(1, 300));
    let setup = setup(&home.path().join("journal"), &database)
        .expect_in_log("postgres")
        .expect_in_log("error: serve")
        .expect_in_log("watermark is gone");
    let mut number = 0;
    for round in 0..2 {
        for (file, fault) in [
            ("ledger/db", "pwrite64:error=ENOSPC"),
            ("ledger/db", "fdatasync:error=EIO:when=1"),
            ("segment", "fsync:error=EIO:when=1"),
            ("segment", "pwrite64:error=EIO"),
            ("segment", "fdatasync:error=EIO:when=1"),
            ("watermark", "fsync:error=EIO:when=1"),
        ] {
            println!("round {round}: {fault} on {file}");
            let next = next_segment(&setup.journal);
            let file = if file == "segment" { format!("segments/{next:010}/db") } else { file.to_owned() };
            has_failed(spawn(&setup, &home.path().join("trace"), &file, fault)).await;
        }
        if round == 0 {
            let daemon = setup.start().await;
            database.stop_postgres();
            let mut client = daemon.client().await;
            for _ in 0..20 {
                load.save(&mut client, 0).await.expect("accepted");
                number += 1;
            }
            daemon.kill().await;
        }
    }
    assert_eq!(load.acknowledged(), number);
    database.start_postgres();
    is_recovered(&setup, &database, &load).await;
}

/// The number of the segment that the next start begins.
fn next_segment(journal: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(journal.join("segments")) else { return 1 };
    let numbers = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().parse::<u64>().expect("a number"));
    numbers.max().map_or(1, |last| last + 1)
}
