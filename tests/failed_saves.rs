//! What Postgres would not take, and what is done about it: through the program's own command line.

use std::path::Path;

use forebay::proto::{DiscardFailedSavesRequest, FailedSaveState, FlushRequest, ListFailedSavesRequest, PauseRequest, ResumeRequest, Save};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Database, Setup,
    command::{cli, lines, run},
    directory, eventually, http_get,
    saves::{batch, request, set},
};

const SCHEMA: &str = "create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'), level int);
     create table events (id bigint generated always as identity primary key, what text check (what <> 'bad'))";
const ROWS: &str = "select sequence, closed_reason, closed_by from forebay.failed_save order by sequence";

fn player(id: u64, name: &str) -> Save {
    set("players", &[&id.to_string()], json!({"name": name}))
}

fn event(what: &str) -> Save {
    set("events", &[], json!({"what": what}))
}

fn setup(journal: &Path, database: &Database) -> Setup {
    Setup::new(journal, &database.url()).set("collections.events.mode", "append").expect_in_log("23514")
}

/// Saves one after the other; gives their tickets once each has its outcome.
async fn save(daemon: &Daemon, saves: Vec<Save>) -> Vec<String> {
    let mut client = daemon.client().await;
    let results = client.save_batch(batch(saves)).await.expect("accepted").into_inner().results;
    flush(daemon).await;
    results.into_iter().map(|result| result.ticket).collect()
}

async fn flush(daemon: &Daemon) {
    daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
}

async fn pause(daemon: &Daemon) {
    let request = PauseRequest { reason: "a test".to_owned(), ..PauseRequest::default() };
    daemon.admin().await.pause(request).await.expect("paused");
}

async fn resume(daemon: &Daemon) {
    daemon.admin().await.resume(ResumeRequest::default()).await.expect("resumed");
    flush(daemon).await;
}

