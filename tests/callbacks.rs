//! Outcomes told by webhooks: each at least once and right, whatever fails, stalls, dies and comes back; and nothing waits for
//! them. `FOREBAY_SEED` replays the random test.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use forebay::proto::{
    EndpointStatus, FlushRequest, GetStatusRequest, ListCollectionsRequest, Save, SaveBatchRequest, SaveRequest, SaveStreamRequest,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::support::{
    Daemon, Database, Setup,
    command::cli,
    directory, eventually, http_get,
    receiver::{Conduct, Receiver},
    saves::{batch, request, set},
    seed,
};

mod changes;

const SCHEMA: &str = "create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'));
     create table events (id bigint generated always as identity primary key, what text check (what <> 'bad'))";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQgb2xkIG9sZA==";
const POISON: &str = "23514";
const FAILING: &str = "a callback was not delivered: trying again";

fn player(id: u64, name: &str) -> Save {
    set("players", &[&id.to_string()], json!({"name": name}))
}

/// A daemon with the endpoint `shop`.
fn setup(journal: &Path, database: &Database, receiver: &Receiver) -> Setup {
    Setup::new(journal, &database.url())
        .set("collections.events.mode", "append")
        .set("endpoints.shop.url", &receiver.url())
        .set("endpoints.shop.secret", SECRET)
        .set("endpoints.shop.allow_loopback", "true")
        .expect_in_log(POISON)
        .expect_in_log(FAILING)
}

fn told(save: Save, request_id: &str) -> SaveRequest {
    SaveRequest { callback: "shop".to_owned(), request_id: request_id.to_owned(), ..request(save) }
}

fn all_told(saves: Vec<Save>) -> SaveBatchRequest {
    SaveBatchRequest { callback: "shop".to_owned(), ..batch(saves) }
}

async fn save(daemon: &Daemon, saves: Vec<Save>) -> Vec<String> {
    let results = daemon.client().await.save_batch(all_told(saves)).await.expect("accepted").into_inner().results;
    results.into_iter().map(|result| result.ticket).collect()
}

async fn flush(daemon: &Daemon) {
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
}

async fn endpoint(daemon: &Daemon, name: &str) -> EndpointStatus {
    let status = daemon.admin().await.get_status(GetStatusRequest::default()).await.expect("a status").into_inner().status;
    let found = status.expect("a status").endpoints.into_iter().find(|endpoint| endpoint.name == name);
    found.unwrap_or_else(|| panic!("there is no endpoint {name}"))
}

async fn shop_is(daemon: &Daemon, what: &str, check: impl Fn(&EndpointStatus) -> bool) -> EndpointStatus {
    eventually(what, || async { Some(endpoint(daemon, "shop").await).filter(&check) }).await
}

fn states(told: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    told.values().map(|message| (text(&message["data"]["ticket"]), text(&message["data"]["state"]))).collect()
}

/// A certificate authority's PEM file, and a server that it says is localhost.
fn authority(directory: &Path) -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a certificate");
    let server_key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let server = server.signed_by(&server_key, &Issuer::new(params, key)).expect("a certificate");
    let path = directory.join("ca.pem");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(root.der()));
    std::fs::write(&path, pem).expect("written");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .expect("they belong together");
    (path.display().to_string(), TlsAcceptor::from(Arc::new(config)))
}

