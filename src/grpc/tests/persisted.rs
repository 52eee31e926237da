use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::harness::*;
use crate::{
    outcomes::{Reason, State, TicketStatus, Untold},
    proto::{self, save_service_server::SaveService as _, save_stream_response::Event, *},
    save::{Sequence, StreamOrigin},
};

fn request(save: proto::Save) -> SaveRequest {
    SaveRequest { save: Some(save), durability: Durability::Persisted.into(), ..SaveRequest::default() }
}

fn batch(saves: Vec<proto::Save>) -> SaveBatchRequest {
    SaveBatchRequest { saves, durability: Durability::Persisted.into(), ..SaveBatchRequest::default() }
}

fn stream(id: Uuid, ids: std::ops::RangeInclusive<u64>) -> SaveStreamRequest {
    SaveStreamRequest { stream_id: id.to_string(), durability: Durability::Persisted.into(), ..players(ids) }
}

fn event(what: &str) -> proto::Save {
    proto::Save { key: Vec::new(), ..save("events", 0, &format!(r#"{{"what": "{what}"}}"#)) }
}

fn adding() -> proto::Save {
    proto::Save { add: vec!["level".to_owned()], ..save("players", 1, r#"{"level": 1}"#) }
}

fn refused() -> TicketStatus {
    let reason = Reason { sqlstate: Some("23514".to_owned()), constraint: Some("no_bad".to_owned()), message: "it is bad".to_owned() };
    TicketStatus { reason: Some(reason), ..TicketStatus::of(State::Failed) }
}

fn persisted() -> Result<TicketStatus, Untold> {
    Ok(TicketStatus::of(State::Persisted))
}

async fn waiting(door: &Harness, count: usize) {
    soon(async {
        while door.daemon.waiters.count() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Begins a call and leaves it waiting for its outcome.
async fn begin(door: &Harness, request: SaveRequest) -> JoinHandle<Result<Response<SaveResponse>, Status>> {
    let (mut client, before) = (door.saves().await, door.daemon.waiters.count());
    let call = tokio::spawn(async move { client.save(request).await });
    waiting(door, before + 1).await;
    call
}

#[tokio::test]
async fn a_call_that_waits_is_answered_with_the_outcome_and_takes_no_room_from_saves() {
    let door = start().await;
    let call = begin(&door, request(player(1))).await;
    assert_eq!((door.limits.awaiting_calls.used(), door.limits.calls_in_flight.used()), (1, 0));
    // Woken without an outcome (Postgres went back in time), it goes on waiting.
    door.daemon.waiters.settled(Sequence::from_u64(1));
    door.daemon.settle(1, Ok(TicketStatus { superseded: true, ..TicketStatus::of(State::Persisted) }));
    let response = soon(call).await.expect("no panic").expect("it is persisted").into_inner();
    assert_eq!((sequence(&response.ticket), response.state(), response.superseded), (1, TicketState::Persisted, true));
    assert_eq!((door.limits.awaiting_calls.used(), door.daemon.waiters.count()), (0, 0));
}

#[tokio::test]
async fn a_save_that_fails_ends_its_call_with_the_ticket_and_the_reason() {
    let door = start().await;
    let call = begin(&door, request(player(1))).await;
    door.daemon.settle(1, Ok(refused()));
    let status = soon(call).await.expect("no panic").expect_err("it failed");
    let info = assert_error(&status, Code::FailedPrecondition, "SAVE_FAILED");
    assert_eq!((sequence(&info.metadata["ticket"]), status.message()), (1, "it is bad"));
    assert_eq!((&*info.metadata["sqlstate"], &*info.metadata["constraint"]), ("23514", "no_bad"));
}

#[tokio::test]
async fn at_the_deadline_and_at_the_stop_an_accepted_save_is_pending() {
    let door = start().await;
    let mut timed = Request::new(request(player(1)));
    timed.set_timeout(Duration::from_millis(200));
    let response = soon(door.service().save(timed)).await.expect("it is accepted").into_inner();
    assert_eq!((sequence(&response.ticket), response.state()), (1, TicketState::Pending));
    assert_eq!((door.limits.awaiting_calls.used(), door.daemon.waiters.count()), (0, 0));
    let call = begin(&door, request(player(2))).await;
    door.stop.cancel();
    let response = soon(call).await.expect("no panic").expect("it is accepted").into_inner();
    assert_eq!((sequence(&response.ticket), response.state()), (2, TicketState::Pending));
}

#[tokio::test]
async fn without_room_to_wait_nothing_is_accepted() {
    let door = start_with(|settings| settings.awaiting_calls_max = 1).await;
    let call = begin(&door, request(player(1))).await;
    let mut client = door.saves().await;
    for status in [soon(client.save(request(player(2)))).await.err(), soon(client.save_batch(batch(vec![player(2)]))).await.err()] {
        let info = assert_error(&status.expect("it is refused"), Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(info.metadata["limit"], "grpc.awaiting_calls_max");
    }
    soon(client.save(SaveRequest { durability: 0, ..request(player(3)) })).await.expect("it doesn't wait");
    assert_eq!(door.journal.keys(), ["1", "3"]);
    door.daemon.settle(1, persisted());
    soon(call).await.expect("no panic").expect("it is persisted");
}

#[tokio::test]
async fn what_would_count_twice_needs_an_id() {
    let door = start().await;
    let mut client = door.saves().await;
    for save in [event("x"), adding()] {
        let one = soon(client.save(request(save.clone()))).await.expect_err("it is refused");
        let many = soon(client.save_batch(batch(vec![player(1), save]))).await.expect_err("it is refused");
        for (status, path) in [(one, "save adds"), (many, "saves[1] adds")] {
            assert_error(&status, Code::InvalidArgument, "INVALID_SAVE");
            let violation = status.get_details_bad_request().expect("details").field_violations.remove(0);
            assert_eq!(violation.field, "request_id");
            assert!(violation.description.contains(path) && violation.description.contains("count twice"), "{violation:?}");
        }
    }
    assert!(door.journal.saved().is_empty());
    soon(client.save(SaveRequest { durability: 0, ..request(event("x")) })).await.expect("SYNCED needs none");
    let call = begin(&door, SaveRequest { request_id: "a".to_owned(), ..request(event("x")) }).await;
    door.daemon.settle(2, persisted());
    soon(call).await.expect("no panic").expect("it is persisted");
}

#[tokio::test]
async fn a_repeated_call_is_answered_with_the_outcome_of_the_first() {
    let door = start().await;
    let named = SaveRequest { request_id: "a".to_owned(), ..request(adding()) };
    let (first, repeated) = (begin(&door, named.clone()).await, begin(&door, named.clone()).await);
    door.daemon.settle(1, persisted());
    for (call, deduplicated) in [(first, false), (repeated, true)] {
        let response = soon(call).await.expect("no panic").expect("it is persisted").into_inner();
        assert_eq!((sequence(&response.ticket), response.state(), response.deduplicated), (1, TicketState::Persisted, deduplicated));
    }
    assert_eq!(door.journal.saved().len(), 1);
    door.daemon.settle(1, Ok(TicketStatus { state: State::Discarded, ..refused() }));
    let status = soon(door.saves().await.save(named.clone())).await.expect_err("it had failed");
    assert_error(&status, Code::FailedPrecondition, "SAVE_FAILED");
    door.daemon.settle(1, Err(Untold::NotAsked));
    let mut timed = Request::new(named);
    timed.set_timeout(Duration::from_millis(200));
    let response = soon(door.service().save(timed)).await.expect("it is accepted, and no more can be told").into_inner();
    assert_eq!((response.state(), response.deduplicated), (TicketState::Pending, true));
}

#[tokio::test]
async fn a_batch_is_told_the_outcome_of_each_save() {
    let door = start().await;
    let mut timed = Request::new(SaveBatchRequest { atomic: true, ..batch((1..=4).map(player).collect()) });
    timed.set_timeout(Duration::from_millis(500));
    let service = door.service();
    let call = tokio::spawn(async move { service.save_batch(timed).await });
    waiting(&door, 1).await;
    door.daemon.settle(1, persisted());
    door.daemon.settle(2, Ok(refused()));
    door.daemon.settle(3, Ok(TicketStatus { superseded: true, ..TicketStatus::of(State::Persisted) }));
    let response = soon(call).await.expect("no panic").expect("it is accepted").into_inner();
    let states: Vec<_> = response.results.iter().map(SaveResult::state).collect();
    assert_eq!(states, [TicketState::Persisted, TicketState::Failed, TicketState::Persisted, TicketState::Pending]);
    let told: Vec<_> = response.results.iter().map(|one| (sequence(&one.ticket), one.superseded, one.failure.is_some())).collect();
    assert_eq!(told, [(1, false, false), (2, false, true), (3, true, false), (4, false, false)]);
    assert_eq!(response.results[1].failure.clone().expect("why").constraint, "no_bad");
}

#[tokio::test]
async fn a_stream_acknowledges_outcomes_and_tells_failures_before() {
    let door = start().await;
    let mut talk = door.talk(SaveStreamRequest { want_tickets: true, ..stream(Uuid::new_v4(), 1..=3) }).await;
    assert_eq!(talk.event().await, Event::Opened(StreamOpened::default()));
    waiting(&door, 1).await;
    talk.send(players(4..=4)).await;
    talk.finish();
    door.journal.handed(4).await;
    assert_eq!(door.daemon.waiters.count(), 1, "one wait for all");
    door.daemon.settle(1, Ok(TicketStatus { superseded: true, ..TicketStatus::of(State::Persisted) }));
    door.daemon.settle(2, Ok(refused()));
    door.daemon.settle(3, persisted());
    let Event::Failed(failed) = talk.event().await else { panic!("the failure is told first") };
    assert_eq!((failed.offset, sequence(&failed.ticket), failed.failure.expect("why").sqlstate.as_str()), (2, 2, "23514"));
    let Event::Acknowledged(acknowledged) = talk.event().await else { panic!("it is acknowledged") };
    let tickets: Vec<_> = acknowledged.tickets.iter().map(|ticket| sequence(ticket)).collect();
    assert_eq!((acknowledged.through, acknowledged.superseded, tickets), (3, vec![1], vec![1, 2, 3]));
    waiting(&door, 1).await;
    door.daemon.settle(4, persisted());
    talk.acknowledged(4).await;
    assert!(soon(talk.answers.message()).await.expect("it ends well").is_none(), "after everything is acknowledged");
}

#[tokio::test]
async fn what_waits_in_a_stream_is_bounded_and_a_refusal_keeps_its_place() {
    let door = start_with(|settings| settings.stream_unacknowledged_max = 3).await;
    let mut first = stream(Uuid::new_v4(), 1..=2);
    first.saves[1] = save("players", 2, "[]");
    let mut talk = door.talk(first).await;
    talk.send(players(3..=9)).await;
    assert_eq!(talk.event().await, Event::Opened(StreamOpened::default()));
    waiting(&door, 1).await;
    assert!(door.journal.saved().len() <= 3, "{:?}", door.journal.keys());
    (1..=8).for_each(|sequence| door.daemon.settle(sequence, persisted()));
    talk.acknowledged(1).await;
    let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
    assert_eq!(refused.offset, 2);
    talk.acknowledged(9).await;
}

#[tokio::test]
async fn a_stream_without_an_id_refuses_what_would_count_twice() {
    let door = start().await;
    let saves = vec![player(1), event("x"), adding()];
    let first = SaveStreamRequest { offset: 1, saves, durability: Durability::Persisted.into(), ..SaveStreamRequest::default() };
    let mut talk = door.talk(first).await;
    waiting(&door, 1).await;
    door.daemon.settle(1, persisted());
    talk.acknowledged(1).await;
    for offset in [2, 3] {
        let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
        assert_eq!((refused.offset, Code::from(refused.code)), (offset, Code::InvalidArgument));
        assert!(refused.message.starts_with("stream_id is required"), "{}", refused.message);
    }
    assert_eq!(door.journal.saved().len(), 1);
}

#[tokio::test]
async fn a_resumed_stream_acknowledges_what_was_accepted_before_with_its_outcome() {
    let (door, id) = (start().await, Uuid::new_v4());
    let mut talk = door.talk(stream(id, 1..=3)).await;
    assert_eq!(talk.event().await, Event::Opened(StreamOpened::default()));
    waiting(&door, 1).await;
    drop(talk);
    waiting(&door, 0).await;
    let mut talk = door.talk(stream(id, 1..=4)).await;
    let opened = StreamOpened { known: true, acknowledged_through: 3, missing: Vec::new() };
    assert_eq!(talk.event().await, Event::Opened(opened));
    waiting(&door, 1).await;
    door.daemon.settle(1, persisted());
    talk.acknowledged(1).await;
    waiting(&door, 1).await;
    door.daemon.settle(2, Ok(refused()));
    let Event::Failed(failed) = talk.event().await else { panic!("it failed") };
    assert_eq!((failed.offset, sequence(&failed.ticket)), (2, 2));
    door.daemon.settle(3, Ok(TicketStatus::of(State::Unknown)));
    talk.acknowledged(2).await;
    let Event::Failed(failed) = talk.event().await else { panic!("it must not count as persisted") };
    assert!(failed.offset == 3 && failed.failure.expect("why").message.contains("may have failed"));
    door.daemon.settle(4, persisted());
    talk.acknowledged(4).await;
    assert_eq!(door.journal.keys(), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn what_was_accepted_too_long_ago_waits_for_what_its_lane_has() {
    let (door, id) = (start().await, Uuid::new_v4());
    // One entry of memory for each: others save in between.
    for offset in 1..=300 {
        door.streams.observe(StreamOrigin { stream_id: id.into_bytes(), offset }, Sequence::from_u64(2 * offset));
    }
    *door.daemon.newest.lock().expect("no test panics under it") = Sequence::from_u64(700);
    let mut talk = door.talk(stream(id, 44..=45)).await;
    assert!(matches!(talk.event().await, Event::Opened(opened) if opened.acknowledged_through == 300));
    waiting(&door, 1).await;
    door.daemon.settle(90, persisted());
    door.daemon.settle(88, Ok(refused()));
    waiting(&door, 1).await;
    // Its own outcome is not asked for: which save it was is not known.
    door.daemon.settle(700, Ok(refused()));
    talk.acknowledged(45).await;
}

#[tokio::test]
async fn a_stream_that_waits_is_ended_by_a_stop_and_by_a_newer_call() {
    let (door, id) = (start().await, Uuid::new_v4());
    let mut older = door.talk(stream(id, 1..=2)).await;
    waiting(&door, 1).await;
    let mut newer = door.talk(stream(id, 1..=2)).await;
    assert_error(&older.error().await, Code::Aborted, "STREAM_TAKEN_OVER");
    waiting(&door, 1).await;
    newer.finish();
    door.stop.cancel();
    assert_error(&newer.error().await, Code::Unavailable, "STOPPING");
    assert_eq!(door.journal.keys(), ["1", "2"]);
}
