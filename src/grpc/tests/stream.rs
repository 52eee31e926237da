use tokio::sync::mpsc;
use tonic::Code;
use uuid::Uuid;

use super::harness::*;
use crate::{
    grpc::AppendError,
    proto::{self, OffsetRange, SaveStreamRequest, StreamOpened, save_stream_response::Event},
    save::{Sequence, StreamOrigin},
};

fn opening(id: Uuid) -> SaveStreamRequest {
    SaveStreamRequest { stream_id: id.to_string(), ..SaveStreamRequest::default() }
}

/// Opens a stream and takes what it says first.
async fn opened(door: &Harness, id: Uuid) -> (Talk, StreamOpened) {
    let mut talk = door.talk(opening(id)).await;
    match talk.event().await {
        Event::Opened(opened) => (talk, opened),
        other => panic!("the first event tells where the stream stands, not {other:?}"),
    }
}

#[tokio::test]
async fn saves_are_acknowledged_in_order_however_they_are_packed() {
    let door = start().await;
    let mut talk = door.talk(players(0..=0)).await;
    for message in [players(1..=700), SaveStreamRequest::default(), players(701..=701), players(1_000..=1_001)] {
        talk.send(message).await;
    }
    talk.finish();
    talk.acknowledged(1_001).await;
    assert!(soon(talk.answers.message()).await.expect("it ends well").is_none());
    let expected: Vec<_> = (0..=701).chain(1_000..=1_001).map(|id| id.to_string()).collect();
    assert_eq!(door.journal.keys(), expected);
    assert!(door.journal.saved().iter().all(|save| save.origin.is_none() && save.batch_left == 0));
}

#[tokio::test]
async fn tickets_are_told_if_asked_for() {
    let door = start().await;
    let mut talk = door.talk(SaveStreamRequest { want_tickets: true, ..players(5..=7) }).await;
    let Event::Acknowledged(acknowledged) = talk.event().await else { panic!("it is acknowledged") };
    let sequences: Vec<_> = acknowledged.tickets.iter().map(|ticket| sequence(ticket)).collect();
    assert_eq!((acknowledged.through, sequences), (7, vec![1, 2, 3]));
}

#[tokio::test]
async fn a_wrong_save_is_refused_at_its_place_and_the_others_go_on() {
    let door = start().await;
    door.journal.conduct(Conduct::Hold);
    let mut message = players(1..=4);
    message.saves[2] = save("players", 3, "[]");
    let mut talk = door.talk(message).await;
    door.journal.handed(3).await;
    door.journal.release();
    talk.acknowledged(2).await;
    let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
    assert_eq!((refused.offset, Code::from(refused.code)), (3, Code::InvalidArgument));
    assert!(refused.message.starts_with("saves[2].json must be a JSON object"), "{}", refused.message);
    assert!(refused.details.iter().any(|one| one.type_url.ends_with("BadRequest")));
    talk.acknowledged(4).await;
    assert_eq!(door.journal.keys(), ["1", "2", "4"]);
}