/// Verifies what was received with the library of Standard Webhooks, with each of these secrets.
async fn verify(receiver: &Receiver, secrets: &[&str]) {
    const SCRIPT: &str = "import json, sys; from standardwebhooks import Webhook
requests = json.loads(sys.argv[1])
for secret in sys.argv[2:]:
    for request in requests:
        Webhook(secret).verify(request['body'], request['headers'])
wrong = dict(requests[0]['headers'], **{'webhook-id': 'other'})
try:
    Webhook(sys.argv[2]).verify(requests[0]['body'], wrong)
except Exception:
    print(len(requests))";
    let requests: Vec<_> = receiver.got().iter().map(|got| json!({"headers": got.headers, "body": got.body})).collect();
    let arguments = [SCRIPT.to_owned(), Value::from(requests.clone()).to_string()];
    let output = Command::new("python3").arg("-c").args(arguments).args(secrets).output().await.expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), requests.len().to_string(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_told_over_tls_signed_with_state_reason_and_request_id() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let (ca_file, tls) = authority(journal.path());
    let receiver = Receiver::start_with(Conduct::Answer(204), Some(tls)).await;
    let secret_file = journal.path().join("secret");
    std::fs::write(&secret_file, format!("{SECRET}\n{OLD_SECRET}\n")).expect("written");
    let mut setup = setup(&journal.path().join("journal"), &database, &receiver)
        .set("endpoints.shop.secret_file", &secret_file.display().to_string())
        .set("endpoints.shop.ca_file", &ca_file)
        .set("collections.players.on_failed", "shop");
    setup.sets.remove("endpoints.shop.secret");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let good = client.save(told(player(1, "good"), "id-1")).await.expect("accepted").into_inner().ticket;
    let bad = client.save(told(player(2, "bad"), "id-2")).await.expect("accepted").into_inner().ticket;
    let again = client.save(told(player(2, "bad"), "id-2")).await.expect("known").into_inner();
    assert!(again.deduplicated && again.ticket == bad);
    let stream_id = "0189d0a2-7c1e-7cc3-98c4-dc0c0c07398f";
    let message = SaveStreamRequest {
        stream_id: stream_id.to_owned(),
        offset: 7,
        saves: vec![set("events", &[], json!({"what": "x"}))],
        callback: "shop".to_owned(),
        ..SaveStreamRequest::default()
    };
    let mut answers = client.save_stream(tokio_stream::iter([message])).await.expect("a stream").into_inner();
    while answers.message().await.expect("it goes well").is_some() {}
    client.save(request(player(3, "untold"))).await.expect("accepted");

    let told = receiver.told_of(4).await;
    let [first, second] = [&told[&format!("save_{good}")], &told[&format!("save_{bad}")]];
    assert_eq!((&first["type"], &second["type"]), (&json!("save.persisted"), &json!("save.failed")));
    let data = &first["data"];
    assert_eq!((&data["ticket"], &data["request_id"]), (&json!(good), &json!("id-1")));
    assert_eq!((&data["collection"], &data["key"], &data["state"]), (&json!("players"), &json!(["1"]), &json!("PERSISTED")));
    assert!(data.get("failure").is_none() && data.get("stream_id").is_none(), "{data}");
    let failure = &second["data"]["failure"];
    assert_eq!((&failure["sqlstate"], &failure["constraint"]), (&json!(POISON), &json!("no_bad")));
    assert!(failure["message"].as_str().is_some_and(|message| message.contains("no_bad")), "{failure}");
    let failed = &told[&format!("failure_{bad}")];
    assert_eq!((&failed["type"], &failed["data"]["failure"]), (&json!("save.failed"), failure), "the collection's endpoint is told too");
    let streamed = told.values().find(|message| message["data"]["collection"] == "events").expect("the stream's save is told");
    assert_eq!((&streamed["data"]["stream_id"], &streamed["data"]["offset"]), (&json!(stream_id), &json!(7)));
    assert!(receiver.got().iter().all(|got| !got.body.contains("\"name\"")), "no data of rows beyond the key is told");
    verify(&receiver, &[SECRET, OLD_SECRET]).await;

    let status = shop_is(&daemon, "all delivered", |shop| shop.pending == 0 && shop.delivered == 4).await;
    assert_eq!((status.failed_attempts, status.given_up, status.last_error.as_str()), (0, 0, ""));
    let shown = cli(&daemon, &["status"], 0).await;
    assert!(shown.contains("endpoint shop: 0 callbacks pending") && shown.contains("4 delivered, 0 failed"), "{shown}");
    let metrics = http_get(daemon.http().await, "/metrics").await;
    assert!(metrics.contains("forebay_callback_attempts_total{endpoint=\"shop\",result=\"delivered\"} 4"), "{metrics}");
    let collections = client.list_collections(ListCollectionsRequest::default()).await.expect("a list").into_inner().collections;
    let on_failed: Vec<_> = collections.iter().map(|collection| collection.on_failed.as_str()).collect();
    assert_eq!(on_failed, ["", "shop"]);
    daemon.stop().await;
}

