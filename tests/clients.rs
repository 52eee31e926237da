//! The Rust client against the real program: what became of its saves, and its queue, over kills and restarts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use forebay::client::{
    Client, Durability, Error, LaterOptions, LoadOptions, Outcome, Save, SaveOptions, StreamOptions, Ticket, TicketState, Watch,
};
use tempfile::TempDir;

use crate::support::{Daemon, Database, HANG, Setup, database_rows as rows, directory, eventually, free_port};

const SCHEMA: &str = "
    create table players (id bigint primary key, name text constraint no_bad check (name <> 'bad'), level int not null default 1);
    create table log (line text not null);
";

/// A daemon that comes back to its port.
struct Town {
    database: Database,
    setup: Setup,
    port: u16,
    _journal: TempDir,
}

impl Town {
    async fn new() -> Self {
        let (database, journal, port) = (Database::with(SCHEMA).await, directory(), free_port());
        let setup = Setup::new(journal.path(), &database.url())
            .set("grpc.listen", &format!("127.0.0.1:{port}"))
            .set("collections.log.mode", "append")
            .expect_in_log("23514")
            .expect_in_log("postgres");
        Self { database, setup, port, _journal: journal }
    }

    /// Finds the daemon when it is there.
    fn client(&self) -> Client {
        Client::builder(format!("127.0.0.1:{}", self.port)).call_timeout(HANG).connect_lazy().expect("an address")
    }

    async fn kill(&self, daemon: Daemon) -> Daemon {
        daemon.kill().await;
        self.setup.start().await
    }
}

