use std::time::Duration;

use futures_util::StreamExt;
use tonic::{Code, Request, Status, Streaming};

use super::harness::*;
use crate::{
    outcomes::{Mark, Reason, Ticket, WatchEnd, WatchEvent},
    proto::{watch_outcomes_response::Event, *},
    save::{LaneId, Sequence},
};

fn mark(through: u64) -> Mark {
    Mark { through: Sequence::from_u64(through), rewinds: 2 }
}

fn watermark(through: u64) -> WatchEvent {
    WatchEvent::Watermark(mark(through))
}

fn token(through: u64) -> String {
    tickets().show_mark(mark(through))
}

fn ticket(sequence: u64) -> Ticket {
    Ticket { sequence: Sequence::from_u64(sequence), lane: LaneId(0) }
}

fn from(resume_token: String, collections: &[&str]) -> WatchOutcomesRequest {
    WatchOutcomesRequest { collections: collections.iter().map(|name| (*name).to_owned()).collect(), resume_token }
}

async fn watch(door: &Harness, request: WatchOutcomesRequest) -> Result<Streaming<WatchOutcomesResponse>, Status> {
    Ok(soon(door.saves().await.watch_outcomes(request)).await?.into_inner())
}

async fn event(outcomes: &mut Streaming<WatchOutcomesResponse>) -> Event {
    let message = soon(outcomes.message()).await.expect("it goes on").expect("it goes on");
    message.event.expect("an answer tells something")
}

fn shown(through: u64) -> Event {
    Event::Watermark(Watermark { resume_token: token(through) })
}

#[tokio::test]
async fn a_watcher_is_told_what_is_found_in_order() {
    let door = start().await;
    let reason = Reason { sqlstate: Some("23505".to_owned()), constraint: Some("players_name".to_owned()), message: "twice".to_owned() };
    let failed = WatchEvent::Failed { ticket: ticket(6), collection: "players".to_owned(), key: vec!["7".to_owned()], reason };
    let superseded = WatchEvent::Superseded { ticket: ticket(7), collection: "players".to_owned() };
    door.daemon.tell(Ok(vec![watermark(5)]));
    let mut outcomes = watch(&door, from(String::new(), &["players"])).await.expect("it begins");
    assert_eq!(event(&mut outcomes).await, shown(5));
    door.daemon.tell(Ok(vec![failed, superseded, watermark(9)]));
    let Event::Failed(told) = event(&mut outcomes).await else { panic!("a failure comes first") };
    let failure = told.failure.expect("a reason");
    assert_eq!((sequence(&told.ticket), told.collection.as_str(), told.key), (6, "players", vec!["7".to_owned()]));
    assert_eq!((failure.sqlstate.as_str(), failure.constraint.as_str(), failure.message.as_str()), ("23505", "players_name", "twice"));
    let Event::Superseded(told) = event(&mut outcomes).await else { panic!("then what changed nothing") };
    assert_eq!((sequence(&told.ticket), told.collection.as_str()), (7, "players"));
    assert_eq!(event(&mut outcomes).await, shown(9));
    let watch = door.daemon.watches.lock().expect("no test panics under it")[0].clone();
    assert!(watch.wants("players") && !watch.wants("items") && watch.mark().is_none());
    assert_eq!(door.limits.awaiting_calls.used(), 1, "it takes no room from saves");
    drop(outcomes);
    soon(async {
        while door.limits.awaiting_calls.used() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_watch_goes_on_from_a_watermark_and_from_nothing_else() {
    let door = start().await;
    door.daemon.tell(Ok(vec![watermark(5)]));
    let mut outcomes = watch(&door, from(token(5), &[])).await.expect("it begins");
    assert_eq!(event(&mut outcomes).await, shown(5));
    let watch_begun = door.daemon.watches.lock().expect("no test panics under it")[0].clone();
    assert!(watch_begun.mark() == Some(mark(5)) && watch_begun.wants("items"));
    let ticket = tickets().show(ticket(5));
    for wrong in ["x", &ticket, &token(5)[1..], &tickets().after(Sequence::from_u64(5))] {
        let status = watch(&door, from(wrong.to_owned(), &[])).await.expect_err("it is refused");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
        assert!(status.message().contains("resume_token"), "{status:?}");
    }
    let status = watch(&door, from(String::new(), &["players", "nobody", "summary"])).await.expect_err("it is refused");
    let info = assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(info.metadata["violations"], "2");
}

#[tokio::test]
async fn a_watch_that_ends_says_why_and_where_to_go_on() {
    let door = start().await;
    for (end, code, reason) in [
        (WatchEnd::Rewound(mark(3)), Code::Aborted, "POSTGRES_REWOUND"),
        (WatchEnd::Gone(mark(3)), Code::OutOfRange, "OUTCOMES_GONE"),
        (WatchEnd::TooSlow(mark(3)), Code::ResourceExhausted, "WATCHER_TOO_SLOW"),
    ] {
        door.daemon.tell(Ok(vec![watermark(5)]));
        let mut outcomes = watch(&door, from(String::new(), &[])).await.expect("it begins");
        assert_eq!(event(&mut outcomes).await, shown(5));
        door.daemon.tell(Err(end));
        let status = soon(outcomes.message()).await.expect_err("it ends");
        assert_eq!(assert_error(&status, code, reason).metadata["resume_token"], token(3));
    }
}

#[tokio::test]
async fn a_stop_ends_watchers_and_the_limit_holds_them_down() {
    let door = start_with(|settings| settings.awaiting_calls_max = 1).await;
    door.daemon.tell(Ok(vec![watermark(5)]));
    let mut outcomes = watch(&door, from(String::new(), &[])).await.expect("it begins");
    assert_eq!(event(&mut outcomes).await, shown(5));
    let status = watch(&door, from(String::new(), &[])).await.expect_err("it is refused");
    assert_eq!(assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED").metadata["limit"], "grpc.awaiting_calls_max");
    door.stop.cancel();
    let status = soon(outcomes.message()).await.expect_err("it ends");
    assert_error(&status, Code::Unavailable, "STOPPING");
}

/// The response itself, read by this test alone: time is the test's.
#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_ended_and_one_that_hears_nothing_for_long_is_not() {
    let door = start().await;
    door.daemon.tell(Ok(vec![watermark(5)]));
    let watched = save_service_server::SaveService::watch_outcomes(&door.service(), Request::new(from(String::new(), &[]))).await;
    let mut outcomes = watched.expect("it begins").into_inner();
    let next = async |outcomes: &mut std::pin::Pin<Box<_>>| StreamExt::next(outcomes).await.expect("it goes on");
    assert_eq!(next(&mut outcomes).await.expect("told").event, Some(shown(5)));
    let silence = tokio::time::timeout(Duration::from_secs(3_600), outcomes.next()).await;
    assert!(silence.is_err(), "nothing is to be told");
    door.daemon.tell(Ok(vec![watermark(6), watermark(7)]));
    assert_eq!(next(&mut outcomes).await.expect("told").event, Some(shown(6)));
    tokio::time::advance(Duration::from_secs(61)).await;
    let status = next(&mut outcomes).await.expect_err("nobody has read for a minute");
    let info = assert_error(&status, Code::ResourceExhausted, "WATCHER_TOO_SLOW");
    assert_eq!(info.metadata["resume_token"], token(6), "what was not sent is told again");
    assert!(outcomes.next().await.is_none());
}