/// Saves while the receiver fails, stalls, dies and comes back and the daemon is killed; in the end every outcome has come.
#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_arrives_whoever_dies() {
    let mut rng = fastrand::Rng::with_seed(seed("every_outcome_arrives_whoever_dies"));
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let mut receiver = Receiver::start(Conduct::Moody(rng.u64(..))).await;
    let setup = setup(journal.path(), &database, &receiver)
        .set("callbacks.timeout", "300 ms")
        .set("journal.retention", "0 ms")
        .set("lanes.second.collections", "events");
    let mut expected = BTreeMap::new();
    let mut next = 0;
    for _ in 0..8 {
        let daemon = setup.start().await;
        for _ in 0..rng.usize(2..12) {
            match rng.u8(..6) {
                0 => receiver.die().await,
                1 => receiver.revive().await,
                2 => receiver.conduct(Conduct::Stall),
                3 => receiver.conduct(Conduct::Moody(rng.u64(..))),
                _ => {}
            }
            let names: Vec<_> = (0..rng.usize(1..20)).map(|_| if rng.u8(..10) == 0 { "bad" } else { "good" }).collect();
            let saves = names.iter().map(|name| {
                next += 1;
                if next % 3 == 0 { set("events", &[], json!({"what": name})) } else { player(next, name) }
            });
            let tickets = save(&daemon, saves.collect()).await;
            let outcome = |name: &&str| if *name == "bad" { "FAILED" } else { "PERSISTED" }.to_owned();
            expected.extend(tickets.into_iter().zip(names.iter().map(outcome)));
            match rng.u8(..3) {
                0 => flush(&daemon).await,
                1 => receiver.tried(receiver.got().len() / 2).await,
                _ => {}
            }
        }
        // In the middle of whatever is under way.
        for _ in 0..rng.u16(..2_000) {
            tokio::task::yield_now().await;
        }
        match rng.u8(..5) {
            0 => drop(daemon.stop().await),
            _ => drop(daemon.kill().await),
        }
    }
    receiver.revive().await;
    receiver.conduct(Conduct::Answer(200));
    let daemon = setup.start().await;
    let told = receiver.told_of(expected.len()).await;
    assert_eq!(states(&told), expected);
    shop_is(&daemon, "nothing pending", |shop| shop.pending == 0).await;
    daemon.stop().await;
}