fn player(id: u32, name: &str) -> Save {
    Save::set("players", [id.to_string()], format!(r#"{{"name":"{name}"}}"#))
}

fn persisted() -> SaveOptions {
    SaveOptions { durability: Durability::Persisted, ..SaveOptions::default() }
}

/// Waits until so many calls wait for an outcome.
async fn awaiting(client: &Client, calls: u64) {
    let used = || async {
        let limits = client.status().await.expect("it serves").limits;
        let awaiting = limits.iter().find(|limit| limit.name == "grpc.awaiting_calls_max").expect("it is a limit");
        (awaiting.used >= calls).then_some(())
    };
    eventually("the calls wait", used).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_awaited_over_a_kill() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    client.pause("a test", HANG).await.expect("paused");
    let tickets = client.save_batch([player(1, "Ann"), player(2, "bad")], false).await.expect("accepted");
    assert!(tickets[0] < tickets[1], "{tickets:?}");
    let status = client.ticket(&tickets[1]).await.expect("told");
    assert_eq!((status.state, status.saves_ahead), (TicketState::Pending, 2));
    let pending = client.await_ticket(&tickets[0], Duration::from_millis(200)).await.expect("told");
    assert_eq!(pending.state, TicketState::Pending);
    let wait = |ticket: Ticket| {
        let client = client.clone();
        tokio::spawn(async move { client.await_ticket(&ticket, HANG).await.expect("told") })
    };
    let waiting = [wait(tickets[0].clone()), wait(tickets[1].clone())];
    awaiting(&client, 2).await;
    let daemon = town.kill(daemon).await;
    let [good, bad] = waiting;
    assert_eq!(good.await.expect("no panic").state, TicketState::Persisted);
    let bad = bad.await.expect("no panic");
    assert_eq!(bad.state, TicketState::Failed);
    let failure = bad.failure.expect("a reason");
    assert_eq!((failure.sqlstate.as_str(), failure.constraint.as_str()), ("23514", "no_bad"));
    assert_eq!(client.ticket(&tickets[0]).await.expect("told").state, TicketState::Persisted);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_later_is_saved_once_over_kills_and_stops() {
    let town = Town::new().await;
    let (mut daemon, client) = (town.setup.start().await, town.client());
    let later = Arc::new(client.save_later(LaterOptions::default().queue_max(200, 1 << 20)));
    let lines = 4_000;
    let sender = {
        let later = Arc::clone(&later);
        tokio::spawn(async move {
            for n in 0..lines {
                later.send(Save::append("log", format!(r#"{{"line":"{n}"}}"#))).await.expect("taken");
            }
        })
    };
    for round in 1..=4 {
        let accepted = || async {
            let counter = client.status().await.ok()?.accepted_through % (1 << 40);
            (counter >= 300 || sender.is_finished()).then_some(())
        };
        eventually("this run accepts saves", accepted).await;
        if round % 2 == 0 {
            daemon.stop().await;
            daemon = town.setup.start().await;
        } else {
            daemon = town.kill(daemon).await;
        }
    }
    sender.await.expect("no save is given back");
    let later = Arc::into_inner(later).expect("the sender has ended");
    let not_saved = later.close(HANG).await;
    assert!(not_saved.is_empty(), "{not_saved:?}");
    client.flush(&[], HANG).await.expect("flushed");
    assert_eq!(town.database.rows("select count(*), count(distinct line) from log").await, rows([[Some("4000"), Some("4000")]]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_later_can_not_save_is_given_back_with_the_reason() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    let later = client.save_later(LaterOptions::default());
    let misspelt = Save::set("players", ["1"], r#"{"nam":"Ann"}"#);
    for save in [player(1, "Ann"), misspelt.clone(), player(2, "Bo")] {
        later.send(save).await.expect("taken");
    }
    let not_saved = later.close(HANG).await;
    let [refused] = &not_saved[..] else { panic!("{not_saved:?}") };
    assert!(matches!(&refused.error, Error::Refused(answer) if answer.reason == "INVALID_SAVE"), "{refused}");
    assert_eq!(refused.save, misspelt);
    client.flush(&[], HANG).await.expect("flushed");
    assert_eq!(town.database.number("select count(*) from players").await, 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn persisted_saves_are_answered_when_they_are_in_postgres() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    let saved = client.save_with(player(1, "Ann"), persisted()).await.expect("persisted");
    assert_eq!(saved.state, TicketState::Persisted);
    assert_eq!(town.database.number("select count(*) from players").await, 1);
    let error = client.save_with(player(2, "bad"), persisted()).await.expect_err("it fails");
    let Error::Failed(failed) = error else { panic!("{error}") };
    assert_eq!((failed.failure.sqlstate.as_str(), failed.failure.constraint.as_str()), ("23514", "no_bad"));
    let status = client.ticket(&failed.ticket).await.expect("told");
    assert_eq!((status.state, status.failure.as_ref()), (TicketState::Failed, Some(&failed.failure)));
    let saved = client.save_batch_with([player(3, "Bo"), player(4, "bad")], persisted()).await.expect("accepted");
    assert_eq!(saved.iter().map(|saved| saved.state).collect::<Vec<_>>(), [TicketState::Persisted, TicketState::Failed]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_failed_also_over_a_kill() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    client.pause("a test", HANG).await.expect("paused");
    let options = StreamOptions { durability: Durability::Persisted, want_tickets: true, ..StreamOptions::default() };
    let stream = client.save_stream_with(options);
    let mut answers = Vec::new();
    for (id, name) in (1..).zip(["Ann", "bad", "Bo"]) {
        answers.push(stream.send_tracked(player(id, name)).await.expect("room"));
    }
    let accepted = || async { (client.status().await.ok()?.lanes[0].backlog_saves == 3).then_some(()) };
    eventually("the saves are accepted", accepted).await;
    assert_eq!(stream.acknowledged_through(), 0);
    let daemon = town.kill(daemon).await;
    let mut told = Vec::new();
    for answer in answers {
        told.push(answer.wait().await);
    }
    assert!(matches!(&told[1], Err(Error::Failed(failed)) if failed.failure.constraint == "no_bad"), "{told:?}");
    assert!(told[0].is_ok() && told[2].is_ok(), "{told:?}");
    assert_eq!(town.database.number("select count(*) from players").await, 2);
    stream.finish().await.expect("finished");
    daemon.stop().await;
}

/// Reads until everything up to a save is final; returns the tickets that were told to have failed.
async fn failed_until(watch: &mut Watch, last: &Ticket) -> Vec<Ticket> {
    let mut failed_tickets = Vec::new();
    loop {
        match tokio::time::timeout(HANG, watch.next()).await.expect("it is told").expect("it is told") {
            Outcome::Watermark(watermark) if watermark.covers(last) => return failed_tickets,
            Outcome::Failed { ticket, failure, .. } => {
                assert_eq!(failure.constraint, "no_bad");
                failed_tickets.push(ticket);
            }
            Outcome::Watermark(_) | Outcome::Superseded { .. } => {}
            Outcome::Rewound(watermark) => panic!("nothing went back in time: {watermark}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_failures_and_goes_on_after_a_kill() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    let mut watch = client.watch(&["players"], None);
    assert!(matches!(watch.next().await, Ok(Outcome::Watermark(_))), "the first thing is where to go on from");
    let start = watch.watermark();
    let first = client.save_batch([player(1, "Ann"), player(2, "bad"), player(3, "Bo")], false).await.expect("accepted");
    assert_eq!(failed_until(&mut watch, &first[2]).await, first[1..2]);
    let daemon = town.kill(daemon).await;
    let second = client.save_batch([player(4, "bad"), player(5, "Cy")], false).await.expect("accepted");
    assert_eq!(failed_until(&mut watch, &second[1]).await, second[..1]);
    let mut again = client.watch(&["players"], Some(start));
    assert_eq!(failed_until(&mut again, &second[1]).await, [first[1].clone(), second[0].clone()]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_see_what_is_accepted_and_a_load_goes_on_after_a_kill() {
    let town = Town::new().await;
    let (daemon, client) = (town.setup.start().await, town.client());
    client.save_batch((1..=95).map(|id| player(id, "stored")), false).await.expect("accepted");
    client.flush(&[], HANG).await.expect("flushed");
    client.pause("a test", HANG).await.expect("paused");
    client.save_batch([player(1, "Ann"), player(96, "Bo")], false).await.expect("accepted");
    client.save(Save::delete("players", ["2"])).await.expect("accepted");
    let ann = client.get("players", ["1"]).await.expect("read").expect("there");
    let name = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).expect("JSON")["name"].clone();
    assert_eq!((name(&ann.json), ann.pending), ("Ann".into(), true));
    assert_eq!(client.get("players", ["2"]).await.expect("read"), None);
    let mut load = client.load("players", LoadOptions { page_size: 10, ..LoadOptions::default() });
    let (mut daemon, mut killed, mut players) = (Some(daemon), false, BTreeMap::new());
    while let Some(row) = load.next().await.expect("loaded") {
        match row.object {
            Some(object) => drop(players.insert(row.key.concat(), name(&object.json))),
            None => drop(players.remove(&row.key.concat())),
        }
        if load.progress().rows_loaded == 50 && !killed {
            killed = true;
            daemon = Some(town.kill(daemon.take().expect("it runs")).await);
        }
    }
    assert!(killed);
    assert_eq!(players.len(), 95, "96 without the deleted one");
    assert_eq!((&players["1"], &players["96"], &players["50"]), (&"Ann".into(), &"Bo".into(), &"stored".into()));
    assert!(load.progress().rows_loaded >= 95, "{:?}", load.progress());
    daemon.expect("it runs").stop().await;
}
