use std::time::Duration;

use tonic::Code;

use super::harness::*;
use crate::{
    outcomes::{Reason, State, Ticket, TicketStatus, Untold},
    proto::*,
    save::{LaneId, Sequence},
};

/// The ticket of a save that the fake journal numbers so.
fn ticket(sequence: u64) -> String {
    tickets().show(Ticket { sequence: Sequence::from_u64(sequence), lane: LaneId(0) })
}

fn named(ticket: &str) -> GetTicketRequest {
    GetTicketRequest { ticket: ticket.to_owned() }
}

async fn state(door: &Harness, ticket: &str) -> TicketState {
    let response = soon(door.saves().await.get_ticket(named(ticket))).await.expect("it is told").into_inner();
    response.status.expect("a status").state()
}

#[tokio::test]
async fn a_ticket_tells_what_is_known_of_its_save() {
    let door = start().await;
    let reason = Reason { sqlstate: Some("23505".to_owned()), constraint: Some("players_name".to_owned()), message: "twice".to_owned() };
    let retry = Some(Ticket { sequence: Sequence::from_u64(9), lane: LaneId(0) });
    door.daemon.settle(3, Ok(TicketStatus { reason: Some(reason), retry, ..TicketStatus::of(State::Failed) }));
    let failed = soon(door.saves().await.get_ticket(named(&ticket(3)))).await.expect("it is told").into_inner().status.expect("a status");
    let failure = failed.failure.as_ref().expect("a reason");
    assert_eq!((failed.state(), failure.sqlstate.as_str(), failure.constraint.as_str()), (TicketState::Failed, "23505", "players_name"));
    assert_eq!(sequence(&failed.retry_ticket), 9);
    for (number, known, shown) in [
        (4, State::Persisted, TicketState::Persisted),
        (5, State::Discarded, TicketState::Discarded),
        (6, State::Unknown, TicketState::Unknown),
    ] {
        door.daemon.settle(number, Ok(TicketStatus::of(known)));
        assert_eq!(state(&door, &ticket(number)).await, shown);
    }
    assert_eq!(state(&door, &ticket(7)).await, TicketState::Pending);
    assert_eq!(state(&door, "00000000000000ff-00000000010000000000000001").await, TicketState::Unknown, "another journal's");
    assert_eq!(door.limits.calls_in_flight.used(), 0);
}

#[tokio::test]
async fn what_this_daemon_has_not_signed_is_no_ticket() {
    let door = start().await;
    let mut forged = ticket(3).into_bytes();
    forged[15] = b'4';
    for text in ["", "42", std::str::from_utf8(&forged).expect("ASCII")] {
        let status = soon(door.saves().await.get_ticket(named(text))).await.expect_err("it is refused");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
        let waits = AwaitTicketRequest { ticket: text.to_owned() };
        let status = soon(door.saves().await.await_ticket(waits)).await.expect_err("it is refused");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_unavailable_and_says_when_to_ask_again() {
    let door = start().await;
    for why in [Untold::NotAsked, Untold::Unavailable("it is away".to_owned())] {
        door.daemon.settle(3, Err(why));
        let status = soon(door.saves().await.get_ticket(named(&ticket(3)))).await.expect_err("it can't be told");
        assert_error(&status, Code::Unavailable, "POSTGRES_UNAVAILABLE");
        assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    }
}

#[tokio::test]
async fn an_await_returns_with_the_outcome_or_at_its_deadline_without() {
    let door = start().await;
    let waits = AwaitTicketRequest { ticket: ticket(3) };
    let (mut client, request) = (door.saves().await, waits.clone());
    let awaited = tokio::spawn(async move { client.await_ticket(request).await });
    soon(async {
        while door.daemon.waiters.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(door.limits.awaiting_calls.used(), 1, "it takes no room from saves");
    // Woken without an outcome (Postgres went back in time), it goes on waiting.
    door.daemon.waiters.settled(Sequence::from_u64(3));
    door.daemon.settle(3, Ok(TicketStatus { superseded: true, ..TicketStatus::of(State::Persisted) }));
    let status = soon(awaited).await.expect("no panic").expect("it is told").into_inner().status.expect("a status");
    assert_eq!((status.state(), status.superseded), (TicketState::Persisted, true));
    assert_eq!((door.limits.awaiting_calls.used(), door.daemon.waiters.count()), (0, 0));

    let mut request = tonic::Request::new(AwaitTicketRequest { ticket: ticket(4) });
    request.set_timeout(Duration::from_millis(200));
    let status = save_service_server::SaveService::await_ticket(&door.service(), request).await.expect("an answer").into_inner().status;
    assert_eq!(status.expect("a status").state(), TicketState::Pending);
    assert_eq!(door.daemon.waiters.count(), 0, "who goes away leaves nothing behind");
}

#[tokio::test]
async fn a_stop_ends_those_who_wait_and_the_limit_holds_them_down() {
    let door = start_with(|settings| settings.awaiting_calls_max = 1).await;
    let mut client = door.saves().await;
    let awaited = tokio::spawn(async move { client.await_ticket(AwaitTicketRequest { ticket: ticket(3) }).await });
    soon(async {
        while door.daemon.waiters.count() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let status = soon(door.saves().await.await_ticket(AwaitTicketRequest { ticket: ticket(3) })).await.expect_err("it is refused");
    let info = assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(info.metadata["limit"], "grpc.awaiting_calls_max");
    door.stop.cancel();
    let status = soon(awaited).await.expect("no panic").expect_err("it ends");
    assert_error(&status, Code::Unavailable, "STOPPING");
}
