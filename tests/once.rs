//! No save is applied twice and no older state put over a newer one, whoever else has the journal or the database: copies of a
//! journal, a position row that is missing, a database whose journal has forgotten what it lost.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use forebay::proto::{GetTicketRequest, TicketState};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Daemon, Database, Setup,
    audited::SCHEMA,
    command::cli,
    database_rows, directory, eventually,
    lanes::{flush, goes_on, halted, resume},
    saves::{batch, request, set},
    try_client,
    watcher::Watcher,
};

const HALTED: &str = "halted: nothing is written until this is repaired";
const FENCED: &str = "another daemon owns the position row: nothing more is written";

async fn put(daemon: &Daemon, id: u64, version: u64) {
    let saved = daemon.client().await.save(request(set("things", &[&id.to_string()], json!({"version": version})))).await;
    saved.expect("accepted");
}

/// Accepted and written.
async fn write(daemon: &Daemon, id: u64, version: u64) {
    put(daemon, id, version).await;
    flush(daemon, &[]).await.expect("flushed");
}

/// Every row that was ever written, in order, as `id:version`.
async fn applied(database: &Database) -> String {
    let rows = database.rows("select coalesce(string_agg(id || ':' || version, ' ' order by number), '') from applied").await;
    rows[0][0].clone().expect("text")
}

/// The journal as it is now; a running daemon has to be idle.
fn copy(journal: &Path, to: &Path) -> PathBuf {
    let copy = to.join("copy");
    copy_directory(journal, &copy);
    copy
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a file")),
        }
    }
}

async fn ticket_state(daemon: &Daemon, ticket: &str) -> TicketState {
    let request = GetTicketRequest { ticket: ticket.to_owned() };
    let told = daemon.client().await.get_ticket(request).await.expect("it is told").into_inner();
    told.status.expect("a status").state()
}

async fn save(daemon: &Daemon, id: u64) -> String {
    let saved = daemon.client().await.save(request(set("things", &[&id.to_string()], json!({"version": 1})))).await;
    saved.expect("accepted").into_inner().ticket
}

fn oldest_segment(journal: &Path) -> u64 {
    let segments = std::fs::read_dir(journal.join("segments")).expect("a directory");
    let numbers = segments.filter_map(|entry| entry.expect("an entry").file_name().to_str()?.parse().ok());
    numbers.min().expect("there is a segment")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_copy_of_a_running_journal_takes_over_and_fences_the_first_off() {
    let (database, journal, elsewhere) = (Database::with(SCHEMA).await, directory(), directory());
    let setup = Setup::new(journal.path(), &database.url());
    let first = setup.clone().expect_in_log("another daemon").expect_in_log("22012").start().await;
    write(&first, 1, 1).await;
    let copied = Setup { journal: copy(journal.path(), elsewhere.path()), ..setup };
    let second = copied.start().await;
    second.logged("took the position row over").await;
    write(&second, 1, 2).await;
    let address = first.grpc().await;
    put(&first, 2, 1).await;
    first.logged(FENCED).await;
    let ended = first.ended().await;
    assert_eq!(ended.code, Some(75));
    assert!(ended.last().to_string().contains("another daemon") || ended.has_logged("stopping"), "{:?}", ended.last());
    assert!(try_client(address).await.is_none(), "it accepts nothing more");
    write(&second, 1, 3).await;
    assert_eq!(applied(&database).await, "1:1 1:2 1:3", "each once, and nothing of the first");
    second.stop().await;
}

/// The row has the token of a start that the copy has never heard of.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_last_start_is_fenced_off_itself() {
    let (database, journal, elsewhere) = (Database::with(SCHEMA).await, directory(), directory());
    let setup = Setup::new(journal.path(), &database.url());
    let daemon = setup.start().await;
    write(&daemon, 1, 1).await;
    daemon.stop().await;
    let copied = copy(journal.path(), elsewhere.path());
    let daemon = setup.start().await;
    write(&daemon, 1, 2).await;
    let ended = Setup { journal: copied, ..setup.clone() }.expect_in_log("another daemon").spawn().ended().await;
    assert_eq!(ended.code, Some(75));
    write(&daemon, 1, 3).await;
    assert_eq!(applied(&database).await, "1:1 1:2 1:3");
    daemon.stop().await;
}

