//! What became of a save, told by its ticket: over gRPC and HTTP, over kills and restarts, with and without Postgres.

use std::path::Path;

use forebay::proto::{
    AwaitTicketRequest, DiscardFailedSavesRequest, FailedSaveFilter, FlushRequest, GetTicketRequest, PauseRequest, ResumeRequest,
    RetryFailedSavesRequest, Save, TicketState, TicketStatus,
};
use serde_json::json;
use tonic::{Code, Status};

use crate::support::{
    Daemon, Database, HANG, Setup, directory, eventually, http,
    saves::{batch, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'))";

fn player(id: u64, name: &str) -> Save {
    set("players", &[&id.to_string()], json!({"name": name}))
}

fn setup(journal: &Path, url: &str) -> Setup {
    Setup::new(journal, url).expect_in_log("23514").expect_in_log("postgres")
}

async fn save(daemon: &Daemon, saves: Vec<Save>) -> Vec<String> {
    let results = daemon.client().await.save_batch(batch(saves)).await.expect("accepted").into_inner().results;
    results.into_iter().map(|result| result.ticket).collect()
}

async fn pause(daemon: &Daemon) {
    daemon.admin().await.pause(PauseRequest { reason: "a test".to_owned(), ..PauseRequest::default() }).await.expect("paused");
}

async fn resume(daemon: &Daemon) {
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
    flush(daemon).await;
}

async fn flush(daemon: &Daemon) {
    eventually("everything is drained", || async { daemon.client().await.flush(FlushRequest::default()).await.ok() }).await;
}

async fn ask(daemon: &Daemon, ticket: &str) -> Result<TicketStatus, Status> {
    let response = daemon.client().await.get_ticket(GetTicketRequest { ticket: ticket.to_owned() }).await?;
    Ok(response.into_inner().status.expect("a status"))
}

/// The status over gRPC; HTTP says the same state.
async fn status(daemon: &Daemon, ticket: &str) -> TicketStatus {
    let status = ask(daemon, ticket).await.expect("it is told");
    let (code, body) = http(daemon.http().await, &format!("/v1/tickets/{ticket}")).await;
    let name = status.state().as_str_name().strip_prefix("TICKET_STATE_").expect("every state has the prefix");
    assert_eq!((code, body), (200, format!("{{\"state\":\"{name}\"}}\n")));
    status
}

async fn states(daemon: &Daemon, tickets: &[String]) -> Vec<TicketState> {
    let mut states = Vec::new();
    for ticket in tickets {
        states.push(status(daemon, ticket).await.state());
    }
    states
}

async fn assert_failed(daemon: &Daemon, ticket: &str) {
    let failed = status(daemon, ticket).await;
    assert_eq!(failed.state(), TicketState::Failed);
    let failure = failed.failure.expect("a reason");
    assert_eq!((failure.sqlstate.as_str(), failure.constraint.as_str()), ("23514", "no_bad"));
    assert!(failure.message.contains("no_bad") && !failure.message.contains("bad'"), "without row data: {}", failure.message);
    assert!(failed.outcome_time.is_some());
}

async fn awaited(daemon: &Daemon, ticket: &str) -> TicketState {
    let mut request = tonic::Request::new(AwaitTicketRequest { ticket: ticket.to_owned() });
    request.set_timeout(HANG);
    daemon.client().await.await_ticket(request).await.expect("it is told").into_inner().status.expect("a status").state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_goes_from_pending_to_its_outcome_also_when_the_daemon_is_killed_in_between() {
    use TicketState::{Failed, Pending, Persisted};
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url());
    let daemon = setup.start().await;
    let before = save(&daemon, vec![player(1, "a")]).await;
    assert_eq!(awaited(&daemon, &before[0]).await, Persisted);
    let told = status(&daemon, &before[0]).await;
    assert!(told.outcome_time.is_some() && told.failure.is_none() && told.saves_ahead == 0, "{told:?}");
    pause(&daemon).await;
    // The last two are one object, folded.
    let tickets = save(&daemon, vec![player(2, "b"), player(3, "bad"), player(4, "c"), player(4, "d")]).await;
    assert_eq!(states(&daemon, &tickets).await, [Pending; 4]);
    let pending = status(&daemon, &tickets[1]).await;
    assert_eq!((pending.saves_ahead, pending.estimated_wait), (4, None), "a paused lane writes nothing");
    daemon.kill().await;

    let daemon = setup.start().await;
    assert_eq!(awaited(&daemon, &tickets[3]).await, Persisted);
    assert_eq!(states(&daemon, &tickets).await, [Persisted, Failed, Persisted, Persisted]);
    assert_failed(&daemon, &tickets[1]).await;
    daemon.kill().await;

    let daemon = setup.start().await;
    assert_eq!(awaited(&daemon, &before[0]).await, Persisted);
    assert_eq!(states(&daemon, &tickets).await, [Persisted, Failed, Persisted, Persisted]);
    assert_failed(&daemon, &tickets[1]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_and_a_retried_save_say_so_across_restarts_for_the_horizon() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url()).set("failed.closed_kept", "2");
    let daemon = setup.start().await;
    let tickets = save(&daemon, (1..=3).map(|id| player(id, "bad")).collect()).await;
    flush(&daemon).await;
    let named = |ticket: &String| Some(FailedSaveFilter { tickets: vec![ticket.clone()], ..FailedSaveFilter::default() });
    let discard = |ticket| DiscardFailedSavesRequest { filter: named(ticket), reason: "a test".to_owned(), ..Default::default() };
    daemon.admin().await.discard_failed_saves(discard(&tickets[0])).await.expect("discarded");
    assert_eq!(status(&daemon, &tickets[0]).await.state(), TicketState::Discarded);
    database.execute("alter table players drop constraint no_bad").await;
    let retry = RetryFailedSavesRequest { filter: named(&tickets[1]), ..RetryFailedSavesRequest::default() };
    let retried = daemon.admin().await.retry_failed_saves(retry).await.expect("retried").into_inner().results;
    assert_eq!(awaited(&daemon, &retried[0].retry_ticket).await, TicketState::Persisted);
    assert_told(&daemon, &tickets, &retried[0].retry_ticket).await;
    daemon.kill().await;
    let daemon = setup.start().await;
    flush(&daemon).await;
    assert_told(&daemon, &tickets, &retried[0].retry_ticket).await;
    // One more than are kept.
    daemon.admin().await.discard_failed_saves(discard(&tickets[2])).await.expect("discarded");
    let told = async || ask(&daemon, &tickets[0]).await.expect("it is told").state();
    eventually("the oldest is forgotten", || async { (told().await == TicketState::Unknown).then_some(()) }).await;
    assert_eq!(states(&daemon, &tickets[1..]).await, [TicketState::Failed, TicketState::Discarded]);
    daemon.stop().await;
    let daemon = setup.start().await;
    flush(&daemon).await;
    assert_eq!(states(&daemon, &tickets).await, [TicketState::Unknown, TicketState::Failed, TicketState::Discarded]);
    daemon.stop().await;
}

/// The first was discarded, the second retried.
async fn assert_told(daemon: &Daemon, tickets: &[String], retry: &str) {
    let (discarded, retried) = (status(daemon, &tickets[0]).await, status(daemon, &tickets[1]).await);
    assert_eq!((discarded.state(), retried.state()), (TicketState::Discarded, TicketState::Failed));
    assert_eq!(retried.retry_ticket, retry);
    for told in [discarded, retried] {
        assert_eq!(told.failure.expect("a reason").sqlstate, "23514");
        assert!(told.accept_time.is_some() && told.outcome_time.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_guessed_while_postgres_has_not_been_asked() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url());
    let daemon = setup.start().await;
    let before = save(&daemon, vec![player(1, "a"), player(2, "bad")]).await;
    flush(&daemon).await;
    daemon.stop().await;
    database.stop_postgres();
    let daemon = setup.start().await;
    for ticket in &before {
        assert_eq!(ask(&daemon, ticket).await.expect_err("it can't be told").code(), Code::Unavailable);
        assert_eq!(http(daemon.http().await, &format!("/v1/tickets/{ticket}")).await.0, 503);
    }
    let since = save(&daemon, vec![player(3, "c")]).await;
    assert_eq!(states(&daemon, &since).await, [TicketState::Pending]);
    database.start_postgres();
    assert_eq!(awaited(&daemon, &since[0]).await, TicketState::Persisted);
    assert_eq!(awaited(&daemon, &before[0]).await, TicketState::Persisted);
    assert_failed(&daemon, &before[1]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_caller_ends_the_window_and_one_with_a_deadline_is_told_that_it_is_pending() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).set("lanes.default.window", "1 h").start().await;
    let tickets = save(&daemon, vec![player(1, "a")]).await;
    assert_eq!(status(&daemon, &tickets[0]).await.state(), TicketState::Pending);
    assert_eq!(awaited(&daemon, &tickets[0]).await, TicketState::Persisted);
    pause(&daemon).await;
    let tickets = save(&daemon, vec![player(2, "a")]).await;
    let mut request = tonic::Request::new(AwaitTicketRequest { ticket: tickets[0].clone() });
    // For the server only: tonic's client would give up by its own clock.
    request.metadata_mut().insert("grpc-timeout", "300m".parse().expect("ASCII"));
    let answer = daemon.client().await.await_ticket(request).await;
    match answer {
        Ok(answer) => assert_eq!(answer.into_inner().status.expect("a status").state(), TicketState::Pending),
        Err(status) => panic!("{status:?}"),
    }
    resume(&daemon).await;
    assert_eq!(states(&daemon, &tickets).await, [TicketState::Persisted]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_cannot_be_walked_and_those_of_another_journal_are_unknown() {
    let (database, journal, other) = (Database::with(SCHEMA).await, directory(), directory());
    let daemon = setup(other.path(), &database.url()).start().await;
    let foreign = save(&daemon, vec![player(1, "a")]).await;
    daemon.stop().await;
    let daemon = setup(journal.path(), &database.url()).start().await;
    let tickets = save(&daemon, vec![player(1, "a"), player(2, "a")]).await;
    assert!(tickets[0] < tickets[1], "they sort as their saves were accepted");
    assert_eq!(states(&daemon, &foreign).await, [TicketState::Unknown]);
    // The number of one with the signature of the other.
    let forged = format!("{}{}", &tickets[1][..16], &tickets[0][16..]);
    for text in [forged.as_str(), "42"] {
        assert_eq!(ask(&daemon, text).await.expect_err("it is none").code(), Code::InvalidArgument);
        assert_eq!(http(daemon.http().await, &format!("/v1/tickets/{text}")).await.0, 404);
    }
    daemon.stop().await;
}
