//! kill -9 under load, again and again: what was acknowledged is in Postgres, at its version or a newer one, and no
//! version is ever applied twice or after a newer one.
//!
//! With one lane, and with three whose layout changes from start to start. `FOREBAY_KILLS` sets the number of cycles,
//! `FOREBAY_SEED` replays.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use forebay::proto::{FlushRequest, Save, SaveBatchRequest, save_service_client::SaveServiceClient};
use serde_json::json;
use tonic::transport::Channel;

use crate::support::{
    Daemon, Database, Setup, directory, runs,
    saves::{batch, request, set},
    seed,
};

/// The trigger logs every version that is written: a version twice, or falling, is a save applied twice or out of order.
const SCHEMA: &str = "
    create table things (id text primary key, version bigint not null, filler text);
    create table stuff (like things including all);
    create table goods (like things including all);
    create table applied (number bigserial primary key, id text not null, version bigint not null);
    create function note() returns trigger language plpgsql as
        $$ begin insert into applied (id, version) values (new.id, new.version); return null; end $$;
    create trigger note after insert or update on things for each row execute function note();
    create trigger note after insert or update on stuff for each row execute function note();
    create trigger note after insert or update on goods for each row execute function note();
";

const TABLES: [&str; 3] = ["things", "stuff", "goods"];

const CLIENTS: u64 = 8;
const OBJECTS_PER_CLIENT: u64 = 15;

/// What one client knows of its objects: the version last sent and the one last acknowledged.
#[derive(Clone, Copy, Default)]
struct Versions {
    sent: u64,
    acknowledged: u64,
}

type Known = Arc<Mutex<HashMap<String, Versions>>>;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_saves_survive_kills_and_are_applied_once() {
    Campaign { name: "kills", layouts: &[&[]], dies_starting: false }.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn saves_of_three_lanes_survive_kills_and_are_applied_once() {
    let lanes = [("lanes.second.collections", "stuff"), ("lanes.third.collections", "goods")];
    Campaign { name: "kills of three lanes", layouts: &[&lanes], dies_starting: false }.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_changes_between_kills_loses_nothing() {
    let layouts: [&[(&str, &str)]; 4] = [
        &[],
        &[("lanes.second.collections", "stuff")],
        &[("lanes.second.collections", "goods"), ("lanes.third.collections", "stuff")],
        &[("lanes.third.collections", "things, stuff")],
    ];
    Campaign { name: "kills around changed layouts", layouts: &layouts, dies_starting: true }.run().await;
}

/// What a daemon logs once Postgres has the rows of a changed layout.
const CHANGED: &str = "the lanes of the settings are in force";

/// Kills in a row, on one journal and one database.
struct Campaign<'a> {
    name: &'static str,
    /// Settings of lanes; each start has one of them.
    layouts: &'a [&'a [(&'static str, &'static str)]],
    /// Some starts are killed before they serve.
    dies_starting: bool,
}

impl Campaign<'_> {
    async fn run(&self) {
        let mut random = Rng::with_seed(seed(self.name));
        let cycles = runs("FOREBAY_KILLS", 12);
        let (mut database, journal) = (Database::alone(SCHEMA).await, directory());
        let setup = Setup::new(journal.path(), &database.url())
            .set("lanes.default.window", "5 ms")
            .set("journal.segment_bytes", "1 MiB")
            .set("journal.retention", "1 s")
            .expect_in_log("postgres")
            .expect_in_log("torn");
        let known: Vec<Known> = (0..CLIENTS).map(|_| Known::default()).collect();
        let mut changes = 0;
        for cycle in 0..cycles {
            let setup = self.setup(&setup, &mut random);
            let stop_postgres = random.u8(..4) == 0;
            if self.dies_starting && cycle > 0 && random.bool() {
                let daemon = setup.spawn();
                tokio::time::sleep(Duration::from_millis(random.u64(..800))).await;
                changes += u64::from(daemon.kill().await.has_logged(CHANGED));
            }
            let daemon = setup.start().await;
            let clients = start_clients(&daemon, &known, &mut random).await;
            if stop_postgres {
                database.stop_postgres();
            }
            tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
            changes += u64::from(daemon.kill().await.has_logged(CHANGED));
            for client in clients {
                client.await.expect("the client ends with the daemon");
            }
            if stop_postgres {
                database.start_postgres();
            }
            if cycle % 10 == 9 {
                check(&setup, &database, &known).await;
            }
        }
        check(&setup, &database, &known).await;
        let acknowledged: u64 =
            known.iter().map(|known| known.lock().expect("no client panics").values().map(|v| v.acknowledged).sum::<u64>()).sum();
        println!("{}: {cycles} cycles, {changes} changes of lanes, {acknowledged} acknowledged, 0 lost, 0 stale, 0 twice", self.name);
        assert_eq!(changes > 0, self.layouts.len() > 1, "lanes change where layouts do");
    }

    fn setup(&self, setup: &Setup, random: &mut Rng) -> Setup {
        let layout = self.layouts[random.usize(..self.layouts.len())];
        layout.iter().fold(setup.clone(), |setup, (key, value)| setup.set(key, value))
    }
}

