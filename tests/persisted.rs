//! Durability PERSISTED: a call that is answered once Postgres has said what became of its saves.

use std::time::Duration;

use forebay::proto::{
    AwaitTicketRequest, Durability, GetTicketRequest, Save, SaveBatchRequest, SaveRequest, SaveResponse, SaveResult, SaveStreamRequest,
    SaveStreamResponse, StreamAcknowledged, TicketState, TicketStatus, save_stream_response::Event,
};
use serde_json::json;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::{
    Daemon, Database, Setup, directory, eventually, http_get,
    lanes::{lane, pause, resume},
    saves::{batch, delete, request, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'), level int);
     create table events (id bigint generated always as identity primary key, what text check (what <> 'bad'))";
const NAMES: &str = "select coalesce(string_agg(id || name || coalesce(level::text, ''), ' ' order by id), '') from players";
const STREAM: &str = "0189d0a2-7c1e-7cc3-98c4-dc0c0c07398f";

/// What nobody waits for is not written.
fn setup(journal: &std::path::Path, database: &Database) -> Setup {
    Setup::new(journal, &database.url()).set("collections.events.mode", "append").set("lanes.default.window", "1 h")
}

fn player(id: u64, name: &str) -> Save {
    set("players", &[&id.to_string()], json!({"name": name}))
}

fn event(what: &str) -> Save {
    set("events", &[], json!({"what": what}))
}

fn persisted(save: Save) -> SaveRequest {
    SaveRequest { durability: Durability::Persisted.into(), ..request(save) }
}

fn named(save: Save, id: &str) -> SaveRequest {
    SaveRequest { request_id: id.to_owned(), ..persisted(save) }
}

fn batch_persisted(saves: Vec<Save>, atomic: bool) -> SaveBatchRequest {
    SaveBatchRequest { durability: Durability::Persisted.into(), atomic, ..batch(saves) }
}

fn stream(saves: Vec<Save>) -> SaveStreamRequest {
    let durability = Durability::Persisted.into();
    SaveStreamRequest { stream_id: STREAM.to_owned(), offset: 1, saves, durability, ..SaveStreamRequest::default() }
}

async fn save(daemon: &Daemon, request: SaveRequest) -> Result<SaveResponse, Status> {
    Ok(daemon.client().await.save(request).await?.into_inner())
}

/// The answer at the deadline. One that comes too late for the client's own clock is asked for again.
async fn at_deadline(daemon: &Daemon, request: &SaveRequest) -> SaveResponse {
    eventually("a call is answered at its deadline", || async {
        let mut timed = Request::new(request.clone());
        timed.set_timeout(Duration::from_millis(300));
        daemon.client().await.save(timed).await.ok()
    })
    .await
    .into_inner()
}

async fn outcome(daemon: &Daemon, ticket: &str) -> TicketStatus {
    let asked = AwaitTicketRequest { ticket: ticket.to_owned() };
    daemon.client().await.await_ticket(asked).await.expect("it is told").into_inner().status.expect("a status")
}

/// Opens the stream and leaves it open.
async fn open(daemon: &Daemon, first: SaveStreamRequest) -> (tokio::sync::mpsc::Sender<SaveStreamRequest>, Streaming<SaveStreamResponse>) {
    let (tell, requests) = tokio::sync::mpsc::channel(1);
    tell.send(first).await.expect("there is room");
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    (tell, daemon.client().await.save_stream(requests).await.expect("the stream opens").into_inner())
}

/// What the stream tells up to its end.
async fn events(mut answers: Streaming<SaveStreamResponse>) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(answer) = answers.message().await.expect("the stream goes on") {
        events.extend(answer.event);
    }
    events
}

/// Waits until so many saves are accepted and not written, and no call is in flight that has not been accepted.
async fn accepted(daemon: &Daemon, saves: u64) {
    eventually("so many saves are accepted", || async {
        let metrics = http_get(daemon.http().await, "/metrics").await;
        let in_flight = !metrics.contains("forebay_limit_used{name=\"grpc.calls_in_flight_max\",kind=\"amount\"} 0\n");
        (!in_flight && lane(daemon, "default").await.backlog_saves == saves).then_some(())
    })
    .await;
}

async fn names(database: &Database) -> String {
    database.rows(NAMES).await[0][0].clone().expect("text")
}

fn states(results: &[SaveResult]) -> Vec<TicketState> {
    results.iter().map(SaveResult::state).collect()
}

/// Each is in Postgres when it is answered, although the window would keep it for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_save_is_in_postgres_when_it_is_answered() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    let adding = Save { add: vec!["level".to_owned()], ..set("players", &["1"], json!({"level": 5})) };
    for (request, expected) in [
        (persisted(player(1, "a")), "1a"),
        (named(adding, "b"), "1a5"),
        (persisted(player(2, "c")), "1a5 2c"),
        (persisted(delete("players", &["2"])), "1a5"),
        (named(event("d"), "d"), "1a5"),
    ] {
        let answer = save(&daemon, request).await.expect("persisted");
        assert_eq!((answer.state(), &*names(&database).await), (TicketState::Persisted, expected));
    }
    assert_eq!(database.number("select count(*) from events").await, 1);
    let mut client = daemon.client().await;
    for (atomic, id) in [(false, 3), (true, 4)] {
        let saves = vec![player(id, "e"), player(id, "f")];
        let results = client.save_batch(batch_persisted(saves, atomic)).await.expect("accepted").into_inner().results;
        assert_eq!(states(&results), [TicketState::Persisted; 2]);
        assert_eq!(database.number(&format!("select count(*) from players where id = {id} and name = 'f'")).await, 1);
    }
    let saves = (10..=500).map(|id| player(id, "g")).chain([event("h")]).collect();
    let (tell, mut answers) = open(&daemon, stream(saves)).await;
    let mut through = 0;
    while through < 492 {
        let answer = answers.message().await.expect("the stream goes on").expect("the stream goes on");
        if let Some(Event::Acknowledged(acknowledged)) = answer.event {
            through = acknowledged.through;
            let written = format!("select count(*) from players where id between 10 and {}", 9 + through.min(491));
            assert_eq!(database.number(&written).await, through.min(491));
        }
    }
    assert_eq!(database.number("select count(*) from events").await, 2);
    drop(tell);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_would_not_take_is_told_with_its_ticket_and_the_reason() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).expect_in_log("23514").start().await;
    let mut client = daemon.client().await;
    let status = save(&daemon, persisted(player(1, "bad"))).await.expect_err("it failed");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!((status.code(), &*info.reason), (Code::FailedPrecondition, "SAVE_FAILED"), "{status:?}");
    assert_eq!((&*info.metadata["sqlstate"], &*info.metadata["constraint"]), ("23514", "no_bad"));
    let asked = GetTicketRequest { ticket: info.metadata["ticket"].clone() };
    let told = client.get_ticket(asked).await.expect("told").into_inner().status.expect("a status");
    assert_eq!((told.state(), told.failure.expect("why").message.as_str()), (TicketState::Failed, status.message()));

    let saves = || vec![player(2, "a"), player(3, "bad"), player(4, "b")];
    for (atomic, expected) in
        [(false, [TicketState::Persisted, TicketState::Failed, TicketState::Persisted]), (true, [TicketState::Failed; 3])]
    {
        let results = client.save_batch(batch_persisted(saves(), atomic)).await.expect("accepted").into_inner().results;
        assert_eq!(states(&results), expected, "atomic: {atomic}");
        assert_eq!(results[1].failure.clone().expect("why").constraint, "no_bad");
    }
    assert_eq!(names(&database).await, "2a 4b");

    let (tell, answers) = open(&daemon, stream(vec![player(5, "c"), event("bad"), player(6, "d")])).await;
    drop(tell);
    let events = events(answers).await;
    let failed = events.iter().position(|event| matches!(event, Event::Failed(failed) if failed.offset == 2)).expect("told");
    let covers = |event: &Event| matches!(event, Event::Acknowledged(StreamAcknowledged { through, .. }) if *through >= 2);
    assert!(events.iter().position(covers).expect("acknowledged") > failed, "{events:?}");
    assert_eq!(names(&database).await, "2a 4b 5c 6d");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_lane_is_paused_or_postgres_away_a_save_is_pending_at_the_deadline_and_not_lost() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).set("drain.retry_wait_max", "200 ms").expect_in_log("postgres").start().await;
    pause(&daemon).await;
    let request = named(event("a"), "a");
    let answer = at_deadline(&daemon, &request).await;
    assert_eq!(answer.state(), TicketState::Pending);
    resume(&daemon).await;
    assert_eq!(outcome(&daemon, &answer.ticket).await.state(), TicketState::Persisted);
    let repeated = save(&daemon, request).await.expect("persisted");
    assert_eq!((repeated.state(), repeated.deduplicated, repeated.ticket), (TicketState::Persisted, true, answer.ticket));

    database.stop_postgres();
    let request = named(event("b"), "b");
    let answer = at_deadline(&daemon, &request).await;
    assert_eq!(answer.state(), TicketState::Pending);
    database.start_postgres();
    let repeated = save(&daemon, request).await.expect("persisted");
    assert_eq!((repeated.state(), repeated.deduplicated, repeated.ticket), (TicketState::Persisted, true, answer.ticket));
    assert_eq!(database.number("select count(*) from events").await, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_have_a_limit_of_their_own() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).set("grpc.awaiting_calls_max", "1").set("grpc.calls_in_flight_max", "1").start().await;
    pause(&daemon).await;
    let mut client = daemon.client().await;
    let waiting = tokio::spawn(async move { client.save(persisted(player(1, "a"))).await });
    accepted(&daemon, 1).await;
    let status = save(&daemon, persisted(player(2, "b"))).await.expect_err("it is refused");
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").metadata["limit"], "grpc.awaiting_calls_max");
    save(&daemon, request(player(3, "c"))).await.expect("who waits takes no room from saves");
    resume(&daemon).await;
    let answer = waiting.await.expect("no panic").expect("persisted").into_inner();
    assert_eq!((answer.state(), &*names(&database).await), (TicketState::Persisted, "1a 3c"));
    daemon.stop().await;
}

