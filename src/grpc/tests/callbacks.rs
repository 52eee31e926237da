//! Saves that name an endpoint.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::*;
use crate::proto::{SaveBatchRequest, SaveRequest, SaveStreamRequest, save_stream_response::Event};

fn request(callback: &str) -> SaveRequest {
    SaveRequest { save: Some(player(1)), callback: callback.to_owned(), request_id: "id".to_owned(), ..SaveRequest::default() }
}

/// Endpoint and request id of what the journal got.
fn kept(door: &Harness) -> Vec<Option<(String, String)>> {
    let callback = |save: crate::save::Save| save.callback.map(|kept| (kept.endpoint.to_string(), kept.request_id.to_string()));
    door.journal.saved().into_iter().map(callback).collect()
}

fn some(endpoint: &str, request_id: &str) -> Option<(String, String)> {
    Some((endpoint.to_owned(), request_id.to_owned()))
}

#[tokio::test]
async fn every_save_of_a_call_keeps_the_endpoint_and_the_request_id() {
    let door = start().await;
    let mut client = door.saves().await;
    soon(client.save(request("shop"))).await.expect("accepted");
    let repeated = soon(client.save(request("shop"))).await.expect("known").into_inner();
    assert!(repeated.deduplicated && door.limits.callbacks_pending.used() == 1, "it is told once");
    let saves = vec![player(1), player(2)];
    let batch = SaveBatchRequest { saves, request_id: "other".to_owned(), callback: "till".to_owned(), ..SaveBatchRequest::default() };
    soon(client.save_batch(batch)).await.expect("accepted");
    let mut talk = door.talk(SaveStreamRequest { callback: "shop".to_owned(), ..players(1..=1) }).await;
    talk.send(players(2..=2)).await;
    talk.acknowledged(2).await;
    soon(client.save(SaveRequest { request_id: String::new(), ..request("") })).await.expect("accepted");
    let expected = [some("shop", "id"), some("till", "other"), some("till", "other"), some("shop", ""), some("shop", ""), None];
    assert_eq!(kept(&door), expected);
    assert_eq!(door.limits.callbacks_pending.used(), 5, "the others of a batch and of a stream count too");
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_refused_with_those_that_are() {
    let door = start().await;
    let mut client = door.saves().await;
    let assert_named = |status: &Status| {
        assert_error(status, Code::InvalidArgument, "INVALID_REQUEST");
        let violation = status.get_details_bad_request().expect("details").field_violations.remove(0);
        assert_eq!(
            (violation.field.as_str(), violation.description.as_str()),
            ("callback", "names no endpoint: the settings have shop, till")
        );
    };
    assert_named(&soon(client.save(request("shops"))).await.expect_err("it is refused"));
    let batch = SaveBatchRequest { saves: vec![player(1)], callback: "https://x.test".to_owned(), ..SaveBatchRequest::default() };
    assert_named(&soon(client.save_batch(batch)).await.expect_err("it is refused"));
    let mut talk = door.talk(SaveStreamRequest { callback: "x".to_owned(), ..players(1..=1) }).await;
    assert_named(&talk.error().await);
    let mut talk = door.talk(players(1..=1)).await;
    talk.send(SaveStreamRequest { callback: "shop".to_owned(), ..players(2..=2) }).await;
    talk.acknowledged(1).await;
    let status = talk.error().await;
    assert!(status.message().contains("belongs in the first message"), "{status:?}");
    assert_eq!(kept(&door), [None]);
}

#[tokio::test]
async fn at_their_limit_saves_with_a_callback_are_refused_and_others_never() {
    let door = start().await;
    let mut client = door.saves().await;
    door.limits.callbacks_pending.set_max(1);
    let two = SaveBatchRequest { saves: vec![player(1), player(2)], callback: "shop".to_owned(), ..SaveBatchRequest::default() };
    let status = soon(client.save_batch(two.clone())).await.expect_err("it is refused");
    let info = assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(info.metadata["limit"], "callbacks.pending_max");
    assert_eq!((door.room_taken(), door.limits.callbacks_pending.used()), ((0, false), 0), "what was taken before the limit is given back");
    soon(client.save_batch(SaveBatchRequest { callback: String::new(), ..two })).await.expect("it asks for no callback");
    soon(client.save(request("shop"))).await.expect("there is room for one");
    let mut talk = door.talk(SaveStreamRequest { callback: "shop".to_owned(), ..players(1..=1) }).await;
    let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
    assert_eq!(Code::from(refused.code), Code::ResourceExhausted);
}
