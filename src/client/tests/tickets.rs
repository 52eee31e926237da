//! What became of saves, told by ticket or by the answer itself.

use super::*;
use crate::proto;

fn persisted() -> SaveOptions {
    SaveOptions { durability: Durability::Persisted, ..SaveOptions::default() }
}

fn pending() -> proto::TicketStatus {
    proto::TicketStatus {
        state: proto::TicketState::Pending.into(),
        accept_time: Some(prost_types::Timestamp { seconds: 1_000, nanos: 5 }),
        saves_ahead: 3,
        estimated_wait: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..Default::default()
    }
}

fn failed() -> proto::TicketStatus {
    proto::TicketStatus {
        state: proto::TicketState::Failed.into(),
        failure: Some(proto::Failure { sqlstate: "23503".to_owned(), constraint: "guild".to_owned(), message: "none".to_owned() }),
        outcome_time: Some(prost_types::Timestamp { seconds: 2_000, nanos: 0 }),
        retry_ticket: "ticket-9".to_owned(),
        superseded: true,
        ..Default::default()
    }
}

#[test]
fn tickets_sort_as_their_text() {
    let mut tickets = ["00b-x", "00a-x", "00a-w"].map(|text| text.parse::<Ticket>().expect("infallible"));
    tickets.sort();
    assert_eq!(tickets.map(|ticket| ticket.to_string()), ["00a-w", "00a-x", "00b-x"]);
    assert_eq!(Ticket::from("00a-x".to_owned()).as_str(), "00a-x");
}

#[tokio::test]
async fn a_ticket_tells_all_that_is_known() {
    let fake = Fake::start().await;
    let client = client(fake.address).await;
    let ticket = client.save(player(1)).await.expect("accepted");
    assert_eq!(client.ticket(&ticket).await.expect("told").state, TicketState::Unknown);
    fake.state().tickets.insert(ticket.to_string(), pending());
    let status = client.ticket(&ticket).await.expect("told");
    let expected = TicketStatus {
        state: TicketState::Pending,
        failure: None,
        accept_time: Some(SystemTime::UNIX_EPOCH + Duration::new(1_000, 5)),
        outcome_time: None,
        retry_ticket: None,
        superseded: false,
        saves_ahead: 3,
        estimated_wait: Some(Duration::from_secs(2)),
    };
    assert_eq!(status, expected);
    fake.state().tickets.insert(ticket.to_string(), failed());
    let status = client.ticket(&ticket).await.expect("told");
    let failure = Failure { sqlstate: "23503".to_owned(), constraint: "guild".to_owned(), message: "none".to_owned() };
    assert_eq!((status.state, status.failure, status.superseded), (TicketState::Failed, Some(failure), true));
    assert_eq!(status.outcome_time, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000)));
    assert_eq!(status.retry_ticket, Some(Ticket::from("ticket-9".to_owned())));
    assert!(fake.state().deadlines.iter().all(|&deadline| deadline));
}

#[tokio::test]
async fn an_outcome_is_awaited_over_a_restart() {
    let fake = Fake::start().await;
    let wire = Wire::to(fake.address).await;
    let client = client(wire.address).await;
    let ticket = client.save(player(1)).await.expect("accepted");
    fake.state().tickets.insert(ticket.to_string(), pending());
    let waiting = tokio::spawn(async move { client.await_ticket(&ticket, Duration::from_secs(60)).await });
    while fake.state().await_calls < 1 {
        tokio::task::yield_now().await;
    }
    let fake = fake.restart_behind(&wire).await;
    fake.state().tickets.insert("ticket-1".to_owned(), failed());
    let status = waiting.await.expect("no panic").expect("told");
    assert_eq!(status.state, TicketState::Failed);
    assert!(fake.state().await_calls >= 2);
}

#[tokio::test]
async fn a_wait_ends_pending_when_its_time_is_over() {
    let fake = Fake::start().await;
    fake.state().tickets.insert("ticket-1".to_owned(), pending());
    let ticket = Ticket::from("ticket-1".to_owned());
    let status = client(fake.address).await.await_ticket(&ticket, 300 * MS).await.expect("told");
    assert_eq!((status.state, status.saves_ahead), (TicketState::Pending, 3));
    assert!(fake.state().await_calls >= 2, "what the daemon answers too early is asked again");
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_asked_for_once_more() {
    let fake = Fake::start().await;
    fake.state().mute = true;
    fake.state().tickets.insert("ticket-1".to_owned(), pending());
    let client = client(fake.address).await;
    let status = client.await_ticket(&Ticket::from("ticket-1".to_owned()), 100 * MS).await.expect("told");
    assert_eq!(status.state, TicketState::Pending);
    fake.state().errors = VecDeque::from_iter((0..100).map(|_| error(Code::Unavailable, "POSTGRES_UNAVAILABLE", None)));
    let error = client.await_ticket(&Ticket::from("ticket-1".to_owned()), 100 * MS).await.expect_err("nothing is told");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_save_to_be_persisted_is_answered_with_its_outcome() {
    let fake = Fake::start().await;
    fake.state().failing_keys = vec!["2".to_owned()];
    let client = client(fake.address).await;
    let saved = client.save_with(player(1), persisted()).await.expect("persisted");
    assert_eq!((saved.ticket.as_str(), saved.state), ("ticket-1", TicketState::Persisted));
    let error = client.save_with(player(2), persisted()).await.expect_err("it fails");
    let Error::Failed(failed) = error else { panic!("{error}") };
    let failure = (failed.failure.sqlstate.as_str(), failed.failure.constraint.as_str());
    assert_eq!((failed.ticket.as_str(), failure), ("ticket-2", ("23514", "players_level_check")));
    assert_eq!(fake.state().unary_calls, 2, "what failed is final");
    let saved = client.save_batch_with([player(1), player(2)], persisted()).await.expect("accepted");
    let told: Vec<_> = saved.iter().map(|saved| (saved.state, saved.failure.is_some())).collect();
    assert_eq!(told, [(TicketState::Persisted, false), (TicketState::Failed, true)]);
    assert_eq!(client.save_with(player(2), SaveOptions::default()).await.expect("accepted").state, TicketState::Pending);
}