/// Nobody is told anything before the kill; afterwards a repeated call and a resumed stream learn what became of what they had sent,
/// and nothing counts twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waited_when_the_daemon_was_killed_learns_the_outcome_by_asking_again() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database).expect_in_log("23514").expect_in_log("torn");
    let daemon = setup.start().await;
    pause(&daemon).await;
    let mut client = daemon.client().await;
    let waiting = tokio::spawn(async move { client.save(named(event("a"), "a")).await });
    accepted(&daemon, 1).await;
    let saves = || vec![event("b"), event("bad"), event("c")];
    let (_tell, mut answers) = open(&daemon, stream(saves())).await;
    assert!(matches!(answers.message().await.expect("it opens").expect("it opens").event, Some(Event::Opened(opened)) if !opened.known));
    accepted(&daemon, 4).await;
    daemon.kill().await;
    waiting.await.expect("no panic").expect_err("its daemon is gone");
    answers.message().await.expect_err("its daemon is gone");

    let daemon = setup.start().await;
    let answer = save(&daemon, named(event("a"), "a")).await.expect("persisted");
    assert_eq!((answer.state(), answer.deduplicated), (TicketState::Persisted, true));
    let (tell, answers) = open(&daemon, stream(saves())).await;
    drop(tell);
    let events = events(answers).await;
    assert!(matches!(&events[0], Event::Opened(opened) if opened.known && opened.acknowledged_through == 3), "{events:?}");
    let failed: Vec<_> = events.iter().filter_map(|event| if let Event::Failed(failed) = event { Some(failed) } else { None }).collect();
    assert_eq!((failed.len(), failed[0].offset, &*failed[0].failure.as_ref().expect("why").sqlstate), (1, 2, "23514"));
    assert_eq!(outcome(&daemon, &failed[0].ticket).await.state(), TicketState::Failed);
    assert!(matches!(events.last(), Some(Event::Acknowledged(acknowledged)) if acknowledged.through == 3), "{events:?}");
    let rows = database.rows("select string_agg(what, ' ' order by id) from events").await;
    assert_eq!(rows[0][0].as_deref(), Some("a b c"));
    daemon.stop().await;
}