/// Between the commit and the note: the position covers the saves, and Postgres can't be asked what became of them.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_were_not_noted_are_found_again_after_a_kill_and_a_stop() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(200)).await;
    let setup = setup(journal.path(), &database, &receiver).set("journal.retention", "0 ms");
    let mut expected = BTreeMap::new();
    for (id, killed) in [(0, true), (2, false)] {
        let daemon = setup.start().await;
        let tickets = save(&daemon, vec![player(id + 100, "bad")]).await;
        expected.insert(tickets[0].clone(), "FAILED".to_owned());
        receiver.told_of(expected.len()).await;
        let mut client = database.client().await;
        let lock = client.transaction().await.expect("a transaction");
        lock.batch_execute("lock table forebay.failed_save").await.expect("locked");
        let tickets = save(&daemon, vec![player(id, "good"), player(id + 1, "good")]).await;
        expected.extend(tickets.into_iter().map(|ticket| (ticket, "PERSISTED".to_owned())));
        flush(&daemon).await;
        assert_eq!(endpoint(&daemon, "shop").await.pending, 0, "nothing is told before it is known");
        drop(if killed { daemon.kill().await } else { daemon.stop().await });
        lock.rollback().await.expect("unlocked");
        let daemon = setup.start().await;
        assert_eq!(states(&receiver.told_of(expected.len()).await), expected);
        shop_is(&daemon, "nothing pending", |shop| shop.pending == 0).await;
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_goes_on_while_the_receiver_stalls_and_another_is_told() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let (slow, quick) = (Receiver::start(Conduct::Stall).await, Receiver::start(Conduct::Answer(200)).await);
    let daemon = setup(journal.path(), &database, &slow)
        .set("callbacks.timeout", "10 min")
        .set("endpoints.till.url", &quick.url())
        .set("endpoints.till.secret", SECRET)
        .set("endpoints.till.allow_loopback", "true")
        .start()
        .await;
    save(&daemon, (0..2_000).map(|id| player(id, "good")).collect()).await;
    flush(&daemon).await;
    assert_eq!(database.number("select count(*) from players").await, 2_000);
    let stalled = shop_is(&daemon, "all pending", |shop| shop.pending == 2_000).await;
    assert!(stalled.delivered == 0 && stalled.oldest_accept_time.is_some(), "{stalled:?}");
    let till = SaveRequest { callback: "till".to_owned(), ..request(player(5_000, "good")) };
    daemon.client().await.save(till).await.expect("accepted");
    quick.told_of(1).await;
    assert_eq!(endpoint(&daemon, "shop").await.delivered, 0, "a slow endpoint delays no other");
    slow.conduct(Conduct::Answer(200));
    slow.told_of(2_000).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_left_alone_until_the_next_start() {
    const GONE: &str = "the endpoint answered 410";
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(410)).await;
    let setup = setup(journal.path(), &database, &receiver).expect_in_log(GONE);
    let daemon = setup.start().await;
    save(&daemon, (0..20).map(|id| player(id, "good")).collect()).await;
    let shop = shop_is(&daemon, "all given up", |shop| shop.given_up == 20 && shop.pending == 0).await;
    assert!(shop.disabled, "{shop:?}");
    let tried = receiver.got().len();
    assert!(tried <= 8, "no more than were under way: {tried}");
    save(&daemon, vec![player(30, "good")]).await;
    shop_is(&daemon, "the later one given up too", |shop| shop.given_up == 21).await;
    assert_eq!(receiver.got().len(), tried);
    let metrics = http_get(daemon.http().await, "/metrics").await;
    assert!(metrics.contains("forebay_endpoint_disabled{endpoint=\"shop\"} 1"), "{metrics}");
    let ended = daemon.stop().await;
    assert_eq!(ended.log.iter().filter(|line| line.to_string().contains(GONE)).count(), 1, "it is said once");
    receiver.conduct(Conduct::Answer(200));
    let daemon = setup.start().await;
    let tickets = save(&daemon, vec![player(31, "good")]).await;
    let told = receiver.told_of(1).await;
    assert!(told.len() == 1 && told.contains_key(&format!("save_{}", tickets[0])), "what was given up stays so: {told:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let elsewhere = Receiver::start(Conduct::Answer(200)).await;
    let receiver = Receiver::start(Conduct::Redirect(elsewhere.url())).await;
    let daemon = setup(journal.path(), &database, &receiver).start().await;
    save(&daemon, vec![player(1, "good")]).await;
    receiver.tried(3).await;
    assert!(endpoint(&daemon, "shop").await.last_error.contains("307"));
    receiver.conduct(Conduct::Answer(200));
    receiver.told_of(1).await;
    assert!(elsewhere.got().is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_can_not_be_told_is_given_up_in_time_and_named() {
    const GIVEN_UP: &str = "a callback is given up";
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let setup = setup(journal.path(), &database, &receiver).set("callbacks.give_up", "1 s").expect_in_log(GIVEN_UP);
    let daemon = setup.start().await;
    let tickets = save(&daemon, vec![player(1, "good")]).await;
    let shop = shop_is(&daemon, "given up", |shop| shop.given_up == 1 && shop.pending == 0).await;
    assert!(!shop.disabled && shop.failed_attempts > 0, "{shop:?}");
    daemon.logged_like(GIVEN_UP).await;
    let said = daemon.lines().into_iter().find(|line| line.to_string().contains(GIVEN_UP)).expect("it is said");
    assert_eq!((&said["ticket"], &said["endpoint"]), (&json!(tickets[0]), &json!("shop")));
    let metrics = http_get(daemon.http().await, "/metrics").await;
    assert!(metrics.contains("forebay_callbacks_given_up_total{endpoint=\"shop\",reason=\"too_old\"} 1"), "{metrics}");
    daemon.stop().await;
    let daemon = setup.start().await;
    assert_eq!(endpoint(&daemon, "shop").await.pending, 0, "the ledger has forgotten it");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_callbacks_are_refused_and_saves_without_them_go_on() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Stall).await;
    let setup = setup(journal.path(), &database, &receiver).set("callbacks.pending_max", "3").set("callbacks.timeout", "10 min");
    let daemon = setup.start().await;
    save(&daemon, (0..3).map(|id| player(id, "good")).collect()).await;
    flush(&daemon).await;
    daemon.kill().await;
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    let refused = client.save(told(player(4, "good"), "")).await.expect_err("the limit is met, after the kill too");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("callbacks.pending_max is 3"), "{refused:?}");
    client.save(request(player(4, "good"))).await.expect("it asks for no callback");
    receiver.conduct(Conduct::Answer(200));
    receiver.told_of(3).await;
    let accepted = eventually("room", || async { daemon.client().await.save(told(player(5, "good"), "")).await.ok() }).await;
    let told = receiver.told_of(4).await;
    assert!(told.contains_key(&format!("save_{}", accepted.into_inner().ticket)));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_is_told_to_on_failed_however_little_room_there_is() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let setup = setup(journal.path(), &database, &receiver)
        .set("callbacks.pending_max", "4")
        .set("collections.players.on_failed", "shop")
        .set("failed.closed_kept", "0");
    let daemon = setup.start().await;
    let mut client = daemon.client().await;
    for id in 0..10 {
        client.save(request(player(id, "bad"))).await.expect("accepted");
    }
    flush(&daemon).await;
    shop_is(&daemon, "as many as half of the limit", |shop| shop.pending == 2).await;
    // Overtaken and so closed before anybody is told of them: their rows wait for that.
    client.save_batch(batch((5..10).map(|id| player(id, "good")).collect())).await.expect("accepted");
    flush(&daemon).await;
    assert_eq!(database.number("select count(*) from forebay.failed_save where closed_at is not null").await, 5);
    client.save(told(player(20, "good"), "")).await.expect("saves keep the other half");
    daemon.kill().await;
    let daemon = setup.start().await;
    shop_is(&daemon, "pending again", |shop| shop.pending == 3).await;
    receiver.conduct(Conduct::Answer(200));
    let told = receiver.told_of(11).await;
    let failures: Vec<_> = told.values().filter(|message| message["type"] == "save.failed").collect();
    let mut keys: Vec<_> = failures.iter().map(|message| message["data"]["key"][0].as_str().expect("text")).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(failures.iter().all(|message| message["data"]["failure"]["sqlstate"] == POISON));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_one_by_one_where_there_is_room_for_one() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(200)).await;
    let setup = setup(journal.path(), &database, &receiver).set("callbacks.pending_max", "1").set("collections.players.on_failed", "shop");
    let daemon = setup.start().await;
    daemon.client().await.save_batch(batch((0..3).map(|id| player(id, "bad")).collect())).await.expect("accepted");
    receiver.told_of(3).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn this_host_is_not_called_unless_it_is_allowed() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let (ca_file, tls) = authority(journal.path());
    let receiver = Receiver::start_with(Conduct::Answer(200), Some(tls)).await;
    let setup = setup(&journal.path().join("journal"), &database, &receiver).set("endpoints.shop.allow_loopback", "false");
    let daemon = setup.start().await;
    save(&daemon, vec![player(1, "good")]).await;
    let shop = shop_is(&daemon, "not called", |shop| shop.failed_attempts > 1).await;
    assert!(shop.last_error.contains("a loopback address: allow_loopback is not set"), "{shop:?}");
    daemon.stop().await;
    // Nor one whose certificate nobody vouches for.
    let setup = setup.set("endpoints.shop.allow_loopback", "true");
    let daemon = setup.start().await;
    let shop = shop_is(&daemon, "not trusted", |shop| shop.failed_attempts > 1).await;
    assert!(shop.last_error.contains("TLS: invalid peer certificate"), "{shop:?}");
    assert!(receiver.got().is_empty());
    daemon.stop().await;
    let daemon = setup.set("endpoints.shop.ca_file", &ca_file).start().await;
    receiver.told_of(1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_wait_for_an_endpoint_that_the_settings_lost() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let with = setup(journal.path(), &database, &receiver);
    let mut without = with.clone();
    without.sets.retain(|key, _| !key.starts_with("endpoints."));
    let daemon = with.start().await;
    let tickets = save(&daemon, vec![player(1, "good"), player(2, "bad")]).await;
    flush(&daemon).await;
    daemon.kill().await;
    receiver.conduct(Conduct::Answer(200));
    let daemon = without.start().await;
    let shop = shop_is(&daemon, "tried", |shop| shop.pending == 2 && shop.failed_attempts > 0).await;
    assert!(shop.last_error.contains("the settings have no endpoint of this name"), "{shop:?}");
    let refused = daemon.client().await.save(told(player(3, "good"), "")).await.expect_err("there is no such endpoint");
    assert!(refused.message().contains("the settings have none"), "{refused:?}");
    daemon.stop().await;
    let daemon = with.start().await;
    let states = states(&receiver.told_of(2).await);
    assert_eq!(tickets.iter().map(|ticket| states[ticket].as_str()).collect::<Vec<_>>(), ["PERSISTED", "FAILED"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_told_once_it_is_answered_however_long_the_answers_body_is() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("it is bound"));
    let endless = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1 << 14];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await.expect("written");
            open.push(stream);
        }
    }));
    let receiver = Receiver::start(Conduct::Answer(500)).await;
    let setup = setup(journal.path(), &database, &receiver).set("endpoints.shop.url", &url).set("callbacks.timeout", "500 ms");
    let daemon = setup.start().await;
    save(&daemon, vec![player(1, "good"), player(2, "good")]).await;
    let shop = shop_is(&daemon, "both told", |shop| shop.delivered == 2).await;
    assert_eq!((shop.pending, shop.failed_attempts), (0, 0), "{shop:?}");
    daemon.stop().await;
    drop(endless);
}