async fn start_clients(daemon: &Daemon, known: &[Known], random: &mut Rng) -> Vec<tokio::task::JoinHandle<()>> {
    let mut clients = Vec::new();
    for (n, known) in known.iter().enumerate() {
        let (client, known, random) = (daemon.client().await, Arc::clone(known), random.fork());
        clients.push(tokio::spawn(save_until_it_ends(client, n, known, random)));
    }
    clients
}

/// Saves one by one or in batches, until the connection breaks.
async fn save_until_it_ends(mut client: SaveServiceClient<Channel>, n: usize, known: Known, mut random: Rng) {
    loop {
        let count = if random.bool() { 1 } else { random.usize(2..40) };
        // Half of the batches are for one table, so that they may be atomic whatever the lanes.
        let (tables, first) = (if random.bool() { 1 } else { 3 }, random.u64(..3));
        let sent: Vec<(String, u64)> = (0..count).map(|_| next_version(&known, n, first + random.u64(..tables), &mut random)).collect();
        let mut saves: Vec<Save> =
            sent.iter().map(|(id, version)| set(table(id), &[id], json!({"version": version, "filler": "x".repeat(200)}))).collect();
        let one_table = sent.iter().all(|(id, _)| table(id) == table(&sent[0].0));
        let answer = match count {
            1 => client.save(request(saves.remove(0))).await.map(drop),
            _ => client.save_batch(SaveBatchRequest { atomic: one_table && random.bool(), ..batch(saves) }).await.map(drop),
        };
        if answer.is_err() {
            return;
        }
        let mut known = known.lock().expect("no client panics");
        for (id, version) in sent {
            let versions = known.get_mut(&id).expect("it was sent");
            versions.acknowledged = versions.acknowledged.max(version);
        }
    }
}

/// An object's id ends with the number of its table.
fn table(id: &str) -> &'static str {
    let number = id.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
    TABLES[number.expect("ids end with a number")]
}

fn next_version(known: &Known, n: usize, table: u64, random: &mut Rng) -> (String, u64) {
    let id = format!("{n}-{}-{}", random.u64(..OBJECTS_PER_CLIENT), table % 3);
    let mut known = known.lock().expect("no client panics");
    let versions = known.entry(id.clone()).or_default();
    versions.sent += 1;
    (id, versions.sent)
}

/// Starts the daemon once more, flushes, and compares Postgres with what the clients know.
async fn check(setup: &Setup, database: &Database, known: &[Known]) {
    let daemon = setup.start().await;
    daemon.client().await.flush(FlushRequest::default()).await.expect("everything recovered is written");
    daemon.stop().await;
    let stored: HashMap<String, u64> = database
        .rows("select id, version from things union all select id, version from stuff union all select id, version from goods")
        .await
        .into_iter()
        .map(|row| (row[0].clone().expect("an id"), row[1].as_ref().expect("a version").parse().expect("a number")))
        .collect();
    for known in known {
        for (id, versions) in known.lock().expect("no client panics").iter() {
            let version = stored.get(id).copied().unwrap_or(0);
            assert!(version >= versions.acknowledged, "{id}: lost or stale: stored {version}, acknowledged {}", versions.acknowledged);
            assert!(version <= versions.sent, "{id}: phantom: stored {version}, sent {}", versions.sent);
        }
    }
    let wrong =
        "select count(*) from (select version <= lag(version) over (partition by id order by number) as wrong from applied) a where wrong";
    assert_eq!(database.number(wrong).await, 0, "a version was applied twice or after a newer one");
}
