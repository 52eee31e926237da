use futures_util::FutureExt;

use super::*;
use crate::limits::LimitKind;

const ID: StreamId = [7; 16];

fn streams(max: u64) -> Arc<Streams> {
    Streams::new(Limit::new(LimitKind::Amount, "request_ids.count_max", max), || Sequence::from_u64(100))
}

fn observed(ranges: &[Range]) -> Arc<Streams> {
    let streams = streams(10);
    for &(first, last) in ranges {
        for offset in first..=last {
            streams.observe(StreamOrigin { stream_id: ID, offset }, Sequence::from_u64(200 + offset));
        }
    }
    streams
}

fn open(streams: &Arc<Streams>, id: StreamId) -> (Opening, CancellationToken) {
    let ended = CancellationToken::new();
    (streams.open(id, ended.clone(), true).expect("room"), ended)
}

fn settled(opening: &Opening) -> Option<Resumption> {
    opening.settled().now_or_never()
}

#[test]
fn a_recovered_stream_knows_what_was_accepted_and_what_was_not() {
    let (opening, _) = open(&observed(&[(3, 5), (8, 8), (10, 12)]), ID);
    let resumption = settled(&opening).expect("nothing is in flight");
    assert_eq!(resumption.through(), Some(12));
    assert_eq!(resumption.missing().collect::<Vec<_>>(), [(6, 7), (9, 9)]);
    let accepted: Vec<_> = (0..=12).filter(|&offset| resumption.was_accepted(offset)).collect();
    assert_eq!(accepted, [0, 1, 2, 3, 4, 5, 8, 10, 11, 12], "what is older than the memory counts as accepted");
}

#[test]
fn where_saves_landed_is_remembered_of_streams_that_wait_also_across_a_stop() {
    let before = streams(10);
    for (id, waits) in [(1, true), (2, false)] {
        let opening = before.open([id; 16], CancellationToken::new(), waits).expect("room");
        for (first, count, sequence) in [(1, 3, 200), (4, 2, 203), (9, 1, 300)] {
            opening.begin().expect("it is the newest").accepted(first, count, Sequence::from_u64(sequence));
        }
    }
    let after = streams(10);
    after.recall(before.remembered());
    assert_eq!(after.remembered().iter().map(Remembered::landed).sum::<usize>(), 2);
    let resumed = |id| settled(&after.open([id; 16], CancellationToken::new(), true).expect("room")).expect("nothing is in flight");
    let found = |id| [1, 5, 6, 9].map(|offset| resumed(id).sequence(offset).map(Sequence::get));
    assert_eq!(found(1), [Some(200), Some(204), None, Some(300)]);
    assert_eq!(found(2), [None; 4]);
}

#[test]
fn gaps_are_remembered_up_to_a_bound() {
    let ranges: Vec<_> = (0..200).map(|n| (n * 10, n * 10 + 1)).collect();
    let (opening, _) = open(&observed(&ranges), ID);
    let resumption = settled(&opening).expect("nothing is in flight");
    assert_eq!(resumption.missing().count(), Streams::RANGES_MAX - 1);
    assert_eq!(resumption.through(), Some(1_991));
}

#[test]
fn a_newer_opening_ends_the_older_and_waits_for_what_it_has_in_flight() {
    let streams = streams(10);
    let (older, older_ended) = open(&streams, ID);
    let (one, two) = (older.begin().expect("it is the newest"), older.begin().expect("it is the newest"));
    let (newer, newer_ended) = open(&streams, ID);
    assert!(older_ended.is_cancelled() && !newer_ended.is_cancelled());
    assert!(older.begin().is_none(), "the older may append no more");
    assert_eq!(settled(&newer), None);
    one.accepted(0, 3, Sequence::from_u64(500));
    assert_eq!(settled(&newer), None);
    drop(two);
    assert_eq!(settled(&newer).expect("everything is answered").through(), Some(2));
    drop(older);
    assert!(newer.begin().is_some(), "the end of the older changes nothing for the newer");
}

#[test]
fn streams_that_the_journal_has_given_up_are_forgotten_at_the_limit() {
    let streams = streams(2);
    for id in [1, 2] {
        let (opening, _) = open(&streams, [id; 16]);
        opening.begin().expect("it is the newest").accepted(0, 1, Sequence::from_u64(98 + u64::from(id)));
    }
    let ended = CancellationToken::new();
    let (opening, _) = open(&streams, [3; 16]);
    assert!(streams.open([4; 16], ended.clone(), true).is_err(), "the second is still in the journal, the third is open");
    drop(opening);
    assert_eq!(streams.count(), 1, "a stream that saved nothing is not remembered");
    assert!(streams.open([4; 16], ended, true).is_ok());
    assert!(streams.count() == 1 && streams.limit.used() == 1);
}

#[test]
fn a_stream_that_is_open_is_not_forgotten() {
    let streams = streams(1);
    let (opening, _) = open(&streams, ID);
    opening.begin().expect("it is the newest").accepted(0, 1, Sequence::from_u64(1));
    assert!(streams.open([8; 16], CancellationToken::new(), true).is_err());
    drop(opening);
    assert!(streams.open([8; 16], CancellationToken::new(), true).is_ok());
}
