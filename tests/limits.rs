//! Every limit is reached once: the caller is refused with the limit's name and what to do, or what is too much waits for the
//! next; and once there is room again, saves go on.

use forebay::proto::{GetStatusRequest, LimitStatus, PauseRequest, ResumeRequest, Save};
use serde_json::json;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Daemon, Database, Setup, directory, eventually, http_get,
    saves::{batch, request, set},
};

mod calls;
mod messages;
mod sizes;
mod streams;

const SCHEMA: &str = "create table players (id bigint primary key, name text)";

fn save(n: u64, bytes: usize) -> Save {
    set("players", &[&n.to_string()], json!({"name": "x".repeat(bytes)}))
}

async fn pause(daemon: &Daemon) {
    let request = PauseRequest { reason: "test".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(request).await.expect("paused");
}

async fn resume(daemon: &Daemon) {
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
}

/// A limit as the status shows it; the metrics have the same pair.
async fn shown(daemon: &Daemon, name: &str) -> LimitStatus {
    let answer = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
    let found = answer.status.expect("a status").limits.into_iter().find(|limit| limit.name == name);
    let page = http_get(daemon.http().await, "/metrics").await;
    for metric in ["forebay_limit", "forebay_limit_used"] {
        assert!(page.contains(&format!("{metric}{{name=\"{name}\",")), "{metric} of {name} is not in\n{page}");
    }
    found.unwrap_or_else(|| panic!("{name} is in the status"))
}

/// Waits until so much is used of a limit.
async fn used(daemon: &Daemon, name: &str, expected: u64) {
    eventually(&format!("{expected} are used of {name}"), || async { (shown(daemon, name).await.used == expected).then_some(()) }).await;
}

/// The refusal names the limit and says when to come back.
fn refused_by(status: &Status, limit: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!(info.metadata.get("limit").map(String::as_str), Some(limit), "{info:?}");
    assert!(status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()), "{status:?}");
    assert!(status.get_details_quota_failure().is_some(), "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("the trailer that client libraries act on");
    assert!(pushback.to_str().is_ok_and(|text| text.parse::<i32>().is_ok_and(|ms| ms > 0)), "{pushback:?}");
}

/// Saves until refused while paused, then resumes and sees a save go through.
async fn fill_and_recover(setup: Setup, limit: &str, bytes: usize) {
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    pause(&daemon).await;
    let mut refusal = None;
    for n in 0..10_000 {
        if let Err(status) = client.save(request(save(n, bytes))).await {
            refusal = Some(status);
            break;
        }
    }
    refused_by(&refusal.expect("the limit is reached"), limit);
    let shown = shown(&daemon, limit).await;
    assert!(shown.used <= shown.max && shown.used * 10 >= shown.max * 5, "{shown:?}");
    resume(&daemon).await;
    eventually("there is room again", || {
        let mut client = client.clone();
        async move { client.save(request(save(1, bytes))).await.ok() }
    })
    .await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_bytes_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    fill_and_recover(
        Setup::new(journal.path(), &database.url())
            .set("backlog.bytes_max", "2 MiB")
            .set("grpc.message_bytes_max", "1 MiB")
            .set("grpc.body_bytes_max", "512 KiB"),
        "backlog.bytes_max",
        10_000,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_objects_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    fill_and_recover(
        Setup::new(journal.path(), &database.url()).set("backlog.objects_max", "100").set("grpc.batch_saves_max", "100"),
        "backlog.objects_max",
        10,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_bytes_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("journal.bytes_max", "4 MiB")
        .set("grpc.message_bytes_max", "1 MiB")
        .set("grpc.body_bytes_max", "512 KiB")
        .set("journal.segment_bytes", "1 MiB");
    fill_and_recover(setup, "journal.bytes_max", 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_are_refused_before_the_disk_is_full_and_taken_again_when_there_is_space() {
    /// So much may others write here meanwhile; twice as much has to be free.
    const MARGIN: u64 = 512 << 20;
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let found = rustix::fs::statvfs(journal.path()).expect("a file system");
    let min = (found.f_bavail * found.f_frsize).saturating_sub(MARGIN);
    let setup = Setup::new(&journal.path().join("journal"), &database.url()).set("journal.free_bytes_min", &min.to_string());
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    client.save(request(save(1, 10))).await.expect("there is space");
    let filler = tempfile::NamedTempFile::new_in(journal.path()).expect("a file");
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, 2 * MARGIN).expect("there is space");
    let status = eventually("the space is missed", || async { daemon.client().await.save(request(save(1, 10))).await.err() }).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "DISK_FULL");
    assert!(status.message().contains("journal.free_bytes_min") && status.message().contains("free some space"), "{status:?}");
    let limit = shown(&daemon, "journal.free_bytes_min").await;
    assert!(limit.max == min && limit.used < min, "{limit:?}");
    drop(filler);
    eventually("saves are taken again", || async { daemon.client().await.save(request(save(1, 10))).await.ok() }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_is_refused_whole() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon =
        Setup::new(journal.path(), &database.url()).set("backlog.objects_max", "100").set("grpc.batch_saves_max", "100").start().await;
    let mut client = daemon.client().await;
    pause(&daemon).await;
    client.save_batch(batch((0..60).map(|n| save(n, 10)).collect())).await.expect("accepted");
    refused_by(&client.save_batch(batch((100..160).map(|n| save(n, 10)).collect())).await.expect_err("refused"), "backlog.objects_max");
    client.save_batch(batch((0..40).map(|n| save(n, 10)).collect())).await.expect("folded saves take no new room");
    client.save_batch(batch((200..240).map(|n| save(n, 10)).collect())).await.expect("what was refused took nothing");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("grpc.connections_max", "3")
        .set("grpc.first_byte_timeout", "5 min")
        .set("grpc.handshake_timeout", "5 min")
        .expect_in_log("connections are refused");
    let daemon = setup.start().await;
    let address = daemon.grpc().await;
    let mut client = daemon.client().await;
    let idle = [TcpStream::connect(address).await.expect("connected"), TcpStream::connect(address).await.expect("connected")];
    let http = daemon.http().await;
    eventually("three connections are counted", || async {
        http_get(http, "/metrics").await.contains("forebay_limit_used{name=\"grpc.connections_max\",kind=\"amount\"} 3").then_some(())
    })
    .await;
    client.save(request(save(1, 10))).await.expect("those that are open are served");
    let refused = super::support::try_client(address).await;
    assert!(refused.is_none(), "a fourth connection is not served");
    drop(idle);
    eventually("there is room again", || super::support::try_client(address)).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_saves_are_limited_and_the_lane_halts() {
    let (database, journal) =
        (Database::with("create table players (id bigint primary key, name text check (name <> 'bad'))").await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("failed.saves_max", "3").expect_in_log("23514").expect_in_log("halt");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    for n in 0..5_u32 {
        client.save(request(set("players", &[&n.to_string()], json!({"name": "bad"})))).await.expect("accepted");
    }
    eventually("the lane halts", || async {
        let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.ok()?.into_inner().status?;
        status
            .lanes
            .iter()
            .any(|lane| lane.state() == forebay::proto::LaneState::Halted && lane.reason.contains("failed.saves_max"))
            .then_some(())
    })
    .await;
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, 3);
    let status = client.flush(forebay::proto::FlushRequest::default()).await.expect_err("a halted lane can't be flushed");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    daemon.stop().await;
}
