//! Watching outcomes: a watcher is told of every save that failed before the watermark that covers it, whatever happens to the
//! daemon, to Postgres, to the connection between them, and to the watcher itself.

use std::{collections::BTreeSet, path::Path};

use forebay::proto::{Save, watch_outcomes_response::Event};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Daemon, Database, Setup,
    command::cli,
    directory, eventually,
    lanes::{flush, pause, resume},
    proxy::{Break, Fault, Proxy, Way},
    saves::{batch, request, set},
    watcher::{Watcher, resume_token},
};

mod agreement;

const SCHEMA: &str = "create table players (id text primary key, name text constraint no_bad check (name <> 'bad'));
     create table scores (id text primary key, name text)";

fn player(id: &str, name: &str) -> Save {
    set("players", &[id], json!({"name": name}))
}

fn setup(journal: &Path, url: &str) -> Setup {
    Setup::new(journal, url).expect_in_log("23514").expect_in_log("postgres")
}

/// Lane `hot` has the scores.
fn two_lanes(setup: Setup) -> Setup {
    setup.set("lanes.hot.collections", "scores").set("lanes.hot.window", "0 ms")
}

async fn save(daemon: &Daemon, saves: Vec<Save>) -> Vec<String> {
    let results = daemon.client().await.save_batch(batch(saves)).await.expect("accepted").into_inner().results;
    results.into_iter().map(|result| result.ticket).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_why_saves_failed_before_the_watermark_that_covers_them() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).start().await;
    let before = save(&daemon, vec![player("0", "bad")]).await;
    flush(&daemon, &[]).await.expect("flushed");
    let (mut all, mut scores) = (Watcher::start(&daemon, "").await, Watcher::of(&daemon, &["scores"], "").await);
    assert!(before[0] < all.token, "what was settled before is not told");
    let saves = vec![player("1", "good"), player("2", "bad"), set("scores", &["1"], json!({"name": "bad"})), player("3", "bad")];
    let tickets = save(&daemon, saves).await;
    all.through(&tickets[3]).await.expect("told");
    assert_eq!(all.tickets(), [&tickets[1], &tickets[3]]);
    let told = &all.failed[&tickets[1]];
    let why = told.failure.as_ref().expect("a reason");
    assert_eq!((told.collection.as_str(), told.key.as_slice()), ("players", &["2".to_owned()][..]));
    assert_eq!((why.sqlstate.as_str(), why.constraint.as_str()), ("23514", "no_bad"));
    scores.through(&tickets[3]).await.expect("told");
    assert!(scores.failed.is_empty(), "those of other collections are not told: {:?}", scores.failed);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_resumes_after_kills_is_told_what_failed_meanwhile_whatever_became_of_it() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url());
    let daemon = setup.start().await;
    let token = Watcher::start(&daemon, "").await.token;
    let first = save(&daemon, vec![player("1", "bad"), player("2", "bad"), player("3", "bad")]).await;
    flush(&daemon, &[]).await.expect("flushed");
    // One is overtaken, one given up.
    save(&daemon, vec![player("1", "good")]).await;
    flush(&daemon, &[]).await.expect("flushed");
    cli(&daemon, &["failed", "discard", &first[1], "--reason", "a test"], 0).await;
    pause(&daemon).await;
    let second = save(&daemon, vec![player("4", "bad"), player("5", "good")]).await;
    daemon.kill().await;

    let daemon = setup.start().await;
    let mut watcher = Watcher::start(&daemon, &token).await;
    watcher.through(&second[1]).await.expect("told");
    assert_eq!(watcher.tickets(), [&first[0], &first[1], &first[2], &second[0]]);
    for (told, key) in watcher.failed.values().zip(["1", "2", "3", "4"]) {
        let why = told.failure.as_ref().expect("a reason");
        assert_eq!((told.key.as_slice(), why.constraint.as_str()), (&[key.to_owned()][..], "no_bad"));
    }
    daemon.kill().await;
    let daemon = setup.start().await;
    let third = save(&daemon, vec![player("6", "bad")]).await;
    let mut resumed = Watcher::start(&daemon, &watcher.token).await;
    resumed.through(&third[0]).await.expect("told");
    assert_eq!(resumed.tickets(), [&third[0]], "nothing before the watermark is told again");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_before_postgres_has_been_asked() {
    let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url());
    let daemon = setup.start().await;
    let token = Watcher::start(&daemon, "").await.token;
    pause(&daemon).await;
    let tickets = save(&daemon, vec![player("1", "bad"), player("2", "good")]).await;
    daemon.kill().await;
    database.stop_postgres();
    let daemon = setup.start().await;
    let (mut resumed, mut fresh) = (Watcher::unheard(&daemon, &[], &token).await, Watcher::unheard(&daemon, &[], "").await);
    database.start_postgres();
    resumed.through(&tickets[1]).await.expect("told");
    assert_eq!(resumed.tickets(), [&tickets[0]]);
    let first = fresh.next().await.expect("told");
    assert!(matches!(first, Event::Watermark(_)), "{first:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_in_a_commit_whose_answer_was_lost_is_told() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let proxy = Proxy::start(&database.url()).await;
    let daemon = setup(journal.path(), proxy.url()).set("drain.retry_wait_min", "1 ms").start().await;
    let mut watcher = Watcher::start(&daemon, "").await;
    let mut failed = Vec::new();
    // Without a fault first: the lane learns to look out, then the answer to the COMMIT is where it will be.
    let mut fault = None;
    for round in 0..3 {
        let good = save(&daemon, vec![player("warm", &round.to_string())]).await;
        watcher.through(&good[0]).await.expect("told");
        let fault_now = fault.filter(|_| round == 2);
        proxy.watch(fault_now);
        failed.extend(save(&daemon, vec![player("a", "bad")]).await);
        flush(&daemon, &[]).await.expect("flushed");
        let passed = proxy.passed().to_daemon;
        let commit = passed.iter().rposition(|message| message == "C COMMIT").unwrap_or_else(|| panic!("no commit: {passed:?}"));
        assert_eq!(proxy.has_happened(), fault_now.is_some(), "{passed:?}");
        fault = Some(Fault { way: Way::ToDaemon, message: commit, delivered: false, how: Break::Reset });
    }
    daemon.logged("the transaction in doubt was committed").await;
    watcher.through(&failed[2]).await.expect("told");
    assert_eq!(watcher.tickets(), failed);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_back_in_time_ends_the_watch_where_it_is_to_go_on() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = setup(journal.path(), &database.url()).expect_in_log("22012");
    let daemon = setup.start().await;
    save(&daemon, vec![player("1", "good")]).await;
    flush(&daemon, &[]).await.expect("flushed");
    database.execute("create table earlier as select * from forebay.lane_position").await;
    let mut watcher = Watcher::start(&daemon, "").await;
    let before = watcher.token.clone();
    let lost = save(&daemon, vec![player("2", "bad"), player("3", "good")]).await;
    watcher.through(&lost[1]).await.expect("told");
    // As a backup from then has it. What failed may be taken now.
    database
        .execute(
            "begin; delete from players where id > '1'; delete from forebay.failed_save; delete from forebay.lane_position;
             insert into forebay.lane_position select * from earlier; alter table players drop constraint no_bad; commit",
        )
        .await;
    let later = save(&daemon, vec![player("4", "good")]).await;
    let ended = watcher.through(&later[0]).await.expect_err("what was told no longer holds");
    assert_eq!(ended.code(), Code::Aborted, "{ended:?}");
    let token = resume_token(&ended);
    assert!(token >= before && token < lost[0], "{token}");
    let mut again = Watcher::start(&daemon, &token).await;
    again.through(&later[0]).await.expect("told");
    assert!(again.failed.is_empty(), "it is persisted now: {:?}", again.failed);
    daemon.kill().await;
    // One that wasn't there at the time learns of it when it comes back, even after a restart.
    let daemon = setup.start().await;
    let (code, late) = Watcher::refused(&daemon, &watcher.token).await;
    assert_eq!((code, &late), (Code::Aborted, &token));
    Watcher::start(&daemon, &again.token).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_holds_up_nobody_and_misses_nothing() {
    const FAILED: usize = 300;
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).start().await;
    // More than a stream's window takes in, which is 64 KiB.
    let keys: Vec<String> = (0..FAILED).map(|n| format!("{n:-<900}")).collect();
    let (mut slow, mut quick) = (Watcher::start(&daemon, "").await, Watcher::start(&daemon, "").await);
    let tickets = save(&daemon, keys.iter().map(|key| player(key, "bad")).collect()).await;
    let last = save(&daemon, vec![player("last", "good")]).await;
    let mut others = Watcher::of(&daemon, &["scores"], &quick.token).await;
    others.through(&last[0]).await.expect("told");
    assert!(others.failed.is_empty(), "pages of other collections are passed over");
    quick.through(&last[0]).await.expect("told");
    assert_eq!(quick.tickets(), tickets);
    slow.through(&last[0]).await.expect("told");
    assert_eq!(slow.failed, quick.failed);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_is_told_live_and_to_nobody_later() {
    let (database, journal) = (Database::with("create table players (id text primary key, version bigint)").await, directory());
    let daemon = setup(journal.path(), &database.url()).set("collections.players.version_column", "version").start().await;
    let versioned = |version: u64| set("players", &["1"], json!({"version": version}));
    save(&daemon, vec![versioned(5)]).await;
    flush(&daemon, &[]).await.expect("flushed");
    let mut watcher = Watcher::start(&daemon, "").await;
    let token = watcher.token.clone();
    let tickets = save(&daemon, vec![versioned(5), versioned(4), versioned(6)]).await;
    watcher.through(&tickets[2]).await.expect("told");
    assert_eq!(watcher.superseded[..], tickets[1..2], "one below a save that is written is not told, but what is stale for certain");
    let stale = save(&daemon, vec![versioned(3)]).await;
    watcher.through(&stale[0]).await.expect("told");
    assert_eq!(watcher.superseded[1..], stale);
    let mut later = Watcher::start(&daemon, &token).await;
    later.through(&stale[0]).await.expect("told");
    assert!(later.superseded.is_empty() && later.failed.is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_failed_saves_are_forgotten_a_watch_cannot_go_on() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = setup(journal.path(), &database.url()).set("failed.closed_kept", "2").start().await;
    let token = Watcher::start(&daemon, "").await.token;
    let tickets = save(&daemon, (1..=5).map(|id| player(&id.to_string(), "bad")).collect()).await;
    flush(&daemon, &[]).await.expect("flushed");
    cli(&daemon, &["failed", "discard", "--all", "--reason", "a test"], 0).await;
    let rows = "select count(*) from forebay.failed_save";
    eventually("three are forgotten", || async { (database.number(rows).await == 2).then_some(()) }).await;
    // The daemon knows a moment after the row is gone.
    let token = eventually("the watch is refused", || async {
        let ended = Watcher::unheard(&daemon, &[], &token).await.next().await.err()?;
        assert_eq!(ended.code(), Code::OutOfRange, "{ended:?}");
        Some(resume_token(&ended))
    })
    .await;
    assert!(token > tickets[2] && token < tickets[3], "as far as is forgotten: {token}");
    let mut watcher = Watcher::start(&daemon, &token).await;
    watcher.through(&tickets[4]).await.expect("told");
    assert_eq!(watcher.tickets(), tickets[3..]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_lane_holds_no_watermark_back_and_a_halted_one_no_failure() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = two_lanes(setup(journal.path(), &database.url())).expect_in_log("halted");
    let daemon = setup.start().await;
    let (mut all, mut idle) = (Watcher::start(&daemon, "").await, Watcher::of(&daemon, &["scores"], "").await);
    let tickets = save(&daemon, vec![player("1", "good")]).await;
    all.through(&tickets[0]).await.expect("told");
    idle.through(&tickets[0]).await.expect("told");
    let token = all.token.clone();
    // The scores can't be written: what fails elsewhere is told all the same.
    database.execute("alter table scores rename to gone").await;
    let stuck = save(&daemon, vec![set("scores", &["1"], json!({"name": "x"}))]).await;
    let bad = save(&daemon, vec![player("2", "bad")]).await;
    while all.failed.is_empty() {
        all.next().await.expect("told");
    }
    assert!(all.tickets() == [&bad[0]] && all.token < stuck[0], "{} {}", all.token, stuck[0]);
    database.execute("alter table gone rename to scores").await;
    eventually("the lane goes on", || async {
        resume(&daemon).await;
        flush(&daemon, &[]).await.ok()
    })
    .await;
    all.through(&bad[0]).await.expect("told");
    let mut again = Watcher::start(&daemon, &token).await;
    again.through(&bad[0]).await.expect("told");
    assert_eq!(again.tickets(), [&bad[0]], "after the last watermark it is told again");
    daemon.client().await.save(request(player("3", "good"))).await.expect("accepted");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_of_another_journal_is_none() {
    let (database, journal, other) = (Database::with(SCHEMA).await, directory(), directory());
    let daemon = setup(other.path(), &database.url()).start().await;
    let token = Watcher::start(&daemon, "").await.token;
    daemon.stop().await;
    let daemon = setup(journal.path(), &database.url()).start().await;
    let tickets: BTreeSet<_> = save(&daemon, vec![player("1", "good")]).await.into_iter().collect();
    for wrong in tickets.iter().map(String::as_str).chain([token.as_str(), "42"]) {
        let request = forebay::proto::WatchOutcomesRequest { resume_token: wrong.to_owned(), ..Default::default() };
        let refused = daemon.client().await.watch_outcomes(request).await.expect_err("it is refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    daemon.stop().await;
}
