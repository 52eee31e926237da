//! Restarts under load: with the shipped retry policy no call fails, and no save is lost or doubled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use forebay::client::{Client, Save};

use crate::support::{Database, HANG, Setup, directory, free_port, runs};

const SCHEMA: &str = "
    create table things (id text primary key, version bigint not null);
    create table applied (number bigserial primary key, id text not null, version bigint not null);
    create function note() returns trigger language plpgsql as
        $$ begin insert into applied (id, version) values (new.id, new.version); return null; end $$;
    create trigger note after insert or update on things for each row execute function note();
";

const CLIENTS: usize = 8;
const RECOVERED: &str = "recovered what may not be in postgres yet";

#[tokio::test(flavor = "multi_thread")]
async fn clients_ride_out_restarts() {
    let restarts = runs("FOREBAY_RESTARTS", 5);
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let port = free_port();
    let setup = Setup::new(journal.path(), &database.url()).set("grpc.listen", &format!("127.0.0.1:{port}"));
    let mut daemon = setup.start().await;
    let (ended, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(save_until(format!("http://127.0.0.1:{port}"), n, Arc::clone(&ended), Arc::clone(&longest))))
        .collect();
    for _ in 0..restarts {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stopped = daemon.stop().await;
        assert_eq!(stopped.code, Some(0));
        daemon = setup.start().await;
    }
    ended.store(true, Ordering::Relaxed);
    for (n, client) in clients.into_iter().enumerate() {
        let saved = client.await.expect("no call fails");
        assert!(saved > 0, "client {n} saved nothing");
    }
    daemon.client().await.flush(forebay::proto::FlushRequest::default()).await.expect("flushed");
    daemon.stop().await;
    let wrong =
        "select count(*) from (select version <= lag(version) over (partition by id order by number) as wrong from applied) a where wrong";
    assert_eq!(database.number(wrong).await, 0, "a version was applied twice or after a newer one");
    println!("restarts: {restarts}, no call failed, longest call {} ms", longest.load(Ordering::Relaxed));
}

/// Saves rising versions of one object until told to end; every call has to succeed.
async fn save_until(endpoint: String, n: usize, ended: Arc<AtomicBool>, longest: Arc<AtomicU64>) -> u64 {
    // The shipped policy; only a call that hangs is given as long as any other thing in these tests.
    let client = Client::builder(&endpoint).call_timeout(HANG).connect().await.expect("connected");
    let id = n.to_string();
    let mut version = 0;
    while !ended.load(Ordering::Relaxed) {
        version += 1;
        let start = Instant::now();
        let save = Save::set("things", [id.as_str()], format!("{{\"version\":{version}}}"));
        client.save(save).await.unwrap_or_else(|error| panic!("client {n}, version {version}: {error}"));
        longest.fetch_max(u64::try_from(start.elapsed().as_millis()).expect("a short time"), Ordering::Relaxed);
    }
    version
}

/// A stream that is reopened after a restart is told where to resume, and what it sends again is not saved again: after a
/// clean stop, which notes the streams, and after a kill, which doesn't.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_remembered_across_restarts() {
    let (database, journal) = (Database::with("create table log (line text not null)").await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("collections.log.mode", "append").expect_in_log("postgres");
    let id = "6f9619ff-8b86-4011-b42d-00c04fc964ff";
    let daemon = setup.start().await;
    assert_eq!(send(&daemon, id, 0..10).await, (None, 9));
    daemon.stop().await;
    let daemon = setup.start().await;
    assert_eq!(daemon.logged(RECOVERED).await["streams_noted"], true, "a clean stop spares the start from reading the journal");
    assert_eq!(send(&daemon, id, 5..20).await, (Some(9), 19));
    daemon.kill().await;
    let daemon = setup.start().await;
    assert_eq!(daemon.logged(RECOVERED).await["streams_noted"], false);
    assert_eq!(send(&daemon, id, 0..30).await, (Some(19), 29));
    daemon.stop().await;
    let daemon = setup.start().await;
    assert_eq!(send(&daemon, id, 29..30).await, (Some(29), 29));
    daemon.client().await.flush(forebay::proto::FlushRequest::default()).await.expect("flushed");
    daemon.stop().await;
    assert_eq!(database.number("select count(*) from log").await, 30);
    assert_eq!(database.number("select count(distinct line) from log").await, 30);
}

/// Opens the stream, sends these offsets and reads until all are answered: where it was to resume, and the last answered.
async fn send(daemon: &crate::support::Daemon, id: &str, offsets: std::ops::Range<u64>) -> (Option<u64>, u64) {
    use forebay::proto::{SaveStreamRequest, save_stream_response::Event};
    let last = offsets.end - 1;
    let messages = offsets.enumerate().map(|(n, offset)| SaveStreamRequest {
        stream_id: if n == 0 { id.to_owned() } else { String::new() },
        offset,
        saves: vec![crate::support::saves::set("log", &[], serde_json::json!({"line": format!("line {offset}")}))],
        ..SaveStreamRequest::default()
    });
    let messages: Vec<_> = messages.collect();
    let answers = daemon.client().await.save_stream(tokio_stream::iter(messages)).await.expect("the stream opens");
    let (mut answers, mut resumed) = (answers.into_inner(), None);
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        match answer.event.expect("an event") {
            Event::Opened(opened) => resumed = opened.known.then_some(opened.acknowledged_through),
            Event::Acknowledged(acknowledged) if acknowledged.through == last => return (resumed, last),
            Event::Acknowledged(_) => {}
            Event::Refused(refused) => panic!("{refused:?}"),
            Event::Failed(failed) => panic!("nobody asked for outcomes: {failed:?}"),
        }
    }
    panic!("the stream ended before everything was answered");
}
