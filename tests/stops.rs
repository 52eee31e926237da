//! Starting, stopping, and what stands in the way of a start.

use std::{fs, os::unix::fs::PermissionsExt};

use forebay::proto::FlushRequest;
use serde_json::json;
use tokio::process::Command;

use crate::support::{
    Database, Setup, directory, forebay, http,
    saves::{batch, request, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text); create table keyless (a int)";

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_and_says_what_is_left() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("lanes.default.window", "1 min").start().await;
    let saves = (0..1_000).map(|n| set("players", &[&n.to_string()], json!({"name": "x"}))).collect();
    daemon.client().await.save_batch(batch(saves)).await.expect("accepted");
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.last()["saves_left"], 0, "a stop ends the window");
    assert_eq!(database.number("select count(*) from players").await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_at_once_and_is_safe() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("postgres.lock_timeout", "20 s").expect_in_log("second signal");
    let daemon = setup.start().await;
    let holder = database.client().await;
    holder.batch_execute("begin; lock table players").await.expect("locked");
    daemon.client().await.save(request(set("players", &["1"], json!({"name": "x"})))).await.expect("accepted");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.logged("stopping").await;
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ended().await;
    drop(holder);
    database.stop_postgres();
    database.start_postgres();
    let daemon = setup.expect_in_log("postgres").start().await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_recovery_and_not_postgres() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let daemon = setup.start().await;
    database.stop_postgres();
    assert_eq!(http(daemon.http().await, "/livez").await.0, 200);
    assert_eq!(http(daemon.http().await, "/readyz").await.0, 200);
    assert_eq!(http(daemon.http().await, "/health").await.0, 404, "only what is meant answers");
    let mut health = tonic_health::pb::health_client::HealthClient::new(daemon.channel().await);
    for service in ["", "forebay.v1.SaveService", "forebay.v1.AdminService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("health answers").into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_journal_names_its_holder() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url());
    let daemon = setup.start().await;
    let second = setup.clone().expect_in_log("error").spawn().ended().await;
    assert_eq!(second.code, Some(75));
    let text = format!("{:?}", second.log);
    assert!(text.contains(&daemon.pid().to_string()), "{text}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_can_not_be_a_journal_is_refused() {
    let (database, parent) = (Database::with(SCHEMA).await, directory());
    let file = parent.path().join("file");
    fs::write(&file, "x").expect("written");
    let foreign = parent.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("notes.txt"), "not a journal").expect("written");
    let open = parent.path().join("open");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("changed");
    for (path, word) in [(&file, "director"), (&foreign, "notes.txt"), (&open, "writ")] {
        let ended = Setup::new(path, &database.url()).expect_in_log("error").spawn().ended().await;
        let text = format!("{:?}", ended.log);
        assert_eq!(ended.code, Some(73), "{text}");
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_private() {
    let (database, parent) = (Database::with(SCHEMA).await, directory());
    let journal = parent.path().join("new/journal");
    let daemon = Setup::new(&journal, &database.url()).start().await;
    daemon.client().await.save(request(set("players", &["1"], json!({"name": "x"})))).await.expect("accepted");
    let mut folders = vec![journal];
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).expect("there").permissions().mode() & 0o777, 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600, "{}", path.display()),
            }
        }
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_told_all_at_once() {
    let journal = directory();
    let setup = Setup::new(journal.path(), "postgres://x")
        .set("journal.segment_byte", "1 MiB")
        .set("drain.retry_wait_max", "10")
        .expect_in_log("error")
        .expect_in_log("--set");
    let ended = setup.spawn().ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(78), "{text}");
    assert!(text.contains("journal.segment_bytes") && text.contains("drain.retry_wait_max"), "{text}");
    let output = forebay().arg("serve").arg("--nonsense").output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(64));
}

/// A shell that may have so many open files, and becomes what it is told to run.
fn with_open_files(options: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!(r#"ulimit {options} && exec "$0" "$@""#));
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_open_files_for_the_connections_are_told_at_the_start() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url());
    let ended = setup.clone().expect_in_log("error").spawn_by(with_open_files("-n 512")).ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(78), "{text}");
    assert!(text.contains("grpc.connections_max") && text.contains("ulimit -Hn") && text.contains("at most 256 connections"), "{text}");
    assert!(fs::read_dir(journal.path()).expect("there").next().is_none(), "nothing was written");
    let daemon = setup.set("grpc.connections_max", "256").spawn_by(with_open_files("-S -n 64"));
    daemon.serving().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("it runs");
    let open = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line about it");
    assert_eq!(open.split_whitespace().nth(3), Some("512"), "the daemon takes what it needs: {open}");
    assert_eq!(daemon.stop().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_that_is_named_is_told() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.keyless.mode", "upsert").expect_in_log("keyless");
    let daemon = setup.start().await;
    let fields = daemon.logged("table is no collection").await;
    assert!(fields["reason"].as_str().is_some_and(|reason| reason.contains("no primary key")), "{fields}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_database_url_is_told_without_its_password() {
    let journal = directory();
    let setup = Setup::new(journal.path(), "postgres://ann:s3cret@127.0.0.1:notaport/x").expect_in_log("error");
    let ended = setup.spawn().ended().await;
    let text = format!("{:?}", ended.log);
    assert_eq!(ended.code, Some(78), "{text}");
    assert!(text.contains("postgres.url") && !text.contains("s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_privileges_is_told_the_grants() {
    let (database, journal) = (Database::alone(SCHEMA).await, directory());
    database
        .execute("create role weak login; revoke all on schema public from public; revoke create on database postgres from public")
        .await;
    let weak = database.url_as("weak");
    let output = forebay().args(["check", "--connect"]).env("DATABASE_URL", &weak).output().await.expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("grant"), "{text}");
    let setup = Setup::new(journal.path(), &weak).expect_in_log("grant");
    let daemon = setup.spawn();
    let text = super::support::eventually("the grants are in the log", || async {
        let text = format!("{:?}", daemon.lines());
        text.contains("grant ").then_some(text)
    })
    .await;
    assert!(text.contains("weak"), "{text}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_whose_host_is_gone_can_be_drained() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).expect_in_log("postgres");
    let daemon = setup.start().await;
    database.stop_postgres();
    let saves = (0..300).map(|n| set("players", &[&n.to_string()], json!({"name": "x"}))).collect();
    daemon.client().await.save_batch(batch(saves)).await.expect("accepted");
    daemon.kill().await;
    let drain = || {
        let mut command = forebay();
        command
            .args(["drain", "--journal"])
            .arg(journal.path())
            .args(["--set", "postgres.first_wait=2 s", "--set", "postgres.allow_fsync_off=true"])
            .env("DATABASE_URL", setup.url.as_ref().expect("a url"));
        command
    };
    let output = drain().output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    database.start_postgres();
    let output = drain().output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(database.number("select count(*) from players").await, 300);
}
