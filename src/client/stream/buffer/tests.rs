use super::*;
use crate::client::Save;

fn buffer(saves: u64) -> Buffer {
    let mut buffer = Buffer::default();
    for n in 0..saves {
        assert_eq!(buffer.push(numbered(n), 10, None), Ok(n + 1));
    }
    buffer.connect();
    buffer.resume(None);
    buffer
}

fn numbered(n: u64) -> proto::Save {
    Save::set("t", [n.to_string()], "{}").into_proto()
}

fn acknowledge(buffer: &mut Buffer, through: u64) -> Answered {
    buffer.acknowledge(through, Vec::new(), &[])
}

fn sent(buffer: &mut Buffer) -> Vec<u64> {
    let mut offsets = Vec::new();
    while let Next::Send(message) = buffer.next(buffer.connection, Waker::noop()) {
        offsets.extend(message.offset..message.offset + message.saves.len() as u64);
    }
    offsets
}

#[test]
fn saves_leave_once_and_stay_until_they_are_answered() {
    let mut buffer = buffer(600);
    assert_eq!(sent(&mut buffer), (1..=600).collect::<Vec<_>>());
    assert!(sent(&mut buffer).is_empty());
    assert_eq!(acknowledge(&mut buffer, 400), Answered { saves: 400, bytes: 4_000 });
    assert_eq!(acknowledge(&mut buffer, 399), Answered::default());
    assert_eq!(buffer.through(), 400);
}

#[test]
fn a_new_connection_sends_again_what_was_not_accepted() {
    let mut buffer = buffer(10);
    sent(&mut buffer);
    acknowledge(&mut buffer, 3);
    let old = buffer.connection;
    buffer.connect();
    assert_eq!(buffer.resume(Some(7)), Answered { saves: 4, bytes: 40 });
    assert!(matches!(buffer.next(old, Waker::noop()), Next::End));
    assert_eq!(sent(&mut buffer), [8, 9, 10]);
}

#[test]
fn an_answer_to_what_was_never_sent_counts_for_nothing() {
    let mut buffer = buffer(5);
    assert_eq!(acknowledge(&mut buffer, u64::MAX), Answered::default());
    assert!(buffer.refuse(5, Error::refused("no")).0.is_none());
    assert_eq!(buffer.resume(Some(5)), Answered::default());
    assert_eq!(sent(&mut buffer), [1, 2, 3, 4, 5]);
}

#[test]
fn messages_are_bounded_in_saves_and_bytes() {
    let mut buffer = Buffer::default();
    for _ in 0..3 {
        buffer.push(numbered(1), MESSAGE_BYTES / 2, None).expect("it is open");
    }
    buffer.connect();
    assert!(matches!(buffer.next(1, Waker::noop()), Next::Wait), "the daemon has not said where to begin");
    buffer.resume(None);
    let Next::Send(message) = buffer.next(1, Waker::noop()) else { unreachable!("three wait") };
    assert_eq!(message.saves.len(), 2);
}

#[test]
fn a_refused_save_is_told_by_its_offset() {
    let mut buffer = buffer(3);
    sent(&mut buffer);
    let (not_saved, answered) = buffer.refuse(2, Error::refused("no"));
    let not_saved = not_saved.expect("told");
    assert_eq!((not_saved.offset, not_saved.save.key(), answered), (Some(2), &["1".to_owned()][..], Answered::default()));
    assert!(buffer.refuse(9, Error::refused("no")).0.is_none());
    assert_eq!(acknowledge(&mut buffer, 3).saves, 3);
}

#[test]
fn what_was_refused_is_neither_sent_nor_told_again() {
    let mut buffer = buffer(6);
    sent(&mut buffer);
    assert_eq!(buffer.refuse(1, Error::refused("no")).1, Answered { saves: 1, bytes: 10 }, "nothing before it is awaited");
    for offset in [3, 6] {
        assert!(buffer.refuse(offset, Error::refused("no")).0.is_some());
    }
    assert!(buffer.fail(4, Error::refused("failed")).is_some());
    buffer.connect();
    buffer.resume(None);
    assert_eq!(sent(&mut buffer), [2, 5]);
    for offset in [3, 4] {
        assert!(buffer.refuse(offset, Error::refused("no")).0.is_none());
    }
    assert_eq!(acknowledge(&mut buffer, 5).saves, 5, "the last one, which is told, goes with it");
    buffer.finish();
    assert!(buffer.is_finished());
}

#[test]
fn tickets_go_to_all_but_the_refused() {
    let mut buffer = buffer(0);
    let answers: Vec<_> = (0..4)
        .map(|n| {
            let (tell, answer) = oneshot::channel();
            buffer.push(numbered(n), 10, Some(tell)).expect("it is open");
            answer
        })
        .collect();
    sent(&mut buffer);
    buffer.refuse(2, Error::refused("no"));
    buffer.fail(1, Error::refused("failed"));
    let tickets = ["t-1", "t-3", ""].map(str::to_owned).to_vec();
    buffer.acknowledge(4, tickets, &[3]);
    let told: Vec<_> = answers.into_iter().map(|mut answer| answer.try_recv().expect("told").ok()).collect();
    let third = Accepted { ticket: Some("t-3".to_owned().into()), superseded: true };
    assert_eq!(told, [None, None, Some(third), Some(Accepted { ticket: None, superseded: false })]);
}

#[test]
fn what_has_no_answer_is_given_back_with_the_reason() {
    let mut buffer = buffer(4);
    sent(&mut buffer);
    buffer.push(numbered(4), 10, None).expect("it is open");
    acknowledge(&mut buffer, 1);
    buffer.refuse(3, Error::refused("no"));
    assert_eq!(buffer.unanswered(), 3);
    buffer.close();
    assert!(buffer.push(numbered(5), 10, None).is_err());
    let unanswered = buffer.take_unanswered(&Error::unavailable("away"));
    let told: Vec<_> =
        unanswered.iter().map(|one| (one.offset.expect("it had one"), matches!(one.error, Error::OutcomeUnknown(_)))).collect();
    assert_eq!(told, [(2, true), (4, true), (5, false)]);
}

#[test]
fn only_sent_appends_and_adds_would_count_twice() {
    let mut buffer = buffer(1);
    buffer.push(Save::append("log", "{}").into_proto(), 10, None).expect("it is open");
    assert!(!buffer.repeats_count());
    sent(&mut buffer);
    assert!(buffer.repeats_count());
    acknowledge(&mut buffer, 2);
    buffer.push(Save::set("t", ["1"], r#"{"n":1}"#).adding(["n"]).into_proto(), 10, None).expect("it is open");
    sent(&mut buffer);
    assert!(buffer.repeats_count());
}
