//! Saves while something happens to Postgres, and whether each of them is there afterwards, once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay::proto::{FlushRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{
    Daemon, Database, Setup, eventually,
    saves::{batch, set},
};

/// Objects whose every written version is noted, and a table that rows are only added to.
pub(crate) const SCHEMA: &str = "
    create table things (id int primary key, version bigint not null);
    create table applied (number bigserial primary key, id int not null, version bigint not null);
    create function note() returns trigger language plpgsql as
        $$ begin insert into applied (id, version) values (new.id, new.version); return null; end $$;
    create trigger note after insert or update on things for each row execute function note();
    create table log (line text not null check (line <> 'poison'));
";

/// So often a client sends a row that Postgres won't take.
const POISON_EVERY: u64 = 40;
const CLIENTS: usize = 4;
/// Between a client's calls: enough to keep every transaction busy.
const PACE: Duration = Duration::from_millis(2);

/// The settings that the load needs.
pub(crate) fn setup(setup: Setup) -> Setup {
    setup.set("collections.log.mode", "append").set("drain.retry_wait_max", "200 ms").expect_in_log("23514").expect_in_log("postgres")
}

/// Clients that save until they are stopped.
pub(crate) struct Load {
    ended: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

/// What was acknowledged: the last version of each client's object.
pub(crate) struct Acknowledged(Vec<u64>);

impl Load {
    /// Starts them. Every call has to succeed, whatever happens to Postgres.
    pub(crate) async fn start(daemon: &Daemon) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            clients.push(tokio::spawn(save_until(daemon.client().await, n, Arc::clone(&ended))));
        }
        Self { ended, clients }
    }

    /// Stops them.
    pub(crate) async fn stop(self) -> Acknowledged {
        self.ended.store(true, Ordering::Relaxed);
        let mut versions = Vec::new();
        for client in self.clients {
            versions.push(client.await.expect("no call fails"));
        }
        Acknowledged(versions)
    }
}

async fn save_until(mut client: SaveServiceClient<Channel>, n: usize, ended: Arc<AtomicBool>) -> u64 {
    let mut version = 0;
    while !ended.load(Ordering::Relaxed) {
        version += 1;
        let mut saves =
            vec![set("things", &[&n.to_string()], json!({"version": version})), set("log", &[], json!({"line": format!("{n}/{version}")}))];
        if version % POISON_EVERY == 0 {
            saves.push(set("log", &[], json!({"line": "poison"})));
        }
        client.save_batch(batch(saves)).await.unwrap_or_else(|error| panic!("client {n}, version {version}: {error}"));
        tokio::time::sleep(PACE).await;
    }
    version
}

/// Waits until the database holds so many more rows of the load.
pub(crate) async fn more_rows(database: &Database, more: u64) {
    let before = database.number("select count(*) from log").await;
    eventually("the load is written", || async { (database.number("select count(*) from log").await >= before + more).then_some(()) })
        .await;
}

impl Acknowledged {
    /// Flushes; then everything is there, each row once, no older version over a newer one, and every poison row a failed save.
    pub(crate) async fn is_in(&self, database: &Database, daemon: &Daemon) {
        daemon.client().await.flush(FlushRequest::default()).await.expect("flushed");
        for (n, version) in self.0.iter().enumerate() {
            assert_eq!(database.number(&format!("select version from things where id = {n}")).await, *version, "client {n}");
        }
        let (lines, poison) = (self.0.iter().sum::<u64>(), self.0.iter().map(|version| version / POISON_EVERY).sum::<u64>());
        assert_eq!(database.number("select count(*) from log").await, lines, "rows added");
        assert_eq!(database.number("select count(distinct line) from log").await, lines, "different rows added");
        assert_eq!(database.number("select count(*) from forebay.failed_save").await, poison, "failed saves");
        let wrong = "select count(*) from
            (select version <= lag(version) over (partition by id order by number) as wrong from applied) as a where wrong";
        assert_eq!(database.number(wrong).await, 0, "a version was written twice or over a newer one");
        println!("load: {lines} rows, {} failed saves, all there once", poison);
    }
}
