//! What is wrong is refused at the door, with the field, the problem and the remedy; and nothing of it is saved.

use forebay::proto::{FlushRequest, PauseRequest, Save, WatchStatusRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use crate::support::{
    Database, Setup, directory,
    saves::{batch, delete, request, set, set_text},
};

const SCHEMA: &str = "
    create table players (id bigint primary key, name text, seen timestamptz, shout text generated always as (upper(name)) stored,
                          number int generated always as identity);
    create table pairs (a int, b uuid, value text, primary key (a, b));
    create table codes (code varchar(3) primary key, value text);
";

/// The description of the violation of `field`; panics if the status has none.
fn violation(status: &Status, field: &str) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let info = status.get_details_error_info().expect("every error has ErrorInfo");
    assert_eq!(info.domain, "forebay.dev");
    let details = status.get_details_bad_request().expect("field violations");
    let found = details.field_violations.iter().find(|violation| violation.field == field);
    found.unwrap_or_else(|| panic!("no violation of {field}: {:?}", details.field_violations)).description.clone()
}

async fn refusal(client: &mut SaveServiceClient<Channel>, save: Save) -> Status {
    client.save(request(save)).await.expect_err("the save is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_saves_are_refused_by_field() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let ok = json!({"name": "x"});
    let uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
    let cases: Vec<(Save, &str, &[&str])> = vec![
        (set("nobody", &["1"], ok.clone()), "save.collection", &["nobody", "codes, pairs, players"]),
        (set("players", &["1"], json!({"nam": 1})), "save.json.nam", &["name"]),
        (set("players", &["1"], json!({"shout": "X"})), "save.json.shout", &["generated"]),
        (set("players", &["1"], json!({"number": 1})), "save.json.number", &["identity"]),
        (set_text("players", &["1"], "[1]"), "save.json", &["object", "array"]),
        (set_text("players", &["1"], "{\"name\":"), "save.json", &["valid JSON"]),
        (set_text("players", &["1"], r#"{"name":"a","name":"b"}"#), "save.json", &["more than once"]),
        (set_text("players", &["1"], r#"{"name":"a\u0000"}"#), "save.json", &["NUL"]),
        (set("players", &["1"], json!({"name": ["a"]})), "save.json.name", &["single value"]),
        (set("players", &["1"], json!({"seen": "now"})), "save.json.seen", &["now"]),
        (set("players", &[], ok.clone()), "save.key", &["id"]),
        (set("players", &["11", "22"], ok.clone()), "save.key", &["has 2 parts, but the key has 1", "id"]),
        (set("pairs", &["1"], json!({"value": "x"})), "save.key", &["has 1 part, but the key has 2", "a, b"]),
        (set("pairs", &["1", uuid, "x"], json!({"value": "x"})), "save.key", &["has 3 parts, but the key has 2"]),
        (set("players", &["abc"], ok.clone()), "save.key[0]", &["whole number"]),
        (set("players", &["99999999999999999999"], ok.clone()), "save.key[0]", &["9223372036854775807"]),
        (set("codes", &["abcd"], json!({"value": "x"})), "save.key[0]", &["3 characters"]),
        (set("pairs", &["1", "no-uuid"], json!({"value": "x"})), "save.key[1]", &["UUID"]),
        (set("players", &["1"], json!({"id": 2, "name": "x"})), "save.json.id", &["contradicts"]),
        (Save { change: None, ..set("players", &["1"], ok.clone()) }, "save.change", &["json", "delete"]),
        (delete("players", &[]), "save.key", &["id"]),
        (set_text("players", &["1"], &format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20))), "save.json", &["grpc.body_bytes_max"]),
        (set("codes", &[&"x".repeat(1025)], ok.clone()), "save.key", &["grpc.key_bytes_max"]),
    ];
    for (save, field, expected) in cases {
        let status = refusal(&mut client, save).await;
        let text = violation(&status, field);
        for part in expected {
            assert!(text.contains(part), "{field}: {part:?} is not in {text:?}");
        }
    }
    let key_as_text = Save { key: "42".chars().map(String::from).collect(), ..set("players", &[], ok.clone()) };
    let text = violation(&refusal(&mut client, key_as_text).await, "save.key");
    assert!(text.contains("list"), "{text}");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await + database.number("select count(*) from pairs").await, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_refused_as_a_whole_with_every_violation() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).set("grpc.batch_saves_max", "50").start().await;
    let mut client = daemon.client().await;
    let good = |n: usize| set("players", &[&n.to_string()], json!({"name": "x"}));
    let mut saves: Vec<_> = (0..10).map(good).collect();
    saves[3] = set("players", &["x"], json!({"name": "x"}));
    saves[7] = set("players", &["7"], json!({"nothing": "x"}));
    let status = client.save_batch(batch(saves)).await.expect_err("refused");
    violation(&status, "saves[3].key[0]");
    violation(&status, "saves[7].json.nothing");
    let status = client.save_batch(batch((0..51).map(good).collect())).await.expect_err("refused");
    assert!(violation(&status, "saves").contains("grpc.batch_saves_max"));
    let status = client.save_batch(batch(Vec::new())).await.expect_err("refused");
    violation(&status, "saves");
    let large = (0..40).map(|n| set("players", &[&n.to_string()], json!({"name": "x".repeat(120_000)}))).collect();
    let status = client.save_batch(batch(large)).await.expect_err("refused");
    assert!(status.message().contains("grpc.message_bytes_max"), "{status:?}");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players").await, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_version_lacks_is_named_and_never_ignored() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut admin = daemon.admin().await;
    let status = admin.watch_status(WatchStatusRequest::default()).await.expect_err("not there yet");
    assert!(status.code() == Code::Unimplemented && status.message().contains("WatchStatus"), "{status:?}");
    let status = admin.pause(PauseRequest::default()).await.expect_err("a reason is needed");
    violation(&status, "reason");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_at_the_limit_are_saved_and_make_no_blobs() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let body = |filler: usize| format!(r#"{{"name":"{}"}}"#, "x".repeat(filler));
    let at_limit = (1 << 20) - body(0).len();
    for key in 0..20 {
        client.save(request(set_text("players", &[&key.to_string()], &body(at_limit)))).await.expect("accepted");
    }
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select sum(length(name)) from players").await, 20 * at_limit as u64);
    let mut folders = vec![journal.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the journal can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert!(!folder.ends_with("blobs"), "{} is a blob", path.display());
            }
        }
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_cancelled_calls_lose_nothing_that_was_accepted() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).start().await;
    let mut client = daemon.client().await;
    let mut expired = Request::new(request(set("players", &["1"], json!({"name": "x"}))));
    expired.metadata_mut().insert("grpc-timeout", "0n".parse().expect("a header"));
    let code = client.save(expired).await.expect_err("the deadline has passed").code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    // Calls dropped at any moment: some are accepted, some not; the daemon goes on and holds no room for them.
    for n in 0..200_u32 {
        let mut client = client.clone();
        let call = tokio::spawn(async move { client.save(request(set("players", &[&n.to_string()], json!({"name": "y"})))).await });
        if n % 3 == 0 {
            tokio::task::yield_now().await;
        }
        call.abort();
    }
    client.save(request(set("players", &["1000"], json!({"name": "z"})))).await.expect("accepted");
    client.flush(FlushRequest::default()).await.expect("flushed");
    assert_eq!(database.number("select count(*) from players where id = 1000").await, 1);
    let status = daemon.admin().await.get_status(forebay::proto::GetStatusRequest::default()).await.expect("a status").into_inner();
    for limit in status.status.expect("a status").limits {
        let held = ["backlog.bytes_max", "backlog.objects_max", "journal.inbox_bytes_max", "grpc.calls_in_flight_max"];
        assert!(!held.contains(&limit.name.as_str()) || limit.used == 0, "{limit:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_on_the_ports_are_cut_off() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup =
        Setup::new(journal.path(), &database.url()).set("grpc.first_byte_timeout", "200 ms").set("grpc.handshake_timeout", "200 ms");
    let daemon = setup.start().await;
    for address in [daemon.grpc().await, daemon.http().await] {
        let mut garbage = TcpStream::connect(address).await.expect("connected");
        garbage.write_all(&[0xde; 4096]).await.expect("written");
        read_to_end(&mut garbage).await;
    }
    let mut silent = TcpStream::connect(daemon.grpc().await).await.expect("connected");
    read_to_end(&mut silent).await;
    let mut half_open = TcpStream::connect(daemon.grpc().await).await.expect("connected");
    half_open.write_all(b"PRI * HT").await.expect("written");
    read_to_end(&mut half_open).await;
    daemon.client().await.save(request(set("players", &["1"], json!({"name": "x"})))).await.expect("others are served");
    daemon.stop().await;
}

/// Waits until the other side closes.
async fn read_to_end(stream: &mut TcpStream) {
    let closed = tokio::time::timeout(crate::support::HANG, stream.read_to_end(&mut Vec::new())).await;
    drop(closed.expect("the connection is closed"));
}
