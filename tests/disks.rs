//! Real file systems that are full or read-only: nothing that was acknowledged is lost, nothing is damaged, and what is wrong
//! is said with its remedy.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use forebay::proto::{FlushRequest, PauseRequest, ResumeRequest};
use tokio::process::Command;
use tonic_types::StatusExt;

use crate::support::{Daemon, Database, Disk, Load, Setup, directory, disk, eventually, http_get, load};

/// A busy Postgres may be slow to tell a restart its catalog.
fn setup(disk: &Disk, database: &Database) -> Setup {
    Setup::new(&disk.path().join("journal"), &database.url()).expect_in_log("postgres")
}

/// A start that is refused because of the journal's directory, with all of these words.
async fn refused(setup: &Setup, words: &[&str]) {
    is_refused(setup.clone().expect_in_log("error").spawn(), setup, words).await;
}

async fn is_refused(daemon: Daemon, setup: &Setup, words: &[&str]) {
    let ended = daemon.ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(73), "{text}");
    let journal = setup.journal.display().to_string();
    for word in words.iter().chain([&journal.as_str()]) {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

/// A start that recovers everything that was acknowledged.
async fn recovered(setup: &Setup, database: &Database, load: &Load) {
    let daemon = setup.start().await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    load.is_in(database).await;
    assert_eq!(daemon.stop().await.code, Some(0));
}

/// Saves so often, none of which reaches Postgres, and kills the daemon.
async fn leave_saves(setup: &Setup, load: &Load, saves: usize) {
    let daemon = setup.start().await;
    pause(&daemon).await;
    let mut client = daemon.client().await;
    for _ in 0..saves {
        load.save(&mut client, 0).await.expect("accepted");
    }
    daemon.kill().await;
}

async fn pause(daemon: &Daemon) {
    let request = PauseRequest { reason: "test".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(request).await.expect("paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_journal_directory_is_told_with_its_remedy() {
    let (database, disk, load) = (Database::with(load::SCHEMA).await, Disk::mount(64), Load::new(1, 300));
    let setup = setup(&disk, &database);
    let remedy = ["Read-only file system", "mount it writable", "journal.directory"];
    disk.make_read_only();
    refused(&setup, &remedy).await;
    disk.make_writable();
    leave_saves(&setup, &load, 20).await;
    disk.make_read_only();
    let before = disk::content(&setup.journal);
    refused(&setup, &remedy).await;
    assert!(disk::content(&setup.journal) == before, "it is as it was");
    disk.make_writable();
    recovered(&setup, &database, &load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_directory_that_its_user_may_not_write_is_told_with_its_remedy() {
    let (database, home) = (Database::with(load::SCHEMA).await, directory());
    let setup = Setup::new(&home.path().join("journal"), &database.url()).expect_in_log("error");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o500)).expect("changed");
    // Without these capabilities modes stop root as they stop everybody.
    let mut launcher = Command::new("setpriv");
    launcher.arg("--bounding-set=-dac_override,-dac_read_search");
    let daemon = if rustix::process::geteuid().is_root() { setup.spawn_by(launcher) } else { setup.spawn() };
    is_refused(daemon, &setup, &["Permission denied", "let this user write", "journal.directory"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_are_refused_while_the_disk_is_full_and_go_on_by_themselves() {
    let (database, disk, load) = (Database::with(load::SCHEMA).await, Disk::mount(96), Load::new(4, 2_000));
    let setup = setup(&disk, &database).set("journal.segment_bytes", "1 MiB").set("journal.free_bytes_min", "24 MiB");
    let daemon = setup.start().await;
    let mut clients = load.start(&daemon).await;
    eventually("segments come and go", || async { (load.acknowledged() > 1_000).then_some(()) }).await;
    pause(&daemon).await;

    disk.fill(16 << 20);
    let refusal = eventually("a save is refused", || async { load.take_refusal() }).await;
    let info = refusal.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.reason, "DISK_FULL", "{refusal:?}");
    assert!(refusal.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{refusal:?}");
    disk.fill(0);
    full_for_a_while(&daemon, &disk).await;

    // What is drained may go, but the segment after it can't be begun.
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    load.is_in(&database).await;
    full_for_a_while(&daemon, &disk).await;

    disk.empty();
    let before = load.acknowledged();
    eventually("saves go on", || async { (load.acknowledged() > before + 100).then_some(()) }).await;
    assert!(clients.try_join_next().is_none(), "no client was told anything but to come back");
    daemon.kill().await;
    clients.join_all().await;
    recovered(&setup, &database, &load).await;
}

/// Until the daemon has twice seen its disk full, and so has looked after it in between.
async fn full_for_a_while(daemon: &Daemon, disk: &Disk) {
    let http = daemon.http().await;
    let shown = || async {
        let metrics = http_get(http, "/metrics").await;
        metrics.lines().find_map(|line| line.strip_prefix("forebay_journal_free_bytes ")?.parse::<f64>().ok())
    };
    for _ in 0..2 {
        eventually("the disk is seen to be full", || async {
            // Again and again: the journal gives up what is drained.
            disk.fill(0);
            (shown().await? == 0.0).then_some(())
        })
        .await;
        disk.give_back(256 << 10);
        eventually("some bytes are seen to be free", || async { (shown().await? > 0.0).then_some(()) }).await;
    }
    disk.fill(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_is_refused_and_damages_nothing() {
    let (database, disk, load) = (Database::with(load::SCHEMA).await, Disk::mount(96), Load::new(1, 10_000));
    let setup = setup(&disk, &database).expect_in_log("torn");
    disk.fill(0);
    refused(&setup, &["free some space"]).await;
    disk.empty();
    leave_saves(&setup, &load, 200).await;
    disk.fill(0);
    let before = segments(&setup.journal);
    refused(&setup, &["free some space"]).await;
    assert!(segments(&setup.journal) == before, "what was saved is as it was");
    // Somewhere in here a start has room enough. Wherever it is, no start finds too little half-way.
    let (mut starts, sizes) = (0, [1, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44]);
    for mib in sizes {
        disk.fill(mib << 20);
        let daemon = setup.clone().set("journal.free_bytes_min", "64 MiB").expect_in_log("full disk").spawn();
        let serves = eventually("it serves or says why not", || async {
            daemon.lines().iter().find(|line| line["message"] == "serving" || line.is_string()).map(|line| !line.is_string())
        })
        .await;
        starts += usize::from(serves);
        let ended = daemon.kill().await;
        assert!(matches!(ended.code, None | Some(73)), "{mib} MiB: {:#?}", ended.log);
        disk.empty();
    }
    assert!((1..sizes.len()).contains(&starts), "{starts} of {} starts", sizes.len());
    recovered(&setup, &database, &load).await;
}

/// All that holds saves.
fn segments(journal: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    disk::content(&journal.join("segments"))
}
