//! The Rust client against the real program: what became of its saves, and its queue, over kills and restarts.

use std::{sync::Arc, time::Duration};

use forebay::client::{Client, Error, LaterOptions, Save, Ticket, TicketState};
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
