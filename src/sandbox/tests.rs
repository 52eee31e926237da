use std::process::Command;

use super::*;

fn throwaway() -> Sandbox {
    Sandbox::create(SandboxOptions { fsync: false, ..SandboxOptions::default() }).expect("a private Postgres")
}

fn runs(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn count(url: &str) -> Option<String> {
    let database = Database::connect(url).await.expect("a connection");
    database.value("select count(*) from kept").await.expect("a count")
}

#[tokio::test]
async fn what_is_committed_survives_every_way_to_stop_on_the_same_port() {
    let mut sandbox = throwaway();
    let url = sandbox.create_database("sample").await.expect("a database");
    let database = Database::connect(&url).await.expect("a connection");
    database.run("create table kept (n int); insert into kept values (1), (2)").await.expect("a table");
    drop(database);

    sandbox.crash_restart().expect("a restart");
    assert_eq!(count(&url).await.as_deref(), Some("2"));
    sandbox.stop(StopMode::Fast).expect("a stop");
    assert!(Database::connect(&url).await.is_err(), "a stopped server takes no connections");
    sandbox.start().expect("a start");
    assert_eq!(count(&url).await.as_deref(), Some("2"));
    sandbox.kill().expect("a kill");
    sandbox.start().expect("a start");
    assert_eq!(count(&url).await.as_deref(), Some("2"));
}

#[test]
fn a_dropped_sandbox_leaves_nothing() {
    let sandbox = throwaway();
    let (id, directory) = (sandbox.process_id().expect("it runs"), sandbox.socket_directory().to_owned());
    assert!(runs(id));
    drop(sandbox);
    assert!(!runs(id));
    assert!(!directory.exists());
}

#[test]
fn a_sandbox_that_nobody_drops_ends_with_the_pipe_to_its_guard() {
    let mut sandbox = throwaway();
    let (id, directory) = (sandbox.process_id().expect("it runs"), sandbox.socket_directory().to_owned());
    // What the kernel does when we are killed: the pipe closes, nothing is dropped.
    drop(sandbox.guard.end_pipe());
    let status = sandbox.guard.wait();
    assert!(status.success());
    let server = sandbox.server.take().expect("it ran");
    drop(server.wait_with_output());
    assert!(!runs(id));
    assert!(!directory.exists());
}

#[test]
fn settings_reach_the_server() {
    let options = SandboxOptions { fsync: false, settings: vec![("max_connections".to_owned(), "17".to_owned())], ..Default::default() };
    let sandbox = Sandbox::create(options).expect("a private Postgres");
    let psql = Command::new(sandbox.binaries().join("psql")).args([&sandbox.url(), "-Atc", "show max_connections"]).output();
    assert_eq!(String::from_utf8_lossy(&psql.expect("psql runs").stdout).trim(), "17");
}