/// How the failed saves stand, oldest first.
async fn states(database: &Database) -> Vec<String> {
    let rows = database.rows(ROWS).await;
    rows.into_iter().map(|row| row[1].clone().unwrap_or_else(|| "open".to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poison_row_of_ten_thousand_fails_alone_and_is_retried_once_the_table_is_repaired() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    let name = |id: u64| if id == 7_321 { "bad" } else { "good" };
    save(&daemon, (0..10_000).map(|id| player(id, name(id))).collect()).await;
    assert_eq!(database.number("select count(*) from players").await, 9_999);
    let failed = lines(&daemon, &["failed", "list", "--json"], 0).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    let [collection, key, sqlstate, constraint] = ["collection", "key", "sqlstate", "constraint"].map(|field| &failed[0][field]);
    assert_eq!((collection, key), (&json!("players"), &json!(["7321"])));
    assert_eq!((sqlstate, constraint), (&json!("23514"), &json!("no_bad")));
    assert!(failed[0].get("body").is_none() && failed[0].get("detail").is_none(), "a list holds no data: {failed:?}");
    let shown = cli(&daemon, &["failed", "show", failed[0]["ticket"].as_str().expect("a ticket")], 0).await;
    assert!(shown.contains(r#"{"name":"bad"}"#) && shown.contains("no_bad"), "{shown}");
    assert!(http_get(daemon.http().await, "/metrics").await.contains("forebay_failed_saves{collection=\"players\"} 1"));

    database.execute("alter table players drop constraint no_bad").await;
    let retried = lines(&daemon, &["failed", "retry", "--all", "--json"], 0).await;
    assert_eq!(retried.len(), 1);
    flush(&daemon).await;
    let same = "select closed_reason, f.xmin = p.xmin, name from forebay.failed_save f, players p where id = 7321";
    let row = database.rows(same).await.remove(0);
    assert_eq!(row, ["retried", "t", "bad"].map(|text| Some(text.to_owned())), "closed by the transaction that wrote the row");
    let closed = lines(&daemon, &["failed", "list", "--state", "retried", "--json"], 0).await;
    assert_eq!(closed[0]["close_ticket"], retried[0]["retry_ticket"]);
    let metrics = http_get(daemon.http().await, "/metrics").await;
    assert!(metrics.contains("forebay_limit_used{name=\"failed.saves_max\",kind=\"amount\"} 0"), "{metrics}");
    assert_eq!(cli(&daemon, &["failed", "list"], 0).await, "no failed saves\n");
    cli(&daemon, &["failed", "retry", "--all"], 1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_since_is_overtaken_or_refused_and_retried_only_by_force() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    let tickets = save(&daemon, vec![player(1, "bad"), player(2, "bad"), player(3, "bad")]).await;
    save(&daemon, vec![player(1, "newer")]).await;
    assert_eq!(states(&database).await, ["overtaken", "open", "open"]);
    database.execute("alter table players drop constraint no_bad").await;
    // A later save that is acknowledged and not in Postgres yet counts too.
    pause(&daemon).await;
    daemon.client().await.save(request(player(2, "newer"))).await.expect("accepted");
    let all = ["failed", "retry", "--json", &tickets[0], &tickets[1], &tickets[2]];
    let results = lines(&daemon, &all, 1).await;
    let refusals: Vec<_> = results.iter().map(|result| result["refusal"].as_str().unwrap_or("none")).collect();
    assert_eq!(refusals, ["SAVED_SINCE", "SAVED_SINCE", "none"]);
    resume(&daemon).await;
    assert_eq!(states(&database).await, ["overtaken", "overtaken", "retried"]);
    let names = "select string_agg(name, ',' order by id) from players";
    assert_eq!(database.rows(names).await[0][0].as_deref(), Some("newer,newer,bad"));
    let text = cli(&daemon, &["failed", "retry", &tickets[0]], 1).await;
    assert!(text.contains("saved since"), "{text}");
    pause(&daemon).await;
    cli(&daemon, &["failed", "retry", "--force", &tickets[0]], 0).await;
    let text = cli(&daemon, &["failed", "retry", "--force", &tickets[0]], 1).await;
    assert!(text.contains("is being retried"), "{text}");
    resume(&daemon).await;
    assert_eq!(database.rows(names).await[0][0].as_deref(), Some("bad,newer,bad"), "an operator insisted");
    assert_eq!(states(&database).await, ["retried", "overtaken", "retried"]);
    let text = cli(&daemon, &["failed", "retry", "--force", &tickets[0]], 1).await;
    assert!(text.contains("retried before"), "{text}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_gone_is_named_and_left_out_on_demand() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    save(&daemon, vec![set("players", &["1"], json!({"name": "bad", "level": 3}))]).await;
    database.execute("alter table players drop constraint no_bad, drop column level").await;
    let refused = lines(&daemon, &["failed", "retry", "--all", "--json"], 1).await;
    let message = refused[0]["message"].as_str().expect("a message");
    assert!(refused[0]["refusal"] == "INVALID" && message.contains("level") && message.contains("--without-column"), "{message}");
    cli(&daemon, &["failed", "retry", "--all", "--without-column", "level"], 0).await;
    flush(&daemon).await;
    assert_eq!(database.rows("select name from players").await[0][0].as_deref(), Some("bad"));
    assert_eq!(states(&database).await, ["retried"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_fails_again_is_a_failed_save_of_its_own_and_closes_the_old_one() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    save(&daemon, vec![player(1, "bad"), event("bad")]).await;
    let retried = lines(&daemon, &["failed", "retry", "--all", "--json"], 0).await;
    flush(&daemon).await;
    assert_eq!(states(&database).await, ["retried", "retried", "open", "open"]);
    let open = lines(&daemon, &["failed", "list", "--json"], 0).await;
    let tickets = |lines: &[Value], field: &str| lines.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
    assert_eq!(tickets(&open, "ticket"), tickets(&retried, "retry_ticket"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appended_row_is_retried_once_whatever_comes_between() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database);
    let daemon = setup.start().await;
    save(&daemon, vec![event("good"), event("bad"), event("good")]).await;
    database.execute("alter table events drop constraint events_what_check").await;
    pause(&daemon).await;
    cli(&daemon, &["failed", "retry", "--all"], 0).await;
    let text = cli(&daemon, &["failed", "retry", "--all", "--force"], 1).await;
    assert!(text.contains("is being retried"), "{text}");
    let text = cli(&daemon, &["failed", "discard", "--all", "--reason", "too late"], 1).await;
    assert!(text.contains("0 discarded"), "{text}");
    daemon.kill().await;
    let daemon = setup.start().await;
    flush(&daemon).await;
    assert_eq!(database.number("select count(*) from events where what = 'bad'").await, 1);
    assert_eq!(states(&database).await, ["retried"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_everything_is_known_again() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database);
    let daemon = setup.start().await;
    save(&daemon, vec![player(1, "bad"), player(2, "bad")]).await;
    pause(&daemon).await;
    daemon.client().await.save(request(player(2, "newer"))).await.expect("accepted");
    daemon.kill().await;
    let daemon = setup.start().await;
    // What was accepted before the restart is settled first: of the two only one has not been saved since.
    database.execute("alter table players drop constraint no_bad").await;
    eventually("the failed saves are counted", || async {
        run(&daemon, &["failed", "retry", "--all"]).await.status.success().then_some(())
    })
    .await;
    flush(&daemon).await;
    assert_eq!(states(&database).await, ["retried", "overtaken"]);
    let names = "select string_agg(name, ',' order by id) from players";
    assert_eq!(database.rows(names).await[0][0].as_deref(), Some("bad,newer"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_stays_listed_with_its_reason() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    let tickets = save(&daemon, vec![player(1, "bad"), event("bad"), player(2, "good"), event("bad")]).await;
    let output = run(&daemon, &["failed", "discard", "--reason", "a test"]).await;
    assert_eq!(output.status.code(), Some(64), "all of them have to be meant");
    let text = cli(&daemon, &["failed", "discard", "--collection", "events", "--reason", "old news"], 0).await;
    assert_eq!(text, "2 discarded\n");
    let logged = daemon.logged("failed saves discarded").await;
    assert_eq!((&logged["collection"], &logged["count"], &logged["reason"]), (&json!("events"), &json!(2), &json!("old news")));
    let output = run(&daemon, &["failed", "discard", &tickets[0], &tickets[1], "--reason", "a test"]).await;
    assert_eq!(output.status.code(), Some(1), "one of them is closed");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&tickets[1]), "{output:?}");
    let closed = lines(&daemon, &["failed", "list", "--state", "discarded", "--json"], 0).await;
    let reasons: Vec<_> = closed.iter().map(|line| line["discard_reason"].as_str().unwrap_or_default()).collect();
    assert_eq!(reasons, ["a test", "old news", "old news"]);
    let text = cli(&daemon, &["failed", "retry", &tickets[1]], 1).await;
    assert!(text.contains("discarded"), "{text}");
    assert_eq!(states(&database).await, ["discarded"; 3]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_every_failed_save_whole_a_line_each() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    // More than one page holds.
    let large = "x".repeat(400_000);
    let bad = |id: u64| set("players", &[&id.to_string()], json!({"name": "bad", "level": id, "id": id}));
    let saves = (1..=6).map(|id| if id % 2 == 0 { bad(id) } else { set("events", &[], json!({"what": format!("{large}{id}")})) });
    database.execute("alter table events drop constraint events_what_check, add constraint short check (length(what) < 10)").await;
    save(&daemon, saves.collect()).await;
    let exported = lines(&daemon, &["failed", "export"], 0).await;
    let numbers: Vec<_> = exported.iter().map(|line| line["sequence"].as_u64().expect("a number") & 0xff).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!((&exported[0]["kind"], &exported[0]["body"]["what"]), (&json!("append"), &json!(format!("{large}1"))));
    assert_eq!(exported[1]["body"], json!({"name": "bad", "level": 2, "id": 2}));
    assert!(exported[1]["detail"].as_str().is_some_and(|detail| detail.contains("bad")), "{}", exported[1]);
    let some = lines(&daemon, &["failed", "export", "--constraint", "no_bad", "--since", "1h"], 0).await;
    assert_eq!(some.iter().map(|line| &line["key"][0]).collect::<Vec<_>>(), ["2", "4", "6"]);
    assert!(lines(&daemon, &["failed", "export", "--until", "1h"], 0).await.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_miss_and_repeat_nothing_while_saves_fail_and_are_closed() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).start().await;
    save(&daemon, (1..=7).map(|id| player(id, "bad")).collect()).await;
    let mut admin = daemon.admin().await;
    let (mut request, mut seen) = (ListFailedSavesRequest { page_size: 3, ..ListFailedSavesRequest::default() }, Vec::new());
    loop {
        let page = admin.list_failed_saves(request.clone()).await.expect("a page").into_inner();
        seen.extend(page.failed_saves.iter().map(|failed| failed.key[0].clone()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        if seen.len() == 3 {
            save(&daemon, vec![player(2, "good"), player(8, "bad"), player(4, "good")]).await;
        }
    }
    assert_eq!(seen, ["1", "2", "3", "5", "6", "7", "8"], "what was read before it was closed, and what failed meanwhile");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_has_no_room_for_failed_saves_goes_on_once_there_is() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    // It would look by itself only after this test has given up.
    let setup = setup(journal.path(), &database)
        .set("failed.saves_max", "2")
        .set("drain.retry_wait_min", "5 min")
        .set("drain.retry_wait_max", "5 min")
        .expect_in_log("halt");
    let daemon = setup.start().await;
    let saves = (1..=6).map(|id| player(id, "bad")).chain([player(7, "good")]).collect();
    daemon.client().await.save_batch(batch(saves)).await.expect("accepted");
    let halted_at = |count: u64| {
        let (daemon, database) = (&daemon, &database);
        eventually("the lane halts", move || async move {
            let status = cli(daemon, &["status"], 0).await;
            (status.contains("failed.saves_max") && database.number("select count(*) from forebay.failed_save").await == count)
                .then_some(())
        })
    };
    halted_at(2).await;
    let refused = cli(&daemon, &["limit", "failed.saves_max", "0"], 1).await;
    assert!(refused.is_empty(), "{refused}");
    cli(&daemon, &["limit", "failed.saves_max", "4"], 0).await;
    halted_at(4).await;
    assert_eq!(cli(&daemon, &["failed", "discard", "--all", "--reason", "room"], 0).await, "4 discarded\n");
    // At this moment it may still be halted.
    eventually("it goes on", || async { daemon.client().await.flush(FlushRequest::default()).await.ok() }).await;
    assert_eq!(states(&database).await, ["discarded", "discarded", "discarded", "discarded", "open", "open"]);
    assert_eq!(database.number("select count(*) from players").await, 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_ones_are_forgotten_in_time_and_the_horizon_says_so() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).set("failed.closed_kept", "2").start().await;
    let tickets = save(&daemon, (1..=5).map(|id| player(id, "bad")).collect()).await;
    let discard = DiscardFailedSavesRequest { all: true, reason: "a test".to_owned(), ..DiscardFailedSavesRequest::default() };
    assert_eq!(daemon.admin().await.discard_failed_saves(discard).await.expect("discarded").into_inner().count, 5);
    eventually("three are forgotten", || async { (states(&database).await.len() == 2).then_some(()) }).await;
    let horizon = "select count(*) from forebay.failed_horizon where through = (select min(sequence) - 1 from forebay.failed_save)";
    assert_eq!(database.number(horizon).await, 1);
    let shown = run(&daemon, &["failed", "show", &tickets[0], &tickets[4], "--json"]).await;
    assert_eq!(shown.status.code(), Some(1), "one of them is forgotten");
    let states = vec![FailedSaveState::Discarded.into()];
    let request = ListFailedSavesRequest { states, ..ListFailedSavesRequest::default() };
    let kept = daemon.admin().await.list_failed_saves(request).await.expect("a page").into_inner().failed_saves;
    assert_eq!(kept.iter().map(|failed| &failed.ticket).collect::<Vec<_>>(), [&tickets[3], &tickets[4]]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_nothing_is_guessed() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database).expect_in_log("postgres").start().await;
    save(&daemon, vec![player(1, "bad")]).await;
    database.stop_postgres();
    let mut admin = daemon.admin().await;
    let status = admin.list_failed_saves(ListFailedSavesRequest::default()).await.expect_err("unknown");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let discard = DiscardFailedSavesRequest { all: true, reason: "a test".to_owned(), ..DiscardFailedSavesRequest::default() };
    assert_eq!(admin.discard_failed_saves(discard).await.expect_err("unknown").code(), tonic::Code::Unavailable);
    daemon.stop().await;
}
