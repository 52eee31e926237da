use tonic::{Code, Request, metadata::MetadataValue};
use tonic_types::StatusExt;

use super::harness::*;
use crate::{
    grpc::{AppendError, FlushError, fixtures},
    limits::LimitReached,
    proto::{self, save_service_server::SaveService as _, *},
    save::{LaneId, RequestId, Sequence},
};

fn request(save: proto::Save) -> SaveRequest {
    SaveRequest { save: Some(save), ..SaveRequest::default() }
}

fn timed<T>(message: T, timeout: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", MetadataValue::from_static(timeout));
    request
}

fn batch(saves: Vec<proto::Save>) -> SaveBatchRequest {
    SaveBatchRequest { saves, ..SaveBatchRequest::default() }
}

#[tokio::test]
async fn a_save_is_answered_with_its_ticket_once_the_journal_has_it() {
    let door = start().await;
    let mut client = door.saves().await;
    for number in 1..=2 {
        let response = soon(client.save(request(player(number)))).await.expect("it is accepted").into_inner();
        assert_eq!(sequence(&response.ticket), number);
        assert_eq!((response.state(), response.deduplicated), (TicketState::Pending, false));
    }
    assert_eq!(door.journal.keys(), ["1", "2"]);
    assert_eq!(door.room_taken(), (2, true), "the room is the backlog's now");
    assert_eq!(door.limits.calls_in_flight.used(), 0);
    drop(client);
    door.stopped().await;
}

#[tokio::test]
async fn a_batch_is_accepted_in_order_and_an_atomic_one_as_a_whole() {
    let door = start().await;
    let mut client = door.saves().await;
    let response = soon(client.save_batch(batch((1..=3).map(player).collect()))).await.expect("it is accepted").into_inner();
    let tickets: Vec<_> = response.results.iter().map(|one| sequence(&one.ticket)).collect();
    assert_eq!(tickets, [1, 2, 3]);
    let atomic = SaveBatchRequest { atomic: true, ..batch((4..=6).map(player).collect()) };
    soon(client.save_batch(atomic)).await.expect("it is accepted");
    let left: Vec<_> = door.journal.saved().iter().map(|save| save.batch_left).collect();
    assert_eq!(left, [0, 0, 0, 2, 1, 0]);
}

#[tokio::test]
async fn one_wrong_save_refuses_the_batch_and_every_violation_is_told() {
    let door = start().await;
    let saves = vec![player(1), save("players", 2, "[]"), player(3), save("nothing", 4, "{}")];
    let status = soon(door.saves().await.save_batch(batch(saves))).await.expect_err("it is refused");
    let info = assert_error(&status, Code::InvalidArgument, "INVALID_SAVE");
    assert_eq!(info.metadata["violations"], "2");
    let violations = status.get_details_bad_request().expect("details").field_violations;
    let fields: Vec<_> = violations.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["saves[1].json", "saves[3].collection"]);
    assert!(door.journal.saved().is_empty() && door.room_taken() == (0, false));
}

#[tokio::test]
async fn a_batch_full_of_errors_is_answered_within_the_headers_of_any_client() {
    let door = start().await;
    let wrong = proto::Save { collection: "x".repeat(300), ..player(1) };
    let status = soon(door.saves().await.save_batch(batch(vec![wrong; 5_000]))).await.expect_err("it is refused");
    let info = assert_error(&status, Code::InvalidArgument, "INVALID_SAVE");
    assert_eq!(info.metadata["violations"], "5000");
    assert!(status.details().len() < 6_000, "{}", status.details().len());
}

#[tokio::test]
async fn numbers_of_another_version_are_refused_and_not_ignored() {
    let door = start().await;
    let mut client = door.saves().await;
    let status = soon(client.save(SaveRequest { durability: 9, ..request(player(1)) })).await.expect_err("it is refused");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    assert!(door.journal.saved().is_empty());
}

#[tokio::test]
async fn rpcs_whose_time_has_not_come_are_named() {
    let door = start().await;
    let mut admin = door.admin().await;
    let statuses = [
        ("AdminService.WatchStatus", soon(admin.watch_status(WatchStatusRequest::default())).await.err()),
        ("AdminService.Drain", soon(admin.drain(DrainRequest::default())).await.err()),
    ];
    for (name, status) in statuses {
        let info = assert_error(&status.expect("it is refused"), Code::Unimplemented, "NOT_IMPLEMENTED");
        assert_eq!(info.metadata["name"], name);
    }
}

