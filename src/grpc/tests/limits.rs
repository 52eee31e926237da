use std::sync::Arc;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::*;
use crate::{
    limits::Limit,
    proto::{FlushRequest, SaveRequest, SaveStreamRequest, save_stream_response::Event},
};

fn save_request() -> SaveRequest {
    SaveRequest { save: Some(player(1)), ..SaveRequest::default() }
}

fn assert_limit(status: &Status, limit: &Arc<Limit>) {
    let info = assert_error(status, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(info.metadata["limit"], limit.name());
    assert_eq!((info.metadata["max"].as_str(), info.metadata["used"].as_str()), (&*limit.max().to_string(), &*limit.used().to_string()));
    assert_eq!(status.get_details_quota_failure().expect("details").violations[0].subject, limit.name());
    let delay = status.get_details_retry_info().expect("details").retry_delay.expect("a delay");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("a trailer").to_str().expect("ASCII").to_owned();
    assert_eq!(pushback, delay.as_millis().to_string());
    assert!((800..=1_200).contains(&delay.as_millis()), "{delay:?}");
}

#[tokio::test]
async fn at_every_limit_a_unary_call_is_refused_at_once_with_the_details() {
    let door = start().await;
    let mut client = door.saves().await;
    for limit in [&door.limits.calls_in_flight, &door.limits.backlog_objects, &door.limits.backlog_bytes] {
        let max = limit.max();
        limit.set_max(0);
        let status = soon(client.save(save_request())).await.expect_err("it is refused");
        assert_limit(&status, limit);
        limit.set_max(max);
        assert_eq!(door.room_taken(), (0, false), "what was taken before the limit is given back");
    }
    soon(client.save(save_request())).await.expect("there is room again");
}

#[tokio::test]
async fn waiting_calls_and_streams_have_limits_of_their_own() {
    let door = start().await;
    let mut client = door.saves().await;
    door.limits.awaiting_calls.set_max(0);
    let status = soon(client.flush(FlushRequest::default())).await.expect_err("it is refused");
    assert_limit(&status, &door.limits.awaiting_calls);
    door.limits.save_streams.set_max(1);
    let mut one = door.talk(SaveStreamRequest::default()).await;
    let status = soon(client.save_stream(tokio_stream::iter([SaveStreamRequest::default()]))).await.expect_err("it is refused");
    assert_limit(&status, &door.limits.save_streams);
    one.finish();
    assert!(soon(one.answers.message()).await.expect("it ends well").is_none());
    drop(one);
    soon(client.save(save_request())).await.expect("saves have room");
}

#[tokio::test]
async fn streams_with_an_id_are_refused_when_too_many_are_remembered() {
    let door = start().await;
    door.limits.request_ids.set_max(0);
    let first = SaveStreamRequest { stream_id: uuid::Uuid::new_v4().to_string(), ..SaveStreamRequest::default() };
    let status = door.talk(first).await.error().await;
    assert_limit(&status, &door.limits.request_ids);
}

#[tokio::test]
async fn a_stream_at_a_limit_is_held_back_until_there_is_room() {
    let door = start().await;
    door.limits.backlog_objects.set_max(2);
    let mut talk = door.talk(players(1..=2)).await;
    talk.acknowledged(2).await;
    talk.send(players(3..=4)).await;
    door.limits.backlog_objects.set_max(4);
    talk.acknowledged(4).await;
    assert_eq!(door.journal.keys(), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_stream_that_finds_no_room_is_refused_save_by_save_and_goes_on() {
    let door = start().await;
    door.limits.backlog_objects.set_max(3);
    let mut talk = door.talk(players(1..=5)).await;
    talk.acknowledged(3).await;
    for offset in 4..=5 {
        let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
        assert_eq!((refused.offset, Code::from(refused.code)), (offset, Code::ResourceExhausted));
        assert!(refused.details.iter().any(|one| one.type_url.ends_with("ErrorInfo")));
        assert!(refused.details.iter().any(|one| one.type_url.ends_with("QuotaFailure")));
    }
    door.limits.backlog_objects.give_back(3);
    talk.send(players(6..=6)).await;
    talk.acknowledged(6).await;
    assert_eq!(door.journal.keys(), ["1", "2", "3", "6"]);
}

#[tokio::test]
async fn a_stream_waits_for_the_journal_where_a_call_would_be_refused() {
    let door = start().await;
    for limit in [&door.limits.journal_inbox_bytes, &door.limits.journal_bytes] {
        limit.set_used(limit.max());
        let mut talk = door.talk(players(1..=2)).await;
        limit.set_used(0);
        talk.acknowledged(2).await;
    }
    assert_eq!(door.journal.keys(), ["1", "2", "1", "2"]);
}

#[tokio::test]
async fn many_saves_of_unknown_columns_cost_a_stream_one_reading_of_the_catalog() {
    let door = start().await;
    let mut message = players(1..=100);
    for save in &mut message.saves[1..] {
        save.change = Some(crate::proto::save::Change::Json(r#"{"guild": 1}"#.into()));
    }
    let mut talk = door.talk(message).await;
    talk.acknowledged(1).await;
    for offset in 2..=100 {
        assert!(matches!(talk.event().await, Event::Refused(refused) if refused.offset == offset));
    }
    assert_eq!(*door.daemon.readings.lock().expect("it is free"), 1);
}
