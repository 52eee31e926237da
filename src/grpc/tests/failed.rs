use std::time::SystemTime;

use tonic::Code;
use tonic_types::StatusExt;

use super::harness::*;
use crate::{
    failed::{Closed, FailedRow, FailedState, SaveKind},
    grpc::{AppendError, FailedStanding, FlushError},
    limits::LimitReached,
    outcomes::Ticket,
    proto::*,
    save::{Change, LaneId, Sequence},
};

fn row(sequence: u64, kind: SaveKind, collection: &str, key: &[&str], body: Option<&str>) -> FailedRow {
    FailedRow {
        sequence: Sequence::from_u64(sequence),
        collection: collection.to_owned(),
        key: key.iter().map(|&part| part.to_owned()).collect(),
        kind,
        body: body.map(str::to_owned),
        added: Vec::new(),
        sqlstate: Some("23505".to_owned()),
        constraint: None,
        message: "duplicate key".to_owned(),
        detail: None,
        accepted_at: SystemTime::UNIX_EPOCH,
        failed_at: SystemTime::UNIX_EPOCH,
        closed: None,
    }
}

fn set(sequence: u64, body: &str) -> FailedRow {
    row(sequence, SaveKind::Set, "players", &["7"], Some(body))
}

fn closed(row: FailedRow, state: FailedState) -> FailedRow {
    FailedRow { closed: Some(Closed { at: SystemTime::UNIX_EPOCH, state, by: None, note: None }), ..row }
}

fn ticket(sequence: u64) -> String {
    tickets().show(Ticket { sequence: Sequence::from_u64(sequence), lane: LaneId(0) })
}

/// Another journal's.
const ELSEWHERE: &str = "00000000000000ff-00000000010000000000000001";

fn all() -> RetryFailedSavesRequest {
    RetryFailedSavesRequest { all: true, ..RetryFailedSavesRequest::default() }
}

fn these(sequences: &[u64]) -> RetryFailedSavesRequest {
    let tickets = sequences.iter().map(|&sequence| ticket(sequence)).collect();
    RetryFailedSavesRequest {
        filter: Some(FailedSaveFilter { tickets, ..FailedSaveFilter::default() }),
        ..RetryFailedSavesRequest::default()
    }
}

/// A door with these failed saves, everything before them settled.
async fn door(rows: Vec<FailedRow>) -> Harness {
    let door = start().await;
    *door.daemon.failed.lock().expect("no panic") = rows;
    *door.daemon.flush.lock().expect("no panic") = Some(Ok(Sequence::ZERO));
    door
}

async fn retry(door: &Harness, request: RetryFailedSavesRequest) -> Vec<RetryResult> {
    soon(door.admin().await.retry_failed_saves(request)).await.expect("an answer").into_inner().results
}

fn refusals(results: &[RetryResult]) -> Vec<RetryRefusal> {
    results.iter().map(RetryResult::refusal).collect()
}