#[tokio::test]
async fn requests_that_are_empty_or_too_large_are_refused_with_the_limit() {
    let door = start_with(|settings| (settings.message_bytes_max, settings.batch_saves_max) = (10_000, 5)).await;
    let mut client = door.saves().await;
    let status = soon(client.save(SaveRequest::default())).await.expect_err("it is refused");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    let large = save("players", 1, &format!(r#"{{"name": "{}"}}"#, "x".repeat(9_990)));
    for (saves, why) in
        [(vec![], "is empty"), (vec![player(1); 6], "grpc.batch_saves_max = 5"), (vec![large], "grpc.message_bytes_max = 10000")]
    {
        let status = soon(client.save_batch(batch(saves))).await.expect_err("it is refused");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
        assert!(status.message().contains(why), "{status:?}");
    }
    let nobody = save(&"x".repeat(10_000), 1, "{}");
    let status = soon(client.save(request(nobody))).await.expect_err("it is refused");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    assert!(status.message().contains("grpc.message_bytes_max = 10000"), "{status:?}");
}

#[tokio::test]
async fn what_the_journal_refuses_gives_its_room_back_and_what_it_may_hold_does_not() {
    let door = start().await;
    let mut client = door.saves().await;
    let full = AppendError::Full(LimitReached { name: "journal.bytes_max", max: 10, used: 9 });
    for (conduct, code, reason) in [
        (Conduct::Fail(full), Code::ResourceExhausted, "LIMIT_REACHED"),
        (Conduct::Fail(AppendError::FreeSpace { free: 1, min: 2 }), Code::ResourceExhausted, "DISK_FULL"),
        (Conduct::Fail(AppendError::Stopped), Code::Unavailable, "STOPPING"),
    ] {
        door.journal.conduct(conduct);
        let status = soon(client.save(request(player(1)))).await.expect_err("it is refused");
        assert_error(&status, code, reason);
        assert!(status.get_details_retry_info().is_some() && status.metadata().contains_key("grpc-retry-pushback-ms"));
        assert_eq!(door.room_taken(), (0, false), "{reason}");
    }
    door.journal.conduct(Conduct::Fail(AppendError::OutcomeUnknown));
    let status = soon(client.save(request(player(1)))).await.expect_err("nobody knows");
    assert_error(&status, Code::Internal, "OUTCOME_UNKNOWN");
    assert!(status.get_details_retry_info().is_none(), "a retry may save it twice");
    assert_eq!(door.room_taken(), (1, true));
    door.journal.conduct(Conduct::Drop);
    let status = soon(client.save(request(player(1)))).await.expect_err("nobody knows");
    assert_error(&status, Code::Internal, "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn a_call_that_is_given_up_cancels_nothing_in_the_journal() {
    let door = start().await;
    door.journal.conduct(Conduct::Hold);
    let mut client = door.saves().await;
    let call = tokio::spawn(async move { client.save(request(player(1))).await });
    door.journal.handed(1).await;
    call.abort();
    let status = soon(door.service().save(timed(request(player(2)), "50m"))).await.expect_err("the deadline comes");
    assert_error(&status, Code::DeadlineExceeded, "DEADLINE");
    assert!(status.message().contains("stays accepted"), "{status:?}");
    door.journal.release();
    assert_eq!((door.journal.keys(), door.room_taken()), (vec!["1".to_owned(), "2".to_owned()], (2, true)));
}

#[tokio::test]
async fn a_deadline_that_has_passed_on_arrival_accepts_nothing() {
    let door = start().await;
    let status = soon(door.service().save(timed(request(player(1)), "1n"))).await.expect_err("it is refused");
    assert_error(&status, Code::DeadlineExceeded, "DEADLINE");
    assert!(door.journal.saved().is_empty() && door.room_taken() == (0, false));
}

#[tokio::test]
async fn a_column_that_a_release_has_just_added_is_found_before_it_is_refused() {
    let door = start().await;
    let mut client = door.saves().await;
    let guild = || request(save("players", 1, r#"{"guild": "x"}"#));
    let status = soon(client.save(guild())).await.expect_err("there is no such column");
    assert_error(&status, Code::InvalidArgument, "INVALID_SAVE");
    let mut catalog = fixtures::catalog();
    let column = catalog.tables[0].columns[1].clone();
    catalog.tables[0].columns.push(crate::collections::CatalogColumn { name: "guild".to_owned(), ..column });
    *door.daemon.catalog.lock().expect("it is free") = catalog;
    soon(client.save(guild())).await.expect("the column is there now");
    assert_eq!(*door.daemon.readings.lock().expect("it is free"), 2);
    soon(client.save(guild())).await.expect("it is known");
    assert_eq!(*door.daemon.readings.lock().expect("it is free"), 2, "what is known needs no reading");
}

#[tokio::test]
async fn a_flush_tells_how_far_or_what_is_in_the_way() {
    let door = start().await;
    let mut client = door.saves().await;
    let of = |collections: &[&str]| FlushRequest { collections: collections.iter().map(|&name| name.to_owned()).collect() };
    let set = |answer| *door.daemon.flush.lock().expect("it is free") = Some(answer);
    set(Ok(Sequence::from_u64(77)));
    assert_eq!(soon(client.flush(of(&["players", "items"]))).await.expect("it is flushed").into_inner().through, 77);
    let status = soon(client.flush(of(&["players", "nothing"]))).await.expect_err("it is refused");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    let (lane, reason) = (LaneId(0), "because".to_owned());
    for (error, expected) in [
        (FlushError::Paused { lane, reason: reason.clone() }, "LANE_PAUSED"),
        (FlushError::Halted { lane, reason, remedy: "add it".to_owned() }, "LANE_HALTED"),
        (FlushError::Fenced { lane }, "LANE_FENCED"),
    ] {
        set(Err(error));
        let status = soon(client.flush(of(&[]))).await.expect_err("it is refused");
        assert_eq!(assert_error(&status, Code::FailedPrecondition, expected).metadata["lane"], "default");
    }
    *door.daemon.flush.lock().expect("it is free") = None;
    let status = soon(door.service().flush(timed(of(&[]), "50m"))).await.expect_err("the deadline comes");
    assert_error(&status, Code::DeadlineExceeded, "DEADLINE");
}

#[tokio::test]
async fn lanes_are_paused_with_a_reason_and_resumed() {
    let door = start().await;
    let mut client = door.admin().await;
    let pause = |lane: &str, reason: &str, seconds| PauseRequest {
        lane: lane.to_owned(),
        reason: reason.to_owned(),
        duration: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let paused = soon(client.pause(pause("", "migration", 60))).await.expect("it is paused").into_inner();
    assert_eq!(paused.end_time.expect("it ends").seconds, 60);
    assert_eq!(soon(client.resume(ResumeRequest::default())).await.expect("it goes on").into_inner().lanes, ["default"]);
    let gap = |lane: &str, fail| ResumeRequest { lane: lane.to_owned(), fail, accept_gap: true };
    for (wrong, field) in [(gap("", false), "lane"), (gap("default", true), "accept_gap")] {
        let status = soon(client.resume(wrong)).await.expect_err("what is given up is one lane's, and nothing else");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(status.get_details_bad_request().expect("a violation").field_violations[0].field, field);
    }
    for wrong in [pause("", " ", 60), pause("", &"x".repeat(501), 60), pause("", "x", 0), pause("", "x", -1), pause("", "x", 3_601)] {
        let status = soon(client.pause(wrong)).await.expect_err("it is refused");
        assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let status = soon(client.pause(pause("other", "x", 60))).await.expect_err("there is no such lane");
    assert_error(&status, Code::NotFound, "UNKNOWN_LANE");
}

#[tokio::test]
async fn status_and_collections_are_shown() {
    let door = start().await;
    let status = soon(door.admin().await.get_status(GetStatusRequest {})).await.expect("it is told").into_inner().status.expect("a status");
    assert_eq!((status.run, status.accepted_through, status.refused_tables), (3, 9, 1));
    assert_eq!((status.lanes[0].state(), status.lanes[0].remedy.as_str()), (LaneState::Halted, "add it"));
    let list = soon(door.saves().await.list_collections(ListCollectionsRequest {})).await.expect("it is told").into_inner();
    let names: Vec<_> = list.collections.iter().map(|one| (one.name.as_str(), one.table.as_str(), one.mode())).collect();
    let upsert = CollectionMode::Upsert;
    let expected =
        [("events", "public.events", CollectionMode::Append), ("items", "public.items", upsert), ("players", "public.players", upsert)];
    assert_eq!(names, expected);
    let players = &list.collections[2];
    assert_eq!((players.key.as_slice(), players.lane.as_str()), (&["id".to_owned()][..], "default"));
    let read_only: Vec<_> = players.columns.iter().filter(|one| !one.read_only_reason.is_empty()).map(|one| one.name.as_str()).collect();
    assert_eq!(read_only, ["total", "number"], "an identity column may be a key");
    assert_eq!(list.refused_tables[0].name, "summary");
}

#[tokio::test]
async fn a_request_id_is_bounded_and_free_again_after_a_refusal() {
    let door = start().await;
    let mut client = door.saves().await;
    let with_id = |id: String, save| SaveRequest { request_id: id, ..request(save) };
    let status = soon(client.save(with_id("x".repeat(RequestId::BYTES_MAX + 1), player(1)))).await.expect_err("it is too long");
    assert_error(&status, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(status.get_details_bad_request().expect("a violation").field_violations[0].field, "request_id");
    let longest = "x".repeat(RequestId::BYTES_MAX);
    soon(client.save(with_id(longest.clone(), save("players", 1, "{}")))).await.expect_err("the save is wrong");
    let answer = soon(client.save(with_id(longest.clone(), player(1)))).await.expect("the id is free").into_inner();
    assert!(!answer.deduplicated);
    assert_eq!(door.journal.saved()[0].request_id.as_ref().map(|request| &*request.id), Some(longest.as_str()));
    let other = SaveBatchRequest { request_id: longest, ..batch(vec![player(1)]) };
    let status = soon(client.save_batch(other)).await.expect_err("it was no batch");
    assert_error(&status, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!((door.journal.saved().len(), door.limits.request_ids.used()), (1, 1));
}

#[tokio::test]
async fn at_the_limit_of_request_ids_calls_with_a_new_one_are_refused() {
    let door = start().await;
    door.limits.request_ids.set_max(1);
    let mut client = door.saves().await;
    let with_id = |id: &str| SaveRequest { request_id: id.to_owned(), ..request(player(1)) };
    soon(client.save(with_id("a"))).await.expect("there is room");
    let status = soon(client.save(with_id("b"))).await.expect_err("there is none");
    assert_eq!(assert_error(&status, Code::ResourceExhausted, "LIMIT_REACHED").metadata["limit"], "request_ids.count_max");
    assert!(soon(client.save(with_id("a"))).await.expect("it is known").into_inner().deduplicated);
    soon(client.save(request(player(2)))).await.expect("it needs no id");
}

#[tokio::test]
async fn a_get_answers_what_is_read_and_a_load_its_pages() {
    let door = start().await;
    let mut saves = door.saves().await;
    let get = |id: &str| GetRequest { collection: "players".to_owned(), key: vec![id.to_owned()] };
    let one = soon(saves.get(get("1"))).await.expect("read").into_inner();
    assert_eq!((one.found, one.pending, &one.json[..], one.unknown_columns), (true, true, &b"{\"id\":1}"[..], vec!["name".to_owned()]));
    assert!(!soon(saves.get(get("2"))).await.expect("read").into_inner().found);
    let large = soon(saves.get(get("3"))).await.expect_err("no answer holds it");
    assert_error(&large, Code::OutOfRange, "LIMIT_REACHED");
    assert!(large.message().contains("the key") && large.message().contains("read it with SQL"), "{large:?}");
    assert_error(&soon(saves.get(get("5"))).await.expect_err("it is away"), Code::Unavailable, "POSTGRES_UNAVAILABLE");
    let late = soon(saves.get(timed(get("4"), "200m"))).await.expect_err("nobody waits any longer");
    assert_error(&late, Code::DeadlineExceeded, "DEADLINE");
    let mut hanging = door.saves().await;
    let waits = tokio::spawn(async move { hanging.get(get("4")).await });
    soon(async {
        while door.limits.calls_in_flight.used() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let load = LoadRequest { collection: "players".to_owned(), page_size: 5, ..LoadRequest::default() };
    let mut pages = soon(saves.load(load)).await.expect("a stream").into_inner();
    let page = soon(pages.message()).await.expect("a page").expect("it never ends");
    assert_eq!((page.rows[0].key[0].as_str(), page.rows_loaded, page.rows_estimated), ("7", 5, 9));
    assert_eq!(door.limits.awaiting_calls.used(), 1, "a load is a waiting call");
    door.stop.cancel();
    let stopped = soon(waits).await.expect("it ends").expect_err("the daemon stops");
    assert_error(&stopped, Code::Unavailable, "STOPPING");
}
