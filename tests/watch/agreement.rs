//! HTTP polls, awaits, GetTicket and a watcher tell the same of the same saves.

use std::collections::BTreeMap;

use fastrand::Rng;
use forebay::proto::{
    AwaitTicketRequest, Failure, GetTicketRequest, Save, SaveBatchRequest, TicketState, save_service_client::SaveServiceClient,
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tonic::transport::Channel;

use super::{setup, two_lanes};
use crate::support::{
    Daemon, Database, directory, http,
    saves::{batch, delete, set},
    seed,
    watcher::Watcher,
};

const SCHEMA: &str = "
    create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'), level int);
    create table items (id bigint primary key, owner bigint references players, count int check (count < 1000));
    create table events (id bigint generated always as identity primary key, what text check (what <> 'bad'));
    create table scores (id bigint primary key, points int constraint points check (points >= 0));
";
const SAVES: usize = 10_000;
const OBJECTS: u64 = 300;
/// One in so many saves is one that Postgres may not take.
const BAD: u64 = 100;
/// Calls at once: fewer than a connection may have open.
const AT_ONCE: usize = 100;

/// A state, and why if it failed.
type Told = (TicketState, Option<Failure>);

fn save(rng: &mut Rng, lane: u64) -> Save {
    let (id, bad) = (rng.u64(0..OBJECTS).to_string(), rng.u64(0..BAD) == 0);
    let name = if bad { "bad" } else { "good" };
    match (lane, rng.u32(0..8)) {
        (1, 0) => delete("scores", &[&id]),
        (1, _) => set("scores", &[&id], json!({"points": if bad { -1 } else { 7 }})),
        (_, 0) => delete("items", &[&id]),
        (_, 1) => set("events", &[], json!({"what": name})),
        (_, 2) => set("items", &[&id], json!({"owner": bad.then_some(-1), "count": 1})),
        (_, 3) => Save { add: vec!["count".to_owned()], ..set("items", &[&id], json!({"count": if bad { 2_000 } else { 1 }})) },
        (_, 4) => Save { add: vec!["level".to_owned()], ..set("players", &[&id], json!({"level": 1})) },
        _ => set("players", &[&id], json!({"name": name})),
    }
}

/// Batches of one lane or both, some of them atomic; the tickets, in order.
async fn save_all(mut client: SaveServiceClient<Channel>, rng: &mut Rng) -> Vec<String> {
    let mut tickets = Vec::new();
    while tickets.len() < SAVES {
        let (size, atomic, lane) = (rng.usize(1..60), rng.u32(0..8) == 0, rng.u64(0..2));
        let size = if atomic { size.min(5) } else { size.min(SAVES - tickets.len()) };
        let saves = (0..size).map(|_| {
            let lane = if atomic { lane } else { rng.u64(0..2) };
            save(rng, lane)
        });
        let request = SaveBatchRequest { atomic, ..batch(saves.collect()) };
        let results = client.save_batch(request).await.expect("accepted").into_inner().results;
        tickets.extend(results.into_iter().map(|result| result.ticket));
    }
    tickets
}

/// What one way tells of every ticket.
async fn ask<F: Future<Output = Told>>(tickets: &[String], way: impl Fn(String) -> F) -> BTreeMap<String, Told> {
    let asked = stream::iter(tickets.to_vec()).map(|ticket| {
        let told = way(ticket.clone());
        async move { (ticket, told.await) }
    });
    asked.buffer_unordered(AT_ONCE).collect().await
}

async fn awaited(client: &SaveServiceClient<Channel>, ticket: String) -> Told {
    let status = client.clone().await_ticket(AwaitTicketRequest { ticket }).await.expect("told").into_inner().status.expect("a status");
    (status.state(), status.failure)
}

async fn got(client: &SaveServiceClient<Channel>, ticket: String) -> Told {
    let status = client.clone().get_ticket(GetTicketRequest { ticket }).await.expect("told").into_inner().status.expect("a status");
    (status.state(), status.failure)
}

/// Over HTTP, asked until it is final.
async fn polled(daemon: &Daemon, ticket: String) -> TicketState {
    let address = daemon.http().await;
    loop {
        let (code, body) = http(address, &format!("/v1/tickets/{ticket}")).await;
        let told: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{code}: {body}"));
        let name = told["state"].as_str().expect("a state");
        match TicketState::from_str_name(&format!("TICKET_STATE_{name}")).expect("one of the contract") {
            TicketState::Pending => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            state => return state,
        }
    }
}

/// By the watcher: what it was told to have failed has, all else up to its watermark has not.
fn watched(watcher: &Watcher, tickets: &[String]) -> BTreeMap<String, Told> {
    let told = |ticket: &String| match watcher.failed.get(ticket) {
        Some(failed) => (TicketState::Failed, failed.failure.clone()),
        None => (TicketState::Persisted, None),
    };
    tickets.iter().map(|ticket| (ticket.clone(), told(ticket))).collect()
}

fn states(told: &BTreeMap<String, Told>) -> BTreeMap<String, TicketState> {
    told.iter().map(|(ticket, (state, _))| (ticket.clone(), *state)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_polls_awaits_and_a_watcher_give_the_same_outcomes_for_ten_thousand_mixed_saves() {
    let mut rng = Rng::with_seed(seed("agreement"));
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = two_lanes(setup(journal.path(), &database.url())).set("collections.events.mode", "append");
    let daemon = setup.expect_in_log("23503").expect_in_log("failed").start().await;
    let client = daemon.client().await;
    let mut watcher = Watcher::start(&daemon, "").await;
    let tickets = save_all(client.clone(), &mut rng).await;
    let last = tickets.last().expect("many").clone();
    let (heard, awaited, polled) = tokio::join!(
        watcher.through(&last),
        ask(&tickets, |ticket| awaited(&client, ticket)),
        ask(&tickets, |ticket| async { (polled(&daemon, ticket).await, None) }),
    );
    heard.expect("told");
    let got = ask(&tickets, |ticket| got(&client, ticket)).await;
    let watched = watched(&watcher, &tickets);
    assert_eq!(watched, awaited, "with the reasons");
    assert_eq!(watched, got, "with the reasons");
    assert_eq!(states(&watched), states(&polled));
    let failed = watcher.failed.len() as u64;
    assert!(failed > 20 && watcher.failed.keys().all(|ticket| watched.contains_key(ticket)), "{failed} failed");
    assert_eq!(database.number("select count(*) from forebay.failed_save").await, failed);
    println!("agreement: {} saves, {failed} failed, told alike by HTTP, AwaitTicket, GetTicket and a watcher", tickets.len());
    daemon.stop().await;
}