/// Its token is known, but the row names a save that the copy never had: the lane stands, also when the copy has accepted saves of
/// its own, whose numbers are higher.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_of_the_journal_is_refused() {
    let (database, journal, elsewhere) = (Database::with(SCHEMA).await, directory(), directory());
    let setup = Setup::new(journal.path(), &database.url());
    let daemon = setup.start().await;
    write(&daemon, 1, 1).await;
    let copied = Setup { journal: copy(journal.path(), elsewhere.path()), ..setup.clone() };
    write(&daemon, 1, 2).await;
    daemon.stop().await;
    let older = copied.set("log.level", "debug").expect_in_log(HALTED).start().await;
    let seen = halted(&older, "default").await;
    assert!(seen.reason.contains("older state of the journal"), "{}", seen.reason);
    assert!(seen.remedy.contains("bring the newest journal back"), "{}", seen.remedy);
    put(&older, 1, 9).await;
    resume(&older).await;
    older.logged("still halted").await;
    older.stop().await;
    assert_eq!(applied(&database).await, "1:1 1:2");
    let daemon = setup.start().await;
    write(&daemon, 1, 3).await;
    assert_eq!(applied(&database).await, "1:1 1:2 1:3", "the newest journal goes on");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_row_that_was_deleted_halts_the_lane_until_it_is_put_back() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let daemon = Setup::new(journal.path(), &database.url()).expect_in_log(HALTED).expect_in_log("22012").start().await;
    write(&daemon, 1, 1).await;
    database.execute("create table kept as select * from forebay.lane_position; delete from forebay.lane_position").await;
    put(&daemon, 1, 2).await;
    let seen = halted(&daemon, "default").await;
    assert!(seen.reason.contains("the row of forebay.lane_position is missing"), "{}", seen.reason);
    assert!(seen.remedy.contains("insert the row"), "{}", seen.remedy);
    assert_eq!(applied(&database).await, "1:1");
    database.execute("insert into forebay.lane_position select * from kept").await;
    goes_on(&daemon).await;
    assert_eq!(applied(&database).await, "1:1 1:2");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_halts_the_lane_and_is_not_written() {
    let (database, other, journal) = (Database::with(SCHEMA).await, Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url());
    let daemon = setup.start().await;
    write(&daemon, 1, 1).await;
    daemon.stop().await;
    let daemon = Setup { url: Some(other.url()), ..setup.clone() }.expect_in_log(HALTED).start().await;
    put(&daemon, 1, 2).await;
    let seen = halted(&daemon, "default").await;
    assert!(seen.reason.contains("this is another database") && seen.remedy.contains("postgres.url"), "{} {}", seen.reason, seen.remedy);
    daemon.stop().await;
    assert_eq!(applied(&other).await, "");
    assert_eq!(other.rows("select to_regnamespace('forebay')").await, database_rows([[None]]), "not even our own tables");
    let daemon = setup.start().await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(applied(&database).await, "1:1 1:2");
    daemon.stop().await;
}

/// As after a backup from before what retention covers.
#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_lost_and_the_journal_has_forgotten_is_given_up_only_by_a_person() {
    let (database, journal) = (Database::with(SCHEMA).await, directory());
    let setup = Setup::new(journal.path(), &database.url()).set("journal.retention", "0 ms");
    let setup = setup.expect_in_log("22012").expect_in_log("postgres").expect_in_log(HALTED).expect_in_log("gives up saves");
    let daemon = setup.start().await;
    write(&daemon, 1, 1).await;
    assert!(cli(&daemon, &["lane", "accept-gap", "default"], 1).await.contains("is not halted in front of a gap"));
    cli(&daemon, &["lane", "accept-gap", "other"], 1).await;
    database.execute("create table earlier as select * from forebay.lane_position").await;
    let ticket =
        daemon.client().await.save(request(set("things", &["2"], json!({"version": 0})))).await.expect("accepted").into_inner().ticket;
    // A segment that ends has saves in it: of the next one, none is in Postgres any more.
    let (before, version) = (oldest_segment(journal.path()), AtomicU64::new(1));
    eventually("the journal forgets a save that came later", || async {
        write(&daemon, 2, version.fetch_add(1, Relaxed)).await;
        (oldest_segment(journal.path()) >= before + 2).then_some(())
    })
    .await;
    let watched = Watcher::start(&daemon, "").await.token;
    let lost = "begin; delete from things where id > 1; delete from applied where id > 1;
                delete from forebay.lane_position; insert into forebay.lane_position select * from earlier; commit";
    database.execute(lost).await;
    let from = database.number("select through from earlier").await;
    daemon.client().await.save_batch(batch(vec![set("things", &["10"], json!({"version": 1}))])).await.expect("accepted");
    let seen = halted(&daemon, "default").await;
    assert!(seen.reason.contains(&format!("no longer holds the saves after {from}")), "{}", seen.reason);
    assert!(seen.remedy.contains("forebay lane accept-gap default"), "{}", seen.remedy);
    resume(&daemon).await;
    assert_eq!(applied(&database).await, "1:1", "a resume alone accepts nothing");
    halted(&daemon, "default").await;
    let accepted = cli(&daemon, &["lane", "accept-gap", "default"], 0).await;
    assert!(accepted.contains("goes on behind the gap"), "{accepted}");
    eventually("the lane goes on", || async { flush(&daemon, &[]).await.ok() }).await;
    let told = daemon.logged("gives up saves that postgres has lost and the journal no longer holds").await;
    assert_eq!((&told["level"], told["after"].as_str()), (&json!("ERROR"), Some(&*from.to_string())));
    let through: u64 = told["through"].as_str().and_then(|text| text.parse().ok()).expect("a sequence");
    assert!(through > from, "{told}");
    let applied = applied(&database).await;
    assert!(
        applied.starts_with("1:1 ") && applied.ends_with(" 10:1") && !applied.contains(" 2:0 ") && !applied.contains(" 2:1 "),
        "{applied}"
    );
    assert_eq!(ticket_state(&daemon, &ticket).await, TicketState::Discarded);
    daemon.kill().await;
    let daemon = setup.start().await;
    flush(&daemon, &[]).await.expect("flushed");
    assert_eq!(ticket_state(&daemon, &ticket).await, TicketState::Discarded, "it is never called persisted");
    // Nor is a watcher told so: it learns first that Postgres went back in time, then that what it lost was given up.
    let (rewound, before) = Watcher::refused(&daemon, &watched).await;
    assert_eq!(rewound, Code::Aborted);
    let (gone, behind) = Watcher::refused(&daemon, &before).await;
    assert!(gone == Code::OutOfRange && behind > ticket, "{gone:?} {behind}");
    let last = save(&daemon, 11).await;
    Watcher::start(&daemon, &behind).await.through(&last).await.expect("it goes on");
    daemon.stop().await;
}
