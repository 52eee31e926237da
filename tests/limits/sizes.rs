//! Limits on the size of one thing: at the limit it is taken, beyond it refused or begun anew, and the largest is shown.

use std::time::Duration;

use forebay::proto::FlushRequest;
use futures_util::future::join_all;
use prost::Message;

use super::*;
use crate::support::{saves::set_text, strace};

/// The refusal names the limit and what to do.
fn too_large(status: &Status, limit: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_details_bad_request().expect("field violations");
    assert!(details.field_violations.iter().any(|violation| violation.description.contains(limit)), "{status:?}");
}

async fn at_limit(daemon: &Daemon, limit: &str) {
    let limit = shown(daemon, limit).await;
    assert_eq!(limit.used, limit.max, "{limit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.body_bytes_max", "100").start().await;
    let mut client = daemon.client().await;
    let body = |bytes: usize| set_text("players", &["1"], &format!("{:<bytes$}", r#"{"name":"x"}"#));
    client.save(request(body(60))).await.expect("accepted");
    assert_eq!(shown(&daemon, "grpc.body_bytes_max").await.used, 60);
    too_large(&client.save(request(body(101))).await.expect_err("refused"), "grpc.body_bytes_max = 100");
    client.save(request(body(100))).await.expect("accepted");
    at_limit(&daemon, "grpc.body_bytes_max").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_limited() {
    let (database, journal) = (Database::with("create table codes (code text primary key, value text)").await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.key_bytes_max", "20").start().await;
    let mut client = daemon.client().await;
    let key = |bytes: usize| request(set("codes", &[&"x".repeat(bytes)], json!({"value": "x"})));
    too_large(&client.save(key(21)).await.expect_err("refused"), "grpc.key_bytes_max = 20");
    client.save(key(20)).await.expect("accepted");
    at_limit(&daemon, "grpc.key_bytes_max").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_limited_in_bytes_and_saves() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("grpc.message_bytes_max", "2 KiB")
        .set("grpc.body_bytes_max", "2 KiB")
        .set("grpc.batch_saves_max", "10");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let of_bytes = |bytes: usize| {
        let mut batches = (0..bytes).map(|filler| batch(vec![save(1, 1_000), save(2, filler)]));
        batches.find(|batch| batch.encoded_len() == bytes).expect("a batch of this size")
    };
    too_large(&client.save_batch(of_bytes(2_049)).await.expect_err("refused"), "grpc.message_bytes_max = 2048: send less");
    client.save_batch(of_bytes(2_048)).await.expect("accepted");
    at_limit(&daemon, "grpc.message_bytes_max").await;
    let of_saves = |count: u64| batch((0..count).map(|n| save(n, 1)).collect());
    too_large(&client.save_batch(of_saves(11)).await.expect_err("refused"), "grpc.batch_saves_max = 10: send fewer");
    client.save_batch(of_saves(10)).await.expect("accepted");
    at_limit(&daemon, "grpc.batch_saves_max").await;
    // As an empty save does, each takes as little of a message as any field can.
    too_large(&client.save_batch(batch(vec![Save::default(); 75])).await.expect_err("refused"), "grpc.batch_saves_max = 10: send fewer");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_limited_and_the_rest_follows_in_the_next() {
    let cases = [("journal.group_saves_max", "3", 3..=3), ("journal.group_bytes_max", "4 KiB", 3_000..=4_096)];
    for (limit, max, full) in cases {
        let (database, journal) = (Database::with(SCHEMA).await, directory());
        let setup = Setup::new(&journal.path().join("journal"), &database.url()).set(limit, max);
        let daemon = strace::with_slow_syncs(&setup, Duration::from_millis(100), &journal.path().join("trace")).await;
        let client = daemon.client().await;
        eventually("a group is full", || async {
            let saves = (0..16).map(|n| {
                let mut client = client.clone();
                async move { client.save(request(save(n, 1_500))).await }
            });
            assert!(join_all(saves).await.iter().all(Result::is_ok), "nothing is refused");
            let limit = shown(&daemon, limit).await;
            assert!(limit.used <= limit.max, "{limit:?}");
            full.contains(&limit.used).then_some(())
        })
        .await;
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_limited_and_so_are_those_that_are_drained() {
    const RETENTION_BYTES_MAX: u64 = 8 << 20;
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url())
        .set("journal.segment_bytes", "1 MiB")
        .set("journal.retention_bytes_max", &RETENTION_BYTES_MAX.to_string());
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    pause(&daemon).await;
    for n in 0..40 {
        client.save_batch(batch((0..10).map(|nth| save(10 * n + nth, 100_000)).collect())).await.expect("accepted");
    }
    let journal_status = async || {
        let answer = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner();
        answer.status.expect("a status").journal.expect("the journal")
    };
    let (before, segment) = (journal_status().await, shown(&daemon, "journal.segment_bytes").await);
    assert!(before.segments >= 3, "{before:?}");
    assert!(segment.used >= segment.max && segment.used * 2 < before.bytes, "{segment:?}, {before:?}");
    resume(&daemon).await;
    client.flush(FlushRequest::default()).await.expect("flushed");
    let kept = eventually("only so much is kept of what is drained", || async {
        let kept = shown(&daemon, "journal.retention_bytes_max").await;
        (journal_status().await.segments < before.segments && (1..=kept.max).contains(&kept.used)).then_some(kept)
    })
    .await;
    assert_eq!(kept.max, RETENTION_BYTES_MAX);
    client.save(request(save(1, 10))).await.expect("it goes on");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_are_limited_and_the_rest_follows_in_the_next() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("drain.generation_objects_max", "250");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    pause(&daemon).await;
    for first in [0, 250, 500] {
        client.save_batch(batch((first..first + 200).map(|n| save(n, 1)).collect())).await.expect("accepted");
    }
    resume(&daemon).await;
    client.flush(FlushRequest::default()).await.expect("flushed");
    let sizes = database.rows("select count(*) from players group by xmin::text order by 1").await;
    assert_eq!(sizes, crate::support::database_rows([[Some("100")], [Some("250")], [Some("250")]]));
    at_limit(&daemon, "drain.generation_objects_max").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_postgres_are_limited() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("postgres.readers", "1").start().await;
    let (client, admin) = (daemon.client().await, daemon.admin().await);
    let calls = (0..20).map(|n| {
        let (mut client, mut admin) = (client.clone(), admin.clone());
        async move {
            client.save(request(save(n, 10))).await.expect("accepted");
            admin.get_status(GetStatusRequest::default()).await.expect("a status");
        }
    });
    join_all(calls).await;
    client.clone().flush(FlushRequest::default()).await.expect("flushed");
    let open = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    assert!(database.number(open).await <= 2, "one writer and one reader");
    at_limit(&daemon, "postgres.readers").await;
    daemon.stop().await;
}