#[tokio::test]
async fn a_retry_is_a_new_save_as_it_was_sent() {
    let rows = vec![
        set(3, r#"{"name": "a", "level": 1.50}"#),
        row(4, SaveKind::Delete, "players", &["8"], None),
        row(5, SaveKind::Append, "events", &[], Some(r#"{"what": "x"}"#)),
    ];
    let door = door(rows).await;
    let results = retry(&door, all()).await;
    let tickets: Vec<_> = results.iter().map(|result| (result.ticket.clone(), sequence(&result.retry_ticket))).collect();
    assert_eq!(tickets, [(ticket(3), 1), (ticket(4), 2), (ticket(5), 3)]);
    let saved = door.journal.saved();
    assert_eq!(saved.iter().map(|save| save.retries.map_or(0, Sequence::get)).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(saved[0].change.body().map(crate::save::Body::as_str), Some(r#"{"name": "a", "level": 1.50}"#));
    assert!(matches!((&saved[1].change, &saved[2].change), (Change::Delete, Change::Append(_))));
    assert_eq!(door.journal.keys(), ["7", "8", ""]);
}

#[tokio::test]
async fn what_is_closed_saved_since_or_unknown_is_not_retried_and_says_why() {
    let body = r#"{"name": "a"}"#;
    let rows = vec![
        closed(set(3, body), FailedState::Retried),
        closed(set(4, body), FailedState::Discarded),
        closed(set(5, body), FailedState::Overtaken),
        set(6, body),
    ];
    let door = door(rows).await;
    *door.daemon.standing.lock().expect("no panic") = FailedStanding::SavedSince;
    let mut request = these(&[3, 4, 5, 6, 9]);
    request.filter.as_mut().expect("a filter").tickets.push(ELSEWHERE.to_owned());
    let results = retry(&door, request).await;
    use RetryRefusal::{Closed, NotFound, SavedSince};
    assert_eq!(refusals(&results), [Closed, Closed, SavedSince, SavedSince, NotFound, NotFound]);
    assert_eq!(results[5].ticket, ELSEWHERE, "another journal's");
    assert!(door.journal.saved().is_empty());
    // Forced: what an operator can mean, and no more.
    let forced = |sequences: &[u64]| RetryFailedSavesRequest { force: true, ..these(sequences) };
    use RetryRefusal::Unspecified;
    assert_eq!(refusals(&retry(&door, forced(&[3, 4, 5, 6])).await), [Closed, Closed, Unspecified, Unspecified]);
    assert_eq!(refusals(&retry(&door, RetryFailedSavesRequest { force: true, ..all() }).await), [Unspecified], "of all only the open ones");
    for standing in [FailedStanding::Retrying, FailedStanding::Closed] {
        *door.daemon.standing.lock().expect("no panic") = standing;
        assert_eq!(refusals(&retry(&door, forced(&[6])).await), [Closed], "{standing:?}");
    }
}

#[tokio::test]
async fn what_would_be_refused_today_is_not_retried_unless_the_column_is_left_out() {
    let rows = vec![
        set(3, r#"{"name": "a", "gone": 1}"#),
        set(4, r#"{"gone": 1}"#),
        row(5, SaveKind::Set, "dropped", &["1"], Some("{}")),
        row(6, SaveKind::Append, "players", &[], Some(r#"{"id": 1}"#)),
        set(7, "no json"),
        row(8, SaveKind::Set, "players", &["7"], None),
    ];
    let door = door(rows).await;
    let results = retry(&door, all()).await;
    assert!(results.iter().all(|result| result.refusal() == RetryRefusal::Invalid), "{results:?}");
    let expected = ["--without-column", "--without-column", "\"dropped\" is unknown", "another mode", "JSON", "no body"];
    for (result, part) in results.iter().zip(expected) {
        assert!(result.message.contains(part), "{part} is not in {:?}", result.message);
    }
    let without = RetryFailedSavesRequest { without_columns: vec!["gone".to_owned()], ..these(&[3, 4]) };
    let results = retry(&door, without).await;
    assert_eq!(refusals(&results), [RetryRefusal::Unspecified, RetryRefusal::Invalid]);
    assert!(results[1].message.contains("empty"), "{results:?}");
    assert_eq!(door.journal.saved()[0].change.body().map(crate::save::Body::as_str), Some(r#"{"name":"a"}"#));
}

#[tokio::test]
async fn a_retry_goes_by_pages_and_what_fails_meanwhile_comes_last() {
    let rows = (1..=1_500).map(|n| row(n, SaveKind::Delete, "players", &["1"], None)).collect();
    let door = door(rows).await;
    let mut admin = door.admin().await;
    let first = soon(admin.retry_failed_saves(all())).await.expect("an answer").into_inner();
    assert_eq!((first.results.len(), first.next_page_token.clone()), (1_000, tickets().after(Sequence::from_u64(1_000))));
    door.daemon.failed.lock().expect("no panic").push(row(1_501, SaveKind::Delete, "players", &["1"], None));
    let next = RetryFailedSavesRequest { page_token: first.next_page_token, ..all() };
    let second = soon(admin.retry_failed_saves(next)).await.expect("an answer").into_inner();
    assert_eq!((second.results.len(), second.next_page_token), (501, String::new()));
    assert_eq!(door.journal.saved().len(), 1_501);
}

#[tokio::test]
async fn a_retry_has_room_of_its_own_where_clients_have_none() {
    let door = door(vec![set(3, r#"{"name": "a"}"#)]).await;
    let limit = &door.limits.backlog_objects;
    limit.set_used(limit.max());
    let refused = soon(door.saves().await.save(SaveRequest { save: Some(player(1)), ..SaveRequest::default() })).await;
    assert_error(&refused.expect_err("full"), Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(refusals(&retry(&door, all()).await), [RetryRefusal::Unspecified]);
    limit.set_used(limit.max() + limit.max() / 16);
    let refused = soon(door.admin().await.retry_failed_saves(all())).await.expect_err("the reserve is bounded");
    assert_error(&refused, Code::ResourceExhausted, "LIMIT_REACHED");
}

#[tokio::test]
async fn a_retry_fails_as_a_whole_where_nothing_can_be_told_or_kept() {
    let door = door(vec![set(3, r#"{"name": "a"}"#)]).await;
    let mut admin = door.admin().await;
    *door.daemon.flush.lock().expect("no panic") = None;
    assert_error(&soon(admin.retry_failed_saves(all())).await.expect_err("unknown"), Code::Unavailable, "POSTGRES_UNAVAILABLE");
    let halted = FlushError::Halted { lane: LaneId(0), reason: "a reason".to_owned(), remedy: "a remedy".to_owned() };
    *door.daemon.flush.lock().expect("no panic") = Some(Err(halted));
    assert_error(&soon(admin.retry_failed_saves(all())).await.expect_err("halted"), Code::FailedPrecondition, "LANE_HALTED");
    *door.daemon.flush.lock().expect("no panic") = Some(Ok(Sequence::ZERO));
    let full = LimitReached { name: "journal.bytes_max", max: 1, used: 1 };
    door.journal.conduct(Conduct::Fail(AppendError::Full(full)));
    assert_error(&soon(admin.retry_failed_saves(all())).await.expect_err("full"), Code::ResourceExhausted, "LIMIT_REACHED");
}

#[tokio::test]
async fn requests_that_mean_nothing_are_refused_by_field() {
    let door = door(Vec::new()).await;
    let mut admin = door.admin().await;
    let filter = |tickets: Vec<String>| Some(FailedSaveFilter { tickets, ..FailedSaveFilter::default() });
    let list = ListFailedSavesRequest::default();
    let lists = [
        (ListFailedSavesRequest { filter: filter(vec!["x".to_owned()]), ..list.clone() }, "filter.tickets[0]"),
        (ListFailedSavesRequest { filter: filter(vec![ticket(1); 1_001]), ..list.clone() }, "filter.tickets"),
        (ListFailedSavesRequest { page_size: 1_001, ..list.clone() }, "page_size"),
        (ListFailedSavesRequest { page_size: -1, ..list.clone() }, "page_size"),
        (ListFailedSavesRequest { page_token: "x".to_owned(), ..list.clone() }, "page_token"),
        (ListFailedSavesRequest { states: vec![99], ..list }, "states"),
    ];
    let named = |status: tonic::Status| status.get_details_bad_request().expect("violations").field_violations[0].field.clone();
    for (request, field) in lists {
        assert_eq!(named(soon(admin.list_failed_saves(request)).await.expect_err("refused")), field);
    }
    let nothing_chosen = soon(admin.retry_failed_saves(RetryFailedSavesRequest::default())).await;
    assert_eq!(named(nothing_chosen.expect_err("refused")), "filter");
    let discard = DiscardFailedSavesRequest { reason: "a test".to_owned(), ..DiscardFailedSavesRequest::default() };
    assert_eq!(named(soon(admin.discard_failed_saves(discard.clone())).await.expect_err("refused")), "filter");
    let no_reason = DiscardFailedSavesRequest { all: true, reason: " ".to_owned(), ..discard };
    assert_eq!(named(soon(admin.discard_failed_saves(no_reason)).await.expect_err("refused")), "reason");
}

#[tokio::test]
async fn a_discard_tells_what_it_left() {
    let door = door(vec![set(3, "{}")]).await;
    let filter = FailedSaveFilter { tickets: vec![ticket(3), ticket(4)], ..FailedSaveFilter::default() };
    let request = DiscardFailedSavesRequest { filter: Some(filter), all: false, reason: "a test".to_owned() };
    let mut admin = door.admin().await;
    let answer = soon(admin.discard_failed_saves(request)).await.expect("an answer").into_inner();
    assert_eq!((answer.count, answer.tickets_left), (1, vec![ticket(4)]));
    let away = DiscardFailedSavesRequest { filter: None, all: true, reason: "a test".to_owned() };
    assert_error(&soon(admin.discard_failed_saves(away)).await.expect_err("away"), Code::Unavailable, "POSTGRES_UNAVAILABLE");
}

#[tokio::test]
async fn live_limits_are_changed_all_or_none() {
    let door = start().await;
    let mut admin = door.admin().await;
    let change = |name: &str, max| LimitChange { name: name.to_owned(), max };
    let wrong = [
        change("failed.saves_max", 5),
        change("grpc.calls_in_flight_max", 0),
        change("backlog.bytes_max", 1),
        change("drain.statement_target", 10_001),
    ];
    let status = soon(admin.set_limits(SetLimitsRequest { changes: wrong.to_vec() })).await.expect_err("refused");
    let fields: Vec<_> = status.get_details_bad_request().expect("violations").field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["changes[1].max", "changes[2].name", "changes[3].max"]);
    assert_ne!(door.limits.failed_saves.max(), 5);
    let gentle = [change("drain.rows_per_second_max", 7), change("drain.statement_target", 8)];
    let right = [vec![change("failed.saves_max", 5), change("grpc.calls_in_flight_max", 6)], gentle.to_vec()].concat();
    let limits = soon(admin.set_limits(SetLimitsRequest { changes: right })).await.expect("changed").into_inner().limits;
    let max = |name: &str| limits.iter().find(|limit| limit.name == name).map(|limit| limit.max);
    assert_eq!((max("failed.saves_max"), max("grpc.calls_in_flight_max")), (Some(5), Some(6)));
    assert_eq!((door.limits.rows_per_second.max(), door.limits.statement_target.max()), (7, 8));
    assert_eq!((door.limits.failed_saves.max(), *door.daemon.probes.lock().expect("no panic")), (5, 1));
    assert_eq!(soon(admin.set_limits(SetLimitsRequest::default())).await.expect_err("nothing to do").code(), Code::InvalidArgument);
}