#[tokio::test]
async fn no_more_is_read_than_may_be_unacknowledged() {
    let door = start_with(|settings| settings.stream_unacknowledged_max = 4).await;
    door.journal.conduct(Conduct::Hold);
    let mut talk = door.talk(players(1..=3)).await;
    talk.send(players(4..=10)).await;
    door.journal.handed(3).await;
    assert!(*door.journal.handed.borrow() <= 4);
    door.journal.release();
    talk.acknowledged(10).await;
    assert_eq!(door.journal.saved().len(), 10);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_read_from() {
    const SAVES: u64 = 40_000;
    let door = start_with(|settings| settings.stream_unacknowledged_max = 64).await;
    let (tell, requests) = mpsc::channel(1);
    let mut client = door.saves().await;
    let answers = soon(client.save_stream(tokio_stream::wrappers::ReceiverStream::new(requests))).await.expect("it opens");
    let (stalled_at, mut stalled) = mpsc::channel(1);
    let sender = tokio::spawn(async move {
        for offset in 0..SAVES {
            let wrong = SaveStreamRequest { offset, saves: vec![save("players", 1, "[]")], ..SaveStreamRequest::default() };
            // A send that takes this long waits for the reader of the answers.
            if let Err(error) = tell.send_timeout(wrong, std::time::Duration::from_millis(500)).await {
                let _ = stalled_at.send(offset).await;
                tell.send(error.into_inner()).await.expect("it is read again");
            }
        }
    });
    let stalled_at = soon(stalled.recv()).await.expect("the sender is held back");
    assert!(stalled_at < SAVES / 2, "{stalled_at} saves were read");
    let mut answers = answers.into_inner();
    for expected in 0..SAVES {
        let answer = soon(answers.message()).await.expect("it goes on").expect("it goes on");
        assert!(matches!(answer.event, Some(Event::Refused(refused)) if refused.offset == expected));
    }
    soon(sender).await.expect("everything was sent");
}

#[tokio::test]
async fn a_resumed_stream_is_told_where_it_stands_and_saves_nothing_twice() {
    let (door, id) = (start().await, Uuid::new_v4());
    let (mut talk, fresh) = opened(&door, id).await;
    assert_eq!(fresh, StreamOpened::default());
    let mut message = players(1..=9);
    message.saves[4] = save("nothing", 5, "{}");
    talk.send(message).await;
    while !matches!(talk.event().await, Event::Acknowledged(acknowledged) if acknowledged.through == 9) {}
    drop(talk);
    let (mut talk, again) = opened(&door, id).await;
    let missing = vec![OffsetRange { first: 5, last: 5 }];
    assert_eq!(again, StreamOpened { known: true, acknowledged_through: 9, missing });
    talk.send(players(3..=11)).await;
    talk.acknowledged(4).await;
    let Event::Refused(refused) = talk.event().await else { panic!("it stays refused") };
    assert_eq!((refused.offset, Code::from(refused.code)), (5, Code::FailedPrecondition));
    talk.acknowledged(11).await;
    assert_eq!(door.journal.keys(), ["1", "2", "3", "4", "6", "7", "8", "9", "10", "11"]);
    let origins: Vec<_> = door.journal.saved().iter().map(|save| save.origin.expect("an origin").offset).collect();
    assert_eq!(origins, [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn a_stream_that_recovery_found_in_the_journal_is_known() {
    let (door, id) = (start().await, Uuid::new_v4());
    for offset in 10..=20 {
        door.streams.observe(StreamOrigin { stream_id: id.into_bytes(), offset }, Sequence::from_u64(offset));
    }
    let (mut talk, known) = opened(&door, id).await;
    assert_eq!((known.known, known.acknowledged_through), (true, 20));
    talk.send(players(19..=21)).await;
    talk.acknowledged(21).await;
    assert_eq!(door.journal.keys(), ["21"]);
}

#[tokio::test]
async fn a_second_opening_takes_the_stream_over_and_nothing_is_lost_or_doubled() {
    let (door, id) = (start().await, Uuid::new_v4());
    let (mut older, _) = opened(&door, id).await;
    door.journal.conduct(Conduct::Hold);
    older.send(players(1..=3)).await;
    door.journal.handed(3).await;
    let mut newer = door.talk(opening(id)).await;
    newer.send(players(1..=5)).await;
    // The older answers what it has in flight before it ends, so its error comes after the release.
    let mut subscription = door.journal.handed.subscribe();
    assert!(!subscription.has_changed().expect("the journal lives"), "the newer waits for what the older has in flight");
    door.journal.release();
    assert_error(&older.error().await, Code::Aborted, "STREAM_TAKEN_OVER");
    let Event::Opened(taken) = newer.event().await else { panic!("it is told where the stream stands") };
    assert_eq!((taken.known, taken.acknowledged_through), (true, 3));
    newer.acknowledged(5).await;
    subscription.mark_unchanged();
    assert_eq!(door.journal.keys(), ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_call_that_breaks_off_loses_nothing_that_is_in_flight() {
    let (door, id) = (start().await, Uuid::new_v4());
    let (talk, _) = opened(&door, id).await;
    door.journal.conduct(Conduct::Hold);
    talk.send(players(1..=3)).await;
    door.journal.handed(3).await;
    drop(talk);
    let mut again = door.talk(opening(id)).await;
    door.journal.release();
    let Event::Opened(known) = again.event().await else { panic!("it is told where the stream stands") };
    assert_eq!((known.known, known.acknowledged_through), (true, 3));
    assert_eq!(door.room_taken(), (3, true), "the room is the backlog's");
}

#[tokio::test]
async fn a_journal_that_fails_ends_the_stream_and_acknowledges_nothing_after_it() {
    for (error, code, reason) in
        [(AppendError::OutcomeUnknown, Code::Internal, "OUTCOME_UNKNOWN"), (AppendError::Stopped, Code::Unavailable, "STOPPING")]
    {
        let door = start().await;
        let mut talk = door.talk(players(1..=1)).await;
        talk.acknowledged(1).await;
        door.journal.conduct(Conduct::Hold);
        talk.send(players(2..=3)).await;
        door.journal.handed(3).await;
        door.journal.fail(error);
        let status = soon(talk.answers.message()).await.expect_err("nothing more is acknowledged");
        assert_error(&status, code, reason);
    }
    let door = start().await;
    door.journal.conduct(Conduct::Drop);
    assert_error(&door.talk(players(1..=1)).await.error().await, Code::Internal, "OUTCOME_UNKNOWN");
    door.journal.gate(Err(AppendError::Stopped));
    assert_error(&door.talk(players(1..=1)).await.error().await, Code::Unavailable, "STOPPING");
}

#[tokio::test]
async fn offsets_have_to_rise() {
    let door = start().await;
    let mut talk = door.talk(players(5..=7)).await;
    talk.send(players(7..=7)).await;
    talk.acknowledged(7).await;
    let status = soon(talk.answers.message()).await.expect_err("it ends");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    assert!(status.message().starts_with("offset is 7, but offsets rise"), "{status:?}");
    let mut last = players(1..=2);
    last.offset = u64::MAX;
    assert_error(&door.talk(last).await.error().await, Code::InvalidArgument, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_stream_is_opened_by_its_first_message_only_and_with_what_there_is() {
    let door = start_with(|settings| settings.batch_saves_max = 10).await;
    let wrong = SaveStreamRequest { stream_id: "x".to_owned(), ..players(1..=1) };
    let newer = SaveStreamRequest { durability: 9, ..players(1..=1) };
    for wrong in [wrong, newer, players(1..=11)] {
        assert_error(&door.talk(wrong).await.error().await, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let late = [
        SaveStreamRequest { stream_id: Uuid::new_v4().to_string(), ..players(2..=2) },
        SaveStreamRequest { want_tickets: true, ..players(2..=2) },
        SaveStreamRequest { durability: 1, ..players(2..=2) },
    ];
    for late in late {
        let mut talk = door.talk(players(1..=1)).await;
        talk.send(late).await;
        assert_error(&talk.error().await, Code::InvalidArgument, "INVALID_REQUEST");
    }
    assert_eq!(door.journal.keys(), ["1", "1", "1"]);
}

#[tokio::test]
async fn saves_of_a_stream_may_add() {
    let door = start().await;
    let mut message = players(1..=2);
    message.saves[0] = proto::Save { add: vec!["level".to_owned()], ..save("players", 1, r#"{"name": "x", "level": 2.5}"#) };
    message.saves[1].add = vec!["name".to_owned()];
    let mut talk = door.talk(message).await;
    talk.acknowledged(1).await;
    let Event::Refused(refused) = talk.event().await else { panic!("it is refused") };
    assert_eq!((refused.offset, Code::from(refused.code)), (2, Code::InvalidArgument));
    let body = door.journal.saved()[0].change.body().map(|body| body.as_str().to_owned());
    assert_eq!(body.as_deref(), Some(r#"{"level":2.50,"name":"x"}"#));
}
